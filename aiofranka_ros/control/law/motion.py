"""Joint-space motions, evaluated at 1 kHz: kernels of the control cycle.

The node sends a motion to the control process as a piecewise polynomial, so no jitter of the node or of DDS can reach
the arm. :mod:`aiofranka_ros.arm.planning` plans it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from aiofranka_ros.control.records import MotionStatus
from aiofranka_ros.kernels import Array, Record, kernel
from aiofranka_ros.model.fr3 import ACCELERATION_LIMIT, VELOCITY_LIMIT

#: Stopping a motion takes this long [s], and so does continuing after a pause: it slows down, or speeds up, along its
#: own path. It takes longer if a joint is so fast that its deceleration, at most 1.5 times its velocity divided by this
#: time, would exceed what the path leaves of its acceleration limit...
STOP_DURATION = 0.4
#: ...which counts as at least this share of the limit.
_STOP_SHARE = 0.5
#: The longest that it takes [s], for the fastest joint.
LONGEST_STOP = max(STOP_DURATION, float((1.5 * VELOCITY_LIMIT / (_STOP_SHARE * ACCELERATION_LIMIT)).max()))
#: An arm that is not where a motion begins is led onto it within this time [s]...
OFFSET_DURATION = 0.5
#: ...unless it is further away than this [rad]...
LARGEST_OFFSET = 0.1
#: ...and sooner if it is closer: at once if it is there, and with the jerk that the largest offset needs [rad/s³]. Peak
#: jerks of a quintic from an offset of 1 to 0 within 1 s, and from a rate of 1 to rest, are 60 and 36.
_OFFSET_JERK = 60.0 * LARGEST_OFFSET / OFFSET_DURATION**3


@dataclass(frozen=True)
class Motion:
    """A joint-space motion as a piecewise polynomial of degree at most five.

    :ivar times: knots [s] (n + 1,), from 0, increasing.
    :ivar coefficients: (n, 7, 6); in segment k joint j is at ``sum(coefficients[k, j, p] * s**p)`` [rad], ``s``
        counted from ``times[k]``.
    """

    times: Array
    coefficients: Array

    @property
    def duration(self) -> float:
        """How long the motion takes [s]."""
        return float(self.times[-1])

    def at(self, time: float) -> tuple[Array, Array, Array]:
        """Positions [rad], velocities [rad/s] and accelerations [rad/s²] (7,) at ``time`` [s], clamped to its ends."""
        q, dq, ddq = np.empty(7), np.empty(7), np.empty(7)
        evaluate(self.times, self.coefficients, len(self.times) - 1, time, q, dq, ddq)
        return q, dq, ddq

    def asked(self, time: float) -> tuple[Array, Array, Array]:
        """What the arm was asked to do at ``time`` [s], as :meth:`at`: tolerances and feedback compare with it."""
        return self.at(time)

    @property
    def goal(self) -> Array:
        """Where the motion ends [rad] (7,)."""
        return self.at(self.duration)[0]


@kernel
def evaluate(times: Array, coefficients: Array, segments: int, time: float, q: Array, dq: Array, ddq: Array) -> None:
    """Positions, velocities and accelerations (7,) of a motion at ``time`` [s]; at rest before and after it."""
    end = times[segments]
    clamped = min(max(time, 0.0), end)
    low, high = 0, segments - 1
    while low < high:
        middle = (low + high + 1) // 2
        if times[middle] <= clamped:
            low = middle
        else:
            high = middle - 1
    s = clamped - times[low]
    inside = 0.0 <= time <= end
    for j in range(7):
        c = coefficients[low, j]
        q[j] = c[0] + s * (c[1] + s * (c[2] + s * (c[3] + s * (c[4] + s * c[5]))))
        if inside:
            dq[j] = c[1] + s * (2.0 * c[2] + s * (3.0 * c[3] + s * (4.0 * c[4] + s * 5.0 * c[5])))
            ddq[j] = 2.0 * c[2] + s * (6.0 * c[3] + s * (12.0 * c[4] + s * 20.0 * c[5]))
        else:
            dq[j] = 0.0
            ddq[j] = 0.0


@kernel
def begin(memory: Record, motion: Record, q: Array, dq: Array, late: float = 0.0) -> None:
    """Begin ``motion`` from a reference at ``q`` [rad], ``dq`` [rad/s] (7,); refuse it if that is too far away.

    :param late: how much later than planned [s]. The reference joins the motion at this time along it: a motion that
        replaces another was planned to leave it at a certain time, and later the two are apart.
    """
    evaluate(
        motion.times, motion.coefficients, motion.segments, late,
        memory.motion_offset, memory.motion_offset_rate, memory.ref_ddq,
    )  # fmt: skip
    memory.motion_id = motion.id
    memory.motion_status = MotionStatus.EXECUTING
    memory.motion_time = late
    memory.motion_rate = memory.ramp = memory.ramp_to = 1.0
    memory.motion_rate_change = 0.0
    memory.motion_offset_time = duration = 0.0
    for i in range(7):
        memory.motion_offset[i] = q[i] - memory.motion_offset[i]
        memory.motion_offset_rate[i] = dq[i] - memory.motion_offset_rate[i]
        if abs(memory.motion_offset[i]) > LARGEST_OFFSET:
            memory.motion_status = MotionStatus.REFUSED
        duration = max(
            duration,
            (60.0 * abs(memory.motion_offset[i]) / _OFFSET_JERK) ** (1.0 / 3.0),
            math.sqrt(36.0 * abs(memory.motion_offset_rate[i]) / _OFFSET_JERK),
        )
    memory.motion_offset_duration = min(duration, OFFSET_DURATION)


@kernel
def _ramp_duration(memory: Record, motion: Record) -> float:
    """How long a ramp takes at the present place on the path and its speed there [s]; overwrites the reference."""
    evaluate(
        motion.times, motion.coefficients, motion.segments, memory.motion_time,
        memory.ref_q, memory.ref_dq, memory.ref_ddq,
    )  # fmt: skip
    duration = STOP_DURATION
    for i in range(7):
        limit = ACCELERATION_LIMIT[i]
        left = max(limit - abs(memory.ref_ddq[i]) * memory.motion_rate**2, _STOP_SHARE * limit)
        duration = max(duration, 1.5 * abs(memory.ref_dq[i]) / left)
    return duration


@kernel
def _change_rate(memory: Record, motion: Record, to: float, dt: float) -> None:
    """Change the rate at which time along the motion passes: slow down to 0, or speed up to 1 again.

    The rate follows a cubic that begins with its present value and slope and ends with a slope of zero. So the arm is
    not jolted either if it must stop while it speeds up, or continue while it slows down.
    """
    if to != memory.ramp_to:
        duration = _ramp_duration(memory, motion)
        memory.ramp, memory.ramp_to = 0.0, to
        memory.ramp_from, memory.ramp_slope = memory.motion_rate, memory.motion_rate_change * duration
    if memory.ramp < 1.0:
        duration = _ramp_duration(memory, motion)
        memory.ramp = min(memory.ramp + dt / duration, 1.0)
        u, slope = memory.ramp, memory.ramp_slope
        # The cubic from (ramp_from, slope) to (to, 0), by its value and derivative at u.
        c2, c3 = 3.0 * (to - memory.ramp_from) - 2.0 * slope, slope - 2.0 * (to - memory.ramp_from)
        memory.motion_rate = max(memory.ramp_from + u * (slope + u * (c2 + u * c3)), 0.0)  # Negative only by rounding.
        memory.motion_rate_change = (slope + u * (2.0 * c2 + u * 3.0 * c3)) / duration
    else:
        memory.motion_rate, memory.motion_rate_change = to, 0.0


@kernel
def advance(memory: Record, motion: Record, dt: float, silent: bool = False) -> None:
    """Advance the joint reference along the motion by ``dt`` [s].

    A motion that stops or pauses stays on its path: time along it slows down. The arm's initial distance from the path
    fades out along a quintic.

    :param silent: whether the node's heartbeat is missing; a motion that has paused continues when it returns.
    """
    status = memory.motion_status
    rests = status == MotionStatus.STOPPING or status == MotionStatus.STOPPED
    rests = rests or (status == MotionStatus.PAUSED and silent)
    _change_rate(memory, motion, 0.0 if rests else 1.0, dt)
    if status == MotionStatus.PAUSED and not rests and memory.ramp >= 1.0:
        memory.motion_status = MotionStatus.EXECUTING
    memory.motion_time += memory.motion_rate * dt
    evaluate(
        motion.times, motion.coefficients, motion.segments, memory.motion_time,
        memory.ref_q, memory.ref_dq, memory.ref_ddq,
    )  # fmt: skip
    rate = memory.motion_rate
    for i in range(7):
        memory.ref_ddq[i] = memory.ref_ddq[i] * rate * rate + memory.ref_dq[i] * memory.motion_rate_change
        memory.ref_dq[i] *= rate

    memory.motion_offset_time += dt
    d = memory.motion_offset_duration
    joined = memory.motion_offset_time >= d
    if not joined:
        # Quintic from (offset, offset_rate, 0) to rest at 0, by its value and derivatives at u.
        u = memory.motion_offset_time / d
        for i in range(7):
            p, v = memory.motion_offset[i], memory.motion_offset_rate[i] * d
            c3, c4, c5 = -10.0 * p - 6.0 * v, 15.0 * p + 8.0 * v, -6.0 * p - 3.0 * v
            memory.ref_q[i] += p + u * (v + u * u * (c3 + u * (c4 + u * c5)))
            memory.ref_dq[i] += (v + u * u * (3.0 * c3 + u * (4.0 * c4 + u * 5.0 * c5))) / d
            memory.ref_ddq[i] += u * (6.0 * c3 + u * (12.0 * c4 + u * 20.0 * c5)) / (d * d)

    if memory.motion_status == MotionStatus.STOPPING and rate == 0.0 and joined:
        memory.motion_status = MotionStatus.STOPPED
    elif memory.motion_time >= motion.times[motion.segments] and joined:
        if memory.motion_status == MotionStatus.STOPPING:
            memory.motion_status = MotionStatus.STOPPED
        elif memory.motion_status == MotionStatus.EXECUTING or memory.motion_status == MotionStatus.PAUSED:
            memory.motion_status = MotionStatus.DONE
