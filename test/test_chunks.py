"""Chunks of targets become one even movement; what cannot be followed is refused with a reason and a remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from chunk_arm import CYCLE, POSE, ROBOT_TIME, PathArm
from scipy.interpolate import CubicSpline

from aiofranka_ros.arm.chunk_paths import curve, evaluate
from aiofranka_ros.arm.chunk_points import Chunk
from aiofranka_ros.arm.chunks import Outcome
from aiofranka_ros.control.records import Hold, Mode, MotionStatus
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model.fr3 import HOME

pytestmark = pytest.mark.unit

#: Jerk of seams [rad/s³].
SEAM_JERK = 60.0


def wave(times: Array) -> Array:
    """A slow movement of all joints (n, 7), at rest at 0, with a jerk of at most 2 rad/s³."""
    return HOME + 0.1 * (1.0 - np.cos(np.pi * np.asarray(times)))[:, np.newaxis] * np.linspace(-1.0, 1.0, 7)


def jerk(arm: PathArm, begin: float = 0.0) -> float:
    """Largest one from ``begin`` [s] on."""
    return float(np.abs(np.diff(arm.columns()[2], axis=0)).max(axis=1)[round(begin / CYCLE) :].max() / CYCLE)


def assert_smooth(arm: PathArm, highest_jerk: float) -> None:
    """Position, velocity and acceleration are continuous: each is the integral of the next one, without steps."""
    p, v, a = arm.columns()
    # What the trapezoidal rule leaves out is a twelfth of the next derivative's change.
    assert np.abs(np.diff(p, axis=0) / CYCLE - 0.5 * (v[1:] + v[:-1])).max() < CYCLE**2 * highest_jerk
    assert np.abs(np.diff(v, axis=0) / CYCLE - 0.5 * (a[1:] + a[:-1])).max() < CYCLE * highest_jerk
    assert np.abs(np.diff(a, axis=0)).max() < 1.05 * CYCLE * highest_jerk


def played(
    arm: PathArm, meant: Callable[[Array], Array], *, rows: int, dt: float, inference: float, seconds: float = 3.0,
    offset: float = 0.0, noise: float = 0.0, lost: float = 0.0,
) -> PathArm:  # fmt: skip
    """A policy that observes, computes, and observes again as soon as its chunk was sent."""
    rng = np.random.default_rng(1)
    while arm.now < seconds:
        observed = arm.now
        arm.advance(observed + inference * rng.uniform(0.8, 1.2))
        wrong = rng.normal(0.0, offset, 7) + rng.normal(0.0, noise, (rows, 7)) if offset or noise else 0.0
        if rng.uniform() >= lost:
            arm.follow(meant(observed + dt * np.arange(rows)) + wrong, dt, observed)
    arm.advance(arm.now + rows * dt + 1.0)
    return arm


@pytest.mark.parametrize(
    ("rows", "rate", "inference"), [(8, 10, 0.2), (16, 15, 0.4), (16, 30, 0.1), (50, 30, 0.4), (50, 50, 0.05)]
)
def test_late_chunks_with_noise_make_one_smooth_movement(rows, rate, inference):

    def later(times: Array) -> Array:
        return wave(np.maximum(np.asarray(times) - 0.6, 0.0))

    arm = played(PathArm(), later, rows=rows, dt=1 / rate, inference=inference, offset=0.003, noise=5e-4, lost=0.02)
    # The fade, what is left of the noise, and slowing down if a chunk was lost.
    assert_smooth(arm, 4.0 * SEAM_JERK)


def test_chunks_that_agree_are_followed_as_if_they_were_one():
    arm = played(PathArm(), wave, rows=30, dt=1 / 30, inference=0.2)
    times = CYCLE * np.arange(1, 3001)
    settled = slice(1000, 3000)
    error = arm.columns()[0][:3000] - wave(times)
    # Without the smoothing's bend at the ends of a chunk, it would be zero.
    assert np.abs(error[settled]).max() < 1e-3
    assert jerk(arm, 1.0) < SEAM_JERK


def _through(rule: str, observed: Array, chunks: list[Array], dt: float, late: float) -> Array:
    """What simple rules command, every cycle: ``switch`` to the newest chunk, or ``weights`` of two of them."""
    times = np.arange(observed[1] + late, observed[-1] + late, CYCLE)
    commands = np.empty((len(times), 7))
    for row, time in enumerate(times):
        newest = int(np.searchsorted(observed + late, time + 1e-9) - 1)
        values = [
            CubicSpline(observed[k] + dt * np.arange(len(chunks[k])), chunks[k])(time) for k in (newest, newest - 1)
        ]
        share = min((time - observed[newest] - late) / (4.0 * dt), 1.0) if rule == "weights" else 1.0
        commands[row] = share * values[0] + (1.0 - share) * values[1]
    return commands


def test_seams_have_less_than_half_the_jerk_of_simple_rules():
    rng, dt, late = np.random.default_rng(3), 1 / 30, 0.15
    observed = 0.1 + 0.3 * np.arange(8)
    chunks = [wave(start + dt * np.arange(24)) + rng.normal(0.0, 0.01, 7) for start in observed]
    arm = PathArm(chunk_smoothing=0.0)
    for start, rows in zip(observed, chunks, strict=True):
        arm.advance(start + late)
        arm.follow(rows, dt, start)
    p, _, _ = arm.columns()
    ours = np.abs(np.diff(p[round((observed[1] + late) / CYCLE) :], 3, axis=0)).max() / CYCLE**3
    for rule in ("switch", "weights"):
        theirs = np.abs(np.diff(_through(rule, observed, chunks, dt, late), 3, axis=0)).max() / CYCLE**3
        assert ours < 0.5 * theirs


@pytest.mark.parametrize("size", [1e-4, 1e-3, 0.01, 0.05, 0.3])
def test_a_seam_takes_as_long_as_its_size_needs(size):
    """The difference of two chunks fades out smoothly, the larger the longer."""
    arm = PathArm()
    still = np.tile(HOME, (60, 1))
    arm.follow(still)
    arm.advance(0.1)
    ticket = arm.follow(still + size)
    arm.advance(1.5)
    assert ticket.seam == pytest.approx((0.0, size))
    p = arm.columns()[0][:, 0] - HOME[0]
    assert_smooth(arm, max(SEAM_JERK, 32.0 * size / 0.3**3))
    arrived = CYCLE * np.argmax(p > 0.999 * size) - 0.1
    assert 0.5 * np.cbrt(32.0 * min(size, 0.05) / SEAM_JERK) < arrived < 0.8
    assert -1e-9 < p.min() <= p.max() < size + 1e-6


@pytest.mark.parametrize("pause", [0.1, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("rate", [10, 30])
def test_a_policy_that_stops_to_think_is_not_outrun(rate, pause):
    """Each chunk continues from the last action; whatever the arm did beyond it would have to be undone."""
    arm, last = PathArm(), 0
    for _ in range(4):
        rows = HOME + 0.2 / rate * np.arange(last + 1, last + 9)[:, np.newaxis] * np.ones(7)
        arm.follow(rows, 1 / rate)
        arm.advance(arm.now + 8 / rate + pause)
        last += 8
    arm.advance(arm.now + 1.0)
    p = arm.columns()[0][:, 0]
    assert (np.maximum.accumulate(p) - p).max() <= 0.5e-3
    assert p[-1] == pytest.approx(HOME[0] + 0.2 / rate * last, abs=1e-4)
    assert_smooth(arm, 4.0 * SEAM_JERK)


@pytest.mark.parametrize(("end", "beyond"), [("rest", 0.0), ("hold", 0.02), ("extrapolate", 0.05)])
def test_how_a_chunk_ends_is_a_setting(end, beyond):
    arm = PathArm(chunk_end=end)
    arm.follow(HOME + 0.2 / 30 * np.arange(1, 16)[:, np.newaxis] * np.ones(7))
    arm.advance(2.5)
    p, v, _ = arm.columns()
    # It slows down within 0.14 s, at half of its velocity; 0.15 s of extrapolation_time come before that.
    assert p[-1, 0] - HOME[0] - 0.1 == pytest.approx(beyond, abs=0.01)
    assert np.abs(v[-1]).max() < 1e-9
    assert v.min() > -1e-9


def test_once_chunks_overlap_a_lost_one_is_no_reason_to_slow_down_early():
    arm = PathArm()
    for _ in range(6):
        start = arm.now
        arm.follow(wave(start + np.arange(12) / 30), start=start)
        arm.advance(start + 0.25)
    end = start + 11 / 30
    arm.advance(end)
    assert arm.columns()[0][-1] == pytest.approx(wave(np.array([end]))[0], abs=1e-3)


def test_what_is_past_is_dropped_and_counted():
    arm = PathArm()
    arm.advance(0.5)
    ticket = arm.follow(wave(np.arange(20) / 30), start=arm.now - 0.1501)
    assert (ticket.dropped, ticket.done) == (5, False)
    arm.advance(0.52)
    assert ticket.latency == pytest.approx(0.151, abs=1e-3)


def test_the_clock_of_a_robot_that_is_slower_than_this_computer_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulated one is, on a computer that is too slow for it; its chunks must not be due in its future."""
    arm, rate = PathArm(), 0.9
    at_full_rate = arm.state

    def state() -> Record:
        state = at_full_rate()
        state["time"] = ROBOT_TIME + rate * arm.now
        return state

    monkeypatch.setattr(arm, "state", state)
    for _ in range(100):
        arm.now += 0.01  # About as often as a node looks.
        arm.player.observe(arm.state())
    arm.follow(wave(np.linspace(0.0, 1.0, 30)))
    assert arm.begin == pytest.approx(ROBOT_TIME + rate * arm.now, abs=0.01)


