"""The limits that apply to every torque, in any mode."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiofranka_ros.control.law import limits
from aiofranka_ros.control.law.memory import MEMORY
from aiofranka_ros.control.records import COMMANDS, TorqueLimit, new
from aiofranka_ros.model import fr3
from aiofranka_ros.model.kinematics import control_frame

pytestmark = pytest.mark.unit

torques = st.tuples(*(st.floats(-500.0, 500.0) for _ in range(7))).map(np.array)
small = st.tuples(*(st.floats(-80.0, 80.0) for _ in range(7))).map(np.array)


def limited(tau, sent, used, torque_limit=fr3.TORQUE_LIMIT) -> np.ndarray:
    low, high = np.empty(7), np.empty(7)
    limits.reachable(sent, used, torque_limit, 990.0, low, high)
    assert np.all(low <= high)
    limits.limit_torque(low, high, tau)
    return tau


@given(torques, small)
def test_a_torque_is_limited_in_size_and_rate_and_otherwise_unchanged(tau, sent):
    sent = np.clip(sent, -fr3.TORQUE_LIMIT, fr3.TORQUE_LIMIT)
    expected = np.clip(np.clip(tau, -fr3.TORQUE_LIMIT, fr3.TORQUE_LIMIT), sent - 0.99, sent + 0.99)
    np.testing.assert_allclose(limited(tau, sent, sent), expected, atol=1e-12)


def test_a_torque_limit_of_zero_brings_the_torque_down_to_zero():
    tau, nothing = np.full(7, 5.0), np.zeros(7)
    np.testing.assert_allclose(limited(tau.copy(), tau, tau, nothing), 4.01)
    np.testing.assert_array_equal(limited(tau.copy(), nothing, nothing, nothing), 0.0)


@pytest.mark.parametrize(
    ("asked", "counted"),
    [(0.5, [0, 0, 0]), (6.0, [0, 1, 0]), (8.0, [1, 0, 0])],
    ids=["within", "too fast", "too large"],
)
def test_a_limited_torque_is_counted_by_what_limited_it(asked, counted):
    tau, counters = np.zeros(7), np.zeros(len(TorqueLimit), dtype=np.uint64)
    tau[2] = asked
    sent = limited(tau.copy(), np.zeros(7), np.zeros(7), np.full(7, 7.5))
    limits.count_limited(tau, sent, np.full(7, 7.5), counters)
    assert counters.tolist() == counted


def test_a_torque_follows_a_lowered_limit_as_fast_as_its_rate_allows():
    sent, tau = np.full(7, 10.0), np.full(7, 10.0)
    for expected in (9.01, 8.02, 7.5, 7.5):
        sent = limited(tau.copy(), sent, sent, np.full(7, 7.5))
        np.testing.assert_allclose(sent, expected)
    np.testing.assert_allclose(limited(-tau, -tau, -tau, np.full(7, 7.5)), -9.01)


@given(torques, small)
def test_a_torque_changes_by_no_more_than_the_rate_allows(tau, sent):
    limited(tau, sent, sent)
    assert np.all(np.abs(tau - sent) <= 0.99 + 1e-12)


@given(torques, small, st.tuples(*(st.floats(-1.5, 1.5) for _ in range(7))).map(np.array))
def test_after_a_lost_packet_the_change_is_measured_from_the_torque_that_the_robot_used_last(tau, used, difference):
    sent = used + difference
    limited(tau, sent, used)
    assert np.all(np.abs(tau - used) <= 0.99 + 1e-12), "the robot compares with what it used"
    close = np.abs(difference) <= 0.99
    assert np.all(np.abs(tau - sent)[close] <= 0.99 + 1e-12), "unless it is late, what was sent will be used"


def repelled(q: np.ndarray, dq: np.ndarray, margin: float = limits.SOFT_LIMIT_MARGIN) -> np.ndarray:
    tau, envelope, memory = np.zeros(7), np.empty((2, 7)), new(MEMORY)
    memory["joint_lower"], memory["joint_upper"] = fr3.POSITION_LOWER, fr3.POSITION_UPPER
    memory["spring_lower"], memory["spring_upper"] = fr3.POSITION_LOWER + margin, fr3.POSITION_UPPER - margin
    limits.allowed_velocities(q, dq, np.empty(7), envelope)
    limits.repel(q, dq, memory[0], fr3.TORQUE_LIMIT, envelope, tau)
    return tau


def test_no_torque_is_added_away_from_all_limits():
    np.testing.assert_array_equal(repelled(fr3.HOME, np.full(7, 0.5)), 0.0)


def test_a_spring_pushes_just_beyond_the_soft_limit_and_not_before_it():
    low, high = fr3.POSITION_LOWER + limits.SOFT_LIMIT_MARGIN, fr3.POSITION_UPPER - limits.SOFT_LIMIT_MARGIN
    inside, beyond = fr3.HOME.copy(), fr3.HOME.copy()
    inside[0], beyond[0] = high[0] - 1e-6, high[0] + 1e-3
    assert repelled(inside, np.zeros(7))[0] == 0.0
    assert repelled(beyond, np.zeros(7))[0] < 0.0
    beyond[0] = low[0] - 1e-3
    assert repelled(beyond, np.zeros(7))[0] > 0.0
    assert repelled(beyond, np.zeros(7), margin=0.02)[0] == 0.0


@pytest.mark.parametrize("margin", [limits.SOFT_LIMIT_MARGIN, limits.REFERENCE_MARGIN, 0.012])
def test_the_largest_torque_pushes_back_just_inside_a_position_limit(margin):
    q = fr3.HOME.copy()
    q[3] = fr3.POSITION_UPPER[3] - 0.002
    assert abs(repelled(q, np.zeros(7), margin)[3] + fr3.TORQUE_LIMIT[3]) < 1e-9


def test_a_joint_that_is_too_fast_is_braked():
    dq = np.zeros(7)
    dq[1] = 2.5
    assert repelled(fr3.HOME, dq)[1] < 0.0
    assert repelled(fr3.HOME, -dq)[1] > 0.0
    # A joint near its limit may still move away from it at full speed.
    q, back = fr3.HOME.copy(), np.zeros(7)
    q[0], back[0] = fr3.POSITION_UPPER[0] - 0.01, -1.0
    assert repelled(q, back, limits.NO_SPRINGS)[0] == 0.0
    assert repelled(q, -back, limits.NO_SPRINGS)[0] < 0.0


def test_numbers_that_are_not_finite_are_found():
    assert limits.is_finite(np.zeros(7))
    for bad in (np.nan, np.inf, -np.inf):
        assert not limits.is_finite(np.array([0.0, bad, 0.0]))
    tau = np.empty(7)
    limits.damped_stop(np.array([1.0, np.nan, np.inf, -1.0, 0.0, 0.0, 0.0]), np.full(7, 10.0), tau)
    np.testing.assert_array_equal(tau, [-10.0, 0.0, 0.0, 10.0, 0.0, 0.0, 0.0])


def in_force(q, **commanded: object) -> tuple[np.ndarray, np.ndarray]:
    """Commands and memory of an arm at ``q`` [rad] (7,), its limits in force."""
    commands, memory = new(COMMANDS), new(MEMORY)
    commands["joint_lower"], commands["joint_upper"] = fr3.POSITION_LOWER, fr3.POSITION_UPPER
    commands["workspace_lower"], commands["workspace_upper"] = -2.0, 2.0
    for name, value in commanded.items():
        commands[name] = value
    memory["position"][0] = control_frame(q)[:3, 3]
    limits.loosen(memory[0])
    limits.tighten(commands[0], memory[0], q)
    return commands, memory


def test_soft_limits_of_joints_are_as_they_were_set():
    upper = fr3.POSITION_UPPER.copy()
    upper[0] = 0.5
    _, memory = in_force(fr3.HOME, joint_upper=upper)
    np.testing.assert_array_equal(memory["joint_upper"][0], upper)
    for position, pushes in ((0.3999, False), (0.4, False), (0.4001, True)):
        q, tau, envelope = fr3.HOME.copy(), np.zeros(7), np.empty((2, 7))
        q[0] = position
        memory["spring_upper"] = 0.0  # Not where the law began.
        limits.place_springs(memory[0], q, limits.SOFT_LIMIT_MARGIN, fr3.CYCLE)
        limits.allowed_velocities(q, np.zeros(7), np.empty(7), envelope)
        limits.repel(q, np.zeros(7), memory[0], fr3.TORQUE_LIMIT, envelope, tau)
        assert (tau[0] < 0.0) == pushes


def test_a_joint_limit_that_the_arm_is_beyond_follows_it_inwards_without_a_push():
    upper = fr3.POSITION_UPPER.copy()
    upper[0] = 0.5
    q = fr3.HOME.copy()
    q[0] = 1.0
    commands, memory = in_force(q, joint_upper=upper)
    for position, limit in ((1.0, 1.015), (0.7, 0.715), (0.9, 0.715), (0.49, 0.5), (0.3, 0.5), (0.45, 0.5)):
        q[0] = position
        limits.tighten(commands[0], memory[0], q)
        limits.place_springs(memory[0], q, limits.SOFT_LIMIT_MARGIN, fr3.CYCLE)
        assert memory["joint_upper"][0, 0] == pytest.approx(limit)
        pushed = position in (0.9, 0.45)  # They move outwards again.
        assert (memory["spring_upper"][0, 0] < position) == pushed


@pytest.mark.parametrize("margin", [limits.SOFT_LIMIT_MARGIN, limits.REFERENCE_MARGIN])
@pytest.mark.parametrize("distance", [0.5, 0.09, 0.03, 0.013, 0.01, 0.001, 0.0, -0.001])
def test_springs_begin_where_the_arm_is_follow_it_inwards_and_lead_it_slowly_out_of_the_last_hundredth(
    margin, distance
):
    memory, q = new(MEMORY), fr3.HOME.copy()
    limits.loosen(memory[0])
    memory["joint_lower"], memory["joint_upper"] = fr3.POSITION_LOWER, fr3.POSITION_UPPER
    begins, at = [], fr3.POSITION_UPPER[0] - distance
    q[0] = at
    for cycle in range(4000):
        if cycle == 2000:
            q[0] = 1.0
        if cycle == 3000:
            q[0] = at
        limits.place_springs(memory[0], q, margin, fr3.CYCLE)
        begins.append(memory["spring_upper"][0, 0])
    begins = np.array(begins)
    nominal = fr3.POSITION_UPPER[0] - margin
    assert begins[0] >= at and begins[0] <= max(nominal, at + 0.003)
    assert np.all(np.diff(begins[:2000]) >= -0.01 * fr3.CYCLE - 1e-12), "it leads the arm no faster"
    assert begins[1999] <= fr3.POSITION_UPPER[0] - 0.012 + 1e-9
    if distance >= 0.012:
        assert begins[1999] >= at, "it does not push an arm at rest"
    np.testing.assert_allclose(begins[2000:], nominal)


def test_a_motion_has_no_springs_and_the_law_after_it_begins_without_a_push():
    memory, q = new(MEMORY), fr3.HOME.copy()
    limits.loosen(memory[0])
    memory["joint_lower"], memory["joint_upper"] = fr3.POSITION_LOWER, fr3.POSITION_UPPER
    limits.place_springs(memory[0], q, limits.SOFT_LIMIT_MARGIN, fr3.CYCLE)
    q[3] = fr3.POSITION_LOWER[3] + 0.02
    limits.place_springs(memory[0], q, limits.NO_SPRINGS, fr3.CYCLE)
    assert memory["spring_lower"][0, 3] == -np.inf
    limits.place_springs(memory[0], q, limits.SOFT_LIMIT_MARGIN, fr3.CYCLE)
    assert memory["spring_lower"][0, 3] <= q[3]


def test_a_workspace_limit_that_the_arm_is_beyond_follows_it_inwards():
    commands, memory = in_force(fr3.HOME, workspace_upper=[2.0, -0.3, 2.0])
    y = memory["position"][0, 1]
    for position, limit in ((y, y), (-0.1, -0.1), (0.1, -0.1), (-0.4, -0.3), (-0.2, -0.3)):
        memory["position"][0, 1] = position
        limits.tighten(commands[0], memory[0], fr3.HOME)
        assert memory["workspace_upper"][0, 1] == pytest.approx(limit)


@pytest.mark.parametrize(("depth", "force"), [(-1e-3, 0.0), (0.0, 0.0), (1e-3, 2.0), (0.2, 100.0)])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_walls_of_the_workspace_push_back_with_a_bounded_force(depth, force, side):
    memory, scratch, tau = new(MEMORY), np.empty(6), np.zeros(7)
    memory["workspace_lower"], memory["workspace_upper"] = -0.5, 0.5
    memory["position"][0, 1] = side * (0.5 + depth)
    memory["jacobian"][0, 1] = np.arange(7.0)
    limits.keep_inside(memory[0], scratch, tau)
    np.testing.assert_allclose(tau, -side * force * np.arange(7.0), atol=1e-9)


def test_a_wall_brakes_an_arm_that_approaches_and_not_one_that_leaves():
    memory, scratch = new(MEMORY), np.empty(6)
    memory["workspace_lower"], memory["workspace_upper"] = -0.5, 0.5
    memory["position"][0, 0], memory["jacobian"][0, 0, 0] = 0.501, 1.0
    pushes = []
    for velocity in (0.1, 0.0, -0.1):
        tau = np.zeros(7)
        memory["twist"][0, 0] = velocity
        limits.keep_inside(memory[0], scratch, tau)
        pushes.append(-tau[0])
    assert pushes[0] > pushes[1] > 0.0 and pushes[2] == 0.0
