"""Forward kinematics, Jacobian and rotations against independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from aiofranka_ros.model import fr3, kinematics

pytestmark = pytest.mark.unit

angles = st.floats(-3.0, 3.0)
configurations = st.tuples(
    *(st.floats(low, high) for low, high in zip(fr3.POSITION_LOWER, fr3.POSITION_UPPER, strict=True))
).map(np.array)
rotations = st.tuples(angles, angles, angles).map(lambda v: Rotation.from_rotvec(v))


def chain(q: np.ndarray, link: int = 8) -> np.ndarray:
    """A link's pose as the product of one homogeneous matrix for each joint; the last one is the flange."""
    pose = np.eye(4)
    for i in range(link):
        step = np.eye(4)
        step[:3, 3] = fr3.JOINT_ORIGIN[i]
        turn = Rotation.from_euler("x", fr3.JOINT_ROLL[i])
        if i < 7:
            turn = turn * Rotation.from_euler("z", q[i])
        step[:3, :3] = turn.as_matrix()
        pose = pose @ step
    return pose


def jacobian_at(q: np.ndarray, tool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tcp, jacobian = np.empty((4, 4)), np.empty((6, 7))
    kinematics.forward(q, tool, np.empty((4, 4)), tcp, jacobian)
    return tcp, jacobian


def tool() -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("z", -np.pi / 4).as_matrix()
    pose[:3, 3] = [0.02, -0.01, 0.1034]
    return pose


@given(configurations)
def test_the_flange_is_where_the_product_of_the_joints_puts_it(q):
    np.testing.assert_allclose(kinematics.control_frame(q), chain(q), atol=1e-12)


@given(configurations, st.integers(0, 8))
def test_a_link_is_where_the_product_of_the_joints_before_it_puts_it(q, link):
    np.testing.assert_allclose(kinematics.link_pose(q, link), chain(q, link), atol=1e-12)


def test_the_flange_at_zero_is_where_the_datasheet_shows_it():
    # Stretched upwards: 0.333 + 0.316 + 0.384 - 0.107 m high, 0.088 m in front, pointing down.
    pose = kinematics.control_frame(np.zeros(7))
    np.testing.assert_allclose(pose[:3, 3], [0.088, 0.0, 0.926], atol=1e-12)
    np.testing.assert_allclose(pose[:3, 2], [0.0, 0.0, -1.0], atol=1e-12)


@given(configurations)
def test_the_jacobian_is_the_derivative_of_the_pose(q):
    tcp, jacobian = jacobian_at(q, tool())
    step = 1e-6
    for i in range(7):
        ahead, behind = q.copy(), q.copy()
        ahead[i] += step
        behind[i] -= step
        after, before = (kinematics.control_frame(x, tool()) for x in (ahead, behind))
        linear = (after[:3, 3] - before[:3, 3]) / (2 * step)
        angular = Rotation.from_matrix(after[:3, :3] @ before[:3, :3].T).as_rotvec() / (2 * step)
        np.testing.assert_allclose(jacobian[:3, i], linear, atol=1e-8)
        np.testing.assert_allclose(jacobian[3:, i], angular, atol=1e-8)


@given(rotations)
def test_a_matrix_and_its_quaternion_are_the_same_rotation(rotation):
    quaternion = np.empty(4)
    kinematics.quaternion_from_matrix(rotation.as_matrix(), quaternion)
    assert np.linalg.norm(quaternion) == pytest.approx(1.0, abs=1e-12)
    assert (Rotation.from_quat(quaternion) * rotation.inv()).magnitude() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_half_a_turn_about_an_axis_has_an_accurate_quaternion(axis):
    rotation = Rotation.from_euler(axis, np.pi)
    quaternion = np.empty(4)
    kinematics.quaternion_from_matrix(rotation.as_matrix(), quaternion)
    assert (Rotation.from_quat(quaternion) * rotation.inv()).magnitude() == pytest.approx(0.0, abs=1e-7)


@given(rotations, rotations)
def test_the_rotation_between_two_orientations_leads_from_one_to_the_other(target, current):
    vector = np.empty(3)
    kinematics.rotation_between(target.as_quat(), current.as_quat(), vector)
    expected = (target * current.inv()).as_rotvec()
    if np.linalg.norm(expected) < np.pi - 1e-6:  # At half a turn both directions are right.
        np.testing.assert_allclose(vector, expected, atol=1e-7)
    turned = current.as_quat()
    kinematics.rotate(turned, vector, 1.0)
    assert (Rotation.from_quat(turned) * target.inv()).magnitude() == pytest.approx(0.0, abs=1e-7)


def test_the_rotation_between_orientations_is_the_shorter_one_whatever_the_quaternions_sign():
    current = np.array([0.0, 0.0, 0.0, 1.0])
    target = -Rotation.from_rotvec([0.0, 0.0, 0.3]).as_quat()
    vector = np.empty(3)
    kinematics.rotation_between(target, current, vector)
    np.testing.assert_allclose(vector, [0.0, 0.0, 0.3], atol=1e-12)


@given(configurations)
def test_the_velocity_envelope_closes_towards_the_position_limits(q):
    low, high = np.empty(7), np.empty(7)
    fr3.velocity_envelope(q, low, high)
    assert np.all(low <= 0.0) and np.all(high >= 0.0)
    assert np.all(high <= fr3.VELOCITY_LIMIT) and np.all(low >= -fr3.VELOCITY_LIMIT)
    fr3.velocity_envelope(fr3.POSITION_UPPER, low, high)
    np.testing.assert_allclose(high, 0.0, atol=0.01)  # The documented limits are rounded to where it is 0.
    np.testing.assert_array_equal(low, -fr3.VELOCITY_LIMIT)
