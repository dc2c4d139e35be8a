"""What no torque gets past, in any mode."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aiofranka_ros import fr3, limits

torques = st.tuples(*(st.floats(-500.0, 500.0) for _ in range(7))).map(np.array)
small = st.tuples(*(st.floats(-80.0, 80.0) for _ in range(7))).map(np.array)


@given(torques)
def test_no_torque_exceeds_its_limit(tau):
    asked = tau.copy()
    cut = limits.saturate(tau, fr3.TORQUE_LIMIT)
    assert np.all(np.abs(tau) <= fr3.TORQUE_LIMIT)
    np.testing.assert_array_equal(tau, np.clip(asked, -fr3.TORQUE_LIMIT, fr3.TORQUE_LIMIT))
    assert cut == bool(np.any(tau != asked))


@given(torques, small)
def test_a_torque_changes_by_no_more_than_the_rate_allows(tau, sent):
    limits.limit_rate(tau, sent, sent, 990.0)
    assert np.all(np.abs(tau - sent) <= 0.99 + 1e-12)


@given(torques, small, st.tuples(*(st.floats(-1.5, 1.5) for _ in range(7))).map(np.array))
def test_after_a_lost_packet_the_change_fits_what_the_robot_used_last(tau, used, difference):
    sent = used + difference
    limits.limit_rate(tau, sent, used, 990.0)
    assert np.all(np.abs(tau - used) <= 0.99 + 1e-12), "the robot compares with what it used"
    close = np.abs(difference) <= 0.99
    assert np.all(np.abs(tau - sent)[close] <= 0.99 + 1e-12), "unless it is late, what was sent will be used"


def repelled(q: np.ndarray, dq: np.ndarray, margin: float = limits.SOFT_LIMIT_MARGIN) -> np.ndarray:
    tau = np.zeros(7)
    limits.repel(q, dq, fr3.TORQUE_LIMIT, margin, np.empty(7), np.empty((2, 7)), tau)
    return tau


def test_away_from_all_limits_nothing_is_added():
    np.testing.assert_array_equal(repelled(fr3.HOME, np.full(7, 0.5)), 0.0)


def test_just_inside_the_soft_limit_nothing_pushes_just_beyond_something_does():
    low, high = fr3.POSITION_LOWER + limits.SOFT_LIMIT_MARGIN, fr3.POSITION_UPPER - limits.SOFT_LIMIT_MARGIN
    inside, beyond = fr3.HOME.copy(), fr3.HOME.copy()
    inside[0], beyond[0] = high[0] - 1e-6, high[0] + 1e-3
    assert repelled(inside, np.zeros(7))[0] == 0.0
    assert repelled(beyond, np.zeros(7))[0] < 0.0
    beyond[0] = low[0] - 1e-3
    assert repelled(beyond, np.zeros(7))[0] > 0.0
    assert repelled(beyond, np.zeros(7), margin=0.02)[0] == 0.0


def test_at_a_position_limit_the_whole_torque_pushes_back():
    q = fr3.HOME.copy()
    q[3] = fr3.POSITION_UPPER[3]
    assert abs(repelled(q, np.zeros(7))[3] + fr3.TORQUE_LIMIT[3]) < 1e-9


def test_too_fast_a_joint_is_braked_and_only_braked():
    dq = np.zeros(7)
    dq[1] = 2.5
    assert repelled(fr3.HOME, dq)[1] < 0.0
    assert repelled(fr3.HOME, -dq)[1] > 0.0
    # Near its limit a joint may still go away from it at full speed.
    q, back = fr3.HOME.copy(), np.zeros(7)
    q[0], back[0] = fr3.POSITION_UPPER[0] - 0.01, -1.0
    assert repelled(q, back, margin=0.0)[0] == 0.0
    assert repelled(q, -back, margin=0.0)[0] < 0.0


def test_numbers_that_are_none_are_noticed():
    assert limits.is_finite(np.zeros(7))
    for bad in (np.nan, np.inf, -np.inf):
        assert not limits.is_finite(np.array([0.0, bad, 0.0]))
    tau = np.empty(7)
    limits.damped_stop(np.array([1.0, np.nan, np.inf, -1.0, 0.0, 0.0, 0.0]), np.full(7, 10.0), tau)
    np.testing.assert_array_equal(tau, [-10.0, 0.0, 0.0, 10.0, 0.0, 0.0, 0.0])
