"""The control laws: the torque that makes the arm follow its reference.

Compiled kernels, called once a cycle by the control cycle in the control process. The robot itself compensates gravity
and the motors' friction; the caller adds the coriolis torques.

Operational space control follows O. Khatib, "A unified approach for motion and force control of robot manipulators",
IEEE J. Robotics and Automation 3(1), 1987: desired accelerations in task space become forces through the task's
inertia Λ, and the posture acts in the dynamically consistent null space.
"""

from __future__ import annotations

import math

from aiofranka_ros.control.law.cholesky import factorize, solve
from aiofranka_ros.control.law.vectors import length
from aiofranka_ros.control.records import Approach
from aiofranka_ros.kernels import Array, Record, kernel
from aiofranka_ros.model.fr3 import velocity_envelope
from aiofranka_ros.model.kinematics import rotation_between

#: The Cholesky factor of Λ⁻¹ = J M⁻¹ Jᵀ has pivots above these [1/kg], [1/(kg m²)] nearly everywhere within the arm's
#: reach, the motors' inertia included; when the arm is stretched out, a rotational pivot goes to 0...
_REGULAR_TRANSLATION, _REGULAR_ROTATION = 0.05, 1.0
#: ...and these are added to the diagonal: a direction with infinite inertia could otherwise get any force.
_SINGULAR_TRANSLATION, _SINGULAR_ROTATION = 1.0, 3.0
#: Near a singularity the posture moves the arm where the task does not; it is damped by this much more [1/s], as it
#: would otherwise oscillate.
_SINGULAR_DAMPING = 60.0
#: What is known of the singularity changes by this share of the difference in each cycle: when a joint stops, it may
#: rise at once, but the reference must not jump.
_SINGULARITY_SHARE = 0.02
#: How a joint stops at its limit: critically damped [1/s], at this share of the way through its springs, which add
#: what the law does not know of. The other joints move as if its inertia were this much larger [kg m²]. No more joints
#: than these stop at once because others have stopped.
_STOP_GAIN, _STOP_DEPTH, _STOP_WEIGHT, _MOST_STOPPED = 20.0, 0.5, 1e5, 3
#: Following the reference may take this share of the allowed joint velocities. A joint velocity below the slack [rad/s]
#: is always allowed, so that the reference never gets stuck. The velocities are those allowed at the positions that the
#: joints will have after the look-ahead [s], since reference and arm take time to slow down.
_PACE_SHARE = 0.6
_PACE_SLACK = 0.05
_PACE_LOOK_AHEAD = 0.1


@kernel
def impedance(
    q: Array, dq: Array, ref_q: Array, ref_dq: Array, ref_ddq: Array, inertia: Array, kp: Array, kd: Array, tau: Array
) -> None:
    """Joint impedance: ``kp (ref_q - q) + kd (ref_dq - dq) + M ref_ddq`` into ``tau`` [Nm] (7,)."""
    for i in range(7):
        total = kp[i] * (ref_q[i] - q[i]) + kd[i] * (ref_dq[i] - dq[i])
        for j in range(7):
            total += inertia[i, j] * ref_ddq[j]
        tau[i] = total


@kernel
def integrate(q: Array, ref_q: Array, ki: Array, limit: Array, saturated: Array, integral: Array, dt: float) -> None:
    """Integral part of the PID law [Nm] (7,), in place, with anti-windup.

    :param limit: largest integral part [Nm] (7,).
    :param saturated: what the limits took from the torque of the last cycle [Nm] (7,). While that is not 0, the
        integral may only change so that it becomes less (conditional integration).
    """
    for i in range(7):
        step = ki[i] * (ref_q[i] - q[i]) * dt
        if step * saturated[i] <= 0.0:
            integral[i] = min(max(integral[i] + step, -limit[i]), limit[i])


@kernel
def _singularity(factor: Array) -> float:
    """How singular the task is, from its Cholesky factor (6, 6): 0 if regular, 1 at a singularity."""
    regular = 1.0
    for i in range(3):
        regular = min(regular, factor[i, i] ** 2 / _REGULAR_TRANSLATION)
        regular = min(regular, factor[i + 3, i + 3] ** 2 / _REGULAR_ROTATION)
    return (1.0 - regular) ** 2


