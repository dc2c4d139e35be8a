"""Turns targets that arrive at 50 Hz, unevenly and with gaps, into a smooth 1 kHz reference.

Compiled kernels, called by the control cycle in the control process. Three steps:

1. A new target is limited to a step from the reference, and its velocity is estimated: the median of the last three
   differences between targets, so that one outlier (an action chunk that begins elsewhere) does not count as speed.
2. Between targets the target is extrapolated with that velocity for ``extrapolation_time``, then it slows down and
   stops within the same time again: a short delay of the policy is not felt. If no other target comes, the extrapolated
   one slowly returns to the last that came, and stays there.
3. The reference follows that moving target: a critically damped second-order system of ``reference_bandwidth`` ω whose
   velocity and acceleration are bounded. Far from the target, its speed is the one from which it can still brake
   (ArduPilot's "square root controller"). The target's velocity is fed forward, so a target of constant velocity is
   followed without lag, whatever the damping of the law that follows the reference.

Until the reference has met its stream of targets, it is slow: :mod:`aiofranka_ros.control.law.approach`.

``dt`` is the time since the last cycle [s]; it is longer than 1 ms if robot cycles were lost.
"""

from __future__ import annotations

import math

from aiofranka_ros.control.law import approach
from aiofranka_ros.control.law.limits import allowed, inside
from aiofranka_ros.control.law.vectors import length, limit_norm, median
from aiofranka_ros.control.records import Approach, Limit
from aiofranka_ros.kernels import Array, Record, kernel
from aiofranka_ros.model.kinematics import forward, rotate, rotation_between

#: Stamps closer together than this share of the time between the arrivals are ignored: the velocity would be too high
#: by the inverse of that share.
_STAMP_TRUST = 0.25
#: Targets closer together than this count as one target for the velocity [s].
_SHORTEST_GAP = 0.5e-3
#: An extrapolated target begins to return this long after it stopped [s]: a policy that pauses for less is not pulled
#: back. The return takes this many times the extrapolation time, so it is at most a quarter as fast as the target was:
#: its way is the target's velocity times 1.5 times that time, and a cubic's highest velocity is 1.5 times its mean.
_RETURN_DELAY, _RETURN_SHARE = 0.5, 9.0
#: Largest distance of the reference from the arm [m], [rad], [rad]: many times what it takes to follow a target, and
#: with the default gains too little for the largest torque.
_LEASH_LINEAR, _LEASH_ANGULAR, _LEASH_JOINT = 0.05, 0.2, 0.1
#: At a singularity, that distance is smaller by this share: a stretched arm oscillates if it is pulled further.
_SINGULAR_LEASH = 0.9
#: Braking is planned with this share of the acceleration; the rest compensates for the lag of the velocity.
_BRAKING_SHARE = 0.7
#: The acceleration is this many bandwidths times what the velocity lacks: critical damping.
_VELOCITY_GAIN = 2.0
#: Time constant that keeps the reference's acceleration continuous [s].
_ACCELERATION_SMOOTHING = 4e-3


@kernel
def _approach_speed(distance: float, bandwidth: float, acceleration: float, velocity: float) -> float:
    """Speed at which to cover ``distance``: proportional if short, else as braking allows, at most ``velocity``."""
    gain = 0.5 * bandwidth
    braking = _BRAKING_SHARE * acceleration
    linear = braking / (gain * gain)
    if distance <= linear:
        speed = gain * distance
    else:
        speed = math.sqrt(2.0 * braking * (distance - 0.5 * linear))
    return min(speed, velocity)


@kernel
def _coast(age: float, duration: float, believed: Array) -> None:
    """Extrapolate a target of that age: fill ``believed`` with the seconds travelled at its velocity, and the share of
    that
    velocity that it still has."""
    if age <= duration:
        believed[0], believed[1] = age, 1.0
    elif age < 2.0 * duration:
        slowing = age - duration
        believed[0] = duration + slowing - 0.5 * slowing * slowing / duration
        believed[1] = 1.0 - slowing / duration
    else:
        time = _RETURN_SHARE * duration
        share = min(max((age - 2.0 * duration - _RETURN_DELAY) / time, 0.0), 1.0)
        believed[0] = 1.5 * duration * (1.0 - share * share * (3.0 - 2.0 * share))
        believed[1] = -1.5 * duration * 6.0 * share * (1.0 - share) / time


