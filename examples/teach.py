"""Teach an arm poses by hand, and let it repeat them.

You see nothing move until you guide the arm: it weighs nothing and stays where you leave it. Enter keeps a pose, `r`
lets the arm repeat all of them, `q` ends.

    python examples/teach.py                                 # a simulated arm, which you push from another terminal:
    python -m aiofranka_ros.simulation push --force 0 15 0 --duration 1
    python examples/teach.py --robot 172.16.0.2              # a real one: keep the emergency stop in your hand
    python examples/teach.py --free x,y,z                    # the hand keeps its orientation

Ctrl-C stops and releases the arm.
"""

import argparse
import asyncio
import sys

from aiofranka_ros import FrankaController, RobotInterface, async_input
from aiofranka_ros.errors import FrankaError

#: What a hand may do to the arm without a reflex of the robot: joint torques [Nm], and forces [N] and torques [Nm].
PUSH = {"collision_torque_thresholds": [40.0] * 7, "collision_force_thresholds": [60.0] * 6}
#: How fast the arm repeats [rad/s]: a person is near.
SPEED = [0.5] * 7


async def teach(controller: FrankaController) -> None:
    """Keep poses until the user is done; the axes that are free stay so between them."""
    poses = []
    controller.switch("free")
    while True:
        answer = (await async_input("Guide the arm; Enter keeps the pose, r repeats, q ends: ")).strip()
        if answer == "q":
            return
        if answer == "r":
            for number, pose in enumerate(poses, 1):
                await controller.move(pose)
                print(f"at pose {number} of {len(poses)}")
        else:
            poses.append(controller.state["qpos"])
            x, y, z = controller.state["ee"][:3, 3]
            print(f"pose {len(poses)}: x {x:.3f}, y {y:.3f}, z {z:.3f} m")


async def main(robot: RobotInterface, free: list[str]) -> None:
    """Let the user guide the arm along the axes ``free``."""
    async with FrankaController(robot) as controller:
        controller.free_axes = free
        await teach(controller)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Teach an arm poses by hand, and let it repeat them.")
    parser.add_argument(
        "--robot", default="sim", metavar="ADDRESS", help="address of the robot; sim: a simulated one [%(default)s]"
    )
    parser.add_argument(
        "--free", default="x,y,z,roll,pitch,yaw,elbow", metavar="AXES", help="along which the arm yields [%(default)s]"
    )
    arguments = parser.parse_args()
    try:
        asyncio.run(main(RobotInterface(arguments.robot, move_velocity=SPEED, **PUSH), arguments.free.split(",")))
    except (KeyboardInterrupt, EOFError):
        sys.exit(130)  # Nothing else to do: `async with` has stopped the arm.
    except FrankaError as error:
        sys.exit(f"{type(error).__name__}: {error}")
