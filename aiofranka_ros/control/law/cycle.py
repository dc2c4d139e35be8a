"""One control cycle: from the measured state to the torque and the report.

:func:`step` is the one kernel that the control loop calls between reading the robot's state and writing the torque;
:func:`~aiofranka_ros.control.law.report.report` runs after the torque was sent. Both are compiled, allocate next to
nothing and change only the records that they are given, so tests can run them without a robot.

    target or motion ──► reference ──► law ──► blend ──► limits ──► torque
"""

from __future__ import annotations

import math

from aiofranka_ros.control.law import chunk as chunks
from aiofranka_ros.control.law import follower, guiding, laws, limits, reference, stream, velocity
from aiofranka_ros.control.law.cholesky import factorize
from aiofranka_ros.control.law.motion import advance as advance_motion
from aiofranka_ros.control.law.motion import begin as begin_motion
from aiofranka_ros.control.records import Hold, Law, Mode, MotionStatus, TargetKind, TorqueLimit
from aiofranka_ros.kernels import Array, Record, kernel
from aiofranka_ros.model.fr3 import CYCLE, LOST_PACKETS_LIMIT, TORQUE_LIMIT, VELOCITY_LIMIT
from aiofranka_ros.model.kinematics import forward, quaternion_from_matrix

# Flags as plain integers: numba does not support the operators of enum.IntFlag.
_NODE_SILENT = int(Hold.NODE_SILENT)
_TORQUE_STALE = int(Hold.TORQUE_STALE)
_NOT_FINITE = int(Hold.NOT_FINITE)
_ASKED = int(Hold.ASKED)
_PUSHED = int(Hold.PUSHED)
_STOPS = int(Hold.NODE_SILENT | Hold.FINISHING | Hold.ASKED | Hold.PUSHED)

#: SERVO targets have ended after this silence [s], once no joint of the reference is faster than that [rad/s].
_SERVO_END, _SERVO_REST = 0.5, 1e-3
#: After a change of law, the difference to the torque before fades out with this time constant [s].
_BLEND_TIME = 0.1


