"""A policy that answers in chunks, from plain rclpy: it sends poses with the times at which they are due.

You see the hand draw a circle of 4 cm radius in a vertical plane, from where it is. The policy sees where the hand is,
thinks for 0.15 s, and answers with the next 16 poses, 15 a second. Whenever it has answered, it looks again: so each
chunk replaces most of the one before, and the arm gets from one to the other without a jolt. At the end, a line
reports what the node said about the chunks.

    python -m aiofranka_ros.node               # in another terminal; a simulated arm. With a real one, keep the
                                               # emergency stop in your hand
    python examples/chunks_over_ros.py
    python examples/chunks_over_ros.py --node /left/aiofranka      # a node with another name

The arm stays active and holds. Ctrl-C ends the script; the arm follows the last chunk to its end, slows down and holds.
"""

import argparse
import math
import statistics
import sys
import time
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, Transform, Vector3
from lifecycle_msgs.srv import ChangeState
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from trajectory_msgs.msg import MultiDOFJointTrajectory, MultiDOFJointTrajectoryPoint

RATE, POINTS = 15.0, 16
RADIUS, TURNS = 0.04, 0.25


class CirclePolicy:
    """Knows where on its circle the hand should be at any time.

    :param first: what it sees first, at the bottom of the circle.
    :param think: how long an answer takes [s].
    """

    def __init__(self, first: PoseStamped, think: float) -> None:
        self._first, self._think = first, think
        self._began = Time.from_msg(first.header.stamp)

    def offset(self, now: Time) -> tuple[float, float]:
        """Where the hand should be, from where it was first, in y and z [m]."""
        angle = 2.0 * math.pi * TURNS * 1e-9 * (now - self._began).nanoseconds
        return RADIUS * math.sin(angle), RADIUS * (1.0 - math.cos(angle))

    def infer(self, seen: PoseStamped) -> MultiDOFJointTrajectory:
        """The next poses; the first one is where the hand should be at the time of what it has seen."""
        chunk = MultiDOFJointTrajectory(header=seen.header)  # The stamp of the observation, not of the answer.
        start, orientation = self._first.pose.position, self._first.pose.orientation
        for index in range(POINTS):
            due = Duration(seconds=index / RATE)
            y, z = self.offset(Time.from_msg(seen.header.stamp) + due)
            position = Vector3(x=start.x, y=start.y + y, z=start.z + z)
            transform = Transform(translation=position, rotation=orientation)
            chunk.points.append(MultiDOFJointTrajectoryPoint(transforms=[transform], time_from_start=due.to_msg()))
        time.sleep(self._think)  # A network would compute.
        return chunk


def activate(node: Node, name: str) -> None:
    """Connect, take torque control, and hold where the arm is."""
    change_state = node.create_client(ChangeState, f"{name}/change_state")
    change_state.wait_for_service()
    for transition in ("configure", "activate"):
        request = ChangeState.Request()
        request.transition.label = transition
        future = change_state.call_async(request)
        rclpy.spin_until_future_complete(node, future)
        if not future.result().success:
            sys.exit(f"could not {transition}: see the node's log")


def main(name: str, seconds: float, think: float) -> None:
    """Draw circles with the arm of the node ``name``, in its mode osc."""
    node = rclpy.create_node("policy")
    activate(node, name)
    poses: list[PoseStamped] = []
    reports: list[dict[str, str]] = []

    def on_status(message: DiagnosticArray) -> None:
        reports.extend({pair.key: pair.value for pair in status.values} for status in message.status)

    newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)  # Not what came while the policy thought.
    node.create_subscription(PoseStamped, f"{name}/ee_pose", poses.append, newest)
    node.create_subscription(DiagnosticArray, f"{name}/chunk_status", on_status, 50)
    chunks = node.create_publisher(MultiDOFJointTrajectory, f"{name}/ee_chunk", 1)
    while not poses or chunks.get_subscription_count() == 0 or node.count_publishers(f"{name}/chunk_status") == 0:
        rclpy.spin_once(node)

    policy = CirclePolicy(poses[-1], think)
    bottom, away = poses[-1].pose.position, []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        poses.clear()
        while not poses:
            rclpy.spin_once(node)
        seen = poses[-1]
        y, z = policy.offset(Time.from_msg(seen.header.stamp))
        away.append(math.hypot(seen.pose.position.y - bottom.y - y, seen.pose.position.z - bottom.z - z))
        chunks.publish(policy.infer(seen))

    followed = [report for report in reports if report["state"] == "followed"]
    refused = [report["reason"] for report in reports if report["state"] == "refused"]
    if not followed:
        sys.exit(f"no chunk was followed: {', '.join(refused) or 'is the node in mode osc?'}")

    def median(key: str, of: list[Any] = followed) -> float:
        return statistics.median(float(report[key]) for report in of)

    print(
        f"{len(followed)} chunks, {len(refused)} refused; from the observation to the first torque "
        f"{1e3 * median('delay [s]'):.0f} ms, {median('points dropped'):.0f} points past, seams of "
        f"{1e3 * median('seam [m]'):.1f} mm; {1e3 * statistics.median(away):.1f} mm from the circle (medians)"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw circles with a policy that answers in chunks, over ROS.")
    parser.add_argument("--node", default="/aiofranka", metavar="NAME", help="name of the node [%(default)s]")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long to draw [%(default)s]")
    parser.add_argument(
        "--think", type=float, default=0.15, metavar="SECONDS", help="how long each chunk takes [%(default)s]"
    )
    arguments = parser.parse_args()
    rclpy.init()
    try:
        main(arguments.node, arguments.seconds, arguments.think)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        rclpy.try_shutdown()
