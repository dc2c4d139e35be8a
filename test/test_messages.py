"""The boundary between the graph and the arm: what is accepted, what is refused, and with which words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from std_msgs.msg import Float64MultiArray

from aiofranka_ros.control.records import STATE, new
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Record
from aiofranka_ros.model.fr3 import JOINT_NAMES
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.ros import messages
from aiofranka_ros.ros.gripper_state import gripper_state_message, read_gripper_state

pytestmark = pytest.mark.unit

HERE = (0.1, 0.2, 0.3)
UPRIGHT = (0.0, 0.0, 0.0, 1.0)


def test_a_valid_pose_is_not_changed() -> None:
    assert messages.pose_target((*HERE, *UPRIGHT)) == (HERE, UPRIGHT)


@given(st.floats(0.9901, 1.0099), st.tuples(*[st.floats(-1.0, 1.0)] * 4))
def test_a_quaternion_within_one_per_cent_of_unit_norm_is_normalised(norm: float, direction: tuple[float, ...]) -> None:
    length = float(np.linalg.norm(direction))
    if length < 1e-3:
        return
    orientation = tuple(norm * value / length for value in direction)
    result = messages.pose_target((*HERE, *orientation)).orientation
    assert abs(np.linalg.norm(result) - 1.0) < 1e-12
    np.testing.assert_allclose(result, np.array(direction) / length, atol=1e-12)


@pytest.mark.parametrize("norm", [0.0, 0.98, 1.02, 5.0])
def test_a_quaternion_further_from_unit_norm_is_refused(norm: float) -> None:
    with pytest.raises(InvalidTarget, match=f"norm of {norm:.3f}"):
        messages.pose_target((*HERE, 0.0, norm, 0.0, 0.0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(InvalidTarget, match="position is not finite"):
        messages.pose_target((0.1, bad, 0.3, *UPRIGHT))
    with pytest.raises(InvalidTarget, match="orientation is not finite"):
        messages.pose_target((*HERE, bad, 0.0, 0.0, 1.0))
    message = PoseStamped()
    message.pose.position.x = bad
    with pytest.raises(InvalidTarget, match="position is not finite"):
        messages.pose_of(message)
    with pytest.raises(InvalidTarget, match="effort is not finite"):
        messages.by_joint((), [bad] * 7, "effort", JOINT_NAMES)


@given(st.permutations(range(7)))
def test_joints_are_matched_by_name_in_any_order(order: list[int]) -> None:
    names = [JOINT_NAMES[i] for i in order]
    assert messages.by_joint(names, [float(i) for i in order], "position", JOINT_NAMES) == (0, 1, 2, 3, 4, 5, 6)


def test_joints_without_names_are_in_order() -> None:
    assert messages.by_joint((), [1.0, 2, 3, 4, 5, 6, 7], "effort", JOINT_NAMES) == (1, 2, 3, 4, 5, 6, 7)


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
def test_joints_other_than_the_arms_are_named_in_the_refusal(names: tuple[str, ...], count: int, text: str) -> None:
    with pytest.raises(InvalidTarget, match=text):
        messages.by_joint(names, [0.0] * count, "position", JOINT_NAMES)


def test_with_a_prefix_all_names_begin_with_it_and_others_are_refused() -> None:
    names, state = ArmNames("left"), new(STATE)[0]
    assert messages.joint_state(state, names).name == [f"left_{name}" for name in JOINT_NAMES]
    assert messages.measured_pose(state, names).header.frame_id == "left_fr3_link0"
    assert messages.external_wrench(state, names).header.frame_id == "left_fr3_link0"
    (transform,) = messages.control_frame(state, names).transforms
    assert (transform.header.frame_id, transform.child_frame_id) == ("left_fr3_link0", "left_fr3_tcp")
    with pytest.raises(InvalidTarget, match="missing joint right_fr3_joint1, "):
        messages.by_joint(names.joints, [0.0] * 7, "position", ArmNames("right").joints)


def test_measurements_become_messages_with_their_own_time() -> None:
    state = new(STATE)[0]
    state["stamp"] = 1_700_000_000_123_456_789
    state["q"], state["dq"], state["tau_measured"] = np.arange(7), np.arange(7) + 0.5, -np.arange(7)
    state["position"], state["orientation"] = (0.1, 0.2, 0.3), (0.5, 0.5, 0.5, 0.5)
    state["external_wrench"] = (1, 2, 3, 4, 5, 6)
    joints = messages.joint_state(state)
    assert tuple(joints.name) == JOINT_NAMES
    assert list(joints.position) == list(range(7)) and joints.velocity[6] == 6.5 and joints.effort[6] == -6
    measured = messages.measured_pose(state)
    assert (measured.header.stamp.sec, measured.header.stamp.nanosec) == (1_700_000_000, 123_456_789)
    assert measured.header.frame_id == "fr3_link0"
    assert (measured.pose.position.z, measured.pose.orientation.w) == (0.3, 0.5)
    wrench = messages.external_wrench(state).wrench
    assert (wrench.force.x, wrench.torque.z) == (1.0, 6.0)


def a_state() -> Record:
    state = new(STATE)[0]
    rng = np.random.default_rng(5)
    for field in ("q", "dq", "tau", "tcp", "jacobian", "mass"):
        state[field] = rng.normal(size=state[field].shape)
    state["stamp"] = 1_700_000_000_123_456_789
    return state


def snapshot_bytes(active: bool = True) -> bytes:
    return bytes(serialize_message(messages.snapshot_message(a_state(), active)))


@pytest.mark.parametrize("active", [True, False])
def test_a_snapshot_arrives_as_it_was_measured(active: bool) -> None:
    state, data = a_state(), snapshot_bytes(active)
    snapshot, was_active = messages.read_snapshot(data)
    assert was_active == active
    assert snapshot.stamp == state["stamp"]
    fields = {"q": "q", "dq": "dq", "tau": "tau", "ee": "tcp", "jacobian": "jacobian", "mass": "mass"}
    for read, field in fields.items():
        np.testing.assert_array_equal(getattr(snapshot, read), state[field])
    snapshot.q[0] = 1.0  # The reader may change them.


@pytest.mark.parametrize("time", [math.nan, math.inf])
def test_a_snapshot_without_a_finite_time_is_refused(time: float) -> None:
    message = messages.snapshot_message(a_state(), True)
    message.data[1] = time
    with pytest.raises(InvalidTarget, match="its time"):
        messages.read_snapshot(serialize_message(message))


def test_a_snapshot_of_another_size_is_refused() -> None:
    with pytest.raises(InvalidTarget, match="it has 3 numbers instead of 144"):
        messages.read_snapshot(serialize_message(Float64MultiArray(data=[1.0, 2.0, 3.0])))


@given(length=st.integers(0, 1000))
def test_a_truncated_snapshot_is_refused(length: int) -> None:
    with pytest.raises(InvalidTarget):
        messages.read_snapshot(snapshot_bytes()[:length])


@given(
    st.floats(0.0, 0.1),
    st.floats(0.0, 0.1),
    st.booleans(),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**31 * 10**9 - 1),
)
def test_the_state_of_a_gripper_is_read_back_exactly(
    width: float, max_width: float, is_grasped: bool, temperature: int, stamp: int
) -> None:
    message = gripper_state_message((width, max_width, is_grasped, temperature), stamp)
    assert read_gripper_state(serialize_message(message)) == (width, max_width, is_grasped, temperature, stamp)


@pytest.mark.parametrize("numbers", [[], [0.0] * 5, [0.0] * 7, [0.0, 0.0, math.nan, 0.08, 0.0, 30.0]])
def test_a_message_that_is_no_state_of_a_gripper_is_refused(numbers: list[float]) -> None:
    with pytest.raises(InvalidTarget):
        read_gripper_state(serialize_message(Float64MultiArray(data=numbers)))