@kernel
def step(
    commands: Record, motion: Record, chunk: Record, measured: Record, memory: Record, scratch: Record, stop: int
) -> None:
    """Compute the torque of one cycle into ``memory.tau`` [Nm] (7,).

    Arguments are arrays of one record each, see :func:`~aiofranka_ros.control.records.new`.

    :param stop: a :class:`~aiofranka_ros.control.records.Hold` flag with the reason not to follow the node, or 0. While
        there is a reason, motions and targets stop and the arm holds.
    """
    c, p, k, m, r, s = commands[0], motion[0], chunk[0], measured[0], memory[0], scratch[0]
    if not _is_measured(m):
        r.hold |= _NOT_FINITE
        r.not_finite += 1
        limits.damped_stop(m.dq, c.motion_kd, s.torque)
        limits.reachable(r.tau, r.tau, c.torque_limit, c.torque_rate_limit, s.low, s.high)
        limits.limit_torque(s.low, s.high, s.torque)
        r.tau[:] = s.torque
        return
    dt = min(max(m.elapsed, CYCLE), LOST_PACKETS_LIMIT * CYCLE)
    forward(m.q, c.flange_to_tcp, r.flange, r.tcp, r.jacobian)
    quaternion_from_matrix(r.tcp, r.orientation)
    for i in range(3):
        r.position[i] = r.tcp[i, 3]
    for i in range(6):
        total = 0.0
        for j in range(7):
            total += r.jacobian[i, j] * m.dq[j]
        r.twist[i] = total

    fresh = r.started == 0
    if fresh:
        r.started = 1
        r.motion_id = c.motion_id
        r.motion_status = MotionStatus.NONE
        r.chunk_seen = c.chunk_id
        for i in range(7):
            r.tau[i] = m.tau_last[i]
            r.dq[i] = m.dq[i]
            r.unmodelled[i] = 0.0
        r.release_id = c.release_id
        limits.loosen(r)
    # A new control frame: its limits and targets start from where it is. New gains do not change the reference.
    moved = c.law_id != r.law_id and _has_new_frame(c, r)
    if moved:
        limits.loosen_workspace(r)
    limits.tighten(c, r, m.q)
    begins = fresh or moved or c.mode_id != r.mode_id
    if fresh or c.mode_id != r.mode_id:
        _settle(c, m, r)
    elif moved and c.mode == Mode.OSC and not _in_motion(r):
        reference.seed(r, c, m.q, m.dq)
    r.flange_to_tcp[:] = c.flange_to_tcp

    if stop == 0:
        stop = _asked_or_pushed(c, m, r)
    _stop_or_continue(r, stop)
    if chunks.update(r, c, k, stop, _in_motion(r)):
        _drive(TargetKind.POSITION, c, m, r)
        chunks.begin(r, c, k, m.time)
    if c.target_id != r.target_id:
        r.targets_passed = c.target_id - r.target_id
        r.target_id = c.target_id
        if stop == 0 and c.target_mode_id == r.mode_id and not _in_motion(r):
            _accept_target(c, m, r, s)
    _end_servo(c, m, r)
    _update_motion(c, p, m, r)
    if stop != 0 and (r.motion_status == MotionStatus.EXECUTING or r.motion_status == MotionStatus.PAUSED):
        # If the node was only late for a moment, its motion continues from here.
        r.motion_status = MotionStatus.PAUSED if stop == _NODE_SILENT else MotionStatus.STOPPING
    law = _choose_law(c, m, r)
    _place_springs(law, r, m.q, dt)
    begins = begins or law != r.law
    _make_torque(law, begins, c, p, k, m, r, s, dt)
    _make_walls(c, m, r, s)

    if begins or c.law_id != r.law_id:
        for i in range(7):
            r.blend[i] = r.tau[i] - r.tau_law[i] - s.wall[i]
    r.law, r.law_id = law, c.law_id
    keep = math.exp(-dt / _BLEND_TIME)
    tau = s.torque
    for i in range(7):
        tau[i] = r.tau_law[i] + r.blend[i]
        r.blend[i] *= keep
    _make_safe(c, m, r, s, dt, tau)


@kernel
def _is_measured(measured: Record) -> bool:
    """Whether everything measured is finite; if not, nothing may be computed from it, and no result kept."""
    whole = limits.is_finite(measured.q) and limits.is_finite(measured.dq) and limits.is_finite(measured.tau_last)
    for i in range(7):
        whole = whole and limits.is_finite(measured.mass[i])
    return whole and limits.is_finite(measured.coriolis) and math.isfinite(measured.elapsed)


@kernel
def _has_new_frame(commands: Record, memory: Record) -> bool:
    for i in range(4):
        for j in range(4):
            if commands.flange_to_tcp[i, j] != memory.flange_to_tcp[i, j]:
                return True
    return False


@kernel
def _in_motion(memory: Record) -> bool:
    status = memory.motion_status
    return status != MotionStatus.NONE and status != MotionStatus.REFUSED


@kernel
def _settle(commands: Record, measured: Record, memory: Record) -> None:
    """Start the mode from where the arm is: its targets, posture and integral; older targets are dropped."""
    reference.seed(memory, commands, measured.q, measured.dq)
    memory.mode_id = commands.mode_id
    memory.hold &= ~_TORQUE_STALE
    if commands.target_mode_id != commands.mode_id:
        memory.target_id = commands.target_id
    for i in range(7):
        memory.null_q[i] = measured.q[i]
        memory.integral[i] = 0.0
        memory.saturated[i] = 0.0


