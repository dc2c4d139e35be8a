"""A critically damped reference that follows a moving target within limits, and stays near the arm.

Compiled kernels, called by :mod:`aiofranka_ros.control.law.reference` in the control process.
"""

from __future__ import annotations

import math

from aiofranka_ros.control.law.vectors import length, limit_norm
from aiofranka_ros.kernels import Array, Record, kernel
from aiofranka_ros.model.kinematics import rotate, rotation_between

#: A turn counts as the way at this distance from its axis [m].
RADIUS = 0.2
#: Largest distance of the reference from the arm [m], [rad], [rad]: many times what it takes to follow a target, and
#: with the default gains too little for the largest torque.
_LEASH_LINEAR, _LEASH_ANGULAR, _LEASH_JOINT = 0.05, 0.2, 0.1
#: The reference gets there more and more slowly: what is left of the distance, it could go in this time [s].
_LEASH_TIME = 0.05
#: At a singularity, that distance is smaller by this share: a stretched arm oscillates if it is pulled further.
_SINGULAR_LEASH = 0.9
#: Time constant of a reference that gives way [s].
_GIVE_WAY_TIME = 0.1
#: Braking is planned with this share of the acceleration; the rest compensates for the lag of the velocity.
_BRAKING_SHARE = 0.7
#: The acceleration is this many bandwidths times what the velocity lacks: critical damping.
VELOCITY_GAIN = 2.0
#: Time constant that keeps the reference's acceleration continuous [s].
ACCELERATION_SMOOTHING = 4e-3


@kernel
def approach_speed(distance: float, bandwidth: float, acceleration: float, velocity: float) -> float:
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
def stopping_distance(speed: float, bandwidth: float, acceleration: float) -> float:
    """Distance from which :func:`approach_speed` allows ``speed``."""
    gain = 0.5 * bandwidth
    braking = _BRAKING_SHARE * acceleration
    if speed <= braking / gain:
        return speed / gain
    return 0.5 * (speed * speed / braking + braking / (gain * gain))


@kernel
def follow(
    error: Array, target_velocity: Array, target_acceleration: Array, velocity: Array, acceleration: Array,
    bandwidth: float, max_velocity: float, pace: float, max_acceleration: float, dt: float,
) -> bool:  # fmt: skip
    """One step of the reference's ``velocity`` and ``acceleration`` (3,), in place.

    :param error: the way to the target (3,); overwritten.
    :param target_acceleration: fed forward, unless the target is too fast (3,).
    :param pace: highest speed until the reference meets its stream.
    :returns: whether it is slow enough without that limit.
    """
    distance = length(error)
    speed = approach_speed(distance, bandwidth, max_acceleration, max_velocity)
    scale = speed / distance if distance > 1e-12 else 0.0
    for i in range(3):
        error[i] = target_velocity[i] + scale * error[i]
    slow = not limit_norm(error, pace)
    limited = limit_norm(error, max_velocity) or not slow
    for i in range(3):
        error[i] = (error[i] - velocity[i]) * VELOCITY_GAIN * bandwidth
        if not limited:
            error[i] += target_acceleration[i]
    limit_norm(error, max_acceleration)
    share = dt / (ACCELERATION_SMOOTHING + dt)
    for i in range(3):
        acceleration[i] += share * (error[i] - acceleration[i])
        velocity[i] += acceleration[i] * dt
    return slow


@kernel
def keep_near_pose(memory: Record) -> bool:
    """Keep the reference near the arm: an arm that is held, or cannot reach further, must not be pulled harder.

    :returns: whether it was further away.
    """
    apart = memory.scratch[0]
    slack = 1.0 - _SINGULAR_LEASH * memory.singularity
    linear, angular = slack * _LEASH_LINEAR, slack * _LEASH_ANGULAR
    for i in range(3):
        apart[i] = memory.ref_position[i] - memory.position[i]
    far = limit_norm(apart, linear)
    if far:
        for i in range(3):
            memory.ref_position[i] = memory.position[i] + apart[i]
    memory.lag = length(apart)
    _stay_near(apart, linear, memory.twist[:3], memory.ref_linear, memory.ref_linear_acceleration)
    rotation_between(memory.ref_orientation, memory.orientation, apart)
    turned = limit_norm(apart, angular)
    if turned:
        for i in range(4):
            memory.ref_orientation[i] = memory.orientation[i]
        rotate(memory.ref_orientation, apart, 1.0)
    memory.lag = max(memory.lag, RADIUS * length(apart))
    _stay_near(apart, angular, memory.twist[3:], memory.ref_angular, memory.ref_angular_acceleration)
    return far or turned


@kernel
def give_way(memory: Record, dt: float) -> None:
    """Bring the reference, which is at rest, back to the arm."""
    apart, share = memory.scratch[0], dt / (_GIVE_WAY_TIME + dt)
    for i in range(3):
        memory.ref_position[i] += share * (memory.position[i] - memory.ref_position[i])
    rotation_between(memory.orientation, memory.ref_orientation, apart)
    rotate(memory.ref_orientation, apart, share)


@kernel
def _stay_near(apart: Array, furthest: float, arm: Array, velocity: Array, acceleration: Array) -> None:
    """Slow the reference down, in time, where it leaves the arm behind; it may come back, or go along.

    :param apart: from the arm to the reference (3,).
    :param furthest: how far that may be.
    :param arm: velocity of the arm (3,).
    :param velocity: of the reference, changed in place (3,), as its acceleration is.
    """
    distance = length(apart)
    if distance == 0.0:
        return
    away = further = along = 0.0
    for i in range(3):
        away += apart[i] / distance * velocity[i]
        further += apart[i] / distance * acceleration[i]
        along += apart[i] / distance * arm[i]
    # An arm that moves away is damped: the reference does not follow it with its velocity, too.
    excess = away - max(along, 0.0) - (furthest - distance) / _LEASH_TIME
    if excess > 0.0:
        for i in range(3):
            velocity[i] -= excess * apart[i] / distance
            acceleration[i] -= max(further, 0.0) * apart[i] / distance


@kernel
def keep_near_joints(memory: Record, q: Array, dq: Array) -> None:
    """Keep the joint reference near the arm, for the same reason; ``q`` [rad] and ``dq`` [rad/s] (7,) are measured."""
    for i in range(7):
        apart = memory.ref_q[i] - q[i]
        distance = min(abs(apart), _LEASH_JOINT)
        side = math.copysign(1.0, apart)
        memory.ref_q[i] = q[i] + side * distance
        excess = side * memory.ref_dq[i] - max(side * dq[i], 0.0) - (_LEASH_JOINT - distance) / _LEASH_TIME
        if excess > 0.0:
            memory.ref_dq[i] -= side * excess
            if side * memory.ref_ddq[i] > 0.0:
                memory.ref_ddq[i] = 0.0