def test_a_chunk_knows_what_became_of_it():
    arm = PathArm()
    first = arm.follow(np.tile(HOME, (10, 1)))
    arm.advance(0.05)
    second = arm.follow(np.tile(HOME, (3, 1)))
    arm.advance(1.0)
    third = arm.follow(np.tile(HOME, (30, 1)))
    arm.advance(1.1)
    arm.player.stop()
    arm.player.close("the arm was released")
    assert [ticket.outcome for ticket in (first, second, third)] == [
        Outcome.REPLACED, Outcome.FINISHED, Outcome.STOPPED,
    ]  # fmt: skip
    assert third.reason == "the arm was released"


def test_who_waits_for_the_end_of_a_chunk_is_told_once():
    arm, told = PathArm(), []
    ticket = arm.follow(np.tile(HOME, (3, 1)))
    ticket.when_ended(lambda: told.append("before"))
    arm.advance(1.0)
    ticket.when_ended(lambda: told.append("after"))
    arm.player.close("the arm was released")
    assert told == ["before", "after"]
    assert ticket.outcome is Outcome.FINISHED


def test_what_is_frozen_does_not_change():
    arm = PathArm(chunk_freeze=0.2)
    arm.follow(wave(np.arange(30) / 30))
    arm.advance(0.3)
    rows, certain = arm.player.committed(10, 1 / 30, arm.now)
    assert certain == 7
    arm.follow(wave(0.3 + np.arange(30) / 30) + 0.03)
    arm.advance(0.8)
    p = arm.columns()[0]
    at = p[299 + np.round(np.arange(10) / 30 / CYCLE).astype(int)]
    assert at[:6] == pytest.approx(rows[:6], abs=2e-4)  # The rows are up to half a cycle apart.
    assert np.abs(at[9] - rows[9]).max() > 1e-3


