"""How a setting describes itself as a parameter of ROS.

Used where parameters are declared, by the arm's node and by the gripper's, in their processes.
"""

from __future__ import annotations

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from aiofranka_ros.setting import Setting, Stage


def describe(setting: Setting) -> ParameterDescriptor:
    """What ``ros2 param describe`` shows."""
    descriptor = ParameterDescriptor(
        description=setting.text,
        additional_constraints=setting.terms,
        read_only=setting.locked_from is Stage.STARTED,
        # Types are checked here, so that integers can stand for floats.
        dynamic_typing=True,
    )
    # Graphical tools make a slider of a range. ROS has none for arrays.
    if isinstance(setting.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=setting.low, to_value=setting.high, step=0.0)]
    elif isinstance(setting.default, int) and not isinstance(setting.default, bool):
        descriptor.integer_range = [IntegerRange(from_value=setting.low, to_value=setting.high, step=1)]
    return descriptor
