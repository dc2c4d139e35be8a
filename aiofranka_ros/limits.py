"""The last word before a torque leaves for the robot, in every mode.

Compiled kernels, called once a cycle by the control cycle in the control process. The order matters: what pushes away
from joint and velocity limits is added first, then the torque limits cut, then the rate limit, which the robot
enforces most strictly.
"""

from __future__ import annotations

import math

from aiofranka_ros.fr3 import CYCLE, POSITION_LOWER, POSITION_UPPER, velocity_envelope
from aiofranka_ros.records import Array, Record, kernel

#: Where the soft limits begin for laws without a joint reference, from a joint's position limit inwards [rad].
SOFT_LIMIT_MARGIN = 0.1
#: Damping within the springs' reach, for each Nm of the joint's torque limit [s/rad]: about critical for an inertia of
#: 1 kg m² and a reach of 0.1 rad, so that the arm does not bounce back.
_SPRING_DAMPING = 0.7
#: Velocities are judged by what will be allowed this much later [s]: until then, the rate limit lets a torque change by
#: some 50 Nm, which it takes to brake a joint.
_LOOK_AHEAD = 0.05
#: Share of the allowed velocity above which it is damped.
_FREE_VELOCITY = 0.85
#: Damping of the velocity beyond that share, for each Nm of the joint's torque limit [s/rad].
_VELOCITY_DAMPING = 2.5
#: The walls of the workspace: stiffness [N/m], damping [N s/m], about critical for the 3 kg that the arm weighs at its
#: hand, and the largest force [N], which a person can withstand.
_WALL_STIFFNESS, _WALL_DAMPING, _WALL_FORCE = 2000.0, 150.0, 100.0


@kernel
def tighten(commands: Record, memory: Record, q: Array) -> None:
    """Bring the limits of joints and workspace into force, without a push to an arm that is outside of them.

    A limit that was set behind the arm's back lies, for the time being, where the arm is, and follows it inwards.

    :param q: measured joint positions [rad] (7,); ``memory.position`` is that of the control frame.
    """
    for i in range(7):
        near = min(memory.joint_upper[i], q[i] + SOFT_LIMIT_MARGIN)
        memory.joint_upper[i] = min(max(commands.joint_upper[i], near), POSITION_UPPER[i])
        near = max(memory.joint_lower[i], q[i] - SOFT_LIMIT_MARGIN)
        memory.joint_lower[i] = max(min(commands.joint_lower[i], near), POSITION_LOWER[i])
    for i in range(3):
        near = min(memory.workspace_upper[i], memory.position[i])
        memory.workspace_upper[i] = max(commands.workspace_upper[i], near)
        near = max(memory.workspace_lower[i], memory.position[i])
        memory.workspace_lower[i] = min(commands.workspace_lower[i], near)


@kernel
def loosen(memory: Record) -> None:
    """Forget the limits that were in force; :func:`tighten` brings those of the commands back."""
    for i in range(7):
        memory.joint_lower[i], memory.joint_upper[i] = -math.inf, math.inf
    for i in range(3):
        memory.workspace_lower[i], memory.workspace_upper[i] = -math.inf, math.inf


@kernel
def outside(position: Array, lower: Array, upper: Array) -> float:
    """How far ``position`` [m] (3,) is outside of a box [m]; 0 inside."""
    distance = 0.0
    for i in range(3):
        distance = max(distance, position[i] - upper[i], lower[i] - position[i])
    return distance


@kernel
def keep_inside(memory: Record, force: Array, tau: Array) -> None:
    """Add to ``tau`` [Nm] (7,) what keeps the control frame inside of the workspace: a damped spring at each wall.

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
def repel(
    q: Array, dq: Array, lower: Array, upper: Array, torque_limit: Array, margin: float,
    ahead: Array, envelope: Array, tau: Array,
) -> None:  # fmt: skip
    """Add to ``tau`` [Nm] (7,) what keeps the joints from their position and velocity limits.

    Near a position limit a damped spring; beyond a share of the velocity from which a joint can still
    brake, a damper that only brakes. Away from the limits nothing is added.

    :param lower: position limits [rad] (7,).
    :param upper: [rad] (7,).
    :param margin: where the springs begin, from the position limit inwards [rad]; at the limit they push with the whole
        torque. 0: none.
    :param ahead: scratch (7,).
    :param envelope: scratch (2, 7).
    """
    for i in range(7):
        ahead[i] = q[i] + _LOOK_AHEAD * dq[i]
    velocity_envelope(ahead, envelope[0], envelope[1])
    for i in range(7):
        depth = q[i] - (upper[i] - margin)
        if margin > 0.0 and depth > 0.0:
            tau[i] -= torque_limit[i] * (depth / margin + _SPRING_DAMPING * dq[i])
        depth = lower[i] + margin - q[i]
        if margin > 0.0 and depth > 0.0:
            tau[i] += torque_limit[i] * (depth / margin - _SPRING_DAMPING * dq[i])
        excess = dq[i] - _FREE_VELOCITY * envelope[1, i]
        if excess > 0.0 and dq[i] > 0.0:
            tau[i] -= _VELOCITY_DAMPING * torque_limit[i] * excess
        excess = _FREE_VELOCITY * envelope[0, i] - dq[i]
        if excess > 0.0 and dq[i] < 0.0:
            tau[i] += _VELOCITY_DAMPING * torque_limit[i] * excess


@kernel
def saturate(tau: Array, torque_limit: Array) -> bool:
    """Cut ``tau`` [Nm] (7,), in place, to ``torque_limit``; return whether anything was cut."""
    cut = False
    for i in range(7):
        if abs(tau[i]) > torque_limit[i]:
            tau[i] = math.copysign(torque_limit[i], tau[i])
            cut = True
    return cut


@kernel
def limit_rate(tau: Array, sent: Array, used: Array, rate: float) -> bool:
    """Cut the change of ``tau`` [Nm] (7,), in place, to ``rate`` [Nm/s] times one cycle; return whether it was cut.

    Measured against the torque that was sent last *and* the one that the robot says it used last: where a packet was
    lost they differ, and the robot compares with the latter. One cycle is allowed however long the gap was.
    """
    cut = False
    step = rate * CYCLE
    for i in range(7):
        low = max(sent[i], used[i]) - step
        high = min(sent[i], used[i]) + step
        if low > high:  # They differ by more than two steps: what the robot compares with decides.
            low, high = used[i] - step, used[i] + step
        if tau[i] < low:
            tau[i] = low
            cut = True
        elif tau[i] > high:
            tau[i] = high
            cut = True
    return cut


@kernel
def is_finite(vector: Array) -> bool:
    """Whether all of ``vector`` (n,) is finite."""
    for i in range(vector.shape[0]):
        if not math.isfinite(vector[i]):
            return False
    return True


@kernel
def damped_stop(dq: Array, kd: Array, tau: Array) -> None:
    """Into ``tau`` [Nm] (7,): brake every joint, or nothing where not even the velocity is a number."""
    for i in range(7):
        tau[i] = -kd[i] * dq[i] if math.isfinite(dq[i]) else 0.0
