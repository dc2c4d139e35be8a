"""Inverse kinematics against forward kinematics: it finds what is there, the nearest of it, and says what is not."""

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

#: Half a step of the sweep: as much further than the nearest configuration may be, where that is hard to find.
SLACK = 5e-3
#: The nearest solution may be missed once in a thousand: let no run of the tests depend on luck.
nearest = settings(derandomize=True, max_examples=200)


def far_from(q: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(q - other))


def require_solution(q: np.ndarray, pose: np.ndarray) -> None:
    assert (q >= POSITION_LOWER).all() and (q <= POSITION_UPPER).all()
    np.testing.assert_allclose(control_frame(q, tool()), pose, atol=1e-6)


@given(configurations)
def test_from_where_the_arm_is_nothing_moves(q):
    pose = control_frame(q, tool())
    found = solve(pose, q, tool())
    require_solution(found, pose)
    assert far_from(found, q) < 1e-6


@given(configurations, configurations, st.floats(0.0, 0.1))
@nearest
def test_from_a_neighbour_the_arm_moves_no_further_than_it_must(q, elsewhere, part):
    near = q + part * (elsewhere - q)
    pose = control_frame(q, tool())
    found = solve(pose, near, tool())
    require_solution(found, pose)
    assert far_from(found, near) <= far_from(q, near) + 1e-4


@given(configurations, configurations)
@nearest
def test_every_pose_that_the_arm_can_have_is_found_from_anywhere(q, near):
    pose = control_frame(q, tool())
    found = solve(pose, near, tool())
    require_solution(found, pose)
    assert far_from(found, near) <= far_from(q, near) + SLACK


@given(configurations, configurations)
@settings(max_examples=20)
def test_the_same_question_has_the_same_answer(q, near):
    pose = control_frame(q)
    np.testing.assert_array_equal(solve(pose, near), solve(pose, near))


def test_where_two_axes_are_one_the_arm_does_not_twist_itself():
    """At home joints 1 and 3 turn about the same axis, so there are countless configurations."""
    np.testing.assert_allclose(solve(control_frame(HOME), READY), HOME, atol=1e-6)
    aside = control_frame(HOME)
    aside[1, 3] += 0.001
    assert np.abs(solve(aside, HOME) - HOME).max() < 0.005


def test_beyond_the_stretched_elbow_there_are_configurations_too():
    """Shoulder, elbow and wrist are in line where joint 4 is -0.467 rad; its limit is -0.152 rad."""
    q = np.array([0.3, 0.4, -0.2, -0.2, 0.5, 2.0, 0.1])
    np.testing.assert_allclose(solve(control_frame(q), q + 0.05), q, atol=0.1)


@pytest.mark.parametrize(
    ("position", "reason"),
    [
        ([1.5, 0.0, 0.3], r"too far away, by 0\.\d+ m at the least"),
        ([0.0, 0.0, 0.2], r"only outside of the joint limits: joint \d by .* rad"),
    ],
)
def test_what_is_out_of_reach_is_refused_with_the_reason(position, reason):
    pose = control_frame(HOME)
    pose[:3, 3] = position
    with pytest.raises(Unreachable, match=reason) as caught:
        solve(pose, HOME)
    assert isinstance(caught.value, InvalidTarget) and caught.value.reason == "unreachable"


def test_the_distance_that_is_said_to_be_missing_is_missing():
    """Moved closer by a bit less than that, the pose is still out of reach; the message promises no more."""
    pose = control_frame(HOME)
    pose[:3, 3] = [1.2, 0.0, 0.333]
    with pytest.raises(Unreachable) as caught:
        solve(pose, HOME)
    missing = float(str(caught.value).partition("by ")[2].split()[0])
    pose[0, 3] -= 0.99 * missing
    with pytest.raises(Unreachable):
        solve(pose, HOME)
    pose[0, 3] -= 0.5
    require_solution(solve(pose @ tool(), HOME, tool()), pose @ tool())
