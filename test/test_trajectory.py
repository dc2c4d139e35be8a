"""Motions: they are fast, keep every limit, and stop on their own path."""

from __future__ import annotations

import re
from time import thread_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiofranka_ros.arm import planning
from aiofranka_ros.arm.limit_checks import check_set_limits
from aiofranka_ros.control.law import motion as motion_kernels
from aiofranka_ros.control.law.memory import MEMORY
from aiofranka_ros.control.records import MOTION, MotionStatus, new
from aiofranka_ros.control.shared_memory import fill_path
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.model import fr3

pytestmark = pytest.mark.unit

JERK = np.full(7, 100.0)
ACCELERATION = np.full(7, 5.0)
configurations = st.tuples(
    *(st.floats(low, high) for low, high in zip(fr3.POSITION_LOWER, fr3.POSITION_UPPER, strict=True))
).map(np.array)


def plan(q, goal, **limits) -> motion_kernels.Motion:
    return planning.plan(q, goal, max_acceleration=ACCELERATION, max_jerk=JERK, **limits)


def sampled(motion: motion_kernels.Motion, step: float = 1e-3):
    times = np.arange(0.0, motion.duration + step, step)
    q, dq, ddq = (np.array(column) for column in zip(*(motion.at(t) for t in times), strict=True))
    return times, q, dq, ddq


@settings(max_examples=40)
@given(configurations, configurations)
def test_a_motion_leads_from_rest_to_rest_within_all_limits(q, goal):
    motion = plan(q, goal)
    times, position, velocity, acceleration = sampled(motion, 5e-3)
    np.testing.assert_allclose(position[0], q, atol=1e-9)
    np.testing.assert_allclose(motion.goal, goal, atol=1e-6)
    np.testing.assert_allclose(velocity[[0, -1]], 0.0, atol=1e-6)
    assert np.all(np.abs(velocity) <= fr3.VELOCITY_LIMIT + 1e-6)
    assert np.all(np.abs(acceleration) <= ACCELERATION + 1e-6)
    low, high = np.empty(7), np.empty(7)
    for row, speed in zip(position, velocity, strict=True):
        fr3.velocity_envelope(row, low, high)
        # 0.1 rad/s is what the robot itself tolerates beyond the envelope.
        assert np.all(speed <= high + 0.1) and np.all(speed >= low - 0.1)


@settings(max_examples=40)
@given(configurations, configurations)
def test_position_velocity_and_acceleration_are_derivatives_of_each_other(q, goal):
    motion = plan(q, goal)
    times, position, velocity, acceleration = sampled(motion)
    middle = slice(1, -2)
    numeric = (position[2:] - position[:-2]) / (times[2:] - times[:-2])[:, None]
    np.testing.assert_allclose(numeric[middle], velocity[1:-1][middle], atol=JERK[0] * 1e-6)
    jumps = np.abs(np.diff(acceleration, axis=0))[:-1]
    assert jumps.max(initial=0.0) <= JERK[0] * 1e-3 * 1.01, "the acceleration jumps"


def test_a_motion_is_as_fast_as_its_slowest_joint_may_be():
    goal = fr3.HOME.copy()
    goal[0] += 1.0
    slow = np.full(7, 0.5)
    motion = plan(fr3.HOME, goal, max_velocity=slow)
    _, _, velocity, _ = sampled(motion)
    assert velocity[:, 0].max() == pytest.approx(0.5, abs=1e-6)
    # Trapezoid with rounded corners: distance / v + v / a + a / j.
    assert motion.duration == pytest.approx(1.0 / 0.5 + 0.5 / 5.0 + 5.0 / 100.0, rel=0.01)


def test_velocities_above_the_arm_s_limits_are_not_used():
    goal = fr3.HOME.copy()
    goal[0] += 2.5
    _, _, velocity, _ = sampled(plan(fr3.HOME, goal, max_velocity=np.full(7, 100.0)))
    assert np.abs(velocity).max() <= fr3.VELOCITY_LIMIT[0] + 1e-6


def test_a_motion_may_begin_while_the_arm_moves():
    dq, ddq = np.full(7, 0.2), np.full(7, 0.5)
    motion = plan(fr3.HOME, fr3.READY, dq=dq, ddq=ddq)
    _, velocity, acceleration = motion.at(0.0)
    np.testing.assert_allclose(velocity, dq, atol=1e-9)
    np.testing.assert_allclose(acceleration, ddq, atol=1e-6)
    np.testing.assert_allclose(motion.goal, fr3.READY, atol=1e-6)


