"""Streams of targets through the node: what comes before it is due, and what the diagnostics say of a stream."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from builtin_interfaces.msg import Time

from aiofranka_ros.testing import Client, CycleRecorder

#: How far apart poses are [s], [m].
STEP, WAY = 0.066, 0.0066


@pytest.fixture
def cycles(robot: Client) -> Iterator[CycleRecorder]:
    recorder = CycleRecorder(robot.diagnostics("control loop")[1]["shared memory"])
    yield recorder
    recorder.close()


def test_poses_that_come_all_at_once_wait_for_their_times(robot: Client, cycles: CycleRecorder) -> None:
    pose = robot.pose
    y = pose.pose.position.y
    refused = int(robot.diagnostics("targets")[1]["refused"])
    robot.wait(lambda: robot.publishers["ee_desired"].get_subscription_count() > 0, "the node does not listen")
    begin = time.time_ns()
    dues = [begin + int(1e9 * (0.05 + k * STEP)) for k in range(1, 7)]
    for k, due in enumerate(dues, 1):
        pose.header.stamp = Time(sec=due // 10**9, nanosec=due % 10**9)
        pose.pose.position.y = y + k * WAY
        robot.publishers["ee_desired"].publish(pose)
    robot.spin_until(lambda: cycles.state()["stamp"] + time.time_ns() - time.monotonic_ns() > dues[-1] + 10**9)
    record = cycles.take()
    reference = record["ref_position"][:, 1] - y
    for k, due in enumerate(dues, 1):
        # By the robot's time, which is even.
        at = reference[np.searchsorted(record["stamp"], due)]
        assert at == pytest.approx(k * WAY, abs=0.5 * WAY)
    assert reference.max() <= len(dues) * WAY + 1e-3
    assert int(robot.diagnostics("targets")[1]["refused"]) == refused


def test_diagnostics_say_what_kind_of_stream_the_targets_are(robot: Client, cycles: CycleRecorder) -> None:
    """A policy of 10 Hz whose targets are published at 50 Hz."""
    pose = robot.pose
    pose.header.stamp = Time()
    y = pose.pose.position.y
    due = time.monotonic()
    for k in range(60):
        pose.pose.position.y = y + 0.002 * (k // 5)
        robot.publish("ee_desired", pose)
        due += 0.02
        robot.spin_until(lambda until=due: time.monotonic() >= until, period=0.005)
    robot.forget()
    stream = robot.diagnostics("targets")[1]["stream"]
    rate = float(stream.split(" Hz")[0])
    assert rate == pytest.approx(10.0, rel=0.3)
    assert "repetitions: interpolated" in stream


def test_diagnostics_say_how_far_stamps_are_ahead(robot: Client, cycles: CycleRecorder) -> None:
    """As from a computer whose clock is 0.2 s ahead: its targets are followed that much later."""
    pose = robot.pose
    for _ in range(20):
        due = time.time_ns() + 200_000_000
        pose.header.stamp = Time(sec=due // 10**9, nanosec=due % 10**9)
        pose.pose.position.y += 0.001
        robot.publish("ee_desired", pose)
        robot.spin_for(0.03)
    robot.forget()
    values = robot.diagnostics("targets")[1]
    assert float(values["stamps ahead of this computer's clock [s]"]) == pytest.approx(0.2, abs=0.1)
