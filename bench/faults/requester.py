"""A client that sends one goal, joint 1 far to one side, and waits for its end until something happens to it.

    python -m bench.faults.requester --robot /aiofranka --kind move

Started as a separate process by the process that stages faults, and by tests. Kinds: ``move`` through ``RosInterface``;
``trajectory``, of twenty seconds, by a client with a presence; ``plain``, the same by any other client. It prints
``accepted`` and how its goal ended.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Duration
from control_msgs.action import FollowJointTrajectory
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from aiofranka_ros import FrankaController, RosInterface
from aiofranka_ros.model.fr3 import HOME, JOINT_NAMES
from aiofranka_ros.ros import clients

#: How long the trajectory takes [s], and where it ends [rad].
DURATION, GOAL = 20, HOME + np.array([1.0, 0, 0, 0, 0, 0, 0])


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _move(robot: str) -> None:
    async with FrankaController(RosInterface(robot)) as controller:
        _say("accepted")  # Almost.
        await controller.move(GOAL, progress=False)


def _follow(robot: str, present: bool) -> None:
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node, executor = Node("requester"), SingleThreadedExecutor()
    executor.add_node(node)

    def result(future: Any) -> Any:
        executor.spin_until_future_complete(future)
        return future.result()

    namespace, _, _ = robot.rpartition("/")
    client = ActionClient(node, FollowJointTrajectory, f"{namespace}/fr3_arm_controller/follow_joint_trajectory")
    presence = clients.Presence(node, robot) if present else None
    while not client.server_is_ready():
        executor.spin_once(timeout_sec=0.1)
    point = JointTrajectoryPoint(positions=GOAL.tolist(), velocities=[0.0] * 7, time_from_start=Duration(sec=DURATION))
    goal = FollowJointTrajectory.Goal(trajectory=JointTrajectory(joint_names=list(JOINT_NAMES), points=[point]))
    handle = result(client.send_goal_async(goal, goal_uuid=presence.goal_id() if presence else None))
    _say("accepted" if handle.accepted else "rejected")
    _say(result(handle.get_result_async()).result.error_string)


def main(arguments: Sequence[str] | None = None) -> int:
    """Send the goal and wait for its end."""
    parser = argparse.ArgumentParser(description="A client that comes to grief; started by bench.faults.")
    parser.add_argument("--robot", required=True, help="full name of the robot's node")
    parser.add_argument("--kind", choices=("move", "trajectory", "plain"), default="move", help="[%(default)s]")
    parser.add_argument("--elsewhere", action="store_true", help="claim to run on another computer")
    options = parser.parse_args(arguments)
    if options.elsewhere:
        clients.identity_of = lambda pid: f"another-computer {pid} 1"
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    if options.kind == "move":
        asyncio.run(_move(options.robot))
    else:
        _follow(options.robot, options.kind == "trajectory")
    return 0


if __name__ == "__main__":
    sys.exit(main())
