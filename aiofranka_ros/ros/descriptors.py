"""Settings as parameters of ROS: their descriptors, and answers to changes that rclpy refuses without a reason.

Used by the nodes, in their processes, when they declare their parameters and when a client sets some.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from aiofranka_ros.setting import AT_THE_START, Setting, Stage
from aiofranka_ros.text import unknown


def describe(setting: Setting) -> ParameterDescriptor:
    """The descriptor of a parameter, with its range."""
    descriptor = ParameterDescriptor(
        description=setting.text,
        additional_constraints=setting.terms,
        read_only=setting.locked_from is Stage.STARTED,
        # The node checks types itself, so that it can accept integers for floats.
        dynamic_typing=True,
    )
    # Graphical tools show a range as a slider. ROS has no ranges for arrays.
    if isinstance(setting.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=setting.low, to_value=setting.high, step=0.0)]
    elif isinstance(setting.default, int) and not isinstance(setting.default, bool):
        descriptor.integer_range = [IntegerRange(from_value=setting.low, to_value=setting.high, step=1)]
    return descriptor


class ExplainedParameters(Node):
    """A base of nodes, before any other: a client that sets a parameter in vain gets the reason.

    rclpy's own answers are ``Invalid access to undeclared parameter(s): []`` and ``read-only parameter``.
    """

    def set_parameters_atomically(self, parameter_list: Sequence[Parameter]) -> SetParametersResult:
        """See :meth:`rclpy.node.Node.set_parameters_atomically`; rclpy's services call it for every request."""
        for parameter in parameter_list:
            name, reason = parameter.name, ""
            if not self.has_parameter(name):
                reason = unknown("parameter", name, self._names())
            elif self.describe_parameter(name).read_only:
                reason = f"{name} can be set {AT_THE_START}"
            if reason:
                return SetParametersResult(successful=False, reason=reason)
        result: Any = super().set_parameters_atomically(parameter_list)
        return result

    def _names(self) -> list[str]:
        return list(self.get_parameters_by_prefix(""))
