"""Hand guiding: the law of the mode ``free``, in which a person moves the arm by hand.

A compiled kernel, called once a cycle by the control cycle in the control process. The robot itself compensates
gravity; along free axes this law only damps the joints, and helps against their friction if it is asked to. Axes of
the control frame that are not free are held like the pose of mode OSC: operational space control of these axes alone,
in whose null space the arm moves freely. The elbow is joint 3, as in libfranka's ``elbow`` and ``setGuidingMode``.
"""

from __future__ import annotations

from aiofranka_ros.control.law import laws
from aiofranka_ros.control.law.cholesky import factorize
from aiofranka_ros.control.law.follower import keep_near_pose
from aiofranka_ros.control.records import Axis
from aiofranka_ros.kernels import Array, Record, kernel
from aiofranka_ros.model.kinematics import rotate, rotation_between

#: The joint that is the elbow.
_ELBOW_JOINT = 2
#: A free axis is one along which the arm yields to any force: this is added to its inverse inertia [1/kg, 1/(kg m²)],
#: which otherwise is around 1.
_YIELDING = 1e9
#: The help against friction rises with the joint's velocity up to this one [rad/s]: an arm at rest is not pushed.
_FRICTION_VELOCITY = 0.05


@kernel
def _is_free(free: int, axis: int) -> bool:
    return free >> axis & 1 != 0


@kernel
def begin(memory: Record, q: Array) -> None:
    """Lock the pose in which the arm is, at rest; ``q``: measured joint positions [rad] (7,)."""
    for i in range(3):
        memory.ref_position[i] = memory.position[i]
        memory.ref_linear[i] = memory.ref_angular[i] = 0.0
    for i in range(4):
        memory.ref_orientation[i] = memory.orientation[i]
    for i in range(7):
        memory.ref_q[i] = q[i]
        memory.ref_dq[i] = 0.0


@kernel
def guide(q: Array, dq: Array, inertia: Array, commands: Record, memory: Record, scratch: Record, tau: Array) -> None:
    """Torque of an arm that is guided by hand, without coriolis torques, into ``tau`` [Nm] (7,).

    ``tau = friction - free_damping dq + Jᵀ F`` with the force ``F`` that gives the locked axes of the control frame, in
    the base, the acceleration ``ee_kp e - ee_kd J dq``, and along free axes none. A locked elbow is held with the
    stiffness and damping of motions.

    :param inertia: M (7, 7); ``scratch.factor`` holds its Cholesky factor.
    """
    free, wanted = commands.free_axes, scratch.wanted
    for i in range(7):
        scratch.acceleration[i] = 0.0
        slow = min(max(dq[i] / _FRICTION_VELOCITY, -1.0), 1.0)
        scratch.bias[i] = commands.free_friction[i] * slow - commands.free_damping[i] * dq[i]
        if i != _ELBOW_JOINT or _is_free(free, Axis.ELBOW):
            memory.ref_q[i] = q[i]
    elbow = memory.ref_q[_ELBOW_JOINT] - q[_ELBOW_JOINT]
    if not _is_free(free, Axis.ELBOW):
        kp, kd = commands.motion_kp[_ELBOW_JOINT], commands.motion_kd[_ELBOW_JOINT]
        scratch.bias[_ELBOW_JOINT] += kp * elbow - kd * dq[_ELBOW_JOINT]
    _yield(free, memory, wanted)
    keep_near_pose(memory)
    rotation_between(memory.ref_orientation, memory.orientation, wanted[3:])
    for i in range(3):
        wanted[i] = memory.ref_position[i] - memory.position[i]
    for i in range(6):
        wanted[i] = commands.ee_kp[i] * wanted[i] - commands.ee_kd[i] * memory.twist[i]
    laws.decouple(scratch.factor, memory, scratch)
    for i in range(6):
        if _is_free(free, i):
            scratch.task[i, i] += _YIELDING
    factorize(scratch.task, 6, scratch.task_factor)
    laws.do_task(inertia, scratch.factor, memory, scratch)
    for i in range(7):
        tau[i] = 0.0
        for k in range(7):
            tau[i] += inertia[i, k] * scratch.acceleration[k]


@kernel
def _yield(free: int, memory: Record, turn: Array) -> None:
    """Let the locked pose follow the arm along its free axes; what remains between the two is along locked ones.

    :param free: a bit for each :class:`~aiofranka_ros.control.records.Axis`.
    :param turn: is overwritten (6,).
    """
    for i in range(3):
        if _is_free(free, i):
            memory.ref_position[i] = memory.position[i]
    rotation_between(memory.orientation, memory.ref_orientation, turn[3:])
    for i in range(3):
        turn[i] = turn[i + 3] if _is_free(free, i + 3) else 0.0
    rotate(memory.ref_orientation, turn[:3], 1.0)