@kernel
def operational_space(
    q: Array, dq: Array, inertia: Array, commands: Record, memory: Record, scratch: Record, tau: Array
) -> None:
    """Operational space control with a posture task in its null space, into ``tau`` [Nm] (7,).

    ``tau = Jᵀ F + (1 - Jᵀ Λ J M⁻¹) M (null_kp (null_q - q) - null_kd dq)``,
    ``F = Λ (ee_kp e + ee_kd (v_ref - J dq) + a_ref)``, ``Λ = (J M⁻¹ Jᵀ)⁻¹``, damped near singularities; ``e`` is the
    position error [m] and the rotation vector [rad] from the control frame to its reference, in the base.

    A joint that would get beyond its limit stops there, and the others do what they can of the task: if they made up
    for a movement that does not happen, the arm would run away. This is the saturation in the null space of F. Flacco,
    A. De Luca and O. Khatib, "Control of redundant robots under hard joint constraints", IEEE Trans. Robotics 31(3),
    2015, at the level of accelerations.

    :param inertia: M (7, 7); ``scratch.factor`` holds its Cholesky factor.
    """
    wanted = scratch.wanted
    rotation_between(memory.ref_orientation, memory.orientation, wanted[3:])
    for i in range(3):
        wanted[i] = memory.ref_position[i] - memory.position[i]
    linear = angular = math.inf
    if memory.approach == Approach.APPROACHING:
        linear, angular = commands.approach_linear_velocity, commands.approach_angular_velocity
    _pull(wanted[:3], memory.ref_linear, memory.twist[:3], commands.ee_kp[:3], commands.ee_kd[:3], linear)
    _pull(wanted[3:], memory.ref_angular, memory.twist[3:], commands.ee_kp[3:], commands.ee_kd[3:], angular)
    for i in range(3):
        wanted[i] += memory.ref_linear_acceleration[i]
        wanted[i + 3] += memory.ref_angular_acceleration[i]
    singularity = decouple(scratch.factor, memory, scratch)
    for i in range(7):
        damping = commands.null_kd[i] + max(singularity, memory.singularity) * _SINGULAR_DAMPING
        scratch.acceleration[i] = commands.null_kp[i] * (memory.null_q[i] - q[i]) - damping * dq[i]
        scratch.bias[i] = 0.0
        for j in range(7):
            scratch.weight[i, j] = inertia[i, j]
    do_task(inertia, scratch.factor, memory, scratch)
    for _ in range(_MOST_STOPPED):
        if not _stop_at_limits(q, dq, inertia, memory, scratch):
            break
        # What the task gets of this acceleration, it should keep.
        for i in range(6):
            wanted[i] = 0.0
            for k in range(7):
                wanted[i] += memory.jacobian[i, k] * scratch.acceleration[k]
        factorize(scratch.weight, 7, scratch.weight_factor)
        singularity = max(singularity, decouple(scratch.weight_factor, memory, scratch))
        do_task(inertia, scratch.weight_factor, memory, scratch)
    memory.singularity += _SINGULARITY_SHARE * (singularity - memory.singularity)
    for i in range(7):
        tau[i] = 0.0
        for k in range(7):
            tau[i] += inertia[i, k] * scratch.acceleration[k]
    _find_pace(q, dq, memory, scratch)


@kernel
def _pull(error: Array, reference: Array, velocity: Array, kp: Array, kd: Array, fastest: float) -> None:
    """Make the acceleration ``kp e + kd (v_ref - v)`` of the ``error`` e (3,), in place.

    :param fastest: an arm this fast is not pulled any faster; that does not weaken what holds an arm at rest.
    """
    along = strongest = 0.0
    for i in range(3):
        error[i] = kp[i] * error[i] + kd[i] * reference[i]
        along += error[i] * velocity[i]
        strongest += (kd[i] * error[i]) ** 2
    size = length(error)
    if size > 0.0 and fastest < math.inf:
        fastest = max(fastest, length(reference))
        share = min(max(along / size / fastest, 0.0), 1.0)
        strongest = fastest * math.sqrt(strongest) / size
        if strongest < size:
            for i in range(3):
                error[i] *= 1.0 - share * (1.0 - strongest / size)
    for i in range(3):
        error[i] -= kd[i] * velocity[i]


