"""Messages as bytes: read as rclpy reads them, and written by replacing the numbers in them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped, TwistStamped
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState

from aiofranka_ros.control.records import STATE, new
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.model.fr3 import JOINT_NAMES
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.ros import messages
from aiofranka_ros.ros.cdr import SerializedMessage, nanoseconds, read_joints, read_pose, read_twist

pytestmark = pytest.mark.unit

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
VALUES = st.lists(st.floats(), max_size=8)


def test_stamps_are_nanoseconds_and_an_empty_one_is_zero() -> None:
    assert nanoseconds(Time()) == 0
    assert nanoseconds(Time(sec=1_700_000_000, nanosec=5)) == 1_700_000_000_000_000_005


# Reading.


def pose_of(numbers: tuple[float, ...], frame: str = "", stamp: int = 0) -> bytes:
    message = PoseStamped()
    message.header.frame_id = frame
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
    p, o = message.pose.position, message.pose.orientation
    p.x, p.y, p.z, o.x, o.y, o.z, o.w = numbers
    return bytes(serialize_message(message))


@given(st.integers(0, 2**31 * 10**9 - 1), TEXTS, st.tuples(*[st.floats()] * 7))
def test_a_pose_is_read_as_rclpy_reads_it(stamp: int, frame: str, numbers: tuple[float, ...]) -> None:
    found = read_pose(pose_of(numbers, frame, stamp))
    assert (found.stamp, found.frame) == (stamp, frame)
    np.testing.assert_array_equal(found.numbers, numbers)


def test_a_pose_from_a_sender_with_another_byte_order_is_read_too() -> None:
    body = struct.pack(">iII", 5, 6, 5) + b"base\0" + bytes(7) + struct.pack(">7d", *range(7))
    assert read_pose(b"\0\0\0\0" + body) == (5_000_000_006, "base", tuple(range(7)))


@given(st.integers(0, 2**31 * 10**9 - 1), TEXTS, st.tuples(*[st.floats()] * 6))
def test_a_twist_is_read_as_rclpy_reads_it(stamp: int, frame: str, numbers: tuple[float, ...]) -> None:
    message = TwistStamped()
    message.header.frame_id = frame
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
    v, w = message.twist.linear, message.twist.angular
    v.x, v.y, v.z, w.x, w.y, w.z = numbers
    found = read_twist(bytes(serialize_message(message)))
    assert (found.stamp, found.frame) == (stamp, frame)
    np.testing.assert_array_equal(found.numbers, numbers)
    with pytest.raises(InvalidTarget, match="cannot be read"):
        read_twist(bytes(serialize_message(message))[:-8])


def test_a_twist_from_a_sender_with_another_byte_order_is_read_too() -> None:
    body = struct.pack(">iII", 5, 6, 5) + b"base\0" + bytes(7) + struct.pack(">6d", *range(6))
    assert read_twist(b"\0\0\0\0" + body) == (5_000_000_006, "base", tuple(range(6)))


@given(st.integers(0, 200), st.binary(max_size=8), st.integers(0, 99))
def test_a_damaged_pose_is_refused_or_read_but_nothing_else_happens(length: int, junk: bytes, place: int) -> None:
    data = bytearray(pose_of((0.1, 0.2, 0.3, 0.0, 0.0, 0.0, 1.0), "fr3_link0"))
    data[4 + place : 4 + place + len(junk)] = junk
    try:
        found = read_pose(bytes(data[: max(4, length)]))
    except InvalidTarget as error:
        assert error.reason == "cannot be read"
    else:
        assert isinstance(found.frame, str) and len(found.numbers) == 7


def joints_of(frame: str, names: list[str], position: list[float], velocity: list[float], effort: list[float]) -> bytes:
    message = JointState(name=names, position=position, velocity=velocity, effort=effort)
    message.header.frame_id = frame
    message.header.stamp.sec, message.header.stamp.nanosec = 5, 6
    return bytes(serialize_message(message))


@given(st.tuples(TEXTS, st.lists(TEXTS, max_size=8), VALUES, VALUES, VALUES))
def test_joints_are_read_as_rclpy_reads_them(content: Any) -> None:
    frame, names, position, velocity, effort = content
    found = read_joints(joints_of(frame, names, position, velocity, effort))
    assert (found.stamp, found.name) == (5_000_000_006, tuple(names))
    np.testing.assert_array_equal(found.position, position)
    np.testing.assert_array_equal(found.velocity, velocity)
    np.testing.assert_array_equal(found.effort, effort)


def test_joints_from_a_sender_with_another_byte_order_are_read_too() -> None:
    body = struct.pack(">iII", 5, 6, 1) + bytes(4) + struct.pack(">II", 1, 2) + b"a\0" + bytes(2)
    body += struct.pack(">II", 1, 0)[:4] + bytes(-(len(body) + 4) % 8) + struct.pack(">dII", 7.0, 0, 0)
    assert read_joints(b"\0\0\0\0" + body) == (5_000_000_006, ("a",), (7.0,), (), ())


@given(st.integers(0, 400), st.binary(max_size=8), st.integers(0, 350))
def test_damaged_joints_are_refused_or_read_but_nothing_else_happens(length: int, junk: bytes, place: int) -> None:
    data = bytearray(joints_of("", list(JOINT_NAMES), [0.0] * 7, [], [1.0] * 7))
    data[4 + place : 4 + place + len(junk)] = junk
    try:
        found = read_joints(bytes(data[: max(4, length)]))
    except InvalidTarget as error:
        assert error.reason == "cannot be read"
    else:
        assert all(isinstance(name, str) for name in found.name)


# Writing.


def random_state(seed: int) -> Any:
    random, state = np.random.default_rng(seed), new(STATE)
    state["stamp"] = random.integers(0, 2**31 * 10**9)
    for name in ("q", "dq", "tau_measured", "position", "orientation", "external_wrench"):
        state[name] = random.normal(size=state[name].shape)
    return state[0]


@pytest.mark.parametrize("prefix", ["", "left"])
@pytest.mark.parametrize(
    "message_of",
    [messages.joint_state, messages.measured_pose, messages.external_wrench, messages.control_frame],
)
@given(st.integers(0, 2**32 - 1))
def test_the_bytes_are_those_of_the_message(message_of: Callable[..., Any], prefix: str, seed: int) -> None:
    names, state = ArmNames(prefix), random_state(seed)
    serialized = SerializedMessage(lambda state: message_of(state, names), STATE)
    expected = message_of(state, names)
    assert deserialize_message(serialized.of(state), type(expected)) == expected


def test_nan_infinity_and_negative_zero_are_sent_too() -> None:
    serialized, state = SerializedMessage(messages.joint_state, STATE), random_state(1)
    state["q"][:3] = np.nan, np.inf, -0.0
    positions = deserialize_message(serialized.of(state), JointState).position
    assert np.isnan(positions[0]) and np.isinf(positions[1]) and np.signbit(positions[2])


def test_nothing_of_one_record_remains_in_the_next_message() -> None:
    serialized = SerializedMessage(messages.measured_pose, STATE)
    serialized.of(random_state(1))
    after = random_state(2)
    assert deserialize_message(serialized.of(after), PoseStamped) == messages.measured_pose(after)
