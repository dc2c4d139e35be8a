"""The limits that every torque passes before it is sent to the robot, in every mode.

Compiled kernels, called once a cycle by the control cycle in the control process. The order matters. First, the law's
torque is limited, and torques that push away from joint, velocity and workspace limits are added, so that no law can
push harder than they do. Then the torque and its rate are limited, which the robot enforces most strictly. Last,
torques that would make a joint too fast are changed, within the robot's own limits of torque and rate: lower limits
that the user has set do not prevent a joint from being braked.

No limit moves an arm at rest. The springs of a joint that is near its limit when a law begins start where the joint is,
and follow it inwards.
"""

from __future__ import annotations

import math

from aiofranka_ros.control.law.cholesky import solve
from aiofranka_ros.control.records import TorqueLimit
from aiofranka_ros.kernels import Array, Record, kernel
from aiofranka_ros.model.fr3 import (
    CYCLE,
    JOINT_MARGIN,
    POSITION_LOWER,
    POSITION_UPPER,
    TORQUE_RATE_LIMIT,
    velocity_envelope,
)

#: For laws without a joint reference, springs begin this far inside a joint's position limits [rad].
SOFT_LIMIT_MARGIN = 0.1
#: Joint references end where springs begin: springs that reach further would keep the arm from its reference, but are
#: needed for an arm that is pushed or very soft. During a motion, which may end even closer to a limit, there are none.
REFERENCE_MARGIN, NO_SPRINGS = JOINT_MARGIN, -math.inf
#: At this distance inside its limit a joint's springs push with its largest torque [rad], so it rests inside...
_SPRING_END = 0.002
#: ...and they begin at least this much before, as stiffer springs would oscillate [rad].
_SPRING_RANGE = 0.01
#: If an arm is nearer to a limit when a law begins, springs begin where it is, or this far beyond if there is room
#: [rad], so that noise does not move it...
_SPRING_SLACK = 0.003
#: ...and if there is less room than their range, they lead it inwards this fast [rad/s].
_SPRING_SPEED = 0.01
#: Damping within the range of the springs, for each Nm of the joint's torque limit, times the root of the range
#: [s/rad^½]: about critical for an inertia of 1 kg m², so that the arm does not bounce back.
_SPRING_DAMPING = 0.22
#: A law that pushes against a spring with more than this share of the joint's largest torque is kept from its target.
_BLOCKING_SHARE = 0.03
#: Velocities are compared with those that will be allowed this much later [s]: by then, the rate limit allows a torque
#: to change by about 50 Nm, which is what it takes to brake a joint.
_LOOK_AHEAD = 0.05
#: Share of the allowed velocity above which it is damped.
_FREE_VELOCITY = 0.85
#: Damping of the velocity beyond that share, for each Nm of the joint's torque limit [s/rad].
_VELOCITY_DAMPING = 2.5
#: No torque may accelerate a joint beyond this share of the allowed velocity; the rest is a margin for what the model
#: of the arm does not include, such as lost packets.
_SAFE_VELOCITY = 0.92
#: How fast torques that brake a joint may change [Nm/s], whatever ``torque_diff_limit`` is.
BRAKING_RATE = 0.99 * TORQUE_RATE_LIMIT
#: Braking is planned with this share of the torque rate, since several joints may have to brake at once.
_BRAKING_SHARE = 0.5
#: How fast a joint finally approaches that velocity [1/s].
_VELOCITY_GAIN = 50.0
#: Number of sweeps over all joints, since braking one may accelerate another; in the first of these sweeps each joint
#: is braked only by its own torque.
_SWEEPS, _OWN_SWEEPS = 6, 3
#: Time constant of the filter of the difference between measured and modelled acceleration [s]: several cycles, since
#: measured velocities are noisy.
_OBSERVER_TIME = 0.01
#: Accelerations too small to change a torque for [rad/s²].
_NEGLIGIBLE = 1e-6
#: The walls of the workspace: stiffness [N/m]; damping [N s/m], about critical for the arm's effective mass at the hand
#: of 3 kg; and the largest force [N], which a person can withstand.
_WALL_STIFFNESS, _WALL_DAMPING, _WALL_FORCE = 2000.0, 150.0, 100.0


