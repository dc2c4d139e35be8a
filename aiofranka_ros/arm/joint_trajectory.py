"""Joint trajectories that come as points: made into one motion from where the arm is, or refused with the reason.

Used by whoever owns an arm, in its process and its one thread, when a trajectory begins
(:mod:`aiofranka_ros.arm.moves`). Nothing here knows of ROS. The result is a piecewise polynomial that the control
process evaluates at 1 kHz, see
:mod:`aiofranka_ros.control.law.motion`.

Between the points, as in joint_trajectory_controller:

- positions, velocities and accelerations at every point: quintics, which keep to all of them;
- positions and velocities: cubics;
- positions alone: there, straight lines would ask for steps of the velocity, which no torque can make. Instead,
  monotone cubics (F. N. Fritsch and J. Butland, "A method for constructing local monotone piecewise cubic
  interpolants", SIAM J. Sci. Stat. Comput. 5(2), 1984): through every point at its time, never beyond two neighbours,
  straight where the points are, at rest at the end.

The joints' limits hold for whatever comes out of it, between the points too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.control.records import MAX_SEGMENTS
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array, kernel
from aiofranka_ros.model.fr3 import (
    ACCELERATION_LIMIT,
    CYCLE,
    HOME,
    JOINT_NAMES,
    POSITION_LOWER,
    POSITION_UPPER,
    VELOCITY_LIMIT,
    velocity_envelope,
)

#: What is taken for rounding beyond a position limit [rad]...
_POSITION_TOLERANCE = 1e-3
#: ...and beyond what the robot allows as velocity [rad/s]: half of what it tolerates...
_VELOCITY_TOLERANCE = 0.05
#: ...and beyond the acceleration limits [rad/s²]: a tenth of them.
_ACCELERATION_TOLERANCE = 1.0
#: Numbers beyond this overflow where a polynomial is evaluated, however short its segment.
_LARGEST_COEFFICIENT = 1e100
#: A trajectory that ends faster than this [rad/s] does not end at rest.
_REST_VELOCITY = 1e-3
#: Points that follow another one within less are left out [s]: half a cycle of the arm.
_CLOSEST = 0.5 * CYCLE
#: How often a motion is compared with the limits [s]; at both ends of each segment as well.
_SURVEY_PERIOD = 0.005
#: ...but not more often in one segment, however long it is: a quintic hides nothing between so many points.
_SURVEY_STEPS = 200
#: An arm beside a trajectory that has begun is led onto it in at least this time [s]...
_SHORTEST_ENTRY = 0.1
#: ...and at the most in this.
_LONGEST_ENTRY = 6.0
#: Peaks of a quintic that leads from an offset of 1 to none in 1 s: velocity and acceleration; and the acceleration
#: where it leads from an offset's rate of 1 to rest.
_QUINTIC_VELOCITY, _QUINTIC_ACCELERATION, _QUINTIC_BRAKING = 1.875, 5.774, 3.94
#: How far a trajectory with too many points may be from any of them once it is thinned out [rad].
_THINNING_TOLERANCE = 1e-3
#: Knots closer than this are one [s].
_SAME_KNOT = 1e-7

_ORDERS = np.arange(6)
#: ``_BINOMIALS[p, r]``: r over p, by which a polynomial is counted from another time.
_BINOMIALS = np.array([[math.comb(r, p) for r in range(6)] for p in range(6)], dtype=float)


@dataclass(frozen=True)
class JointTrajectory:
    """Points to pass, joint 1 first.

    :ivar times: when [s] (n,), from the beginning of the trajectory.
    :ivar q: positions [rad] (n, 7).
    :ivar dq: velocities [rad/s] (n, 7); ``None``: not given.
    :ivar ddq: accelerations [rad/s²] (n, 7); ``None``: not given. They are used where there are velocities, too.
    :ivar joints: names of the joints, for messages.
    """

    times: Array
    q: Array
    dq: Array | None = None
    ddq: Array | None = None
    joints: Sequence[str] = JOINT_NAMES

    def check(self) -> None:
        """Refuse what is wrong wherever the arm may be; its limits between the points are checked by :func:`join`.

        :raises InvalidTarget: there are no points, their times do not increase, something is not finite or outside of
            the joints' position limits, or it does not end at rest.
        """
        if len(self.times) == 0:
            raise InvalidTarget("it has no points", reason="no points")
        for what, values in (("time_from_start", self.times), ("positions", self.q)):
            _require_finite(what, values)
        for what, optional in (("velocities", self.dq), ("accelerations", self.ddq)):
            if optional is not None:
                _require_finite(what, optional)
        if self.times[0] < 0.0:
            raise InvalidTarget(f"point 0 is at {self.times[0]:g} s, before its beginning", reason="wrong times")
        for late in np.flatnonzero(np.diff(self.times) <= 0.0)[:1]:
            raise InvalidTarget(
                f"times must increase, but point {late} is at {self.times[late]:g} s and point {late + 1} at "
                f"{self.times[late + 1]:g} s",
                reason="wrong times",
            )
        outside = (self.q < POSITION_LOWER - _POSITION_TOLERANCE) | (self.q > POSITION_UPPER + _POSITION_TOLERANCE)
        for point, joint in np.argwhere(outside)[:1]:
            raise InvalidTarget(
                f"{self.joints[joint]} = {self.q[point, joint]:.4f} rad at point {point} is outside "
                f"[{POSITION_LOWER[joint]:.4f}, {POSITION_UPPER[joint]:.4f}]",
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
    """How the joints move at one instant.

    :ivar q: positions [rad] (7,).
    :ivar dq: velocities [rad/s] (7,).
    :ivar ddq: accelerations [rad/s²] (7,).
    """

    q: Array
    dq: Array
    ddq: Array

    @classmethod
    def on(cls, motion: Motion, time: float) -> ArmState:
        """On ``motion`` at ``time`` [s]."""
        return cls(*motion.at(time))


def join(trajectory: JointTrajectory, before: Motion | ArmState, age: float) -> Motion:
    """The motion that leads from what the arm does now along ``trajectory``.

    Before the first point it leads there in the time that is left, like any other segment. Where the first point has
    passed already, the distance to where the arm should be fades out as a quintic, as fast as the limits allow with
    ease; the times of the trajectory stay.

    :param before: what the arm would do from now on; it goes on with that until the trajectory begins. A state: hold
        there, if there is time; the arm then has to be at rest.
    :param age: how long ago the trajectory began [s]; negative: it is still to begin.
    :raises InvalidTarget: the result would violate a limit of a joint: it names the joint, and by how much.
    """
    wait, begin = max(0.0, -age), max(0.0, age)
    if isinstance(before, ArmState):
        state, rest = before, _still(before.q)
    else:
        state, rest = ArmState.on(before, wait), before
    points = _apart(trajectory)
    if points.times[0] > begin + CYCLE:
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
    _check_limits(motion, wait, begin - wait, trajectory.joints)
    return motion


def fit(trajectory: JointTrajectory) -> Motion:
    """The motion through all points, from the first one on; at rest there where only positions are given."""
    if len(trajectory.times) == 1:
        return _still(trajectory.q[0])
    return _polynomials(
        trajectory.times - trajectory.times[0], trajectory.q, trajectory.dq, trajectory.ddq, np.zeros(7)
    )


def remainder(motion: Motion, time: float) -> Motion:
    """What is left of ``motion`` after ``time`` [s]; at its end, if nothing is."""
    left = motion.duration - time
    if left <= CYCLE:
        return _still(motion.goal)
    knots = _knots(left, motion.times - time)
    return Motion(knots, _pieces(motion, knots + time))


def warm_up() -> None:
    """Compile what :func:`join` needs, or load it from the cache: the first trajectory must not wait for a compiler."""
    join(JointTrajectory(np.array([1.0]), HOME[np.newaxis]), ArmState(HOME, np.zeros(7), np.zeros(7)), 0.0)


def _require_finite(what: str, values: Array) -> None:
    for point in np.argwhere(~np.isfinite(values))[:1, 0]:
        raise InvalidTarget(f"{what} of point {point} are not finite: {values[point].tolist()}", reason="not finite")


def _still(q: Array) -> Motion:
    coefficients = np.zeros((1, 7, 6))
    coefficients[0, :, 0] = q
    return Motion(np.array([0.0, CYCLE]), coefficients)


def _apart(trajectory: JointTrajectory) -> JointTrajectory:
    """Without points that follow another one too closely: rounding alone would ask for any acceleration there."""
    times = trajectory.times
    kept = [0]
    for index in range(1, len(times)):
        if times[index] - times[kept[-1]] >= _CLOSEST:
            kept.append(index)
        elif index == len(times) - 1:
            kept[-1] = index  # The end is what counts.
    if len(kept) == len(times):
        return trajectory
    dq, ddq = (None if values is None else values[kept] for values in (trajectory.dq, trajectory.ddq))
    return JointTrajectory(times[kept], trajectory.q[kept], dq, ddq, trajectory.joints)


def _polynomials(times: Array, q: Array, dq: Array | None, ddq: Array | None, first_dq: Array) -> Motion:
    """Through points from ``times[0] = 0`` on; ``first_dq`` [rad/s] (7,) counts where no velocities are given."""
    if dq is None:
        return Motion(times, _hermite(times, q, _monotone(times, q, first_dq), None))
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
    """Velocities (n, 7) at the points: weighted harmonic means of the slopes on both sides, 0 where those differ in
    sign and at the end."""
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
    """The rest of ``path`` after ``late`` [s], with what ``state`` is beside it fading out.

    :param begin: time in the trajectory, for messages [s].
    :raises InvalidTarget: no such motion keeps within the joints' limits.
    """
    path = remainder(path, late)
    _check_limits(path, 0.0, begin, joints)
    there = ArmState.on(path, 0.0)
    offset, rate = state.q - there.q, state.dq - there.dq
    with_ease = 0.5 * ACCELERATION_LIMIT
    duration = max(
        _SHORTEST_ENTRY,
        float(np.sqrt(_QUINTIC_ACCELERATION * np.abs(offset) / with_ease).max()),
        float((_QUINTIC_VELOCITY * np.abs(offset) / (0.5 * VELOCITY_LIMIT)).max()),
        float((_QUINTIC_BRAKING * np.abs(rate) / with_ease).max()),
    )
    q, dq, ddq = (np.array([value, np.zeros(7)]) for value in (offset, rate, state.ddq - there.ddq))
    while True:
        ends = np.array([0.0, duration])
        fading = Motion(ends, _hermite(ends, q, dq, ddq))
        knots = _knots(max(path.duration, duration), path.times, ends)
        motion = Motion(knots, _pieces(path, knots) + _pieces(fading, knots))
        try:
            _check_limits(motion, 0.0, begin, joints)
        except InvalidTarget as error:
            duration *= 1.3
            if duration > _LONGEST_ENTRY:
                joint = int(np.abs(offset).argmax())
                raise InvalidTarget(
                    f"the arm cannot enter it from where it is, {abs(offset[joint]):.3f} rad beside it at "
                    f"{joints[joint]}: {error}",
                    reason="too far away",
                ) from error
        else:
            return motion


def _knots(end: float, *times: Array) -> Array:
    """All of ``times`` between 0 and ``end`` [s], and these two."""
    inner = np.unique(np.concatenate(times))
    inner = inner[(inner > _SAME_KNOT) & (inner < end - _SAME_KNOT)]
    knots = np.concatenate([[0.0], inner, [end]])
    return knots[np.concatenate([[True], np.diff(knots) > _SAME_KNOT])]


def _pieces(motion: Motion, knots: Array) -> Array:
    """Coefficients (n - 1, 7, 6) of ``motion`` between ``knots`` (n,), its own among them; it holds after its end."""
    middle = 0.5 * (knots[:-1] + knots[1:])
    index = np.clip(np.searchsorted(motion.times, middle) - 1, 0, len(motion.coefficients) - 1)
    shift = (knots[:-1] - motion.times[index])[:, np.newaxis, np.newaxis]
    # Taylor's formula: what multiplies s**p after the shift.
    powers = np.where(_ORDERS >= _ORDERS[:, np.newaxis], _ORDERS - _ORDERS[:, np.newaxis], 0)
    # In this order, because kernels are compiled anew for another one, and the control process cannot wait for that.
    coefficients = np.einsum("kpr,kjr->kjp", _BINOMIALS * shift**powers, motion.coefficients[index], order="C")
    over = middle > motion.duration
    coefficients[over] = 0.0
    coefficients[over, :, 0] = motion.goal
    return coefficients


def _thinned(motion: Motion, joints: Sequence[str]) -> Motion:
    """``motion`` with no more segments than the control process takes, through some of its knots.

    :raises InvalidTarget: it would then miss the others.
    """
    count = len(motion.coefficients)
    if count <= MAX_SEGMENTS:
        return motion
    kept = np.round(np.linspace(0, count, MAX_SEGMENTS + 1)).astype(int)
    after = _pieces(motion, np.append(motion.times, motion.duration + CYCLE))
    q, dq, ddq = after[..., 0], after[..., 1], 2.0 * after[..., 2]
    # Accelerations may jump at a knot: those before it count as much as those after it.
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


def _check_limits(motion: Motion, begin: float, offset: float, joints: Sequence[str]) -> None:
    """Refuse a motion that violates a limit after ``begin`` [s].

    :param offset: from times in the motion to those in the trajectory [s], for the message.
    :raises InvalidTarget: it names the joint, by how much, and when.
    """
    # Such numbers would end as none at all, which no limit is smaller than.
    for _, joint, _ in np.argwhere(~(np.abs(motion.coefficients) < _LARGEST_COEFFICIENT))[:1]:
        raise InvalidTarget(
            f"{joints[joint]} would have to move beyond all numbers: are its velocities or accelerations initialised?",
            reason="too fast",
        )
    worst, when = np.zeros((3, 7)), np.zeros((3, 7))
    _survey(motion.times, motion.coefficients, begin, worst, when)
    first = motion.at(begin)[0]
    # An arm that begins outside has to be able to come back.
    allowed = np.maximum(0.0, np.maximum(POSITION_LOWER - first, first - POSITION_UPPER)) + _POSITION_TOLERANCE
    excess = worst - np.array([allowed, np.full(7, _VELOCITY_TOLERANCE), ACCELERATION_LIMIT + _ACCELERATION_TOLERANCE])
    for kind, joint in np.argwhere(excess > 0.0)[:1]:
        joint = int(excess[kind].argmax())
        q, dq, _ = motion.at(when[kind, joint])
        name, value = joints[joint], worst[kind, joint]
        told = (
            f"{name} would be at {q[joint]:.4f} rad, {value:.4f} rad beyond its limit",
            f"{name} would move at {dq[joint]:.2f} rad/s, {value:.2f} rad/s faster than the robot allows there",
            f"{name} would have to accelerate with {value:.1f} rad/s^2; its limit is {ACCELERATION_LIMIT[joint]:g}",
        )[kind]
        reason = ("outside the joint limits", "too fast", "too much acceleration")[kind]
        raise InvalidTarget(f"{told} (at {when[kind, joint] + offset:.2f} s)", reason=reason)


@kernel
def _survey(times: Array, coefficients: Array, begin: float, worst: Array, when: Array) -> None:
    """Where after ``begin`` [s] a motion is nearest to each joint's limits, or furthest beyond.

    :param worst: filled with the largest distance beyond a position limit [rad], velocity beyond what the robot allows
        [rad/s], and acceleration [rad/s²] (3, 7); all at least 0.
    :param when: filled with their times [s] (3, 7).
    """
    q, dq, values = np.empty(7), np.empty(7), np.empty((3, 7))
    low, high = np.empty(7), np.empty(7)
    for k in range(len(times) - 1):
        span = times[k + 1] - times[k]
        first = max(begin - times[k], 0.0)
        if first > span:
            continue
        steps = int(min((span - first) / _SURVEY_PERIOD + 1.0, _SURVEY_STEPS))
        for n in range(steps + 1):
            s = first + (span - first) * n / steps
            for i in range(7):
                c = coefficients[k, i]
                q[i] = c[0] + s * (c[1] + s * (c[2] + s * (c[3] + s * (c[4] + s * c[5]))))
                dq[i] = c[1] + s * (2.0 * c[2] + s * (3.0 * c[3] + s * (4.0 * c[4] + s * 5.0 * c[5])))
                values[2, i] = abs(2.0 * c[2] + s * (6.0 * c[3] + s * (12.0 * c[4] + s * 20.0 * c[5])))
            velocity_envelope(q, low, high)
            for i in range(7):
                values[0, i] = max(POSITION_LOWER[i] - q[i], q[i] - POSITION_UPPER[i])
                values[1, i] = max(low[i] - dq[i], dq[i] - high[i])
                for kind in range(3):
                    if values[kind, i] > worst[kind, i]:
                        worst[kind, i] = values[kind, i]
                        when[kind, i] = times[k] + s
