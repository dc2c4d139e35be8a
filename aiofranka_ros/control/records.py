"""The records that node and control process exchange: their fields, shapes and units.

Imported by the control laws (which read and write these records at 1 kHz), by the shared memory that carries them,
and by the node. Both processes must run the same version of this file; ``LAYOUT`` of
:mod:`aiofranka_ros.control.shared_memory` detects if they do not.

Records are numpy structured scalars: ``commands["kp"]`` in Python, ``commands.kp`` inside a compiled kernel. Arrays
are float64; positions [m], orientations as unit quaternions (x, y, z, w), both in the robot's base frame; joint
quantities in rad, rad/s, Nm, joint 1 first.
"""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
import numpy.typing as npt

#: Largest message between node and control process [bytes].
MESSAGE_SIZE = 65536
#: Most segments that one motion, and one chunk, may have.
MAX_SEGMENTS, MAX_CHUNK_SEGMENTS = 1024, 256


class Mode(enum.IntEnum):
    """Which control law turns targets into torques; users write the names in lower case."""

    IMPEDANCE = 0
    PID = 1
    OSC = 2
    TORQUE = 3
    FREE = 4


class Axis(enum.IntEnum):
    """Along what the arm can be guided by hand; users write the names in lower case."""

    X = 0
    Y = 1
    Z = 2
    ROLL = 3
    PITCH = 4
    YAW = 5
    ELBOW = 6


class TargetKind(enum.IntEnum):
    """What a target is; the newest one's kind drives the reference."""

    POSITION = 0  # a pose, joint positions or torques: what the mode follows
    VELOCITY = 1  # a twist or joint velocities, by the mode
    SERVO = 2  # joint positions, in every mode


class Phase(enum.IntEnum):
    """What the control process is doing."""

    STARTING = 0
    DISCONNECTED = 1
    CONNECTED = 2
    ACTIVE = 3


class MotionStatus(enum.IntEnum):
    """The state of a motion."""

    NONE = 0
    EXECUTING = 1
    DONE = 2
    STOPPING = 3
    STOPPED = 4
    REFUSED = 5
    PAUSED = 6


class ChunkEnd(enum.IntEnum):
    """Why the newest chunk is not in force; a chunk that has arrived at its end point still is."""

    NONE = 0  # It is, or it waits for its time.
    TARGET = 1  # A single target came later.
    HELD = 2  # The arm holds: a client asked for it, it was pushed, or the node was silent.
    MODE = 3  # Another mode or control frame is in force than the one that it was made for.
    MOTION = 4  # A motion runs.
    STOPPED = 5  # A client stopped it.
    FAR = 6  # It began far from the reference, and such streams are refused.
    INVALID = 7  # It has no segments, or too many, or is not finite.


class Limit(enum.IntEnum):
    """What can limit a target: each is the setting of that name, in lower case, and has its own counter."""

    MAX_LINEAR_STEP = 0
    MAX_ANGULAR_STEP = 1
    MAX_JOINT_STEP = 2
    MAX_LINEAR_VELOCITY = 3
    MAX_ANGULAR_VELOCITY = 4
    MAX_JOINT_VELOCITY = 5
    WORKSPACE_LOWER = 6
    WORKSPACE_UPPER = 7
    JOINT_LOWER = 8
    JOINT_UPPER = 9


class TorqueLimit(enum.IntEnum):
    """What can limit a torque, each with its own counter of cycles."""

    TORQUE_LIMIT = 0
    TORQUE_DIFF_LIMIT = 1
    JOINT_VELOCITY = 2


class Law(enum.IntEnum):
    """Which law computed a torque: the law of the mode, or one that replaces it."""

    IMPEDANCE = 0
    PID = 1
    OSC = 2
    TORQUE = 3
    HOLD = 4
    MOTION = 5
    FREE = 6


class Hold(enum.IntFlag):
    """Why the arm holds although a client may expect it to move."""

    NONE = 0
    NODE_SILENT = 1
    TORQUE_STALE = 2
    NOT_FINITE = 4
    FINISHING = 8
    ASKED = 16
    PUSHED = 32


class Interpolation(enum.IntEnum):
    """Whether the reference runs ahead of the last target or one period behind; users write the names in lower case."""

    AUTO = 0
    EXTRAPOLATE = 1
    INTERPOLATE = 2


class Approach(enum.IntEnum):
    """Whether the reference has met the stream of targets, see :mod:`aiofranka_ros.control.law.approach`."""

    FOLLOWING = 0  # It has.
    WAITING = 1  # There was no target since a client lost or gained control.
    APPROACHING = 2  # It moves there slowly.
    REFUSED = 3  # The stream began far away, and such streams are refused.


