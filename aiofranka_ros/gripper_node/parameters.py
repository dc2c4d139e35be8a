"""The parameters of the gripper's node: the table of a gripper's settings, validated when one is set.

Used by the gripper's node, in its process and its one thread. A value is read whenever it is needed, so a change takes
effect with the next goal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from aiofranka_ros.arm.gripper.settings import GRIPPER_SETTINGS
from aiofranka_ros.errors import ConfigurationError
from aiofranka_ros.ros.descriptors import describe

_BY_NAME = {setting.name: setting for setting in GRIPPER_SETTINGS}


class GripperParameters:
    """The declared parameters of one node; ``parameters["default_speed"]``.

    :param node: the node that declares them; their values may come from files and the command line.
    :raises rclpy.exceptions.ParameterException: a value from a file or the command line cannot be used.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        node.add_on_set_parameters_callback(self._on_set)
        for setting in GRIPPER_SETTINGS:
            node.declare_parameter(setting.name, setting.default, describe(setting))

    def __getitem__(self, name: str) -> Any:
        return _BY_NAME[name].parse(self._node.get_parameter(name).value)

    def _on_set(self, changes: Sequence[Parameter]) -> SetParametersResult:
        try:
            for change in changes:
                if change.name in _BY_NAME:  # Else a parameter of ROS, e.g. use_sim_time.
                    _BY_NAME[change.name].parse(change.value)
        except ConfigurationError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)
