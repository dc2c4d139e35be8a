"""What the arm did with a stream: how late it was, how even its speed, whether it went backwards.

Pure functions of arrays, called by :mod:`aiofranka_ros.streams.__main__` after the watch. They compare what was
measured, at the rate at which the node publishes it, with the path that the targets mean: straight from each target to
the next one, in the stream's usual time; in a pause it stands at the last target. Torques mean no path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aiofranka_ros.kernels import Array
from aiofranka_ros.streams.analysis import GAP, Analysis, Kind
from aiofranka_ros.streams.chunks import Chunk
from aiofranka_ros.streams.recording import Measured, Quantity, Stream, Which, continuous, rotation_vectors

#: Lags that are tried: from, to, and how far apart at first and in the end [s].
_LAGS, _COARSE, _FINE = (-0.1, 1.2), 0.02, 0.001
#: Shorter ways say nothing about how the arm follows [m], [rad].
_SHORTEST_WAY = {"m": 0.005, "rad": 0.02}
#: An arm that covers less of the way than this share does not follow.
_FOLLOWS = 0.2
#: How long a velocity counts without a new one: the default of velocity_timeout [s].
_VELOCITY_TIMEOUT = 0.25
#: Velocities are taken over this time [s]; with the usual 100 Hz, four measurements.
_WINDOW = 0.04
#: Evenness counts while the path moves at this share of its usual speed, and this long after and before it begins to
#: move, stops, or turns sharply [s], which takes time.
_MOVING, _EDGE = 0.4, 0.3
#: A sharp turn, as the cosine of its angle: 60 degrees.
_SHARP = 0.5
#: Shares of the measurements between which the slowest and the fastest are, so that no single one decides.
_ENDS = (0.01, 0.99)


@dataclass(frozen=True)
class Response:
    """What the arm did.

    :ivar unit: of ``reversal`` and ``apart``: m or rad.
    :ivar follows: whether the arm follows at all; if not, the rest is NaN.
    :ivar lag: how late it is [s].
    :ivar slowest: its speed while the targets move, as a share of theirs.
    :ivar fastest: likewise.
    :ivar reversal: how far it went back, against the direction of the targets.
    :ivar apart: distance from the path, ``lag`` later: root of the mean square.
    """

    unit: str
    follows: bool
    lag: float = math.nan
    slowest: float = math.nan
    fastest: float = math.nan
    reversal: float = math.nan
    apart: float = math.nan


@dataclass(frozen=True)
class Comparison:
    """The path that is meant and what was measured, in the same coordinates; for figures and plots.

    :ivar times: when the path is at ``meant`` [s] (p,).
    :ivar meant: (p, k) [m] or [rad].
    :ivar measured_at: [s] (m,).
    :ivar measured: (m, k) [m] or [rad].
    """

    unit: str
    times: Array
    meant: Array
    measured_at: Array
    measured: Array


def compare(stream: Stream, found: Analysis, measured: Measured) -> Comparison | None:
    """The path of the targets and what was measured; ``None``: too little moves, or too little was measured.

    Of velocities, what they add up to, from where the arm is at the first one.
    """
    period, quantity = found.rhythm.period, stream.quantity
    if len(measured.times) < 10 or len(stream) < 3 or not period > 0.0 or quantity is Quantity.TORQUE:
        return None
    if not quantity.is_place:
        first = measured.values[min(int(np.searchsorted(measured.times, stream.arrivals[0])), len(measured.times) - 1)]
        times, way = _driven(stream)
        return _comparison(quantity, times, first[: way.shape[1]] + way, measured)
    places = stream.different()
    times, targets = _held(_due(stream, places, found), stream.values[places], period, stream.arrivals[-1])
    return _comparison(quantity, times, targets, measured)


def compare_chunks(quantity: Quantity, chunks: Sequence[Chunk], step: float, measured: Measured) -> Comparison | None:
    """The path of the points of chunks, each until the next one begins, and what was measured; ``None``: see above.

    :param step: how far the points of a chunk are apart [s].
    """
    if len(measured.times) < 10 or not chunks or not quantity.is_place:
        return None
    begins = [max(chunk.arrival, float(chunk.due[0])) for chunk in chunks]
    parts = [
        (chunk.due[used], chunk.values[used])
        for chunk, begin, end in zip(chunks, begins, [*begins[1:], math.inf], strict=True)
        if (used := (chunk.due >= begin) & (chunk.due < end)).any()
    ]
    if not parts:
        return None
    due = np.maximum.accumulate(np.concatenate([part[0] for part in parts]))
    times, targets = _held(due, np.concatenate([part[1] for part in parts]), step, measured.times[-1])
    return _comparison(quantity, times, targets, measured)


def _held(times: Array, targets: Array, period: float, end: float) -> tuple[Array, Array]:
    """A path that stands still in pauses, until one period before the next target, and after the last one."""
    stands = np.flatnonzero(np.diff(times) > GAP * period)
    held = np.insert(times, stands + 1, times[stands + 1] - period)
    targets = np.insert(targets, stands + 1, targets[stands], axis=0)
    if held[-1] < end:
        held, targets = np.append(held, end), np.append(targets, targets[-1:], axis=0)
    return held, targets


def _driven(stream: Stream) -> tuple[Array, Array]:
    """The way that velocities add up to, and when; of a twist, the translation."""
    velocities = stream.values[:, :3] if stream.quantity is Quantity.TWIST else stream.values
    spans = np.diff(stream.arrivals)
    driven = np.minimum(spans, _VELOCITY_TIMEOUT)
    way = np.concatenate([np.zeros((1, velocities.shape[1])), np.cumsum(velocities[:-1] * driven[:, None], axis=0)])
    stops = np.flatnonzero(spans > _VELOCITY_TIMEOUT)
    times = np.insert(stream.arrivals, stops + 1, stream.arrivals[stops] + _VELOCITY_TIMEOUT)
    return times, np.insert(way, stops + 1, way[stops + 1], axis=0)


def _comparison(quantity: Quantity, times: Array, targets: Array, measured: Measured) -> Comparison | None:
    """Targets (p, 3 or 7) and measurements in the same coordinates; ``None``: the targets move too little."""
    did, unit = measured.values, "rad"
    if quantity in (Quantity.POSE, Quantity.TWIST):
        moves = np.linalg.norm(np.ptp(targets[:, :3], axis=0)) >= _SHORTEST_WAY["m"]
        if moves or quantity is Quantity.TWIST:
            targets, did, unit = targets[:, :3], did[:, :3], "m"
        else:
            origin = targets[0, 3:]
            targets = rotation_vectors(origin, continuous(targets[:, 3:]))
            did = rotation_vectors(origin, continuous(did[:, 3:]))
    if len(targets) < 3 or np.linalg.norm(np.ptp(targets, axis=0)) < _SHORTEST_WAY[unit]:
        return None
    return Comparison(unit, times, targets, measured.times, did)


def _due(stream: Stream, places: Which, found: Analysis) -> Array:
    """When the targets at ``places`` are meant [s], in order and apart."""
    times = stream.arrivals[places].copy()
    if found.stamps.usable and found.rhythm.repeats < 1.1:
        # By their stamps, as early as the first ones arrive; ahead of time, they are due by this computer's clock.
        shift = 0.0 if found.kind is Kind.AHEAD else found.stamps.youngest
        times = stream.stamps[places] + shift
    elif found.kind is Kind.BURST:
        # Messages are late, never early.
        steps = found.rhythm.period * np.arange(len(times))
        times = np.minimum.accumulate((times - steps)[::-1])[::-1] + steps
    return np.maximum.accumulate(times) + 1e-6 * np.arange(len(times))


def respond(found: Comparison, period: float, *, even: bool) -> Response:
    """The figures of a comparison.

    :param period: of the stream [s].
    :param even: whether the stream has no pauses: only then an even speed is expected.
    """
    inside = (found.measured_at > found.times[0]) & (found.measured_at < found.times[-1])
    at, did = found.measured_at[inside], found.measured[inside]
    if len(at) < 10:
        return Response(found.unit, follows=False)
    extent = np.linalg.norm(np.ptp(_at(found, at), axis=0))
    if np.linalg.norm(np.ptp(did, axis=0)) < _FOLLOWS * extent:
        return Response(found.unit, follows=False)
    lag = _lag(found, at, did)
    known = at - lag > found.times[0]
    at, did = at[known], did[known]
    meant = _at(found, at - lag)
    apart = float(np.sqrt(np.mean(np.sum((did - meant) ** 2, axis=1))))
    velocity = _velocity(at, did, _WINDOW)
    window = max(2.0 * period, _WINDOW)
    towards = (_at(found, at - lag + 0.5 * window) - _at(found, at - lag - 0.5 * window)) / window
    from_turn = _nearest(at - lag, _turns(found))
    slowest = fastest = math.nan
    if even:
        slowest, fastest = _evenness(at, velocity, _speed(found, at - lag, window), from_turn, period)
    # Where the path itself turns, no direction is the right one.
    reversal = _reversal(did, towards, from_turn > period + 0.1)
    return Response(found.unit, True, lag, slowest, fastest, reversal, apart)


def _at(found: Comparison, times: Array) -> Array:
    return np.column_stack([np.interp(times, found.times, column) for column in found.meant.T])


def _lag(found: Comparison, at: Array, did: Array) -> float:
    """The time by which the measured path, earlier, fits the meant one best [s]."""

    def misfit(lag: float) -> float:
        known = (at - lag >= found.times[0]) & (at - lag <= found.times[-1])
        return float(np.mean((did[known] - _at(found, at[known] - lag)) ** 2)) if known.sum() > 5 else math.inf

    last = min(_LAGS[1], 0.5 * (found.times[-1] - found.times[0]))
    best = min(np.arange(_LAGS[0], last, _COARSE), key=misfit)
    return float(min(np.arange(best - _COARSE, best + _COARSE, _FINE), key=misfit))


def _speed(found: Comparison, times: Array, window: float) -> Array:
    """The speed along the meant path, whatever its curves, over ``window`` [s] around each time (n,)."""
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(found.meant, axis=0), axis=1))])
    ends = [np.interp(times + share * window, found.times, way) for share in (-0.5, 0.5)]
    return (ends[1] - ends[0]) / window


def _velocity(times: Array, values: Array, window: float) -> Array:
    """Velocities over ``window`` [s] around each time (n, k)."""
    before, after = times - 0.5 * window, times + 0.5 * window
    ends = [np.column_stack([np.interp(when, times, column) for column in values.T]) for when in (before, after)]
    spans = np.clip(after, times[0], times[-1]) - np.clip(before, times[0], times[-1])
    return (ends[1] - ends[0]) / np.maximum(spans, 1e-3)[:, None]


def _turns(found: Comparison) -> Array:
    """When the path turns sharply [s] (t,)."""
    steps = np.diff(found.meant, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    moves = np.flatnonzero(lengths > 1e-9)
    directions = steps[moves] / lengths[moves, None]
    sharp = np.einsum("ij,ij->i", directions[1:], directions[:-1]) < _SHARP
    return found.times[moves[1:][sharp]]


def _nearest(times: Array, others: Array) -> Array:
    """How far each of ``times`` is from the nearest of ``others``, which are in order [s] (n,)."""
    if len(others) == 0:
        return np.full(len(times), np.inf)
    after = np.searchsorted(others, times)
    before = np.abs(times - others[np.maximum(after - 1, 0)])
    return np.minimum(before, np.abs(times - others[np.minimum(after, len(others) - 1)]))


def _evenness(at: Array, velocity: Array, meant: Array, from_turn: Array, period: float) -> tuple[float, float]:
    """The slowest and the fastest speed, as shares of the meant one, while that is known to move evenly.

    :param meant: the speed that is meant (n,).
    :param from_turn: how far each time is from the next sharp turn [s] (n,).
    """
    moving = meant > _MOVING * np.median(meant[meant > 0.1 * meant.max()]) if meant.max() > 0.0 else meant > 0.0
    edge = _EDGE + period
    # The first measurements belong to the start, too.
    still = np.concatenate([[at[0]], at[~moving], [at[-1]]])
    settled = moving & (_nearest(at, still) > edge) & (from_turn > edge)
    if settled.sum() < 10:
        return math.nan, math.nan
    shares = np.linalg.norm(velocity, axis=1)[settled] / meant[settled]
    slowest, fastest = np.quantile(shares, _ENDS)
    return float(slowest), float(fastest)


def _reversal(did: Array, towards: Array, straight: Which) -> float:
    """The furthest way back against the direction in which the targets move, or moved before a pause.

    :param straight: whether the path does not turn at a time (n,).
    """
    speed = np.linalg.norm(towards, axis=1)
    moving = speed > 0.05 * np.quantile(speed, 0.9)
    if not moving.any():
        return 0.0
    # While the path stands, its last direction counts.
    last = np.maximum.accumulate(np.where(moving, np.arange(len(did)), -1))
    directions = towards[np.maximum(last, 0)] / np.maximum(speed[np.maximum(last, 0)], 1e-12)[:, None]
    steps = np.einsum("ij,ij->i", np.diff(did, axis=0), directions[1:])
    steps[~straight[1:] | (last[1:] < 0)] = 0.0
    back = furthest = 0.0
    for step in steps:
        back = max(back - float(step), 0.0)
        furthest = max(furthest, back)
    return furthest
