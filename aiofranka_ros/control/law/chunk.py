"""Chunks: paths that a client sends as a whole, instead of single targets.

Compiled kernels, called by the control cycle in the control process. A chunk is a piecewise polynomial that the cycle
evaluates in robot time: where the reference's target is now, and its velocity and acceleration. The reference follows
that as it follows a stream, within the same limits, and approaches a chunk that begins far away just as slowly; but
since the acceleration is known, too, it follows without lag. A chunk that replaces another is followed at once.

Limits are counted once for each chunk that meets them. Whatever gives or takes control ends a chunk;
``memory.chunk_end`` says what (:class:`~aiofranka_ros.control.records.ChunkEnd`).
"""

from __future__ import annotations

import math

from aiofranka_ros.control.law import approach, follower, reference
from aiofranka_ros.control.law.limits import allowed, inside, is_finite
from aiofranka_ros.control.law.motion import evaluate
from aiofranka_ros.control.law.vectors import length, limit_norm
from aiofranka_ros.control.records import MAX_CHUNK_SEGMENTS, Approach, ChunkEnd, Limit, Mode
from aiofranka_ros.kernels import Array, Record, kernel
from aiofranka_ros.model.fr3 import CYCLE
from aiofranka_ros.model.kinematics import forward, rotate, rotation_between

#: A quaternion shorter than this has no direction.
_SHORTEST_QUATERNION = 1e-3


@kernel
def update(memory: Record, commands: Record, chunk: Record, stop: int, in_motion: bool) -> bool:
    """Whether the chunk that the commands name begins now; the one in force ends if there is a reason.

    :param stop: why the arm must hold, a :class:`~aiofranka_ros.control.records.Hold` flag, or 0.
    :param in_motion: whether a motion controls the arm.
    """
    arrives = chunk.id == commands.chunk_id and chunk.id != memory.chunk_seen
    if not arrives and (memory.chunk_seen == 0 or memory.chunk_end != ChunkEnd.NONE):
        return False
    reason = _obstacle(memory, commands, chunk, stop, in_motion)
    if arrives:
        memory.chunk_seen = chunk.id
        memory.chunk_end = reason
    elif memory.chunk_id == 0:
        # Something else stopped the reference since the last cycle: a hold, another mode or control frame.
        otherwise = ChunkEnd.MODE if memory.hold == 0 else ChunkEnd.HELD
        memory.chunk_end = reason if reason != ChunkEnd.NONE else otherwise
    if reason != ChunkEnd.NONE and memory.chunk_id != 0:
        _end(memory, commands, reason)
    return arrives and reason == ChunkEnd.NONE


@kernel
def _obstacle(memory: Record, commands: Record, chunk: Record, stop: int, in_motion: bool) -> int:
    """Why the chunk must not be followed now."""
    if chunk.mode_id != memory.mode_id or commands.mode == Mode.TORQUE or commands.mode == Mode.FREE:
        return ChunkEnd.MODE
    if chunk.target_id != commands.target_id:
        return ChunkEnd.TARGET
    if chunk.id <= commands.chunk_stop:
        return ChunkEnd.STOPPED
    if stop != 0:
        return ChunkEnd.HELD
    if in_motion:
        return ChunkEnd.MOTION
    if not 1 <= chunk.segments <= MAX_CHUNK_SEGMENTS or not math.isfinite(chunk.start):
        return ChunkEnd.INVALID
    return ChunkEnd.NONE


@kernel
def begin(memory: Record, commands: Record, chunk: Record, now: float) -> None:
    """Begin the chunk at robot time ``now`` [s], if it is not due earlier."""
    other = commands.stream_id != memory.stream_id
    memory.stream_id = commands.stream_id
    if memory.chunk_id == 0 or other or memory.chunk_rested > approach.LONGEST_GAP:
        reference.freeze(memory)
        for i in range(7):
            memory.goal[i] = memory.ref_q[i]
    memory.chunk_id = chunk.id
    memory.chunk_start = chunk.start if chunk.start > 0.0 else now
    memory.chunk_rested = 0.0
    memory.chunk_limited[:] = 0
    memory.target_cut = 0


