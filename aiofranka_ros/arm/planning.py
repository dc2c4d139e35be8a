"""Joint-space motions, planned with ruckig by the process that owns the arm.

:func:`plan` takes about a millisecond. The result is evaluated by :mod:`aiofranka_ros.control.law.motion`, at 1 kHz, in
the control process.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import ruckig

from aiofranka_ros.control.law.motion import Motion, evaluate
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array, kernel
from aiofranka_ros.model.fr3 import (
    ACCELERATION_LIMIT,
    HOME,
    JOINT_NAMES,
    POSITION_LOWER,
    POSITION_UPPER,
    READY,
    VELOCITY_LIMIT,
    velocity_envelope,
)
from aiofranka_ros.model.kinematics import forward

#: Planned velocities keep to this share of what the robot allows at each position, to leave the law room to track.
_ENVELOPE_SHARE = 0.8
#: Velocity that is fine everywhere [rad/s]; half of what the robot tolerates at a limit.
_ENVELOPE_SLACK = 0.05
#: How often a planned motion is compared with the envelope [s], at the most so many times.
_ENVELOPE_PERIOD, _MOST_ENVELOPE_SAMPLES = 0.005, 20_000
#: How often a planned motion is compared with the limits of joints and workspace [s], at the most so many times in each
#: segment: one may last for years. What is taken for rounding there [rad], [m].
_SAMPLE_PERIOD, _MOST_SAMPLES, _SLACK = 0.01, 100, 1e-3
#: Times a joint is slowed down to fit the envelope before giving up; 0.85 to the 20th power is 0.04.
_ENVELOPE_TRIES = 20


def plan(
    q: Array,
    goal: Array,
    *,
    dq: Array | None = None,
    ddq: Array | None = None,
    max_velocity: Array = VELOCITY_LIMIT,
    max_acceleration: Array = ACCELERATION_LIMIT,
    max_jerk: Array,
    joints: Sequence[str] = JOINT_NAMES,
) -> Motion:
    """The fastest motion from a state to rest at ``goal`` within limits of velocity, acceleration and jerk.

    All joints arrive together. Near a joint's position limit the robot allows less velocity than elsewhere
    (:func:`~aiofranka_ros.model.fr3.velocity_envelope`); where the motion would exceed that, the joint is slowed down.

    :param q: where it begins [rad] (7,).
    :param goal: where it ends [rad] (7,).
    :param dq: velocities at its beginning [rad/s] (7,); ``None``: at rest.
    :param ddq: accelerations at its beginning [rad/s²] (7,); ``None``: none.
    :param max_velocity: [rad/s] (7,).
    :param max_acceleration: [rad/s²] (7,).
    :param max_jerk: [rad/s³] (7,).
    :param joints: their names, for messages.
    :raises InvalidTarget: the goal lies outside the joint limits, or no such motion exists.
    """
    check_goal(goal, joints)
    velocity = np.minimum(max_velocity, _ENVELOPE_SHARE * VELOCITY_LIMIT + _ENVELOPE_SLACK)
    slower = np.ones(7)
    too_fast = np.zeros(7, dtype=np.bool_)
    for _ in range(_ENVELOPE_TRIES):
        # A joint that is slowed down is so at every scale: near its limit it has to brake more gently, too.
        motion = _plan_once(q, goal, dq, ddq, slower * velocity, slower**2 * max_acceleration, slower**3 * max_jerk)
        too_fast[:] = False
        _exceed_envelope(motion.times, motion.coefficients, too_fast)
        if not too_fast.any():
            return motion
        slower[too_fast] *= 0.85
    raise InvalidTarget(
        "no motion to this goal keeps "
        + ", ".join(name for name, bad in zip(joints, too_fast, strict=True) if bad)
        + " slow enough near its position limit"
    )


def warm_up() -> None:
    """Compile what :func:`plan` needs, or load it from the cache, so that the first real call takes no longer."""
    motion = plan(HOME, READY, max_jerk=np.full(7, 100.0))
    far = np.full(7, np.inf)
    first_outside(motion.times, motion.coefficients, np.eye(4), -far, far, -far[:3], far[:3], np.empty(3))


def check_goal(goal: Array, joints: Sequence[str] = JOINT_NAMES) -> None:
    """Refuse a goal [rad] (7,) outside of the position limits of ``joints``.

    :raises InvalidTarget: it names every joint that is outside, and its limits.
    """
    outside = [
        f"{name} = {value:.4f} rad is outside [{low:.4f}, {high:.4f}]"
        for name, value, low, high in zip(joints, goal, POSITION_LOWER, POSITION_UPPER, strict=True)
        if not low <= value <= high
    ]
    if outside:
        raise InvalidTarget("; ".join(outside))


def _plan_once(
    q: Array, goal: Array, dq: Array | None, ddq: Array | None, velocity: Array, acceleration: Array, jerk: Array
) -> Motion:
    request = ruckig.InputParameter(7)
    request.current_position = list(q)
    request.current_velocity = list(np.zeros(7) if dq is None else dq)
    request.current_acceleration = list(np.zeros(7) if ddq is None else ddq)
    request.target_position = list(goal)
    request.max_velocity = list(velocity)
    request.max_acceleration = list(acceleration)
    request.max_jerk = list(jerk)
    trajectory = ruckig.Trajectory(7)
    try:
        result = ruckig.Ruckig(7).calculate(request, trajectory)
    except (ruckig.RuckigError, ValueError) as error:
        # A ValueError where the bindings have no name for a result, such as that of a motion of more than two hours.
        raise InvalidTarget(
            "no motion to this goal could be planned: is a velocity, an acceleration or a jerk too low?"
        ) from error
    if result not in (ruckig.Result.Working, ruckig.Result.Finished):
        raise InvalidTarget(f"no motion to this goal could be planned ({result.name})")
    return _polynomials(trajectory)


def _polynomials(trajectory: ruckig.Trajectory) -> Motion:
    """A ruckig trajectory as polynomials: between the knots of all joints each one has a constant jerk."""
    duration = trajectory.duration
    knots = {0.0, duration}
    for profile in trajectory.profiles[0]:
        time = 0.0
        for step in (*profile.brake.t, *profile.t):
            time += step
            knots.add(min(time, duration))
    times = np.array(sorted(knots))
    # Knots closer than a tenth of a microsecond are one knot that rounding made two.
    times = np.concatenate([times[:1], times[1:][np.diff(times) > 1e-7]])
    if len(times) == 1:  # Already there.
        times = np.array([0.0, 1e-3])
    coefficients = np.zeros((len(times) - 1, 7, 6))
    for k, (begin, end) in enumerate(zip(times[:-1], times[1:], strict=True)):
        q, dq, ddq = (np.array(values) for values in trajectory.at_time(begin))
        # Accelerations at a knot are those after it or before it, depending on rounding: take two inner ones.
        third = (end - begin) / 3.0
        first, second = (np.array(trajectory.at_time(begin + part * third)[2]) for part in (1.0, 2.0))
        jerk = (second - first) / third
        coefficients[k, :, 0], coefficients[k, :, 1] = q, dq
        coefficients[k, :, 2] = 0.5 * (first - jerk * third)
        coefficients[k, :, 3] = jerk / 6.0
    return Motion(times, coefficients)


@kernel
def _exceed_envelope(times: Array, coefficients: Array, exceeding: npt.NDArray[np.bool_]) -> None:
    """Mark the joints (7,) that move faster somewhere than a share of what the robot allows there."""
    q, dq, ddq, low, high = np.empty(7), np.empty(7), np.empty(7), np.empty(7), np.empty(7)
    segments = len(times) - 1
    period = max(_ENVELOPE_PERIOD, times[segments] / _MOST_ENVELOPE_SAMPLES)
    samples = int(times[segments] / period) + 1
    for k in range(samples):
        evaluate(times, coefficients, segments, k * period, q, dq, ddq)
        velocity_envelope(q, low, high)
        for i in range(7):
            if (
                dq[i] > _ENVELOPE_SHARE * high[i] + _ENVELOPE_SLACK
                or dq[i] < _ENVELOPE_SHARE * low[i] - _ENVELOPE_SLACK
            ):
                exceeding[i] = True


@kernel
def first_outside(
    times: Array, coefficients: Array, flange_to_tcp: Array, joint_lower: Array, joint_upper: Array,
    workspace_lower: Array, workspace_upper: Array, found: Array,
) -> int:  # fmt: skip
    """Where a motion first leaves the limits of joints [rad] (7,) or workspace [m] (3,).

    A limit that it begins outside of counts from there: it may lead inwards.

    :param found: filled with when that is [s], the joint position or coordinate there, and the limit, (3,).
    :returns: index of the joint, 7 to 9 for x to z of the control frame, or -1.
    """
    q, dq, ddq = np.empty(7), np.empty(7), np.empty(7)
    flange, tcp, jacobian = np.empty((4, 4)), np.empty((4, 4)), np.empty((6, 7))
    lower, upper = np.empty(10), np.empty(10)
    segments = len(times) - 1
    for segment in range(segments):
        duration = times[segment + 1] - times[segment]
        samples = min(int(duration / _SAMPLE_PERIOD) + 1, _MOST_SAMPLES)
        for k in range(samples + 1):
            time = times[segment] + duration * k / samples
            evaluate(times, coefficients, segments, time, q, dq, ddq)
            forward(q, flange_to_tcp, flange, tcp, jacobian)
            for i in range(10):
                value = q[i] if i < 7 else tcp[i - 7, 3]
                if segment == 0 and k == 0:
                    low = joint_lower[i] if i < 7 else workspace_lower[i - 7]
                    high = joint_upper[i] if i < 7 else workspace_upper[i - 7]
                    lower[i], upper[i] = min(low, value) - _SLACK, max(high, value) + _SLACK
                if value < lower[i] or value > upper[i]:
                    found[0], found[1], found[2] = time, value, lower[i] if value < lower[i] else upper[i]
                    return i
    return -1
