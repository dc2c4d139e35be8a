"""Velocities as targets: a twist or joint velocities drive the reference until they time out.

Compiled kernels, called by the control cycle in the control process. There is no position to return to: the reference
gets the wanted velocity within its limits of velocity and acceleration, slows down in time before the walls of the
workspace and the limits of the joints, and if no other velocity comes within ``velocity_timeout``, stops and stays
where that ends.

Walls brake first: what acceleration they need is not available for other directions. A twist slides along a wall, and a
joint stops at its limit while the others continue. Joint velocities that lead the hand out of the workspace are slowed
down together, so that the hand stays on its way.
"""

from __future__ import annotations

import math

from aiofranka_ros.control.law import follower
from aiofranka_ros.control.law.vectors import length, limit_norm
from aiofranka_ros.control.records import Approach, Limit, Mode
from aiofranka_ros.kernels import Array, Record, kernel
from aiofranka_ros.model.kinematics import rotate

#: A reference that is slower than this is at rest [m/s], [rad/s].
_RESTS = 1e-3
#: A reference that gives way does so until it is this near [m].
_GAVE_WAY = 5e-4
#: A hand that is slower than this [m/s] does not approach a wall.
_STANDS = 1e-9


@kernel
def accept(memory: Record, commands: Record, now: float) -> None:
    """Use the velocity in ``commands`` from now on.

    :param now: robot time [s].
    """
    wanted, limited = memory.wanted, memory.limited_targets
    if commands.mode == Mode.OSC:
        for i in range(6):
            wanted[i] = commands.target_twist[i]
        memory.wanted_in_tool = commands.target_in_tool
        limited[Limit.MAX_LINEAR_VELOCITY] += limit_norm(wanted[:3], commands.max_linear_velocity)
        limited[Limit.MAX_ANGULAR_VELOCITY] += limit_norm(wanted[3:6], commands.max_angular_velocity)
    else:
        excess = 1.0
        for i in range(7):
            excess = max(excess, abs(commands.target_dq[i]) / commands.max_joint_velocity[i])
        for i in range(7):
            wanted[i] = commands.target_dq[i] / excess
        limited[Limit.MAX_JOINT_VELOCITY] += excess > 1.0
    memory.wanted_is_new = 1
    memory.velocity_left = commands.velocity_timeout
    memory.target_seen = now
    memory.target_stamp = commands.target_stamp
    memory.stream_id = commands.stream_id
    memory.approach = Approach.FOLLOWING


@kernel
def advance(memory: Record, commands: Record, q: Array, dq: Array, dt: float) -> None:
    """Advance the reference of the mode by ``dt``; ``q`` [rad] and ``dq`` [rad/s] (7,) are measured."""
    for i in range(7):
        memory.goal_velocity[i] = memory.wanted[i] if memory.velocity_left > 0.0 else 0.0
    if commands.mode == Mode.OSC:
        _advance_pose(memory, commands, dt)
    else:
        _advance_joints(memory, commands, q, dt)
        follower.keep_near_joints(memory, q, dq)
    memory.wanted_is_new = 0
    if memory.velocity_left > 0.0:
        memory.velocity_left = max(memory.velocity_left - dt, 0.0)
        memory.velocity_timeouts += memory.velocity_left == 0.0


@kernel
def _towards(room: float, commands: Record, acceleration: float, highest: float, back: float) -> float:
    """Highest speed towards a limit that is ``room`` away; beyond it, negative: the way back, at most ``back``."""
    return max(follower.approach_speed(room, commands.reference_bandwidth, acceleration, highest), -back)


