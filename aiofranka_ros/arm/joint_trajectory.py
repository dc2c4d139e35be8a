"""Joint trajectories given as points: made into one motion from where the arm is, or refused with the reason.

Used by :mod:`aiofranka_ros.arm.tasks` when a trajectory is planned, in the process and thread that own the arm. Nothing
here knows ROS. The result is a piecewise polynomial that the control process evaluates at 1 kHz, see
:mod:`aiofranka_ros.control.law.motion`.

Between the points, as in joint_trajectory_controller:

- positions, velocities and accelerations: quintics that pass through all of them;
- positions and velocities: cubics;
- positions only: unlike joint_trajectory_controller, no straight lines, whose steps in velocity no torque can follow.
  Instead, monotone cubics (F. N. Fritsch and J. Butland, "A method for constructing local monotone piecewise cubic
  interpolants", SIAM J. Sci. Stat. Comput. 5(2), 1984): through every point at its time, never beyond two neighbours,
  straight if the points are, at rest at the end.

Every point may give velocities and accelerations or not. What it gives is used; what it does not give is what the next
simpler of these curves has there.

The result keeps the joints' limits, between the points too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aiofranka_ros.arm.curves import extended, merged_knots, pieces, quintics, remainder, still, thinned, through_points
from aiofranka_ros.arm.limit_checks import POSITION_TOLERANCE, check_robot_limits
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array
from aiofranka_ros.model import fr3

#: A trajectory that ends faster than this [rad/s] does not end at rest.
_REST_VELOCITY = 1e-3
#: Points that follow another one within less are left out [s]: half a cycle of the arm.
_CLOSEST = 0.5 * fr3.CYCLE
#: An arm that is not on a trajectory when it begins is led onto it in at least this time [s]...
_SHORTEST_ENTRY = 0.1
#: ...and at most in this.
_LONGEST_ENTRY = 6.0
#: States that differ by less are the same: positions [rad], velocities [rad/s] and accelerations [rad/s²]. A tenth of
#: what the checks of the limits treat as rounding, and less than an arm moves while its motion is planned.
_SAME_STATE = (1e-4, 5e-3, 0.1)
#: A first point that is due within this [s] and no further away than that [rad], but that the arm cannot reach in time,
#: is passed late.
_SOON, _NEAR = 0.25, 0.1
#: Peak velocity and acceleration of a quintic from an offset of 1 to 0 within 1 s, and its peak acceleration from an
#: offset rate of 1 to rest.
_QUINTIC_VELOCITY, _QUINTIC_ACCELERATION, _QUINTIC_BRAKING = 1.875, 5.774, 3.94
#: Most points of a trajectory: rclpy needs 7 ms for so many, and planning up to 12.
MOST_POINTS = 1000


@dataclass(frozen=True)
class JointTrajectory:
    """Points to pass, joint 1 first."""

    times: Array  #: when [s] (n,), from the beginning of the trajectory
    q: Array  #: positions [rad] (n, 7)
    dq: Array | None = None  #: velocities [rad/s] (n, 7); rows of NaN, or ``None``: not given
    ddq: Array | None = None  #: accelerations [rad/s²] (n, 7); rows of NaN, or ``None``: not given
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
            wrong = ~np.isfinite(values)
            if what in ("velocities", "accelerations"):
                wrong &= ~np.isnan(values).all(axis=1, keepdims=True)
            for point in np.argwhere(wrong)[:1, 0]:
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
        if self.dq is not None and (np.abs(self.dq[-1]) > _REST_VELOCITY).any():
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

    def equals(self, other: ArmState) -> bool:
        """Whether the two differ by so little that the control process may fade the difference out."""
        pairs = zip((self.q, self.dq, self.ddq), (other.q, other.dq, other.ddq), _SAME_STATE, strict=True)
        return all((np.abs(a - b) <= tolerance).all() for a, b, tolerance in pairs)


@dataclass(frozen=True)
class Following(Motion):
    """The motion of an arm that follows a trajectory: it leads onto it, and then is the same.

    :ivar given: the trajectory from its first point on, or from where the arm was if it had to be there later.
    :ivar begin: when ``given`` begins [s], from the beginning of the motion; negative: it had begun.
    """

    given: Motion
    begin: float

    def asked(self, time: float) -> tuple[Array, Array, Array]:
        """See :meth:`.Motion.asked`: where the trajectory is, also while the arm is still led onto it."""
        return self.at(time) if time < self.begin else self.given.at(time - self.begin)

    @property
    def overrun(self) -> float:
        """How much longer it lasts than the trajectory [s]."""
        return self.duration - self.begin - self.given.duration


def join(
    trajectory: JointTrajectory, before: Motion | ArmState, age: float, *, start_tolerance: float = np.inf
) -> Following:
    """The motion from what the arm does now, along ``trajectory``.

    If the first point is still ahead, the motion leads there in the remaining time, like any other segment, as the
    trajectory says nothing else. If it has passed, or is too soon, the distance to where the arm should be fades out as
    a quintic, at about half of the limits; the times of the trajectory stay.

    :param before: what the arm would do from now on; it continues with that until the trajectory begins. A state means
        holding there; the arm must be at rest then, if the trajectory has not begun.
    :param age: how long ago the trajectory began [s]; negative: it has not begun.
    :param start_tolerance: how far the arm may be from the trajectory when it begins [rad].
    :raises InvalidTarget: the arm is further away, or the result would violate a limit of a joint; it names the joint.
    """
    wait, begin = max(0.0, -age), max(0.0, age)
    if isinstance(before, ArmState):
        state, rest = before, still(before.q)
    else:
        state, rest = ArmState(*before.at(wait)), before
    points = _apart(trajectory)
    lead = points.times[0] - begin
    motion = _through(points, state, lead, begin) if lead >= _SHORTEST_ENTRY else None
    if motion is None:
        given, given_begin = _from_first_point(points, state, begin), lead
        motion = _enter(thinned(given, trajectory.joints), state, lead, begin, trajectory.joints, start_tolerance)
    else:
        given, given_begin = motion, 0.0
    if wait > 0.0:
        knots = merged_knots(wait, rest.times)
        times = np.concatenate([knots, wait + motion.times[1:]])
        motion = Motion(times, np.concatenate([pieces(rest, knots), motion.coefficients]))
    motion = thinned(motion, trajectory.joints)
    check_robot_limits(motion, wait, begin - wait, trajectory.joints)
    return Following(motion.times, motion.coefficients, given, wait + given_begin)


def fit(trajectory: JointTrajectory, first_dq: Array | None = None) -> Motion:
    """The motion through all points, from the first one on.

    :param first_dq: velocity at the first point if that gives none [rad/s] (7,); ``None``: at rest.
    """
    if len(trajectory.times) == 1:
        return still(trajectory.q[0])
    dq = trajectory.dq
    if first_dq is not None and (dq is None or np.isnan(dq[0]).any()):
        dq = np.full_like(trajectory.q, np.nan) if dq is None else dq.copy()
        dq[0] = first_dq
    return through_points(trajectory.times - trajectory.times[0], trajectory.q, dq, trajectory.ddq)


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


def _through(points: JointTrajectory, state: ArmState, lead: float, begin: float) -> Motion | None:
    """Through all points, from ``state`` and ``lead`` [s] before the first one on.

    :param begin: the time in the trajectory, for messages [s].
    :returns: ``None`` if the arm cannot reach the first point in time, but it is near in time and space.
    """

    def after(first: Array, values: Array | None) -> Array | None:
        return None if values is None else np.concatenate([[first], values])

    unknown = np.full((len(points.times), 7), np.nan)
    dq = unknown if points.dq is None else points.dq
    motion = through_points(
        np.concatenate([[0.0], points.times - begin]), np.concatenate([[state.q], points.q]),
        after(state.dq, dq), after(state.ddq, points.ddq),
    )  # fmt: skip
    try:
        # With the next segment, because the velocity at the first point may depend on where the arm is.
        check_robot_limits(Motion(motion.times[:3], motion.coefficients[:2]), 0.0, begin, points.joints)
    except InvalidTarget:
        if lead <= _SOON and _distance(state, points.q[0], lead).max() <= _NEAR:
            return None
    return motion


def _from_first_point(points: JointTrajectory, state: ArmState, begin: float) -> Motion:
    """Through all points from the first one on.

    If that gives no velocity, it is passed at the velocity of ``state``, as far as that leads to the next point, or at
    the mean velocity up to there, if the arm could not speed up so soon.
    """
    if len(points.times) == 1:
        return fit(points)
    mean = (points.q[1] - points.q[0]) / (points.times[1] - points.times[0])
    path = fit(points, np.clip(state.dq, np.minimum(mean, 0.0), np.maximum(mean, 0.0)))
    try:
        check_robot_limits(Motion(path.times[:2], path.coefficients[:1]), 0.0, begin, points.joints)
    except InvalidTarget:
        return fit(points, mean)
    return path


def _distance(state: ArmState, q: Array, lead: float = 0.0) -> Array:
    """How far ``q`` [rad] (7,) is from where the joints are, or would be within ``lead`` [s] at their velocity."""
    low, high = np.sort([state.q, state.q + max(0.0, lead) * state.dq], axis=0)
    return np.maximum(0.0, np.maximum(low - q, q - high))


def _enter(
    path: Motion, state: ArmState, lead: float, begin: float, joints: Sequence[str], start_tolerance: float
) -> Motion:
    """``path``, which begins in ``lead`` [s], plus the offset of ``state`` from it, which fades out within the limits.

    :param lead: negative: ``path`` has begun; positive: until then, it is continued backwards at its first velocity.
    :param begin: the time in the trajectory, for messages [s].
    :raises InvalidTarget: the arm is further than ``start_tolerance`` [rad] from it, or it violates a limit.
    """
    check_robot_limits(path, max(0.0, -lead), begin + lead, joints)
    distance = _distance(state, path.at(max(0.0, -lead))[0], lead)
    if distance.max() > start_tolerance:
        joint = int(distance.argmax())
        raise InvalidTarget(
            f"{joints[joint]} is {distance[joint]:.3f} rad from where the trajectory "
            f"{'should be by now' if lead < 0.0 else 'begins'} (start_tolerance is {start_tolerance:g} rad): plan it "
            "from where the arm is, or move the arm there first",
            reason="too far away",
        )
    path = remainder(path, -lead) if lead <= 0.0 else extended(path, lead)
    there = ArmState(*path.at(0.0))
    if state.equals(there):
        return path
    offset, rate, change = state.q - there.q, state.dq - there.dq, state.ddq - there.ddq
    gentle = 0.5 * fr3.ACCELERATION_LIMIT
    duration = max(
        _SHORTEST_ENTRY,
        float(np.sqrt(_QUINTIC_ACCELERATION * np.abs(offset) / gentle).max()),
        float((_QUINTIC_VELOCITY * np.abs(offset) / (0.5 * fr3.VELOCITY_LIMIT)).max()),
        float((_QUINTIC_BRAKING * np.abs(rate) / gentle).max()),
    )
    nothing = np.zeros((1, 7))
    while True:
        ends = np.array([0.0, duration])
        q, dq = np.concatenate([[offset], nothing]), np.concatenate([[rate], nothing])
        fading = Motion(ends, quintics(ends, q, dq, change[np.newaxis], nothing))
        knots = merged_knots(max(path.duration, duration), path.times, ends)
        motion = Motion(knots, pieces(path, knots) + pieces(fading, knots))
        entry = int(np.searchsorted(knots, duration))
        try:
            check_robot_limits(Motion(knots[: entry + 1], motion.coefficients[:entry]), 0.0, begin, joints)
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
