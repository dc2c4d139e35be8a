"""The node's settings as parameters of ROS: declared with descriptions and ranges, and validated together.

Used by the node, in its process and its one thread. The settings are listed in :mod:`aiofranka_ros.arm.settings`.

Validation has no side effects, because ROS may still refuse a change after it. A change takes effect when the node
calls :meth:`Parameters.changes`, which it does before it answers the request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.arm.settings import RANGES, ArmSettings
from aiofranka_ros.control.setting import Stage
from aiofranka_ros.errors import ConfigurationError
from aiofranka_ros.ros.descriptors import describe, same

_SETTINGS = {setting.name: setting for setting in SETTINGS}


class Parameters(ArmSettings):
    """The declared parameters of one node.

    :param node: declares them; their values may come from files and the command line.
    :param reached: the state that the node has reached; called for every request to change a parameter.
    :raises rclpy.exceptions.ParameterException: a value from a file or the command line cannot be used.
    """

    def __init__(self, node: Node, reached: Callable[[], Stage]) -> None:
        super().__init__()
        self._node = node
        self._reached = reached
        self._declaring = True
        self._restart = False  # Whether the mode was set, perhaps to the present one.
        node.add_on_set_parameters_callback(self._on_set)
        for setting in SETTINGS:
            default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
            node.declare_parameter(setting.name, default, describe(setting))
            if setting.is_list and node.get_parameter(setting.name).value is None:
                node.set_parameters([Parameter(setting.name, value=[])])
        self._declaring = False
        #: Whether parameters were set since :meth:`changes` was called.
        self.dirty = True
        self.changes()

    def changes(self) -> set[str]:
        """Use the values that were set since the last call.

        :returns: the names whose values the control process does not know yet, and ``mode`` if it was set: then its
            targets start from where the arm is, even if it is the same mode.
        """
        self.dirty = False
        restart, self._restart = {"mode"} if self._restart else set(), False
        return restart | self.update({name: self._node.get_parameter(name).value for name in _SETTINGS})

    def adopt(self, **values: Any) -> None:
        """Set ``values`` that the robot already uses; they need not be applied."""
        self.update(values)
        self._node.set_parameters([Parameter(name, value=self[name].tolist()) for name in values])

    def _on_set(self, changes: Sequence[Parameter]) -> SetParametersResult:
        ours = [change for change in changes if change.name in _SETTINGS]  # Others belong to ROS, such as use_sim_time.
        # Values that were set but not used yet count too.
        related = [name for names in RANGES for name in names if self._node.has_parameter(name)]
        values = {name: self._node.get_parameter(name).value for name in related}
        try:
            self.check_together(values | {change.name: self._value_of(change) for change in ours})
            for change in ours if not self._declaring else ():
                setting = _SETTINGS[change.name]
                locked = setting.locked_from is not None and self._reached() >= setting.locked_from
                if locked and not same(change.value, self._node.get_parameter(change.name).value):
                    raise ConfigurationError(f"{change.name} can be changed {setting.changeable}")
        except ConfigurationError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.dirty = True
        self._restart |= any(change.name == "mode" for change in ours) and not self._declaring
        return SetParametersResult(successful=True)

    def _value_of(self, change: Parameter) -> Any:
        # ROS reads an empty list in a file as no value at all. Later, none would delete the parameter.
        empty = self._declaring and change.value is None and _SETTINGS[change.name].is_list
        return [] if empty else change.value
