"""Descriptors of settings that are ROS parameters.

Used by the arm's node and the gripper's node, in their processes, when they declare their parameters.
"""

from __future__ import annotations

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from aiofranka_ros.setting import Setting, Stage


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
