"""Which trajectories are steps of a stream, as MoveIt Servo sends them, and what is read from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Duration
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.model.fr3 import JOINT_NAMES
from aiofranka_ros.node.servo import is_step, step_positions

pytestmark = pytest.mark.unit


def step(due: float = 0.034, names: tuple[str, ...] = JOINT_NAMES, **fields: Any) -> JointTrajectory:
    at = Duration(sec=int(due), nanosec=round(1e9 * (due % 1.0)))
    fields = {"positions": list(map(float, range(7)))} | fields
    return JointTrajectory(joint_names=list(names), points=[JointTrajectoryPoint(time_from_start=at, **fields)])


@pytest.mark.parametrize(("due", "expected"), [(0.0, False), (0.01, True), (0.034, True), (0.1, True), (0.11, False)])
def test_one_point_that_is_due_soon_is_a_step(due: float, expected: bool) -> None:
    assert is_step(step(due)) == expected
    assert is_step(step(due, velocities=[0.1] * 7)) == expected


def test_more_points_or_none_are_planned() -> None:
    assert not is_step(JointTrajectory(joint_names=list(JOINT_NAMES)))
    two = step(0.01)
    two.points += step(0.02).points
    assert not is_step(two)


def test_positions_are_ordered_by_the_names_of_their_joints() -> None:
    names = JOINT_NAMES[::-1]
    np.testing.assert_array_equal(step_positions(step(names=names), JOINT_NAMES), np.arange(7.0)[::-1])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"positions": [0.0] * 6}, "wrong size"),
        ({"positions": []}, "wrong size"),
        ({"positions": [np.nan] * 7}, "not finite"),
        ({"velocities": [np.inf] * 7}, "not finite"),
        ({"velocities": [0.0]}, "wrong size"),
        ({"names": ()}, "wrong joints"),
        ({"names": JOINT_NAMES[:6]}, "wrong joints"),
    ],
)
def test_what_is_missing_or_not_finite_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidTarget) as refused:
        step_positions(step(**fields), JOINT_NAMES)
    assert refused.value.reason == reason
