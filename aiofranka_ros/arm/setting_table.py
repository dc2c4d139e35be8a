"""What can be set: the default, unit, range, meaning and source of every setting, in one table.

Read by :mod:`aiofranka_ros.arm.settings` and by the node, where each setting is a ROS parameter
(:mod:`aiofranka_ros.node.parameters`). Nothing else knows the settings: validation, the fields of the control process's
commands, the node's declarations, ``config/fr3.yaml`` and ``docs/reference.md`` follow from this table.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from aiofranka_ros.control.realtime import PRIORITY
from aiofranka_ros.control.records import Axis
from aiofranka_ros.control.setting import Effect, Setting, Stage
from aiofranka_ros.kernels import Array
from aiofranka_ros.model import fr3
from aiofranka_ros.model.names import TCP_FRAME


def _joints(value: float | Sequence[float] | Array) -> tuple[float, ...]:
    return tuple(float(element) for element in np.broadcast_to(np.asarray(value, dtype=float), 7))


_JOINT_KP = (600.0, 600.0, 600.0, 600.0, 250.0, 250.0, 150.0)
_JOINT_KD = (50.0, 50.0, 50.0, 50.0, 30.0, 25.0, 10.0)
#: What the arm can take at 1 kHz depends on its load; far above these values it is unstable with any load.
_MAX_STIFFNESS, _MAX_DAMPING = 3000.0, 200.0
#: Farther than the arm reaches with any tool [m].
_FAR = 2.0

#: The names of the axes of hand guiding.
_AXES = tuple(axis.name.lower() for axis in Axis)
_EXAMPLE = (
    "libfranka examples/joint_impedance_control.cpp; joints 6 and 7 stiffer, so that friction leaves them within "
    "move_tolerance"
)
_LIMITS = "the arm's own limits, FCI documentation"
_UNLIMITED = "out of reach: no limit"
_REFLEX = "below collision_force_thresholds the arm stops before the robot's own reflex"
_APPROACH = "slow enough to step aside: less than half of the 0.25 m/s of ISO 10218-1's manual mode"
_MOTION_EXAMPLE = "libfranka examples/generate_joint_position_motion.cpp"


def _at_most(constant: str) -> str:
    return f"at most {constant}, libfranka rate_limiting.h"


_at_start = partial(Setting, locked_from=Stage.STARTED)
_unconfigured = partial(Setting, locked_from=Stage.CONFIGURED)
_command = partial(Setting, effect=Effect.COMMAND)
_law = partial(Setting, effect=Effect.LAW)
_frame = partial(Setting, effect=Effect.FRAME)
_collision = partial(Setting, low=0.1, high=100.0, locked_from=Stage.ACTIVE, effect=Effect.COLLISION)
_position = partial(
    _command, unit="rad", low=_joints(fr3.POSITION_LOWER), high=_joints(fr3.POSITION_UPPER), source=_LIMITS
)
_workspace = partial(_command, low=-_FAR, high=_FAR, source=_UNLIMITED)

SETTINGS: tuple[Setting, ...] = (
    # Connection.
    _unconfigured("robot_ip", "sim", "Address of the robot's FCI; sim starts a simulated arm."),
    _at_start("arm_prefix", "", "Prefix of the names of joints and frames, before an underscore; for several arms.",
              is_name=True, source="franka_description's arm_prefix"),
    _at_start("tcp_frame", TCP_FRAME, "Name of the control frame in TF, without the prefix.",
              is_name=True, source="a name that franka_description does not use"),
    Setting("mode", "osc", "Control law that turns targets into torques.",
            choices=("osc", "impedance", "pid", "torque", "free"), effect=Effect.MODE),
    _at_start("autostart", False, "Configure and activate as soon as the node runs."),
    _at_start("discovery_time", 3.5, "How long the node listens for others of its name before it becomes active.",
              "s", 0.0, 60.0, source="Fast DDS announces a process every 3 s, should its first announcements be lost"),
    _at_start("state_rate", 100.0, "How often the state is published and the control process gets a heartbeat.",
              "Hz", 30.0, 1000.0, source="at least three heartbeats within the shortest heartbeat_timeout"),
    _at_start("robot_state_rate", 30.0, "How often ~/robot_state is published; at most 100 Hz while not active.",
              "Hz", 1.0, 1000.0),
    _at_start("diagnostics_rate", 1.0, "How often /diagnostics is published.", "Hz", 0.1, 50.0),
    _unconfigured("realtime_priority", PRIORITY, "SCHED_FIFO priority of the control process; 0: normal scheduling.",
                  low=0, high=98, source="sched(7); the kernel's own threads are at 99"),
    _unconfigured("realtime_cpu", -1, "CPU of the control process; -1: any, or the simulated arm's.",
                  low=-1, high=1023, source="a CPU that isolcpus keeps free is best"),
    # Joint laws.
    _law("kp", _JOINT_KP, "Joint stiffness in the modes impedance and pid.",
         "Nm/rad", 0.0, _MAX_STIFFNESS, source=_EXAMPLE),
    _law("kd", _JOINT_KD, "Joint damping in the modes impedance and pid.",
         "Nm s/rad", 0.0, _MAX_DAMPING, source=_EXAMPLE),
    _law("ki", (50.0, 50.0, 50.0, 50.0, 20.0, 10.0, 5.0), "Integral gain in mode pid.",
         "Nm/(rad s)", 0.0, 1000.0, source="a tenth of kp per second, so that the integral stays slower than the arm"),
    _law("integral_limit", (5.0, 5.0, 5.0, 5.0, 1.5, 1.5, 1.5), "Largest integral torque in mode pid.",
         "Nm", 0.0, _joints(fr3.TORQUE_LIMIT), source="a few times the joints' friction"),
    # Operational space.
    _law("ee_kp", (400.0, 400.0, 400.0, 1000.0, 1000.0, 1000.0),
         "Stiffness of the control frame in mode osc, translation then rotation.",
         "1/s^2", 0.0, _MAX_STIFFNESS, source="compliant: natural frequencies of 20 and 32 rad/s"),
    _law("ee_kd", (40.0, 40.0, 40.0, 63.2, 63.2, 63.2),
         "Damping of the control frame in mode osc; critical at 2 sqrt(ee_kp).",
         "1/s", 0.0, _MAX_DAMPING, source="critical damping"),
    _law("null_kp", _joints(10.0), "Stiffness of the posture in mode osc, kept as far as the task allows.",
         "1/s^2", 0.0, _MAX_STIFFNESS, source="far softer than the task"),
    _law("null_kd", _joints(6.32), "Damping of the posture in mode osc; critical at 2 sqrt(null_kp).",
         "1/s", 0.0, _MAX_DAMPING, source="critical damping"),
    _law("motor_inertia", _joints(0.1), "Inertia of the motors, which libfranka's mass matrix does not include.",
         "kg m^2", 0.05, 1.0,
         source="MuJoCo Menagerie's FR3 has 0.074 to 0.195; without it the wrist is too soft in mode osc, and too "
         "light for the limit of joint velocities"),
    _frame("tcp_from_robot", True, "Use the end effector configured in the robot (F_T_EE) as the control frame."),
    _frame("tcp_in_flange", (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
           "Control frame in the flange, x y z and qx qy qz qw; used if tcp_from_robot is false.",
           "m and 1", (-2.0,) * 3 + (-1.01,) * 4, (2.0,) * 3 + (1.01,) * 4),
    # Hand guiding.
    _law("free_axes", _AXES,
         "Axes along which the arm can be guided by hand in mode free; the others are locked where the arm is: x, y, "
         "z, roll, pitch and yaw of the control frame in the base, and the elbow (joint 3).",
         choices=_AXES, source="the flags of libfranka's setGuidingMode"),
    _law("free_damping", (1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5), "Joint damping in mode free.",
         "Nm s/rad", 0.0, _MAX_DAMPING, source="the arm stops within a second when it is let go"),
    _law("free_friction", _joints(0.0),
         "Torque that helps a moving joint against its friction in mode free; more than the friction makes it drift.",
         "Nm", 0.0, 2.0, source="off; the robot compensates most of the friction itself"),
    # Limits of every torque.
    _command("torque_limit", _joints(fr3.TORQUE_LIMIT),
             "Largest commanded torque, without gravity; exceeded only to brake a joint in time.",
             "Nm", 0.0, _joints(fr3.TORQUE_LIMIT), source="FR3 URDF"),
    _command("torque_diff_limit", 990.0,
             "Largest change of the commanded torque; exceeded only to brake a joint in time.",
             "Nm/s", 1.0, fr3.TORQUE_RATE_LIMIT - 1.0, field="torque_rate_limit",
             source="1 % below kMaxTorqueRate, libfranka rate_limiting.h"),
    # Limits of where the arm may be.
    _position("joint_lower", _joints(fr3.POSITION_LOWER), "Lowest joint positions; springs push back near them."),
    _position("joint_upper", _joints(fr3.POSITION_UPPER), "Highest joint positions; springs push back near them."),
    _workspace("workspace_lower", (-_FAR,) * 3, "Lowest x, y, z of the control frame in the base.", "m"),
    _workspace("workspace_upper", (_FAR,) * 3, "Highest x, y, z of the control frame in the base.", "m"),
    _command("max_external_force", 0.0,
             "External force above which the arm stops and holds until ~/release; 0: no limit.",
             "N", 0.0, 200.0, source=_REFLEX),
    _command("max_external_torque", 0.0,
             "External torque above which the arm stops and holds until ~/release; 0: no limit.",
             "Nm", 0.0, 100.0, source=_REFLEX),
    # Streamed targets.
    _law("smooth_targets", True, "Follow a smooth reference made from the targets; false: the targets themselves."),
    _command("reference_bandwidth", 40.0, "How fast the reference approaches the target.", "rad/s", 1.0, 60.0,
             source="twice the natural frequency of the default ee_kp; above 60 it would overshoot"),
    _command("interpolation", "auto",
             "Whether the reference runs ahead of the newest target (extrapolate) or one period behind (interpolate).",
             choices=("auto", "extrapolate", "interpolate"),
             source="auto: extrapolate a stream of more than 35 Hz without pauses, interpolate the others"),
    _command("extrapolation_time", 0.15, "How long a target continues at its velocity if the next one is late.",
             "s", 0.001, 1.0, source="about seven periods of a 50 Hz policy"),
    _command("max_linear_velocity", 1.0, "Largest velocity of the reference.", "m/s", 0.001, 3.0,
             source=_at_most("kMaxTranslationalVelocity")),
    _command("max_linear_acceleration", 8.0, "Largest acceleration of the reference.", "m/s^2", 0.01, 9.0,
             source=_at_most("kMaxTranslationalAcceleration")),
    _command("max_angular_velocity", 2.0, "Largest angular velocity of the reference.", "rad/s", 0.001, 2.5,
             source=_at_most("kMaxRotationalVelocity")),
    _command("max_angular_acceleration", 16.0, "Largest angular acceleration of the reference.", "rad/s^2", 0.01, 17.0,
             source=_at_most("kMaxRotationalAcceleration")),
    _command("max_joint_velocity", _joints(np.round(0.8 * fr3.VELOCITY_LIMIT, 3)),
             "Largest velocities of the joint reference.",
             "rad/s", 0.001, _joints(fr3.VELOCITY_LIMIT), source="0.8 of the FR3 URDF's limits"),
    _command("max_joint_acceleration", _joints(8.0), "Largest accelerations of the joint reference.",
             "rad/s^2", 0.01, _joints(fr3.ACCELERATION_LIMIT),
             source="0.8 of kMaxJointAcceleration, libfranka rate_limiting.h"),
    _command("approach_far_streams", True,
             "Approach a stream that begins far from the arm slowly, until it is met; false: refuse its targets."),
    _command("approach_linear_velocity", 0.1,
             "Largest velocity of the reference until it meets its stream, in all modes.",
             "m/s", 0.001, 3.0, source=_APPROACH),
    _command("approach_angular_velocity", 0.3, "Largest angular velocity of the reference until it meets its stream.",
             "rad/s", 0.001, 2.5, source=_APPROACH),
    _command("approach_joint_velocity", 0.3, "Largest velocity of the joint reference until it meets its stream.",
             "rad/s", 0.001, 5.26, source=_APPROACH),
    _command("max_linear_step", 0.15, "Largest distance of a target from the reference; the rest is cut off.",
             "m", 0.001, 1.0),
    _command("max_angular_step", 0.5, "Largest angle between a target and the reference; the rest is cut off.",
             "rad", 0.001, 3.0),
    _command("max_joint_step", 0.5, "Largest distance of a joint target from the reference; the rest is cut off.",
             "rad", 0.001, 3.0),
    # Chunks: several targets in one message, each with its time.
    Setting("chunk_frequency", 15.0, "How many points of a chunk are due in a second if it gives no times.",
            "Hz", 0.5, 1000.0, source="policies trained on DROID; joint_trajectory_controller's policy_frequency"),
    Setting("chunk_end", "auto",
            "How a chunk ends if no other replaces it: it slows down before its last point and stops there (rest), "
            "passes that and then slows down (hold), or first continues at its velocity for extrapolation_time "
            "(extrapolate).",
            choices=("auto", "rest", "hold", "extrapolate"),
            source="auto: rest; hold once chunks have come before the one before them had ended"),
    Setting("chunk_freeze", 0.0, "What is due sooner than this is not altered by another chunk.",
            "s", 0.0, 0.4, source="the hard prefix of real-time chunking: the delay of the inference; 0: none"),
    Setting("chunk_smoothing", 5.0,
            "What the points of a chunk do faster than this is left out; 0: pass through all of them.",
            "Hz", 0.0, 100.0, source="halves an oscillation of 5 Hz, which is noise in the points of a policy"),
    Setting("chunk_violation", "clip",
            "Whether a chunk that violates limits is kept within them on its way (clip), or refused (refuse).",
            choices=("clip", "refuse"), source="clip: as for targets"),
    Setting("priority_clients", (),
            "Nodes whose targets take control from those of all others at once, e.g. a person who teleoperates."),
    # Watchdogs.
    Setting("max_target_age", 0.5, "Largest age of a target's stamp, and how far it may be in the future.",
            "s", 0.01, 10.0,
            source="ten periods of a 20 Hz policy; an older target is for a situation that has passed"),
    _command("torque_timeout", 0.1, "Largest age of a torque target; then the arm holds.", "s", 0.002, 1.0,
             source="five periods of a 50 Hz policy"),
    _command("velocity_timeout", 0.25, "How long a velocity drives the arm without a new one; then the arm stops.",
             "s", 0.02, 2.0, source="almost four periods of a 15 Hz policy"),
    _command("heartbeat_timeout", 0.1, "How long the node may be silent before the arm slows down and holds.",
             "s", 0.1, 2.0,
             source="ten ticks of the node; a motion continues if the node is back within half a second"),
    # Moves and trajectories.
    Setting("move_velocity", _joints(np.round(0.5 * fr3.VELOCITY_LIMIT, 3)),
            "Largest velocities of ~/move if its goal gives none.",
            "rad/s", 0.001, _joints(fr3.VELOCITY_LIMIT), source="half of the FR3 URDF's limits"),
    Setting("move_acceleration", _joints(5.0), "Largest accelerations of ~/move.",
            "rad/s^2", 0.01, _joints(fr3.ACCELERATION_LIMIT),
            source="half of kMaxJointAcceleration, libfranka rate_limiting.h"),
    Setting("move_jerk", _joints(100.0), "Largest jerks of ~/move.", "rad/s^3", 0.1, 5000.0,
            source="full acceleration after 50 ms; " + _at_most("kMaxJointJerk")),
    Setting("move_tolerance", 0.01, "Largest distance of a joint from a goal that gives no tolerance.",
            "rad", 0.0001, 0.5),
    Setting("move_settle_time", 1.0, "How long the arm may take to come within the tolerance at the end.",
            "s", 0.0, 30.0),
    Setting("goals_outlive_clients", False,
            "Whether moves, trajectories and chunks continue to their end if their client is gone; false: the arm "
            "stops."),
    Setting("path_tolerance", 0.0,
            "Largest distance of a joint from a trajectory that gives no tolerance; 0: no limit.",
            "rad", 0.0, 3.0, source="joint_trajectory_controller has no limit either"),
    Setting("start_tolerance", 0.1,
            "Largest distance of a joint from where a trajectory begins, if no motion runs; 0: no limit.",
            "rad", 0.0, 3.0, source="ten times what MoveIt allows by default"),
    _law("motion_kp", _JOINT_KP, "Joint stiffness during moves and trajectories, and while holding in mode torque.",
         "Nm/rad", 0.0, _MAX_STIFFNESS, source=_EXAMPLE),
    _law("motion_kd", _JOINT_KD, "Joint damping during moves and trajectories, and while holding in mode torque.",
         "Nm s/rad", 0.0, _MAX_DAMPING, source=_EXAMPLE),
    # The robot's own reactions.
    _collision("collision_torque_thresholds", (20.0, 20.0, 18.0, 18.0, 16.0, 14.0, 12.0),
               "External joint torques above which the robot stops with joint_reflex.",
               "Nm", source=_MOTION_EXAMPLE),
    _collision("collision_force_thresholds", (20.0, 20.0, 20.0, 25.0, 25.0, 25.0),
               "External forces and torques above which the robot stops with cartesian_reflex.",
               "N and Nm", source=_MOTION_EXAMPLE),
    Setting("restart_if_needed", False,
            "Whether services such as ~/set_load may stop an active arm, make the change and activate it again."),
    # Recordings of what happened.
    Setting("recording_folder", "~/.ros/aiofranka",
            "Folder for a recording whenever the robot stops by itself, a cycle is lost, or a client asks for one; "
            "empty: none is written.",
            may_be_empty=True, source="~/.ros is $ROS_HOME, if that is set"),
    Setting("recording_files", 20, "Most recordings in that folder; the oldest one is removed first.",
            low=1, high=10000, source="some days of an arm that stops now and then"),
    Setting("recording_megabytes", 200.0, "Most that all recordings in that folder may take, likewise.",
            "MB", 1.0, 100000.0, source="twenty recordings of 16 s, each of which takes less than 10 MB"),
)  # fmt: skip
