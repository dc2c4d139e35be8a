"""Piecewise polynomials of seven columns: curves, values, pieces, ends and fades, in microseconds.

Compiled kernels, called by :mod:`aiofranka_ros.arm.chunk_paths`: numpy would take a millisecond for them, as long as
everything else from the arrival of a chunk to the first torque. Polynomials are as in
:class:`~aiofranka_ros.control.law.motion.Motion`.
"""

from __future__ import annotations

import math

import numpy as np

from aiofranka_ros.kernels import Array, kernel

#: Parts of a fade with a constant jerk each.
PARTS = 4
#: Peak derivatives of a pace that falls from 1 to 0 within 1 s, along a cubic.
_PACE_SLOPE, _PACE_BEND = 1.5, 6.0
#: Knots closer than this are the same knot [s].
_SAME_KNOT = 1e-7


def _moments() -> Array:
    """What a jerk of 1 in each part of a fade of 1 s adds to acceleration, velocity and position at its end."""
    left = 1.0 - np.arange(PARTS + 1) / PARTS
    return np.array([(left[:-1] ** order - left[1:] ** order) / factor for order, factor in ((1, 1), (2, 2), (3, 6))])


#: Jerks of the parts that lead to an acceleration, velocity and position: the smallest ones...
_INVERSE = np.ascontiguousarray(np.linalg.pinv(_moments()))
#: ...to which any multiple of these may be added.
_FREE = np.array([1.0, -3.0, 3.0, -1.0])


@kernel
def _segment(times: Array, time: float) -> int:
    """The last one that begins at or before ``time`` [s]; the first one, if none does."""
    low, high = 0, len(times) - 2
    while low < high:
        middle = (low + high + 1) // 2
        if times[middle] <= time:
            low = middle
        else:
            high = middle - 1
    return low


@kernel
def _value(times: Array, coefficients: Array, time: float, p: Array, v: Array, a: Array) -> None:
    end = times[len(times) - 1]
    inside = min(max(time, times[0]), end)
    segment = _segment(times, inside)
    s, outside = inside - times[segment], time - inside
    for i in range(7):
        c = coefficients[segment, i]
        v[i] = c[1] + s * (2.0 * c[2] + s * (3.0 * c[3] + s * (4.0 * c[4] + s * 5.0 * c[5])))
        p[i] = c[0] + s * (c[1] + s * (c[2] + s * (c[3] + s * (c[4] + s * c[5])))) + outside * v[i]
        a[i] = 2.0 * c[2] + s * (6.0 * c[3] + s * (12.0 * c[4] + s * 20.0 * c[5])) if outside == 0.0 else 0.0


@kernel
def values(times: Array, coefficients: Array, at: Array, p: Array, v: Array, a: Array) -> None:
    """Positions, velocities and accelerations (m, 7) at times ``at`` [s] (m,); straight lines before and after."""
    for row in range(len(at)):
        _value(times, coefficients, at[row], p[row], v[row], a[row])


@kernel
def add_pieces(times: Array, coefficients: Array, knots: Array, straight: bool, pieces: Array) -> None:
    """Add the polynomial between ``knots`` [s] (n + 1,), which include its own, to ``pieces`` (n, 7, 6).

    :param straight: whether a straight line continues it on both sides; otherwise it rests there.
    """
    p, v, a = np.empty(7), np.empty(7), np.empty(7)
    shifted = np.empty(6)
    for k in range(len(knots) - 1):
        middle = 0.5 * (knots[k] + knots[k + 1])
        if middle < times[0] or middle > times[len(times) - 1]:
            at = knots[k] if straight else min(max(middle, times[0]), times[len(times) - 1])
            _value(times, coefficients, at, p, v, a)
            for i in range(7):
                pieces[k, i, 0] += p[i]
                if straight:
                    pieces[k, i, 1] += v[i]
            continue
        segment = _segment(times, middle)
        s = knots[k] - times[segment]
        for i in range(7):
            # Horner's scheme, again and again, gives the coefficients around ``s``.
            shifted[:] = coefficients[segment, i]
            if abs(s) > _SAME_KNOT:
                for first in range(5):
                    for order in range(4, first - 1, -1):
                        shifted[order] += s * shifted[order + 1]
            for order in range(6):
                pieces[k, i, order] += shifted[order]


