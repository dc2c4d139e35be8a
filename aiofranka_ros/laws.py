"""The control laws: what torque makes the arm follow its reference.

Compiled kernels, called once a cycle by the control cycle in the control process. Gravity and the motors' friction are
compensated by the robot itself; the coriolis torques of libfranka's model are added by the caller.

Operational space control follows O. Khatib, "A unified approach for motion and force control of robot manipulators",
IEEE J. Robotics and Automation 3(1), 1987: accelerations asked for in task space become forces through the task's
inertia Λ, and the posture acts in the dynamically consistent null space.
"""

from __future__ import annotations

import math

from aiofranka_ros.kinematics import rotation_between
from aiofranka_ros.records import Array, Record, kernel

#: Added to the diagonal of Λ⁻¹ = J M⁻¹ Jᵀ [1/kg, 1/(kg m²)]: bounds the force near a singularity, where a direction
#: would otherwise feel infinitely heavy. Elsewhere Λ⁻¹ is 0.1 and more.
_SINGULARITY_DAMPING = 5e-3


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
    :param saturated: what the limits took from the torque of the last cycle [Nm] (7,). While they take something, the
        integral may only move to where they would take less (conditional integration).
    """
    for i in range(7):
        step = ki[i] * (ref_q[i] - q[i]) * dt
        if step * saturated[i] <= 0.0:
            integral[i] = min(max(integral[i] + step, -limit[i]), limit[i])


@kernel
def _cholesky(matrix: Array, n: int) -> None:
    """Replace the lower triangle of the symmetric positive definite ``matrix`` (n, n) by its Cholesky factor."""
    for j in range(n):
        total = matrix[j, j]
        for k in range(j):
            total -= matrix[j, k] * matrix[j, k]
        pivot = math.sqrt(max(total, 1e-12))
        matrix[j, j] = pivot
        for i in range(j + 1, n):
            total = matrix[i, j]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = total / pivot


@kernel
def _solve(factor: Array, n: int, vector: Array) -> None:
    """Solve ``L Lᵀ x = vector`` in place, given the Cholesky factor L in the lower triangle of ``factor``."""
    for i in range(n):
        total = vector[i]
        for k in range(i):
            total -= factor[i, k] * vector[k]
        vector[i] = total / factor[i, i]
    for i in range(n - 1, -1, -1):
        total = vector[i]
        for k in range(i + 1, n):
            total -= factor[k, i] * vector[k]
        vector[i] = total / factor[i, i]


@kernel
def operational_space(
    q: Array, dq: Array, inertia: Array, commands: Record, memory: Record, scratch: Record, tau: Array
) -> None:
    """Operational space control with a posture task in its null space, into ``tau`` [Nm] (7,).

    ``tau = Jᵀ F + (1 - Jᵀ Λ J M⁻¹) M (null_kp (null_q - q) - null_kd dq)`` with
    ``F = Λ (ee_kp e + ee_kd (v_ref - J dq) + a_ref)`` and ``Λ = (J M⁻¹ Jᵀ + damping)⁻¹``; ``e`` is the position error
    [m] and the rotation vector [rad] from the control frame to its reference, in the base.
    """
    jacobian, factor, task = memory.jacobian, scratch.factor, scratch.task
    inverse_times_jacobian, force, posture = scratch.inverse_times_jacobian, scratch.force, scratch.posture
    for i in range(7):
        for j in range(7):
            factor[i, j] = inertia[i, j]
    _cholesky(factor, 7)
    # Row i of inverse_times_jacobian is M⁻¹ times the transposed row i of J.
    for i in range(6):
        for j in range(7):
            inverse_times_jacobian[i, j] = jacobian[i, j]
        _solve(factor, 7, inverse_times_jacobian[i])
    for i in range(6):
        for j in range(6):
            total = 0.0
            for k in range(7):
                total += jacobian[i, k] * inverse_times_jacobian[j, k]
            task[i, j] = total
        task[i, i] += _SINGULARITY_DAMPING
    _cholesky(task, 6)

    rotation_between(memory.ref_orientation, memory.orientation, force[3:])
    for i in range(3):
        force[i] = memory.ref_position[i] - memory.position[i]
    for i in range(3):
        force[i] = (
            commands.ee_kp[i] * force[i]
            + commands.ee_kd[i] * (memory.ref_linear[i] - memory.twist[i])
            + memory.ref_linear_acceleration[i]
        )
        force[i + 3] = (
            commands.ee_kp[i + 3] * force[i + 3]
            + commands.ee_kd[i + 3] * (memory.ref_angular[i] - memory.twist[i + 3])
            + memory.ref_angular_acceleration[i]
        )
    # The posture's acceleration, less what of it the task would feel: both become one task force.
    for i in range(7):
        posture[i] = commands.null_kp[i] * (memory.null_q[i] - q[i]) - commands.null_kd[i] * dq[i]
    for i in range(6):
        for k in range(7):
            force[i] -= jacobian[i, k] * posture[k]
    _solve(task, 6, force)
    for i in range(7):
        total = 0.0
        for k in range(6):
            total += jacobian[k, i] * force[k]
        for k in range(7):
            total += inertia[i, k] * posture[k]
        tau[i] = total
