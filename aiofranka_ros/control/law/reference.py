"""Turns targets that arrive slowly, unevenly and with gaps into a smooth 1 kHz reference.

Compiled kernels, called by the control cycle in the control process. Three steps:

1. A new target is limited to a step from the reference, and becomes a knot of a path. How long after the one before it
   is due, and where on the path the reference should be now, is decided by
   :mod:`~aiofranka_ros.control.law.stream`.
2. In a slow stream, that is between two knots. In a dense one it is beyond the newest: the target is extrapolated for
   ``extrapolation_time`` with the median of the last three velocities between targets, so that one outlier does not
   count as speed. Then it slows down and stops within the same time again: a short delay of the policy is not felt. If
   no other target comes, the extrapolated one slowly returns to the last that came, and stays there.
3. The reference follows that moving target: a critically damped second-order system of ``reference_bandwidth`` ω whose
   velocity and acceleration are bounded. Far from the target, its speed is the one from which it can still brake
   (ArduPilot's "square root controller"). The target's velocity is fed forward, so a target of constant velocity is
   followed without lag, whatever the damping of the law that follows the reference.

Until the reference has met its stream of targets, it is slow: :mod:`aiofranka_ros.control.law.approach`.

``dt`` is the time since the last cycle [s]; it is longer than 1 ms if robot cycles were lost.
"""

from __future__ import annotations

import math

from aiofranka_ros.control.law import approach, follower, stream
from aiofranka_ros.control.law.limits import allowed, inside
from aiofranka_ros.control.law.memory import KNOTS
from aiofranka_ros.control.law.vectors import length, limit_norm, median
from aiofranka_ros.control.records import Approach, Limit, TargetKind
from aiofranka_ros.kernels import Array, Record, kernel
from aiofranka_ros.model.kinematics import forward, rotate, rotation_between

#: An extrapolated target begins to return this long after it stopped [s]: a policy that pauses for less is not pulled
#: back. The return takes this many times the extrapolation time, so it is at most a quarter as fast as the target was:
#: its way is the target's velocity times 1.5 times that time, and a cubic's highest velocity is 1.5 times its mean.
_RETURN_DELAY, _RETURN_SHARE = 0.5, 9.0


@kernel
def _coast(age: float, duration: float, believed: Array) -> None:
    """Extrapolate a target of that age.

    :param believed: is filled with the seconds travelled at its velocity, and the share of it that it still has.
    """
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
    memory.singularity = memory.lag = 0.0
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
    memory.driving = TargetKind.POSITION
    freeze(memory)


@kernel
def freeze(memory: Record) -> None:
    """Stop the reference as if the newest target were where it is now; a velocity or a chunk ends."""
    memory.velocity_left = 0.0
    stream.forget(memory)
    _stand_still(memory)
    approach.lose(memory)
    memory.chunk_id = 0
    for i in range(3):
        memory.target_position[i] = memory.ref_position[i]
    for i in range(4):
        memory.target_orientation[i] = memory.ref_orientation[i]
    for i in range(7):
        memory.target_q[i] = memory.ref_q[i]
        memory.goal_acceleration[i] = 0.0


@kernel
def _stand_still(memory: Record) -> None:
    """Forget how fast the targets moved."""
    for i in range(3):
        memory.target_linear[i] = memory.target_angular[i] = 0.0
        for j in range(3):
            memory.slope_linear[j, i] = memory.slope_angular[j, i] = 0.0
    for i in range(7):
        memory.target_dq[i] = 0.0
        for j in range(3):
            memory.slope_q[j, i] = 0.0


@kernel
def _forget_other(memory: Record, commands: Record, now: float) -> None:
    """Forget the stream before, if the target in ``commands`` is another sender's."""
    if approach.begins_stream(memory, commands, now):
        stream.forget(memory)
        stream.unlearn(memory)


@kernel
def _since_last(memory: Record, commands: Record, way: float, now: float) -> float:
    """How long after the target before it the one in ``commands`` is due [s]; 0: it begins a path, or only repeats that
    target, so it gives no velocity.

    :param way: how far it is from the target before it [m] or [rad].
    """
    if stream.is_repetition(memory, way, now):
        if stream.stands(memory, now):
            _stand_still(memory)
        return 0.0
    elapsed = stream.add_knot(memory, commands, way, now)
    if elapsed == 0.0:
        _stand_still(memory)
    return elapsed