@kernel
def _end(memory: Record, commands: Record, reason: int) -> None:
    """End the chunk: the reference slows down as fast as its limits allow, and does not go back."""
    reference.freeze(memory)
    memory.chunk_end = reason
    bandwidth, way = commands.reference_bandwidth, memory.scratch[0]
    speed = length(memory.ref_linear)
    if speed > 0.0:
        distance = follower.stopping_distance(speed, bandwidth, commands.max_linear_acceleration)
        for i in range(3):
            memory.target_position[i] += memory.ref_linear[i] * distance / speed
    speed = length(memory.ref_angular)
    if speed > 0.0:
        distance = follower.stopping_distance(speed, bandwidth, commands.max_angular_acceleration)
        for i in range(3):
            way[i] = memory.ref_angular[i] * distance / speed
        rotate(memory.target_orientation, way, 1.0)
    for i in range(7):
        speed = memory.ref_dq[i]
        distance = follower.stopping_distance(abs(speed), bandwidth, commands.max_joint_acceleration[i])
        memory.target_q[i] = allowed(memory.ref_q[i] + math.copysign(distance, speed), memory, i)


@kernel
def aim(memory: Record, commands: Record, chunk: Record, scratch: Record, pose: bool, now: float) -> None:
    """Find where the reference's target is, and how it moves: ``memory.goal``.

    :param pose: whether the chunk is of poses, not of joint positions.
    :param now: robot time [s].
    """
    memory.chunk_time = now - memory.chunk_start
    # The chunk has the mean velocity of a cycle in its middle.
    time = max(memory.chunk_time - 0.5 * CYCLE, 0.0)
    memory.chunk_rested = time - chunk.times[chunk.segments]
    raw = memory.goal if pose else memory.raw_q
    velocity, acceleration = memory.goal_velocity, memory.goal_acceleration
    evaluate(chunk.times, chunk.coefficients, chunk.segments, time, raw, velocity, acceleration)
    if pose:
        _make_rotation(raw[3:], velocity[3:], acceleration[3:])
    if not (is_finite(raw) and is_finite(velocity) and is_finite(acceleration)):
        _end(memory, commands, ChunkEnd.INVALID)
    elif pose:
        _aim_pose(memory, commands)
    else:
        _aim_joints(memory, commands, scratch)


@kernel
def _make_rotation(quaternion: Array, velocity: Array, acceleration: Array) -> None:
    """Turn four numbers and their derivatives (4,) into a unit quaternion, its angular velocity [rad/s] and angular
    acceleration [rad/s²] (3,) in the base, in place; NaN if they are too small."""
    square = radial = 0.0
    for i in range(4):
        square += quaternion[i] * quaternion[i]
        radial += quaternion[i] * velocity[i]
    scale = 2.0 / square if square > _SHORTEST_QUATERNION**2 else math.nan
    _vector_part(velocity, quaternion, scale)
    _vector_part(acceleration, quaternion, scale)
    for i in range(3):
        acceleration[i] -= scale * radial * velocity[i]
    norm = math.sqrt(square)
    for i in range(4):
        quaternion[i] /= norm


@kernel
def _vector_part(derivative: Array, quaternion: Array, scale: float) -> None:
    """``scale`` times the vector part of ``derivative`` times the conjugate of ``quaternion``, in place; then 0."""
    x, y, z, w = derivative[0], derivative[1], derivative[2], derivative[3]
    a, b, c, d = quaternion[0], quaternion[1], quaternion[2], quaternion[3]
    derivative[0] = scale * (x * d - w * a - y * c + z * b)
    derivative[1] = scale * (y * d - w * b - z * a + x * c)
    derivative[2] = scale * (z * d - w * c - x * b + y * a)
    derivative[3] = 0.0


@kernel
def _note(memory: Record, limit: int, met: bool) -> None:
    """Count a limit, if the chunk has met it for the first time."""
    if met and memory.chunk_limited[limit] == 0:
        memory.chunk_limited[limit] = 1
        memory.limited_targets[limit] += 1