@kernel
def _asked_or_pushed(commands: Record, measured: Record, memory: Record) -> int:
    """Why the arm must hold: a client asked for it, or the arm was pushed and not released since; 0: neither."""
    if commands.hold != 0:
        return _ASKED
    if commands.release_id != memory.release_id:
        memory.release_id = commands.release_id
        memory.hold &= ~_PUSHED
    if memory.hold & _PUSHED != 0:
        return _PUSHED
    f = measured.external_wrench
    force = math.sqrt(f[0] ** 2 + f[1] ** 2 + f[2] ** 2)
    torque = math.sqrt(f[3] ** 2 + f[4] ** 2 + f[5] ** 2)
    # Written so that NaN is too much: how hard the arm is pushed is unknown then.
    if commands.max_external_force > 0.0 and not force <= commands.max_external_force:
        return _PUSHED
    return _PUSHED if commands.max_external_torque > 0.0 and not torque <= commands.max_external_torque else 0


@kernel
def _stop_or_continue(memory: Record, stop: int) -> None:
    if stop == 0:
        memory.hold &= ~_STOPS
    elif memory.hold & stop == 0:
        memory.hold |= stop
        if stop == _NODE_SILENT:
            memory.silent_holds += 1
        reference.freeze(memory)


@kernel
def _drive(kind: int, commands: Record, measured: Record, memory: Record) -> None:
    """Have targets of this kind drive the reference, from what it does now, or the arm, if the law changes."""
    if kind == memory.driving:
        return
    changes = kind == TargetKind.SERVO and memory.law != Law.HOLD or memory.driving == TargetKind.SERVO
    if changes and not _follows_joints(commands):
        _settle(commands, measured, memory)
    else:
        reference.freeze(memory)
    stream.unlearn(memory)
    memory.driving = kind


@kernel
def _accept_target(commands: Record, measured: Record, memory: Record, scratch: Record) -> None:
    kind, now = commands.target_kind, measured.time
    if commands.mode == Mode.FREE or kind == TargetKind.VELOCITY and commands.mode == Mode.TORQUE:
        return
    _drive(kind, commands, measured, memory)
    if kind == TargetKind.VELOCITY:
        velocity.accept(memory, commands, now)
    elif kind == TargetKind.SERVO:
        memory.servo_seen = now
        reference.accept_joints(memory, commands, scratch, now)
    elif commands.mode == Mode.OSC:
        reference.accept_pose(memory, commands, now)
    elif commands.mode == Mode.TORQUE:
        for i in range(7):
            memory.target_torque[i] = commands.target_torque[i]
        memory.target_count += 1
        memory.target_seen = now
        memory.target_stamp = commands.target_stamp
    else:
        reference.accept_joints(memory, commands, scratch, now)


@kernel
def _follows_joints(commands: Record) -> bool:
    """Whether the law of the mode has a joint reference."""
    return commands.mode == Mode.IMPEDANCE or commands.mode == Mode.PID


@kernel
def _end_servo(commands: Record, measured: Record, memory: Record) -> None:
    """Give control back to a mode that follows no joints, when SERVO targets have ended and the arm stands."""
    if memory.driving != TargetKind.SERVO or _follows_joints(commands) or _in_motion(memory):
        return
    if measured.time - memory.servo_seen > _SERVO_END:
        for i in range(7):
            if abs(memory.ref_dq[i]) > _SERVO_REST:
                return
        _settle(commands, measured, memory)


@kernel
def _update_motion(commands: Record, motion: Record, measured: Record, memory: Record) -> None:
    if commands.motion_id != memory.motion_id and commands.motion_release == commands.motion_id:
        # It was released before it could be read, and so is the one that it would have replaced.
        memory.motion_id = commands.motion_id
        memory.motion_status = MotionStatus.NONE
        _settle(commands, measured, memory)
    elif commands.motion_id != memory.motion_id and motion.id == commands.motion_id:
        late = measured.time - motion.start if motion.start > 0.0 else 0.0
        replacing = _in_motion(memory)
        if memory.law == Law.OSC or memory.law == Law.TORQUE or memory.law == Law.FREE:
            # These laws have no joint reference: the motion begins from where the arm is.
            begin_motion(memory, motion, measured.q, measured.dq, late)
        else:
            begin_motion(memory, motion, memory.ref_q, memory.ref_dq, late)
        if replacing and not _in_motion(memory):
            # It was refused, and the motion before it is gone: the mode must not continue from where that one began.
            _settle(commands, measured, memory)
    if memory.motion_id == 0 or memory.motion_id != commands.motion_id:
        return
    if commands.motion_stop == memory.motion_id and (
        memory.motion_status == MotionStatus.EXECUTING or memory.motion_status == MotionStatus.PAUSED
    ):
        memory.motion_status = MotionStatus.STOPPING
    if commands.motion_release == memory.motion_id and _in_motion(memory):
        memory.motion_status = MotionStatus.NONE
        _settle(commands, measured, memory)


