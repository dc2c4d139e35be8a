"""The values of all settings of an arm: validated, and sent to the control process when they change.

Used in the process that owns an arm: by the node, and by :class:`~aiofranka_ros.api.robot_interface.RobotInterface`
without ROS. :mod:`aiofranka_ros.arm.setting_table` lists the settings.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.records import Axis, Interpolation, Mode
from aiofranka_ros.control.robot_records import RobotSetting
from aiofranka_ros.control.setting import Effect
from aiofranka_ros.errors import ConfigurationError, FrankaError, unknown
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.kinematics import pose_matrix
from aiofranka_ros.model.names import ArmNames

_log = logging.getLogger(__name__)

#: Largest deviation from 1 of the norm of the quaternion in ``tcp_in_flange``.
_QUATERNION_TOLERANCE = 0.01
_BY_NAME = {setting.name: setting for setting in SETTINGS}
#: The names of all settings.
SETTING_NAMES = _BY_NAME.keys()
#: Settings of which the first must be below the second.
RANGES = (("joint_lower", "joint_upper"), ("workspace_lower", "workspace_upper"))


class ArmSettings:
    """The value of every setting; ``settings["kp"]``, arrays as numpy ones (read-only by agreement).

    :param values: those that differ from the defaults, by name; errors as :meth:`update`.
    """

    def __init__(self, **values: Any) -> None:
        self._values = {setting.name: setting.parse(setting.default) for setting in SETTINGS}
        #: Settings that the robot did not accept: they count as changed until it does.
        self._not_taken: set[str] = set()
        self.update(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    @staticmethod
    def check(name: str, value: Any) -> Any:
        """``value`` as it would be used; ``ConfigurationError`` if it cannot, or if there is no such setting."""
        setting = _BY_NAME.get(name)
        if setting is None:
            raise ConfigurationError(unknown("setting", name, _BY_NAME))
        parsed = setting.parse(value)
        if name == "tcp_frame" and parsed in ArmNames().links:
            raise ConfigurationError(f"tcp_frame is {parsed!r}, which is one of the arm's links")
        if name == "tcp_in_flange" and abs(np.linalg.norm(parsed[3:]) - 1.0) > _QUATERNION_TOLERANCE:
            raise ConfigurationError(
                f"tcp_in_flange has a quaternion with a norm of {np.linalg.norm(parsed[3:]):.3f}; allowed: 1"
            )
        return parsed

    def check_together(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """``values`` as they would be used together with the present ones; nothing is changed.

        :raises ConfigurationError: a setting does not exist, or its value cannot be used, alone or with the others.
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
        """Use ``values`` from now on; if one is refused, none of them.

        :returns: the names whose values the control process does not have yet.
        :raises ConfigurationError: a setting does not exist, or its value cannot be used.
        """
        parsed = self.check_together(values)
        changed = {name for name, value in parsed.items() if not np.array_equal(self._values[name], value)}
        changed |= self._not_taken
        self._not_taken = set()
        self._values |= parsed
        return changed

    def commands(self, robot_tcp: Array) -> dict[str, Any]:
        """Every field of the commands that a setting decides.

        :param robot_tcp: the end effector configured in the robot, in the flange (4, 4).
        """
        fields = {
            setting.field or setting.name: self[setting.name]
            for setting in SETTINGS
            if setting.effect in (Effect.COMMAND, Effect.LAW)
        }
        fields["mode"] = self.mode
        fields["free_axes"] = sum(1 << axis for axis in Axis if axis.name.lower() in self["free_axes"])
        fields["interpolation"] = Interpolation[self["interpolation"].upper()]
        fields["flange_to_tcp"] = robot_tcp if self["tcp_from_robot"] else pose_matrix(self["tcp_in_flange"])
        return fields

    def apply(self, client: ControlClient, names: Iterable[str]) -> None:
        """Send what :meth:`update` returned to the control process, which uses all of it from the same cycle on.

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
        if Effect.MODE in effects and self.mode is Mode.FREE:
            _log.info("mode free: %s", self.at_first)
        if Effect.COLLISION in effects:
            self.apply_collision_behavior(client)

    def follow_robot(self, client: ControlClient) -> None:
        """Use the end effector that is configured in the robot now, if it is another one than before.

        :raises ControlProcessDied: the control process is gone.
        """
        if not np.array_equal(self.commands(client.state()["robot_tcp"])["flange_to_tcp"], client.flange_to_tcp):
            self.apply(client, ["tcp_from_robot"])

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
    def at_first(self) -> str:
        """What the arm does in its mode until a target comes, for people who watch it."""
        if self.mode is not Mode.FREE:
            return "the arm holds"
        force = self["collision_force_thresholds"][:3].min()
        return f"guide the arm by hand; the robot stops if it is pushed with {force:g} N (collision_force_thresholds)"

    @property
    def names(self) -> ArmNames:
        """Names of the joints and frames."""
        return ArmNames(self["arm_prefix"], self["tcp_frame"])

    @property
    def mode(self) -> Mode:
        """The control law."""
        return Mode[self["mode"].upper()]
