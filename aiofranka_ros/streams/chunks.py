"""Figures of a stream of chunks: several targets in one message, each with its time.

Pure functions of arrays, called by :mod:`aiofranka_ros.streams.__main__` after the watch. Times are in s since the
beginning of the watch, by this computer's clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aiofranka_ros.kernels import Array
from aiofranka_ros.streams.recording import Quantity, parts


@dataclass(frozen=True)
class Chunk:
    """One message.

    :ivar arrival: [s].
    :ivar stamp: what its header says, when its times begin [s]; NaN: empty, they begin when it arrives.
    :ivar times: of its points, since then [s] (n,).
    :ivar values: (n, k).
    """

    arrival: float
    stamp: float
    times: Array
    values: Array

    @property
    def start(self) -> float:
        """When its times begin [s]."""
        return self.arrival if math.isnan(self.stamp) else self.stamp

    @property
    def due(self) -> Array:
        """When its points are due [s] (n,)."""
        return self.start + self.times


@dataclass(frozen=True)
class ChunkFigures:
    """How chunks come.

    :ivar chunks: how many came.
    :ivar period: median time between two [s]; NaN: fewer than two.
    :ivar points: median number of points.
    :ivar step: median time between two points [s].
    :ivar length: median time from the first point to the last [s].
    :ivar untimed: share of chunks whose points have no times.
    :ivar stamped: share of chunks that have a stamp.
    :ivar age: median time from stamp to arrival [s]; NaN: there is no stamp.
    :ivar oldest: the longest [s].
    :ivar past: share of points that were due when they arrived.
    :ivar starved: how many times the arm was at the end of a chunk before the next one came.
    :ivar starving: longest of these times [s].
    :ivar seam: median distance between a new chunk and the one before at the same time [m] and [rad], or [rad].
    :ivar largest_seam: the largest.
    """

    chunks: int
    period: float
    points: float
    step: float
    length: float
    untimed: float
    stamped: float
    age: float
    oldest: float
    past: float
    starved: int
    starving: float
    seam: tuple[float, ...]
    largest_seam: tuple[float, ...]


def with_times(chunks: Sequence[Chunk], step: float) -> list[Chunk]:
    """``chunks``; those without times get some, ``step`` [s] apart."""
    return [
        Chunk(chunk.arrival, chunk.stamp, step * np.arange(len(chunk.times)), chunk.values)
        if _is_bare(chunk)
        else chunk
        for chunk in chunks
    ]


def _is_bare(chunk: Chunk) -> bool:
    return len(chunk.times) > 1 and not chunk.times.any()


def chunk_figures(quantity: Quantity, chunks: Sequence[Chunk], default_step: float) -> ChunkFigures:
    """The figures of at least one chunk.

    :param default_step: how far the points of a chunk without times are apart [s].
    """
    untimed = [_is_bare(chunk) for chunk in chunks]
    timed = with_times(chunks, default_step)
    steps = np.concatenate([np.diff(chunk.times) for chunk in timed])
    ages = np.array([chunk.arrival - chunk.stamp for chunk in timed if not math.isnan(chunk.stamp)])
    late = np.concatenate([chunk.due < chunk.arrival - 1e-6 for chunk in timed])
    pairs = list(zip(timed[:-1], timed[1:], strict=True))
    waits = np.array([after.arrival - before.due[-1] for before, after in pairs])
    seams = [_seam(quantity, before, after) for before, after in pairs]
    known = np.array([seam for seam in seams if seam is not None]) if any(s is not None for s in seams) else None
    return ChunkFigures(
        chunks=len(chunks),
        period=float(np.median(np.diff([chunk.arrival for chunk in chunks]))) if pairs else math.nan,
        points=float(np.median([len(chunk.times) for chunk in chunks])),
        step=float(np.median(steps)) if len(steps) else default_step,
        length=float(np.median([chunk.times[-1] - chunk.times[0] for chunk in timed])),
        untimed=float(np.mean(untimed)),
        stamped=len(ages) / len(chunks),
        age=float(np.median(ages)) if len(ages) else math.nan,
        oldest=float(ages.max()) if len(ages) else math.nan,
        past=float(late.mean()),
        starved=int(np.count_nonzero(waits > 0.0)),
        starving=float(max(waits.max(), 0.0)) if len(waits) else 0.0,
        seam=tuple(np.median(known, axis=0).tolist()) if known is not None else (),
        largest_seam=tuple(known.max(axis=0).tolist()) if known is not None else (),
    )


def _seam(quantity: Quantity, before: Chunk, after: Chunk) -> Array | None:
    """How far two chunks are apart where the second one begins to count; ``None``: the first one has ended."""
    at = max(after.arrival, after.due[0])
    if at > before.due[-1] or at > after.due[-1]:
        return None
    ends: list[Array] = []
    for chunk in (before, after):
        values = chunk.values.copy()
        if quantity is Quantity.POSE and len(ends) == 1 and np.dot(values[0, 3:], ends[0][0, 3:]) < 0.0:
            values[:, 3:] *= -1.0
        ends.append(np.array([[np.interp(at, chunk.due, column) for column in values.T]]))
    if quantity is Quantity.POSE:
        for end in ends:
            end[0, 3:] /= max(float(np.linalg.norm(end[0, 3:])), 1e-9)
    return np.asarray(parts(quantity, *ends)[0])