@kernel
def _choose_law(commands: Record, measured: Record, memory: Record) -> int:
    if _in_motion(memory):
        return Law.MOTION
    if memory.driving == TargetKind.SERVO and not _follows_joints(commands):
        return Law.HOLD
    if commands.mode != Mode.TORQUE and commands.mode != Mode.FREE:
        return commands.mode
    if memory.hold & _STOPS == 0:
        if commands.mode == Mode.FREE:
            return Law.FREE
        if memory.target_count > 0 and measured.time - memory.target_seen <= commands.torque_timeout:
            memory.hold &= ~_TORQUE_STALE
            return Law.TORQUE
    if memory.law != Law.HOLD:
        # Brake, and stay where that ends.
        if commands.mode == Mode.TORQUE and memory.target_count > 0:
            memory.hold |= _TORQUE_STALE
        reference.seed(memory, commands, measured.q, measured.dq)
        for i in range(7):
            speed = min(max(measured.dq[i], -VELOCITY_LIMIT[i]), VELOCITY_LIMIT[i])
            memory.ref_dq[i] = speed
            memory.target_q[i] += 0.5 * speed * abs(speed) / commands.max_joint_acceleration[i]
    return Law.HOLD


@kernel
def _advance_reference(
    law: int, commands: Record, chunk: Record, measured: Record, memory: Record, scratch: Record, dt: float
) -> None:
    """Advance the reference of a law by ``dt``, cycle by cycle: in one long step it would overshoot."""
    for left in range(int(round(dt / CYCLE)) - 1, -1, -1):
        if memory.chunk_id != 0:
            chunks.aim(memory, commands, chunk, scratch, law == Law.OSC, measured.time - left * CYCLE)
        if memory.driving == TargetKind.VELOCITY:
            velocity.advance(memory, commands, measured.q, measured.dq, CYCLE)
        elif law == Law.OSC:
            reference.advance_pose(memory, commands, CYCLE)
        else:
            smooth = commands.smooth_targets != 0 or law == Law.HOLD
            reference.advance_joints(memory, commands, smooth, CYCLE)
            follower.keep_near_joints(memory, measured.q, measured.dq)


@kernel
def _make_torque(
    law: int, begins: bool, commands: Record, motion: Record, chunk: Record, measured: Record, memory: Record,
    scratch: Record, dt: float,
) -> None:  # fmt: skip
    """Compute the torque of the law, including coriolis torques, into ``memory.tau_law`` [Nm] (7,).

    :param begins: whether its reference is new. It does not advance yet, because what is blended in must not make up
        for how the reference brakes or accelerates.
    """
    tau = memory.tau_law
    for i in range(7):
        for j in range(7):
            scratch.inertia[i, j] = measured.mass[i, j]
        scratch.inertia[i, i] += commands.motor_inertia[i]
    factorize(scratch.inertia, 7, scratch.factor)
    if law == Law.TORQUE:
        for i in range(7):
            tau[i] = memory.target_torque[i]
        return
    if law == Law.FREE:
        if begins:
            guiding.begin(memory, measured.q)
        guiding.guide(measured.q, measured.dq, scratch.inertia, commands, memory, scratch, tau)
    elif law != Law.MOTION and not begins:
        _advance_reference(law, commands, chunk, measured, memory, scratch, dt)
    if law == Law.OSC:
        laws.operational_space(measured.q, measured.dq, scratch.inertia, commands, memory, scratch, tau)
    elif law != Law.FREE:
        kp, kd = commands.kp, commands.kd
        if law == Law.MOTION or law == Law.HOLD:
            kp, kd = commands.motion_kp, commands.motion_kd
        if law == Law.MOTION:
            advance_motion(memory, motion, dt, memory.hold & _NODE_SILENT != 0)
        laws.impedance(
            measured.q, measured.dq, memory.ref_q, memory.ref_dq, memory.ref_ddq, scratch.inertia, kp, kd, tau
        )
        if law == Law.PID:
            laws.integrate(
                measured.q, memory.ref_q, commands.ki, commands.integral_limit, memory.saturated, memory.integral, dt
            )
            for i in range(7):
                tau[i] += memory.integral[i]
    for i in range(7):
        tau[i] += measured.coriolis[i]


