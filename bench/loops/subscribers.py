"""Subscribes to all topics of a node in a separate process, and measures how often each topic arrives.

Started by :mod:`bench.loops.growth`. It receives serialized messages with the executor of this project's own clients,
because the time that a subscriber spends on a message is not part of the measurement.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from pathlib import Path

import rclpy
from franka_msgs.msg import FrankaRobotState
from geometry_msgs.msg import PoseStamped
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from aiofranka_ros.ros.executor import UrgentFirstExecutor

TOPICS = {
    "state": Float64MultiArray,
    "ee_pose": PoseStamped,
    "robot_state": FrankaRobotState,
}


def main() -> None:
    """Subscribe until SIGINT, then write the rates [Hz] by topic.

    A file next to the output, with the suffix ``.ready``, appears once every topic has arrived.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--node", required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node("subscriber")
    stamps: dict[str, list[float]] = {name: [] for name in (*TOPICS, "joint_states")}

    def note(name: str) -> None:
        stamps[name].append(time.monotonic())
        if len(stamps[name]) == 1 and all(stamps.values()):
            options.output.with_suffix(".ready").touch()

    group = ReentrantCallbackGroup()  # Separate: these callbacks cannot wait.
    for name, kind in TOPICS.items():
        node.create_subscription(
            kind, f"/{options.node}/{name}", lambda _, name=name: note(name), qos_profile_sensor_data,
            callback_group=group, raw=True,
        )  # fmt: skip
    node.create_subscription(
        JointState, "/joint_states", lambda _: note("joint_states"), 10, callback_group=group, raw=True
    )
    stop: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: stop.append(number))
    executor = UrgentFirstExecutor(node)
    while not stop:
        executor.spin_turn()
    rates = {}
    for name, times in stamps.items():
        # Without the first and last second, in which other processes start and end.
        kept = [one for one in times if times[0] + 1.0 < one < times[-1] - 1.0]
        rates[name] = (len(kept) - 1) / (kept[-1] - kept[0]) if len(kept) > 1 else 0.0
    options.output.write_text(json.dumps(rates))


if __name__ == "__main__":
    main()