def test_what_is_committed_ends_with_the_chunk():
    arm = PathArm(chunk_end="hold")
    assert arm.player.committed(5, 0.1, 0.0)[0].shape == (0, 7)
    arm.follow(wave(np.arange(10) / 30))
    arm.advance(0.1)
    rows, certain = arm.player.committed(50, 1 / 30, arm.now)
    assert (len(rows), certain) == (7, 1)
    assert rows[-1] == pytest.approx(wave(np.array([0.3]))[0], abs=2e-3)


@pytest.mark.parametrize("late", [20e-6, 500e-6])
def test_the_last_row_is_committed_whatever_is_learned_of_the_clock_of_the_robot(late):
    arm = PathArm()
    arm.late = late  # Of the first states; those that follow show that the clocks differ less.
    arm.follow(wave(np.arange(30) / 30), start=0.0)
    arm.late = 0.0
    arm.player.observe(arm.state())
    rows, _ = arm.player.committed(50, 1 / 30, arm.now, 0.0)
    assert len(rows) == 30
    rows, _ = arm.player.committed(50, 1 / 30, arm.now, -1e-6)  # As two conversions of one stamp differ.
    assert len(rows) == 30


def test_the_delay_of_the_inference_is_learned_without_the_warm_up():
    arm = PathArm()
    assert arm.player.inference_delay(1 / 30) == 0
    for late in (2.0, 1.5, *[0.1] * 30):
        observed = arm.now
        arm.advance(observed + late)
        arm.follow(np.tile(HOME, (100, 1)), start=observed)
    arm.advance(arm.now + 0.1)
    assert arm.player.inference_delay(1 / 30) == 4
    assert arm.player.inference_delay(0.2, 0.5) == 1


