"""Inverse kinematics against forward kinematics: it finds the nearest solution, and says why there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kinematics import configurations, tool

from aiofranka_ros.errors import InvalidTarget, Unreachable
from aiofranka_ros.model.fr3 import HOME, POSITION_LOWER, POSITION_UPPER, READY
from aiofranka_ros.model.inverse_kinematics import solve
from aiofranka_ros.model.kinematics import control_frame

pytestmark = pytest.mark.unit

#: How much further away than the nearest configuration a solution may be, if that one is hard to find [rad].
SLACK = 5e-3
#: The nearest solution may be missed once in a thousand: no run of the tests may depend on luck.
nearest = settings(derandomize=True, max_examples=200)


def far_from(q: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(q - other))


def require_solution(q: np.ndarray, pose: np.ndarray) -> None:
    assert (q >= POSITION_LOWER).all() and (q <= POSITION_UPPER).all()
    np.testing.assert_allclose(control_frame(q, tool()), pose, atol=1e-6)


@given(configurations)
def test_a_pose_that_the_arm_has_needs_no_motion(q):
    pose = control_frame(q, tool())
    found = solve(pose, q, tool())
    require_solution(found, pose)
    assert far_from(found, q) < 1e-6


@given(configurations, configurations, st.floats(0.0, 0.1))
@nearest
def test_a_nearby_pose_needs_no_more_than_a_small_motion(q, elsewhere, part):
    near = q + part * (elsewhere - q)
    pose = control_frame(q, tool())
    found = solve(pose, near, tool())
    require_solution(found, pose)
    assert far_from(found, near) <= far_from(q, near) + 1e-4


@given(configurations, configurations)
@nearest
def test_every_reachable_pose_is_found_from_anywhere(q, near):
    pose = control_frame(q, tool())
    found = solve(pose, near, tool())
    require_solution(found, pose)
    assert far_from(found, near) <= far_from(q, near) + SLACK


@given(configurations, configurations)
@settings(max_examples=20)
def test_the_result_is_deterministic(q, near):
    pose = control_frame(q)
    np.testing.assert_array_equal(solve(pose, near), solve(pose, near))


def test_the_arm_does_not_twist_if_two_axes_coincide():
    """At home joints 1 and 3 turn about the same axis, so there are infinitely many configurations."""
    np.testing.assert_allclose(solve(control_frame(HOME), READY), HOME, atol=1e-6)
    shifted = control_frame(HOME)
    shifted[1, 3] += 0.001
    assert np.abs(solve(shifted, HOME) - HOME).max() < 0.005


def test_configurations_beyond_the_stretched_elbow_are_found():
    """Shoulder, elbow and wrist are in line where joint 4 is -0.467 rad; its limit is -0.152 rad."""
    q = np.array([0.3, 0.4, -0.2, -0.2, 0.5, 2.0, 0.1])
    np.testing.assert_allclose(solve(control_frame(q), q + 0.05), q, atol=0.1)


def test_a_pose_near_the_stretched_elbow_is_found_from_far_away():
    """Numerical methods converge slowly, or not at all, near this singularity."""
    q = np.array([0.0, -0.5, 0.0, -0.5, 0.0, 3.0, 0.0])
    pose = control_frame(q)
    np.testing.assert_allclose(
        control_frame(solve(pose, np.array([0.0, 0.0, 0.0, -1.0, 2.0, 1.0, 0.0]))), pose, atol=1e-6
    )


@pytest.mark.parametrize(
    ("position", "reason"),
    [
        ([1.5, 0.0, 0.3], r"^it is too far away, by at least 0\.\d+ m$"),
        ([0.0, 0.0, 0.2], r"only outside the joint limits: joint \d by at least .* rad"),
    ],
)
def test_an_unreachable_pose_is_refused_with_the_reason(position, reason):
    pose = control_frame(HOME)
    pose[:3, 3] = position
    with pytest.raises(Unreachable, match=reason) as caught:
        solve(pose, HOME)
    assert isinstance(caught.value, InvalidTarget) and caught.value.reason == "unreachable"


def test_the_distance_in_the_reason_is_really_missing():
    """Moved closer by a bit less than that, the pose is still out of reach."""
    pose = control_frame(HOME)
    pose[:3, 3] = [1.2, 0.0, 0.333]
    with pytest.raises(Unreachable) as caught:
        solve(pose, HOME)
    missing = float(str(caught.value).partition("by at least ")[2].split()[0])
    pose[0, 3] -= 0.99 * missing
    with pytest.raises(Unreachable):
        solve(pose, HOME)
    pose[0, 3] -= 0.5
    require_solution(solve(pose @ tool(), HOME, tool()), pose @ tool())
