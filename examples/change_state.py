"""Configure, activate, deactivate or clean up a node, on computers without ``ros2 lifecycle``.

    python examples/change_state.py configure      # connects to the robot; nothing moves
    python examples/change_state.py activate       # takes torque control and holds where the arm is
    python examples/change_state.py deactivate     # stops and releases the arm
    python examples/change_state.py cleanup        # disconnects

The exit status is 0 if the node did it. If not, its log has the reason.
"""

import argparse
import sys

import rclpy
from lifecycle_msgs.srv import ChangeState


def main(name: str, transition: str) -> bool:
    """Ask the node ``name`` for a transition; returns whether it succeeded."""
    node = rclpy.create_node("change_state")
    client = node.create_client(ChangeState, f"{name}/change_state")
    client.wait_for_service()
    request = ChangeState.Request()
    request.transition.label = transition
    future = client.call_async(request)
    rclpy.spin_until_future_complete(node, future)
    return bool(future.result().success)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Change the lifecycle state of an arm's node.")
    parser.add_argument("transition", choices=("configure", "activate", "deactivate", "cleanup"))
    parser.add_argument("--node", default="/aiofranka", metavar="NAME", help="name of the node [%(default)s]")
    arguments = parser.parse_args()
    rclpy.init()
    try:
        succeeded = main(arguments.node, arguments.transition)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        rclpy.try_shutdown()
    sys.exit(None if succeeded else f"{arguments.node} did not {arguments.transition}: see its log")
