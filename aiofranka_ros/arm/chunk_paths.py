"""The path of a chunk: a curve through its points, how it ends, and how the arm gets onto it without a jolt.

Used by :mod:`aiofranka_ros.arm.chunks` in the process and thread that own an arm; pure functions. A path is a
:class:`~aiofranka_ros.control.law.motion.Motion`, so the control process evaluates it at 1 kHz. Its columns are joint
positions [rad], or position [m] and the four numbers of a quaternion x, y, z, w, which the control process normalises.

1. :func:`curve` is a natural cubic spline: its acceleration is continuous, and a straight line continues it on both
   sides. It does not pass exactly through the points: C. H. Reinsch's smoothing spline ("Smoothing by spline
   functions", Numerische Mathematik 10, 1967) leaves out what is faster than a policy means. The points of a learned
   policy differ from a smooth movement by a little noise, of which a third derivative would consist.
2. :func:`ended` lets time along the curve slow down, so that it ends at rest, on the curve and without going back.
3. :func:`joined` adds to the curve how the arm's present position, velocity and acceleration differ from it, and lets
   that difference fade out. Its jerk is constant in each quarter of the fade, with the smallest peak that four such
   values can have: about half of a quintic's. The fade is as short as a given jerk allows.
"""

from __future__ import annotations

import numpy as np

from aiofranka_ros.arm.chunk_kernels import (
    PARTS,
    add_pieces,
    end_of,
    fade_duration,
    fade_pieces,
    join,
    knots_between,
    spline,
    values,
)
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model.kinematics import control_frame, quaternion_from_matrix

#: A fade, and slowing down, take at least this long [s]...
_SHORTEST = 0.02
#: ...and a fade at most this long, unless its acceleration would be too high: after that, the newer chunk counts.
_LONGEST = 0.3
#: Pieces into which slowing down along a curve is divided: so short that quintics are as good as the curve itself.
_BRAKE_PIECES = 6
#: A reference within these distances is on its path [m], [rad].
_ON_PATH_LINEAR, _ON_PATH_ANGULAR = 0.005, 0.01
_NOTHING = Motion(np.zeros(0), np.zeros((0, 7, 6)))


def curve(times: Array, points: Array, cutoff: float) -> Motion:
    """A smoothing spline along points; a constant if there is only one.

    :param times: [s] (n,), from 0, increasing.
    :param points: (n, 7).
    :param cutoff: an oscillation of the points of this angular frequency [rad/s] is halved, one of half of it is
        reduced by 6 %; infinite: pass exactly through the points.
    """
    if len(times) == 1:
        return _constant(points[0])
    weight = cutoff**-4.0 * (len(times) - 1) / float(times[-1] - times[0]) if np.isfinite(cutoff) else 0.0
    return Motion(times, spline(times, points, weight))


def _constant(point: Array) -> Motion:
    coefficients = np.zeros((1, 7, 6))
    coefficients[0, :, 0] = point
    return Motion(np.array([0.0, 1e-3]), coefficients)


def evaluate(path: Motion, times: Array) -> tuple[Array, Array, Array]:
    """Positions, velocities and accelerations (m, 7) at ``times`` [s] (m,); straight lines before and after it."""
    p, v, a = np.empty((3, len(times), 7))
    values(path.times, path.coefficients, times, p, v, a)
    return p, v, a


def ended(path: Motion, lead: float, overrun: float, jerk: Array, acceleration: Array) -> tuple[Motion, float]:
    """``path`` with a straight line before it, and with an end at rest.

    :param lead: how long before its first point it begins, at least [s].
    :param overrun: how long time along it continues at its pace after its last point [s]; ``-inf``: it stops in its
        last point, so it slows down before.
    :param jerk, acceleration: what slowing down may need in each column (7,).
    :returns: the path, whose times begin at 0 again, and its ``lead``, which is longer if it has to slow down sooner.
    """
    times, coefficients, lead = end_of(
        path.times, path.coefficients, lead, overrun, jerk, acceleration, _SHORTEST, _BRAKE_PIECES
    )
    return Motion(times, coefficients), float(lead)


def fading(p: Array, v: Array, a: Array, jerk: Array, acceleration: Array) -> Motion:
    """From a position, velocity and acceleration (7,) to rest at 0, as fast as limits of each column allow (7,)."""
    duration = fade_duration(p, v, a, jerk, acceleration, _SHORTEST, _LONGEST)
    return _fade(p, v, a, duration)


def slowly(p: Array, v: Array, a: Array, jerk: Array, acceleration: Array, mean: float) -> Motion:
    """As :func:`fading`, but the position fades at most as fast as the distance divided by ``mean`` [s]."""
    nothing = np.zeros(7)
    fast, slow = fading(nothing, v, a, jerk, acceleration), _fade(p, nothing, nothing, 2.0 * mean)
    knots = knots_between(fast.times, slow.times, max(fast.duration, slow.duration))
    coefficients = np.zeros((len(knots) - 1, 7, 6))
    for motion in (fast, slow):
        add_pieces(motion.times, motion.coefficients, knots, False, coefficients)
    return Motion(knots, coefficients)


