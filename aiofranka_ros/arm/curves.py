"""Piecewise polynomials through points, and what is needed to shift, cut, add and thin them.

Used by :mod:`aiofranka_ros.arm.joint_trajectory`, in the process and thread that own the arm. Everything is vectorised:
a motion may have thousands of segments, and while it is made, the arm gets no heartbeat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.control.records import MAX_SEGMENTS
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array
from aiofranka_ros.model import fr3

#: How far a trajectory with too many points may be from any of them once it is thinned out [rad].
_THINNING_TOLERANCE = 1e-3
#: Knots closer than this are the same knot [s].
_SAME_KNOT = 1e-7

_ORDERS = np.arange(6)
#: ``_BINOMIALS[p, r]``: r over p, for shifting a polynomial in time.
_BINOMIALS = np.array([[math.comb(r, p) for r in range(6)] for p in range(6)], dtype=float)


def still(q: Array) -> Motion:
    """A motion at rest at ``q`` [rad] (7,), of one cycle."""
    coefficients = np.zeros((1, 7, 6))
    coefficients[0, :, 0] = q
    return Motion(np.array([0.0, fr3.CYCLE]), coefficients)


def remainder(motion: Motion, time: float) -> Motion:
    """What is left of ``motion`` after ``time`` [s]; at its end, if nothing is."""
    left = motion.duration - time
    if left <= fr3.CYCLE:
        return still(motion.goal)
    knots = merged_knots(left, motion.times - time)
    return Motion(knots, pieces(motion, knots + time))


def extended(path: Motion, lead: float) -> Motion:
    """``path`` after ``lead`` [s], during which the joints move to its beginning at their velocity there."""
    q, dq, _ = path.at(0.0)
    first = np.zeros((1, 7, 6))
    first[0, :, 0], first[0, :, 1] = q - lead * dq, dq
    return Motion(np.append(0.0, lead + path.times), np.concatenate([first, path.coefficients]))


def through_points(times: Array, q: Array, dq: Array | None, ddq: Array | None) -> Motion:
    """Through points from ``times[0] = 0`` on: quintics, cubics or monotone cubics, by what the points give.

    :param times: [s] (n,).
    :param q: positions [rad] (n, 7).
    :param dq: velocities [rad/s] (n, 7); NaN or ``None``: not given, then the motion begins and ends at rest.
    :param ddq: accelerations [rad/s²] (n, 7); NaN or ``None``: not given.
    """
    monotone = _monotone(times, q, np.zeros(7) if dq is None or np.isnan(dq[0]).any() else dq[0])
    dq = monotone if dq is None else np.where(np.isnan(dq), monotone, dq)
    coefficients = _cubics(times, q, dq)
    if ddq is not None:
        h = np.diff(times)[:, np.newaxis]
        first = 2.0 * coefficients[..., 2]
        ends = first, first + 6.0 * coefficients[..., 3] * h
        a0, a1 = (np.where(np.isnan(given), end, given) for given, end in zip((ddq[:-1], ddq[1:]), ends, strict=True))
        coefficients = quintics(times, q, dq, a0, a1)
    return Motion(times, coefficients)


def _cubics(times: Array, q: Array, dq: Array) -> Array:
    """Coefficients (n - 1, 7, 6) of cubics that take the values (n, 7) at ``times``."""
    h = np.diff(times)[:, np.newaxis]
    distance, v0, v1 = np.diff(q, axis=0), dq[:-1] * h, dq[1:] * h
    coefficients = np.zeros((len(h), 7, 6))
    coefficients[..., 0], coefficients[..., 1] = q[:-1], dq[:-1]
    coefficients[..., 2] = (3.0 * distance - 2.0 * v0 - v1) / h**2
    coefficients[..., 3] = (v0 + v1 - 2.0 * distance) / h**3
    return coefficients


def quintics(times: Array, q: Array, dq: Array, ddq_begin: Array, ddq_end: Array) -> Array:
    """Coefficients (n - 1, 7, 6) of quintics that take the values (n, 7) at ``times``.

    :param ddq_begin, ddq_end: accelerations at both ends of each segment [rad/s²] (n - 1, 7).
    """
    h = np.diff(times)[:, np.newaxis]
    distance, v0, v1 = np.diff(q, axis=0), dq[:-1] * h, dq[1:] * h
    a0, a1 = ddq_begin * h**2, ddq_end * h**2
    coefficients = np.zeros((len(h), 7, 6))
    coefficients[..., 0], coefficients[..., 1], coefficients[..., 2] = q[:-1], dq[:-1], 0.5 * ddq_begin
    coefficients[..., 3] = (20.0 * distance - 12.0 * v0 - 8.0 * v1 - 3.0 * a0 + a1) / (2.0 * h**3)
    coefficients[..., 4] = (-30.0 * distance + 16.0 * v0 + 14.0 * v1 + 3.0 * a0 - 2.0 * a1) / (2.0 * h**4)
    coefficients[..., 5] = (12.0 * distance - 6.0 * (v0 + v1) - a0 + a1) / (2.0 * h**5)
    return coefficients


def _monotone(times: Array, q: Array, first_dq: Array) -> Array:
    """Velocities (n, 7) at the points: weighted harmonic means of the slopes on both sides; 0 at the end, and if the
    slopes differ in sign."""
    h = np.diff(times)[:, np.newaxis]
    slope = np.diff(q, axis=0) / h
    dq = np.zeros_like(q)
    dq[0] = first_dq
    left, right = slope[:-1], slope[1:]
    before, after = 2.0 * h[1:] + h[:-1], h[1:] + 2.0 * h[:-1]
    same = left * right > 0.0
    mean = (before + after) * left * right
    np.divide(mean, before * right + after * left, out=dq[1:-1], where=same)
    return dq


def merged_knots(end: float, *times: Array) -> Array:
    """0, all of ``times`` between 0 and ``end``, and ``end`` [s]."""
    inner = np.unique(np.concatenate(times))
    inner = inner[(inner > _SAME_KNOT) & (inner < end - _SAME_KNOT)]
    knots = np.concatenate([[0.0], inner, [end]])
    return knots[np.concatenate([[True], np.diff(knots) > _SAME_KNOT])]


def pieces(motion: Motion, knots: Array) -> Array:
    """Coefficients (n - 1, 7, 6) of ``motion`` between ``knots`` [s] (n,), which include its own; it holds after its
    end."""
    middle = 0.5 * (knots[:-1] + knots[1:])
    index = np.clip(np.searchsorted(motion.times, middle) - 1, 0, len(motion.coefficients) - 1)
    # In C order: for another order, numba would compile the kernels again, which takes longer than a heartbeat may.
    coefficients = motion.coefficients[index]
    shift = knots[:-1] - motion.times[index]
    shifted = np.flatnonzero(np.abs(shift) > _SAME_KNOT)
    # Taylor's formula: the factors of s**p after the shift.
    powers = np.where(_ORDERS >= _ORDERS[:, np.newaxis], _ORDERS - _ORDERS[:, np.newaxis], 0)
    factors = _BINOMIALS * shift[shifted, np.newaxis, np.newaxis] ** powers
    coefficients[shifted] = np.einsum("kpr,kjr->kjp", factors, coefficients[shifted])
    over = middle > motion.duration
    coefficients[over] = 0.0
    coefficients[over, :, 0] = motion.goal
    return coefficients


def _positions(motion: Motion, times: Array) -> Array:
    """Where ``motion`` is at all ``times`` [s] (n,), as :meth:`.Motion.at` [rad] (n, 7)."""
    index = np.clip(np.searchsorted(motion.times, times, side="right") - 1, 0, len(motion.coefficients) - 1)
    c, s = motion.coefficients[index], (times - motion.times[index])[:, np.newaxis]
    q: Array = c[..., 5]
    for order in (4, 3, 2, 1, 0):
        q = c[..., order] + s * q
    return q


def thinned(motion: Motion, joints: Sequence[str]) -> Motion:
    """``motion`` with as few segments as the control process accepts; ``InvalidTarget`` if it would miss a knot."""
    count = len(motion.coefficients)
    if count <= MAX_SEGMENTS:
        return motion
    kept = np.round(np.linspace(0, count, MAX_SEGMENTS + 1)).astype(int)
    c, s = motion.coefficients[kept[:-1]], np.diff(motion.times)[kept[1:] - 1, np.newaxis]
    last = motion.coefficients[kept[1:] - 1]
    q = np.concatenate([c[..., 0], [motion.goal]])
    dq = np.concatenate([c[..., 1], np.zeros((1, 7))])
    ddq = 2.0 * np.concatenate([c[..., 2], np.zeros((1, 7))])
    # Accelerations may jump at a knot: take the mean of both sides.
    before = 2.0 * last[..., 2] + s * (6.0 * last[..., 3] + s * (12.0 * last[..., 4] + s * 20.0 * last[..., 5]))
    ddq[1:-1] = 0.5 * (ddq[1:-1] + before[:-1])
    ddq[-1] = before[-1]
    times = motion.times[kept]
    result = Motion(times, quintics(times, q, dq, ddq[:-1], ddq[1:]))
    missed = np.abs(_positions(result, motion.times[:-1]) - motion.coefficients[..., 0])
    if missed.max() > _THINNING_TOLERANCE:
        joint = int(missed.max(axis=0).argmax())
        raise InvalidTarget(
            f"it has more than {MAX_SEGMENTS} segments, and without some of its points {joints[joint]} would miss "
            f"others by {missed.max():.4f} rad: use fewer points",
            reason="too many points",
        )
    return result
