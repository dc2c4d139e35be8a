"""A policy that streams targets, a circle or a torque, until something happens to it.

    python -m bench.faults.policy --robot /aiofranka --kind pose

Started as a separate process with one thread by the process that stages faults. It prints ``streaming`` after its first
target. With ``--hoard`` it fills its limited memory until none is left.
"""

from __future__ import annotations

import argparse
import math
import resource
import signal
import sys
import time
from collections.abc import Sequence

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState

from aiofranka_ros.model.fr3 import JOINT_NAMES

_RATE = 100.0
#: The circle: its radius [m] and its turns per second; fast enough for the arm to be seen moving everywhere on it.
_RADIUS, _FREQUENCY = 0.05, 0.5
#: Torque at the last joint [Nm]: more than its friction, less than brings it to its limit within some seconds.
_TORQUE = 0.8
#: Memory that hoarding may take beyond what is there [bytes], and how much at a time.
_MEMORY, _BITE = 256 << 20, 16 << 20


class _Policy:
    def __init__(self, node: Node, robot: str, kind: str) -> None:
        self._node, self._kind = node, kind
        self._pose: PoseStamped | None = None
        message, topic = (PoseStamped, "ee_desired") if kind == "pose" else (JointState, "torque_desired")
        self._publisher = node.create_publisher(message, f"{robot}/{topic}", 1)
        node.create_subscription(PoseStamped, f"{robot}/ee_pose", self._on_pose, qos_profile_sensor_data)

    def _on_pose(self, message: PoseStamped) -> None:
        if self._pose is None:
            self._pose = message

    def run(self, hoard: float) -> None:
        executor = SingleThreadedExecutor()
        executor.add_node(self._node)
        while self._pose is None or self._publisher.get_subscription_count() == 0:
            executor.spin_once(timeout_sec=0.1)
        start = self._pose.pose.position
        y, z = start.y, start.z
        begin, hoarded = time.perf_counter(), []
        tick = 0
        while True:
            elapsed = time.perf_counter() - begin
            if self._kind == "pose":
                angle = 2.0 * math.pi * _FREQUENCY * elapsed * min(1.0, elapsed)
                self._pose.header.stamp = self._node.get_clock().now().to_msg()
                self._pose.pose.position.y = y + _RADIUS * math.sin(angle)
                self._pose.pose.position.z = z + _RADIUS * (1.0 - math.cos(angle))
                self._publisher.publish(self._pose)
            else:
                torque = [0.0] * 6 + [_TORQUE]
                message = JointState(name=list(JOINT_NAMES), effort=torque)
                message.header.stamp = self._node.get_clock().now().to_msg()
                self._publisher.publish(message)
            if tick == 0:
                sys.stdout.write("streaming\n")
                sys.stdout.flush()
            if hoard and elapsed > hoard:
                hoarded.append(np.ones(_BITE // 8))
            tick += 1
            time.sleep(max(0.0, begin + tick / _RATE - time.perf_counter()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Stream until the end."""
    parser = argparse.ArgumentParser(description="A policy that comes to grief; started by bench.faults.")
    parser.add_argument("--robot", required=True, help="full name of the robot's node")
    parser.add_argument("--kind", choices=("pose", "torque"), default="pose", help="what to stream [%(default)s]")
    parser.add_argument("--hoard", type=float, default=0.0, help="run out of memory after so many seconds; 0: don't")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    if options.hoard:
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
    _Policy(Node("policy"), options.robot, options.kind).run(options.hoard)
    return 0


if __name__ == "__main__":
    sys.exit(main())