@kernel
def seed(memory: Record, commands: Record, q: Array, dq: Array) -> None:
    """Set target and reference to the measured pose and ``q`` [rad] (7,); forget all velocities of targets.

    The reference begins as fast as the arm, ``dq`` [rad/s] (7,), or as an approach if that is slower, and stops. If it
    began at rest, the law would brake an arm that moves, and what is blended in against that step would push the arm as
    soon as the reference moves.
    """
    memory.singularity = 0.0
    memory.pace_linear = memory.pace_angular = math.inf
    for i in range(3):
        memory.ref_position[i] = memory.position[i]
        memory.ref_linear[i] = memory.twist[i]
        memory.ref_angular[i] = memory.twist[i + 3]
        memory.ref_linear_acceleration[i] = 0.0
        memory.ref_angular_acceleration[i] = 0.0
    limit_norm(memory.ref_linear, commands.approach_linear_velocity)
    limit_norm(memory.ref_angular, commands.approach_angular_velocity)
    fastest = commands.approach_joint_velocity
    for i in range(4):
        memory.ref_orientation[i] = memory.orientation[i]
    for i in range(7):
        memory.ref_q[i] = q[i]
        memory.ref_dq[i] = min(max(dq[i], -fastest), fastest)
        memory.ref_ddq[i] = 0.0
    freeze(memory)


@kernel
def freeze(memory: Record) -> None:
    """Stop the reference as if the newest target were where it is now."""
    memory.target_count = 0
    approach.lose(memory)
    for i in range(3):
        memory.target_linear[i] = 0.0
        memory.target_angular[i] = 0.0
        memory.target_position[i] = memory.ref_position[i]
        for j in range(3):
            memory.slope_linear[j, i] = 0.0
            memory.slope_angular[j, i] = 0.0
    for i in range(4):
        memory.target_orientation[i] = memory.ref_orientation[i]
    for i in range(7):
        memory.target_dq[i] = 0.0
        memory.target_q[i] = memory.ref_q[i]
        for j in range(3):
            memory.slope_q[j, i] = 0.0


@kernel
def _elapsed_between_targets(memory: Record, stamp: int, now: float) -> float:
    """Time between this target and the last [s], by their stamps or else by arrival; 0: they are not one movement."""
    elapsed = now - memory.target_seen
    if memory.target_count == 0 or elapsed > approach.LONGEST_GAP:
        return 0.0
    by_stamp = 1e-9 * (stamp - memory.target_stamp)
    # If stamps and arrivals differ by more than a late message explains, the stamps are not trusted.
    if stamp != 0 and memory.target_stamp != 0 and _STAMP_TRUST * elapsed < by_stamp < approach.LONGEST_GAP:
        elapsed = by_stamp
    return elapsed if elapsed >= _SHORTEST_GAP else 0.0


@kernel
def accept_pose(memory: Record, commands: Record, now: float) -> None:
    """Use the pose in ``commands`` as the newest target, unless it begins a stream that is refused.

    :param now: robot time [s].
    """
    first = approach.begins_stream(memory, commands, now)
    if memory.approach != Approach.FOLLOWING:
        distance = approach.distance(memory, commands.target_position)
        if not approach.admit(memory, commands, distance, approach.angle(memory, commands.target_orientation)):
            return
    elapsed = 0.0 if first else _elapsed_between_targets(memory, commands.target_stamp, now)
    slot = memory.target_count % 3
    if elapsed == 0.0:
        memory.target_count = 0
        slot = 0
        for j in range(3):
            for i in range(3):
                memory.slope_linear[j, i] = 0.0
                memory.slope_angular[j, i] = 0.0
    else:
        rotation_between(commands.target_orientation, memory.raw_orientation, memory.slope_angular[slot])
        for i in range(3):
            difference = commands.target_position[i] - memory.raw_position[i]
            memory.slope_linear[slot, i] = difference / elapsed
            memory.slope_angular[slot, i] /= elapsed
    for i in range(3):
        memory.raw_position[i] = commands.target_position[i]
        memory.target_linear[i] = median(
            memory.slope_linear[0, i], memory.slope_linear[1, i], memory.slope_linear[2, i]
        )
        memory.target_angular[i] = median(
            memory.slope_angular[0, i], memory.slope_angular[1, i], memory.slope_angular[2, i]
        )
    for i in range(4):
        memory.raw_orientation[i] = commands.target_orientation[i]
    limited = memory.limited_targets
    limited[Limit.MAX_LINEAR_VELOCITY] += limit_norm(memory.target_linear, commands.max_linear_velocity)
    limited[Limit.MAX_ANGULAR_VELOCITY] += limit_norm(memory.target_angular, commands.max_angular_velocity)

    step = memory.target_position
    _count_outside(commands.target_position, memory)
    for i in range(3):
        step[i] = inside(commands.target_position[i], memory, i) - memory.ref_position[i]
    cut = limit_norm(step, commands.max_linear_step)
    limited[Limit.MAX_LINEAR_STEP] += cut
    for i in range(3):
        step[i] += memory.ref_position[i]

    turn = memory.scratch[0]
    rotation_between(commands.target_orientation, memory.ref_orientation, turn)
    turned = limit_norm(turn, commands.max_angular_step)
    limited[Limit.MAX_ANGULAR_STEP] += turned
    memory.target_cut = cut or turned
    for i in range(4):
        memory.target_orientation[i] = memory.ref_orientation[i]
    rotate(memory.target_orientation, turn, 1.0)

    memory.target_count += 1
    memory.target_seen = now
    memory.target_stamp = commands.target_stamp


