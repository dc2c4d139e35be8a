"""Settings as parameters of ROS: their descriptors, and answers to changes that rclpy refuses without a reason.

Used by the nodes, in their processes, when they declare their parameters and when a client sets some.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.node import Node
from rclpy.parameter import Parameter

from aiofranka_ros.control.setting import AT_THE_START, Setting, Stage
from aiofranka_ros.errors import unknown
from aiofranka_ros.ros.bounded import bounded_service
from aiofranka_ros.ros.requests import service_channel

#: Most parameters in one request: more than a node has. Each may take a millisecond.
_MOST = 150


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


def same(one: Any, other: Any) -> bool:
    """Whether two values of a parameter are equal, lists or arrays included."""
    return bool(np.array_equal(one, other))


def _for_few(answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """``answer`` for requests with few parameters; others are refused, with the reason if the response has room."""

    def callback(request: Any, response: Any) -> Any:
        counts = [len(getattr(request, field, ())) for field in ("parameters", "names", "prefixes")]
        if max(counts) <= _MOST:
            return answer(request, response)
        refusal = SetParametersResult(reason=f"more than {_MOST} parameters at once: send them in parts")
        if isinstance(response, SetParametersAtomically.Response):
            response.result = refusal
        elif isinstance(response, SetParameters.Response):
            response.results = [refusal] * max(counts)
        return response

    return callback


class ExplainedParameters(Node):
    """A base of nodes, before any other: a client that sets a parameter in vain gets the reason.

    rclpy's own answers are ``Invalid access to undeclared parameter(s): []`` and ``read-only parameter``. A value that
    does not change is accepted, so a client may send back all that it has read. Requests for very many are refused.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for service in self.services:
            service.srv_type = bounded_service(service.srv_type, _MOST)
            service.channel = service_channel(service)
            service.callback = _for_few(service.callback)

    def set_parameters_atomically(self, parameter_list: Sequence[Parameter]) -> SetParametersResult:
        """See :meth:`rclpy.node.Node.set_parameters_atomically`; rclpy's services call it for every request."""
        changeable = []
        for parameter in parameter_list:
            name, reason = parameter.name, ""
            if not self.has_parameter(name):
                reason = unknown("parameter", name, self._names())
            elif not self.describe_parameter(name).read_only:
                changeable.append(parameter)
            elif not same(parameter.value, self.get_parameter(name).value):
                reason = f"{name} can be set {AT_THE_START}"
            if reason:
                return SetParametersResult(successful=False, reason=reason)
        if not changeable:
            return SetParametersResult(successful=True)
        result: Any = super().set_parameters_atomically(changeable)
        return result

    def _names(self) -> list[str]:
        return list(self.get_parameters_by_prefix(""))
