"""How the benchmark of policies makes its chunks, what the rules of other projects send, and its figures."""

from __future__ import annotations

import numpy as np
import pytest

from aiofranka_ros.control.records import CYCLE_RECORD
from aiofranka_ros.model.fr3 import HOME
from bench.policies import figures, seams
from bench.policies.chunks import Case, Meant, Sent, mix
from bench.policies.reference_level import follow, play
from bench.policies.rules import RULES, by_index, merged, spline, timed
from bench.policies.seams import CYCLE, Played
from bench.policies.streams import KINDS, TURN_SPEED

pytestmark = pytest.mark.unit


class Straight(Meant):
    """All joints move at 0.2 rad/s from home."""

    SPEED = 0.2

    def __init__(self, duration: float = 4.0) -> None:
        self.duration = duration

    def at(self, times: np.ndarray) -> np.ndarray:
        return HOME + self.SPEED * np.atleast_1d(times)[:, None] * np.ones(7)


def straight(*arrivals: float, offsets: tuple[float, ...] = (), late: float = 0.1, dt: float = 0.1) -> Case:
    """Chunks of 20 rows, observed ``late`` [s] before they arrive, each ``offsets`` [rad] away from what is meant."""
    meant = Straight()
    sent = [
        Sent(arrival - late, arrival, meant.at(arrival - late + dt * np.arange(20)) + offset)
        for arrival, offset in zip(arrivals, offsets or (0.0,) * len(arrivals), strict=True)
    ]
    return Case("straight", meant, dt, sent)


def record(path, duration: float = 4.0) -> Played:
    times = np.arange(0.0, duration, CYCLE)
    return Played(times, path(times[:, None]) * np.ones(7))


def test_a_jerk_is_found() -> None:
    played = record(lambda t: 5.0 * t**3 / 6.0)
    jerk = seams.derivative(played.q, 3)[200:-200]
    np.testing.assert_allclose(jerk, 5.0, rtol=1e-6)


def test_a_lag_is_found() -> None:
    meant, rng = Meant(np.random.default_rng(1), 8.0), np.random.default_rng(2)
    case = Case("late", meant, 0.1, [Sent(0.0, 0.1, meant.at(np.zeros(1)))])
    times = np.arange(0.0, 8.0, CYCLE)
    played = Played(times, meant.at(times - 0.15) + rng.normal(0.0, 1e-4, (len(times), 7)))
    assert seams.lag(played, case) == pytest.approx(0.15, abs=3e-3)
    found = seams.figures(played, case)
    assert found["rms error without lag [mrad]"] < 0.02 * found["rms error [mrad]"]


def test_a_ripple_is_found() -> None:
    case = straight(0.1)
    # The speed is 1 ± 0.3 of what is meant: rms 0.3 / √2.
    played = record(lambda t: 0.2 * (t + 0.3 / 20.0 * (1.0 - np.cos(20.0 * t))))
    played = Played(played.time, HOME + played.q)
    assert seams.figures(played, case)["ripple"] == pytest.approx(0.3 / np.sqrt(2.0), rel=0.05)


def test_a_reversal_is_found() -> None:
    case = straight(0.1)

    def path(t: np.ndarray) -> np.ndarray:
        return 0.2 * t - 0.03 * np.clip((t - 2.0) / 0.1, 0.0, 1.0)  # Back by 0.03, forward by 0.02 within 0.1 s.

    played = record(path)
    back = seams.reversal(Played(played.time, HOME + played.q), case, 0.0)
    assert back == pytest.approx(0.01 * np.sqrt(7.0), rel=0.25)


def test_a_peak_counts_only_at_seams() -> None:
    times = np.arange(0.0, 4.0, CYCLE)
    values = np.where(np.abs(times - 1.1) < 0.01, 7.0, np.where(np.abs(times - 3.0) < 0.01, 9.0, 1.0))
    np.testing.assert_array_equal(seams.at_seams(times, values, np.array([1.0, 2.0])), [7.0, 1.0])


def test_torque_rates_are_those_of_the_cycles() -> None:
    case = straight(0.1, 1.0)
    played = record(lambda t: 0.2 * t)
    tau = np.where(played.time[:, None] < 1.2, 0.0, 0.5) * np.ones(7)
    found = seams.figures(Played(played.time, HOME + played.q, tau), case)
    assert found["peak torque rate [Nm/s]"] == pytest.approx(500.0)
    waited = np.where(tau[:, 0] > 0.0, 4, 1)  # It came after three cycles without a torque.
    found = seams.figures(Played(played.time, HOME + played.q, tau, waited), case)
    assert found["peak torque rate [Nm/s]"] == pytest.approx(125.0)