@kernel
def _count_outside(position: Array, memory: Record) -> bool:
    """Whether ``position`` [m] (3,) is outside the workspace; if so, it is counted at the walls that it is beyond."""
    below = above = False
    for i in range(3):
        below = below or position[i] < memory.workspace_lower[i]
        above = above or position[i] > memory.workspace_upper[i]
    memory.limited_targets[Limit.WORKSPACE_LOWER] += below
    memory.limited_targets[Limit.WORKSPACE_UPPER] += above
    return below or above


@kernel
def behind_pose(memory: Record) -> tuple[float, float]:
    """How far the control frame is from the newest target, as it came: distance [m] and angle [rad]; 0 without one."""
    if memory.target_count == 0:
        return 0.0, 0.0
    apart = memory.scratch[0]
    rotation_between(memory.raw_orientation, memory.orientation, apart)
    angle = length(apart)
    for i in range(3):
        apart[i] = memory.raw_position[i] - memory.position[i]
    return length(apart), angle


@kernel
def _leads_outside(memory: Record, commands: Record, scratch: Record) -> bool:
    """Whether the joint positions in ``commands`` put the control frame outside the workspace; if so, it is counted."""
    forward(
        commands.target_q, commands.flange_to_tcp, scratch.ahead_flange, scratch.ahead_tcp, scratch.ahead_jacobian
    )  # fmt: skip
    position = scratch.ahead
    for i in range(3):
        position[i] = scratch.ahead_tcp[i, 3]
    return _count_outside(position, memory)


@kernel
def accept_joints(memory: Record, commands: Record, scratch: Record, now: float) -> None:
    """Use the joint positions in ``commands`` as the newest target, unless it begins a stream that is refused.

    A target that puts the control frame outside the workspace is ignored.

    :param now: robot time [s].
    """
    if _leads_outside(memory, commands, scratch):
        return
    first = approach.begins_stream(memory, commands, now)
    if memory.approach != Approach.FOLLOWING:
        if not approach.admit(memory, commands, 0.0, approach.joint_distance(memory, commands.target_q)):
            return
    elapsed = 0.0 if first else _elapsed_between_targets(memory, commands.target_stamp, now)
    slot = memory.target_count % 3
    if elapsed == 0.0:
        memory.target_count = 0
        slot = 0
    far = fast = below = above = False
    for i in range(7):
        if elapsed == 0.0:
            for j in range(3):
                memory.slope_q[j, i] = 0.0
        else:
            memory.slope_q[slot, i] = (commands.target_q[i] - memory.raw_q[i]) / elapsed
        memory.raw_q[i] = commands.target_q[i]
        velocity = median(memory.slope_q[0, i], memory.slope_q[1, i], memory.slope_q[2, i])
        limit = commands.max_joint_velocity[i]
        memory.target_dq[i] = min(max(velocity, -limit), limit)
        fast = fast or abs(velocity) > limit
        nearest = allowed(commands.target_q[i], memory, i)
        below = below or commands.target_q[i] < nearest
        above = above or commands.target_q[i] > nearest
        step = commands.target_q[i] - memory.ref_q[i]
        far = far or abs(step) > commands.max_joint_step
        step = min(max(step, -commands.max_joint_step), commands.max_joint_step)
        memory.target_q[i] = allowed(memory.ref_q[i] + step, memory, i)
    memory.target_cut = far
    memory.limited_targets[Limit.MAX_JOINT_STEP] += far
    memory.limited_targets[Limit.MAX_JOINT_VELOCITY] += fast
    memory.limited_targets[Limit.JOINT_LOWER] += below
    memory.limited_targets[Limit.JOINT_UPPER] += above
    memory.target_count += 1
    memory.target_seen = now
    memory.target_stamp = commands.target_stamp


