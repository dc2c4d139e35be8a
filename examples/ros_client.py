"""The node's topics and actions from plain rclpy: activate the arm, stream poses, move, cancel a move.

You see the hand go up by 3 cm and down again, then the arm move home, then a slow move that stops half way.

    python -m aiofranka_ros.node               # in another terminal; a simulated arm. With a real one, keep the
                                               # emergency stop in your hand
    python examples/ros_client.py
    python examples/ros_client.py --node /left/aiofranka      # a node with another name

The arm stays active and holds. Ctrl-C ends the script; without further targets, the arm stops and holds.
"""

import argparse
import math
import sys
import time
from typing import Any

import rclpy
from action_msgs.msg import GoalStatus
from franka_msgs.action import PTPMotion
from franka_msgs.msg import TargetStatus
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data


def result(node: Node, future: Any) -> Any:
    """Wait for the answer of a service or an action server."""
    rclpy.spin_until_future_complete(node, future)
    return future.result()


def main(name: str) -> None:
    """Use the arm of the node ``name``."""
    node = rclpy.create_node("client")

    # 1. Activate. "configure" connects, "activate" takes torque control and holds where the arm is.
    change_state = node.create_client(ChangeState, f"{name}/change_state")
    change_state.wait_for_service()
    for transition in ("configure", "activate"):
        request = ChangeState.Request()
        request.transition.label = transition
        if not result(node, change_state.call_async(request)).success:
            sys.exit(f"could not {transition}: see the node's log")

    # 2. Stream poses at 50 Hz: 3 cm up and down again, from where the arm is. The stamp is the time a target was made.
    poses: list[PoseStamped] = []
    node.create_subscription(PoseStamped, f"{name}/ee_pose", poses.append, qos_profile_sensor_data)
    targets = node.create_publisher(PoseStamped, f"{name}/ee_desired", 1)
    while not poses or targets.get_subscription_count() == 0:
        rclpy.spin_once(node)
    target = poses[-1]
    bottom = target.pose.position.z
    for tick in range(200):
        target.pose.position.z = bottom + 0.015 * (1.0 - math.cos(2.0 * math.pi * tick / 200))
        target.header.stamp = node.get_clock().now().to_msg()
        targets.publish(target)
        time.sleep(0.02)

    # 3. Move. Without velocities and tolerance, the node uses its defaults.
    move = ActionClient(node, PTPMotion, f"{name}/move")
    move.wait_for_server()
    home = [0.0, 0.0, 0.0, -math.pi / 2, 0.0, math.pi / 2, -math.pi / 4]
    goal = result(node, move.send_goal_async(PTPMotion.Goal(goal_joint_configuration=home)))
    if not goal.accepted:
        sys.exit("the goal was rejected: see the node's log")
    outcome = result(node, goal.get_result_async()).result
    if outcome.target_status.status != TargetStatus.TARGET_REACHED:
        sys.exit(f"did not arrive: {outcome.error_message}")
    print("arrived")

    # 4. Move slowly and cancel: the arm slows down on its path and holds.
    ready = [0.0, -math.pi / 4, 0.0, -3 * math.pi / 4, 0.0, math.pi / 2, math.pi / 4]
    slowly = PTPMotion.Goal(goal_joint_configuration=ready, maximum_joint_velocities=[0.5] * 7)
    goal = result(node, move.send_goal_async(slowly))
    time.sleep(1.0)
    result(node, goal.cancel_goal_async())
    if result(node, goal.get_result_async()).status == GoalStatus.STATUS_CANCELED:
        print("cancelled")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Drive the arm of a running node with topics and actions.")
    parser.add_argument("--node", default="/aiofranka", metavar="NAME", help="name of the node [%(default)s]")
    arguments = parser.parse_args()
    rclpy.init()
    try:
        main(arguments.node)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        rclpy.try_shutdown()