@kernel
def spline(times: Array, points: Array, weight: float) -> Array:
    """Pieces (n - 1, 7, 6) of Reinsch's smoothing spline along ``points`` (n, 7), n > 1, at ``times`` [s] (n,).

    :param weight: of the points' distances to it, compared with its bending; 0: it passes exactly through them.
    """
    count = len(times)
    g, second, lower = points.copy(), np.zeros((count, 7)), np.zeros((count, 2))
    diagonal = np.ones(count)
    # R γ = Q^T y gives second derivatives γ of the interpolating spline; Q^T takes second differences. Here, weight
    # Q^T Q is added to R, and the sum, which has five diagonals, is factored into L D L^T while it is made.
    for k in range(1, count - 1):
        before, after = times[k] - times[k - 1], times[k + 1] - times[k]
        a, b = 1.0 / before, 1.0 / after
        diagonal[k] = (before + after) / 3.0 + weight * (a * a + (a + b) ** 2 + b * b)
        for back in range(1, min(k, 3)):
            diagonal[k] -= diagonal[k - back] * lower[k - back, back - 1] ** 2
        for i in range(7):
            second[k, i] = (points[k + 1, i] - points[k, i]) * b - (points[k, i] - points[k - 1, i]) * a
            for back in range(1, min(k, 3)):
                second[k, i] -= lower[k - back, back - 1] * second[k - back, i]
        if k < count - 2:
            lower[k, 0] = after / 6.0 - weight * b * (a + 2.0 * b + 1.0 / (times[k + 2] - times[k + 1]))
            if k > 1:
                lower[k, 0] -= diagonal[k - 1] * lower[k - 1, 0] * lower[k - 1, 1]
            lower[k, 0] /= diagonal[k]
        if k < count - 3:
            lower[k, 1] = weight * b / (times[k + 2] - times[k + 1]) / diagonal[k]
    for k in range(count - 2, 0, -1):
        for i in range(7):
            second[k, i] /= diagonal[k]
            for ahead in range(1, min(count - 1 - k, 3)):
                second[k, i] -= lower[k, ahead - 1] * second[k + ahead, i]
    for k in range(count - 1):
        h = times[k + 1] - times[k]
        for i in range(7):
            bend = weight * (second[k + 1, i] - second[k, i]) / h
            g[k, i] -= bend
            g[k + 1, i] += bend
    pieces = np.zeros((count - 1, 7, 6))
    for k in range(count - 1):
        h = times[k + 1] - times[k]
        for i in range(7):
            c, s0, s1 = pieces[k, i], second[k, i], second[k + 1, i]
            c[0], c[1] = g[k, i], (g[k + 1, i] - g[k, i]) / h - h * (2.0 * s0 + s1) / 6.0
            c[2], c[3] = 0.5 * s0, (s1 - s0) / (6.0 * h)
    return pieces


@kernel
def knots_between(first: Array, second: Array, end: float) -> Array:
    """0, all of ``first`` and ``second`` between 0 and ``end``, and ``end`` [s]."""
    every = np.sort(np.concatenate((first, second)))
    knots, count = np.empty(len(every) + 2), 1
    knots[0] = 0.0
    for time in every:
        if time > knots[count - 1] + _SAME_KNOT and time < end - _SAME_KNOT:
            knots[count] = time
            count += 1
    knots[count] = end
    return knots[: count + 1].copy()


@kernel
def slow_down(times: Array, coefficients: Array, begin: float, duration: float, parts: int) -> Array:
    """Pieces (parts, 7, 6) of a polynomial from ``begin`` [s] on, along which time slows down within ``duration`` [s].

    Its pace falls from 1 to 0 along a cubic. Each piece is a quintic with the right position, velocity and acceleration
    at its ends.
    """
    p, v, a = np.empty((parts + 1, 7)), np.empty((parts + 1, 7)), np.empty((parts + 1, 7))
    for k in range(parts + 1):
        x = k / parts
        pace, slope = 1.0 - x * x * (3.0 - 2.0 * x), -6.0 * x * (1.0 - x) / duration
        _value(times, coefficients, begin + duration * (x - x**3 + 0.5 * x**4), p[k], v[k], a[k])
        for i in range(7):
            a[k, i] = a[k, i] * pace * pace + v[k, i] * slope
            v[k, i] *= pace
    h = duration / parts
    pieces = np.empty((parts, 7, 6))
    for k in range(parts):
        for i in range(7):
            way, v0, v1 = p[k + 1, i] - p[k, i], v[k, i] * h, v[k + 1, i] * h
            a0, a1, c = a[k, i] * h * h, a[k + 1, i] * h * h, pieces[k, i]
            c[0], c[1], c[2] = p[k, i], v[k, i], 0.5 * a[k, i]
            c[3] = (20.0 * way - 12.0 * v0 - 8.0 * v1 - 3.0 * a0 + a1) / (2.0 * h**3)
            c[4] = (-30.0 * way + 16.0 * v0 + 14.0 * v1 + 3.0 * a0 - 2.0 * a1) / (2.0 * h**4)
            c[5] = (12.0 * way - 6.0 * (v0 + v1) - a0 + a1) / (2.0 * h**5)
    return pieces


@kernel
def end_of(
    times: Array, coefficients: Array, lead: float, overrun: float, jerk: Array, acceleration: Array, shortest: float,
    parts: int,
) -> tuple[Array, Array, float]:  # fmt: skip
    """Knots and pieces of :func:`.chunk_paths.ended`, and its lead.

    :param shortest: slowing down takes at least this long [s].
    :param parts: pieces into which it is divided.
    """
    p, v, a = np.empty(7), np.empty(7), np.empty(7)
    last = times[len(times) - 1]
    _value(times, coefficients, last, p, v, a)
    duration = shortest
    for i in range(7):
        speed = abs(v[i])
        duration = max(duration, math.sqrt(_PACE_BEND * speed / jerk[i]), _PACE_SLOPE * speed / acceleration[i])
    begin = last + (-0.5 * duration if overrun == -math.inf else overrun)
    lead = max(lead, -begin)
    knots = knots_between(times + lead, np.empty(0), begin + lead)
    count = len(knots) - 1
    every, pieces = np.empty(count + 1 + parts), np.zeros((count + parts, 7, 6))
    add_pieces(times, coefficients, knots - lead, True, pieces)
    pieces[count:] = slow_down(times, coefficients, begin, duration, parts)
    every[: count + 1] = knots
    for k in range(1, parts + 1):
        every[count + k] = begin + lead + duration * k / parts
    return every, pieces, lead


