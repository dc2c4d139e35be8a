"""Whether a motion keeps to the limits: the robot's own, and those set for joints and workspace.

Used when a motion is planned, in the process and thread that own the arm. The control process enforces its own limits
at 1 kHz; here, a motion that would violate one is refused before the arm moves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aiofranka_ros.control.law.motion import Motion, evaluate
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array, kernel
from aiofranka_ros.model import fr3
from aiofranka_ros.model.kinematics import forward

#: What counts as rounding beyond a position limit [rad] or workspace limit [m]...
POSITION_TOLERANCE = 1e-3
#: ...beyond the velocity that the robot allows [rad/s]: half of what it tolerates...
VELOCITY_TOLERANCE = 0.05
#: ...and beyond the acceleration limits [rad/s²]: a tenth of them.
_ACCELERATION_TOLERANCE = 1.0
#: Larger coefficients overflow when their polynomial is evaluated, however short its segment.
_LARGEST_COEFFICIENT = 1e100
#: How often a motion is compared with the robot's limits [s], and at both ends of each segment...
_PERIOD = 0.005
#: ...but not more often than this in one segment, however long, because it may last for years...
_MOST_SAMPLES = 200
#: ...nor in all of them together, except for this often in each: between so many points, a quintic hides a hundredth of
#: its peak acceleration.
_MOST_IN_ALL, _FEWEST_SAMPLES = 10_000, 20
#: The same for the limits of joints and workspace, which need the kinematics.
_WORKSPACE_PERIOD, _MOST_WORKSPACE_SAMPLES = 0.01, 100


def check_robot_limits(motion: Motion, begin: float, offset: float, joints: Sequence[str]) -> None:
    """Refuse a motion that violates a limit of the robot after ``begin`` [s].

    :param offset: added to times of the motion in messages [s].
    :param joints: names of the joints, for messages.
    :raises InvalidTarget: it names the joint, the excess and the time.
    """
    # Such numbers would become NaN, which exceeds no limit.
    for _, joint, _ in np.argwhere(~(np.abs(motion.coefficients) < _LARGEST_COEFFICIENT))[:1]:
        raise InvalidTarget(
            f"{joints[joint]} would have to move beyond all numbers: are its velocities or accelerations initialised?",
            reason="too fast",
        )
    worst, when = worst_excess(motion, begin)
    first = motion.at(begin)[0]
    # An arm that begins outside has to be able to come back.
    allowed = np.maximum(0.0, np.maximum(fr3.POSITION_LOWER - first, first - fr3.POSITION_UPPER)) + POSITION_TOLERANCE
    fastest = fr3.ACCELERATION_LIMIT + _ACCELERATION_TOLERANCE
    excess = worst - np.array([allowed, np.full(7, VELOCITY_TOLERANCE), fastest])
    for kind, _ in np.argwhere(excess > 0.0)[:1]:
        joint = int(excess[kind].argmax())
        q, dq, _ = motion.at(when[kind, joint])
        name, value = joints[joint], worst[kind, joint]
        message, reason = (
            (f"{name} would be at {q[joint]:.4f} rad, {value:.4f} rad beyond its limit", "outside the joint limits"),
            (f"{name} would move at {dq[joint]:.2f} rad/s, {value:.2f} rad/s faster than the robot allows there",
             "too fast"),
            (f"{name} would have to accelerate with {value:.1f} rad/s^2; its limit is "
             f"{fr3.ACCELERATION_LIMIT[joint]:g}", "too much acceleration"),
        )[kind]  # fmt: skip
        raise InvalidTarget(f"{message} (at {when[kind, joint] + offset:.2f} s)", reason=reason)


def worst_excess(motion: Motion, begin: float = 0.0, share: float = 1.0) -> tuple[Array, Array]:
    """By how much a motion exceeds each joint's limits after ``begin`` [s].

    :param share: share of the velocity that the robot allows which counts as the velocity limit.
    :returns: the largest distance beyond a position limit [rad], velocity beyond the limit [rad/s] and acceleration
        [rad/s²], all at least 0, (3, 7); and their times [s] (3, 7).
    """
    worst, when = _survey(motion.times, motion.coefficients, begin, share)
    return worst, when


def check_set_limits(
    motion: Motion, flange_to_tcp: Array, joint_lower: Array, joint_upper: Array, workspace_lower: Array,
    workspace_upper: Array, joints: Sequence[str],
) -> None:  # fmt: skip
    """Refuse a motion that leaves the limits set for joints [rad] (7,) or workspace [m] (3,).

    A limit that the motion begins outside of is moved to where it begins, so that it may lead inwards.

    :param flange_to_tcp: pose of the control frame in the flange (4, 4).
    :param joints: names of the joints, for messages.
    :raises InvalidTarget: it names the joint or coordinate, its value, the time and the limit.
    """
    # The arm's own limits are checked elsewhere, and better: a motion may brake beyond where it begins.
    lower = np.where(joint_lower > fr3.POSITION_LOWER, joint_lower, -np.inf)
    upper = np.where(joint_upper < fr3.POSITION_UPPER, joint_upper, np.inf)
    lower, upper = np.concatenate((lower, workspace_lower)), np.concatenate((upper, workspace_upper))
    index, time, value, limit = _first_outside(motion.times, motion.coefficients, flange_to_tcp, lower, upper)
    if index >= 0:
        is_joint, side = index < 7, "lower" if value < limit else "upper"
        what, unit = (joints[index], "rad") if is_joint else (f"{'xyz'[index - 7]} of the control frame", "m")
        raise InvalidTarget(
            f"{what} would be at {value:.3f} {unit} after {time:.2f} s, beyond "
            f"{'joint' if is_joint else 'workspace'}_{side} ({limit:.3f} {unit})",
            reason="outside the joint limits" if is_joint else "outside the workspace",
        )


def load_kernels() -> None:
    """Compile the kernels that planning needs, or load them from the cache.

    Compiling them later, while the arm is active, would delay the heartbeat that the control process waits for.
    """
    coefficients = np.zeros((1, 7, 6))
    coefficients[0, :, 0] = fr3.HOME
    motion, far = Motion(np.array([0.0, fr3.CYCLE]), coefficients), np.full(7, 1e3)
    check_robot_limits(motion, 0.0, 0.0, "1234567")
    check_set_limits(motion, np.eye(4), -far, far, -far[:3], far[:3], "1234567")


@kernel
def _samples(segments: int, most: int) -> int:
    """How often each of ``segments`` is looked at, at most; at most ``most`` times."""
    return max(_FEWEST_SAMPLES, min(most, _MOST_IN_ALL // segments))


@kernel
def _survey(times: Array, coefficients: Array, begin: float, share: float) -> tuple[Array, Array]:
    """See :func:`worst_excess`."""
    worst, when = np.zeros((3, 7)), np.zeros((3, 7))
    q, dq, values = np.empty(7), np.empty(7), np.empty((3, 7))
    low, high = np.empty(7), np.empty(7)
    most = _samples(len(times) - 1, _MOST_SAMPLES)
    for k in range(len(times) - 1):
        span = times[k + 1] - times[k]
        first = max(begin - times[k], 0.0)
        if first > span:
            continue
        steps = int(min((span - first) / _PERIOD + 1.0, most))
        for n in range(steps + 1):
            s = first + (span - first) * n / steps
            for i in range(7):
                c = coefficients[k, i]
                q[i] = c[0] + s * (c[1] + s * (c[2] + s * (c[3] + s * (c[4] + s * c[5]))))
                dq[i] = c[1] + s * (2.0 * c[2] + s * (3.0 * c[3] + s * (4.0 * c[4] + s * 5.0 * c[5])))
                values[2, i] = abs(2.0 * c[2] + s * (6.0 * c[3] + s * (12.0 * c[4] + s * 20.0 * c[5])))
            fr3.velocity_envelope(q, low, high)
            for i in range(7):
                values[0, i] = max(fr3.POSITION_LOWER[i] - q[i], q[i] - fr3.POSITION_UPPER[i])
                values[1, i] = max(share * low[i] - dq[i], dq[i] - share * high[i])
                for kind in range(3):
                    if values[kind, i] > worst[kind, i]:
                        worst[kind, i] = values[kind, i]
                        when[kind, i] = times[k] + s
    return worst, when


@kernel
def _first_outside(
    times: Array, coefficients: Array, flange_to_tcp: Array, lower: Array, upper: Array
) -> tuple[int, float, float, float]:
    """Where a motion first leaves limits of the joints and of x, y, z of the control frame (10,).

    :returns: index of the limit, or -1; the time [s], the joint position or coordinate, and the limit.
    """
    q, dq, ddq, values = np.empty(7), np.empty(7), np.empty(7), np.empty(10)
    flange, tcp, jacobian = np.empty((4, 4)), np.empty((4, 4)), np.empty((6, 7))
    segments = len(times) - 1
    most = _samples(segments, _MOST_WORKSPACE_SAMPLES)
    for segment in range(segments):
        duration = times[segment + 1] - times[segment]
        samples = int(min(duration / _WORKSPACE_PERIOD + 1.0, most))
        for k in range(samples + 1):
            time = times[segment] + duration * k / samples
            evaluate(times, coefficients, segments, time, q, dq, ddq)
            forward(q, flange_to_tcp, flange, tcp, jacobian)
            values[:7] = q
            values[7:] = tcp[:3, 3]
            for i in range(10):
                if segment == 0 and k == 0:
                    lower[i] = min(lower[i], values[i]) - POSITION_TOLERANCE
                    upper[i] = max(upper[i], values[i]) + POSITION_TOLERANCE
                if values[i] < lower[i] or values[i] > upper[i]:
                    return i, time, values[i], lower[i] if values[i] < lower[i] else upper[i]
    return -1, 0.0, 0.0, 0.0