@kernel
def accept_pose(memory: Record, commands: Record, now: float) -> None:
    """Use the pose in ``commands`` as the newest target, unless it begins a stream that is refused.

    :param now: robot time [s].
    """
    _forget_other(memory, commands, now)
    if memory.approach != Approach.FOLLOWING:
        distance = approach.distance(memory, commands.target_position)
        if not approach.admit(memory, commands, distance, approach.angle(memory, commands.target_orientation)):
            return
    if memory.target_count == 0:
        for i in range(3):
            memory.raw_position[i] = memory.knot[0, i] = memory.ref_position[i]
        for i in range(4):
            memory.raw_orientation[i] = memory.knot[0, i + 3] = memory.ref_orientation[i]
    step, way = memory.scratch[0], memory.scratch[1]
    for i in range(3):
        step[i] = commands.target_position[i] - memory.raw_position[i]
    rotation_between(commands.target_orientation, memory.raw_orientation, way)
    distance = max(length(step), follower.RADIUS * length(way))
    slot, elapsed = memory.target_count % 3, _since_last(memory, commands, distance, now)
    if elapsed > 0.0:
        linear = min(length(step) / elapsed, commands.max_linear_velocity) / commands.max_linear_acceleration
        angular = min(length(way) / elapsed, commands.max_angular_velocity) / commands.max_angular_acceleration
        stream.leave_time(memory, max(linear, angular))
    for i in range(3):
        if elapsed > 0.0:
            memory.slope_linear[slot, i] = step[i] / elapsed
            memory.slope_angular[slot, i] = way[i] / elapsed
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
    if elapsed > 0.0:
        stream.leave_noise_out(memory.target_linear, memory.slope_linear, slot, memory.steadiness[0:1])
        stream.leave_noise_out(memory.target_angular, memory.slope_angular, slot, memory.steadiness[1:2])

    step = memory.target_position
    _count_outside(commands.target_position, memory)
    for i in range(3):
        step[i] = inside(commands.target_position[i], memory, i) - memory.ref_position[i]
    lead = stream.delay(memory)
    cut = limit_norm(step, commands.max_linear_step + lead * length(memory.target_linear))
    limited[Limit.MAX_LINEAR_STEP] += cut
    for i in range(3):
        step[i] += memory.ref_position[i]

    turn = memory.scratch[0]
    rotation_between(commands.target_orientation, memory.ref_orientation, turn)
    turned = limit_norm(turn, commands.max_angular_step + lead * length(memory.target_angular))
    limited[Limit.MAX_ANGULAR_STEP] += turned
    memory.target_cut = cut or turned
    for i in range(4):
        memory.target_orientation[i] = memory.ref_orientation[i]
    rotate(memory.target_orientation, turn, 1.0)
    knot = memory.knot[stream.newest(memory)]
    for i in range(3):
        knot[i] = memory.target_position[i]
    for i in range(4):
        knot[i + 3] = memory.target_orientation[i]


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
    _forget_other(memory, commands, now)
    if memory.approach != Approach.FOLLOWING:
        if not approach.admit(memory, commands, 0.0, approach.joint_distance(memory, commands.target_q)):
            return
    distance = 0.0
    for i in range(7):
        if memory.target_count == 0:
            memory.raw_q[i] = memory.knot[0, i] = memory.ref_q[i]
        distance = max(distance, abs(commands.target_q[i] - memory.raw_q[i]))
    slot, elapsed = memory.target_count % 3, _since_last(memory, commands, distance, now)
    lead = stream.delay(memory)
    knot = memory.knot[stream.newest(memory)]
    far = fast = below = above = False
    needed = 0.0
    for i in range(7):
        if elapsed > 0.0:
            slope = (commands.target_q[i] - memory.raw_q[i]) / elapsed
            memory.slope_q[slot, i] = slope
            slope = min(abs(slope), commands.max_joint_velocity[i])
            needed = max(needed, slope / commands.max_joint_acceleration[i])
        memory.raw_q[i] = commands.target_q[i]
        velocity = median(memory.slope_q[0, i], memory.slope_q[1, i], memory.slope_q[2, i])
        limit = commands.max_joint_velocity[i]
        memory.target_dq[i] = min(max(velocity, -limit), limit)
        fast = fast or abs(velocity) > limit
        nearest = allowed(commands.target_q[i], memory, i)
        below = below or commands.target_q[i] < nearest
        above = above or commands.target_q[i] > nearest
        step = commands.target_q[i] - memory.ref_q[i]
        longest = commands.max_joint_step + lead * abs(memory.target_dq[i])
        far = far or abs(step) > longest
        memory.target_q[i] = allowed(memory.ref_q[i] + min(max(step, -longest), longest), memory, i)
        knot[i] = memory.target_q[i]
    if elapsed > 0.0:
        stream.leave_time(memory, needed)
        stream.leave_noise_out(memory.target_dq, memory.slope_q, slot, memory.steadiness[2:3])
    memory.target_cut = far
    memory.limited_targets[Limit.MAX_JOINT_STEP] += far
    memory.limited_targets[Limit.MAX_JOINT_VELOCITY] += fast
    memory.limited_targets[Limit.JOINT_LOWER] += below
    memory.limited_targets[Limit.JOINT_UPPER] += above