def test_without_smoothing_the_arm_passes_through_every_point():
    arm = PathArm(chunk_smoothing=0.0)
    rows = HOME + np.random.default_rng(1).normal(0.0, 0.01, (20, 7))
    arm.follow(rows, 0.05)
    arm.advance(2.0)
    p = arm.columns()[0]
    # Later, it slows down; before, it comes from where it was.
    for index in range(6, 17):
        assert p[index * 50 - 1] == pytest.approx(rows[index], abs=1e-4)


@pytest.mark.parametrize("cutoff", [np.inf, 50.0, 5.0])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 50, 128])
def test_a_curve_is_the_smoothing_spline_of_its_points_however_many_and_uneven_they_are(count, cutoff):
    rng = np.random.default_rng(count)
    h = rng.uniform(0.004, 0.1, count - 1)
    points = rng.normal(0.0, 0.05, (count, 7)).cumsum(axis=0)
    weight = cutoff**-4.0 / h.mean()
    # Second differences of the points, and the second derivatives that Reinsch's equations give for them.
    q, r = np.zeros((count, count - 2)), np.zeros((count - 2, count - 2))
    for k in range(count - 2):
        q[k : k + 3, k] = 1.0 / h[k], -1.0 / h[k] - 1.0 / h[k + 1], 1.0 / h[k + 1]
        r[k, k] = (h[k] + h[k + 1]) / 3.0
        r[k, k + 1 : k + 2] = r[k + 1 : k + 2, k] = h[k + 1] / 6.0
    second = np.linalg.solve(r + weight * q.T @ q, q.T @ points)
    times = np.concatenate(([0.0], h.cumsum()))
    p, v, a = evaluate(curve(times, points, cutoff), times)
    np.testing.assert_allclose(p, points - weight * q @ second, atol=1e-9)
    np.testing.assert_allclose(a[1:-1], second, rtol=1e-7, atol=1e-6)
    np.testing.assert_allclose(np.diff(v, axis=0), 0.5 * h[:, np.newaxis] * (a[1:] + a[:-1]), atol=1e-7)


# Poses.


def turned(angle: float) -> Array:
    """POSE, turned about the vertical (7,)."""
    half = np.array([0.0, 0.0, np.sin(0.5 * angle), np.cos(0.5 * angle)])
    x, y, z, w = POSE[3:]
    turn = np.array(
        [half[3] * x - half[2] * y, half[3] * y + half[2] * x, half[3] * z + half[2] * w, half[3] * w - half[2] * z]
    )
    return np.concatenate([POSE[:3], turn])


