"""Which trajectories are steps of a stream, as MoveIt Servo sends them, and what is read from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Duration
from test_velocities import Watched
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from aiofranka_ros.control.records import Mode
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.model.fr3 import HOME, JOINT_NAMES
from aiofranka_ros.node.servo import Step, Steps, is_step, read_step

pytestmark = pytest.mark.unit


#: The node's clock [ns].
NOW = 1_700_000_000_000_000_000


def step(
    *dues: float, names: tuple[str, ...] = JOINT_NAMES, began: float | None = None, **fields: Any
) -> JointTrajectory:
    """A trajectory whose points are due at these times [s]; it ``began`` so long ago [s], or has no stamp."""
    fields = {"positions": list(map(float, range(7)))} | fields
    message = JointTrajectory(joint_names=list(names))
    for due in dues or (0.034,):
        seconds, rest = divmod(round(1e9 * due), 10**9)
        message.points.append(JointTrajectoryPoint(time_from_start=Duration(sec=seconds, nanosec=rest), **fields))
    if began is not None:
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(NOW - round(1e9 * began), 10**9)
    return message


@pytest.mark.parametrize(("due", "expected"), [(0.0, False), (0.01, True), (0.034, True), (0.1, True), (0.11, False)])
def test_one_point_that_is_due_soon_is_a_step(due: float, expected: bool) -> None:
    assert is_step(step(due), NOW) == expected
    assert is_step(step(due, velocities=[0.1] * 7), NOW) == expected
    assert is_step(step(due, began=0.05), NOW) == expected, "it may be late"


@pytest.mark.parametrize(
    ("dues", "began", "expected"),
    [
        ((0.0, 0.034, 0.068, 0.102, 0.136, 0.17), 0.1, True),  # As Servo sends it since Jazzy.
        ((0.0, 0.01, 0.02), None, True),
        ((0.1, 0.2), None, False),
        ((0.1, 0.2), 0.25, False),  # It ended in the past.
        ((1.0, 2.0), 1.95, False),
        ((0.05,), -5.0, False),  # It begins in five seconds.
        ((2.0,), 1.95, False),
    ],
)
def test_several_points_are_a_step_if_the_last_is_due_soon(
    dues: tuple[float, ...], began: float | None, expected: bool
) -> None:
    assert is_step(step(*dues, began=began), NOW) == expected


def test_no_points_are_planned() -> None:
    assert not is_step(JointTrajectory(joint_names=list(JOINT_NAMES)), NOW)


def test_the_period_is_the_time_from_the_point_before() -> None:
    assert read_step(step(0.034), JOINT_NAMES).period == pytest.approx(0.034)
    assert read_step(step(0.1, 0.134), JOINT_NAMES).period == pytest.approx(0.034)


def test_positions_are_ordered_by_the_names_of_their_joints() -> None:
    names = JOINT_NAMES[::-1]
    found = read_step(step(names=names, velocities=list(map(float, range(7)))), JOINT_NAMES)
    np.testing.assert_array_equal(found.q, np.arange(7.0)[::-1])
    np.testing.assert_array_equal(found.dq, np.arange(7.0)[::-1])


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
        ({"dues": (0.05, 0.05)}, "wrong times"),
    ],
)
def test_what_is_missing_or_not_finite_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidTarget) as refused:
        read_step(step(*fields.pop("dues", ()), **fields), JOINT_NAMES)
    assert refused.value.reason == reason


# What is made of them.


def played(bench: Watched, rate: int, ask: Any, seconds: float = 2.0, delay: int = 10) -> None:
    """Send steps to an arm whose joint states are ``delay`` cycles old.

    :param ask: makes positions and velocities of the time and the measured positions [rad] (7,).
    """
    steps, period, seen = Steps(), round(1000 / rate), [HOME] * (delay + 1)
    for k in range(round(seconds * 1000 / period)):
        q, dq = ask(1e-3 * k * period, seen[-1 - delay])
        bench.servo(np.array(steps.target(Step(q, dq, 1e-3 * period), 1e-3 * k * period)))
        for _ in range(period):
            bench.run(1)
            seen.append(bench.measured["q"][0].copy())


SPEED = np.array([0.3, 0.0, 0.0, 0.0, 0.0, -0.1, 0.0])


@pytest.mark.parametrize("rate", [30, 100])
@pytest.mark.parametrize("ramp", [1e-6, 0.3])
def test_steps_that_begin_where_the_arm_is_move_it_at_their_velocities(rate: int, ramp: float) -> None:
    """As Servo sends them up to Humble."""
    bench = Watched(Mode.OSC)

    def ask(t: float, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        dq = SPEED * min(t / ramp, 1.0) * (t < 1.9)
        return measured + dq / rate, dq

    played(bench, rate, ask)
    speed = bench.seen("ref_dq")[1000:1800, 0]
    assert 0.95 * SPEED[0] <= speed.min() <= speed.max() <= 1.05 * SPEED[0]
    bench.run(1000)
    q = bench.seen("ref_q")[:, 0]
    assert q.max() - q[-1] < 2e-3, "it does not return"


def test_velocities_count_for_the_time_that_passes_even_if_steps_are_lost_or_come_together() -> None:
    rng, steps, path, times = np.random.default_rng(2), Steps(), [], []
    for k in range(1000):
        if rng.random() < 0.8:
            times.append(0.01 * k + rng.uniform(0.0, 0.008))
            measured = path[-1] if k > 5 else HOME  # The arm has hardly begun to move.
            path.append(np.array(steps.target(Step(measured + 0.01 * SPEED, SPEED, 0.01), times[-1])))
    way, seconds = np.array(path)[:, 0] - HOME[0], np.array(times)
    assert (way[-1] - way[100]) / (seconds[-1] - seconds[100]) == pytest.approx(SPEED[0], rel=0.02)


@pytest.mark.parametrize("rate", [30, 100])
@pytest.mark.parametrize("velocities", ["none", "zero", "right", "more"])
def test_steps_of_a_path_are_followed_whatever_their_velocities(rate: int, velocities: str) -> None:
    bench = Watched(Mode.OSC)
    given = {"none": None, "zero": 0.0 * SPEED, "right": SPEED, "more": 1.2 * SPEED}[velocities]
    played(bench, rate, lambda t, measured: (HOME + SPEED * (t + 1.0 / rate), given))
    speed = bench.seen("ref_dq")[1000:, 0]
    assert 0.95 * SPEED[0] <= speed.min() <= speed.max() <= 1.05 * SPEED[0]
    bench.run(500)
    np.testing.assert_allclose(bench.memory["ref_q"][0], HOME + 2.0 * SPEED, atol=SPEED[0] / rate)


@pytest.mark.parametrize("velocities", [False, True])
def test_steps_without_stamps_of_which_some_are_lost_move_the_arm_evenly(velocities: bool) -> None:
    bench, steps, rng = Watched(Mode.IMPEDANCE), Steps(), np.random.default_rng(3)
    for k in range(300):
        if k % 2 == 0 or rng.random() < 0.5:
            step = Step(HOME + 0.01 * SPEED * (k + 1), SPEED if velocities else None, 0.01)
            bench.servo(np.array(steps.target(step, 0.01 * k)), steps.stamp)
        bench.run(10)
    speed = bench.seen("ref_dq")[1500:, 0]
    assert 0.95 * SPEED[0] <= speed.min() <= speed.max() <= 1.05 * SPEED[0]


def test_velocities_lead_no_further_from_an_arm_that_is_blocked_than_the_reference_may_be() -> None:
    steps = Steps()
    for k in range(100):
        target = np.array(steps.target(Step(HOME + 0.01 * SPEED, SPEED, 0.01), 0.01 * k))
    assert np.abs(target - HOME).max() < 0.11
    for k in range(100, 150):
        target = np.array(steps.target(Step(HOME - 0.01 * SPEED, -SPEED, 0.01), 0.01 * k))
    assert target[0] < HOME[0] - 0.04
