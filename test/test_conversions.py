"""The boundary between the graph and the arm: what is taken, and what is refused with which words."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from aiofranka_ros.control.records import STATE, new
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Record
from aiofranka_ros.model.fr3 import JOINT_NAMES
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.ros import conversions

HERE = (0.1, 0.2, 0.3)
UPRIGHT = (0.0, 0.0, 0.0, 1.0)


def message_of(numbers: tuple[float, ...], frame: str = "", stamp: int = 0) -> PoseStamped:
    message = PoseStamped()
    message.header.frame_id = frame
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
    p, o = message.pose.position, message.pose.orientation
    p.x, p.y, p.z, o.x, o.y, o.z, o.w = numbers
    return message


@given(
    st.integers(0, 2**31 * 10**9 - 1),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    st.tuples(*[st.floats()] * 7),
)
def test_a_serialized_pose_is_read_as_rclpy_reads_it(stamp: int, frame: str, numbers: tuple[float, ...]) -> None:
    when, (where, found) = conversions.read_pose(serialize_message(message_of(numbers, frame, stamp)))
    assert (when, where) == (stamp, frame)
    np.testing.assert_array_equal(found, numbers)


def test_a_pose_of_a_sender_with_another_order_of_bytes_is_read_too() -> None:
    body = struct.pack(">iII", 5, 6, 5) + b"base\0" + bytes(7) + struct.pack(">7d", *range(7))
    assert conversions.read_pose(b"\0\0\0\0" + body) == (5_000_000_006, ("base", tuple(range(7))))


@given(st.integers(0, 200), st.binary(max_size=8), st.integers(0, 99))
def test_a_spoilt_pose_is_refused_or_read_but_nothing_else_happens(length: int, junk: bytes, place: int) -> None:
    data = bytearray(serialize_message(message_of((*HERE, *UPRIGHT), "fr3_link0")))
    data[4 + place : 4 + place + len(junk)] = junk
    try:
        _, (frame, numbers) = conversions.read_pose(bytes(data[: max(4, length)]))
    except InvalidTarget as error:
        assert error.reason == "cannot be read"
    else:
        assert isinstance(frame, str) and len(numbers) == 7


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
VALUES = st.lists(st.floats(), max_size=8)


def joints_of(frame: str, names: list[str], position: list[float], velocity: list[float], effort: list[float]) -> bytes:
    message = JointState(name=names, position=position, velocity=velocity, effort=effort)
    message.header.frame_id = frame
    message.header.stamp.sec, message.header.stamp.nanosec = 5, 6
    return bytes(serialize_message(message))


@given(st.lists(st.tuples(TEXTS, st.lists(TEXTS, max_size=8), VALUES, VALUES, VALUES), min_size=1, max_size=4))
def test_serialized_joints_are_read_as_rclpy_reads_them_whatever_was_read_before(contents: list[Any]) -> None:
    reader = conversions.JointReader()
    for frame, names, position, velocity, effort in contents * 2:
        stamp, found = reader.read(joints_of(frame, names, position, velocity, effort))
        assert (stamp, found.name) == (5_000_000_006, tuple(names))
        np.testing.assert_array_equal(found.position, position)
        np.testing.assert_array_equal(found.effort, effort)


def test_joints_of_a_sender_with_another_order_of_bytes_are_read_too() -> None:
    body = struct.pack(">iII", 5, 6, 1) + bytes(4) + struct.pack(">II", 1, 2) + b"a\0" + bytes(2)
    body += struct.pack(">II", 1, 0)[:4] + bytes(-(len(body) + 4) % 8) + struct.pack(">dII", 7.0, 0, 0)
    assert conversions.JointReader().read(b"\0\0\0\0" + body) == (5_000_000_006, (("a",), (7.0,), ()))


@given(st.integers(0, 400), st.binary(max_size=8), st.integers(0, 350))
def test_spoilt_joints_are_refused_or_read_but_nothing_else_happens(length: int, junk: bytes, place: int) -> None:
    reader = conversions.JointReader()
    whole = joints_of("", list(JOINT_NAMES), [0.0] * 7, [], [1.0] * 7)
    data = bytearray(whole)
    data[4 + place : 4 + place + len(junk)] = junk
    try:
        _, found = reader.read(bytes(data[: max(4, length)]))
    except InvalidTarget as error:
        assert error.reason == "cannot be read"
    else:
        assert all(isinstance(name, str) for name in found.name)
    assert reader.read(whole)[1] == (JOINT_NAMES, (0.0,) * 7, (1.0,) * 7)


def test_a_pose_is_taken_as_it_is() -> None:
    target = conversions.pose_target((*HERE, *UPRIGHT))
    assert target == {"target_position": HERE, "target_orientation": UPRIGHT}


@given(st.floats(0.9901, 1.0099), st.tuples(*[st.floats(-1.0, 1.0)] * 4))
def test_a_quaternion_within_one_per_cent_is_normalised(norm: float, direction: tuple[float, ...]) -> None:
    length = float(np.linalg.norm(direction))
    if length < 1e-3:
        return
    orientation = tuple(norm * value / length for value in direction)
    result = conversions.pose_target((*HERE, *orientation))["target_orientation"]
    assert abs(np.linalg.norm(result) - 1.0) < 1e-12
    np.testing.assert_allclose(result, np.array(direction) / length, atol=1e-12)


@pytest.mark.parametrize("norm", [0.0, 0.98, 1.02, 5.0])
def test_a_quaternion_further_off_is_refused(norm: float) -> None:
    with pytest.raises(InvalidTarget, match=f"norm of {norm:.3f}"):
        conversions.pose_target((*HERE, 0.0, norm, 0.0, 0.0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(InvalidTarget, match="position is not finite"):
        conversions.pose_target((0.1, bad, 0.3, *UPRIGHT))
    with pytest.raises(InvalidTarget, match="orientation is not finite"):
        conversions.pose_target((*HERE, bad, 0.0, 0.0, 1.0))
    with pytest.raises(InvalidTarget, match="position is not finite"):
        conversions.pose_of(message_of((bad, 0.0, 0.0, *UPRIGHT)))
    with pytest.raises(InvalidTarget, match="effort is not finite"):
        conversions.torque_target(JointState(effort=[bad] * 7))


@given(st.permutations(range(7)))
def test_joints_are_matched_by_name_in_any_order(order: list[int]) -> None:
    message = JointState(name=[JOINT_NAMES[i] for i in order], position=[float(i) for i in order])
    assert conversions.position_target(message)["target_q"] == (0, 1, 2, 3, 4, 5, 6)


def test_joints_without_names_are_in_order() -> None:
    message = JointState(effort=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    assert conversions.torque_target(message)["target_torque"] == (1, 2, 3, 4, 5, 6, 7)


@pytest.mark.parametrize(
    ("names", "count", "text"),
    [
        (JOINT_NAMES[1:], 6, "missing joint fr3_joint1"),
        ((*JOINT_NAMES, "fr3_finger_joint1"), 8, "unknown joint fr3_finger_joint1"),
        ((*JOINT_NAMES[:6], "fr3_joint1"), 7, "named twice: fr3_joint1; missing joint fr3_joint7"),
        (JOINT_NAMES, 6, "names 7 joints, but position has 6 values"),
        ((), 8, "position has 8 values, but the arm has 7 joints"),
        ((), 0, "position has 0 values"),
    ],
)
def test_other_joints_than_the_arms_are_named(names: tuple[str, ...], count: int, text: str) -> None:
    with pytest.raises(InvalidTarget, match=text):
        conversions.position_target(JointState(name=list(names), position=[0.0] * count))


def test_with_a_prefix_all_names_begin_with_it_and_others_are_refused() -> None:
    names, state = ArmNames("left"), new(STATE)[0]
    assert conversions.joint_state(state, names).name == [f"left_{name}" for name in JOINT_NAMES]
    assert conversions.measured_pose(state, names).header.frame_id == "left_fr3_link0"
    assert conversions.external_wrench(state, names).header.frame_id == "left_fr3_link0"
    transform = conversions.control_frame(state, names)
    assert (transform.header.frame_id, transform.child_frame_id) == ("left_fr3_link0", "left_fr3_tcp")
    message = JointState(name=list(names.joints), position=[0.0] * 7)
    assert conversions.position_target(message, names)["target_q"] == (0.0,) * 7
    with pytest.raises(InvalidTarget, match="missing joint right_fr3_joint1, "):
        conversions.position_target(message, ArmNames("right"))


def test_stamps_are_nanoseconds_and_an_empty_one_is_zero() -> None:
    assert conversions.nanoseconds(Time()) == 0
    assert conversions.nanoseconds(Time(sec=1_700_000_000, nanosec=5)) == 1_700_000_000_000_000_005


def test_measurements_become_messages_with_their_own_time() -> None:
    state = new(STATE)[0]
    state["stamp"] = 1_700_000_000_123_456_789
    state["q"], state["dq"], state["tau_measured"] = np.arange(7), np.arange(7) + 0.5, -np.arange(7)
    state["position"], state["orientation"] = (0.1, 0.2, 0.3), (0.5, 0.5, 0.5, 0.5)
    state["external_wrench"] = (1, 2, 3, 4, 5, 6)
    joints = conversions.joint_state(state)
    assert tuple(joints.name) == JOINT_NAMES
    assert list(joints.position) == list(range(7)) and joints.velocity[6] == 6.5 and joints.effort[6] == -6
    measured = conversions.measured_pose(state)
    assert (measured.header.stamp.sec, measured.header.stamp.nanosec) == (1_700_000_000, 123_456_789)
    assert measured.header.frame_id == "fr3_link0"
    assert (measured.pose.position.z, measured.pose.orientation.w) == (0.3, 0.5)
    wrench = conversions.external_wrench(state).wrench
    assert (wrench.force.x, wrench.torque.z) == (1.0, 6.0)


def a_state() -> Record:
    state = new(STATE)[0]
    rng = np.random.default_rng(5)
    for field in ("q", "dq", "tau", "position", "jacobian", "mass"):
        state[field] = rng.normal(size=state[field].shape)
    state["orientation"] = 0.5, -0.5, 0.5, -0.5
    state["stamp"] = 1_700_000_000_123_456_789
    return state


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("through_rclpy", [False, True])
def test_a_snapshot_arrives_as_it_was_measured(active: bool, through_rclpy: bool) -> None:
    state = a_state()
    data = conversions.SnapshotMessage().of(state, active)
    if through_rclpy:  # Another description of the same numbers is another beginning.
        message = deserialize_message(data, Float64MultiArray)
        message.layout.dim[0].label = "of a recording"
        data = serialize_message(message)
    snapshot, was_active = conversions.read_snapshot(data)
    assert was_active == active
    assert snapshot.stamp == state["stamp"]
    for read, field in (("q", "q"), ("dq", "dq"), ("tau", "tau"), ("jacobian", "jacobian"), ("mass", "mass")):
        np.testing.assert_array_equal(getattr(snapshot, read), state[field])
    np.testing.assert_array_equal(snapshot.ee[:3, 3], state["position"])
    np.testing.assert_allclose(snapshot.ee[:3, :3] @ snapshot.ee[:3, :3].T, np.eye(3), atol=1e-12)
    snapshot.q[0] = 1.0  # They are whoever's who reads them.


def test_a_snapshot_of_this_computer_is_read_without_rclpy(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any) -> None:
        raise AssertionError("rclpy was called")

    data = conversions.SnapshotMessage().of(a_state(), True)
    monkeypatch.setattr(conversions, "deserialize_message", never)
    length = int.from_bytes(data[8:12], "little")
    aligned = data[: 12 + length] + b"xyz"[: -length % 4] + data[12 + length + -length % 4 :]
    for one in (data, aligned):  # What only aligns may be anything.
        assert conversions.read_snapshot(one)[1]


@pytest.mark.parametrize("time", [math.nan, math.inf])
def test_a_snapshot_of_no_time_is_refused(time: float) -> None:
    message = deserialize_message(conversions.SnapshotMessage().of(a_state(), True), Float64MultiArray)
    message.data[1] = time
    with pytest.raises(InvalidTarget, match="its time"):
        conversions.read_snapshot(serialize_message(message))


def test_a_snapshot_of_another_size_is_refused() -> None:
    with pytest.raises(InvalidTarget, match="it has 3 numbers instead of 131"):
        conversions.read_snapshot(serialize_message(Float64MultiArray(data=[1.0, 2.0, 3.0])))


@given(length=st.integers(0, 1000))
def test_a_snapshot_that_was_cut_off_is_refused(length: int) -> None:
    with pytest.raises(InvalidTarget):
        conversions.read_snapshot(conversions.SnapshotMessage().of(a_state(), True)[:length])