def test_a_turn_of_more_than_half_a_circle_continues_whatever_the_signs_of_its_quaternions():
    rng, rate = np.random.default_rng(5), 2.0
    arm = PathArm(Mode.OSC)
    for _ in range(20):
        start = arm.now
        rows = np.array([turned(rate * (start + k / 30)) for k in range(15)])
        rows[:, 3:] *= rng.choice([-1.0, 1.0], (15, 1))
        arm.follow(rows, start=start)
        arm.advance(start + 0.25)
    p, v, _ = arm.columns()
    q = p[:, 3:] / np.linalg.norm(p[:, 3:], axis=1, keepdims=True)
    angles = np.unwrap(4.0 * np.arctan2(q @ turned(np.pi)[3:], q @ POSE[3:]), period=4.0 * np.pi)
    speed = np.diff(angles[1000:]) / CYCLE / 2.0
    assert abs(angles[-1]) / 2.0 > 3.0 * np.pi
    assert np.abs(np.abs(speed) - rate).max() < 0.1


def test_the_seam_of_poses_is_smooth_in_position_and_orientation():
    arm = PathArm(Mode.OSC)
    arm.follow(np.tile(POSE, (40, 1)))
    arm.advance(0.2)
    aside = turned(0.1)
    aside[:3] += 0.02
    ticket = arm.follow(np.tile(-aside * np.array([-1] * 3 + [1] * 4), (40, 1)))
    arm.advance(2.0)
    assert ticket.seam == pytest.approx((0.02 * np.sqrt(3.0), 0.1))
    assert_smooth(arm, 32.0 * 0.05 / 0.3**3)  # Half of the angle, which takes longer than 2 cm.
    p = arm.columns()[0][-1]
    assert p[:3] == pytest.approx(aside[:3])
    assert abs(np.dot(p[3:], aside[3:])) == pytest.approx(1.0, abs=1e-9)


# Velocities.


def test_joint_velocities_begin_where_the_arm_is_going_and_end_at_rest():
    arm = PathArm(chunk_end="rest")
    for _ in range(5):
        arm.follow(np.full((8, 7), 0.2), 1 / 15, kind="dq")
        arm.advance(arm.now + 0.3)
    arm.advance(arm.now + 2.0)
    p, v, _ = arm.columns()
    assert_smooth(arm, 2.0 * SEAM_JERK)
    assert v[400:1500] == pytest.approx(0.2, abs=0.01)
    # From the last arrival on, eight steps.
    assert p[-1] - p[1199] == pytest.approx(0.2 * 8 / 15, abs=0.01)
    assert v.min() > -1e-3


def test_a_twist_is_in_the_axes_of_the_base():
    arm = PathArm(Mode.OSC)
    arm.follow(np.tile([0.1, 0.0, 0.0, 0.0, 0.0, 0.5], (15, 1)), 0.1, kind="twist")
    arm.advance(3.0)
    p = arm.columns()[0][-1]
    assert p[:3] - POSE[:3] == pytest.approx([0.15, 0.0, 0.0], abs=5e-3)
    q = p[3:] / np.linalg.norm(p[3:])
    assert abs(np.dot(q, turned(0.75)[3:])) == pytest.approx(1.0, abs=1e-3)


# What is not right.


def test_outliers_are_cut_to_the_limits_and_counted():
    arm = PathArm()
    rows = wave(np.arange(30) / 30)
    rows[12] += 1.0
    assert arm.follow(rows).clipped >= 1
    arm.advance(2.0)
    # max_joint_velocity for one step.
    assert np.abs(arm.columns()[0] - HOME).max() < 0.5


def test_a_chunk_far_from_the_one_before_is_approached_slowly():
    arm = PathArm()
    arm.follow(np.tile(HOME, (100, 1)))
    arm.advance(0.2)
    ticket = arm.follow(np.tile(HOME + np.array([0.7, 0, 0, 0, 0, 0, 0]), (100, 1)))
    arm.advance(6.0)
    p, v, _ = arm.columns()
    assert ticket.seam[1] == pytest.approx(0.7)
    assert v.max() <= 0.31  # approach_joint_velocity is 0.3.
    assert p[-1, 0] == pytest.approx(HOME[0] + 0.7)


def test_a_chunk_far_from_the_arm_is_left_to_the_control_process_to_approach():
    arm = PathArm()
    ticket = arm.follow(np.tile(HOME + 0.2, (100, 1)))
    assert ticket.seam[1] == pytest.approx(0.2)
    assert arm.path is not None
    assert arm.path.at(0.0)[0] == pytest.approx(HOME + 0.2)


