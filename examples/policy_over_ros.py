"""The policy of ``policy_process.py`` over ROS: a running node drives the arm, and this script is a client.

You see the hand follow a ball, seen by four simulated cameras, on a circle of 3 cm radius around where it was. At the
end, two lines report the rate, how long the policy took, and how well the node's control loop ran.

    python -m aiofranka_ros.node                                   # in another terminal; a simulated arm. With a real
                                                                   # one, keep the emergency stop in your hand
    python examples/policy_over_ros.py
    python examples/policy_over_ros.py --node /left/aiofranka      # a node with another name

The script configures and activates the node if necessary. Ctrl-C stops the arm and leaves the node in its earlier
state.
"""

import argparse
import asyncio
import sys

from ball_policy import BallPolicy
from follow_ball import RATE, follow

from aiofranka_ros import FrankaController, RosInterface, mpify
from aiofranka_ros.errors import FrankaError


async def main(node: str, seconds: float, think: float) -> None:
    """Follow the ball with the arm of ``node``, and watch its control loop."""
    async with (
        await mpify.create(BallPolicy, period=1.0 / RATE, think=think) as policy,
        FrankaController(RosInterface(node)) as controller,
    ):
        run, connection = await asyncio.gather(follow(controller, policy, seconds), controller.test_connection(seconds))
        print(run)
        print(connection)


if __name__ == "__main__":  # Needed by mpify: the policy's process imports this script.
    parser = argparse.ArgumentParser(description="Follow a ball with the hand of an arm that a node drives.")
    parser.add_argument("--node", default="aiofranka", metavar="NAME", help="name of the node [%(default)s]")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to follow [%(default)s]")
    parser.add_argument(
        "--think", type=float, default=0.02, metavar="SECONDS", help="how long each chunk takes [%(default)s]"
    )
    arguments = parser.parse_args()
    try:
        asyncio.run(main(arguments.node, arguments.seconds, arguments.think))
    except KeyboardInterrupt:
        sys.exit(130)  # Nothing else to do: `async with` has stopped the arm and ended the policy.
    except FrankaError as error:
        sys.exit(f"{type(error).__name__}: {error}")