def _fade(p: Array, v: Array, a: Array, duration: float) -> Motion:
    return Motion(duration / PARTS * np.arange(PARTS + 1), fade_pieces(p, v, a, duration))


def joined(
    before: Motion | None, begin: float, seam: float, path: Motion, offset: float, fade: Motion | None
) -> Motion:
    """``before`` from its time ``begin`` on for ``seam`` seconds, then ``path`` from its time ``offset`` on, plus
    ``fade``."""
    end = max(path.duration - offset, _SHORTEST if fade is None else fade.duration)
    before, fade = before or _NOTHING, fade or _NOTHING
    return Motion(
        *join(
            before.times, before.coefficients, begin, seam, path.times, path.coefficients, offset,
            fade.times, fade.coefficients, end,
        )
    )  # fmt: skip


def pose_reference(state: Record) -> tuple[Array, Array, Array]:
    """Position, velocity and acceleration (7,) of the pose that the law follows, the orientation as a quaternion."""
    orientation = np.array(state["ref_orientation"])
    spin = _times(np.append(state["ref_angular"], 0.0), orientation)
    p, v, a = np.empty(7), np.empty(7), np.empty(7)
    p[:3], v[:3], a[:3] = state["ref_position"], state["ref_linear"], state["ref_linear_acceleration"]
    p[3:], v[3:] = orientation, 0.5 * spin
    change = _times(np.append(state["ref_angular_acceleration"], 0.0), orientation)
    speed = float(np.dot(state["ref_angular"], state["ref_angular"]))
    a[3:] = 0.5 * change - 0.25 * speed * orientation
    return p, v, a


def at_rest(q: Array, flange_to_tcp: Array | None) -> tuple[Array, Array, Array]:
    """Position, velocity and acceleration (7,) of an arm at ``q`` [rad] (7,) that does not move.

    :param flange_to_tcp: the control frame in the flange (4, 4), for a pose; ``None``: joint positions.
    """
    p = np.array(q)
    if flange_to_tcp is not None:
        pose = control_frame(q, flange_to_tcp)
        p[:3] = pose[:3, 3]
        quaternion_from_matrix(pose, p[3:])
    return p, np.zeros(7), np.zeros(7)


def is_on(path: Motion, time: float, state: Record, joints: bool) -> bool:
    """Whether the reference in ``state`` is where ``path`` is at ``time`` [s]."""
    p = evaluate(path, np.array([time]))[0][0]
    if joints:
        return bool(np.abs(p - state["ref_q"]).max() <= _ON_PATH_ANGULAR)
    near = float(np.linalg.norm(p[:3] - state["ref_position"])) <= _ON_PATH_LINEAR
    same = abs(float(np.dot(p[3:], state["ref_orientation"]))) / float(np.linalg.norm(p[3:]))
    return near and same >= float(np.cos(0.5 * _ON_PATH_ANGULAR))


def connected(
    path: Motion, offset: float, present: tuple[Array, Array, Array], relative: bool, joints: bool
) -> tuple[Motion, tuple[Array, Array, Array]]:
    """``path`` where it begins, if it is relative, with the sign of its quaternions; and what it lacks at ``offset``.

    :param present: position, velocity and acceleration (7,) of what it continues.
    """
    p, v, a = evaluate(path, np.array([offset]))
    coefficients = path.coefficients
    if relative:
        coefficients = coefficients.copy()
        columns = slice(0, 7) if joints else slice(0, 3)
        coefficients[:, columns, 0] += present[0][columns] - p[0, columns]
        if not joints:
            here = p[0, 3:] / np.linalg.norm(p[0, 3:])
            turn = _times(here * np.array([-1.0, -1.0, -1.0, 1.0]), present[0][3:])
            coefficients[:, 3:] = _times(np.moveaxis(coefficients[:, 3:], 1, 2), turn).swapaxes(1, 2)
        path = Motion(path.times, coefficients)
        p, v, a = evaluate(path, np.array([offset]))
    if not joints and float(np.dot(p[0, 3:], present[0][3:])) < 0.0:
        coefficients = coefficients.copy()
        coefficients[:, 3:] *= -1.0
        path = Motion(path.times, coefficients)
        for values in (p, v, a):
            values[0, 3:] *= -1.0
    return path, (present[0] - p[0], present[1] - v[0], present[2] - a[0])


def _times(left: Array, right: Array) -> Array:
    """Product of quaternions x, y, z, w (..., 4)."""
    x, y, z, w = np.moveaxis(left, -1, 0)
    a, b, c, d = np.moveaxis(right, -1, 0)
    return np.stack(
        [w * a + x * d + y * c - z * b, w * b - x * c + y * d + z * a, w * c + x * b - y * a + z * d,
         w * d - x * a - y * b - z * c], axis=-1,
    )  # fmt: skip


def load_kernels() -> None:
    """Compile the kernels that paths need, or load them from the cache; later, that would delay the first chunk."""
    points = np.zeros((4, 7))
    path, lead = ended(curve(0.1 * np.arange(4), points, 30.0), 0.1, 0.0, np.ones(7), np.ones(7))
    evaluate(path, path.times)
    joined(path, 0.0, 0.01, path, lead, fading(points[0], points[0], points[0], np.ones(7), np.ones(7)))
