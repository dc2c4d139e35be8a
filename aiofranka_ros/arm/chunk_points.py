"""What a chunk may contain, and the points of its path: checked, clipped or refused, and summed if it has velocities.

Used by :mod:`aiofranka_ros.arm.chunks` in the process and thread that own an arm; nothing here knows when it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiofranka_ros.control.chunk_size import check_size
from aiofranka_ros.control.records import Mode
from aiofranka_ros.errors import InvalidTarget, brief
from aiofranka_ros.kernels import Array
from aiofranka_ros.model import fr3
from aiofranka_ros.model.kinematics import rotate, rotation_between

#: How close the points of a chunk may be [s].
CLOSEST = 4e-3
#: Faster than the reference may be, by this factor, is a violation; less is left to the control process, because noise
#: of a few millimetres is as fast.
_TOO_FAST = 1.5
#: Largest deviation of a quaternion's norm from 1.
_NORM_TOLERANCE = 0.01

#: How long the velocity of a chunk of one holds [s].
_ALONE = 0.1

_JOINT_MODES = (Mode.IMPEDANCE, Mode.PID)
#: Kinds of chunks: what a value is, its length, and for which modes.
KINDS = {
    "q": ("joint positions [rad]", 7, _JOINT_MODES),
    "dq": ("joint velocities [rad/s]", 7, _JOINT_MODES),
    "ee": ("position [m] and quaternion x, y, z, w", 7, (Mode.OSC,)),
    "twist": ("velocity [m/s] and angular velocity [rad/s]", 6, (Mode.OSC,)),
}


@dataclass(frozen=True)
class Chunk:
    """Several targets, each with its time.

    :ivar kind: ``q``, ``dq``, ``ee`` or ``twist``, see :data:`KINDS`. A velocity holds until the next one, the last one
        as long as the one before it, and a single one for 0.1 s.
    :ivar times: when each is due [s] (n,), from ``start`` on, increasing.
    :ivar values: (n, 6 or 7), in the base; a twist is that of the control frame's origin, in the axes of the base.
    :ivar start: when ``times == 0`` is due [s, monotonic], usually the time of the observation that the chunk was made
        from; ``None``: at its arrival.
    """

    kind: str
    times: Array
    values: Array
    start: float | None = None


@dataclass(frozen=True)
class Points:
    """The points of a path.

    :ivar times: [s] (n,), from the beginning of the chunk.
    :ivar values: joint positions, or positions and quaternions whose sign is continuous (n, 7).
    :ivar relative: whether they begin at 0, or at the identity: the path begins wherever the arm is.
    :ivar clipped: how many points of the chunk were cut to a limit.
    """

    times: Array
    values: Array
    relative: bool
    clipped: int


def points_of(chunk: Chunk, mode: Mode, parameter: Callable[[str], Any], now: float) -> Points:
    """Check ``chunk``, and make the points of its path.

    :param parameter: values of settings: the limits, and ``chunk_violation``.
    :param now: time of the chunk [s]. No limit refuses a point that is past, or counts it as clipped; what is before
        a jump does not count.
    :raises InvalidTarget: it cannot be used, or violates a limit and such chunks are refused.
    """
    times, values = _arrays(chunk, mode)
    refuses = parameter("chunk_violation") == "refuse"
    limits = _Limits.of(chunk.kind, parameter)
    past = min(int(np.count_nonzero(times < now)), len(times) - 1)
    if chunk.kind in ("dq", "twist"):
        past = max(past - int(times[past] >= now), 0)  # Each holds until the next one.
        _clip_velocities(values[:past], limits, False)
        clipped = _clip_velocities(values[past:], limits, refuses, past)
        return _summed(chunk.kind, times, values, clipped)
    if chunk.kind == "ee":
        _unite_quaternions(values)
    if refuses:
        _refuse_outside(chunk.kind, values, parameter, past)
    return Points(times, values, False, _clip_steps(times, values, limits, refuses, past))


def _arrays(chunk: Chunk, mode: Mode) -> tuple[Array, Array]:
    """Times and values as new arrays.

    :raises InvalidTarget: they are of another kind, type, size, not finite or not in order.
    """
    if chunk.kind not in KINDS:
        raise InvalidTarget(
            f"there is no kind of chunk {brief(str(chunk.kind))!r}, only {', '.join(KINDS)}", reason="another kind"
        )
    what, width, modes = KINDS[chunk.kind]
    if mode not in modes:
        names = " or ".join(mode.name.lower() for mode in modes)
        raise InvalidTarget(
            f"a chunk of kind {chunk.kind} is for mode {names}, not {mode.name.lower()}: switch the mode first",
            reason="another mode",
        )
    try:
        times, values = np.array(chunk.times, dtype=float), np.array(chunk.values, dtype=float, order="C")
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTarget(f"a chunk must consist of numbers: {error}", reason="wrong type") from None
    if values.shape == (0,) or values.shape[:1] == (0,):
        raise InvalidTarget("a chunk needs at least one point", reason="no points")
    if values.ndim != 2 or values.shape[1] != width or times.shape != values.shape[:1]:
        raise InvalidTarget(
            f"a chunk of kind {chunk.kind} has times (n,) and values (n, {width}): {what}; these have "
            f"{times.shape} and {values.shape}",
            reason="wrong size",
        )
    check_size(len(times))
    finite = np.isfinite(times) & np.isfinite(values).all(axis=1)
    for point in np.flatnonzero(~finite)[:1]:
        raise InvalidTarget(f"point {point} is not finite: {values[point].tolist()}", reason="not finite")
    for point in np.flatnonzero(np.diff(times) < CLOSEST - 1e-9)[:1]:
        raise InvalidTarget(
            f"times must increase by at least {CLOSEST:g} s, but points {point} and {point + 1} are at "
            f"{times[point]:g} s and {times[point + 1]:g} s",
            reason="wrong times",
        )
    return times, values


def _unite_quaternions(values: Array) -> None:
    """Make quaternions unit ones, with a continuous sign, in place.

    :raises InvalidTarget: one has another norm.
    """
    quaternions = values[:, 3:]
    norms = np.linalg.norm(quaternions, axis=1)
    for point in np.flatnonzero(np.abs(norms - 1.0) > _NORM_TOLERANCE)[:1]:
        raise InvalidTarget(
            f"the quaternion of point {point} has a norm of {norms[point]:.3f}; allowed: 1", reason="not a quaternion"
        )
    quaternions /= norms[:, np.newaxis]
    signs = np.where(np.sum(quaternions[1:] * quaternions[:-1], axis=1) < 0.0, -1.0, 1.0)
    quaternions[1:] *= np.cumprod(signs)[:, np.newaxis]


@dataclass(frozen=True)
class _Limits:
    """Limits of each part of a value: its columns, the largest step and velocity, and their settings."""

    parts: tuple[tuple[slice, Array, Array, str], ...]
    joints: bool

    @classmethod
    def of(cls, kind: str, parameter: Callable[[str], Any]) -> _Limits:
        if kind in ("q", "dq"):
            step = np.full(7, parameter("max_joint_step"))
            return cls(((slice(0, 7), step, np.asarray(parameter("max_joint_velocity")), "joint"),), True)
        columns = (slice(0, 3), slice(3, None))
        return cls(
            tuple(
                (column, np.array([parameter(f"max_{part}_step")]), np.array([parameter(f"max_{part}_velocity")]), part)
                for column, part in zip(columns, ("linear", "angular"), strict=True)
            ),
            False,
        )


def _sizes(part: str, differences: Array) -> Array:
    """What the limits of a part compare (n, 7 or 1)."""
    return np.abs(differences) if part == "joint" else np.linalg.norm(differences, axis=1, keepdims=True)


def _clip_velocities(values: Array, limits: _Limits, refuses: bool, number: int = 0) -> int:
    """Shorten velocities to the limits, in place; return how many.

    :param number: of the first one, for the message.
    :raises InvalidTarget: ``refuses``, and one is much faster.
    """
    clipped = np.zeros(len(values), dtype=bool)
    for columns, _, fastest, part in limits.parts:
        excess = _sizes(part, values[:, columns]) / fastest
        for point in np.flatnonzero((excess > _TOO_FAST).any(axis=1))[: 1 if refuses else 0]:
            raise InvalidTarget(
                f"point {number + point} is {excess[point].max():.1f} times as fast as max_{part}_velocity allows: "
                "slow it down, or set chunk_violation to clip",
                reason="too fast",
            )
        values[:, columns] /= np.maximum(excess, 1.0)
        clipped |= (excess > 1.0).any(axis=1)
    return int(clipped.sum())


def _summed(kind: str, times: Array, velocities: Array, clipped: int) -> Points:
    """The path of velocities, see :class:`Chunk`."""
    durations = np.diff(times, append=2.0 * times[-1] - times[-2] if len(times) > 1 else times[-1] + _ALONE)
    ends = np.append(times, times[-1] + durations[-1])
    steps = velocities * durations[:, np.newaxis]
    if kind == "dq":
        return Points(ends, np.concatenate([np.zeros((1, 7)), np.cumsum(steps, axis=0)]), True, clipped)
    values = np.zeros((len(ends), 7))
    values[1:, :3] = np.cumsum(steps[:, :3], axis=0)
    orientation = np.array([0.0, 0.0, 0.0, 1.0])
    values[0, 3:] = orientation
    for row, step in enumerate(steps, 1):
        rotate(orientation, step[3:], 1.0)
        values[row, 3:] = orientation
    return Points(ends, values, True, clipped)


def _refuse_outside(kind: str, values: Array, parameter: Callable[[str], Any], past: int) -> None:
    """:raises InvalidTarget: a point is outside the limits of the joints, or of the workspace."""
    names, width = (("joint_lower", "joint_upper"), 7) if kind == "q" else (("workspace_lower", "workspace_upper"), 3)
    lower, upper = (np.asarray(parameter(name)) for name in names)
    outside = (values[:, :width] < lower) | (values[:, :width] > upper)
    outside[:past] = False
    for point, column in np.argwhere(outside)[:1]:
        what = fr3.JOINT_NAMES[column] if kind == "q" else "xyz"[column]
        raise InvalidTarget(
            f"{what} = {values[point, column]:.4f} at point {point} is outside [{lower[column]:.4f}, "
            f"{upper[column]:.4f}], see {names[0]} and {names[1]}",
            reason="outside the limits",
        )


def _clip_steps(times: Array, values: Array, limits: _Limits, refuses: bool, past: int) -> int:
    """Cut steps between neighbours to the limits, in place; return how many points that are due were moved.

    :param past: so many points at the beginning are past: those before a jump do not count.
    :raises InvalidTarget: ``refuses``, and a step is longer.
    """
    durations = np.diff(times)[:, np.newaxis]
    jumps, early = np.zeros(len(durations), dtype=bool), np.zeros(past, dtype=bool)
    for columns, longest, fastest, part in limits.parts:
        steps = _sizes(part, np.diff(values[:, columns], axis=0))
        if part == "angular":  # Between unit quaternions, whose difference is a chord.
            steps = 4.0 * np.arcsin(np.minimum(0.5 * steps, 1.0))
        wrong = (steps > np.minimum(longest, _TOO_FAST * fastest * durations)).any(axis=1)
        early |= wrong[:past]
        wrong[:past] = False
        for point in np.flatnonzero(wrong)[: 1 if refuses else 0]:
            raise InvalidTarget(
                f"from point {point} to point {point + 1} it jumps by {steps[point].max():.3f} "
                f"{'m' if part == 'linear' else 'rad'} in {durations[point, 0]:.3f} s, see max_{part}_step and "
                f"max_{part}_velocity: send points that the arm can follow, or set chunk_violation to clip",
                reason="jumps",
            )
        jumps |= wrong
    for point in np.flatnonzero(early)[-1:]:
        values[: point + 1] = values[point + 1]
    if not jumps.any():
        return 0
    clipped = 0
    for point in range(int(jumps.argmax()) + 1, len(values)):
        clipped += _pull(values[point - 1], values[point], limits, float(durations[point - 1, 0]))
    return clipped


def _pull(before: Array, value: Array, limits: _Limits, duration: float) -> bool:
    """Move ``value``, in place, as close to ``before`` (7,) as the limits say; return whether that was necessary."""
    if limits.joints:
        _, longest, fastest, _ = limits.parts[0]
        allowed = np.minimum(longest, fastest * duration)
        cut = np.clip(value, before - allowed, before + allowed)
        moved = bool((cut != value).any())
        value[:] = cut
        return moved
    (_, longest, fastest, _), (_, widest, turning, _) = limits.parts
    step, turn = value[:3] - before[:3], np.empty(3)
    rotation_between(value[3:], before[3:], turn)
    far = float(np.linalg.norm(step)) / min(float(longest[0]), float(fastest[0]) * duration)
    wide = float(np.linalg.norm(turn)) / min(float(widest[0]), float(turning[0]) * duration)
    if far > 1.0:
        value[:3] = before[:3] + step / far
    if wide > 1.0:
        value[3:] = before[3:]
        rotate(value[3:], turn, 1.0 / wide)
    elif np.dot(value[3:], before[3:]) < 0.0:
        value[3:] *= -1.0
    return far > 1.0 or wide > 1.0