@kernel
def tighten(commands: Record, memory: Record, q: Array) -> None:
    """Apply the limits of joints and workspace, without pushing an arm that is outside of them.

    If the arm is outside of a new limit, the limit in force is where the arm is, and follows it inwards.

    :param q: measured joint positions [rad] (7,); ``memory.position`` is that of the control frame.
    """
    room = _SPRING_END + _SPRING_RANGE + _SPRING_SLACK  # With less, springs would push.
    for i in range(7):
        if q[i] > commands.joint_upper[i]:
            near = max(commands.joint_upper[i], min(memory.joint_upper[i], q[i] + room))
            memory.joint_upper[i] = min(near, POSITION_UPPER[i])
        else:
            memory.joint_upper[i] = commands.joint_upper[i]
        if q[i] < commands.joint_lower[i]:
            near = min(commands.joint_lower[i], max(memory.joint_lower[i], q[i] - room))
            memory.joint_lower[i] = max(near, POSITION_LOWER[i])
        else:
            memory.joint_lower[i] = commands.joint_lower[i]
    for i in range(3):
        near = min(memory.workspace_upper[i], memory.position[i])
        memory.workspace_upper[i] = max(commands.workspace_upper[i], near)
        near = max(memory.workspace_lower[i], memory.position[i])
        memory.workspace_lower[i] = min(commands.workspace_lower[i], near)


@kernel
def loosen(memory: Record) -> None:
    """Reset the limits in force; :func:`tighten` applies those of the commands again."""
    for i in range(7):
        memory.joint_lower[i], memory.joint_upper[i] = -math.inf, math.inf
        memory.spring_lower[i], memory.spring_upper[i] = -math.inf, math.inf
    loosen_workspace(memory)


@kernel
def loosen_workspace(memory: Record) -> None:
    """The same for the workspace alone, for a new control frame, which may be outside."""
    for i in range(3):
        memory.workspace_lower[i], memory.workspace_upper[i] = -math.inf, math.inf


@kernel
def place_springs(memory: Record, q: Array, margin: float, dt: float) -> None:
    """Decide where the springs of all joints begin in this cycle, and joint references end.

    :param margin: how far inside the limits in force [rad]; nearer to the limit if the arm is, see the module.
    """
    room, lead = _SPRING_END + _SPRING_RANGE, _SPRING_SPEED * dt
    for i in range(7):
        last = memory.joint_upper[i] - room
        here = max(q[i], min(q[i] + _SPRING_SLACK, last))
        near = min(memory.spring_upper[i], here, max(last, memory.spring_upper[i] - lead))
        memory.spring_upper[i] = max(memory.joint_upper[i] - margin, near)
        last = memory.joint_lower[i] + room
        here = min(q[i], max(q[i] - _SPRING_SLACK, last))
        near = max(memory.spring_lower[i], here, min(last, memory.spring_lower[i] + lead))
        memory.spring_lower[i] = min(memory.joint_lower[i] + margin, near)


@kernel
def inside(coordinate: float, memory: Record, axis: int) -> float:
    """A coordinate [m] of the control frame, limited to the workspace."""
    return min(max(coordinate, memory.workspace_lower[axis]), memory.workspace_upper[axis])


@kernel
def allowed(position: float, memory: Record, joint: int) -> float:
    """A joint position [rad], limited to what its limits allow."""
    return min(max(position, memory.spring_lower[joint]), memory.spring_upper[joint])


