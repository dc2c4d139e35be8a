"""What an arm did with a stream, computed from made-up measurements."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_stream_kinds import DURATION, SEEDS, SPEED, held_back, path, steady, stream, thinking

from aiofranka_ros.kernels import Array
from aiofranka_ros.streams.analysis import analyse
from aiofranka_ros.streams.chunks import Chunk
from aiofranka_ros.streams.recording import Measured, Quantity, Stream
from aiofranka_ros.streams.response import Response, compare, compare_chunks, respond

pytestmark = pytest.mark.unit

#: When the state is published [s].
AT = np.arange(0.0, DURATION, 0.01)


def of(targets: Stream, measured: Array, *, even: bool = True, at: Array = AT) -> Response:
    found = analyse(targets)
    comparison = compare(targets, found, Measured(at, measured))
    assert comparison is not None
    return respond(comparison, found.rhythm.period, even=even)


def along(way: Array) -> Array:
    """Poses (n, 7) of an arm that has covered ``way`` [m] (n,) of a line."""
    poses = np.tile([0.4, 0.0, 0.4, 1.0, 0.0, 0.0, 0.0], (len(way), 1))
    poses[:, 1] += way
    return poses


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("rate", "lag"), [(100.0, 0.02), (50.0, 0.005), (10.0, 0.145), (3.0, 0.42)])
def test_an_arm_that_follows_evenly_is_late_and_nothing_else(rate: float, lag: float, seed: int) -> None:
    rng, same = np.random.default_rng(seed), np.random.default_rng(seed + 1000)
    times = np.arange(0.0, DURATION, 1.0 / rate)
    shape = np.random.default_rng(seed + 1000)
    found = of(stream(times, path(times, shape), rng), path(np.maximum(AT - lag, 0.0), same))
    assert found.follows and found.unit == "m"
    assert found.lag == pytest.approx(lag, abs=0.005 + 0.05 / rate)
    assert found.slowest > 0.9 and found.fastest < 1.1
    # A slow stream cuts the corners of a circle, which the path between its targets does, too.
    assert found.reversal < 1e-3 and found.apart < 5e-3


@pytest.mark.parametrize("ripple", [0.1, 0.3])
def test_the_ripple_of_the_speed_is_measured(ripple: float) -> None:
    rng = np.random.default_rng(1)
    times = np.arange(0.0, DURATION, 0.1)
    omega = 2.0 * math.pi * 2.0
    way = SPEED * (AT - 0.1) + SPEED * ripple / omega * np.sin(omega * AT)
    found = of(stream(times, along(SPEED * times), rng), along(way))
    assert found.slowest == pytest.approx(1.0 - ripple, abs=0.04)
    assert found.fastest == pytest.approx(1.0 + ripple, abs=0.04)
    assert found.reversal == 0.0


@pytest.mark.parametrize("back", [0.0, 0.002, 0.008])
def test_an_arm_that_runs_ahead_in_a_pause_and_is_pulled_back_goes_backwards(back: float) -> None:
    rng = np.random.default_rng(1)
    times, _ = thinking(15.0, 0.4, rng)
    values = along(SPEED / 15.0 * np.arange(len(times)))
    targets = stream(times, values, rng)
    way = np.interp(AT - 0.1, times, values[:, 1])
    for end in times[np.flatnonzero(np.diff(times) > 0.2)]:
        way += back * np.clip((AT - end - 0.1) / 0.05, 0.0, 1.0) * (AT < end + 0.2)
        stands = (AT >= end + 0.15) & (AT < end + 0.5)
        way[stands] = np.interp(end, times, values[:, 1]) + back * np.interp(AT[stands], [end + 0.2, end + 0.3], [1, 0])
    found = of(targets, along(way), even=False)
    assert found.reversal == pytest.approx(back, abs=1e-3)


def test_joints_and_rotations_are_compared_likewise() -> None:
    rng = np.random.default_rng(1)
    times = np.arange(0.0, DURATION, 0.02)
    joints = np.outer(0.1 * np.sin(times), np.arange(1.0, 8.0))
    empty = np.full(len(times), np.nan)
    found = of(Stream(Quantity.JOINTS, times, empty, joints), np.outer(0.1 * np.sin(AT - 0.03), np.arange(1.0, 8.0)))
    assert found.unit == "rad" and found.lag == pytest.approx(0.03, abs=0.002)

    def turned(angle: Array) -> Array:
        poses = along(np.zeros(len(angle)))
        poses[:, 3:] = np.column_stack(
            [np.zeros(len(angle)), np.zeros(len(angle)), np.sin(0.5 * angle), np.cos(0.5 * angle)]
        )
        return poses

    found = of(stream(times, turned(0.3 * times), rng, jitter=0.0), turned(0.3 * (AT - 0.04)))
    assert found.unit == "rad" and found.lag == pytest.approx(0.04, abs=0.002)


@pytest.mark.parametrize("stamped", [False, True])
def test_a_burst_is_compared_with_the_times_at_which_its_messages_were_sent(stamped: bool) -> None:
    rng = np.random.default_rng(3)
    arrivals, _, times = held_back(90.0, rng)
    values = along(SPEED * times)
    found = of(stream(arrivals, values, rng, times if stamped else None, jitter=0.0), along(SPEED * (AT - 0.03)))
    assert found.lag == pytest.approx(0.03, abs=0.005)
    assert found.slowest == pytest.approx(1.0, abs=0.05) and found.fastest == pytest.approx(1.0, abs=0.05)


def test_an_arm_that_does_not_move_does_not_follow() -> None:
    rng = np.random.default_rng(1)
    found = of(stream(*steady(50.0, rng), rng), along(np.zeros(len(AT))))
    assert not found.follows


def test_nothing_is_compared_if_nothing_moves_or_nothing_was_measured() -> None:
    rng = np.random.default_rng(1)
    times, values = steady(50.0, rng)
    still = stream(times, np.tile(values[0], (len(times), 1)), rng)
    assert compare(still, analyse(still), Measured(AT, along(AT))) is None
    moving = stream(times, values, rng)
    assert compare(moving, analyse(moving), Measured(np.empty(0), np.empty((0, 7)))) is None
    torques = Stream(Quantity.TORQUE, times, moving.stamps, values)
    assert compare(torques, analyse(torques), Measured(AT, along(AT))) is None


def test_velocities_are_compared_with_the_way_that_they_add_up_to() -> None:
    times = np.arange(0.0, DURATION, 0.05)
    empty = np.full(len(times), np.nan)
    twists = np.zeros((len(times), 6))
    twists[:, 1] = np.where(times < 2.0, SPEED, 0.5 * SPEED)
    way = np.interp(AT - 0.06, [0.0, 2.0, DURATION], [0.0, 2.0 * SPEED, 2.0 * SPEED + 0.5 * SPEED * (DURATION - 2.0)])
    found = of(Stream(Quantity.TWIST, times, empty, twists), along(way))
    assert found.unit == "m" and found.lag == pytest.approx(0.06, abs=0.005)
    assert found.slowest == pytest.approx(1.0, abs=0.05) and found.fastest == pytest.approx(1.0, abs=0.05)
    joints = Stream(Quantity.JOINT_VELOCITY, times, empty, np.full((len(times), 7), 0.1))
    found = of(joints, np.tile(0.1 * np.maximum(AT - 0.06, 0.0)[:, None], (1, 7)))
    assert found.unit == "rad" and found.lag == pytest.approx(0.06, abs=0.005) and found.apart < 1e-3


def test_a_velocity_counts_no_longer_than_the_arm_follows_it() -> None:
    times = np.array([*np.arange(0.0, 2.0, 0.05), *np.arange(4.0, 5.0, 0.05)])
    twists = np.tile([0.0, SPEED, 0.0, 0.0, 0.0, 0.0], (len(times), 1))
    stopped = 1.95 + 0.25
    way = SPEED * np.interp(AT - 0.05, [0.0, stopped, 4.0, 5.0], [0.0, stopped, stopped, stopped + 1.0])
    found = of(Stream(Quantity.TWIST, times, np.full(len(times), np.nan), twists), along(way))
    assert found.lag == pytest.approx(0.05, abs=0.01) and found.apart < 2e-3


def test_chunks_are_compared_with_the_points_that_were_due() -> None:
    """A policy whose chunks are late, so that their first points are past, and whose last points are replaced."""
    chunks = []
    for i in range(9):
        stamp = 0.5 * i
        due = stamp + 0.05 * np.arange(20)
        values = along(SPEED * due)
        values[15:, 1] += 0.05 * (i < 8)  # Replaced before they are due.
        chunks.append(Chunk(stamp + 0.1, stamp, due - stamp, values))
    comparison = compare_chunks(Quantity.POSE, chunks, 0.05, Measured(AT, along(SPEED * np.minimum(AT - 0.02, 4.95))))
    assert comparison is not None
    found = respond(comparison, 0.05, even=True)
    assert found.lag == pytest.approx(0.02, abs=0.01)
    assert found.slowest == pytest.approx(1.0, abs=0.05) and found.fastest == pytest.approx(1.0, abs=0.05)
    assert compare_chunks(Quantity.POSE, [], 0.05, Measured(AT, along(AT))) is None