def fields(kind: str, names: str, *shape: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """Adjacent fields of one kind and shape."""
    return [(name, kind, shape) for name in names.split()]


#: Node to control process; new commands take effect together, at the beginning of a cycle.
COMMANDS = np.dtype(
    [
        ("activation", "u8"),  # the loop runs while this equals the number it was started with
        ("law_id", "u8"),  # counts changes of mode, gains and control frame, each of which is blended in
        ("mode", "i8"),
        ("mode_id", "u8"),  # counts mode switches, after which targets start from where the arm is
        ("flange_to_tcp", "f8", (4, 4)),
        *fields("f8", "kp kd ki integral_limit", 7),  # [Nm/rad], [Nm s/rad], [Nm/(rad s)], [Nm]
        *fields("f8", "ee_kp ee_kd", 6),  # [1/s²], [1/s], translation then rotation
        *fields("f8", "null_kp null_kd", 7),  # [1/s²], [1/s]
        *fields("f8", "motion_kp motion_kd", 7),  # [Nm/rad], [Nm s/rad]
        *fields("f8", "free_damping free_friction", 7),  # [Nm s/rad], [Nm]
        ("free_axes", "i8"),  # along which the arm can be guided: a bit for each Axis
        ("motor_inertia", "f8", (7,)),  # [kg m²], added to the diagonal of the mass matrix
        ("torque_limit", "f8", (7,)),  # [Nm]
        ("torque_rate_limit", "f8"),  # [Nm/s]
        ("smooth_targets", "i8"),  # 0: targets go to the law unchanged
        ("reference_bandwidth", "f8"),  # [rad/s]
        ("interpolation", "i8"),  # Interpolation
        ("extrapolation_time", "f8"),  # [s]
        *fields("f8", "max_linear_velocity max_linear_acceleration"),  # [m/s], [m/s²], of the reference
        *fields("f8", "max_angular_velocity max_angular_acceleration"),  # [rad/s], [rad/s²]
        *fields("f8", "max_joint_velocity max_joint_acceleration", 7),  # [rad/s], [rad/s²]
        ("approach_far_streams", "i8"),  # 0: refuse the targets of a stream that begins far from the reference
        # Of the reference until it meets its stream [m/s], [rad/s], [rad/s].
        *fields("f8", "approach_linear_velocity approach_angular_velocity approach_joint_velocity"),
        # Largest distances of a target from the reference [m], [rad], [rad].
        *fields("f8", "max_linear_step max_angular_step max_joint_step"),
        *fields("f8", "joint_lower joint_upper", 7),  # [rad], soft limits inside of the arm's own
        *fields("f8", "workspace_lower workspace_upper", 3),  # [m], limits of the control frame
        # Above them the arm stops and holds [N], [Nm]; 0: never.
        *fields("f8", "max_external_force max_external_torque"),
        ("hold", "i8"),  # 1: ignore targets and motions
        ("release_id", "u8"),  # counts releases of an arm that was pushed
        *fields("f8", "torque_timeout velocity_timeout heartbeat_timeout"),  # [s]
        ("stream_id", "u8"),  # counts senders of targets
        ("target_id", "u8"),  # counts targets
        ("target_mode_id", "u8"),  # mode_id that it was made for; dropped if another one is in force
        ("target_stamp", "i8"),  # when its sender made it [ns, any clock]; 0: unknown
        ("target_lead", "i8"),  # how long after its arrival it is due [ns]
        ("target_q", "f8", (7,)),
        ("target_position", "f8", (3,)),
        ("target_orientation", "f8", (4,)),
        ("target_torque", "f8", (7,)),
        ("target_kind", "i8"),  # TargetKind
        ("target_twist", "f8", (6,)),  # of the control frame [m/s], [rad/s]
        ("target_in_tool", "i8"),  # whether the twist is given along the axes of the control frame; 0: of the base
        ("target_dq", "f8", (7,)),  # [rad/s]
        ("motion_id", "u8"),  # the motion that should run, once the motion block carries that number
        ("motion_stop", "u8"),  # stop this motion smoothly
        ("motion_release", "u8"),  # give the arm back to the mode after this motion
        ("chunk_id", "u8"),  # the chunk that should run, once the chunk block carries that number
        ("chunk_stop", "u8"),  # stop this chunk, and all before it
        ("robot_state_period", "i8"),  # cycles between two copies of the full robot state; 0: never
    ]
)

#: Node to control process: a joint-space motion as a piecewise polynomial of degree five. In segment ``k``
#: joint ``j`` is at ``sum(coefficients[k, j, p] * s**p)``, ``s`` counted from ``times[k]``.
MOTION = np.dtype(
    [
        ("id", "u8"),
        ("segments", "i8"),
        ("start", "f8"),  # robot time at which it begins [s]; 0: at once
        ("times", "f8", (MAX_SEGMENTS + 1,)),  # [s], from the beginning of the motion
        ("coefficients", "f8", (MAX_SEGMENTS, 7, 6)),
    ]
)

#: Node to control process: a chunk, a path for the targets of the mode, as a piecewise polynomial like a motion's.
#: Columns are joint positions, or in mode OSC a position and the four numbers of a quaternion of any length but 0.
CHUNK = np.dtype(
    [
        *fields("u8", "id mode_id target_id"),  # of the commands at the time when it was written
        ("segments", "i8"),
        ("start", "f8"),  # robot time at which it begins [s]; 0: at once
        ("times", "f8", (MAX_CHUNK_SEGMENTS + 1,)),  # [s], from the beginning of the chunk
        ("coefficients", "f8", (MAX_CHUNK_SEGMENTS, 7, 6)),
    ]
)

#: What the kernels need from libfranka's state in one cycle. The first five fields are packed together, in this order.
MEASURED = np.dtype(
    [
        ("time", "f8"),  # robot time [s]
        ("elapsed", "f8"),  # since the last state [s]; more than one cycle if states were lost
        *fields("f8", "q dq tau_last", 7),  # tau_last: the torque that the robot used last (tau_J_d)
        ("mass", "f8", (7, 7)),  # [kg m²]; it and the coriolis torques [Nm] are of the last cycle
        ("coriolis", "f8", (7,)),
        ("external_wrench", "f8", (6,)),  # O_F_ext_hat_K of the last cycle [N, Nm]
    ]
)

_CYCLE: list[Any] = [
    ("activation", "u8"),
    ("stamp", "i8"),  # when the torque was handed to the robot, or the idle arm was measured [ns, monotonic]
    ("time", "f8"),  # robot time [s]
    ("lost", "u8"),  # cycles lost just before this one
    ("response", "f8"),  # readOnce returning to writeOnce returning [s]
    ("success_rate", "f8"),  # control_command_success_rate
    *fields("i8", "mode law"),
    ("target_id", "u8"),
    ("target_stamp", "i8"),
    ("motion_id", "u8"),
    ("motion_status", "i8"),
    ("chunk_id", "u8"),
    ("approach", "i8"),
    *fields("f8", "q dq tau", 7),  # tau: sent in this cycle
    ("position", "f8", (3,)),  # of the control frame
    ("orientation", "f8", (4,)),
    ("ref_q", "f8", (7,)),
    ("ref_position", "f8", (3,)),
    ("ref_orientation", "f8", (4,)),
    ("tau_last", "f8", (7,)),  # what the robot used last (tau_J_d) [Nm]
    ("robot_mode", "i8"),  # franka::RobotMode; from here to external_wrench packed together, in this order
    *fields("f8", "tau_measured tau_external", 7),
    ("external_wrench", "f8", (6,)),  # O_F_ext_hat_K [N, Nm]
]

#: Control process to node, once a cycle: one record of the ring.
CYCLE_RECORD = np.dtype(_CYCLE)

#: Control process to node, once a cycle: the newest state. It begins with the record of its cycle.
STATE = np.dtype(
    [
        *_CYCLE,
        ("phase", "i8"),
        ("robot_tcp", "f8", (4, 4)),  # F_T_EE, the end effector configured in the robot, in the flange
        ("tcp", "f8", (4, 4)),  # the control frame in the base
        ("twist", "f8", (6,)),  # [m/s, rad/s]
        ("jacobian", "f8", (6, 7)),
        ("mass", "f8", (7, 7)),  # [kg m²]
        *fields("f8", "ref_dq ref_ddq", 7),
        *fields("f8", "ref_linear ref_angular ref_linear_acceleration ref_angular_acceleration", 3),
        ("hold", "i8"),
        ("release_id", "u8"),
        ("target_age", "f8"),  # [s]; infinite before the first one
        ("target_kind", "i8"),  # TargetKind that drives the reference
        ("velocity_left", "f8"),  # until the newest velocity times out [s]; 0: it has
        ("approach_left", "f8", (2,)),
        # The stream of targets: its period, how late its targets are, and how far the reference is behind it [s].
        *fields("f8", "stream_period stream_lateness stream_delay"),
        ("interpolating", "i8"),
        ("repetitions", "u8"),
        ("motion_time", "f8"),
        ("chunk_seen", "u8"),
        ("chunk_end", "i8"),  # ChunkEnd
        ("chunk_first", "i8"),  # stamp of the first torque from the last chunk that was in force [ns, monotonic]
        ("chunk_time", "f8"),
        # Joints whose limits keep the hand from its target: a bit for each lower limit, then for each upper one.
        ("blocked", "i8"),
        *fields("f8", "behind_linear behind_angular"),  # from the hand to its target in mode osc [m], [rad]
        ("limited_targets", "u8", (len(Limit),)),
        ("limited_torques", "u8", (len(TorqueLimit),)),
        *fields("u8", "approaches far_targets velocity_timeouts not_finite silent_holds"),
        *fields("u8", "cycles cycles_lost"),  # since activation
        ("longest_gap", "u8"),  # most cycles lost in a row
        *fields("f8", "response_total response_longest"),  # of all cycles since activation [s]
        ("success_rate_min", "f8"),  # since 100 cycles after activation
    ]
)


def command_word(name: str) -> int:
    """Offset of a field of the commands, in words of eight bytes."""
    assert COMMANDS.fields is not None
    return int(COMMANDS.fields[name][1]) // 8


def new(dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """An array of one zeroed record of ``dtype``, which is what the kernels take."""
    return np.zeros(1, dtype)