@kernel
def keep_inside(memory: Record, force: Array, tau: Array) -> None:
    """Add a damped spring at each wall to ``tau`` [Nm] (7,), which keeps the control frame inside the workspace.

    :param force: scratch (3,).
    """
    for i in range(3):
        velocity = memory.twist[i]
        force[i] = 0.0
        depth = memory.position[i] - memory.workspace_upper[i]
        if depth > 0.0:
            force[i] = -min(max(_WALL_STIFFNESS * depth + _WALL_DAMPING * velocity, 0.0), _WALL_FORCE)
        depth = memory.workspace_lower[i] - memory.position[i]
        if depth > 0.0:
            force[i] = min(max(_WALL_STIFFNESS * depth - _WALL_DAMPING * velocity, 0.0), _WALL_FORCE)
        if force[i] != 0.0:
            for j in range(7):
                tau[j] += memory.jacobian[i, j] * force[i]


@kernel
def allowed_velocities(q: Array, dq: Array, ahead: Array, envelope: Array) -> None:
    """Joint velocities [rad/s] that the robot will allow shortly, into ``envelope`` (2, 7): lowest, highest.

    :param ahead: scratch (7,).
    """
    for i in range(7):
        ahead[i] = q[i] + _LOOK_AHEAD * dq[i]
    velocity_envelope(ahead, envelope[0], envelope[1])


@kernel
def _spring(depth: float, speed: float, room: float) -> float:
    """Share of a joint's largest torque with which its spring pushes.

    :param depth: how far the joint is beyond where the spring begins [rad].
    :param speed: how fast it gets further [rad/s].
    :param room: from where the spring begins to the limit [rad].
    """
    if not depth > 0.0:
        return 0.0
    reach = max(room - _SPRING_END, _SPRING_RANGE)
    return depth / reach + _SPRING_DAMPING / math.sqrt(reach) * speed


@kernel
def repel(q: Array, dq: Array, memory: Record, torque_limit: Array, envelope: Array, tau: Array) -> None:
    """Add torques to ``tau`` [Nm] (7,) that keep the joints away from their position and velocity limits.

    Near a position limit this is a damped spring, see :func:`place_springs`. Beyond a share of the velocity from which
    a joint can still brake, it is a damper that only brakes. Away from the limits nothing is added.

    :param envelope: see :func:`allowed_velocities`.
    """
    for i in range(7):
        begin = memory.spring_upper[i]
        tau[i] -= torque_limit[i] * _spring(q[i] - begin, dq[i], memory.joint_upper[i] - begin)
        begin = memory.spring_lower[i]
        tau[i] += torque_limit[i] * _spring(begin - q[i], -dq[i], begin - memory.joint_lower[i])
        excess = dq[i] - _FREE_VELOCITY * envelope[1, i]
        if excess > 0.0 and dq[i] > 0.0:
            tau[i] -= _VELOCITY_DAMPING * torque_limit[i] * excess
        excess = _FREE_VELOCITY * envelope[0, i] - dq[i]
        if excess > 0.0 and dq[i] < 0.0:
            tau[i] += _VELOCITY_DAMPING * torque_limit[i] * excess


@kernel
def blocking(q: Array, law: Array, torque_limit: Array, memory: Record) -> int:
    """The joint limits that a law pushes against: a bit for each lower limit, then for each upper one.

    :param law: [Nm] (7,).
    """
    found = 0
    for i in range(7):
        push = _BLOCKING_SHARE * torque_limit[i]
        if q[i] < memory.spring_lower[i] and law[i] < -push:
            found |= 1 << i
        if q[i] > memory.spring_upper[i] and law[i] > push:
            found |= 1 << (i + 7)
    return found


@kernel
def reachable(sent: Array, used: Array, torque_limit: Array, rate: float, low: Array, high: Array) -> None:
    """The torques [Nm] that may be sent in this cycle, into ``low`` and ``high`` (7,).

    They differ by at most ``rate`` [Nm/s] times one cycle from the torque that was sent last *and* from the torque that
    the robot reports it used last. The two differ if a packet was lost, and the robot compares with the latter. However
    long the gap was, only one cycle counts. ``torque_limit`` is kept, or approached if it was lowered.
    """
    step = rate * CYCLE
    for i in range(7):
        low[i] = max(sent[i], used[i]) - step
        high[i] = min(sent[i], used[i]) + step
        if low[i] > high[i]:  # They differ by more than two steps: the one that the robot compares with decides.
            low[i], high[i] = used[i] - step, used[i] + step
        lowest, highest = low[i], high[i]
        low[i] = min(max(lowest, -torque_limit[i]), highest)
        high[i] = max(min(highest, torque_limit[i]), lowest)


