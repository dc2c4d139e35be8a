"""The parameters of the gripper's node: defaults, units, ranges and meanings in one table, validated when set.

Used by the gripper's node, in its process and its one thread. ``config/gripper.yaml`` and docs/reference.md follow from
the table; a test compares them. Values are read where they are needed, so that a change takes effect with the next
goal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from aiofranka_ros.errors import ConfigurationError
from aiofranka_ros.ros.descriptors import describe
from aiofranka_ros.setting import Setting, Stage

#: Of the Franka Hand: 50 mm/s for each of its two fingers, and its largest force (not the continuous one, 70 N).
MAX_SPEED, MAX_FORCE = 0.1, 140.0
#: The slowest speed that is not taken for standing still [m/s].
MIN_SPEED = 0.001

GRIPPER_SETTINGS: tuple[Setting, ...] = (
    # Connection.
    Setting(
        "robot_ip", "sim", "Address of the robot that the gripper is mounted on; sim: the simulated arm of arm_node.",
        locked_from=Stage.STARTED,
    ),
    Setting(
        "arm_node", "aiofranka", "Name of the arm's node, in the same namespace; needed only where robot_ip is sim.",
        locked_from=Stage.STARTED,
    ),
    Setting(
        "arm_prefix", "", "What the names of the fingers' joints begin with, and an underscore.",
        locked_from=Stage.STARTED, is_name=True, source="franka_description's arm_prefix, as for the arm's node",
    ),
    Setting(
        "state_rate", 30.0, "How often the state is published and answers of the gripper are looked for.",
        unit="Hz", low=10.0, high=200.0, locked_from=Stage.STARTED,
    ),
    # What goals leave out.
    Setting(
        "default_speed", MAX_SPEED, "Speed of goals that give none (0), and of gripper_action.",
        unit="m/s", low=MIN_SPEED, high=MAX_SPEED, source="Franka Hand, 50 mm/s for each finger",
    ),
    Setting(
        "default_force", 20.0, "Force of grasps that give none (0).",
        unit="N", low=0.1, high=MAX_FORCE, source="Franka Hand: 70 N continuous, 140 N at the most",
    ),
    Setting(
        "default_epsilon", 0.005, "How far the width of a grasped object may be off where a goal does not say (0).",
        unit="m", low=0.0001, high=0.08, source="libfranka, Gripper::grasp",
    ),
    # gripper_action.
    Setting(
        "goal_tolerance", 0.002, "How far off the width may be that counts as reached.",
        unit="m", low=0.0001, high=0.02,
    ),
    Setting(
        "allow_stalling", True, "Whether gripper_action succeeds where an object stopped the fingers.",
    ),
    # Patience.
    Setting(
        "stall_timeout", 1.0, "After how long without progress a move counts as blocked.",
        unit="s", low=0.2, high=60.0, source="the gripper itself goes on trying for minutes",
    ),
    Setting(
        "stop_timeout", 1.0, "How long whoever cancels waits for the gripper to confirm that it stopped.",
        unit="s", low=0.1, high=10.0,
    ),
    Setting(
        "command_timeout", 20.0, "How long a command may take, beside the time that its way takes at its speed.",
        unit="s", low=1.0, high=300.0, source="homing takes less than ten seconds",
    ),
)  # fmt: skip

_BY_NAME = {setting.name: setting for setting in GRIPPER_SETTINGS}


class GripperParameters:
    """The declared parameters of one node; ``parameters["default_speed"]``.

    :param node: it declares them; their values may come from files and the command line.
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
                if change.name in _BY_NAME:  # Else ROS's own, such as use_sim_time.
                    _BY_NAME[change.name].parse(change.value)
        except ConfigurationError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)