ROWS = np.tile(HOME, (10, 1))
DT = np.arange(10) / 30


def changed(row: int, column: int, value: float) -> Array:
    rows = ROWS.copy()
    rows[row, column] = value
    return rows


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        (Chunk("q", DT, changed(3, 2, np.nan)), "not finite"),
        (Chunk("q", DT, changed(9, 6, np.inf)), "not finite"),
        (Chunk("q", np.append(DT[:9], np.nan), ROWS), "not finite"),
        (Chunk("q", DT, ROWS[:, :6]), "wrong size"),
        (Chunk("q", DT[:9], ROWS), "wrong size"),
        (Chunk("q", DT, HOME), "wrong size"),
        (Chunk("q", np.zeros(0), np.zeros((0, 7))), "no points"),
        (Chunk("q", np.zeros(0), []), "no points"),
        (Chunk("q", DT[::-1], ROWS), "wrong times"),
        (Chunk("q", np.zeros(10), ROWS), "wrong times"),
        (Chunk("q", np.arange(10_000) / 30, np.tile(HOME, (10_000, 1))), "too many points"),
        (Chunk("q", DT, [["a"] * 7] * 10), "wrong type"),
        (Chunk("q", DT, [ROWS[:9], 3.0]), "wrong type"),
        (Chunk("ee", DT, np.tile(POSE, (10, 1))), "another mode"),
        (Chunk("twist", DT, np.zeros((10, 6))), "another mode"),
        (Chunk("joints", DT, ROWS), "another kind"),
        (Chunk("q", DT, ROWS, start=-2.0), "too late"),
        (Chunk("q", DT, ROWS, start=2.0), "from the future"),
        (Chunk("q", 5.0 + DT, ROWS), "from the future"),
    ],
)
def test_a_chunk_that_cannot_be_used_is_refused(chunk: Any, reason: str):
    arm = PathArm()
    arm.advance(1.0)
    with pytest.raises(InvalidTarget) as caught:
        arm.player.follow(chunk, arm.now)
    assert caught.value.reason == reason
    assert len(str(caught.value)) < 300
    assert arm.path is None


def test_a_refused_chunk_leaves_the_one_in_force():
    arm = PathArm()
    running = arm.follow(wave(np.arange(30) / 30), start=arm.now)
    arm.advance(0.5)
    with pytest.raises(InvalidTarget):
        arm.follow(ROWS[:, :6])
    arm.advance(3.0)
    assert running.outcome is Outcome.FINISHED


def test_a_chunk_from_an_older_observation_is_refused():
    arm = PathArm()
    arm.advance(0.5)
    arm.follow(np.tile(HOME, (50, 1)), start=0.4)
    arm.advance(0.6)
    with pytest.raises(InvalidTarget) as caught:
        arm.follow(np.tile(HOME, (50, 1)), start=0.3)
    assert caught.value.reason == "stale"
    arm.follow(np.tile(HOME, (50, 1)), start=0.4)
    arm.advance(5.0)
    arm.follow(np.tile(HOME, (50, 1)), 0.2, start=0.3)  # Nothing runs any more that it could be older than.


def test_the_observation_of_another_client_may_be_older():
    arm = PathArm()
    arm.advance(0.5)
    first = arm.follow(np.tile(HOME, (50, 1)), start=0.4)
    arm.player.follow(Chunk("q", np.arange(50) / 30, np.tile(HOME, (50, 1)), 0.3), arm.now, other=True)
    arm.advance(0.6)
    assert first.outcome is Outcome.REPLACED


@pytest.mark.parametrize("violation", ["clip", "refuse"])
@pytest.mark.parametrize("wrong", [0.6, -HOME, 4.0])
def test_a_row_that_is_past_neither_drags_the_others_nor_is_a_reason_to_refuse(violation, wrong):
    arm = PathArm(chunk_violation=violation)
    arm.advance(0.5)
    rows = np.tile(HOME, (50, 1))
    rows[:2] += wrong
    ticket = arm.follow(rows, start=arm.now - 0.1)
    assert (ticket.dropped, ticket.clipped) == (3, 0)
    arm.advance(2.0)
    assert np.abs(arm.columns()[0] - HOME).max() < 0.02


