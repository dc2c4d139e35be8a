"""A person takes over from a policy and hands back: speeds of every cycle, log, diagnostics and topics of a node."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from trajectory_msgs.msg import MultiDOFJointTrajectory

from aiofranka_ros.control.records import Approach
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.ros import ownership
from aiofranka_ros.ros.chunk_reports import ChunkReport, ChunkState, reports_of
from aiofranka_ros.ros.ownership import Ownership
from aiofranka_ros.ros.trajectories import pose_trajectory
from aiofranka_ros.testing import Client, CycleRecorder
from bench.faults.lunge import LIMITS, speeds

Log = Callable[[str], bool]


class Sender:
    """A node that streams poses at 50 Hz, ``apart`` [m] in y from where the arm was, and swings by ``swing`` [m]."""

    def __init__(self, robot: Client, name: str, *, apart: float = 0.0, swing: float = 0.0) -> None:
        self.node = rclpy.create_node(name, context=robot.node.context, use_global_arguments=False)
        self.publisher = self.node.create_publisher(PoseStamped, f"{robot.name}/ee_desired", 1)
        self._robot, self._apart, self._swing = robot, apart, swing
        self._timer: Any = None

    def start(self) -> None:
        self._pose = self._robot.pose
        self._pose.header.stamp.sec = self._pose.header.stamp.nanosec = 0
        self._y, self._begun = self._pose.pose.position.y + self._apart, time.monotonic()
        self._timer = self._robot.node.create_timer(0.02, self._publish)

    def stop(self) -> None:
        self._robot.node.destroy_timer(self._timer)

    def _publish(self) -> None:
        # At 0.05 m/s at most.
        phase = 0.05 * (time.monotonic() - self._begun) / max(self._swing, 1e-9)
        self._pose.pose.position.y = self._y + self._swing * math.sin(phase)
        self.publisher.publish(self._pose)


@pytest.fixture
def policy(robot: Client, cycles: CycleRecorder) -> Iterator[Sender]:
    """A policy that drives the arm; the node ``/teleop`` has priority."""
    assert robot.set(priority_clients=["/teleop"]) == ""
    sender = Sender(robot, "policy", swing=0.004)
    sender.start()
    robot.wait(lambda: cycles.state()["approach"] == Approach.FOLLOWING, "the policy is not followed")
    yield sender
    sender.stop()
    sender.node.destroy_node()
    assert robot.set(priority_clients=[]) == ""


@pytest.fixture
def owners(robot: Client) -> Iterator[list[Ownership]]:
    """Who controls the arm, as the node says on its topic, in the order of its messages."""
    said: list[Ownership] = []
    subscription = robot.node.create_subscription(
        DiagnosticStatus,
        f"{robot.name}/{ownership.TOPIC}",
        lambda message: said.append(Ownership.of(message)),
        ownership.QOS,
    )
    yield said
    robot.node.destroy_subscription(subscription)


@pytest.mark.parametrize("apart", [0.1, 0.002], ids=["far", "near"])
def test_a_person_takes_over_and_hands_back_without_a_jump(
    robot: Client, cycles: CycleRecorder, policy: Sender, owners: list[Ownership], log: Log, apart: float
) -> None:
    teleop = Sender(robot, "teleop", apart=apart)
    cycles.take()
    try:
        teleop.start()
        robot.wait(lambda: owners and owners[-1].client == "/teleop", "it does not take over")
        assert owners[-1] == Ownership(f"/teleop on {robot.name}/ee_desired", "/teleop", True)
        begun = cycles.state()["approach"]
        assert begun == (Approach.APPROACHING if apart > 0.02 else Approach.FOLLOWING)
        robot.wait(lambda: cycles.state()["approach"] == Approach.FOLLOWING, "it is not met")
        assert robot.spin_until(
            lambda: robot.diagnostics("targets")[1].get("waiting", "").startswith("/policy on "), 10.0
        )
        level, values = robot.diagnostics("targets")
        assert values["owner"] == f"/teleop on {robot.name}/ee_desired" and "in control for [s]" in values
        assert level == b"\x01" and int(values["refused: overridden"]) > 5
        assert not robot.send_goal(HOME).accepted, "a move of another client"
    finally:
        teleop.stop()
    robot.wait(lambda: owners[-1].client == "/policy", "the policy does not continue")
    robot.wait(lambda: cycles.state()["approach"] == Approach.FOLLOWING, "the policy is not met again")
    assert robot.spin_until(lambda: log("/teleop takes control from /policy") and log("/policy continues after"))
    teleop.node.destroy_node()
    recorded = cycles.take()
    linear, angular = (speed.max() for speed in speeds(recorded))
    # On a busy computer, the person's first pose may come late, and be up to a centimetre away: then a little faster.
    assert linear <= (LIMITS[0] if apart > 0.02 else 0.2) and angular <= LIMITS[1]


def test_a_person_takes_over_from_a_chunk(robot: Client, cycles: CycleRecorder, policy: Sender) -> None:
    policy.stop()
    reports: list[ChunkReport] = []
    status = robot.node.create_subscription(
        DiagnosticArray, f"{robot.name}/chunk_status", lambda message: reports.extend(reports_of(message)), 50
    )
    publisher = policy.node.create_publisher(MultiDOFJointTrajectory, f"{robot.name}/ee_chunk", 1)

    def sent(state: ChunkState, reason: str = "") -> bool:
        """Send a chunk that takes four seconds, at 0.04 m/s, unless it is known already what became of it."""
        if not any(report.state is state and report.reason == reason for report in reports):
            pose = robot.pose.pose
            p, o = pose.position, pose.orientation
            rows = np.tile([p.x, p.y, p.z, o.x, o.y, o.z, o.w], (60, 1))
            rows[:, 2] += 0.04 / 15.0 * np.arange(60) / 4.0
            publisher.publish(pose_trajectory(0, (), rows, 1.0 / 15.0))
            robot.spin_for(0.3)
        return any(report.state is state and report.reason == reason for report in reports)

    teleop = Sender(robot, "teleop", apart=0.1)
    try:
        assert robot.spin_until(lambda: sent(ChunkState.FOLLOWED))
        cycles.take()
        teleop.start()
        assert robot.spin_until(lambda: any(report.state is ChunkState.ENDED for report in reports))
        assert cycles.state()["approach"] == Approach.APPROACHING
        assert robot.spin_until(lambda: sent(ChunkState.REFUSED, "overridden"))
        robot.wait(lambda: cycles.state()["approach"] == Approach.FOLLOWING, "the person is not met")
    finally:
        teleop.stop()
    reports.clear()
    assert robot.spin_until(lambda: sent(ChunkState.FOLLOWED))
    linear, angular = (speed.max() for speed in speeds(cycles.take()))
    assert linear <= LIMITS[0] and angular <= LIMITS[1]
    publisher.publish(MultiDOFJointTrajectory())
    teleop.node.destroy_node()
    robot.node.destroy_subscription(status)
    assert robot.rests()
    policy.start()


def test_a_node_without_priority_has_to_wait(robot: Client, cycles: CycleRecorder, policy: Sender) -> None:
    other = Sender(robot, "other")
    try:
        other.start()
        key = "refused: another publisher"
        assert robot.spin_until(lambda: int(robot.diagnostics("targets")[1].get(key, 0)) > 5, 10.0)
        assert robot.diagnostics("targets")[1]["owner"].startswith("/policy on ")
    finally:
        other.stop()
        other.node.destroy_node()