def test_a_motion_to_where_the_arm_is_ends_at_once():
    assert plan(fr3.HOME, fr3.HOME).duration < 0.01


def test_a_goal_is_never_refused_because_the_arm_is_there_within_rounding():
    random = np.random.default_rng(1)

    def noise(exponent: float) -> np.ndarray:
        return random.choice([0.0, 1.0], 7) * random.standard_normal(7) * 10.0**exponent

    for _ in range(500):  # About one in a hundred of them is beyond what ruckig can solve.
        q = fr3.HOME + random.uniform(-0.5, 0.5, 7)
        distance, speed = random.uniform(-13.0, -9.0), random.uniform(-13.0, -7.0)
        goal = q + noise(distance)
        motion = plan(q, goal, dq=noise(speed), ddq=noise(speed))
        np.testing.assert_allclose(motion.goal, goal, atol=2e-8)
        assert motion.duration < 0.05


@settings(max_examples=60)
@given(
    configurations,
    configurations,
    st.lists(st.floats(-1.0, 1.0), min_size=14, max_size=14),
    st.lists(st.sampled_from([1e-12, 1e-5, 1e-4, 1e-3, 0.1, 1.0]), min_size=7, max_size=7),
)
def test_from_any_state_at_any_speed_a_motion_is_planned_or_refused(q, goal, moving, slow):
    dq, ddq = fr3.VELOCITY_LIMIT * moving[:7], ACCELERATION * moving[7:]
    try:
        motion = plan(q, goal, dq=dq, ddq=ddq, max_velocity=fr3.VELOCITY_LIMIT * slow)
    except InvalidTarget as error:
        assert str(error)
    else:
        np.testing.assert_allclose(motion.goal, goal, atol=1e-3)


def test_a_motion_of_more_than_two_hours_is_refused_with_the_reason():
    with pytest.raises(InvalidTarget, match="is a velocity, an acceleration or a jerk too low"):
        plan(fr3.HOME, fr3.READY, max_velocity=np.full(7, 1e-4))


@pytest.mark.parametrize("joint", range(7))
def test_a_goal_outside_the_limits_is_refused_with_the_joint_s_name(joint):
    goal = fr3.HOME.copy()
    goal[joint] = fr3.POSITION_UPPER[joint] + 1e-3
    with pytest.raises(InvalidTarget, match=f"fr3_joint{joint + 1} .* is outside"):
        plan(fr3.HOME, goal)
    goal[joint] = fr3.POSITION_UPPER[joint] - 1e-3
    plan(fr3.HOME, goal)


def executed(motion: motion_kernels.Motion, *, stop_at: float | None = None, q=None, dq=None):
    """Run a motion in the kernels, cycle by cycle, until it is done or stopped."""
    record, memory = new(MOTION), new(MEMORY)
    fill_path(record, 1, 0.0, motion.times, motion.coefficients)
    motion_kernels.begin(
        memory[0], record[0], motion.at(0.0)[0] if q is None else q, motion.at(0.0)[1] if dq is None else dq
    )
    rows = []
    for cycle in range(60_000):
        if stop_at is not None and cycle * 1e-3 >= stop_at and memory["motion_status"][0] == MotionStatus.EXECUTING:
            memory["motion_status"] = MotionStatus.STOPPING
        if memory["motion_status"][0] not in (MotionStatus.EXECUTING, MotionStatus.STOPPING):
            break
        motion_kernels.advance(memory[0], record[0], 1e-3)
        rows.append([memory[name][0].copy() for name in ("ref_q", "ref_dq", "ref_ddq")])
    q_rows, dq_rows, ddq_rows = (np.array(column) for column in zip(*rows, strict=True))
    return MotionStatus(int(memory["motion_status"][0])), q_rows, dq_rows, ddq_rows


def test_the_control_thread_follows_the_plan_and_holds_at_its_end():
    motion = plan(fr3.HOME, fr3.READY)
    status, q, dq, _ = executed(motion)
    assert status is MotionStatus.DONE
    np.testing.assert_allclose(q[-1], fr3.READY, atol=1e-6)
    np.testing.assert_allclose(dq[-1], 0.0, atol=1e-6)
    np.testing.assert_allclose(q[499], motion.at(0.5)[0], atol=1e-9)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8, 0.97])