def test_a_pose_that_is_past_neither_drags_the_others_nor_is_a_reason_to_refuse():
    arm = PathArm(Mode.OSC, chunk_violation="refuse")
    arm.advance(0.5)
    rows = np.tile(POSE, (50, 1))
    rows[1] = -turned(2.0)
    rows[1, :3] = POSE[:3] + 0.3
    ticket = arm.follow(rows, start=arm.now - 0.1)
    assert (ticket.dropped, ticket.clipped) == (3, 0)
    arm.advance(2.0)
    assert np.abs(arm.columns()[0] - POSE).max() < 0.02


def test_velocities_that_are_past_are_no_reason_to_refuse():
    rows = np.zeros((20, 7))
    rows[1] = 5.0
    arm = PathArm(chunk_violation="refuse")
    arm.advance(0.5)
    arm.follow(rows, start=arm.now - 0.1, kind="dq")
    with pytest.raises(InvalidTarget) as caught:
        arm.follow(rows, start=arm.now - 0.05, kind="dq")  # The second row is in force until the third is due.
    assert caught.value.reason == "too fast"
    assert "point 1 is" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("motion_status", MotionStatus.EXECUTING, "during a move"),
        ("motion_status", MotionStatus.PAUSED, "during a move"),
        ("hold", Hold.ASKED, "held"),
        ("hold", Hold.PUSHED, "held"),
    ],
)
def test_a_chunk_is_refused_while_something_else_controls_the_arm(field, value, reason):
    arm = PathArm()
    setattr(arm, field, int(value))
    with pytest.raises(InvalidTarget) as caught:
        arm.follow(ROWS)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("kind", "values", "reason"),
    [
        ("q", changed(5, 0, 1.5), "jumps"),
        ("q", np.tile(HOME + np.array([4.0, 0, 0, 0, 0, 0, 0]), (10, 1)), "outside the limits"),
        ("dq", np.full((10, 7), 5.0), "too fast"),
    ],
)
def test_chunk_violation_may_refuse_what_it_otherwise_clips(kind, values, reason):
    with pytest.raises(InvalidTarget) as caught:
        PathArm(chunk_violation="refuse").follow(values, kind=kind)
    assert caught.value.reason == reason
    PathArm().follow(values, kind=kind)


def test_poses_that_jump_are_refused_or_clipped():
    rows = np.tile(POSE, (10, 1))
    rows[5, 0] += 0.3
    rows[7] = turned(2.0)
    with pytest.raises(InvalidTarget) as caught:
        PathArm(Mode.OSC, chunk_violation="refuse").follow(rows)
    assert caught.value.reason == "jumps"
    arm = PathArm(Mode.OSC)
    assert arm.follow(rows).clipped >= 2
    arm.advance(2.0)
    assert np.abs(arm.columns()[0][:, :3] - POSE[:3]).max() < 0.05


def test_what_is_no_quaternion_is_refused():
    rows = np.tile(POSE, (10, 1))
    rows[4, 3:] = 0.0
    with pytest.raises(InvalidTarget) as caught:
        PathArm(Mode.OSC).follow(rows)
    assert caught.value.reason == "not a quaternion"


def test_many_close_points_fit_into_what_the_control_process_has_for_a_path():
    arm = PathArm(chunk_freeze=0.4)
    for _ in range(5):
        arm.follow(np.tile(HOME, (128, 1)), 4e-3)
        arm.advance(arm.now + 0.05)
    assert arm.path is not None  # PathArm has counted its segments.


def test_a_chunk_of_one_point_moves_the_arm_there():
    arm = PathArm()
    arm.follow([HOME + 0.01])
    arm.advance(1.0)
    assert arm.columns()[0][-1] == pytest.approx(HOME + 0.01)
    assert_smooth(arm, 1.1 * SEAM_JERK)
