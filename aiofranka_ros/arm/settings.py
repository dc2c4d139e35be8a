"""Everything that can be set: its default, unit, range, meaning and source, in one table.

Used by whoever owns an arm, in its process: by the node, where each setting is a parameter of ROS
(:mod:`aiofranka_ros.node.parameters`), and by :class:`~aiofranka_ros.api.robot_interface.RobotInterface` without ROS.
The table is the only place that knows a setting: validation, the fields of the control process's commands, the node's
declarations and ``config/fr3.yaml`` follow from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.realtime import PRIORITY
from aiofranka_ros.control.records import Mode, RobotSetting
from aiofranka_ros.errors import ConfigurationError, FrankaError
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.fr3 import (
    ACCELERATION_LIMIT,
    POSITION_LOWER,
    POSITION_UPPER,
    TORQUE_LIMIT,
    TORQUE_RATE_LIMIT,
    VELOCITY_LIMIT,
)
from aiofranka_ros.model.kinematics import pose_matrix
from aiofranka_ros.model.names import TCP_FRAME, ArmNames
from aiofranka_ros.setting import Effect, Lock, Setting, Value

#: Largest deviation from 1 of the norm of the quaternion in ``tcp_in_flange``.
_QUATERNION_TOLERANCE = 0.01


def _joints(value: float | Sequence[float] | Array) -> tuple[float, ...]:
    return tuple(float(element) for element in np.broadcast_to(np.asarray(value, dtype=float), 7))


_EXAMPLE = (
    "libfranka examples/joint_impedance_control.cpp; joints 6 and 7 stiffer, so that friction leaves them within "
    "move_tolerance"
)
_JOINT_KP = (600.0, 600.0, 600.0, 600.0, 250.0, 250.0, 150.0)
_JOINT_KD = (50.0, 50.0, 50.0, 50.0, 30.0, 25.0, 10.0)
_EE_KP = (400.0, 400.0, 400.0, 1000.0, 1000.0, 1000.0)
_EE_KD = tuple(round(2.0 * math.sqrt(kp), 1) for kp in _EE_KP)
_NULL_KD = _joints(round(2.0 * math.sqrt(10.0), 2))
#: What the arm can take at 1 kHz depends on its load; far beyond these it certainly cannot.
_MAX_STIFFNESS, _MAX_DAMPING = 3000.0, 200.0
#: Farther than the arm reaches with any tool [m].
_ANYWHERE = 2.0

SETTINGS: tuple[Setting, ...] = (
    # Connection.
    Setting(
        "robot_ip", "sim", "Address of the robot's FCI; sim starts a simulated arm.",
        lock=Lock.CONFIGURED,
    ),
    Setting(
        "arm_prefix", "", "What the names of joints and frames begin with, and an underscore, for several arms.",
        lock=Lock.STARTED, is_name=True, source="franka_description's arm_prefix",
    ),
    Setting(
        "tcp_frame", TCP_FRAME, "Name of the control frame in TF, after the prefix.",
        lock=Lock.STARTED, is_name=True, source="one that franka_description has not",
    ),
    Setting(
        "mode", "osc", "Control law that turns targets into torques.",
        choices=("osc", "impedance", "pid", "torque"), effect=Effect.MODE,
    ),
    Setting(
        "autostart", False, "Configure and activate as soon as the node runs.",
        lock=Lock.STARTED,
    ),
    Setting(
        "state_rate", 100.0, "How often the state is published and the control process hears of the node.",
        unit="Hz", low=30.0, high=1000.0, lock=Lock.STARTED,
        source="at the least, three signs of life within the shortest heartbeat_timeout",
    ),
    Setting(
        "robot_state_rate", 30.0, "How often ~/robot_state is published; at the most 100 Hz while not active.",
        unit="Hz", low=1.0, high=1000.0, lock=Lock.STARTED,
    ),
    Setting(
        "diagnostics_rate", 1.0, "How often /diagnostics is published.",
        unit="Hz", low=0.1, high=50.0, lock=Lock.STARTED,
    ),
    Setting(
        "realtime_priority", PRIORITY, "SCHED_FIFO priority of the control process; 0: ordinary scheduling.",
        low=0, high=98, lock=Lock.CONFIGURED, source="sched(7); the kernel's own threads are at 99",
    ),
    Setting(
        "realtime_cpu", -1, "CPU that drives the arm; -1: any, or where the simulated arm runs.",
        low=-1, high=1023, lock=Lock.CONFIGURED, source="one that isolcpus keeps free is best",
    ),
    # Joint laws.
    Setting(
        "kp", _JOINT_KP, "Joint stiffness of the modes impedance and pid.",
        unit="Nm/rad", low=0.0, high=_MAX_STIFFNESS, source=_EXAMPLE, effect=Effect.LAW,
    ),
    Setting(
        "kd", _JOINT_KD, "Joint damping of the modes impedance and pid.",
        unit="Nm s/rad", low=0.0, high=_MAX_DAMPING, source=_EXAMPLE, effect=Effect.LAW,
    ),
    Setting(
        "ki", (50.0, 50.0, 50.0, 50.0, 20.0, 10.0, 5.0), "Integral gain of the mode pid.",
        unit="Nm/(rad s)", low=0.0, high=1000.0, effect=Effect.LAW,
        source="a tenth of kp per second, so that the integral stays slower than the arm",
    ),
    Setting(
        "integral_limit", (5.0, 5.0, 5.0, 5.0, 1.5, 1.5, 1.5), "Largest integral torque of the mode pid.",
        unit="Nm", low=0.0, high=_joints(TORQUE_LIMIT), effect=Effect.LAW,
        source="a few times the joints' friction",
    ),
    # Operational space.
    Setting(
        "ee_kp", _EE_KP, "Stiffness of the control frame in mode osc, translation then rotation.",
        unit="1/s^2", low=0.0, high=_MAX_STIFFNESS, effect=Effect.LAW,
        source="compliant: natural frequencies of 20 and 32 rad/s",
    ),
    Setting(
        "ee_kd", _EE_KD, "Damping of the control frame in mode osc; critical at 2 sqrt(ee_kp).",
        unit="1/s", low=0.0, high=_MAX_DAMPING, effect=Effect.LAW, source="critical damping",
    ),
    Setting(
        "null_kp", _joints(10.0), "Stiffness of the posture that mode osc keeps beside its task.",
        unit="1/s^2", low=0.0, high=_MAX_STIFFNESS, effect=Effect.LAW, source="far softer than the task",
    ),
    Setting(
        "null_kd", _NULL_KD, "Damping of that posture; critical at 2 sqrt(null_kp).",
        unit="1/s", low=0.0, high=_MAX_DAMPING, effect=Effect.LAW, source="critical damping",
    ),
    Setting(
        "motor_inertia", _joints(0.1), "Inertia of the motors, which libfranka's mass matrix leaves out.",
        unit="kg m^2", low=0.05, high=1.0, effect=Effect.LAW,
        source="MuJoCo Menagerie's FR3 has 0.074 to 0.195; without it the wrist is too soft in mode osc, and too light "
        "for the limit of joint velocities",
    ),
    Setting(
        "tcp_from_robot", True, "Control the end effector that is configured in the robot (F_T_EE).",
        effect=Effect.FRAME,
    ),
    Setting(
        "tcp_in_flange", (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
        "Control frame in the flange, x y z and qx qy qz qw, where tcp_from_robot is false.",
        unit="m and 1", low=(-2.0,) * 3 + (-1.01,) * 4, high=(2.0,) * 3 + (1.01,) * 4, effect=Effect.FRAME,
    ),
    # Limits of every torque.
    Setting(
        "torque_limit", _joints(TORQUE_LIMIT),
        "Largest commanded torque, gravity excluded; more only to brake a joint in time.",
        unit="Nm", low=0.0, high=_joints(TORQUE_LIMIT), source="FR3 URDF", effect=Effect.COMMAND,
    ),
    Setting(
        "torque_diff_limit", 990.0, "Largest change of the commanded torque; more only to brake a joint in time.",
        unit="Nm/s", low=1.0, high=TORQUE_RATE_LIMIT - 1.0, effect=Effect.COMMAND, field="torque_rate_limit",
        source="1 % below kMaxTorqueRate, libfranka rate_limiting.h",
    ),
    # Limits of where the arm may be.
    Setting(
        "joint_lower", _joints(POSITION_LOWER), "Lowest joint positions; near by, springs push back.",
        unit="rad", low=_joints(POSITION_LOWER), high=_joints(POSITION_UPPER), effect=Effect.COMMAND,
        source="the arm's own limits, FCI documentation",
    ),
    Setting(
        "joint_upper", _joints(POSITION_UPPER), "Highest joint positions; near by, springs push back.",
        unit="rad", low=_joints(POSITION_LOWER), high=_joints(POSITION_UPPER), effect=Effect.COMMAND,
        source="the arm's own limits, FCI documentation",
    ),
    Setting(
        "workspace_lower", (-_ANYWHERE,) * 3, "Lowest x, y, z of the control frame in the base.",
        unit="m", low=-_ANYWHERE, high=_ANYWHERE, effect=Effect.COMMAND, source="out of reach: no limit",
    ),
    Setting(
        "workspace_upper", (_ANYWHERE,) * 3, "Highest x, y, z of the control frame in the base.",
        unit="m", low=-_ANYWHERE, high=_ANYWHERE, effect=Effect.COMMAND, source="out of reach: no limit",
    ),
    Setting(
        "max_external_force", 0.0, "External force from which on the arm stops and holds until ~/release; 0: never.",
        unit="N", low=0.0, high=200.0, effect=Effect.COMMAND,
        source="below collision_force_thresholds it comes before the robot's own reflex",
    ),
    Setting(
        "max_external_torque", 0.0, "External torque from which on the arm stops and holds until ~/release; 0: never.",
        unit="Nm", low=0.0, high=100.0, effect=Effect.COMMAND,
        source="below collision_force_thresholds it comes before the robot's own reflex",
    ),
    # Streamed targets.
    Setting(
        "smooth_targets", True, "Make a smooth reference of the targets; false: use them as they come.",
        effect=Effect.LAW,
    ),
    Setting(
        "reference_bandwidth", 40.0, "How fast the reference closes in on the target.",
        unit="rad/s", low=1.0, high=60.0, effect=Effect.COMMAND,
        source="twice the natural frequency of the default ee_kp; beyond 60 it would overshoot",
    ),
    Setting(
        "extrapolation_time", 0.15, "How long a target goes on at its velocity where the next one is late.",
        unit="s", low=0.001, high=1.0, effect=Effect.COMMAND, source="some seven periods of a 50 Hz policy",
    ),
    Setting(
        "max_linear_velocity", 1.0, "Largest velocity of the reference.",
        unit="m/s", low=0.001, high=3.0, effect=Effect.COMMAND,
        source="at the most kMaxTranslationalVelocity, libfranka rate_limiting.h",
    ),
    Setting(
        "max_linear_acceleration", 8.0, "Largest acceleration of the reference.",
        unit="m/s^2", low=0.01, high=9.0, effect=Effect.COMMAND,
        source="at the most kMaxTranslationalAcceleration, libfranka rate_limiting.h",
    ),
    Setting(
        "max_angular_velocity", 2.0, "Largest angular velocity of the reference.",
        unit="rad/s", low=0.001, high=2.5, effect=Effect.COMMAND,
        source="at the most kMaxRotationalVelocity, libfranka rate_limiting.h",
    ),
    Setting(
        "max_angular_acceleration", 16.0, "Largest angular acceleration of the reference.",
        unit="rad/s^2", low=0.01, high=17.0, effect=Effect.COMMAND,
        source="at the most kMaxRotationalAcceleration, libfranka rate_limiting.h",
    ),
    Setting(
        "max_joint_velocity", _joints(np.round(0.8 * VELOCITY_LIMIT, 3)),
        "Largest velocities of the joint reference.",
        unit="rad/s", low=0.001, high=_joints(VELOCITY_LIMIT), effect=Effect.COMMAND,
        source="0.8 of the FR3 URDF's limits",
    ),
    Setting(
        "max_joint_acceleration", _joints(8.0), "Largest accelerations of the joint reference.",
        unit="rad/s^2", low=0.01, high=_joints(ACCELERATION_LIMIT), effect=Effect.COMMAND,
        source="0.8 of kMaxJointAcceleration, libfranka rate_limiting.h",
    ),
    Setting(
        "max_linear_step", 0.15, "Largest distance of a target from the reference; more is cut off.",
        unit="m", low=0.001, high=1.0, effect=Effect.COMMAND,
    ),
    Setting(
        "max_angular_step", 0.5, "Largest angle of a target from the reference; what is beyond is cut off.",
        unit="rad", low=0.001, high=3.0, effect=Effect.COMMAND,
    ),
    Setting(
        "max_joint_step", 0.5, "Largest distance of a joint target from the reference; more is cut off.",
        unit="rad", low=0.001, high=3.0, effect=Effect.COMMAND,
    ),
    # Watchdogs.
    Setting(
        "max_target_age", 0.5, "How old the stamp of a target may be, and how far in the future.",
        unit="s", low=0.01, high=10.0,
        source="ten periods of a 20 Hz policy; what comes later than that is of a situation that has passed",
    ),
    Setting(
        "torque_timeout", 0.1, "How old a torque target may be before the arm holds instead.",
        unit="s", low=0.002, high=1.0, effect=Effect.COMMAND, source="five periods of a 50 Hz policy",
    ),
    Setting(
        "heartbeat_timeout", 0.1, "How long the node may be silent before the arm slows down and holds.",
        unit="s", low=0.1, high=2.0, effect=Effect.COMMAND,
        source="ten ticks of the node; what was under way goes on when the node is back within half a second",
    ),
    # Moves and trajectories.
    Setting(
        "move_velocity", _joints(np.round(0.5 * VELOCITY_LIMIT, 3)),
        "Largest velocities of ~/move where its goal gives none.",
        unit="rad/s", low=0.001, high=_joints(VELOCITY_LIMIT), source="half of the FR3 URDF's limits",
    ),
    Setting(
        "move_acceleration", _joints(5.0), "Largest accelerations of ~/move.",
        unit="rad/s^2", low=0.01, high=_joints(ACCELERATION_LIMIT),
        source="half of kMaxJointAcceleration, libfranka rate_limiting.h",
    ),
    Setting(
        "move_jerk", _joints(100.0), "Largest jerks of ~/move.",
        unit="rad/s^3", low=0.1, high=5000.0,
        source="full acceleration after 50 ms; at the most kMaxJointJerk, libfranka rate_limiting.h",
    ),
    Setting(
        "move_tolerance", 0.01, "Largest distance of a joint from a goal that gives none.",
        unit="rad", low=0.0001, high=0.5,
    ),
    Setting(
        "move_settle_time", 1.0, "How long the arm may take to come within the tolerance at the end.",
        unit="s", low=0.0, high=30.0,
    ),
    Setting(
        "path_tolerance", 0.0, "Largest distance of a joint from a trajectory that gives none; 0: no limit.",
        unit="rad", low=0.0, high=3.0, source="joint_trajectory_controller has none either",
    ),
    Setting(
        "motion_kp", _JOINT_KP, "Joint stiffness during moves and trajectories, and of holding in mode torque.",
        unit="Nm/rad", low=0.0, high=_MAX_STIFFNESS, source=_EXAMPLE, effect=Effect.LAW,
    ),
    Setting(
        "motion_kd", _JOINT_KD, "Joint damping during moves and trajectories, and of holding in mode torque.",
        unit="Nm s/rad", low=0.0, high=_MAX_DAMPING, source=_EXAMPLE, effect=Effect.LAW,
    ),
    # The robot's own reactions.
    Setting(
        "collision_torque_thresholds", (20.0, 20.0, 18.0, 18.0, 16.0, 14.0, 12.0),
        "External joint torques from which on the robot stops with joint_reflex.",
        unit="Nm", low=0.1, high=100.0, lock=Lock.ACTIVE, effect=Effect.COLLISION,
        source="libfranka examples/generate_joint_position_motion.cpp",
    ),
    Setting(
        "collision_force_thresholds", (20.0, 20.0, 20.0, 25.0, 25.0, 25.0),
        "External forces and torques from which on the robot stops with cartesian_reflex.",
        unit="N and Nm", low=0.1, high=100.0, lock=Lock.ACTIVE, effect=Effect.COLLISION,
        source="libfranka examples/generate_joint_position_motion.cpp",
    ),
    Setting(
        "restart_if_needed", False,
        "Let services such as ~/set_load stop an active arm, set it, and activate it again; false: refuse.",
    ),
)  # fmt: skip

_BY_NAME = {setting.name: setting for setting in SETTINGS}
#: Settings that have to leave room between them.
RANGES = (("joint_lower", "joint_upper"), ("workspace_lower", "workspace_upper"))


class Settings:
    """The value of every setting; ``settings["kp"]``, arrays as numpy ones (read-only by agreement).

    :param values: those that differ from the defaults, by name.
    :raises ConfigurationError: one of them does not exist or cannot be used.
    """

    def __init__(self, **values: Any) -> None:
        self._values = {setting.name: setting.parse(_plain(setting.default)) for setting in SETTINGS}
        #: Settings that the robot did not take: they count as changed until it does.
        self._not_taken: set[str] = set()
        self.update(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    @staticmethod
    def check(name: str, value: Any) -> Any:
        """``value`` as it would be used, see :meth:`~aiofranka_ros.setting.Setting.parse`; nothing is changed.

        :raises ConfigurationError: there is no such setting, or the value cannot be used.
        """
        setting = _BY_NAME.get(name)
        if setting is None:
            raise ConfigurationError(f"there is no setting {name!r}; there are: {', '.join(_BY_NAME)}")
        parsed = setting.parse(value)
        if name == "tcp_frame" and parsed in ArmNames().links:
            raise ConfigurationError(f"tcp_frame is {parsed!r}, which is one of the arm's links")
        if name == "tcp_in_flange" and abs(np.linalg.norm(parsed[3:]) - 1.0) > _QUATERNION_TOLERANCE:
            raise ConfigurationError(
                f"tcp_in_flange has a quaternion with a norm of {np.linalg.norm(parsed[3:]):.3f}; allowed: 1"
            )
        return parsed

    def check_together(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """``values`` as they would be used beside those that there are; nothing is changed.

        :raises ConfigurationError: one of them does not exist or cannot be used, or they contradict each other.
        """
        parsed = {name: self.check(name, value) for name, value in values.items()}
        merged = self._values | parsed
        for lower, upper in RANGES:
            if (merged[lower] >= merged[upper]).any():
                raise ConfigurationError(
                    f"{lower} is {merged[lower].tolist()}, which is not below {upper}, {merged[upper].tolist()}"
                )
        return parsed

    def update(self, values: Mapping[str, Any]) -> set[str]:
        """Use ``values`` from now on, all of them or, where one is refused, none.

        :returns: the names whose values the control process does not know yet.
        :raises ConfigurationError: one of them does not exist or cannot be used.
        """
        parsed = self.check_together(values)
        changed = {name for name, value in parsed.items() if not np.array_equal(self._values[name], value)}
        changed |= self._not_taken
        self._not_taken = set()
        self._values |= parsed
        return changed

    def commands(self, robot_tcp: Array) -> dict[str, Any]:
        """Every field of the commands that a setting decides, but for the mode.

        :param robot_tcp: the end effector configured in the robot, in the flange (4, 4).
        """
        fields = {
            setting.field or setting.name: self[setting.name]
            for setting in SETTINGS
            if setting.effect in (Effect.COMMAND, Effect.LAW)
        }
        fields["flange_to_tcp"] = robot_tcp if self["tcp_from_robot"] else pose_matrix(self["tcp_in_flange"])
        return fields

    def apply(self, client: ControlClient, names: Iterable[str]) -> None:
        """Let the control process know what changed, all of it at the beginning of one cycle.

        :param names: what :meth:`update` returned.
        :raises CommandRefused: the robot does not accept the collision thresholds.
        :raises ControlProcessDied: the control process is gone.
        """
        effects = {_BY_NAME[name].effect for name in names}
        if effects & {Effect.COMMAND, Effect.LAW, Effect.FRAME, Effect.MODE}:
            client.update(
                self.commands(client.state()["robot_tcp"]),
                mode=self.mode if Effect.MODE in effects else None,
                blend=bool(effects & {Effect.LAW, Effect.FRAME}),
            )
        if Effect.COLLISION in effects:
            self.apply_collision_behavior(client)

    def apply_collision_behavior(self, client: ControlClient) -> None:
        """Set the robot's thresholds of contact and collision; only while it is not active.

        :raises CommandRefused: the robot does not accept them.
        """
        names = ("collision_torque_thresholds", "collision_force_thresholds")
        torque, force = (self[name] for name in names)
        try:
            client.set_robot(RobotSetting.COLLISION_BEHAVIOR, torque, torque, force, force)
        except FrankaError:
            self._not_taken.update(names)
            raise

    @property
    def names(self) -> ArmNames:
        """What the joints and frames are called."""
        return ArmNames(self["arm_prefix"], self["tcp_frame"])

    @property
    def mode(self) -> Mode:
        """The control law."""
        return Mode.parse(self["mode"])


def _plain(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value
