"""A policy in a separate process: pictures go there without being pickled, chunks of poses come back.

You see the hand follow a ball, seen by four simulated cameras, on a circle of 3 cm radius around where it was. At the
end, two lines report the rate, how long the policy took, and how well the control loop ran.

    python examples/policy_process.py                        # a simulated arm
    python examples/policy_process.py --robot 172.16.0.2     # a real one: keep the emergency stop in your hand
    python examples/policy_process.py --think 0.2            # a slow policy: the chunks bridge its pauses

Ctrl-C stops the arm and releases it.
"""

import argparse
import asyncio
import sys

from ball_policy import BallPolicy
from follow_ball import RATE, follow

from aiofranka_ros import FrankaController, RobotInterface, mpify
from aiofranka_ros.errors import FrankaError


async def main(robot: str, seconds: float, think: float) -> None:
    """Follow the ball with the arm at ``robot``, and watch its control loop."""
    # The policy first: it may take long to load, and the arm should not be active while you wait.
    async with (
        await mpify.create(BallPolicy, period=1.0 / RATE, think=think) as policy,
        FrankaController(RobotInterface(robot)) as controller,
    ):
        run, connection = await asyncio.gather(follow(controller, policy, seconds), controller.test_connection(seconds))
        print(run)
        print(connection)


if __name__ == "__main__":  # Needed by mpify: the policy's process imports this script.
    parser = argparse.ArgumentParser(description="Follow a ball with the hand, by a policy in a separate process.")
    parser.add_argument(
        "--robot", default="sim", metavar="ADDRESS", help="address of the robot; sim: a simulated one [%(default)s]"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to follow [%(default)s]")
    parser.add_argument(
        "--think", type=float, default=0.02, metavar="SECONDS", help="how long each chunk takes [%(default)s]"
    )
    arguments = parser.parse_args()
    try:
        asyncio.run(main(arguments.robot, arguments.seconds, arguments.think))
    except KeyboardInterrupt:
        sys.exit(130)  # Nothing else to do: `async with` has released the arm and ended the policy.
    except FrankaError as error:
        sys.exit(f"{type(error).__name__}: {error}")
