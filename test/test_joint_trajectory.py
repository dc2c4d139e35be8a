"""Trajectories given as points: they pass all points, keep the limits, and are entered smoothly from anywhere."""

from __future__ import annotations

import itertools
from time import thread_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BPoly, CubicHermiteSpline, PchipInterpolator

from aiofranka_ros.arm import limit_checks
from aiofranka_ros.arm.curves import remainder
from aiofranka_ros.arm.joint_trajectory import MOST_POINTS, ArmState, Following, JointTrajectory, fit, join
from aiofranka_ros.arm.limit_checks import check_set_limits
from aiofranka_ros.arm.planning import plan
from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.arm.tasks import Departure, Tolerance, TrajectoryGoal
from aiofranka_ros.control.law import motion as motion_kernels
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.control.records import MAX_SEGMENTS
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.model import fr3
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.model.names import ArmNames

pytestmark = pytest.mark.unit

REST = np.zeros(7)
FAR = np.full(7, 1e3)
ANYTHING = Tolerance.of_position(np.inf)
AT_HOME = ArmState(HOME, REST, REST)
#: A second away from HOME at moderate speed.
ELSEWHERE = HOME + np.array([0.4, -0.3, 0.2, -0.4, 0.3, 0.3, -0.5])


def sampled(motion: Motion, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    q, dq, ddq = (np.array(column) for column in zip(*(motion.at(time) for time in times), strict=True))
    return q, dq, ddq


def wave(count: int, duration: float = 4.0, height: float = 0.2) -> JointTrajectory:
    """From HOME and back in a cosine: positions, velocities and accelerations fit each other."""
    times = np.linspace(0.0, duration, count)
    omega = 2.0 * np.pi / duration
    one = np.ones(7)
    return JointTrajectory(
        times,
        HOME + np.outer(height * (1.0 - np.cos(omega * times)), one),
        np.outer(height * omega * np.sin(omega * times), one),
        np.outer(height * omega**2 * np.cos(omega * times), one),
    )


def positions_only(trajectory: JointTrajectory) -> JointTrajectory:
    return JointTrajectory(trajectory.times, trajectory.q)


@st.composite
def points(draw: st.DrawFn, *, count: int = 6) -> JointTrajectory:
    """Any numbers, whether an arm could follow them or not."""
    thousandths = st.lists(st.integers(-1000, 1000), min_size=7 * count, max_size=7 * count)
    values = thousandths.map(lambda numbers: 1e-3 * np.array(numbers).reshape(count, 7))
    gaps = draw(st.lists(st.floats(0.05, 2.0), min_size=count - 1, max_size=count - 1))
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    return JointTrajectory(times, draw(values), draw(values), draw(values))


# --- Between the points


@settings(max_examples=30)
@given(points())
def test_positions_velocities_and_accelerations_make_quintics(trajectory):
    assert trajectory.dq is not None and trajectory.ddq is not None
    expected = BPoly.from_derivatives(trajectory.times, np.stack([trajectory.q, trajectory.dq, trajectory.ddq], axis=1))
    times = np.linspace(0.0, trajectory.times[-1], 57)[:-1]
    q, dq, ddq = sampled(fit(trajectory), times)
    np.testing.assert_allclose(q, expected(times), atol=1e-6)
    np.testing.assert_allclose(dq, expected.derivative()(times), atol=1e-5)
    np.testing.assert_allclose(ddq, expected.derivative(2)(times), atol=1e-3)


@settings(max_examples=30)
@given(points())
def test_positions_and_velocities_make_cubics(trajectory):
    assert trajectory.dq is not None
    expected = CubicHermiteSpline(trajectory.times, trajectory.q, trajectory.dq)
    times = np.linspace(0.0, trajectory.times[-1], 57)[:-1]
    q, dq, ddq = sampled(fit(JointTrajectory(trajectory.times, trajectory.q, trajectory.dq)), times)
    np.testing.assert_allclose(q, expected(times), atol=1e-8)
    np.testing.assert_allclose(dq, expected(times, 1), atol=1e-7)
    np.testing.assert_allclose(ddq, expected(times, 2), atol=1e-5)


@settings(max_examples=30)
@given(points())
def test_positions_alone_are_passed_without_overshoot_or_steps_in_velocity(trajectory):
    motion = fit(positions_only(trajectory))
    # Inside, the same monotone cubics as scipy; at rest at both ends.
    slopes = PchipInterpolator(trajectory.times, trajectory.q).derivative()(trajectory.times)
    slopes[[0, -1]] = 0.0
    expected = CubicHermiteSpline(trajectory.times, trajectory.q, slopes)
    times = np.linspace(0.0, trajectory.times[-1], 57)
    q, _, _ = sampled(motion, times)
    np.testing.assert_allclose(q, expected(times), atol=1e-8)
    for k in range(len(trajectory.times) - 1):
        inside = (times >= trajectory.times[k]) & (times <= trajectory.times[k + 1])
        low, high = np.sort(trajectory.q[k : k + 2], axis=0)
        assert (q[inside] >= low - 1e-9).all() and (q[inside] <= high + 1e-9).all()
    for knot in trajectory.times[1:-1]:
        _, dq, _ = sampled(motion, np.array([knot - 1e-9, knot + 1e-9]))
        np.testing.assert_allclose(dq[0], dq[1], atol=2e-5)  # 2 ns at up to 5000 rad/s²


def test_positions_on_a_line_are_followed_on_that_line():
    times = np.arange(6.0)
    motion = fit(JointTrajectory(times, HOME + np.outer(0.1 * times, np.ones(7))))
    _, dq, ddq = sampled(motion, np.linspace(1.001, 3.999, 20))
    np.testing.assert_allclose(dq, 0.1, atol=1e-9)
    np.testing.assert_allclose(ddq, 0.0, atol=1e-6)


# --- Where it begins


@pytest.mark.parametrize("given_", ["positions", "velocities", "accelerations"])
def test_the_motion_to_the_first_point_starts_with_the_position_and_velocity_of_the_arm(given_: str):
    dq = None if given_ == "positions" else np.zeros((1, 7))
    ddq = np.zeros((1, 7)) if given_ == "accelerations" else None
    state = ArmState(HOME, np.full(7, 0.1), np.full(7, 0.2))
    motion = join(JointTrajectory(np.array([2.0]), ELSEWHERE[np.newaxis], dq, ddq), state, 0.0)
    assert motion.duration == pytest.approx(2.0)
    q, dq0, ddq0 = motion.at(0.0)
    np.testing.assert_allclose(q, HOME, atol=1e-12)
    np.testing.assert_allclose(dq0, state.dq, atol=1e-12)
    if given_ == "accelerations":
        np.testing.assert_allclose(ddq0, state.ddq, atol=1e-12)
    np.testing.assert_allclose(motion.goal, ELSEWHERE, atol=1e-9)


def test_a_single_point_due_at_once_is_approached_smoothly():
    motion = join(JointTrajectory(np.array([0.0]), ELSEWHERE[np.newaxis]), AT_HOME, 0.0)
    np.testing.assert_allclose(motion.at(0.0)[0], HOME, atol=1e-9)
    np.testing.assert_allclose(motion.goal, ELSEWHERE, atol=1e-9)
    _, dq, ddq = sampled(motion, np.linspace(0.0, motion.duration, 200))
    assert np.abs(ddq).max() <= 0.51 * fr3.ACCELERATION_LIMIT[0]
    np.testing.assert_allclose(dq[[0, -1]], 0.0, atol=1e-9)


@pytest.mark.parametrize("age", [0.3, 1.0, 2.0])
def test_a_trajectory_that_has_begun_is_entered_where_it_is_now(age: float):
    trajectory = wave(60)
    motion = join(trajectory, AT_HOME, age)
    np.testing.assert_allclose(motion.at(0.0)[0], HOME, atol=1e-9)
    np.testing.assert_allclose(motion.at(0.0)[1], 0.0, atol=1e-9)
    assert motion.duration == pytest.approx(trajectory.times[-1] - age)
    whole = fit(trajectory)
    for time in (0.9 * motion.duration, motion.duration):
        np.testing.assert_allclose(motion.at(time)[0], whole.at(age + time)[0], atol=1e-9)


def test_the_arm_waits_for_a_trajectory_that_begins_later():
    motion = join(wave(60), AT_HOME, -1.5)
    assert motion.duration == pytest.approx(5.5)
    q, dq, _ = sampled(motion, np.linspace(0.0, 1.5, 30))
    np.testing.assert_allclose(q, np.tile(HOME, (30, 1)), atol=1e-9)
    np.testing.assert_allclose(dq, 0.0, atol=1e-9)
    np.testing.assert_allclose(motion.at(3.5)[0], fit(wave(60)).at(2.0)[0], atol=1e-9)


def test_a_running_motion_continues_until_a_trajectory_that_begins_later():
    running = fit(wave(60))
    back = JointTrajectory(np.array([1.5]), HOME[np.newaxis], np.zeros((1, 7)))
    motion = join(back, remainder(running, 1.0), -0.5)
    for time in (0.0, 0.2, 0.49):
        for value, expected in zip(motion.at(time), running.at(1.0 + time), strict=True):
            np.testing.assert_allclose(value, expected, atol=1e-7)
    np.testing.assert_allclose(motion.goal, HOME, atol=1e-9)


@settings(max_examples=25)
@given(st.floats(0.0, 4.0), st.floats(-0.15, 0.15), st.floats(-1.0, 1.0), st.floats(-4.0, 4.0))
def test_entering_from_anywhere_keeps_the_limits_and_never_jumps(age, offset, rate, acceleration):
    there = fit(wave(40)).at(age)
    state = ArmState(there[0] + offset, there[1] + rate, there[2] + acceleration)
    motion = join(wave(40), state, age)
    times = np.arange(0.0, motion.duration, 1e-3)
    q, dq, ddq = sampled(motion, times)
    # Less than this is rounding, which the control process fades out.
    np.testing.assert_allclose(q[0], state.q, atol=1.1e-4)
    np.testing.assert_allclose(dq[0], state.dq, atol=6e-3)
    # A tenth of the limit is tolerated; the velocity changes per step by no more than the acceleration allows.
    assert np.abs(ddq).max() <= 1.1 * fr3.ACCELERATION_LIMIT[0] + 1e-6
    assert np.abs(np.diff(dq, axis=0)).max(initial=0.0) <= 1.2e-3 * fr3.ACCELERATION_LIMIT[0]
    np.testing.assert_allclose(motion.goal, HOME, atol=1e-6)


def begun(
    trajectory: JointTrajectory, state: ArmState, *, age: float = 0.0, running: Motion | None = None
) -> Following:
    """The motion of an arm in ``state`` that is asked to follow ``trajectory``, as the node plans it."""
    task = TrajectoryGoal(trajectory=trajectory, elapsed=lambda: age, goal_tolerance=ANYTHING, settle_time=1.0)
    motion = task.plan(Departure(state, running), ArmSettings().__getitem__)
    assert isinstance(motion, Following)
    return motion


def later(trajectory: JointTrajectory, lead: float, first: int = 0) -> JointTrajectory:
    """``trajectory`` from point ``first`` on, which is due at ``lead`` [s]."""
    dq, ddq = (None if values is None else values[first:] for values in (trajectory.dq, trajectory.ddq))
    return JointTrajectory(trajectory.times[first:] - trajectory.times[first] + lead, trajectory.q[first:], dq, ddq)


@pytest.mark.parametrize("lead", [0.0, 0.001, 0.01, 0.04, 0.08, 0.1, 0.12, 0.2])
@pytest.mark.parametrize("fields", [1, 2, 3])
def test_a_trajectory_that_begins_soon_is_entered_from_anywhere_near_within_the_limits(lead: float, fields: int):
    random = np.random.default_rng(int(1e4 * lead) + fields)
    whole = wave(60)
    trajectory = JointTrajectory(*(whole.times, whole.q, whole.dq, whole.ddq)[: 1 + fields])
    low, high = np.empty(7), np.empty(7)
    for offset, speed, first in itertools.product((0.0, 1e-5, 1e-3, 0.05), (0.0, 1e-3, 0.02, 0.5), (0, 15)):
        point = trajectory.q[first]  # At rest, or at 0.3 rad/s.
        q, dq = (value * random.choice([-1.0, 1.0], 7) for value in (offset, speed))
        state = ArmState(point + q, dq, speed * random.normal(size=7))
        ahead = begun(later(trajectory, lead, first), state)
        stamped = begun(later(trajectory, 0.0, first), state, age=-lead)
        for motion in (ahead, stamped):
            np.testing.assert_allclose(motion.goal, trajectory.q[-1], atol=1e-6)
            q, dq, ddq = sampled(motion, np.arange(0.0, 1.5, 5e-3))
            assert np.abs(ddq).max() <= 1.1 * fr3.ACCELERATION_LIMIT[0] + 1e-6
            assert np.abs(np.diff(q, axis=0)).max() <= 5e-3 * (np.abs(dq).max() + 0.05), "it jumps"
            for row, velocity in zip(q, dq, strict=True):
                fr3.velocity_envelope(row, low, high)
                assert (velocity < high + 0.06).all() and (velocity > low - 0.06).all()


def test_an_arm_that_has_time_to_reach_the_first_point_does_not_pass_it_late():
    fast = later(positions_only(wave(60)), 1.0, 15)  # From rest to 0.3 rad/s within a segment.
    with pytest.raises(InvalidTarget, match=r"would have to accelerate with 18.5 rad/s\^2; .* \(at 1.0"):
        begun(fast, ArmState(fast.q[0], REST, REST))


def test_an_arm_on_the_trajectory_enters_it_without_delay():
    there = JointTrajectory(np.array([0.0]), HOME[np.newaxis])
    assert join(there, AT_HOME, 0.0).duration <= fr3.CYCLE
    assert join(there, ArmState(HOME + 1e-5, REST + 1e-3, REST), 0.0).duration <= fr3.CYCLE
    assert join(there, ArmState(HOME + 1e-2, REST, REST), 0.0).duration == pytest.approx(0.107, abs=0.01)


# --- What was asked for


def test_an_arm_that_is_led_onto_a_trajectory_is_compared_with_the_trajectory():
    trajectory = wave(60)
    whole = fit(trajectory)
    for age in (0.0, 0.7):
        q, dq, ddq = whole.at(age)
        motion = begun(trajectory, ArmState(q + 0.09, dq, ddq), age=age)
        for time in (0.0, 0.1, 0.3, 1.0, motion.duration):
            for asked, expected in zip(motion.asked(time), whole.at(age + time), strict=True):
                np.testing.assert_allclose(asked, expected, atol=1e-9)
        assert np.abs(motion.at(0.0)[0] - motion.asked(0.0)[0]).max() == pytest.approx(0.09, abs=1e-6)


def test_the_way_to_a_first_point_that_is_ahead_is_part_of_the_trajectory():
    motion = begun(JointTrajectory(np.array([2.0]), ELSEWHERE[np.newaxis]), AT_HOME)
    for time in (0.0, 0.5, 2.0):
        np.testing.assert_allclose(motion.asked(time)[0], motion.at(time)[0], atol=1e-9)
    waiting = begun(wave(60), ArmState(HOME + 0.05, REST, REST), age=-1.0)
    np.testing.assert_allclose(waiting.asked(0.9)[0], HOME + 0.05, atol=1e-9)
    np.testing.assert_allclose(waiting.asked(1.0)[0], HOME, atol=1e-9)


def test_a_trajectory_that_begins_elsewhere_is_refused_with_the_joint_and_the_distance():
    q = HOME.copy()
    q[3] += 0.2
    elsewhere = JointTrajectory(np.array([0.0, 2.0]), np.array([q, HOME]))
    text = r"fr3_joint4 is 0.200 rad from where the trajectory begins \(start_tolerance is 0.1 rad\): plan it from"
    for trajectory in (elsewhere, later(elsewhere, 0.05)):
        for age in (0.0, -0.5):
            with pytest.raises(InvalidTarget, match=text) as refused:
                begun(trajectory, AT_HOME, age=age)
            assert refused.value.reason == "too far away"
    with pytest.raises(InvalidTarget, match="fr3_joint1 is 0.4.* from where the trajectory should be by now"):
        begun(wave(60), AT_HOME, age=2.0)
    # One that replaces another is entered from wherever that one is.
    running = remainder(fit(wave(60)), 1.0)
    motion = begun(elsewhere, ArmState(*running.at(0.0)), running=running)
    np.testing.assert_allclose(motion.at(0.0)[0], running.at(0.0)[0], atol=1e-9)
    np.testing.assert_allclose(motion.asked(0.0)[0], q, atol=1e-9)


def test_without_a_start_tolerance_a_trajectory_may_begin_anywhere():
    settings_ = ArmSettings()
    settings_.update({"start_tolerance": 0.0})
    task = TrajectoryGoal(trajectory=wave(60), goal_tolerance=ANYTHING, settle_time=1.0)
    task.plan(Departure(ArmState(HOME + 0.3, REST, REST)), settings_.__getitem__)


def test_a_trajectory_that_would_end_later_than_its_goal_time_allows_is_refused():
    soon = JointTrajectory(np.array([0.0]), HOME[np.newaxis])

    def task(goal_time: float) -> TrajectoryGoal:
        return TrajectoryGoal(trajectory=soon, goal_tolerance=ANYTHING, settle_time=goal_time, goal_time=goal_time)

    departure = Departure(ArmState(HOME + 0.09, REST, REST))
    with pytest.raises(InvalidTarget, match="it would end 0.3.* s late, but goal_time_tolerance is 0.1 s"):
        task(0.1).plan(departure, ArmSettings().__getitem__)
    enough = task(0.5)
    assert enough.settle_time + enough.plan(departure, ArmSettings().__getitem__).overrun != enough.settle_time
    assert enough.settle_time < 0.5, "the time that it takes to enter counts"


# --- What only some points give


def test_velocities_and_accelerations_of_some_points_are_used_there():
    random = np.random.default_rng(3)
    times = np.arange(5.0)
    q = HOME + 0.1 * random.standard_normal((5, 7))
    nan = np.full((5, 7), np.nan)
    dq, ddq = nan.copy(), nan.copy()
    dq[2] = 0.1
    ddq[1], ddq[2] = 0.2, -0.1
    motion = fit(JointTrajectory(times, q, dq, ddq))
    plain = fit(JointTrajectory(times, q))
    for point in range(5):
        np.testing.assert_allclose(motion.at(times[point])[0], q[point], atol=1e-9)
        expected = 0.1 if point == 2 else plain.at(times[point])[1]
        np.testing.assert_allclose(motion.at(times[point])[1], expected, atol=1e-9)
    for point in (1, 2):
        for time in (times[point] - 1e-9, times[point] + 1e-9):
            np.testing.assert_allclose(motion.at(time)[2], ddq[point, 0], atol=1e-6)
    # Where nothing is given, nothing changes.
    np.testing.assert_allclose(motion.at(3.7)[0], plain.at(3.7)[0], atol=1e-9)
    nothing = fit(JointTrajectory(times, q, nan, nan))
    np.testing.assert_allclose(nothing.at(2.3)[0], plain.at(2.3)[0], atol=1e-12)


def test_the_remainder_of_a_motion_equals_the_motion():
    motion = plan(HOME, ELSEWHERE, max_jerk=np.full(7, 100.0))
    rest = remainder(motion, 0.37)
    assert rest.duration == pytest.approx(motion.duration - 0.37)
    for time in np.linspace(0.0, rest.duration - 1e-6, 11):
        for value, expected in zip(rest.at(time), motion.at(0.37 + time), strict=True):
            np.testing.assert_allclose(value, expected, atol=1e-6)
    np.testing.assert_allclose(remainder(motion, motion.duration + 1.0).goal, ELSEWHERE, atol=1e-9)


# --- How many points


def test_more_points_than_the_control_process_accepts_are_thinned_out():
    trajectory = wave(4001)
    motion = join(trajectory, AT_HOME, 0.0)
    assert len(motion.coefficients) <= MAX_SEGMENTS
    for index in range(0, 4001, 97):
        np.testing.assert_allclose(motion.at(trajectory.times[index])[0], trajectory.q[index], atol=1e-6)


def test_points_that_cannot_be_thinned_out_are_refused():
    # Every second point is 3 mrad off, slowly enough for the arm: 0.05 rad/s.
    times = 0.1 * np.arange(2001)
    q = np.tile(HOME, (2001, 1))
    q[1::2, 4] += 0.003
    with pytest.raises(InvalidTarget, match="fr3_joint5 would miss others by 0.00") as refused:
        join(JointTrajectory(times, q), AT_HOME, 0.0)
    assert refused.value.reason == "too many points"


def test_of_points_within_a_cycle_one_is_kept_and_the_end_always():
    times = np.array([0.0, 1.0, 1.0001, 2.0, 2.0001])
    q = np.array([HOME, HOME + 0.1, HOME + 0.1001, HOME + 0.2, HOME + 0.2001])
    motion = join(JointTrajectory(times, q), AT_HOME, 0.0)
    np.testing.assert_allclose(motion.goal, HOME + 0.2001, atol=1e-9)
    assert motion.duration == pytest.approx(2.0001)


def test_if_all_points_are_within_a_cycle_the_last_one_counts():
    trajectory = JointTrajectory(
        np.array([1.0, 1.0004]), np.tile(HOME, (2, 1)), np.array([np.full(7, 0.5), np.zeros(7)])
    )
    trajectory.check()
    assert np.abs(join(trajectory, AT_HOME, 0.0).at(1.0004)[1]).max() < 1e-9


def test_planning_compiles_nothing_once_the_kernels_are_loaded():
    """Compiling takes seconds, during which the control process would get no heartbeat from the node."""
    limit_checks.load_kernels()
    kernels = (limit_checks._survey, motion_kernels.evaluate)
    before = [len(kernel.signatures) for kernel in kernels]
    running = join(wave(60), AT_HOME, -1.0)
    for age in (-0.5, 0.0, 1.0):
        for points_ in (wave(60), positions_only(wave(4001)), wave(1)):
            join(points_, remainder(running, 0.7), age)
    assert [len(kernel.signatures) for kernel in kernels] == before


# --- What is refused


BAD_POINTS = {
    "no points": (JointTrajectory(np.empty(0), np.empty((0, 7))), "no points"),
    "not finite": (JointTrajectory(np.array([1.0]), np.full((1, 7), np.nan)), "positions of point 0 are not finite"),
    "velocity not finite": (
        JointTrajectory(np.array([1.0]), HOME[np.newaxis], np.full((1, 7), np.inf)),
        "velocities of point 0 are not finite",
    ),
    "before its beginning": (JointTrajectory(np.array([-0.1]), HOME[np.newaxis]), "point 0 is at -0.1 s"),
    "same time twice": (
        JointTrajectory(np.array([1.0, 2.0, 2.0]), np.tile(HOME, (3, 1))),
        "point 1 is at 2 s and point 2 at 2 s",
    ),
    "outside the limits": (
        JointTrajectory(np.array([1.0]), np.array([[*HOME[:6], 3.5]])),
        r"fr3_joint7 = 3.5000 rad at point 0 is outside \[-3.0159, 3.0159\]",
    ),
    "still moving at the end": (
        JointTrajectory(np.array([1.0]), HOME[np.newaxis], np.array([[0, 0, 0.2, 0, 0, 0, 0.0]])),
        "fr3_joint3 ends at 0.200 rad/s",
    ),
}


@pytest.mark.parametrize("what", BAD_POINTS)
def test_bad_points_are_refused_with_the_reason(what: str):
    trajectory, text = BAD_POINTS[what]
    with pytest.raises(InvalidTarget, match=text):
        trajectory.check()


def beyond(joint: int, distance: float, duration: float) -> JointTrajectory:
    q = HOME.copy()
    q[joint] += distance
    return JointTrajectory(np.array([duration]), q[np.newaxis], np.zeros((1, 7)))


def test_a_trajectory_too_fast_for_a_joint_is_refused_with_its_name_and_time():
    # A cubic from rest to rest is fastest in its middle: 1.5 · 2 / 1.
    with pytest.raises(InvalidTarget, match=r"fr3_joint1 would move at 3.00 rad/s, 0.38 .* \(at 0.50 s\)") as refused:
        join(beyond(0, 2.0, 1.0), AT_HOME, 0.0)
    assert refused.value.reason == "too fast"
    join(beyond(0, 2.0, 1.4), AT_HOME, 0.0)


def test_near_a_position_limit_only_the_velocities_that_the_robot_allows_there_are_accepted():
    q = HOME.copy()
    q[0] = fr3.POSITION_UPPER[0] - 0.3
    end = q.copy()
    end[0] += 0.28
    there = JointTrajectory(np.array([0.3]), end[np.newaxis], np.zeros((1, 7)))
    with pytest.raises(InvalidTarget, match="faster than the robot allows there"):
        join(there, ArmState(q, REST, REST), 0.0)


def test_too_much_acceleration_is_refused():
    # 6 · 0.5 / 0.5² at both ends, at no more than 1.5 rad/s.
    with pytest.raises(InvalidTarget, match=r"fr3_joint2 would have to accelerate with 12.0 rad/s\^2; its limit is 10"):
        join(beyond(1, -0.5, 0.5), AT_HOME, 0.0)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("velocity", [1e308, 1e150, 1e60])
def test_numbers_that_were_never_initialised_are_refused(velocity: float):
    times, q = np.array([0.002, 0.502]), np.tile(HOME, (2, 1))
    with pytest.raises(InvalidTarget) as refused:
        join(JointTrajectory(times, q, np.array([np.full(7, velocity), np.zeros(7)])), AT_HOME, 0.0)
    assert refused.value.reason in ("too fast", "outside the joint limits")


def test_overshoot_beyond_a_position_limit_is_refused():
    q = HOME.copy()
    q[5] = fr3.POSITION_UPPER[5] - 0.02
    dq = np.zeros((2, 7))
    dq[0, 5] = 0.3
    overshooting = JointTrajectory(np.array([3.0, 5.0]), np.array([q, q]), dq)
    with pytest.raises(InvalidTarget, match="fr3_joint6 would be at"):
        join(overshooting, AT_HOME, 0.0)


def test_an_arm_beyond_its_limit_can_come_back():
    q = HOME.copy()
    q[6] = fr3.POSITION_LOWER[6] - 0.003
    join(JointTrajectory(np.array([2.0]), HOME[np.newaxis]), ArmState(q, REST, REST), 0.0)


def test_a_trajectory_too_far_from_the_arm_to_enter_is_refused():
    # Near its limit a joint may not move as fast as the offset would have to fade out.
    far = ArmState(HOME, np.array([2.6, 0, 0, 0, 0, 0, 0]), REST)
    q = HOME.copy()
    q[0] = fr3.POSITION_UPPER[0] - 0.05
    with pytest.raises(InvalidTarget, match="cannot enter it from where it is, 2.6.* fr3_joint1") as refused:
        join(JointTrajectory(np.array([0.0]), q[np.newaxis]), far, 0.0)
    assert refused.value.reason == "too far away"


def test_messages_name_the_joints_with_the_prefix_of_the_arm() -> None:
    joints = ArmNames("left").joints
    with pytest.raises(InvalidTarget, match="left_fr3_joint7 = 3.5000 rad at point 0"):
        JointTrajectory(np.array([1.0]), np.array([[*HOME[:6], 3.5]]), joints=joints).check()
    too_fast = JointTrajectory(np.array([0.1]), HOME[np.newaxis] + 0.5, joints=joints)
    with pytest.raises(InvalidTarget, match="^left_fr3_joint"):
        join(too_fast, AT_HOME, 0.0)
    with pytest.raises(InvalidTarget, match="away from it at left_fr3_joint"):
        join(JointTrajectory(np.array([0.0]), HOME[np.newaxis] + 2.0, joints=joints), AT_HOME, 0.0)
    state, asked = {"q": HOME, "dq": REST, "ref_ddq": REST}, (HOME + 0.1, REST, REST)
    assert Tolerance.of_position(0.01, joints).violations(asked, state).startswith("left_fr3_joint1 by 0.1")
    with pytest.raises(InvalidTarget, match="left_fr3_joint1 = 9.0000 rad is outside"):
        plan(HOME, np.full(7, 9.0), max_jerk=np.full(7, 100.0), joints=joints)


def test_the_largest_trajectory_is_planned_in_little_time() -> None:
    """A heartbeat is due every hundredth of a second, and after a tenth the arm stops."""

    def took(count: int, duration: float, offset: float) -> float:
        trajectory, state = wave(count, duration), ArmState(HOME + offset, REST, REST)
        times = []
        for _ in range(5):
            begin = thread_time()  # Without the time in which this thread does not run.
            motion = join(trajectory, state, 0.0)
            check_set_limits(motion, np.eye(4), -FAR, FAR, -FAR[:3], FAR[:3], fr3.JOINT_NAMES)
            times.append(thread_time() - begin)
        return min(times)

    join(wave(20), AT_HOME, 0.0)  # Compiled from now on.
    usual = took(50, 5.0, 0.09)  # About two milliseconds.
    for duration in (20.0, 2000.0, 1e6):
        assert took(MOST_POINTS, duration, 0.09) < 15.0 * usual


def test_a_trajectory_that_lasts_for_years_is_checked_at_once() -> None:
    """A long check would delay the node's heartbeat, so one such message could stop the arm."""
    took = {}
    for duration in (10.0, 2.0**31):
        trajectory = JointTrajectory(np.array([duration]), HOME[np.newaxis] + 0.1)
        times = []
        for _ in range(5):  # The first one may include a compilation.
            begin = thread_time()  # Without the time in which this thread does not run.
            assert join(trajectory, AT_HOME, 0.0).duration >= duration
            times.append(thread_time() - begin)
        took[duration] = min(times)
    assert took[2.0**31] < 100.0 * took[10.0], "without a bound, it would be a hundred million times"
