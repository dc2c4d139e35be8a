"""The records in which the kernels keep what they know from one cycle to the next, and compute.

Made by the control loop, in the control process; only kernels write them. Units and frames are those of
:mod:`aiofranka_ros.control.records`.
"""

from __future__ import annotations

import numpy as np

from aiofranka_ros.control.records import Limit, TorqueLimit, fields

#: Targets that the reference remembers, and times between them.
KNOTS, INTERVALS = 64, 17

#: What the kernels keep from one cycle to the next; nothing else writes it.
MEMORY = np.dtype(
    [
        ("started", "i8"),
        *fields("u8", "law_id mode_id"),
        ("law", "i8"),  # Law of the last cycle
        ("tau", "f8", (7,)),  # the torque sent last
        ("tau_law", "f8", (7,)),  # torque of the law, before blending and limits
        ("blend", "f8", (7,)),  # fades out after a change of law [Nm]
        ("integral", "f8", (7,)),  # of the PID law [Nm]
        ("saturated", "f8", (7,)),  # what the limits took from the law's torque in the last cycle [Nm]
        ("dq", "f8", (7,)),  # measured in the last cycle [rad/s]
        ("unmodelled", "f8", (7,)),  # what accelerates the joints besides the torques [rad/s²]
        ("hold", "i8"),  # Hold flags
        ("release_id", "u8"),
        # Limits in force: those of the commands, or wider ones while the arm is outside; these follow it inwards.
        *fields("f8", "joint_lower joint_upper", 7),
        *fields("f8", "spring_lower spring_upper", 7),  # where springs begin [rad]
        *fields("f8", "workspace_lower workspace_upper", 3),
        ("null_q", "f8", (7,)),
        *fields("f8", "flange_to_tcp flange tcp", 4, 4),
        ("jacobian", "f8", (6, 7)),
        ("twist", "f8", (6,)),
        ("position", "f8", (3,)),
        ("orientation", "f8", (4,)),
        # The newest target, after limits, and how it moves.
        ("target_id", "u8"),
        ("targets_passed", "i8"),  # since the one before it was seen: more than one, if several came within a cycle
        ("target_seen", "f8"),  # robot time of its arrival [s]
        ("target_stamp", "i8"),
        ("target_position", "f8", (3,)),
        ("target_orientation", "f8", (4,)),
        *fields("f8", "target_q target_torque", 7),
        ("target_count", "i8"),  # targets since the reference was seeded
        ("target_cut", "i8"),  # whether it was further from the reference than a step may be
        ("raw_position", "f8", (3,)),  # before limits: two of them give a velocity
        ("raw_orientation", "f8", (4,)),
        ("raw_q", "f8", (7,)),
        *fields("f8", "slope_linear slope_angular", 3, 3),  # the last three velocities between targets
        ("slope_q", "f8", (3, 7)),
        *fields("f8", "target_linear target_angular", 3),  # their median, without noise
        ("target_dq", "f8", (7,)),
        ("steadiness", "f8", (3,)),  # of positions, orientations and joints, see stream.leave_noise_out
        ("stream_id", "u8"),
        ("driving", "i8"),  # TargetKind of the newest target
        ("servo_seen", "f8"),  # robot time at which the newest SERVO target arrived [s]
        # The newest velocity: a twist (6,) or joint velocities, along which axes, whether it is yet to be counted if a
        # limit slows it down, and until when it drives the reference [s].
        ("wanted", "f8", (7,)),
        *fields("i8", "wanted_in_tool wanted_is_new"),
        ("velocity_left", "f8"),
        ("approach", "i8"),  # Approach
        ("approach_left", "f8", (2,)),  # how far the stream is, unless it is followed [m], [rad]
        ("believed", "f8", (2,)),  # how far the target is extrapolated, see reference._coast
        # The path of the last targets, and where the reference's target is on it, see law/stream.py.
        *fields("i8", "knots repeated interpolating intervals_seen gap_paused catching_up"),
        ("knot_time", "f8", (KNOTS,)),  # [s], from the beginning of the path
        ("knot", "f8", (KNOTS, 7)),  # position and orientation, or joint positions
        ("knot_seen", "f8"),  # robot time at which the newest one arrived [s]
        *fields("f8", "intervals intervals_ordered", INTERVALS),  # [s]
        *fields("f8", "period lateness path_speed"),  # [s], [s], [m/s] or [rad/s]
        # Since a pause: how late targets are [s], how many have come, and in which time [s].
        *fields("f8", "held held_targets held_time"),
        ("way_speed", "f8", (3,)),  # of the last three targets [m/s] or [rad/s]
        # Where on it [s], how fast, without and with braking [1], how long it takes to start, how long it waits before,
        # how far ahead it should be, and what braking has cost [s].
        *fields("f8", "playhead playhead_pace playhead_rate playhead_ramp"),
        *fields("f8", "playhead_wait playhead_error playhead_braked"),
        *fields("f8", "pauses repeating"),  # how usual they are
        ("place", "f8", (2,)),
        *fields("f8", "goal goal_velocity", 7),  # the reference's target now: position and orientation, or joints
        ("repetitions", "u8"),
        # The chunk that gives that target instead; and its acceleration.
        *fields("u8", "chunk_id chunk_seen"),  # in force (0: none); the newest one, whether in force or not
        ("chunk_end", "i8"),  # ChunkEnd
        *fields("f8", "chunk_start chunk_time chunk_rested"),  # robot time; along it; since its end [s]
        ("chunk_limited", "i8", (len(Limit),)),  # which limits it has met
        ("goal_acceleration", "f8", (7,)),
        ("scratch", "f8", (2, 3)),
        # The smooth reference that the laws follow.
        ("ref_position", "f8", (3,)),
        ("ref_orientation", "f8", (4,)),
        *fields("f8", "ref_linear ref_angular ref_linear_acceleration ref_angular_acceleration", 3),
        *fields("f8", "ref_q ref_dq ref_ddq", 7),
        ("singularity", "f8"),  # how singular the task is: 0 if regular, 1 at a singularity
        ("giving_way", "i8"),  # whether the reference of a velocity that is over returns to the arm
        ("lag", "f8"),  # distance of the pose reference from the arm, or a turn's way at 0.2 m if that is more [m]
        # Highest speeds at which the joints can follow the reference [m/s], [rad/s].
        *fields("f8", "pace_linear pace_angular"),
        # The motion.
        ("motion_id", "u8"),
        ("motion_status", "i8"),
        ("motion_time", "f8"),  # along the motion [s]
        ("motion_rate", "f8"),  # 1: as planned; 0: stopped on the path
        ("motion_rate_change", "f8"),  # [1/s]
        ("ramp", "f8"),  # progress of the rate's last change: 0 to 1
        ("ramp_from", "f8"),  # the rate at its beginning...
        ("ramp_slope", "f8"),  # ...and how it changed there, for the ramp's whole duration
        ("ramp_to", "f8"),  # the rate at its end: 0 or 1
        # From the motion's beginning to where the arm was; fades out.
        *fields("f8", "motion_offset motion_offset_rate", 7),
        *fields("f8", "motion_offset_time motion_offset_duration"),  # since it began, and of the whole fading [s]
        # For the diagnostics.
        ("blocked_time", "f8"),  # how long springs have kept the hand from its target [s]
        ("limited_targets", "u8", (len(Limit),)),
        ("limited_torques", "u8", (len(TorqueLimit),)),
        *fields("u8", "approaches far_targets velocity_timeouts not_finite silent_holds"),
    ]
)

#: Scratch memory of the kernels, so that none of them allocates.
SCRATCH = np.dtype(
    [
        *fields("f8", "inertia factor weight weight_factor", 7, 7),  # inertia: mass matrix with the motors' inertia
        *fields("f8", "task task_factor", 6, 6),  # task: Λ⁻¹
        *fields("f8", "inverse_times_jacobian ahead_jacobian", 6, 7),
        *fields("f8", "force wanted", 6),
        *fields("f8", "ahead_flange ahead_tcp", 4, 4),
        ("envelope", "f8", (2, 7)),
        *fields("f8", "acceleration bias ahead torque wall asked low high row", 7),
    ]
)