def test_a_motion_stops_on_its_path_within_the_arm_s_limits(share):
    motion = plan(fr3.HOME, fr3.READY)
    at = share * motion.duration
    status, q, dq, ddq = executed(motion, stop_at=at)
    assert status is MotionStatus.STOPPED
    np.testing.assert_allclose(dq[-1], 0.0, atol=1e-9)
    # On the path: every row is a row of the plan.
    _, path, _, _ = sampled(motion, 1e-4)
    for row in q[:: max(1, len(q) // 20)]:
        assert np.abs(path - row).max(axis=1).min() < 1e-3
    # If the path itself needs more than half of the limit, braking uses the other half.
    assert np.abs(ddq).max() <= 1.1 * fr3.ACCELERATION_LIMIT[0]
    assert np.abs(np.diff(dq, axis=0)).max() <= 1.1e-3 * fr3.ACCELERATION_LIMIT[0]
    assert len(q) * 1e-3 <= at + motion_kernels.STOP_DURATION + 0.1


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.65])
def test_a_joint_too_fast_to_stop_in_the_usual_time_gets_longer(share):
    goal = fr3.HOME.copy()
    goal[6] += 3.0
    motion = planning.plan(fr3.HOME, goal, max_acceleration=fr3.ACCELERATION_LIMIT, max_jerk=np.full(7, 1000.0))
    at = share * motion.duration
    status, q, dq, ddq = executed(motion, stop_at=at)
    assert status is MotionStatus.STOPPED
    assert np.abs(dq).max() > 3.0
    assert np.abs(ddq).max() <= 1.2 * fr3.ACCELERATION_LIMIT[0]
    assert len(q) * 1e-3 <= at + 1.5


