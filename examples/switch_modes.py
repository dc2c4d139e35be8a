"""Change the control law while the arm moves, without a jerk.

You see the arm sway about its first joint (impedance, pid), move its hand up and down (osc), and then you can push it
around by hand (torque), for some seconds each. For each switch, a line reports how much the torque changed between the
states before and after it.

    python examples/switch_modes.py                              # a simulated arm
    python examples/switch_modes.py --robot 172.16.0.2           # a real one: keep the emergency stop in your hand
    python examples/switch_modes.py --node aiofranka             # the arm of a running node

Ctrl-C stops the arm, and releases it unless a node had activated it before.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator

import numpy as np

from aiofranka_ros import FrankaController, RobotInterface, RosInterface
from aiofranka_ros.errors import FrankaError

#: Targets per second [Hz]. In mode torque they must follow each other within ``torque_timeout``.
RATE = 100
#: Damping of the arm in mode torque [Nm s/rad] (7,).
DAMPING = np.array([4.0, 4.0, 4.0, 4.0, 1.0, 1.0, 1.0])


def swing(seconds: float) -> Iterator[float]:
    """Shares from 0 to 1 and back to 0, over this time [s]."""
    steps = round(seconds * RATE)
    for step in range(1, steps + 1):
        yield 0.5 - 0.5 * np.cos(2.0 * np.pi * step / steps)


async def sway(controller: FrankaController, seconds: float) -> None:
    """Joint targets: the first joint by 0.1 rad and back."""
    target = controller.initial_qpos.copy()
    for share in swing(seconds):
        target[0] = controller.initial_qpos[0] + 0.1 * share
        await controller.set("q_desired", target)


async def lift(controller: FrankaController, seconds: float) -> None:
    """Poses: the hand up by 3 cm and back."""
    target = controller.initial_ee.copy()
    for share in swing(seconds):
        target[2, 3] = controller.initial_ee[2, 3] + 0.03 * share
        await controller.set("ee_desired", target)


async def give_way(controller: FrankaController, seconds: float) -> None:
    """Torques: the robot compensates gravity, so only some damping."""
    for _ in swing(seconds):
        await controller.set("torque", -DAMPING * controller.state["qvel"])


async def use_all(controller: FrankaController, seconds: float) -> None:
    """Every mode in turn, for this time [s] each."""
    controller.set_freq(RATE)
    for mode, use in (("impedance", sway), ("pid", sway), ("osc", lift), ("torque", give_way), ("impedance", sway)):
        before, mode_before = await controller.next_state(), controller.type
        controller.switch(mode)
        after = await controller.next_state()
        change = np.abs(after["last_torque"] - before["last_torque"]).max()
        took = 1e-6 * (after["stamp"] - before["stamp"])
        print(f"{mode_before} -> {mode}: the torque changed by {change:.2f} Nm within {took:.0f} ms")
        await use(controller, seconds)


async def main(arm: RobotInterface | RosInterface, seconds: float) -> None:
    """Use all modes of ``arm``, and watch its control loop."""
    async with FrankaController(arm) as controller:
        _, connection = await asyncio.gather(use_all(controller, seconds), controller.test_connection(5.0 * seconds))
        print(connection)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Change the control law while the arm moves.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--robot", default="sim", metavar="ADDRESS", help="address of the robot; sim: a simulated one [%(default)s]"
    )
    which.add_argument("--node", metavar="NAME", help="name of a node that drives the arm, instead of an address")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to use each mode [%(default)s]")
    arguments = parser.parse_args()
    link = RosInterface(arguments.node) if arguments.node else RobotInterface(arguments.robot)
    try:
        asyncio.run(main(link, arguments.seconds))
    except KeyboardInterrupt:
        sys.exit(130)  # Nothing else to do: `async with` has stopped the arm.
    except FrankaError as error:
        sys.exit(f"{type(error).__name__}: {error}")