@kernel
def join(
    before_times: Array, before: Array, begin: float, seam: float, path_times: Array, path: Array, offset: float,
    fade_times: Array, fade: Array, end: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Knots and pieces of :func:`.chunk_paths.joined`; without knots, there is no ``before`` or ``fade``.

    :param end: when the path or the fade ends, whichever is later, from the seam on [s].
    """
    knots = knots_between(path_times - offset, fade_times, end)
    first = knots_between(before_times - begin, np.empty(0), seam) if len(before_times) else np.zeros(1)
    kept = len(first) - 1
    pieces = np.zeros((kept + len(knots) - 1, 7, 6))
    add_pieces(path_times, path, knots + offset, False, pieces[kept:])
    if len(fade_times):
        add_pieces(fade_times, fade, knots, False, pieces[kept:])
    if len(before_times):
        add_pieces(before_times, before, first + begin, False, pieces)
    return np.concatenate((first, first[kept] + knots[1:])), pieces


@kernel
def _jerks(p: float, v: float, a: float, jerks: Array) -> float:
    """Jerks (4,) of the parts of 1 s that lead from ``p``, ``v``, ``a`` to rest at 0, and their peak, the smallest
    possible."""
    least = np.empty(PARTS)
    for k in range(PARTS):
        least[k] = -(_INVERSE[k, 0] * a + _INVERSE[k, 1] * (v + a) + _INVERSE[k, 2] * (p + v + 0.5 * a))
    best, chosen = math.inf, 0.0
    # Where the peak is smallest, two of the four are equal in size.
    for k in range(PARTS):
        for other in range(k):
            for sign in (-1.0, 1.0):
                change = _FREE[k] + sign * _FREE[other]
                if change == 0.0:
                    continue
                share, peak = -(least[k] + sign * least[other]) / change, 0.0
                for part in range(PARTS):
                    peak = max(peak, abs(least[part] + share * _FREE[part]))
                if peak < best:
                    best, chosen = peak, share
    for k in range(PARTS):
        jerks[k] = least[k] + chosen * _FREE[k]
    return best


@kernel
def fade_pieces(p: Array, v: Array, a: Array, duration: float) -> Array:
    """Pieces (4, 7, 6) that lead from a position, velocity and acceleration (7,) to rest at 0, in a given time [s]."""
    pieces, jerks, h = np.zeros((PARTS, 7, 6)), np.empty(PARTS), duration / PARTS
    for i in range(7):
        _jerks(p[i], v[i] * duration, a[i] * duration**2, jerks)
        position, velocity, acceleration = p[i], v[i], a[i]
        for k in range(PARTS):
            j, c = jerks[k] / duration**3, pieces[k, i]
            c[0], c[1], c[2], c[3] = position, velocity, 0.5 * acceleration, j / 6.0
            position += h * (velocity + h * (0.5 * acceleration + h * j / 6.0))
            velocity += h * (acceleration + 0.5 * h * j)
            acceleration += h * j
    return pieces


@kernel
def fade_duration(
    p: Array, v: Array, a: Array, jerk: Array, acceleration: Array, shortest: float, longest: float
) -> float:  # fmt: skip
    """How long a fade takes [s] whose jerk and acceleration are at most ``jerk`` and ``acceleration`` (7,).

    :param shortest, longest: bounds [s]; the latter holds for the jerk only. An acceleration that is higher at the
        beginning is not exceeded.
    """
    jerks, duration = np.empty(PARTS), shortest
    for i in range(7):
        # As if only the largest of the three had to fade out.
        duration = max(
            duration, (32.0 * abs(p[i]) / jerk[i]) ** (1.0 / 3.0), math.sqrt(20.0 * abs(v[i]) / jerk[i]),
            5.2 * abs(a[i]) / jerk[i],
        )  # fmt: skip
    duration = min(duration, longest)
    for _ in range(8):
        gentle = needed = 0.0
        for i in range(7):
            peak = _jerks(p[i], v[i] * duration, a[i] * duration**2, jerks) / duration**3
            gentle = max(gentle, peak / jerk[i])
            reached, allowed = a[i], max(acceleration[i], abs(a[i]))
            for k in range(PARTS):
                reached += jerks[k] / (duration * duration * PARTS)
                needed = max(needed, abs(reached) / allowed)
        best = max(min(duration * gentle ** (1.0 / 3.0), longest), duration * math.sqrt(needed), shortest)
        if abs(best - duration) < 0.01 * duration:
            break
        duration = best
    return duration
