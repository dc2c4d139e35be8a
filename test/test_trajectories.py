"""Trajectories as bytes: what is read from a chunk, what is refused, and at which cost."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Transform
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint, MultiDOFJointTrajectory

from aiofranka_ros.control.chunk_size import MOST_POINTS
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.model.fr3 import JOINT_NAMES
from aiofranka_ros.ros import trajectories
from aiofranka_ros.ros.trajectories import (
    Trajectory,
    joint_trajectory,
    pose_trajectory,
    read_joint_trajectory,
    read_pose_trajectory,
    twist_trajectory,
)

pytestmark = pytest.mark.unit

STAMP = 1_764_457_110_123_456_789
DT = 1.0 / 15.0


def read(message: Any) -> Trajectory:
    reader = read_joint_trajectory if isinstance(message, JointTrajectory) else read_pose_trajectory
    return reader(serialize_message(message))


def rows(count: int, size: int = 7) -> np.ndarray:
    return np.random.default_rng(3).uniform(-1.0, 1.0, (count, size))


@given(st.integers(1, 60), st.text("abc_/é", max_size=9), st.integers(0, 3))
def test_what_is_written_is_read(count: int, frame: str, names: int) -> None:
    # Names and frames of any length: numbers of eight bytes are aligned after them.
    given_rows, some = rows(count), JOINT_NAMES[:names]
    for message in (
        joint_trajectory(STAMP, some, given_rows, DT, frame),
        pose_trajectory(STAMP, some, given_rows, DT, frame),
    ):
        found = read(message)
        assert (found.stamp, found.frame, found.names) == (STAMP, frame, tuple(some))
        np.testing.assert_array_equal(found.positions, given_rows)
        np.testing.assert_allclose(found.times, DT * np.arange(count), atol=1e-9)
        assert found.velocities is None


def test_points_with_velocities_only_are_read() -> None:
    found = read(joint_trajectory(0, (), rows(3), DT, velocities=True))
    np.testing.assert_array_equal(found.velocities, rows(3))
    assert found.positions is None and found.stamp == 0
    found = read(twist_trajectory(0, (), rows(3, 6), DT))
    np.testing.assert_array_equal(found.velocities, rows(3, 6))
    assert found.positions is None


def test_velocities_next_to_positions_are_not_used() -> None:
    message = joint_trajectory(0, (), rows(2), DT)
    for point in message.points:
        point.velocities, point.accelerations = [1.0] * 7, [2.0] * 7
    found = read(message)
    np.testing.assert_array_equal(found.positions, rows(2))
    assert found.velocities is None


def test_times_before_the_stamp_are_read_as_such() -> None:
    message = joint_trajectory(0, (), rows(1), DT)
    message.points[0].time_from_start = Duration(sec=-1, nanosec=750_000_000)
    assert read(message).times == pytest.approx([-0.25])


@pytest.mark.parametrize("kind", [JointTrajectory, MultiDOFJointTrajectory])
def test_a_message_without_points_is_read_as_such(kind: type) -> None:
    found = read(kind())
    assert len(found.times) == 0 and found.positions is None and found.velocities is None


def broken(change: str) -> Any:
    """A message that is refused."""
    message: Any = joint_trajectory(0, JOINT_NAMES, rows(3), DT)
    poses = pose_trajectory(0, (), rows(3), DT)
    if change == "two transforms":
        for point in poses.points:
            point.transforms = [Transform(), Transform()]
        return poses
    if change == "no transform":
        poses.points[2].transforms = []
        return poses
    if change == "too many":
        return joint_trajectory(0, JOINT_NAMES, rows(MOST_POINTS + 1), DT)
    if change == "names":
        message.joint_names = ["a"] * 1000
    elif change == "frame":
        message.header.frame_id = "a" * 2000
    elif change == "effort":
        message.points[1].effort = [1.0] * 7
    elif change == "nothing":
        message.points[1] = JointTrajectoryPoint()
    elif change == "sizes":
        message.points[1].positions = [1.0] * 6
    else:
        message.points = [JointTrajectoryPoint()]
    return message


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        ("two transforms", "wrong size", "2 transforms each; allowed: one"),
        ("no transform", "wrong size", "1 of its 3 points have no transforms"),
        ("too many", "too many points", f"it has {MOST_POINTS + 1} points, but a chunk may have {MOST_POINTS}"),
        ("names", "cannot be read", "it has 1000 names"),
        ("frame", "too large", "2001 characters"),
        ("effort", "efforts given", "leave them out"),
        ("nothing", "wrong size", "1 of its 3 points have no positions"),
        ("sizes", "wrong size", "differ in how many positions"),
        ("empty", "wrong size", "1 of its 1 points have no positions or velocities"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(change: str, reason: str, says: str) -> None:
    with pytest.raises(InvalidTarget, match=says) as refused:
        read(broken(change))
    assert refused.value.reason == reason


@given(st.integers(0, 700), st.binary(max_size=8))
def test_a_damaged_message_is_refused(at: int, replacement: bytes) -> None:
    data = bytearray(serialize_message(joint_trajectory(STAMP, JOINT_NAMES, rows(5), DT, "fr3_link0")))
    data[at : at + len(replacement)] = replacement
    for damaged in (bytes(data), bytes(data[:at])):
        try:
            read_joint_trajectory(damaged)
        except InvalidTarget:
            pass  # Numbers may be any numbers; nothing else may be raised.


def test_a_message_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidTarget):
        read_pose_trajectory(serialize_message(Float64MultiArray(data=[1.0] * 50)))


def test_ten_thousand_points_are_refused_without_reading_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajectories, "_points", None)  # Fails if it is called.
    with pytest.raises(InvalidTarget, match="10000 points"):
        read(joint_trajectory(0, JOINT_NAMES, rows(10_000), DT))


def test_a_small_message_that_claims_many_points_is_refused_at_once() -> None:
    data = serialize_message(joint_trajectory(0, (), rows(1), DT))
    assert data.count(struct.pack("<I", 7)) == 1
    claimed = data.replace(struct.pack("<I", 7), struct.pack("<I", 0xFFFF_FFF0))  # Numbers of its point.
    with pytest.raises(InvalidTarget, match="cannot be read"):
        read_joint_trajectory(claimed)


@pytest.mark.parametrize(("order", "mark"), [("<", b"\0\1\0\0"), (">", b"\0\0\0\0")])
def test_a_message_is_read_in_both_orders_of_bytes(order: str, mark: bytes) -> None:
    # Stamp, an empty frame, no names, one point with one transform, no velocities and accelerations, its time.
    body = struct.pack(f"{order}iIIxxxxIIIxxxx7dIIiI", 5, 6, 1, 0, 1, 1, *range(7), 0, 0, 0, 500_000_000)
    found = read_pose_trajectory(mark + body)
    assert found.stamp == 5_000_000_006 and found.times == pytest.approx([0.5])
    np.testing.assert_array_equal(found.positions, [np.arange(7.0)])