def test_a_policy_sends_the_same_chunks_each_time_and_some_are_lost() -> None:
    first, second = mix(20), mix(20)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.sent[-1].rows, other.sent[-1].rows)
    lengths = [len(case.sent[0].rows) for case in first]
    assert min(lengths) >= 8 and max(lengths) <= 50
    for case in first:
        assert all(chunk.arrives > chunk.observed for chunk in case.sent)
        assert (np.diff([chunk.arrives for chunk in case.sent]) > 0.0).all()
        assert np.abs(case.meant.velocity(np.arange(0.0, 10.0, 0.05))).max() <= 0.41


def test_rows_are_sent_at_their_index() -> None:
    targets = by_index(straight(0.1, 1.05, offsets=(0.0, 0.02)))
    offsets = (targets.values - Straight().at(targets.times))[:, 0]
    # The second chunk, observed at 0.95, counts from the step at 1.0 or 0.9, which is half a row from what is meant.
    np.testing.assert_allclose(offsets[targets.times < 1.05], 0.0, atol=1e-12)
    np.testing.assert_allclose(offsets[targets.times > 1.05], 0.02, atol=0.0101)


def test_actions_for_the_same_step_are_merged() -> None:
    targets = merged(straight(0.1, 1.0, offsets=(0.0, 0.02)))
    offsets = (targets.values - Straight().at(targets.times))[:, 0]
    np.testing.assert_allclose(offsets[(targets.times > 0.95) & (targets.times < 1.95)], 0.7 * 0.02, atol=1e-12)
    np.testing.assert_allclose(offsets[targets.times > 2.05], 0.02, atol=1e-12)  # Only the second chunk has these.


def test_a_spline_begins_with_the_last_command_and_its_velocity() -> None:
    targets = spline(straight(0.1, 1.05, offsets=(0.0, 0.02)))
    velocity = np.diff(targets.values[:, 0]) / CYCLE
    assert np.abs(np.diff(velocity)).max() < 0.02  # An acceleration of 20 rad/s²; a step of the velocity would be 0.2.
    late = targets.times > 1.3
    # At its end, it slows down.
    steady = late & (targets.times < 2.4)
    np.testing.assert_allclose((targets.values - Straight().at(targets.times + CYCLE))[steady, 0], 0.02, atol=2e-3)


def test_a_timer_is_late_by_what_the_inference_took() -> None:
    targets = timed(straight(0.5, 1.0, late=0.3))
    np.testing.assert_allclose((Straight().at(targets.times) - targets.values)[:, 0], 0.3 * Straight.SPEED, atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_without_an_arm_the_reference_follows_what_a_rule_sends(rule: str) -> None:
    case = straight(0.1, 1.0, 2.0)
    played = play(RULES[rule](case), case)
    found = seams.figures(played, case)
    assert found["rms error without lag [mrad]"] < 30.0
    assert -5.0 <= found["lag [ms]"] < 350.0


def test_without_an_arm_seams_of_chunks_are_gentler_than_those_of_any_rule() -> None:
    cases = mix(3)
    ours = seams.combined([seams.figures(follow(case), case) for case in cases])
    for rule in RULES.values():
        theirs = seams.combined([seams.figures(play(rule(case), case), case) for case in cases])
        for name in ("jerk [rad/s³]", "peak jerk [rad/s³]"):
            assert ours[name] <= 0.5 * theirs[name]
        # The newer a chunk is, the less wrong: to be gentle, the arm follows the older one a little longer.
        assert ours["rms error [mrad]"] <= 1.05 * theirs["rms error [mrad]"]


def cycles(turn: np.ndarray) -> np.ndarray:
    """Records of a hand that points downwards and turns about the vertical."""
    found = np.zeros(len(turn), CYCLE_RECORD)
    found["time"] = 5.0 + CYCLE * np.arange(len(turn))
    found["stamp"] = 1e9 * found["time"]
    found["orientation"] = np.stack([np.cos(turn / 2), np.sin(turn / 2), 0 * turn, 0 * turn], axis=1)
    return found


def test_the_speed_of_a_stream_that_turns_is_that_of_the_turn() -> None:
    kind = next(kind for kind in KINDS if kind.turning)
    sent = kind.messages()
    times = CYCLE * np.arange(4700)
    found = figures.result(kind, cycles(TURN_SPEED * (np.clip(times, 0.0, 4.0) - 0.05)), 5.0, np.zeros(3))
    values, wrong = figures.figures(found, sent, {})
    assert values["slowest"] == pytest.approx(1.0, abs=0.01) and values["fastest"] == pytest.approx(1.0, abs=0.01)
    assert values["lag [ms]"] == pytest.approx(0.0, abs=5.0) and not wrong


def test_every_stream_has_a_name_and_increasing_times() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    for kind in KINDS:
        assert (np.diff([message.sent for message in kind.messages()]) >= 0.0).all()
