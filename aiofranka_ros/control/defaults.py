"""A complete and safe set of commands: where every client, test and compilation of the cycle starts from.

Used by both sides of the shared memory. The values are the defaults of the settings, see
:mod:`aiofranka_ros.arm.setting_table`, where each one has its source; a test compares them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aiofranka_ros.control.records import COMMANDS, Axis, Interpolation, Mode, new
from aiofranka_ros.model.fr3 import POSITION_LOWER, POSITION_UPPER, TORQUE_LIMIT, VELOCITY_LIMIT

#: No control frame gets this far from the base [m]: no limit.
_OUT_OF_REACH = 2.0

_DEFAULTS: dict[str, Any] = {
    "mode": Mode.OSC,
    "flange_to_tcp": np.eye(4),
    "kp": (600.0, 600.0, 600.0, 600.0, 250.0, 250.0, 150.0),
    "kd": (50.0, 50.0, 50.0, 50.0, 30.0, 25.0, 10.0),
    "ki": (50.0, 50.0, 50.0, 50.0, 20.0, 10.0, 5.0),
    "integral_limit": (5.0, 5.0, 5.0, 5.0, 1.5, 1.5, 1.5),
    "ee_kp": (400.0, 400.0, 400.0, 1000.0, 1000.0, 1000.0),
    "ee_kd": (40.0, 40.0, 40.0, 63.2, 63.2, 63.2),
    "null_kp": 10.0,
    "null_kd": 6.32,
    "motion_kp": (600.0, 600.0, 600.0, 600.0, 250.0, 250.0, 150.0),
    "motion_kd": (50.0, 50.0, 50.0, 50.0, 30.0, 25.0, 10.0),
    "free_damping": (1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5),
    "free_axes": sum(1 << axis for axis in Axis),
    "motor_inertia": 0.1,
    "torque_limit": TORQUE_LIMIT,
    "torque_rate_limit": 990.0,
    "smooth_targets": 1,
    "reference_bandwidth": 40.0,
    "interpolation": Interpolation.AUTO,
    "extrapolation_time": 0.15,
    "max_linear_velocity": 1.0,
    "max_linear_acceleration": 8.0,
    "max_angular_velocity": 2.0,
    "max_angular_acceleration": 16.0,
    "max_joint_velocity": np.round(0.8 * VELOCITY_LIMIT, 3),
    "max_joint_acceleration": 8.0,
    "approach_far_streams": 1,
    "approach_linear_velocity": 0.1,
    "approach_angular_velocity": 0.3,
    "approach_joint_velocity": 0.3,
    "max_linear_step": 0.15,
    "max_angular_step": 0.5,
    "max_joint_step": 0.5,
    "joint_lower": POSITION_LOWER,
    "joint_upper": POSITION_UPPER,
    "workspace_lower": -_OUT_OF_REACH,
    "workspace_upper": _OUT_OF_REACH,
    "torque_timeout": 0.1,
    "velocity_timeout": 0.25,
    "heartbeat_timeout": 0.1,
    "target_orientation": (0.0, 0.0, 0.0, 1.0),
}


def default_commands() -> npt.NDArray[Any]:
    """A new record of :data:`~aiofranka_ros.control.records.COMMANDS`, an array of one, with every field set."""
    commands = new(COMMANDS)
    for name, value in _DEFAULTS.items():
        commands[name] = value
    return commands
