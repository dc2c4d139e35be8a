"""Joint trajectories given as points: made into one motion from where the arm is, or refused with the reason.

Used by :mod:`aiofranka_ros.arm.tasks` when a trajectory is planned, in the process and thread that own the arm. Nothing
here knows ROS. The result is a piecewise polynomial that the control process evaluates at 1 kHz, see
:mod:`aiofranka_ros.control.law.motion`.

Between the points, as in joint_trajectory_controller:

- positions, velocities and accelerations at every point: quintics that pass through all of them;
- positions and velocities: cubics;
- positions only: unlike joint_trajectory_controller, no straight lines, whose steps in velocity no torque can follow.
  Instead, monotone cubics (F. N. Fritsch and J. Butland, "A method for constructing local monotone piecewise cubic
  interpolants", SIAM J. Sci. Stat. Comput. 5(2), 1984): through every point at its time, never beyond two neighbours,
  straight if the points are, at rest at the end.

The result keeps the joints' limits, between the points too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aiofranka_ros.arm.limit_checks import POSITION_TOLERANCE, check_robot_limits
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.control.records import MAX_SEGMENTS
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array
from aiofranka_ros.model import fr3

#: A trajectory that ends faster than this [rad/s] does not end at rest.
_REST_VELOCITY = 1e-3
#: Points that follow another one within less are left out [s]: half a cycle of the arm.
_CLOSEST = 0.5 * fr3.CYCLE
#: An arm next to a trajectory that has begun is led onto it in at least this time [s]...
_SHORTEST_ENTRY = 0.1
#: ...and at most in this.
_LONGEST_ENTRY = 6.0
#: Peak velocity and acceleration of a quintic from an offset of 1 to 0 within 1 s, and its peak acceleration from an
#: offset rate of 1 to rest.
_QUINTIC_VELOCITY, _QUINTIC_ACCELERATION, _QUINTIC_BRAKING = 1.875, 5.774, 3.94
#: How far a trajectory with too many points may be from any of them once it is thinned out [rad].
_THINNING_TOLERANCE = 1e-3
#: Knots closer than this are the same knot [s].
_SAME_KNOT = 1e-7

_ORDERS = np.arange(6)
#: ``_BINOMIALS[p, r]``: r over p, for shifting a polynomial in time.
_BINOMIALS = np.array([[math.comb(r, p) for r in range(6)] for p in range(6)], dtype=float)


@dataclass(frozen=True)
class JointTrajectory:
    """Points to pass, joint 1 first."""

    times: Array  #: when [s] (n,), from the beginning of the trajectory
    q: Array  #: positions [rad] (n, 7)
    dq: Array | None = None  #: velocities [rad/s] (n, 7); ``None``: not given
    ddq: Array | None = None  #: accelerations [rad/s²] (n, 7); ``None``: not given. Used only together with velocities
    joints: Sequence[str] = fr3.JOINT_NAMES  #: names of the joints, for messages

    def check(self) -> None:
        """Refuse what is wrong wherever the arm is; :func:`join` checks the limits between the points.

        :raises InvalidTarget: there are no points, their times do not increase, a value is not finite or outside the
            joints' position limits, or the trajectory does not end at rest.
        """
        if len(self.times) == 0:
            raise InvalidTarget("it has no points", reason="no points")
        given = {"time_from_start": self.times, "positions": self.q, "velocities": self.dq, "accelerations": self.ddq}
        for what, values in given.items():
            if values is None:
                continue
            for point in np.argwhere(~np.isfinite(values))[:1, 0]:
                raise InvalidTarget(
                    f"{what} of point {point} are not finite: {values[point].tolist()}", reason="not finite"
                )
        if self.times[0] < 0.0:
            raise InvalidTarget(f"point 0 is at {self.times[0]:g} s, before its beginning", reason="wrong times")
        for late in np.flatnonzero(np.diff(self.times) <= 0.0)[:1]:
            raise InvalidTarget(
                f"times must increase, but point {late} is at {self.times[late]:g} s and point {late + 1} at "
                f"{self.times[late + 1]:g} s",
                reason="wrong times",
            )
        outside = np.maximum(fr3.POSITION_LOWER - self.q, self.q - fr3.POSITION_UPPER) > POSITION_TOLERANCE
        for point, joint in np.argwhere(outside)[:1]:
            raise InvalidTarget(
                f"{self.joints[joint]} = {self.q[point, joint]:.4f} rad at point {point} is outside "
                f"[{fr3.POSITION_LOWER[joint]:.4f}, {fr3.POSITION_UPPER[joint]:.4f}]",
                reason="outside the joint limits",
            )
        if self.dq is not None and np.abs(self.dq[-1]).max() > _REST_VELOCITY:
            joint = int(np.abs(self.dq[-1]).argmax())
            raise InvalidTarget(
                f"it must end at rest, but {self.joints[joint]} ends at {self.dq[-1, joint]:.3f} rad/s",
                reason="does not end at rest",
            )


@dataclass(frozen=True)
class ArmState:
    """How the joints move at one instant."""

    q: Array  #: positions [rad] (7,)
    dq: Array  #: velocities [rad/s] (7,)
    ddq: Array  #: accelerations [rad/s²] (7,)


def join(trajectory: JointTrajectory, before: Motion | ArmState, age: float) -> Motion:
    """The motion from what the arm does now, along ``trajectory``.

    If the first point is still ahead, the motion leads there in the remaining time, like any other segment. If it has
    passed, the distance to where the arm should be fades out as a quintic, at about half of the limits; the times of
    the trajectory stay.

    :param before: what the arm would do from now on; it continues with that until the trajectory begins. A state means
        holding there; the arm must be at rest then, if the trajectory has not begun.
    :param age: how long ago the trajectory began [s]; negative: it has not begun.
    :raises InvalidTarget: the result would violate a limit of a joint; it names the joint and the excess.
    """
    wait, begin = max(0.0, -age), max(0.0, age)
    if isinstance(before, ArmState):
        state, rest = before, _still(before.q)
    else:
        state, rest = ArmState(*before.at(wait)), before
    points = _apart(trajectory)
    if points.times[0] > begin + fr3.CYCLE:
        motion = _polynomials(
            np.concatenate([[begin], points.times]) - begin,
            np.concatenate([[state.q], points.q]),
            None if points.dq is None else np.concatenate([[state.dq], points.dq]),
            None if points.ddq is None else np.concatenate([[state.ddq], points.ddq]),
            state.dq,
        )
    else:
        motion = _enter(fit(points), state, begin - points.times[0], begin, trajectory.joints)
    if wait > 0.0:
        knots = _knots(wait, rest.times)
        times = np.concatenate([knots, wait + motion.times[1:]])
        motion = Motion(times, np.concatenate([_pieces(rest, knots), motion.coefficients]))
    motion = _thinned(motion, trajectory.joints)
    check_robot_limits(motion, wait, begin - wait, trajectory.joints)
    return motion


def fit(trajectory: JointTrajectory) -> Motion:
    """The motion through all points, from the first one on; it starts at rest if only positions are given."""
    if len(trajectory.times) == 1:
        return _still(trajectory.q[0])
    return _polynomials(
        trajectory.times - trajectory.times[0], trajectory.q, trajectory.dq, trajectory.ddq, np.zeros(7)
    )


def remainder(motion: Motion, time: float) -> Motion:
    """What is left of ``motion`` after ``time`` [s]; at its end, if nothing is."""
    left = motion.duration - time
    if left <= fr3.CYCLE:
        return _still(motion.goal)
    knots = _knots(left, motion.times - time)
    return Motion(knots, _pieces(motion, knots + time))


def _still(q: Array) -> Motion:
    coefficients = np.zeros((1, 7, 6))
    coefficients[0, :, 0] = q
    return Motion(np.array([0.0, fr3.CYCLE]), coefficients)


def _apart(trajectory: JointTrajectory) -> JointTrajectory:
    """Without points that follow another one too closely: rounding alone could demand any acceleration there."""
    times = trajectory.times
    kept = [0]
    for index in range(1, len(times)):
        if times[index] - times[kept[-1]] >= _CLOSEST:
            kept.append(index)
        elif index == len(times) - 1:
            kept[-1] = index  # Keep the end.
    if len(kept) == len(times):
        return trajectory
    dq, ddq = (None if values is None else values[kept] for values in (trajectory.dq, trajectory.ddq))
    return JointTrajectory(times[kept], trajectory.q[kept], dq, ddq, trajectory.joints)


def _polynomials(times: Array, q: Array, dq: Array | None, ddq: Array | None, first_dq: Array) -> Motion:
    """Through points from ``times[0] = 0`` on; ``first_dq`` [rad/s] (7,) is used if no velocities are given."""
    dq, ddq = (_monotone(times, q, first_dq), None) if dq is None else (dq, ddq)
    return Motion(times, _hermite(times, q, dq, ddq))


def _hermite(times: Array, q: Array, dq: Array, ddq: Array | None) -> Array:
    """Coefficients (n - 1, 7, 6) of cubics, or with ``ddq`` of quintics, that take the values (n, 7) at ``times``."""
    h = np.diff(times)[:, np.newaxis]
    distance, v0, v1 = np.diff(q, axis=0), dq[:-1] * h, dq[1:] * h
    coefficients = np.zeros((len(h), 7, 6))
    coefficients[..., 0], coefficients[..., 1] = q[:-1], dq[:-1]
    if ddq is None:
        coefficients[..., 2] = (3.0 * distance - 2.0 * v0 - v1) / h**2
        coefficients[..., 3] = (v0 + v1 - 2.0 * distance) / h**3
        return coefficients
    a0, a1 = ddq[:-1] * h**2, ddq[1:] * h**2
    coefficients[..., 2] = 0.5 * ddq[:-1]
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


def _enter(path: Motion, state: ArmState, late: float, begin: float, joints: Sequence[str]) -> Motion:
    """The rest of ``path`` after ``late`` [s], plus the offset of ``state`` from it, which fades out within the limits.

    ``begin`` is the time in the trajectory, for messages [s].
    """
    path = remainder(path, late)
    check_robot_limits(path, 0.0, begin, joints)
    there = ArmState(*path.at(0.0))
    offset, rate = state.q - there.q, state.dq - there.dq
    gentle = 0.5 * fr3.ACCELERATION_LIMIT
    duration = max(
        _SHORTEST_ENTRY,
        float(np.sqrt(_QUINTIC_ACCELERATION * np.abs(offset) / gentle).max()),
        float((_QUINTIC_VELOCITY * np.abs(offset) / (0.5 * fr3.VELOCITY_LIMIT)).max()),
        float((_QUINTIC_BRAKING * np.abs(rate) / gentle).max()),
    )
    q, dq, ddq = (np.array([value, np.zeros(7)]) for value in (offset, rate, state.ddq - there.ddq))
    while True:
        ends = np.array([0.0, duration])
        fading = Motion(ends, _hermite(ends, q, dq, ddq))
        knots = _knots(max(path.duration, duration), path.times, ends)
        motion = Motion(knots, _pieces(path, knots) + _pieces(fading, knots))
        try:
            check_robot_limits(motion, 0.0, begin, joints)
        except InvalidTarget as error:
            duration *= 1.3
            if duration > _LONGEST_ENTRY:
                joint = int(np.abs(offset).argmax())
                raise InvalidTarget(
                    f"the arm cannot enter it from where it is, {abs(offset[joint]):.3f} rad away from it at "
                    f"{joints[joint]}: {error}",
                    reason="too far away",
                ) from error
        else:
            return motion


def _knots(end: float, *times: Array) -> Array:
    """0, all of ``times`` between 0 and ``end``, and ``end`` [s]."""
    inner = np.unique(np.concatenate(times))
    inner = inner[(inner > _SAME_KNOT) & (inner < end - _SAME_KNOT)]
    knots = np.concatenate([[0.0], inner, [end]])
    return knots[np.concatenate([[True], np.diff(knots) > _SAME_KNOT])]


def _pieces(motion: Motion, knots: Array) -> Array:
    """Coefficients (n - 1, 7, 6) of ``motion`` between ``knots`` (n,), which include its own; it holds after its
    end."""
    middle = 0.5 * (knots[:-1] + knots[1:])
    index = np.clip(np.searchsorted(motion.times, middle) - 1, 0, len(motion.coefficients) - 1)
    shift = (knots[:-1] - motion.times[index])[:, np.newaxis, np.newaxis]
    # Taylor's formula: the factors of s**p after the shift.
    powers = np.where(_ORDERS >= _ORDERS[:, np.newaxis], _ORDERS - _ORDERS[:, np.newaxis], 0)
    # In C order: for another order, numba would compile the kernels again, which takes longer than a heartbeat may.
    coefficients = np.einsum("kpr,kjr->kjp", _BINOMIALS * shift**powers, motion.coefficients[index], order="C")
    over = middle > motion.duration
    coefficients[over] = 0.0
    coefficients[over, :, 0] = motion.goal
    return coefficients


def _thinned(motion: Motion, joints: Sequence[str]) -> Motion:
    """``motion`` with as few segments as the control process accepts; ``InvalidTarget`` if it would miss a knot."""
    count = len(motion.coefficients)
    if count <= MAX_SEGMENTS:
        return motion
    kept = np.round(np.linspace(0, count, MAX_SEGMENTS + 1)).astype(int)
    after = _pieces(motion, np.append(motion.times, motion.duration + fr3.CYCLE))
    q, dq, ddq = after[..., 0], after[..., 1], 2.0 * after[..., 2]
    # Accelerations may jump at a knot: take the mean of both sides.
    s = np.diff(motion.times)[:, np.newaxis, np.newaxis] ** np.arange(4)
    before = np.sum(motion.coefficients[..., 2:] * np.array([2.0, 6.0, 12.0, 20.0]) * s, axis=2)
    ddq[1:-1] = 0.5 * (ddq[1:-1] + before[:-1])
    ddq[-1] = before[-1]
    thinned = Motion(motion.times[kept], _hermite(motion.times[kept], q[kept], dq[kept], ddq[kept]))
    missed = np.abs(_pieces(thinned, motion.times)[..., 0] - q[:-1])
    if missed.max() > _THINNING_TOLERANCE:
        joint = int(missed.max(axis=0).argmax())
        raise InvalidTarget(
            f"it has more than {MAX_SEGMENTS} segments, and without some of its points {joints[joint]} would miss "
            f"others by {missed.max():.4f} rad: use fewer points",
            reason="too many points",
        )
    return thinned