@kernel
def _find_playhead(memory: Record, extrapolation_time: float) -> int:
    """Find where on the path the target is now: the index of the knot before which it is, or -1 beyond the newest one.

    ``memory.place`` is filled with factors for the way and the velocity: between two knots, for the way from one to the
    other; beyond, for the velocity of the targets.
    """
    place, rate = memory.place, memory.playhead_rate
    if memory.knots == 0:
        place[0] = place[1] = 0.0
        return -1
    k = stream.locate(memory, place)
    if k < 0:
        _coast(place[0], extrapolation_time, memory.believed)
        place[0], place[1] = memory.believed[0], memory.believed[1] * rate
    else:
        place[1] = rate / place[1] if place[1] > 0.0 else 0.0
    return k


@kernel
def _aim_pose(memory: Record, extrapolation_time: float) -> None:
    """Find where the target is now, and how it moves: ``memory.goal``, position and orientation."""
    goal, velocity = memory.goal, memory.goal_velocity
    k = _find_playhead(memory, extrapolation_time)
    share, rate = memory.place[0], memory.place[1]
    if k < 0:
        for i in range(4):
            goal[i + 3] = memory.target_orientation[i]
        rotate(goal[3:], memory.target_angular, share)
        for i in range(3):
            goal[i] = memory.target_position[i] + share * memory.target_linear[i]
            velocity[i] = rate * memory.target_linear[i]
            velocity[i + 3] = rate * memory.target_angular[i]
        return
    end, begin = memory.knot[k], memory.knot[(k - 1) % KNOTS]
    rotation_between(end[3:], begin[3:], velocity[3:])
    for i in range(4):
        goal[i + 3] = begin[i + 3]
    rotate(goal[3:], velocity[3:], share)
    for i in range(3):
        goal[i] = begin[i] + share * (end[i] - begin[i])
        velocity[i] = (end[i] - begin[i]) * rate
        velocity[i + 3] *= rate


@kernel
def _aim_joints(memory: Record, extrapolation_time: float) -> None:
    """Find where the target is now, and how it moves: ``memory.goal``, joint positions."""
    goal, velocity = memory.goal, memory.goal_velocity
    k = _find_playhead(memory, extrapolation_time)
    share, rate = memory.place[0], memory.place[1]
    if k < 0:
        for i in range(7):
            goal[i] = memory.target_q[i] + share * memory.target_dq[i]
            velocity[i] = rate * memory.target_dq[i]
        return
    end, begin = memory.knot[k], memory.knot[(k - 1) % KNOTS]
    for i in range(7):
        goal[i] = begin[i] + share * (end[i] - begin[i])
        velocity[i] = (end[i] - begin[i]) * rate


