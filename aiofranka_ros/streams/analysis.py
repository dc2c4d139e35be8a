"""Figures of a stream of single targets: its rhythm, its stamps, its pauses, its movement, and which kind it is.

Pure functions of arrays, called by :mod:`aiofranka_ros.streams.__main__` after the watch. The kinds are those of
``docs/policies.md``, and are told apart as the control process does it (:mod:`aiofranka_ros.control.law.stream`): by
the time between *different* targets, without pauses and bursts.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np

from aiofranka_ros.control.law.stream import SHORTEST_LEAD
from aiofranka_ros.kernels import Array
from aiofranka_ros.streams.recording import Quantity, Stream, Which, coordinates, parts

#: Streams with a shorter period are dense [s]: the control process extrapolates them.
DENSE = 1.0 / 35.0
#: Targets further apart than this are single ones [s].
RARE = 1.0
#: Beyond this many usual intervals, an interval is a gap; below the other share, two messages came together.
GAP, TOGETHER = 2.3, 0.5
#: Shorter gaps are a busy computer, not a pause of the policy or the network [s]; and so are few: all together, pauses
#: take at least this share of the time.
_SHORTEST_GAP, _PAUSES = 0.08, 0.05
#: More messages than this for each target are a repeated stream.
_REPEATED = 1.15
#: A target jumps if it is further away than near, and than this many usual steps, and after a gap than this many times
#: what the stream's speed explains.
_JUMP, _JUMP_IN_GAP = 4.0, 2.0
#: Noise shows as differences that point back and forth: this correlation of neighbours; white noise has -2/3.
_BACK_AND_FORTH = -0.3
#: Noise below this is rounding, as a share of what is near: 0.05 mm of a position, 0.13 mrad of a joint.
_NOISE = 0.0025
#: A stream that moves by less than this, as a share of what is near, is at rest: 2 mm, 5 mrad.
_REST = 0.1


class Kind(enum.Enum):
    """Which kind of stream it is, in the words of ``docs/policies.md``."""

    NOTHING = "no targets"
    RESTING = "at rest"
    SINGLE = "single targets"
    SLOW = "slow"
    DENSE = "dense"
    REPEATED = "repeated"
    THINKING = "stop and think"
    BURST = "burst"
    AHEAD = "ahead of time"


@dataclass(frozen=True)
class Rhythm:
    """When messages and targets come.

    :ivar messages: how many came.
    :ivar rate: of messages, without gaps [Hz]; NaN: fewer than two.
    :ivar interval: median time between two messages [s].
    :ivar jitter: of 95 of 100 messages, how far the time before them differs from that, gaps apart [s].
    :ivar longest: time between two messages [s].
    :ivar targets: how many messages had another target than the one before.
    :ivar period: usual time between two targets [s]; NaN: fewer than two.
    :ivar repeats: how many messages there are for a target while it moves.
    """

    messages: int
    rate: float
    interval: float
    jitter: float
    longest: float
    targets: int
    period: float
    repeats: float


@dataclass(frozen=True)
class Stamps:
    """What the headers say.

    :ivar given: share of messages that have a stamp.
    :ivar constant: whether all stamps are the same.
    :ivar backwards: how many are earlier than one before.
    :ivar age: median time from stamp to arrival [s]; negative: the stamp is in the future. NaN: there is none.
    :ivar youngest: smallest age [s].
    :ivar oldest: largest age [s].
    :ivar jitter: of 95 of 100 messages, how far their age differs from the median [s].
    """

    given: float
    constant: bool
    backwards: int
    age: float
    youngest: float
    oldest: float
    jitter: float

    @property
    def usable(self) -> bool:
        """Whether they say when targets were made."""
        return self.given == 1.0 and not self.constant and self.backwards == 0


@dataclass(frozen=True)
class Gaps:
    """Times without a new target that are longer than usual, by their cause.

    :ivar thought: lengths of pauses after which the stream continues from its last target [s].
    :ivar lost: lengths of gaps in which the stream moved on [s].
    :ivar held: lengths of gaps whose messages came together afterwards [s].
    :ivar bursts: numbers of messages that came together after each of ``held``.
    :ivar jumps: sizes of steps that the stream's speed does not explain, by part (j, 1 or 2) [m], [rad].
    :ivar outliers: how many targets jumped away and back.
    """

    thought: Array
    lost: Array
    held: Array
    bursts: Array
    jumps: Array
    outliers: int


@dataclass(frozen=True)
class Movement:
    """How the targets move; each tuple has an element for each part: [m] and [rad], or [rad].

    :ivar speed: the median [1/s].
    :ivar fastest: of 98 of 100 targets [1/s].
    :ivar noise: standard deviation of what goes back and forth from one target to the next.
    :ivar extent: distance between the ends of its range, without outliers.
    """

    speed: tuple[float, ...]
    fastest: tuple[float, ...]
    noise: tuple[float, ...]
    extent: tuple[float, ...]


@dataclass(frozen=True)
class Analysis:
    """Everything about a stream of single targets."""

    quantity: Quantity
    kind: Kind
    rhythm: Rhythm
    stamps: Stamps
    gaps: Gaps
    movement: Movement

    @property
    def noisy(self) -> bool:
        """Whether the noise matters: it is more than rounding, and not small compared with the steps."""
        shares = zip(self.movement.noise, self.quantity.near, self.movement.speed, strict=True)
        step = 0.0 if math.isnan(self.rhythm.period) else self.rhythm.period
        return any(noise > _NOISE * near and noise > 0.15 * speed * step for noise, near, speed in shares)


def analyse(stream: Stream) -> Analysis:
    """All figures of ``stream``."""
    stamps = stamps_of(stream)
    places = stream.different()
    rhythm = rhythm_of(stream, places, stamps)
    gaps, regular = gaps_of(stream, places, rhythm.period)
    movement = movement_of(stream, places, rhythm.period, regular)
    return Analysis(stream.quantity, kind_of(stream, rhythm, stamps, gaps, movement), rhythm, stamps, gaps, movement)


def usual(intervals: Array) -> float:
    """The usual one of ``intervals``: the mean without gaps and bursts; NaN: there is none."""
    if len(intervals) == 0:
        return math.nan
    middle = float(np.median(intervals))
    return float(np.mean(intervals[(intervals >= TOGETHER * middle) & (intervals <= GAP * middle)]))


def stamps_of(stream: Stream) -> Stamps:
    """What the stamps say."""
    given = np.isfinite(stream.stamps)
    stamps = stream.stamps[given]
    if len(stamps) == 0:
        return Stamps(0.0, False, 0, math.nan, math.nan, math.nan, math.nan)
    ages = stream.arrivals[given] - stamps
    newest = np.maximum.accumulate(stamps)
    age = float(np.median(ages))
    return Stamps(
        given=float(given.mean()),
        constant=len(stamps) > 2 and bool(np.ptp(stamps) == 0.0),
        backwards=int(np.count_nonzero(stamps[1:] < newest[:-1])),
        age=age,
        youngest=float(ages.min()),
        oldest=float(ages.max()),
        jitter=float(np.quantile(np.abs(ages - age), 0.95)),
    )


def rhythm_of(stream: Stream, places: Which, stamps: Stamps) -> Rhythm:
    """When messages and targets come.

    :param places: indices of the targets that differ from the one before.
    """
    between, times = np.diff(stream.arrivals), stream.arrivals[places]
    interval = float(np.median(between)) if len(between) else math.nan
    normal = between[between <= GAP * interval]
    of_targets = usual(np.diff(stream.stamps[places])) if stamps.usable else math.nan
    if not of_targets > 0.0:
        of_targets = usual(np.diff(times))
    whole = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else math.nan
    if not stamps.usable and whole > 10.0 * of_targets:  # Groups that come all at once do not say how long a step is.
        of_targets = whole
    rate = 1.0 / usual(between) if len(between) and usual(between) > 0.0 else math.nan
    if len(between) and between.sum() * rate > 10.0 * len(between):
        rate = len(between) / float(between.sum())
    # The messages of the last target are not all there, and while a stream stands still, repetitions say nothing.
    runs, lengths = np.diff(places), np.diff(times)
    moving = runs[lengths <= GAP * of_targets] if len(runs) else runs
    return Rhythm(
        messages=len(stream),
        rate=rate,
        interval=interval,
        jitter=float(np.quantile(np.abs(normal - interval), 0.95)) if len(normal) else math.nan,
        longest=float(between.max()) if len(between) else math.nan,
        targets=len(places),
        period=of_targets,
        repeats=float(moving.mean()) if len(moving) else float(len(stream) / max(len(places), 1)),
    )


def gaps_of(stream: Stream, places: Which, period: float) -> tuple[Gaps, Which]:
    """The gaps between targets, and which steps between them are regular (n - 1,) of bool.

    :param places: indices of the targets that differ from the one before.
    """
    times, values = stream.arrivals[places], stream.values[places]
    between = np.diff(times)
    steps = parts(stream.quantity, values[:-1], values[1:]) if len(values) > 1 else np.empty((0, 1))
    sizes = (steps / np.asarray(stream.quantity.near)[: steps.shape[1]]).max(axis=1) if len(steps) else np.empty(0)
    long = (between > GAP * period) & (between > _SHORTEST_GAP)
    step = float(np.median(sizes[~long])) if (~long).any() else 0.0
    jumped = sizes > 1.0 + step * (_JUMP + _JUMP_IN_GAP * between / period)
    jumped &= stream.quantity.is_place
    outliers = 0
    for i in np.flatnonzero(jumped[:-1] & jumped[1:]):
        back = parts(stream.quantity, values[i : i + 1], values[i + 2 : i + 3]) / np.asarray(stream.quantity.near)
        if jumped[i] and back.max() <= 1.0 + 2.0 * _JUMP * step:
            outliers += 1
            jumped[i] = jumped[i + 1] = False
            long[i] = long[i + 1] = False
            sizes[i] = sizes[i + 1] = np.inf
    thought, lost, held, bursts = [], [], [], []
    for i in np.flatnonzero(long & ~jumped):
        together = _together(between[i + 1 :], period)
        missing = between[i] / period - 1.0
        around = np.concatenate([sizes[max(i - 3, 0) : i], sizes[i + 1 + together : i + 4 + together]])
        local = float(np.median(around)) if len(around) else step
        if together >= max(2.0, 0.4 * missing):
            held.append(between[i])
            bursts.append(together + 1)
        elif local > 0.0 and (sizes[i] / local - 1.0) > 0.5 * missing:
            lost.append(between[i])
        else:
            thought.append(between[i])
    lengths = [np.array(found) for found in (thought, lost, held, bursts)]
    gaps = Gaps(lengths[0], lengths[1], lengths[2], lengths[3], steps[jumped], outliers)
    return gaps, ~long & ~jumped & np.isfinite(sizes)


def _together(between: Array, period: float) -> int:
    """How many messages came together at the beginning of ``between``."""
    apart = np.flatnonzero(between >= TOGETHER * period)
    return int(apart[0]) if len(apart) else len(between)


def movement_of(stream: Stream, places: Which, period: float, regular: Which) -> Movement:
    """How the targets move.

    :param places: indices of the targets that differ from the one before.
    :param regular: which of the steps between them are neither gaps nor jumps.
    """
    count = len(stream.quantity.units)
    if len(places) < 2:
        return Movement((0.0,) * count, (0.0,) * count, (0.0,) * count, (0.0,) * count)
    values = stream.values[places]
    steps = parts(stream.quantity, values[:-1], values[1:])[regular]
    speeds = steps / period if len(steps) and period > 0.0 else np.zeros((1, count))
    # An outlier lies between two steps that are not regular.
    inside = np.concatenate([[True], regular]) | np.concatenate([regular, [True]])
    noise, extent = [], []
    for vectors in coordinates(stream.quantity, values):
        noise.append(_noise(vectors, stream.arrivals[places], regular))
        ends = np.quantile(vectors[inside], (0.0, 1.0), axis=0)
        extent.append(float(np.linalg.norm(ends[1] - ends[0])))
    return Movement(
        tuple(np.median(speeds, axis=0).tolist()),
        tuple(np.quantile(speeds, 0.98, axis=0).tolist()),
        tuple(noise),
        tuple(extent),
    )


def _noise(vectors: Array, times: Array, regular: Which) -> float:
    """Standard deviation of what goes back and forth in ``vectors`` (n, k), the root of the sum over their axes.

    It is what is left of each one after the line between its neighbours, by number and by time: a policy that takes a
    value late is not noisy, nor is one whose messages are late.
    """
    usable = regular[1:] & regular[:-1]
    both = usable[1:] & usable[:-1]
    if np.count_nonzero(both) < 10:
        return 0.0
    before, middle, after = times[:-2, None], times[1:-1, None], times[2:, None]
    share = (middle - before) / np.maximum(after - before, 1e-9)
    results = []
    for weight in (0.5, share):
        left = vectors[1:-1] - (1.0 - weight) * vectors[:-2] - weight * vectors[2:]
        left -= np.median(left[usable], axis=0)
        here, there = left[1:][both], left[:-1][both]
        # Outliers must not hide the rest.
        most = 3.0 * np.median(np.linalg.norm(left[usable], axis=1)) + 1e-12
        kept = (np.linalg.norm(here, axis=1) <= most) & (np.linalg.norm(there, axis=1) <= most)
        here, there = here[kept], there[kept]
        squares = 0.5 * float((here**2).sum() + (there**2).sum())
        back_and_forth = squares > 0.0 and float((here * there).sum()) / squares < _BACK_AND_FORTH
        # The difference from the mean of two neighbours has 1.5 times the variance of one value.
        deviation = np.median(np.abs(left[usable]), axis=0) / 0.6745 / math.sqrt(1.5)
        results.append(float(np.linalg.norm(deviation)) if back_and_forth else 0.0)
    return min(results)


def kind_of(stream: Stream, rhythm: Rhythm, stamps: Stamps, gaps: Gaps, movement: Movement) -> Kind:
    """Which kind it is; the gravest one if it is several."""
    if rhythm.messages == 0:
        return Kind.NOTHING
    moved = any(
        extent > _REST * near + 10.0 * noise
        for extent, near, noise in zip(movement.extent, stream.quantity.near, movement.noise, strict=True)
    )
    if stream.quantity.is_place and not moved and len(gaps.jumps) == 0:
        return Kind.RESTING if rhythm.messages > 1 else Kind.SINGLE
    if not rhythm.period <= RARE:
        return Kind.SINGLE
    if stamps.usable and stamps.youngest < -SHORTEST_LEAD:
        between = np.diff(stream.arrivals)
        if np.mean(between < TOGETHER * rhythm.period / max(rhythm.repeats, 1.0)) > 0.3:
            return Kind.AHEAD
    often = _PAUSES * (stream.arrivals[-1] - stream.arrivals[0])
    if len(gaps.held) > 1 and gaps.held.sum() > often:
        return Kind.BURST
    if len(gaps.thought) > 1 and gaps.thought.sum() > often:
        return Kind.THINKING
    if rhythm.repeats > _REPEATED and stream.quantity.is_place:
        return Kind.REPEATED
    return Kind.DENSE if rhythm.period < DENSE else Kind.SLOW