@kernel
def _follow(
    error: Array, target_velocity: Array, velocity: Array, acceleration: Array,
    bandwidth: float, max_velocity: float, pace: float, max_acceleration: float, dt: float,
) -> bool:  # fmt: skip
    """One step of the reference's ``velocity`` and ``acceleration`` (3,), in place.

    :param error: the way to the target (3,); overwritten.
    :param pace: highest speed until the reference meets its stream.
    :returns: whether it is slow enough without that limit.
    """
    distance = length(error)
    speed = _approach_speed(distance, bandwidth, max_acceleration, max_velocity)
    scale = speed / distance if distance > 1e-12 else 0.0
    for i in range(3):
        error[i] = target_velocity[i] + scale * error[i]
    slow = not limit_norm(error, pace)
    limit_norm(error, max_velocity)
    for i in range(3):
        error[i] = (error[i] - velocity[i]) * _VELOCITY_GAIN * bandwidth
    limit_norm(error, max_acceleration)
    share = dt / (_ACCELERATION_SMOOTHING + dt)
    for i in range(3):
        acceleration[i] += share * (error[i] - acceleration[i])
        velocity[i] += acceleration[i] * dt
    return slow


@kernel
def _keep_near_pose(memory: Record) -> None:
    """Keep the reference near the arm: an arm that is held, or cannot reach further, must not be pulled harder."""
    apart = memory.scratch[0]
    slack = 1.0 - _SINGULAR_LEASH * memory.singularity
    linear, angular = slack * _LEASH_LINEAR, slack * _LEASH_ANGULAR
    for i in range(3):
        apart[i] = memory.ref_position[i] - memory.position[i]
    if limit_norm(apart, linear):
        for i in range(3):
            memory.ref_position[i] = memory.position[i] + apart[i]
            memory.ref_linear[i] = memory.twist[i]
            memory.ref_linear_acceleration[i] = 0.0
    rotation_between(memory.ref_orientation, memory.orientation, apart)
    if limit_norm(apart, angular):
        for i in range(4):
            memory.ref_orientation[i] = memory.orientation[i]
        rotate(memory.ref_orientation, apart, 1.0)
        for i in range(3):
            memory.ref_angular[i] = memory.twist[i + 3]
            memory.ref_angular_acceleration[i] = 0.0


@kernel
def keep_near_joints(memory: Record, q: Array, dq: Array) -> None:
    """Keep the joint reference near the arm, for the same reason; ``q`` [rad] and ``dq`` [rad/s] (7,) are measured."""
    for i in range(7):
        apart = memory.ref_q[i] - q[i]
        if abs(apart) > _LEASH_JOINT:
            memory.ref_q[i] = q[i] + math.copysign(_LEASH_JOINT, apart)
            memory.ref_dq[i] = dq[i]
            memory.ref_ddq[i] = 0.0