@pytest.mark.slow
@settings(max_examples=30)
@given(st.lists(st.integers(1, 600), min_size=2, max_size=8))
def test_a_motion_that_pauses_and_continues_keeps_to_its_path_without_a_jolt(turns):
    """After each turn [ms] the node falls silent, or sends its heartbeat again."""
    motion = plan(fr3.HOME, fr3.READY)
    record, memory = new(MOTION), new(MEMORY)
    fill_path(record, 1, 0.0, motion.times, motion.coefficients)
    motion_kernels.begin(memory[0], record[0], fr3.HOME, np.zeros(7))
    rows = []
    for turn, cycles in enumerate([*turns, 20_000]):
        silent = turn % 2 == 0 and turn < len(turns)
        if silent:
            memory["motion_status"] = MotionStatus.PAUSED
        for _ in range(cycles):
            motion_kernels.advance(memory[0], record[0], 1e-3, silent)
            rows.append(np.array([memory[name][0] for name in ("ref_q", "ref_dq", "ref_ddq")]))
            assert 0.0 <= memory["motion_rate"][0] <= 1.0 + 0.15, "a ramp that reverses may overshoot a little"
            if memory["motion_status"][0] == MotionStatus.DONE:
                break
    q, dq, ddq = np.array(rows).transpose(1, 0, 2)
    assert memory["motion_status"][0] == MotionStatus.DONE
    np.testing.assert_allclose(q[-1], fr3.READY, atol=1e-6)
    _, path, _, _ = sampled(motion, 1e-4)
    for row in q[:: max(1, len(q) // 20)]:
        assert np.abs(path - row).max(axis=1).min() < 1e-3
    np.testing.assert_allclose(np.diff(q, axis=0), 1e-3 * dq[1:], atol=2e-5)
    assert np.abs(ddq).max() <= 1.5 * fr3.ACCELERATION_LIMIT[0]
    assert np.abs(np.diff(dq, axis=0)).max() <= 1.5e-3 * fr3.ACCELERATION_LIMIT[0]


def test_an_arm_near_the_beginning_is_led_onto_the_motion_without_a_jump():
    motion = plan(fr3.HOME, fr3.READY)
    nearby, moving = fr3.HOME + 0.02, np.full(7, 0.1)
    status, q, dq, _ = executed(motion, q=nearby, dq=moving)
    assert status is MotionStatus.DONE
    np.testing.assert_allclose(q[0], nearby, atol=1e-3)
    np.testing.assert_allclose(dq[0], moving, atol=0.02)
    np.testing.assert_allclose(q[-1], fr3.READY, atol=1e-6)
    assert np.abs(np.diff(q, axis=0)).max() < 3e-3


def test_a_motion_takes_no_longer_than_planned_if_the_arm_is_where_it_begins():
    motion = plan(fr3.HOME, fr3.HOME + 1e-3)
    status, q, _, _ = executed(motion)
    assert status is MotionStatus.DONE
    assert len(q) == np.ceil(motion.duration / fr3.CYCLE) < 100
    status, q, _, _ = executed(plan(fr3.HOME, fr3.HOME))
    assert status is MotionStatus.DONE and len(q) == 1


@settings(max_examples=40)
@given(st.floats(-5.0, -1.0), st.floats(-5.0, -0.5), st.sampled_from([-1.0, 0.0, 1.0]))
def test_an_offset_fades_out_as_gently_as_the_largest_one(size, speed, sign):
    offset, rate = np.zeros(7), np.zeros(7)
    offset[2], rate[2] = sign * 10.0**size, 10.0**speed
    _, q, dq, ddq = executed(plan(fr3.HOME, fr3.HOME), q=fr3.HOME + offset, dq=rate)
    assert len(q) * fr3.CYCLE <= motion_kernels.OFFSET_DURATION + fr3.CYCLE
    np.testing.assert_allclose(q[-1], fr3.HOME, atol=1e-9)
    # 2.3 rad/s² for 0.1 rad, and 2.6 rad/s² for the largest rate that takes all of the time.
    assert np.abs(ddq).max() <= 5.0
    assert np.abs(np.diff(dq, axis=0)).max(initial=0.0) <= 5.1 * fr3.CYCLE


def test_an_arm_far_from_the_beginning_refuses_the_motion():
    record, memory = new(MOTION), new(MEMORY)
    motion = plan(fr3.HOME, fr3.READY)
    fill_path(record, 1, 0.0, motion.times, motion.coefficients)
    q = fr3.HOME.copy()
    q[3] += motion_kernels.LARGEST_OFFSET * 1.01
    motion_kernels.begin(memory[0], record[0], q, np.zeros(7), 0.0)
    assert memory["motion_status"][0] == MotionStatus.REFUSED


def test_a_motion_that_lasts_for_years_is_checked_in_a_moment():
    """A long check would delay the node's heartbeat, so one such message could stop the arm."""
    far, took = np.full(7, np.inf), {}
    for duration in (10.0, 2.0**31):
        motion = motion_kernels.Motion(np.array([0.0, duration]), np.zeros((1, 7, 6)))
        arguments = (motion, np.eye(4), -far, far, -far[:3], far[:3], fr3.JOINT_NAMES)
        times = []
        for _ in range(5):  # The first one may include a compilation.
            begin = thread_time()  # Without the time in which this thread does not run.
            check_set_limits(*arguments)
            times.append(thread_time() - begin)
        took[duration] = min(times)
    assert took[2.0**31] < 100.0 * took[10.0], "without a bound, it would be a hundred million times"


def test_a_motion_that_leaves_a_limit_is_refused_with_the_joint_or_coordinate_the_value_and_the_time():
    goal = fr3.HOME + np.array([1.0, 0, 0, 0, 0, 0, 0])
    motion = plan(fr3.HOME, goal)
    far = np.full(7, np.inf)
    upper, wall = far.copy(), far[:3].copy()
    upper[0], wall[1] = 0.5, 0.1

    def check(motion: motion_kernels.Motion, upper=far, wall=far[:3]) -> None:
        check_set_limits(motion, np.eye(4), -far, upper, -far[:3], wall, fr3.JOINT_NAMES)

    check(motion)
    with pytest.raises(
        InvalidTarget, match=r"fr3_joint1 would be at 0.5\d\d rad .* beyond joint_upper \(0.501 rad\)"
    ) as refused:
        check(motion, upper)
    assert refused.value.reason == "outside the joint limits"
    # The position and the time belong together.
    position, time = (
        float(number) for number in re.findall(r"at ([\d.]+) rad after ([\d.]+) s", str(refused.value))[0]
    )
    assert abs(motion.at(time)[0][0] - position) < 0.02
    check(plan(goal, fr3.HOME), upper)  # It leads inwards.
    with pytest.raises(InvalidTarget, match="y of the control frame would be at .* beyond workspace_upper") as refused:
        check(motion, wall=wall)
    assert refused.value.reason == "outside the workspace"
