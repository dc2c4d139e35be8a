"""Streams as policies send them: slow, repeated, late, in bursts and with pauses; the arm moves evenly all the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_reference import CYCLE, Stream, advance_joints, joints

from aiofranka_ros.control.records import Interpolation
from aiofranka_ros.model import fr3

pytestmark = pytest.mark.unit

#: The speed that is meant [m/s], and a circle at about that speed: radius [m] and turns a second.
SPEED, RADIUS, TURNS = 0.1, 0.05, 0.3
Path = Callable[[float], np.ndarray]
#: Time of arrival [s], position [m], stamp [s].
Message = tuple[float, np.ndarray, float | None]


def line(t: float) -> np.ndarray:
    return np.array([SPEED * t, 0.0, 0.0])


def circle(t: float) -> np.ndarray:
    angle = 2.0 * np.pi * TURNS * t
    return RADIUS * np.array([np.cos(angle) - 1.0, np.sin(angle), 0.0])


def messages(
    path: Path, rate: float, publish_rate: float = 0.0, *, stamped: bool = False, seconds: float = 4.0,
    unevenness: float = 0.0, lost: float = 0.0,
) -> list[Message]:  # fmt: skip
    """A policy of ``rate`` [Hz] whose newest target is published at ``publish_rate``; 0: each target once.

    :param unevenness: of the arrivals, in periods.
    :param lost: share of messages.
    """
    rng, sent = np.random.default_rng(2), []
    for t in np.arange(0.0, seconds, 1.0 / (publish_rate or rate)):
        made = np.floor(t * rate + 1e-9) / rate
        arrival = 0.1 + t + unevenness / rate * rng.uniform(-0.5, 0.5)
        if not 0.0 < rng.uniform() < lost:
            sent.append((arrival, path(made), t if stamped else None))
    return sent


def played(sent: Iterable[Message], seconds: float = 4.0, **settings: float) -> Stream:
    stream = Stream(**settings)
    # Of targets that come within a cycle, the control process has the last one.
    cycles: dict[int, list[Message]] = defaultdict(list)
    for message in sorted(sent, key=lambda message: message[0]):
        cycles[round(message[0] / CYCLE)].append(message)
    for cycle, came in cycles.items():
        stream.advance(cycle - stream.cycle)
        _, position, stamp = came[-1]
        stream.memory["targets_passed"] = len(came)
        stream.target(position, stamp=stamp)
    stream.advance(max(round(seconds / CYCLE) - stream.cycle, 0))
    return stream


def speeds(stream: Stream, begin: float = 0.0, end: float = 4.0) -> np.ndarray:
    """Of the reference, as shares of the speed that was meant."""
    return np.linalg.norm(stream.velocities, axis=1)[round(begin / CYCLE) : round(end / CYCLE)] / SPEED


def reversal(stream: Stream) -> float:
    """How far the reference went back along the line [m]."""
    x = stream.positions[:, 0]
    return float((np.maximum.accumulate(x) - x).max())


@pytest.mark.parametrize(
    ("rate", "publish_rate", "stamped"),
    [
        *((rate, 0, False) for rate in (100, 50, 40, 33, 30, 25, 20, 15, 10, 7, 5, 3)),
        *((rate, 0, True) for rate in (50, 15, 5)),
        *((rate, 50, False) for rate in (25, 15, 10, 5, 3)),
        *((rate, 50, True) for rate in (40, 15)),
        *((13, 47, False), (20, 100, False), (50, 500, False)),
    ],
)
def test_a_steady_movement_is_steady_however_often_its_targets_come(rate, publish_rate, stamped):
    stream = played(messages(line, rate, publish_rate, stamped=stamped))
    settled = speeds(stream, 1.1 + 1.0 / rate)
    assert 0.93 <= settled.min() <= settled.max() <= 1.07
    assert speeds(stream).max() <= 1.3
    assert reversal(stream) == 0.0


@pytest.mark.parametrize("rate", [200, 50, 10])
@pytest.mark.parametrize("speed", [0.1, 0.3, 0.6])
def test_a_stream_that_starts_at_full_speed_is_caught_up_with_slowly(rate, speed):
    """The reference needs time to accelerate, and what it is behind by then must not make it fast."""
    stream = played(messages(lambda t: line(t * speed / SPEED), rate))
    assert speeds(stream).max() <= 1.25 * speed / SPEED
    late = speed * (stream.cycle * CYCLE - 0.1) - stream.positions[-1, 0]
    assert late <= speed * (2.0 / rate + 0.05 if rate < 40 else 2e-3)


@pytest.mark.parametrize("rate", [200, 50, 10])
@pytest.mark.parametrize("speed", [0.3, 0.8])
def test_a_turn_that_starts_at_full_speed_is_caught_up_with_slowly(rate, speed):
    stream = Stream()
    for k in range(3 * rate):
        stream.target(np.zeros(3), orientation=Rotation.from_rotvec([0.0, 0.0, speed * k / rate]).as_quat())
        stream.advance(1000 // rate)
    turns = Rotation.from_quat([row[3] for row in stream.rows])
    assert (turns[1:] * turns[:-1].inv()).magnitude().max() / CYCLE <= 1.25 * speed


@pytest.mark.parametrize("rate", [200, 50, 10])
@pytest.mark.parametrize("speed", [0.2, 0.6])
def test_joints_that_start_at_full_speed_are_caught_up_with_slowly(rate, speed):
    stream, rows = Stream(), []
    for k in range(3 * rate):
        joints(stream, fr3.HOME + np.eye(7)[0] * speed * k / rate, k / rate)
        rows.append(advance_joints(stream, 1000 // rate))
    assert np.diff(np.concatenate(rows)[:, 0]).max() / CYCLE <= 1.25 * speed


@pytest.mark.parametrize(("rate", "publish_rate"), [(50, 0), (25, 0), (10, 0), (5, 0), (10, 50), (25, 50), (15, 50)])
def test_on_a_circle_the_speed_is_as_even_as_with_a_dense_stream(rate, publish_rate):
    dense = speeds(played(messages(circle, 100)), 1.3)
    settled = speeds(played(messages(circle, rate, publish_rate)), 1.3)
    assert settled.min() >= dense.min() - 0.05
    assert settled.max() <= dense.max() + 0.05


@pytest.mark.parametrize("rate", [30, 15, 10])
@pytest.mark.parametrize("pause", [0.1, 0.3, 1.5])
def test_a_policy_that_stops_to_think_is_not_outrun(rate, pause):
    """It continues from its last action, so whatever the arm has done in the pause would have to be undone."""
    sent, t = [], 0.1
    for k in range(32):
        t += 1.0 / rate + (pause if k % 8 == 0 else 0.0)
        sent.append((t, line(k / rate), None))
    stream = played(sent, t + 1.0)
    assert reversal(stream) <= 0.5e-3
    assert speeds(stream).max() <= 1.3
    assert stream.positions[-1, 0] == pytest.approx(line(31 / rate)[0], abs=1e-4)


def test_a_dense_stream_with_pauses_is_interpolated_after_the_first():
    sent, t = [], 0.1
    for k in range(48):
        t += 0.02 + (0.3 if k % 8 == 0 else 0.0)
        sent.append((t, line(k / 50), None))
    stream = played(sent, t)
    x = stream.positions[round(sent[16][0] / CYCLE) :, 0]
    assert stream.memory["interpolating"][0] == 1
    assert (np.maximum.accumulate(x) - x).max() <= 0.5e-3


def late(sent: Iterable[Message], jitter: float, seed: int) -> list[Message]:
    """The same messages, each of them late; they do not overtake one another.

    :param jitter: usual delay [s].
    """
    rng, delayed, last = np.random.default_rng(seed), [], 0.0
    for arrival, position, stamp in sent:
        last = max(last, arrival + abs(rng.normal(0.0, jitter)))
        delayed.append((last, position, stamp))
    return delayed


def held_back(stamped: bool) -> list[Message]:
    """A stream of 90 Hz that the network holds back for 150 ms in every second, then delivers at once."""
    sent, last = [], 0.0
    for k in range(360):
        t = k / 90
        arrival = max(0.1 + t if t % 1.0 < 0.75 else max(0.1 + t, np.floor(t) + 1.0), last + 0.002)
        sent.append((arrival, line(t), t if stamped else None))
        last = arrival
    return sent


@pytest.mark.parametrize("stamped", [False, True])
@pytest.mark.parametrize(
    ("jitter", "seed"), [(0.0, 0), *((0.001, seed) for seed in range(5)), *((0.002, seed) for seed in range(10))]
)
def test_a_burst_after_a_hold_up_is_as_if_nothing_had_been_held_up(stamped, jitter, seed):
    begin = round(1.1 / CYCLE)
    held, steady = (
        played(late(sent, jitter, seed)) for sent in (held_back(stamped), messages(line, 90, stamped=stamped))
    )
    count = min(len(held.rows), len(steady.rows))
    assert np.abs(held.positions[begin:count] - steady.positions[begin:count]).max() <= 2e-3
    assert np.abs(held.accelerations[begin:count] - steady.accelerations[begin:count]).max() <= 2.0
    assert speeds(held, 1.1).max() <= 1.2


@pytest.mark.parametrize("rate", [100, 50, 25, 10])
@pytest.mark.parametrize("seed", range(8))
def test_a_stream_whose_first_targets_are_uneven_starts_without_a_sprint(rate, seed):
    stream = played(late(messages(line, rate), 0.3 / rate, seed), 1.5)
    assert speeds(stream).max() <= 1.9


def test_noise_about_a_place_is_not_extrapolated():
    rng = np.random.default_rng(5)
    places = rng.normal(0.0, 1e-3, (200, 3))
    stream = played((0.1 + k / 50, place, None) for k, place in enumerate(places))
    furthest = np.linalg.norm(places, axis=1).max()
    assert np.linalg.norm(stream.positions, axis=1).max() < furthest
    assert speeds(stream, 0.5).max() < 1.2


def test_a_movement_that_turns_back_and_forth_is_no_noise():
    """It is followed as a slower one is, without a delay of several targets at each turn."""

    def swing(t: float) -> np.ndarray:
        return np.array([0.05 * np.sin(2.0 * np.pi * 0.5 * t), 0.0, 0.0])

    stream = played(messages(swing, 50))
    times = CYCLE * np.arange(1, len(stream.rows) + 1) - 0.1
    errors = stream.positions[:, 0] - np.array([swing(t)[0] for t in times])
    assert np.abs(errors[1500:]).max() < 2e-3


@pytest.mark.parametrize("stamped", [False, True])
@pytest.mark.parametrize("rate", [100, 50, 20, 10])
def test_uneven_arrivals_are_no_uneven_movement(rate, stamped):
    settled = speeds(played(messages(line, rate, stamped=stamped, unevenness=0.3)), 1.5)
    assert 0.85 <= settled.min() <= settled.max() <= 1.15


@pytest.mark.parametrize("rate", [100, 50])
def test_lost_messages_of_a_dense_stream_are_bridged(rate):
    settled = speeds(played(messages(line, rate, lost=0.02)), 1.1)
    assert 0.75 <= settled.min() <= settled.max() <= 1.15


def test_after_an_outage_the_reference_soon_meets_a_dense_stream_again():
    stream = played([sent for sent in messages(line, 50) if not 2.0 < sent[0] < 2.3])
    late = line(2.4)[0] - stream.positions[round(2.5 / CYCLE), 0]
    assert abs(late) < 1e-3


@pytest.mark.parametrize("outage", [0.1, 0.2, 0.3])
@pytest.mark.parametrize("rate", [20, 10])
def test_after_an_outage_the_arm_catches_up_with_a_slow_stream_without_a_sprint(rate, outage):
    stream = played([sent for sent in messages(line, rate) if not 2.0 < sent[0] < 2.0 + outage])
    assert speeds(stream).max() <= 1.4
    assert reversal(stream) <= 0.5e-3


@pytest.mark.parametrize(("rate", "publish_rate"), [(20, 0), (10, 0), (5, 0), (10, 50), (25, 100)])
def test_a_slow_stream_is_never_outrun(rate, publish_rate):
    stream = played(messages(lambda t: line(min(t, 2.0)), rate, publish_rate))
    assert stream.positions[:, 0].max() <= line(2.0)[0] + 0.5e-3
    assert stream.positions[-1, 0] == pytest.approx(line(2.0)[0], abs=1e-5)


def test_the_period_follows_a_policy_that_changes_its_rate():
    times = np.concatenate([np.arange(0.1, 2.0, 0.1), np.arange(2.0, 3.0, 0.02), np.arange(3.0, 6.0, 0.1)])
    stream, periods = Stream(), []
    for t in times:
        stream.advance(round(t / CYCLE) - stream.cycle)
        stream.target(line(t))
        periods.append((t, float(stream.memory["period"][0]), int(stream.memory["interpolating"][0])))
    for begin, end, period, interpolating in ((1.0, 2.0, 0.1, 1), (2.5, 3.0, 0.02, 0), (4.5, 6.0, 0.1, 1)):
        learned = [said[1:] for said in periods if begin < said[0] < end]
        assert learned == [(pytest.approx(period), interpolating)] * len(learned)


def test_the_setting_decides_whether_to_interpolate():
    """The delay of a dense stream is a period and what the playhead needs to slow down."""
    lag = {}
    for choice in Interpolation:
        stream = played(messages(line, 50), interpolation=choice)
        lag[choice] = (line(stream.cycle * CYCLE - 0.1)[0] - stream.positions[-1, 0]) / SPEED
    assert lag[Interpolation.AUTO] == lag[Interpolation.EXTRAPOLATE] == pytest.approx(0.0, abs=2e-3)
    assert 0.02 < lag[Interpolation.INTERPOLATE] < 0.08


def test_another_sender_has_another_period():
    stream = played(messages(line, 10, seconds=2.0), 2.0)
    assert stream.memory["period"][0] == pytest.approx(0.1)
    stream.commands["stream_id"] += 1
    stream.target(stream.positions[-1])
    assert stream.memory["period"][0] == 0.0


def test_a_target_that_comes_before_it_is_due_waits_for_its_time():
    """Eight poses at once, as a chunk of actions."""
    stream, step = Stream(), 66e-3
    for _ in range(10):
        stream.target(line(0.0))  # The client before repeated its last target.
        stream.advance(20)
    stream.commands["stream_id"] += 1
    stream.target(line(0.0), stamp=stream.cycle * CYCLE)
    stream.advance(3)
    begin = stream.cycle * CYCLE
    for k in range(1, 9):
        due = begin + k * step
        stream.commands["target_lead"] = int(1e9 * (due - stream.cycle * CYCLE))
        stream.target(line(k * step), stamp=due)
        stream.advance(10)  # Passed on one after the other.
    stream.advance(1000)
    for k in range(1, 9):
        late = 5e-3 if k < 5 else 2e-3  # It starts from rest.
        assert stream.positions[round((begin + k * step) / CYCLE), 0] == pytest.approx(line(k * step)[0], abs=late)
    assert speeds(stream).max() <= 1.3
    assert stream.positions[:, 0].max() <= line(8 * step)[0] + 0.5e-3


def test_a_path_whose_times_are_given_starts_in_time_from_rest():
    """Nothing came before it: only without given times may the start of a stream take as long as it needs."""
    stream, step = Stream(), 66e-3
    begin = stream.cycle * CYCLE + 0.05
    for k in range(1, 7):
        due = begin + k * step
        stream.commands["target_lead"] = int(1e9 * (due - stream.cycle * CYCLE))
        stream.target(line(k * step), stamp=due)
        stream.advance(2)
    stream.advance(1000)
    late = [line(k * step)[0] - stream.positions[round((begin + k * step) / CYCLE), 0] for k in range(1, 7)]
    assert max(late) < 0.25 * step * SPEED


@pytest.mark.parametrize(("rate", "repeat"), [(50, 1), (10, 1), (10, 5), (3, 1)])
def test_joint_targets_move_as_evenly_as_poses(rate, repeat):
    stream, rows = Stream(), []
    for k in range(4 * rate):
        for j in range(repeat):
            joints(stream, fr3.HOME + 0.2 * k / rate, (k + j / repeat) / rate)
            rows.append(advance_joints(stream, round(1000 / rate / repeat)))
    velocity = np.diff(np.concatenate(rows), axis=0)[1500:] / CYCLE
    assert 0.93 * 0.2 <= velocity.min() <= velocity.max() <= 1.07 * 0.2


def test_whatever_comes_the_reference_stays_within_its_limits():
    """Targets at random times, far and near, repeated, with stamps of any kind, from now on or from the future."""
    rng = np.random.default_rng(4)
    stream = Stream(max_linear_velocity=0.5, max_linear_acceleration=4.0)
    for _ in range(1500):
        stream.commands["target_lead"] = rng.choice([0, 0, int(1e9 * rng.uniform(0.0, 0.6))])
        stream.commands["stream_id"] += rng.choice([0, 0, 0, 0, 1])
        stamp = rng.choice([None, stream.cycle * CYCLE, stream.cycle * CYCLE + rng.uniform(-1.0, 1.0)])
        position = rng.choice([np.zeros(3), rng.normal(0.0, 0.1, 3)])
        stream.target(position, stamp=stamp)
        stream.advance(int(rng.choice([0, 1, 3, 20, 20, 100])))
    assert np.isfinite(stream.positions).all()
    assert np.linalg.norm(stream.velocities, axis=1).max() <= 0.5 * 1.02
    assert np.linalg.norm(stream.accelerations, axis=1).max() <= 4.0 + 1e-9


def test_a_stream_that_starts_smoothly_is_soon_followed_without_delay():
    """It begins with a repetition, by which it looks slow, and so is interpolated at first."""

    def smooth(t: float) -> np.ndarray:
        u = np.clip(t, 0.0, 1.0)
        return line(u**3 - 0.5 * u**4 + max(t - 1.0, 0.0))

    stream = played(messages(smooth, 50))
    times = CYCLE * np.arange(1, len(stream.rows) + 1) - 0.1
    late = np.array([smooth(t)[0] for t in times]) - stream.positions[:, 0]
    assert np.abs(late[400:]).max() < 0.8e-3
    assert np.abs(stream.accelerations).max() < 1.0


def test_a_stream_that_begins_where_the_last_one_ended_starts_as_any_other():
    stream = played([(0.1, line(0.0), None)], 1.5)
    for sent in messages(line, 10, 50):
        stream.advance(round((1.5 + sent[0]) / CYCLE) - stream.cycle)
        stream.target(sent[1])
    assert speeds(stream, 1.5, 5.0).max() <= 1.3