@kernel
def advance_pose(memory: Record, commands: Record, now: float, dt: float) -> None:
    """Advance the reference of the control frame by ``dt``, but only as far as the arm can follow."""
    approaching = memory.approach == Approach.APPROACHING
    if commands.smooth_targets == 0 and memory.approach == Approach.FOLLOWING:
        for i in range(3):
            memory.ref_position[i] = memory.target_position[i]
            memory.ref_linear[i] = 0.0
            memory.ref_angular[i] = 0.0
            memory.ref_linear_acceleration[i] = 0.0
            memory.ref_angular_acceleration[i] = 0.0
        for i in range(4):
            memory.ref_orientation[i] = memory.target_orientation[i]
        _keep_near_pose(memory)
        return
    believed = memory.believed
    _coast(now - memory.target_seen, commands.extrapolation_time, believed)
    error, velocity = memory.scratch[0], memory.scratch[1]
    for i in range(3):
        believed_position = memory.target_position[i] + believed[0] * memory.target_linear[i]
        goal = inside(believed_position, memory, i)
        error[i] = goal - memory.ref_position[i]
        velocity[i] = believed[1] * memory.target_linear[i] if goal == believed_position else 0.0
    near = length(error) <= approach.NEAR_LINEAR
    gain = _VELOCITY_GAIN * commands.reference_bandwidth
    pace = approach.pace(
        memory, commands.approach_linear_velocity, near, length(velocity), length(memory.ref_linear), gain
    )
    met = _follow(
        error, velocity, memory.ref_linear, memory.ref_linear_acceleration,
        commands.reference_bandwidth, min(commands.max_linear_velocity, memory.pace_linear), pace,
        commands.max_linear_acceleration, dt,
    )  # fmt: skip
    for i in range(3):
        memory.ref_position[i] += memory.ref_linear[i] * dt
    met = met and near
    rotation_between(memory.target_orientation, memory.ref_orientation, error)
    for i in range(3):
        error[i] += believed[0] * memory.target_angular[i]
        velocity[i] = believed[1] * memory.target_angular[i]
    near = length(error) <= approach.NEAR_ANGULAR
    pace = approach.pace(
        memory, commands.approach_angular_velocity, near, length(velocity), length(memory.ref_angular), gain
    )
    turned = _follow(
        error, velocity, memory.ref_angular, memory.ref_angular_acceleration,
        commands.reference_bandwidth, min(commands.max_angular_velocity, memory.pace_angular), pace,
        commands.max_angular_acceleration, dt,
    )  # fmt: skip
    rotate(memory.ref_orientation, memory.ref_angular, dt)
    _keep_near_pose(memory)
    if approaching:
        left = memory.approach_left
        left[0] = approach.distance(memory, memory.raw_position)
        left[1] = approach.angle(memory, memory.raw_orientation)
        if met and turned and near:
            approach.arrive(memory)


@kernel
def advance_joints(memory: Record, commands: Record, smooth: bool, now: float, dt: float) -> None:
    """Advance the joint reference by ``dt``; without ``smooth`` it is the target, once it has met its stream."""
    approaching = memory.approach == Approach.APPROACHING
    if not smooth and memory.approach == Approach.FOLLOWING:
        for i in range(7):
            memory.ref_q[i] = memory.target_q[i]
            memory.ref_dq[i] = 0.0
            memory.ref_ddq[i] = 0.0
        return
    believed = memory.believed
    _coast(now - memory.target_seen, commands.extrapolation_time, believed)
    share = dt / (_ACCELERATION_SMOOTHING + dt)
    gain, slow = _VELOCITY_GAIN * commands.reference_bandwidth, approach.joint_velocity(memory, commands)
    met = True
    for i in range(7):
        goal = allowed(memory.target_q[i] + believed[0] * memory.target_dq[i], memory, i)
        left = goal - memory.ref_q[i]
        limit = commands.max_joint_acceleration[i]
        speed = _approach_speed(abs(left), commands.reference_bandwidth, limit, commands.max_joint_velocity[i])
        velocity = believed[1] * memory.target_dq[i]
        wanted = velocity + math.copysign(speed, left)
        near = abs(left) <= approach.NEAR_ANGULAR
        pace = approach.pace(memory, slow, near, abs(velocity), abs(memory.ref_dq[i]), gain)
        met = met and near and abs(wanted) <= pace
        pace = min(pace, commands.max_joint_velocity[i])
        wanted = min(max(wanted, -pace), pace)
        wanted = (wanted - memory.ref_dq[i]) * gain
        wanted = min(max(wanted, -limit), limit)
        memory.ref_ddq[i] += share * (wanted - memory.ref_ddq[i])
        memory.ref_dq[i] += memory.ref_ddq[i] * dt
        memory.ref_q[i] += memory.ref_dq[i] * dt
    if approaching:
        memory.approach_left[1] = approach.joint_distance(memory, memory.raw_q)
        if met:
            approach.arrive(memory)
