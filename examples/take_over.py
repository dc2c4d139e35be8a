"""A person takes over from a policy, in the middle of its movement, and hands back.

You see the hand sway by 2 cm to each side, as the policy wants. After three seconds, a person who teleoperates (here: a
task of this script with a separate client) lifts the hand by 4 cm and lets go; the policy then continues from there.
Lines say who drives.

    python -m aiofranka_ros.node                             # in another terminal; a simulated arm. With a real one,
                                                             # keep the emergency stop in your hand
    python examples/take_over.py
    python examples/take_over.py --node /left/aiofranka      # a node with another name

The script configures and activates the node if necessary. Ctrl-C stops the arm and leaves the node in its earlier
state. It needs ROS Kilted or later: before, ROS does not tell a node who sends a target.
"""

import argparse
import asyncio
import subprocess
import sys

import numpy as np

from aiofranka_ros import FrankaController, RosInterface
from aiofranka_ros.errors import FrankaError, Overridden

#: Targets per second [Hz], and how long the person waits, lifts the hand, and holds it [s].
RATE, WAIT, LIFT, KEEP = 50, 3.0, 2.0, 1.0


async def sway(controller: FrankaController, seconds: float) -> None:
    """The policy: sway around where the arm is, for ``seconds`` altogether."""
    loop = asyncio.get_running_loop()
    controller.set_freq(RATE)
    end = loop.time() + seconds
    begin, pose = loop.time(), controller.ee_desired.copy()
    middle = pose[1, 3]
    while loop.time() < end:
        pose[1, 3] = middle + 0.02 * np.sin(2.0 * (loop.time() - begin))
        try:
            limits = await controller.set("ee_desired", pose)
        except Overridden as error:
            print(f"{error.owner} drives")
            await controller.handed_back()
            print("the policy drives")
            # Where the arm is now.
            begin, pose = loop.time(), controller.ee_desired.copy()
            middle = pose[1, 3]
        else:
            if limits:
                print(f"limited by {', '.join(limits)}")


async def lift(controller: FrankaController) -> None:
    """The person: wait, lift the hand by 4 cm, hold it, let go."""
    await asyncio.sleep(WAIT)
    controller.set_freq(RATE)
    pose = controller.state["ee"]
    for _ in range(int(LIFT * RATE)):
        pose[2, 3] += 0.04 / (LIFT * RATE)
        await controller.set("ee_desired", pose)
    for _ in range(int(KEEP * RATE)):
        await controller.set("ee_desired", pose)


async def main(node: str) -> None:
    """Drive the arm of ``node`` as the policy, and as the person."""
    async with FrankaController(RosInterface(node)) as policy, FrankaController(RosInterface(node, "teleop")) as person:
        policy.switch("osc")
        # In your system: `priority_clients` in the node's file of parameters.
        command = [sys.executable, "-m", "aiofranka_ros.ctl", "set", "priority_clients", "[/teleop]"]
        await asyncio.to_thread(subprocess.run, [*command, "--node", node], check=True, capture_output=True)
        lowest = policy.state["ee"][2, 3]
        await asyncio.gather(sway(policy, WAIT + LIFT + KEEP + 4.0), lift(person))
        print(f"lifted {1e3 * (policy.state['ee'][2, 3] - lowest):.0f} mm")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A person takes over from a policy and hands back.")
    parser.add_argument("--node", default="aiofranka", metavar="NAME", help="name of the node [%(default)s]")
    arguments = parser.parse_args()
    try:
        asyncio.run(main(arguments.node))
    except KeyboardInterrupt:
        sys.exit(130)  # Nothing else to do: `async with` has stopped the arm.
    except FrankaError as error:
        sys.exit(f"{type(error).__name__}: {error}")