@kernel
def _place_springs(law: int, memory: Record, q: Array, dt: float) -> None:
    if law == Law.MOTION:
        margin = limits.NO_SPRINGS
    elif law == Law.OSC or law == Law.TORQUE or law == Law.FREE:
        margin = limits.SOFT_LIMIT_MARGIN
    else:
        margin = limits.REFERENCE_MARGIN
    limits.place_springs(memory, q, margin, dt)


@kernel
def _make_walls(commands: Record, measured: Record, memory: Record, scratch: Record) -> None:
    """Compute what keeps the arm away from its limits, into ``scratch.wall`` [Nm] (7,)."""
    for i in range(7):
        scratch.wall[i] = 0.0
    limits.allowed_velocities(measured.q, measured.dq, scratch.ahead, scratch.envelope)
    limits.repel(measured.q, measured.dq, memory, commands.torque_limit, scratch.envelope, scratch.wall)
    limits.keep_inside(memory, scratch.force, scratch.wall)


@kernel
def _make_safe(commands: Record, measured: Record, memory: Record, scratch: Record, dt: float, tau: Array) -> None:
    """Check and limit ``tau`` [Nm] (7,), add the walls, and store it in ``memory.tau``, which is sent."""
    asked = scratch.asked
    if limits.is_finite(tau):
        memory.hold &= ~_NOT_FINITE
        for i in range(7):
            asked[i] = tau[i] + scratch.wall[i]
            limit = commands.torque_limit[i]
            tau[i] = min(max(tau[i], -limit), limit) + scratch.wall[i]
    else:
        memory.hold |= _NOT_FINITE
        memory.not_finite += 1
        limits.damped_stop(measured.dq, commands.motion_kd, tau)
        for i in range(7):
            memory.blend[i] = 0.0
            asked[i] = tau[i]
        # Whatever is wrong in the reference, the next cycle holds from the measured state, which was checked.
        _settle(commands, measured, memory)
    rate, low, high = commands.torque_rate_limit, scratch.low, scratch.high
    limits.reachable(memory.tau, measured.tau_last, commands.torque_limit, rate, low, high)
    limits.limit_torque(low, high, tau)
    limits.count_limited(asked, tau, commands.torque_limit, memory.limited_torques)
    limits.observe(
        measured.dq, measured.tau_last, measured.coriolis, scratch.factor, dt, memory.dq, memory.unmodelled, scratch.row
    )
    for i in range(7):
        memory.saturated[i] = tau[i]
    # Limits below the robot's apply to torques that move the arm, not to those that brake it: it must stop in time.
    rate = max(rate, limits.BRAKING_RATE)
    limits.reachable(memory.tau, measured.tau_last, TORQUE_LIMIT, rate, low, high)
    limits.limit_velocity(
        measured.dq, measured.coriolis, memory.unmodelled, scratch.inertia, scratch.factor, scratch.envelope, rate,
        low, high, scratch.row, scratch.ahead, tau,
    )  # fmt: skip
    braked = False
    for i in range(7):
        braked = braked or tau[i] != memory.saturated[i]
        memory.saturated[i] = asked[i] - tau[i]
        memory.tau[i] = tau[i]
    memory.limited_torques[TorqueLimit.JOINT_VELOCITY] += braked
