"""The shortest tour: a move, joint targets, poses.

You see the arm move three joints by 0.1 rad and back, sway about its first joint, then draw a flat circle of 2 cm
radius with its hand. Everything starts where the arm is. At the end, two lines say how well it worked.

    python examples/hello.py                        # a simulated arm
    python examples/hello.py --robot 172.16.0.2     # a real one: keep the emergency stop in your hand

Ctrl-C stops the arm and releases it.
"""

import argparse
import asyncio
import sys

import numpy as np

from aiofranka_ros import FrankaController, RobotInterface
from aiofranka_ros.errors import FrankaError

#: Targets per second [Hz], and how many of them each motion takes.
RATE, STEPS = 50, 150


async def greet(controller: FrankaController) -> str:
    """The three motions, one after the other; returns how far the arm moved."""
    here = controller.state["qpos"]
    await controller.move(here + [0.0, 0.1, 0.0, 0.1, 0.0, 0.1, 0.0])
    there = controller.state["qpos"]
    await controller.move(here)

    loop = asyncio.get_running_loop()
    controller.set_freq(RATE)
    # 0 at the beginning and at the end, with zero slope: the arm starts and stops gently.
    swing = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(1, STEPS + 1) / STEPS)
    begin = loop.time()

    controller.switch("impedance")
    target, sway = controller.initial_qpos.copy(), 0.0
    for share in swing:
        target[0] = controller.initial_qpos[0] + 0.1 * share
        await controller.set("q_desired", target)
        sway = max(sway, abs(controller.state["qpos"][0] - controller.initial_qpos[0]))

    controller.switch("osc")
    pose, reach = controller.initial_ee.copy(), 0.0
    for turn in 2.0 * np.pi * np.cumsum(swing) / swing.sum():
        pose[:2, 3] = controller.initial_ee[:2, 3] + 0.02 * np.array([np.sin(turn), 1.0 - np.cos(turn)])
        await controller.set("ee_desired", pose)
        reach = max(reach, np.linalg.norm(controller.state["ee"][:3, 3] - controller.initial_ee[:3, 3]))

    rate = 2 * STEPS / (loop.time() - begin)
    moved = np.abs(there - here).max()
    return f"moved {moved:.3f} rad, swayed {sway:.3f} rad, circled {1e3 * reach:.0f} mm wide, at {rate:.1f} Hz"


async def main(robot: str) -> None:
    """Greet with the arm at ``robot``, and watch its control loop."""
    async with FrankaController(RobotInterface(robot)) as controller:
        motions, connection = await asyncio.gather(greet(controller), controller.test_connection(8.0))
        print(motions)
        print(connection)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Move an arm a little: a move, joint targets, poses.")
    parser.add_argument(
        "--robot", default="sim", metavar="ADDRESS", help="address of the robot; sim: a simulated one [%(default)s]"
    )
    arguments = parser.parse_args()
    try:
        asyncio.run(main(arguments.robot))
    except KeyboardInterrupt:
        sys.exit(130)  # Nothing else to do: `async with` has released the arm.
    except FrankaError as error:
        sys.exit(f"{type(error).__name__}: {error}")
