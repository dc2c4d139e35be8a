"""What a stream of targets is, computed from made-up streams of every kind, with the unevenness of a network."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aiofranka_ros.kernels import Array
from aiofranka_ros.streams.analysis import Analysis, Kind, analyse
from aiofranka_ros.streams.recording import Quantity, Stream

pytestmark = pytest.mark.unit

SEEDS = range(8)
#: Speed of the movement that is meant [m/s], how long it is watched [s], and how late messages are at most [s].
SPEED, DURATION, JITTER = 0.1, 5.0, 0.003
RNG = np.random.Generator


def path(times: Array, rng: RNG) -> Array:
    """A line, a circle of 5 cm, or a sine, at :data:`SPEED`; poses (n, 7) for ``times`` (n,)."""
    shape, phase = rng.integers(3), rng.uniform(0.0, 2.0 * math.pi)
    angle = SPEED / 0.05 * times + phase
    poses = np.tile([0.4, 0.0, 0.4, 1.0, 0.0, 0.0, 0.0], (len(times), 1))
    if shape == 0:
        poses[:, 1] += SPEED * times
    elif shape == 1:
        poses[:, 1:3] += 0.05 * np.column_stack([np.cos(angle), np.sin(angle)])
    else:
        poses[:, 1] += 0.1 * np.sin(0.5 * angle)
    return poses


def stream(sent: Array, values: Array, rng: RNG, stamps: Array | None = None, *, jitter: float = JITTER) -> Stream:
    """Messages in order, late by up to ``jitter``."""
    arrivals = np.maximum.accumulate(sent + jitter * rng.random(len(sent)))
    empty = np.full(len(sent), np.nan)
    return Stream(Quantity.POSE, arrivals, empty if stamps is None else stamps, values)


def steady(rate: float, rng: RNG) -> tuple[Array, Array]:
    """Times and poses of an even stream."""
    times = np.arange(0.0, DURATION, 1.0 / rate) + rng.random() / rate
    return times, path(times, rng)


def thinking(rate: float, pause: float, rng: RNG, actions: int = 8) -> tuple[Array, Array]:
    """A policy that plays some actions, and then computes the next ones, which continue from the last."""
    count = int(1.5 * DURATION * rate)
    times = np.arange(count) / rate + pause * (np.arange(count) // actions)
    return times[times < DURATION], path(np.arange(count) / rate, rng)[times < DURATION]


def held_back(rate: float, rng: RNG, blocked: float = 0.15) -> tuple[Array, Array, Array]:
    """When an even stream arrives whose messages the network holds back once a second; its poses and stamps."""
    times, values = steady(rate, rng)
    arrivals = np.where(times % 1.0 < 1.0 - blocked, times, np.floor(times) + 1.0)
    for i in range(1, len(arrivals)):
        arrivals[i] = max(arrivals[i], arrivals[i - 1] + 0.002)
    return arrivals, values, times


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rate", [1.5, 2.0, 3.0, 5.0, 10.0, 15.0, 25.0, 50.0, 100.0, 200.0])
def test_an_even_stream_is_dense_or_slow_by_its_rate(rate: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = analyse(stream(*steady(rate, rng), rng))
    assert found.kind is (Kind.DENSE if rate > 35.0 else Kind.SLOW)
    assert 1.0 / found.rhythm.period == pytest.approx(rate, rel=0.05)
    assert found.rhythm.rate == pytest.approx(rate, rel=0.05)
    assert found.rhythm.repeats == pytest.approx(1.0, abs=0.02)  # Two targets of a path may be equal.
    assert not found.noisy and found.gaps.outliers == 0 and len(found.gaps.jumps) == 0
    assert found.stamps.given == 0.0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("policy", "published"), [(10.0, 50.0), (15.0, 50.0), (25.0, 50.0), (10.0, 200.0), (3.0, 30.0)]
)
def test_a_policy_whose_targets_are_published_again_is_repeated(policy: float, published: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = np.arange(0.0, DURATION, 1.0 / published)
    made = np.floor(times * policy + rng.random()).astype(int)
    found = analyse(stream(times, path(np.arange(made[-1] + 1) / policy, rng)[made], rng))
    assert found.kind is Kind.REPEATED
    assert 1.0 / found.rhythm.period == pytest.approx(policy, rel=0.1)
    assert found.rhythm.rate == pytest.approx(published, rel=0.05)
    assert found.rhythm.repeats == pytest.approx(published / policy, rel=0.1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("repeated", [0.0, 50.0])
@pytest.mark.parametrize(
    ("rate", "pause", "actions"), [(15.0, 0.3, 8), (15.0, 0.6, 8), (30.0, 0.3, 8), (10.0, 0.5, 16)]
)
def test_a_policy_that_pauses_and_continues_from_its_last_action_stops_and_thinks(
    rate: float, pause: float, actions: int, repeated: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    times, values = thinking(rate, pause, rng, actions)
    if repeated:
        published = np.arange(times[0], DURATION, 1.0 / repeated)
        values, times = values[np.searchsorted(times, published, side="right") - 1], published
    found = analyse(stream(times, values, rng))
    assert found.kind is Kind.THINKING
    # 30 Hz, published at 50 Hz, comes after 20 or 40 ms.
    assert 1.0 / found.rhythm.period == pytest.approx(rate, rel=0.15)
    assert np.median(found.gaps.thought) == pytest.approx(pause + 1.0 / rate, abs=0.03)
    assert len(found.gaps.lost) == len(found.gaps.held) == len(found.gaps.jumps) == 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("stamped", [False, True])
@pytest.mark.parametrize("rate", [50.0, 90.0])
def test_messages_that_the_network_holds_back_are_bursts(rate: float, stamped: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrivals, values, times = held_back(rate, rng)
    found = analyse(stream(arrivals, values, rng, times if stamped else None, jitter=0.0005))
    assert found.kind is Kind.BURST
    assert 1.0 / found.rhythm.period == pytest.approx(rate, rel=0.05)
    assert len(found.gaps.held) >= 3
    assert len(found.gaps.thought) == len(found.gaps.jumps) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_poses_that_come_at_once_with_stamps_in_the_future_are_ahead_of_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, step = 8, 0.066
    index = np.arange(10 * count)
    stamps = step * index
    sent = step * count * (index // count) + 0.001 * (index % count)
    found = analyse(stream(sent, path(stamps, rng), rng, stamps, jitter=0.0005))
    assert found.kind is Kind.AHEAD
    assert found.rhythm.period == pytest.approx(step, rel=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_messages_that_were_lost_are_no_pauses(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times, values = steady(50.0, rng)
    kept = (times % 1.0) > 0.2
    found = analyse(stream(times[kept], values[kept], rng))
    assert found.kind is Kind.DENSE
    assert len(found.gaps.lost) >= 3 and len(found.gaps.held) == 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("pause", [0.0, 1.0])
@pytest.mark.parametrize("rate", [10.0, 50.0])
def test_a_stream_that_resumes_elsewhere_has_a_jump(rate: float, pause: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    times, values = steady(rate, rng)
    after = times > 2.5
    values[after, 2] += 0.3
    found = analyse(stream(times + pause * after, values, rng))
    assert found.kind is (Kind.DENSE if rate > 35.0 else Kind.SLOW)
    assert len(found.gaps.jumps) == 1
    assert found.gaps.jumps[0, 0] == pytest.approx(0.3, abs=0.1)
    assert found.gaps.outliers == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_targets_that_jump_away_and_back_are_outliers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times, values = steady(50.0, rng)
    which = rng.choice(np.arange(5, len(times) - 5, 3), 5, replace=False)
    values[which, :3] += 0.1
    found = analyse(stream(times, values, rng))
    assert found.gaps.outliers == 5 and len(found.gaps.jumps) == 0
    assert found.kind is Kind.DENSE and not found.noisy


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("noise", [0.0005, 0.002])
def test_noise_is_measured_at_rest_and_in_motion(noise: float, moving: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    times, values = steady(50.0, rng)
    if not moving:
        values[:] = values[0]
    values[:, :3] += noise / math.sqrt(3.0) * rng.standard_normal((len(times), 3))
    found = analyse(stream(times, values, rng))
    assert found.noisy
    assert found.movement.noise[0] == pytest.approx(noise, rel=0.35)
    assert found.kind is (Kind.DENSE if moving else Kind.RESTING)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_rotation_is_a_movement(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = np.arange(0.0, DURATION, 0.02)
    poses = np.tile([0.4, 0.0, 0.4, 0.0, 0.0, 0.0, 1.0], (len(times), 1))
    angle = 0.5 * times + rng.uniform(-3.0, 3.0)
    sign = np.where(rng.random(len(times)) < 0.5, -1.0, 1.0)  # Both quaternions are the same rotation.
    poses[:, 5], poses[:, 6] = sign * np.sin(0.5 * angle), sign * np.cos(0.5 * angle)
    found = analyse(stream(times, poses, rng))
    assert found.kind is Kind.DENSE and not found.noisy
    assert found.movement.speed[1] == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("offset", [3.0, -3.0, 0.05])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_clock_of_another_computer_shows_in_the_age_of_its_stamps(offset: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    times, values = steady(50.0, rng)
    found = analyse(stream(times, values, rng, times - offset))
    assert found.kind is Kind.DENSE
    assert found.stamps.usable
    assert found.stamps.age == pytest.approx(offset, abs=JITTER)


@pytest.mark.parametrize("seed", SEEDS)
def test_stamps_that_do_not_change_or_go_backwards_are_not_usable(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times, values = steady(50.0, rng)
    constant = analyse(stream(times, values, rng, np.full(len(times), -1.0)))
    assert constant.stamps.constant and not constant.stamps.usable and constant.kind is Kind.DENSE
    swapped = times.copy()
    swapped[[50, 51]] = swapped[[51, 50]]
    backwards = analyse(stream(times, values, rng, swapped))
    assert backwards.stamps.backwards == 1 and not backwards.stamps.usable and backwards.kind is Kind.DENSE
    some = times.copy()
    some[::2] = np.nan
    assert analyse(stream(times, values, rng, some)).stamps.given == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("quantity", "columns"), [(Quantity.TWIST, 6), (Quantity.JOINT_VELOCITY, 7), (Quantity.TORQUE, 7)]
)
def test_the_same_velocity_again_is_a_new_target(quantity: Quantity, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = np.arange(0.0, DURATION, 1.0 / 30.0)
    made = stream(times, np.full((len(times), columns), 0.1), rng)
    found = analyse(Stream(quantity, made.arrivals, made.stamps, made.values))
    assert found.kind is Kind.SLOW
    assert 1.0 / found.rhythm.period == pytest.approx(30.0, rel=0.05)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("quantity", list(Quantity))
def test_few_messages_are_no_error(quantity: Quantity, count: int) -> None:
    rng = np.random.default_rng(count)
    columns = {Quantity.POSE: 7, Quantity.TWIST: 6}.get(quantity, 7)
    values = rng.standard_normal((count, columns))
    found: Analysis = analyse(Stream(quantity, np.arange(count) * 2.0, np.full(count, np.nan), values))
    assert found.kind is (Kind.NOTHING if count == 0 else Kind.SINGLE)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_target_that_is_only_repeated_is_at_rest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times, values = steady(50.0, rng)
    found = analyse(stream(times, np.tile(values[0], (len(times), 1)), rng))
    assert found.kind is Kind.RESTING and not found.noisy
    assert found.rhythm.targets == 1