@kernel
def limit_torque(low: Array, high: Array, tau: Array) -> None:
    """Limit ``tau`` [Nm] (7,), in place, to what is :func:`reachable`."""
    for i in range(7):
        tau[i] = min(max(tau[i], low[i]), high[i])


@kernel
def count_limited(asked: Array, tau: Array, torque_limit: Array, counters: Array) -> None:
    """Count a cycle in which :func:`limit_torque` made ``tau`` [Nm] (7,) of the torques ``asked`` for (7,).

    :param counters: of cycles, by :class:`~aiofranka_ros.control.records.TorqueLimit`.
    """
    size = rate = False
    for i in range(7):
        if asked[i] != tau[i]:
            # A torque that is too large is also too far from the last one, until it has reached its limit.
            size = size or abs(asked[i]) > torque_limit[i]
            rate = rate or abs(asked[i]) <= torque_limit[i]
    counters[TorqueLimit.TORQUE_LIMIT] += size
    counters[TorqueLimit.TORQUE_DIFF_LIMIT] += rate


@kernel
def _highest_acceleration(room: float, jerk: float) -> float:
    """Highest acceleration [rad/s²] with which a velocity that is ``room`` [rad/s] away will not be exceeded.

    It is proportional to a small ``room``; beyond that, it is what ``jerk`` [rad/s³] can reduce to 0 in time: the
    integral of a ramp from ``a`` to 0 is ``a² / (2 jerk)``.
    """
    linear = jerk / _VELOCITY_GAIN**2
    if room <= linear:
        return _VELOCITY_GAIN * room
    return math.sqrt(2.0 * jerk * (room - 0.5 * linear))


@kernel
def _accelerate(tau: Array, coriolis: Array, unmodelled: Array, factor: Array, acceleration: Array) -> None:
    """The joint accelerations [rad/s²] (7,) that ``tau`` [Nm] (7,) causes."""
    for i in range(7):
        acceleration[i] = tau[i] - coriolis[i]
    solve(factor, 7, acceleration)
    for i in range(7):
        acceleration[i] += unmodelled[i]


@kernel
def observe(
    dq: Array, used: Array, coriolis: Array, factor: Array, elapsed: float,
    before: Array, unmodelled: Array, expected: Array,
) -> None:  # fmt: skip
    """Estimate what accelerates the joints besides the torques: contacts, loads, friction.

    The measured acceleration minus the model's goes, filtered, into ``unmodelled`` [rad/s²] (7,).

    :param used: the torques that the robot used since the last state [Nm] (7,).
    :param factor: Cholesky factor of the mass matrix (7, 7).
    :param elapsed: since the last state [s].
    :param before: joint velocities of the last state [rad/s] (7,); replaced by the present ones.
    :param expected: scratch (7,).
    """
    _accelerate(used, coriolis, unmodelled, factor, expected)
    share = elapsed / (_OBSERVER_TIME + elapsed)
    for i in range(7):
        learnt = unmodelled[i] + share * ((dq[i] - before[i]) / elapsed - expected[i])
        unmodelled[i] = learnt if math.isfinite(learnt) else 0.0
        before[i] = dq[i]


@kernel
def _reduce(excess: float, row: Array, inertia: Array, low: Array, high: Array, tau: Array) -> None:
    """Change ``tau`` (7,), in place and as little as possible, so that ``row @ tau`` falls by ``excess``, or by as much
    of it as ``low`` and ``high`` allow. With a negative ``excess`` it rises."""
    for _ in range(7):  # Each time, either all of the excess is removed or one more joint reaches its bound.
        total = 0.0
        for j in range(7):
            if tau[j] > low[j] if row[j] * excess > 0.0 else tau[j] < high[j]:
                total += inertia[j, j] * row[j] ** 2
        share = excess / total if total > 0.0 else math.inf
        if not math.isfinite(share):
            return
        for j in range(7):
            before = tau[j]
            tau[j] = min(max(before - share * inertia[j, j] * row[j], low[j]), high[j])
            excess -= row[j] * (before - tau[j])
        if not abs(excess) >= _NEGLIGIBLE:
            return


