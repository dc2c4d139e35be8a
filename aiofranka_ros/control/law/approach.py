"""Whether the reference has met its stream of targets, and how fast it may move until then.

Compiled kernels, called by :mod:`aiofranka_ros.control.law.reference` in the control process. Whenever a client gains
or regains control (activation, release, the end of a motion, a change of the mode or the control frame, another sender,
silence), its stream may be anywhere. If it begins near the reference, it is followed at once. If not, the reference
approaches it slowly, or its targets are refused; ``memory.approach`` says which
(:class:`~aiofranka_ros.control.records.Approach`).

While it approaches, the reference is never faster than the approach velocity, whatever the stream does, so it meets
every stream that is slower. Near a faster one it may be slightly faster than the stream. It has met its stream as soon
as this limit makes no difference any more, so the change to following is not felt.
"""

from __future__ import annotations

import math

from aiofranka_ros.control.law.limits import allowed, inside
from aiofranka_ros.control.law.vectors import length
from aiofranka_ros.control.records import Approach
from aiofranka_ros.kernels import Array, Record, kernel
from aiofranka_ros.model.kinematics import rotation_between

#: A stream that begins within these distances is followed at once [m], [rad]: a policy's usual step, and what friction
#: keeps the arm from its last target.
NEAR_LINEAR, NEAR_ANGULAR = 0.02, 0.05
#: After this silence a stream has ended, unless its last target is still extrapolated [s].
LONGEST_GAP = 0.5
#: How much faster than a fast stream the reference may be near it, as a share of the approach velocity.
_OVERTAKING = 0.2
#: How long the reference takes at least to become that fast [s]: if robot cycles are lost, the last torque continues to
#: accelerate the arm, so that torque must be small. Braking is not limited.
_RAMP = 0.2
#: An approach has at least this share of its pace: it is slower near a singularity and where the arm is behind the
#: reference, since the arm catches up where it gets free. The singularity and the distance [m] from which on it is so.
_SLOWEST, _SINGULAR, _LAG = 0.25, 0.125, 0.02
#: The joints' velocities after this time decide how fast they may be [s]: the reference takes that long to react.
_LOOK_AHEAD = 0.02


@kernel
def lose(memory: Record) -> None:
    """The stream lost control, if there was one: the next target begins another one."""
    memory.approach = Approach.WAITING
    memory.approach_left[0] = memory.approach_left[1] = 0.0


@kernel
def begins_stream(memory: Record, commands: Record, now: float) -> bool:
    """Whether the target in ``commands`` is another sender's; after that or a silence, the stream must be met again."""
    silence = now - memory.target_seen if memory.target_count > 0 else math.inf
    other = commands.stream_id != memory.stream_id
    memory.stream_id = commands.stream_id
    silent = silence > max(LONGEST_GAP, 2.0 * commands.extrapolation_time, 2.5 * memory.period)
    if (other or silent) and memory.approach == Approach.FOLLOWING:
        lose(memory)
    return other


@kernel
def admit(memory: Record, commands: Record, linear: float, angular: float) -> bool:
    """Whether a target at these distances from the reference [m], [rad] may be used."""
    left = memory.approach_left
    left[0], left[1] = linear, angular
    if memory.approach == Approach.APPROACHING:
        return True
    if linear <= NEAR_LINEAR and angular <= NEAR_ANGULAR:
        _meet(memory)
        return True
    if commands.approach_far_streams == 0:
        memory.approach = Approach.REFUSED
        memory.far_targets += 1
        return False
    memory.approach = Approach.APPROACHING
    memory.approaches += 1
    return True


@kernel
def pace(memory: Record, velocity: float, near: bool, stream: float, present: float, gain: float) -> float:
    """Highest speed that the reference may aim at, in the units of ``velocity``, which is that of the approach.

    :param near: whether the target is so near that the reference may catch up with it.
    :param stream: speed of the target.
    :param present: speed of the reference.
    :param gain: how fast the reference reaches the speed that it aims at [1/s].
    """
    if memory.approach != Approach.APPROACHING:
        return math.inf
    velocity *= max(_SLOWEST, 1.0 - max(memory.singularity / _SINGULAR, memory.lag / _LAG))
    highest = max(velocity, stream + _OVERTAKING * velocity) if near else velocity
    return min(highest, present + highest / (gain * _RAMP))


@kernel
def joint_velocity(memory: Record, commands: Record) -> float:
    """Highest velocity of the joints in an approach [rad/s]: less than the setting if the hand would get too fast."""
    hand, fastest = memory.scratch[0], 0.0
    hand[:] = 0.0
    for j in range(7):
        soon = memory.ref_dq[j] + _LOOK_AHEAD * memory.ref_ddq[j]
        fastest = max(fastest, abs(soon))
        for i in range(3):
            hand[i] += memory.jacobian[i, j] * soon
    # As many times what the joints' velocity is as the hand's may be of what it is.
    speed, highest = length(hand), commands.approach_joint_velocity
    if speed * highest <= commands.approach_linear_velocity * fastest:
        return highest
    return commands.approach_linear_velocity * fastest / speed


@kernel
def arrive(memory: Record) -> None:
    """The reference has met its target: the stream's newest one, or only the part of it that its limits allow."""
    if memory.target_cut != 0:
        lose(memory)
    else:
        _meet(memory)


@kernel
def _meet(memory: Record) -> None:
    memory.approach = Approach.FOLLOWING
    memory.approach_left[0] = memory.approach_left[1] = 0.0


@kernel
def distance(memory: Record, position: Array) -> float:
    """From the reference to ``position`` [m] (3,), as far as it is in the workspace."""
    apart = memory.scratch[0]
    for i in range(3):
        apart[i] = inside(position[i], memory, i) - memory.ref_position[i]
    return length(apart)


@kernel
def angle(memory: Record, orientation: Array) -> float:
    """Between the reference and ``orientation`` (4,) [rad]."""
    turn = memory.scratch[0]
    rotation_between(orientation, memory.ref_orientation, turn)
    return length(turn)


@kernel
def joint_distance(memory: Record, q: Array) -> float:
    """From the reference to ``q`` [rad] (7,), as far as the limits allow it: that of the joint furthest away [rad]."""
    distance = 0.0
    for i in range(7):
        distance = max(distance, abs(allowed(q[i], memory, i) - memory.ref_q[i]))
    return distance