@kernel
def _stop_at_limits(q: Array, dq: Array, inertia: Array, memory: Record, scratch: Record) -> bool:
    """Give the joints that would get beyond their limits the acceleration with which they stop there, and a weight that
    makes the others do the rest.

    :returns: whether there are any besides those that have their weight already.
    """
    found = False
    for i in range(7):
        if scratch.weight[i, i] != inertia[i, i]:
            continue
        end = memory.spring_upper[i] + _STOP_DEPTH * (memory.joint_upper[i] - memory.spring_upper[i])
        highest = _STOP_GAIN * (_STOP_GAIN * (end - q[i]) - 2.0 * dq[i])
        end = memory.spring_lower[i] + _STOP_DEPTH * (memory.joint_lower[i] - memory.spring_lower[i])
        lowest = _STOP_GAIN * (_STOP_GAIN * (end - q[i]) - 2.0 * dq[i])
        limited = min(max(scratch.acceleration[i], lowest), highest)
        if limited != scratch.acceleration[i]:
            found = True
            scratch.weight[i, i] += _STOP_WEIGHT
            scratch.bias[i] = _STOP_WEIGHT * limited
    return found


@kernel
def decouple(factor: Array, memory: Record, scratch: Record) -> float:
    """Find the task's inertia Λ, damped near singularities: ``scratch.task_factor``, the Cholesky factor of Λ⁻¹.

    :param factor: Cholesky factor of M (7, 7).
    :returns: how singular the task is.
    """
    jacobian, inverse_times_jacobian = memory.jacobian, scratch.inverse_times_jacobian
    task, task_factor = scratch.task, scratch.task_factor
    # Row i of inverse_times_jacobian is M⁻¹ times the transposed row i of J.
    for i in range(6):
        for j in range(7):
            inverse_times_jacobian[i, j] = jacobian[i, j]
        solve(factor, 7, inverse_times_jacobian[i])
    for i in range(6):
        for j in range(6):
            total = 0.0
            for k in range(7):
                total += jacobian[i, k] * inverse_times_jacobian[j, k]
            task[i, j] = total
    factorize(task, 6, task_factor)
    singularity = _singularity(task_factor)
    if singularity > 0.0:
        for i in range(3):
            task[i, i] += singularity * _SINGULAR_TRANSLATION
            task[i + 3, i + 3] += singularity * _SINGULAR_ROTATION
        factorize(task, 6, task_factor)
    return singularity


@kernel
def do_task(inertia: Array, factor: Array, memory: Record, scratch: Record) -> None:
    """Change ``scratch.acceleration`` [rad/s²] (7,) as little as possible so that it does the task, ``scratch.wanted``.

    :param factor: Cholesky factor of M with the weights of joints that stop (7, 7), as in :func:`decouple` before.
    """
    jacobian, force, acceleration = memory.jacobian, scratch.force, scratch.acceleration
    row = scratch.row
    for i in range(7):
        row[i] = scratch.bias[i]
        for k in range(7):
            row[i] += inertia[i, k] * acceleration[k]
    solve(factor, 7, row)
    # The joints' acceleration, less its effect on the task: both become one task force.
    for i in range(6):
        force[i] = scratch.wanted[i]
        for k in range(7):
            force[i] -= jacobian[i, k] * row[k]
    solve(scratch.task_factor, 6, force)
    for i in range(7):
        acceleration[i] = row[i]
        for k in range(6):
            acceleration[i] += scratch.inverse_times_jacobian[k, i] * force[k]


@kernel
def _find_pace(q: Array, dq: Array, memory: Record, scratch: Record) -> None:
    """Find how fast the reference may move so that no joint gets too fast when it follows.

    The reference must be slower if the arm is stretched out or near a position limit. The joint velocities that follow
    it are ``M⁻¹ Jᵀ Λ v_ref``; :func:`operational_space` leaves the factors in ``scratch``.
    """
    follow, envelope, ahead = scratch.force, scratch.envelope, scratch.ahead
    for i in range(7):
        ahead[i] = q[i] + _PACE_LOOK_AHEAD * dq[i]
    velocity_envelope(ahead, envelope[0], envelope[1])
    linear, angular = 0.0, 0.0
    for i in range(3):
        follow[i], follow[i + 3] = memory.ref_linear[i], memory.ref_angular[i]
        linear += memory.ref_linear[i] ** 2
        angular += memory.ref_angular[i] ** 2
    solve(scratch.task_factor, 6, follow)
    room = math.inf
    for i in range(7):
        speed = 0.0
        for k in range(6):
            speed += scratch.inverse_times_jacobian[k, i] * follow[k]
        allowed = _PACE_SHARE * (envelope[1, i] if speed > 0.0 else -envelope[0, i])
        if abs(speed) > _PACE_SLACK:
            room = min(room, max(allowed, _PACE_SLACK) / abs(speed))
    # Far below the limits, the present pace says nothing about the pace of a faster reference.
    near = room < 2.0
    memory.pace_linear = room * math.sqrt(linear) if near else math.inf
    memory.pace_angular = room * math.sqrt(angular) if near else math.inf
