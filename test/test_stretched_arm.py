"""What the arm does where it cannot follow: stretched out, or with a joint at its limit."""

from __future__ import annotations

import numpy as np
import pytest
from closed_loop import ClosedLoop

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