@kernel
def limit_velocity(
    dq: Array, coriolis: Array, unmodelled: Array, inertia: Array, factor: Array, envelope: Array, rate: float,
    low: Array, high: Array, row: Array, acceleration: Array, tau: Array,
) -> None:  # fmt: skip
    """Change ``tau`` [Nm] (7,), in place, if a joint would otherwise become faster than allowed.

    A damper alone acts too late, because a torque needs time to reverse. So each joint may accelerate only as long as
    there is time to reduce the acceleration to 0 before its velocity limit, at the rate at which its torque may change.

    A joint that accelerates more gets the torque that a mechanical stop would give it, which moves the other joints
    the least (Gauss's principle of least constraint). It is found by projected Gauss-Seidel, as physics engines solve
    contacts. If the joint's own torque may not change that much, the other joints' torques help.

    :param unmodelled: what accelerates the joints besides the torques [rad/s²] (7,), see :func:`observe`: an arm that
        pushes against something does not accelerate, whatever its torques.
    :param inertia: mass matrix [kg m²] (7, 7), and ``factor``, its Cholesky factor. If it is not positive definite, the
        torques stay within their limits, but nothing more is guaranteed.
    :param envelope: see :func:`allowed_velocities`.
    :param rate: largest change of a torque [Nm/s].
    :param low: torques that may be sent [Nm] (7,), see :func:`reachable`.
    :param high: likewise.
    :param row: scratch (7,).
    :param acceleration: scratch (7,).
    """
    _accelerate(tau, coriolis, unmodelled, factor, acceleration)
    for sweep in range(_SWEEPS):
        within = True
        for i in range(7):
            jerk = _BRAKING_SHARE * rate / inertia[i, i]  # as if the other joints were held
            highest = _highest_acceleration(_SAFE_VELOCITY * envelope[1, i] - dq[i], jerk)
            lowest = -_highest_acceleration(dq[i] - _SAFE_VELOCITY * envelope[0, i], jerk)
            if dq[i] > 0.0:  # If the two contradict each other, braking wins.
                lowest = min(lowest, highest)
            else:
                highest = max(highest, lowest)
            excess = max(acceleration[i] - highest, 0.0) + min(acceleration[i] - lowest, 0.0)
            if not abs(excess) >= _NEGLIGIBLE:  # written so that NaN counts as negligible
                continue
            within = False
            for j in range(7):
                row[j] = 1.0 if j == i else 0.0
            solve(factor, 7, row)  # how each torque [Nm] changes the acceleration of joint i
            before = tau[i]
            wanted = before - excess / row[i]
            if not math.isfinite(wanted):
                continue
            tau[i] = min(max(wanted, low[i]), high[i])
            excess -= row[i] * (before - tau[i])
            if sweep >= _OWN_SWEEPS and abs(excess) >= _NEGLIGIBLE:
                _reduce(excess, row, inertia, low, high, tau)
            _accelerate(tau, coriolis, unmodelled, factor, acceleration)
        if within:
            return


@kernel
def is_finite(vector: Array) -> bool:
    """Whether all of ``vector`` (n,) is finite."""
    for i in range(vector.shape[0]):
        if not math.isfinite(vector[i]):
            return False
    return True


@kernel
def damped_stop(dq: Array, kd: Array, tau: Array) -> None:
    """Torques that brake every joint into ``tau`` [Nm] (7,); 0 for a joint whose velocity is not finite."""
    for i in range(7):
        tau[i] = -kd[i] * dq[i] if math.isfinite(dq[i]) else 0.0