@kernel
def advance_pose(memory: Record, commands: Record, dt: float) -> None:
    """Advance the reference of the control frame by ``dt``, but only as far as the arm can follow."""
    approaching = memory.approach == Approach.APPROACHING
    if commands.smooth_targets == 0 and memory.approach == Approach.FOLLOWING and memory.chunk_id == 0:
        for i in range(3):
            memory.ref_position[i] = memory.target_position[i]
            memory.ref_linear[i] = 0.0
            memory.ref_angular[i] = 0.0
            memory.ref_linear_acceleration[i] = 0.0
            memory.ref_angular_acceleration[i] = 0.0
        for i in range(4):
            memory.ref_orientation[i] = memory.target_orientation[i]
        follower.keep_near_pose(memory)
        return
    if memory.chunk_id == 0:
        stream.advance(memory, dt)
        _aim_pose(memory, commands.extrapolation_time)
    error, velocity = memory.scratch[0], memory.scratch[1]
    for i in range(3):
        goal = inside(memory.goal[i], memory, i)
        error[i] = goal - memory.ref_position[i]
        velocity[i] = memory.goal_velocity[i] if goal == memory.goal[i] else 0.0
    near = length(error) <= approach.NEAR_LINEAR
    gain = follower.VELOCITY_GAIN * commands.reference_bandwidth
    pace = approach.pace(
        memory, commands.approach_linear_velocity, near, length(velocity), length(memory.ref_linear), gain
    )
    met = follower.follow(
        error, velocity, memory.goal_acceleration, memory.ref_linear, memory.ref_linear_acceleration,
        commands.reference_bandwidth, min(commands.max_linear_velocity, memory.pace_linear), pace,
        commands.max_linear_acceleration, dt,
    )  # fmt: skip
    for i in range(3):
        memory.ref_position[i] += memory.ref_linear[i] * dt
    met = met and near
    rotation_between(memory.goal[3:], memory.ref_orientation, error)
    for i in range(3):
        velocity[i] = memory.goal_velocity[i + 3]
    near = length(error) <= approach.NEAR_ANGULAR
    pace = approach.pace(
        memory, commands.approach_angular_velocity, near, length(velocity), length(memory.ref_angular), gain
    )
    turned = follower.follow(
        error, velocity, memory.goal_acceleration[3:], memory.ref_angular, memory.ref_angular_acceleration,
        commands.reference_bandwidth, min(commands.max_angular_velocity, memory.pace_angular), pace,
        commands.max_angular_acceleration, dt,
    )  # fmt: skip
    rotate(memory.ref_orientation, memory.ref_angular, dt)
    follower.keep_near_pose(memory)
    if approaching:
        left = memory.approach_left
        left[0] = approach.distance(memory, memory.raw_position)
        left[1] = approach.angle(memory, memory.raw_orientation)
        if met and turned and near:
            approach.arrive(memory)


@kernel
def advance_joints(memory: Record, commands: Record, smooth: bool, dt: float) -> None:
    """Advance the joint reference by ``dt``; without ``smooth`` it is the target, once it has met its stream."""
    approaching = memory.approach == Approach.APPROACHING
    if not smooth and memory.approach == Approach.FOLLOWING and memory.chunk_id == 0:
        for i in range(7):
            memory.ref_q[i] = memory.target_q[i]
            memory.ref_dq[i] = 0.0
            memory.ref_ddq[i] = 0.0
        return
    if memory.chunk_id == 0:
        stream.advance(memory, dt)
        _aim_joints(memory, commands.extrapolation_time)
    share = dt / (follower.ACCELERATION_SMOOTHING + dt)
    gain, slow = follower.VELOCITY_GAIN * commands.reference_bandwidth, approach.joint_velocity(memory, commands)
    met = True
    for i in range(7):
        goal = allowed(memory.goal[i], memory, i)
        left = goal - memory.ref_q[i]
        limit = commands.max_joint_acceleration[i]
        speed = follower.approach_speed(abs(left), commands.reference_bandwidth, limit, commands.max_joint_velocity[i])
        velocity = memory.goal_velocity[i]
        wanted = velocity + math.copysign(speed, left)
        near = abs(left) <= approach.NEAR_ANGULAR
        pace = approach.pace(memory, slow, near, abs(velocity), abs(memory.ref_dq[i]), gain)
        met = met and near and abs(wanted) <= pace
        pace = min(pace, commands.max_joint_velocity[i])
        ahead = memory.goal_acceleration[i] if abs(wanted) <= pace else 0.0
        wanted = min(max(wanted, -pace), pace)
        wanted = (wanted - memory.ref_dq[i]) * gain + ahead
        wanted = min(max(wanted, -limit), limit)
        memory.ref_ddq[i] += share * (wanted - memory.ref_ddq[i])
        memory.ref_dq[i] += memory.ref_ddq[i] * dt
        memory.ref_q[i] += memory.ref_dq[i] * dt
    if approaching:
        memory.approach_left[1] = approach.joint_distance(memory, memory.raw_q)
        if met:
            approach.arrive(memory)
