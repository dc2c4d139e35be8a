"""What the arm does where it cannot follow: stretched out, or with a joint at its limit."""

from __future__ import annotations

import numpy as np
import pytest
from closed_loop import ClosedLoop
from scipy.spatial.transform import Rotation

from aiofranka_ros.model.kinematics import control_frame

pytestmark = pytest.mark.unit

#: How fast the hand may be while it approaches its stream at 0.1 m/s [m/s].
FASTEST = 0.12


def arm() -> ClosedLoop:
    return ClosedLoop(workspace_lower=[-2.0] * 3, workspace_upper=[2.0] * 3)


@pytest.mark.parametrize("way", [(0.6, 0.0, 0.0), (0.0, 0.0, 0.6), (0.3, 0.6, 0.0), (0.3, 0.0, 0.3)])
def test_a_stretched_arm_comes_back_to_a_stream_without_a_lunge(way: tuple[float, float, float]) -> None:
    loop = arm()
    home, orientation = loop.position, loop.orientation
    assert loop.stream(home + np.array(way), orientation, 7.0).max() <= FASTEST
    assert np.linalg.norm(loop.position - home - way) > 0.03, "it is out of reach"
    loop.run(1.0)
    assert loop.stream(home, orientation, 16.0).max() <= FASTEST
    assert np.linalg.norm(loop.position - home) < 1e-3


def test_a_hand_that_a_joint_keeps_from_its_target_does_not_run_away_sideways() -> None:
    loop = arm()
    speeds = loop.stream(loop.position + [-0.5, 0.0, 0.3], loop.orientation, 10.0)
    assert speeds.max() <= FASTEST
    assert speeds[-1000:].max() <= 0.01


#: Poses of the hand, which the arm does not reach from home before joints 2, 4, 5, 6 or 7 are at their limits.
HARD_TO_REACH = [
    [1.24, 0.15, 2.48, -0.72, -2.74, 3.91, -2.77],
    [-1.34, 1.55, -1.77, -2.49, -0.83, 1.49, 1.01],
    [1.62, -0.42, -0.43, -2.05, 2.23, 1.21, -2.30],
    [1.16, -1.15, 1.17, -2.35, 2.44, 3.20, -0.39],
    [-0.45, 0.27, -2.04, -2.79, 2.48, 0.93, 1.60],
]


@pytest.mark.parametrize("q", HARD_TO_REACH)
def test_joints_that_stop_at_their_limits_let_the_arm_neither_run_away_nor_lunge(q: list[float]) -> None:
    loop = ClosedLoop()
    home, orientation = loop.position, loop.orientation
    pose = control_frame(np.array(q), np.eye(4))
    turn = Rotation.from_matrix(pose[:3, :3]).as_quat()
    assert loop.stream(pose[:3, 3], turn, 10.0).max() <= FASTEST
    loop.run(1.0)
    assert loop.stream(home, orientation, 10.0).max() <= FASTEST
