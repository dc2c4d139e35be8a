"""The report of one control cycle: what was measured and done, for the node and the ring of cycles.

A compiled kernel, called by the control loop after the torque was sent.
"""

from __future__ import annotations

import math

from aiofranka_ros.control.law import limits, stream
from aiofranka_ros.control.law.vectors import length
from aiofranka_ros.control.records import Law, TargetKind
from aiofranka_ros.kernels import Record, kernel
from aiofranka_ros.model.fr3 import CYCLE
from aiofranka_ros.model.kinematics import rotation_between

#: A hand that is this far from its target [m], [rad] for so long [s] because of joint limits is reported.
_BEHIND_LINEAR, _BEHIND_ANGULAR, _BLOCKED_TIME = 0.02, 0.1, 0.5
#: The success rate is of the last 100 commands; it means nothing before there were 100.
_SUCCESS_WINDOW = 100


@kernel
def report(
    commands: Record, measured: Record, memory: Record, state: Record, stamp: int, response: float, success_rate: float
) -> None:
    """Write this cycle into ``state``, from which the next one gets the external wrench.

    :param stamp: when the torque was handed to the robot [ns, monotonic].
    :param response: from the state's arrival to the torque's departure [s].
    :param success_rate: the robot's ``control_command_success_rate``.
    """
    c, m, r, s = commands[0], measured[0], memory[0], state[0]
    s.lost = max(0, int(round(m.elapsed / CYCLE)) - 1) if s.cycles > 0 else 0
    s.cycles += 1
    s.cycles_lost += s.lost
    s.longest_gap = max(s.longest_gap, s.lost)
    s.stamp, s.response, s.success_rate = stamp, response, success_rate
    s.response_total += response
    s.response_longest = max(s.response_longest, response)
    if s.cycles > _SUCCESS_WINDOW:
        s.success_rate_min = min(s.success_rate_min, success_rate)
    s.time, s.mode, s.law = m.time, c.mode, r.law
    s.hold, s.release_id = r.hold, r.release_id
    s.target_id, s.target_stamp = r.target_id, r.target_stamp
    velocity = r.driving == TargetKind.VELOCITY
    s.target_age = m.time - r.target_seen if r.target_count > 0 or velocity else math.inf
    s.target_kind, s.velocity_left, s.velocity_timeouts = r.driving, r.velocity_left, r.velocity_timeouts
    s.approach, s.approach_left[:] = r.approach, r.approach_left
    s.stream_period, s.stream_lateness = r.period, r.lateness
    s.stream_delay, s.interpolating, s.repetitions = stream.delay(r), r.interpolating, r.repetitions
    s.approaches, s.far_targets = r.approaches, r.far_targets
    s.motion_id, s.motion_status, s.motion_time = r.motion_id, r.motion_status, r.motion_time
    if r.chunk_id != 0 and r.chunk_id != s.chunk_id:
        s.chunk_first = stamp
    s.chunk_id, s.chunk_seen, s.chunk_end, s.chunk_time = r.chunk_id, r.chunk_seen, r.chunk_end, r.chunk_time
    s.limited_targets[:], s.limited_torques[:] = r.limited_targets, r.limited_torques
    s.not_finite, s.silent_holds = r.not_finite, r.silent_holds
    _report_blocked(c, m, r, s)
    s.q[:], s.dq[:], s.tau[:], s.tau_last[:] = m.q, m.dq, r.tau, m.tau_last
    m.external_wrench[:] = s.external_wrench
    s.ref_q[:], s.ref_dq[:], s.ref_ddq[:] = r.ref_q, r.ref_dq, r.ref_ddq
    s.tcp[:], s.position[:], s.orientation[:], s.twist[:] = r.tcp, r.position, r.orientation, r.twist
    s.ref_position[:], s.ref_orientation[:] = r.ref_position, r.ref_orientation
    s.ref_linear[:], s.ref_angular[:] = r.ref_linear, r.ref_angular
    s.ref_linear_acceleration[:] = r.ref_linear_acceleration
    s.ref_angular_acceleration[:] = r.ref_angular_acceleration
    s.jacobian[:], s.mass[:] = r.jacobian, m.mass


@kernel
def _report_blocked(commands: Record, measured: Record, memory: Record, state: Record) -> None:
    """Write how far the hand is behind its target, and which joint limits have kept it there for a while."""
    linear, angular = _behind_pose(memory) if memory.law == Law.OSC else (0.0, 0.0)
    found = 0
    if linear > _BEHIND_LINEAR or angular > _BEHIND_ANGULAR:
        found = limits.blocking(measured.q, memory.tau_law, commands.torque_limit, memory)
    memory.blocked_time = memory.blocked_time + measured.elapsed if found != 0 else 0.0
    state.behind_linear, state.behind_angular = linear, angular
    state.blocked = found if memory.blocked_time > _BLOCKED_TIME else 0


@kernel
def _behind_pose(memory: Record) -> tuple[float, float]:
    """How far the control frame is from the newest target, as it came: distance [m] and angle [rad]; 0 without one.

    A velocity's target is the reference.
    """
    velocity = memory.driving == TargetKind.VELOCITY
    if memory.target_count == 0 and memory.chunk_id == 0 and not velocity:
        return 0.0, 0.0
    position = memory.ref_position if velocity else memory.raw_position
    orientation = memory.ref_orientation if velocity else memory.raw_orientation
    apart = memory.scratch[0]
    rotation_between(orientation, memory.orientation, apart)
    angle = length(apart)
    for i in range(3):
        apart[i] = position[i] - memory.position[i]
    return length(apart), angle