@kernel
def _advance_pose(memory: Record, commands: Record, dt: float) -> None:
    velocity, most = memory.goal_velocity, commands.max_linear_acceleration
    if memory.wanted_in_tool != 0:
        _turn(memory.ref_orientation, velocity[:3])
        _turn(memory.ref_orientation, velocity[3:6])
    fastest = min(commands.max_linear_velocity, memory.pace_linear)
    limit_norm(velocity[:3], fastest)
    gain = follower.VELOCITY_GAIN * commands.reference_bandwidth
    brake, rest = memory.scratch[0], memory.scratch[1]
    below = above = False
    for i in range(3):
        place, back = memory.ref_position[i], commands.approach_linear_velocity
        high = _towards(memory.workspace_upper[i] - place, commands, most, math.inf, back)
        low = -_towards(place - memory.workspace_lower[i], commands, most, math.inf, back)
        above, below = above or velocity[i] > high, below or velocity[i] < low
        present = memory.ref_linear[i]
        change = (min(max(velocity[i], low), high) - present) * gain
        braking = present > high or present < low
        brake[i], rest[i] = (change, 0.0) if braking else (0.0, change)
    limit_norm(brake, most)
    limit_norm(rest, math.sqrt(max(most * most - length(brake) ** 2, 0.0)))
    share = dt / (follower.ACCELERATION_SMOOTHING + dt)
    for i in range(3):
        memory.ref_linear_acceleration[i] += share * (brake[i] + rest[i] - memory.ref_linear_acceleration[i])
        memory.ref_linear[i] += memory.ref_linear_acceleration[i] * dt
        memory.ref_position[i] += memory.ref_linear[i] * dt
    error = memory.scratch[0]
    error[:] = 0.0
    follower.follow(
        error, velocity[3:6], memory.goal_acceleration[3:], memory.ref_angular, memory.ref_angular_acceleration,
        commands.reference_bandwidth, min(commands.max_angular_velocity, memory.pace_angular), math.inf,
        commands.max_angular_acceleration, dt,
    )  # fmt: skip
    rotate(memory.ref_orientation, memory.ref_angular, dt)
    far = follower.keep_near_pose(memory)
    # A hand that does not get where the last velocity has led the reference must not be drawn there for ever.
    over = memory.velocity_left == 0.0 and max(length(memory.ref_linear), length(memory.ref_angular)) < _RESTS
    memory.giving_way = over and (far or memory.giving_way and memory.lag > _GAVE_WAY)
    if memory.giving_way:
        follower.give_way(memory, dt)
    memory.limited_targets[Limit.WORKSPACE_LOWER] += below and memory.wanted_is_new
    memory.limited_targets[Limit.WORKSPACE_UPPER] += above and memory.wanted_is_new


@kernel
def _turn(orientation: Array, vector: Array) -> None:
    """Turn ``vector`` (3,), in place, from the axes of the control frame to those of the base."""
    x, y, z, w = orientation
    a, b, c = vector
    # Twice the cross product with the quaternion's vector.
    u, v, t = 2.0 * (y * c - z * b), 2.0 * (z * a - x * c), 2.0 * (x * b - y * a)
    vector[0] += w * u + y * t - z * v
    vector[1] += w * v + z * u - x * t
    vector[2] += w * t + x * v - y * u


@kernel
def _advance_joints(memory: Record, commands: Record, q: Array, dt: float) -> None:
    velocity, limited = memory.goal_velocity, memory.limited_targets
    below = above = False
    for i in range(7):
        most, highest = commands.max_joint_acceleration[i], commands.max_joint_velocity[i]
        place, back = memory.ref_q[i], commands.approach_joint_velocity
        high = _towards(memory.spring_upper[i] - place, commands, most, highest, back)
        low = -_towards(place - memory.spring_lower[i], commands, most, highest, back)
        above, below = above or velocity[i] > high, below or velocity[i] < low
        velocity[i] = min(max(velocity[i], low), high)
    limited[Limit.JOINT_LOWER] += below and memory.wanted_is_new
    limited[Limit.JOINT_UPPER] += above and memory.wanted_is_new
    slow = _keep_hand_inside(memory, commands, q)
    gain = follower.VELOCITY_GAIN * commands.reference_bandwidth
    share = dt / (follower.ACCELERATION_SMOOTHING + dt)
    for i in range(7):
        limit = commands.max_joint_acceleration[i]
        change = min(max((slow * velocity[i] - memory.ref_dq[i]) * gain, -limit), limit)
        memory.ref_ddq[i] += share * (change - memory.ref_ddq[i])
        memory.ref_dq[i] += memory.ref_ddq[i] * dt
        memory.ref_q[i] += memory.ref_dq[i] * dt


@kernel
def _keep_hand_inside(memory: Record, commands: Record, q: Array) -> float:
    """The share of the joint velocities in ``memory.goal_velocity`` with which the hand stays inside the workspace."""
    velocity, slow, braking = memory.goal_velocity, 1.0, 0.0
    for j in range(7):
        braking = max(braking, abs(velocity[j]) / commands.max_joint_acceleration[j])
    for i in range(3):
        # Where the hand is with the joint reference, and how fast with the velocities.
        place, speed = memory.position[i], 0.0
        for j in range(7):
            place += memory.jacobian[i, j] * (memory.ref_q[j] - q[j])
            speed += memory.jacobian[i, j] * velocity[j]
        if abs(speed) <= _STANDS:
            continue
        room = memory.workspace_upper[i] - place if speed > 0.0 else place - memory.workspace_lower[i]
        speed, side = abs(speed), Limit.WORKSPACE_UPPER if speed > 0.0 else Limit.WORKSPACE_LOWER
        # All joints brake together, in the time that the slowest of them needs.
        allowed = _towards(room, commands, speed / braking, speed, 0.0)
        memory.limited_targets[side] += allowed < speed and memory.wanted_is_new
        slow = min(slow, allowed / speed)
    return slow