@kernel
def _aim_pose(memory: Record, commands: Record) -> None:
    """Bring ``memory.goal`` within the limits of poses."""
    goal, velocity, acceleration, way = memory.goal, memory.goal_velocity, memory.goal_acceleration, memory.scratch[0]
    _note(memory, Limit.MAX_LINEAR_VELOCITY, length(velocity) > commands.max_linear_velocity)
    _note(memory, Limit.MAX_ANGULAR_VELOCITY, length(velocity[3:]) > commands.max_angular_velocity)
    for i in range(4):
        memory.raw_orientation[i] = goal[i + 3]
    for i in range(3):
        memory.raw_position[i] = goal[i]
        goal[i] = inside(goal[i], memory, i)
        _note(memory, Limit.WORKSPACE_LOWER, memory.raw_position[i] < goal[i])
        _note(memory, Limit.WORKSPACE_UPPER, memory.raw_position[i] > goal[i])
        if goal[i] != memory.raw_position[i]:
            velocity[i] = acceleration[i] = 0.0
    if not _admit(
        memory, commands, approach.distance(memory, memory.raw_position), approach.angle(memory, memory.raw_orientation)
    ):
        return
    if memory.approach == Approach.APPROACHING:
        return
    for i in range(3):
        way[i] = goal[i] - memory.ref_position[i]
    if limit_norm(way, commands.max_linear_step):
        _note(memory, Limit.MAX_LINEAR_STEP, True)
        for i in range(3):
            goal[i] = memory.ref_position[i] + way[i]
    rotation_between(memory.raw_orientation, memory.ref_orientation, way)
    if limit_norm(way, commands.max_angular_step):
        _note(memory, Limit.MAX_ANGULAR_STEP, True)
        for i in range(4):
            goal[i + 3] = memory.ref_orientation[i]
        rotate(goal[3:], way, 1.0)


@kernel
def _aim_joints(memory: Record, commands: Record, scratch: Record) -> None:
    """Bring ``memory.goal`` within the limits of joint positions; it stays where it was if the hand would leave the
    workspace."""
    goal, velocity, acceleration, q = memory.goal, memory.goal_velocity, memory.goal_acceleration, memory.raw_q
    forward(q, commands.flange_to_tcp, scratch.ahead_flange, scratch.ahead_tcp, scratch.ahead_jacobian)
    below = above = False
    for i in range(3):
        below = below or scratch.ahead_tcp[i, 3] < memory.workspace_lower[i]
        above = above or scratch.ahead_tcp[i, 3] > memory.workspace_upper[i]
    _note(memory, Limit.WORKSPACE_LOWER, below)
    _note(memory, Limit.WORKSPACE_UPPER, above)
    if below or above:
        # When it comes back, it may be somewhere else.
        approach.lose(memory)
        for i in range(7):
            velocity[i] = acceleration[i] = 0.0
        return
    if not _admit(memory, commands, 0.0, approach.joint_distance(memory, q)):
        return
    following = memory.approach == Approach.FOLLOWING
    for i in range(7):
        goal[i] = allowed(q[i], memory, i)
        _note(memory, Limit.JOINT_LOWER, q[i] < goal[i])
        _note(memory, Limit.JOINT_UPPER, q[i] > goal[i])
        _note(memory, Limit.MAX_JOINT_VELOCITY, abs(velocity[i]) > commands.max_joint_velocity[i])
        if goal[i] != q[i]:
            velocity[i] = acceleration[i] = 0.0
        step = goal[i] - memory.ref_q[i]
        if following and abs(step) > commands.max_joint_step:
            _note(memory, Limit.MAX_JOINT_STEP, True)
            goal[i] = memory.ref_q[i] + math.copysign(commands.max_joint_step, step)


@kernel
def _admit(memory: Record, commands: Record, linear: float, angular: float) -> bool:
    """Whether a chunk at these distances from the reference [m], [rad] may be followed; if not, it ends."""
    if memory.approach == Approach.FOLLOWING or approach.admit(memory, commands, linear, angular):
        return True
    _end(memory, commands, ChunkEnd.FAR)
    memory.approach = Approach.REFUSED
    memory.approach_left[0], memory.approach_left[1] = linear, angular
    return False
