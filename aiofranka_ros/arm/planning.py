"""Joint-space motions to a goal, planned with ruckig.

Used by :mod:`aiofranka_ros.arm.tasks`, in the process and thread that own the arm. :func:`plan` takes about a
millisecond. The control process evaluates the result at 1 kHz, see :mod:`aiofranka_ros.control.law.motion`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import ruckig

from aiofranka_ros.arm.limit_checks import VELOCITY_TOLERANCE, worst_excess
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.fr3 import ACCELERATION_LIMIT, JOINT_NAMES, POSITION_LOWER, POSITION_UPPER, VELOCITY_LIMIT

#: Planned velocities keep to this share of what the robot allows at each position, so that the law has room to track.
_ENVELOPE_SHARE = 0.8
#: A joint that is so close to its goal [rad], so slow [rad/s] and accelerates so little [rad/s²] is there: from such
#: rounding, ruckig sometimes finds no motion at all.
_SAME_POSITION, _SAME_VELOCITY, _SAME_ACCELERATION = 1e-8, 1e-7, 1e-5
#: How often a joint is slowed down to keep to that before giving up; 0.85 to the 20th power is 0.04.
_SLOWER, _ENVELOPE_TRIES = 0.85, 20


def plan(
    q: Array, goal: Array, *, dq: Array | None = None, ddq: Array | None = None, max_velocity: Array = VELOCITY_LIMIT,
    max_acceleration: Array = ACCELERATION_LIMIT, max_jerk: Array, joints: Sequence[str] = JOINT_NAMES,
) -> Motion:  # fmt: skip
    """The fastest motion from a state to rest at ``goal`` within limits of velocity, acceleration and jerk.

    All joints arrive together. Near a joint's position limit the robot allows less velocity than elsewhere
    (:func:`~aiofranka_ros.model.fr3.velocity_envelope`); a joint that would exceed it is slowed down.

    All arrays are (7,), in rad, rad/s, rad/s² and rad/s³.

    :param q: where it begins, with velocities ``dq`` and accelerations ``ddq``; ``None``: zero.
    :param joints: names of the joints, for messages.
    :raises InvalidTarget: the goal is outside the joint limits, or no such motion exists.
    """
    check_goal(goal, joints)
    dq, ddq = _without_rounding(dq, _SAME_VELOCITY), _without_rounding(ddq, _SAME_ACCELERATION)
    goal = q + _without_rounding(goal - q, _SAME_POSITION)
    velocity = np.minimum(max_velocity, _ENVELOPE_SHARE * VELOCITY_LIMIT + VELOCITY_TOLERANCE)
    slower = np.ones(7)
    for _ in range(_ENVELOPE_TRIES):
        # Acceleration and jerk are scaled as well, because near its limit a joint must also brake more gently.
        motion = _ruckig(q, goal, dq, ddq, slower * velocity, slower**2 * max_acceleration, slower**3 * max_jerk)
        too_fast = worst_excess(motion, share=_ENVELOPE_SHARE)[0][1] > VELOCITY_TOLERANCE
        if not too_fast.any():
            return motion
        slower[too_fast] *= _SLOWER
    names = ", ".join(name for name, bad in zip(joints, too_fast, strict=True) if bad)
    raise InvalidTarget(f"no motion to this goal keeps {names} slow enough near its position limit")


def check_goal(goal: Array, joints: Sequence[str] = JOINT_NAMES) -> None:
    """Refuse a goal [rad] (7,) outside the position limits of ``joints``.

    :raises InvalidTarget: it names every joint that is outside, and its limits.
    """
    outside = [
        f"{name} = {value:.4f} rad is outside [{low:.4f}, {high:.4f}]"
        for name, value, low, high in zip(joints, goal, POSITION_LOWER, POSITION_UPPER, strict=True)
        if not low <= value <= high
    ]
    if outside:
        raise InvalidTarget("; ".join(outside))


def _without_rounding(values: Array | None, smallest: float) -> Array:
    """``values`` (7,), with 0 for all that are smaller than ``smallest``."""
    return np.zeros(7) if values is None else np.where(np.abs(values) < smallest, 0.0, values)


def _ruckig(q: Array, goal: Array, dq: Array, ddq: Array, velocity: Array, acceleration: Array, jerk: Array) -> Motion:
    request = ruckig.InputParameter(7)
    request.current_position = list(q)
    request.current_velocity = list(dq)
    request.current_acceleration = list(ddq)
    request.target_position = list(goal)
    request.max_velocity = list(velocity)
    request.max_acceleration = list(acceleration)
    request.max_jerk = list(jerk)
    trajectory = ruckig.Trajectory(7)
    try:
        result = ruckig.Ruckig(7).calculate(request, trajectory)
    except (ruckig.RuckigError, ValueError) as error:
        # The bindings raise ValueError if they have no name for a result, e.g. for a motion of more than two hours.
        raise InvalidTarget(
            "no motion to this goal could be planned: is a velocity, an acceleration or a jerk too low?"
        ) from error
    if result not in (ruckig.Result.Working, ruckig.Result.Finished):
        raise InvalidTarget(f"no motion to this goal could be planned ({result.name})")
    return _polynomials(trajectory)


def _polynomials(trajectory: ruckig.Trajectory) -> Motion:
    """A ruckig trajectory as polynomials: each joint has a constant jerk between the knots of all joints."""
    duration = trajectory.duration
    knots = {0.0, duration}
    for profile in trajectory.profiles[0]:
        time = 0.0
        for step in (*profile.brake.t, *profile.t):
            time += step
            knots.add(min(time, duration))
    times = np.array(sorted(knots))
    # Knots closer than a tenth of a microsecond differ only by rounding.
    times = np.concatenate([times[:1], times[1:][np.diff(times) > 1e-7]])
    if len(times) == 1:  # Already there.
        times = np.array([0.0, 1e-3])
    coefficients = np.zeros((len(times) - 1, 7, 6))
    for k, (begin, end) in enumerate(zip(times[:-1], times[1:], strict=True)):
        q, dq, ddq = (np.array(values) for values in trajectory.at_time(begin))
        # At a knot, rounding decides whether the acceleration is the one before or after it: take two inner ones.
        third = (end - begin) / 3.0
        first, second = (np.array(trajectory.at_time(begin + part * third)[2]) for part in (1.0, 2.0))
        jerk = (second - first) / third
        coefficients[k, :, 0], coefficients[k, :, 1] = q, dq
        coefficients[k, :, 2] = 0.5 * (first - jerk * third)
        coefficients[k, :, 3] = jerk / 6.0
    return Motion(times, coefficients)
