"""The parameters of the gripper's node: defaults, units, ranges and descriptions in one table, validated when set.

Used by the gripper's node, in its process and its one thread. ``config/gripper.yaml`` and docs/reference.md follow from
the table; a test compares them. A value is read whenever it is needed, so a change takes effect with the next goal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from aiofranka_ros.control.setting import Setting, Stage
from aiofranka_ros.errors import ConfigurationError
from aiofranka_ros.ros.descriptors import describe

#: Franka Hand: 50 mm/s for each of its two fingers [m/s], and its largest force [N]; the largest continuous one is 70.
MAX_SPEED, MAX_FORCE = 0.1, 140.0
#: The slowest speed that does not count as standing still [m/s].
MIN_SPEED = 0.001

GRIPPER_SETTINGS: tuple[Setting, ...] = (
    # Connection.
    Setting(
        "robot_ip", "sim", "Address of the robot that the gripper is mounted on; sim: the simulated arm of arm_node.",
        locked_from=Stage.STARTED,
    ),
    Setting(
        "arm_node", "aiofranka", "Name of the arm's node, in the same namespace; needed only if robot_ip is sim.",
        locked_from=Stage.STARTED,
    ),
    Setting(
        "arm_prefix", "", "Prefix of the names of the fingers' joints, before an underscore.",
        locked_from=Stage.STARTED, is_name=True, source="franka_description's arm_prefix, as for the arm's node",
    ),
    Setting(
        "state_rate", 30.0, "How often the state is published and the answers of the gripper are read.",
        unit="Hz", low=10.0, high=200.0, locked_from=Stage.STARTED,
    ),
    # Defaults for goals.
    Setting(
        "default_speed", MAX_SPEED, "Speed of goals without one (0), and of gripper_action.",
        unit="m/s", low=MIN_SPEED, high=MAX_SPEED, source="Franka Hand, 50 mm/s for each finger",
    ),
    Setting(
        "default_force", 20.0, "Force of grasps without one (0).",
        unit="N", low=0.1, high=MAX_FORCE, source="Franka Hand: 70 N continuous, at most 140 N",
    ),
    Setting(
        "default_epsilon", 0.005, "Tolerance of the width of a grasped object, for goals without one (0).",
        unit="m", low=0.0001, high=0.08, source="libfranka, Gripper::grasp",
    ),
    # gripper_action.
    Setting(
        "goal_tolerance", 0.002, "Largest error of a width that counts as reached.",
        unit="m", low=0.0001, high=0.02,
    ),
    Setting(
        "allow_stalling", True, "Whether gripper_action succeeds if an object stops the fingers.",
    ),
    Setting(
        "chunk_frequency", 15.0, "How many points of a chunk are due in a second if it gives no times.",
        unit="Hz", low=0.5, high=1000.0, source="as for the arm's node",
    ),
    Setting(
        "goals_outlive_clients", False,
        "Whether commands continue to their end if their client is gone; false: the gripper stops.",
    ),
    # Timeouts.
    Setting(
        "stall_timeout", 1.0, "Time without progress after which a move counts as blocked.",
        unit="s", low=0.2, high=60.0, source="the gripper itself keeps trying for minutes",
    ),
    Setting(
        "stop_timeout", 1.0, "How long a client that cancels waits for the gripper to confirm that it stopped.",
        unit="s", low=0.1, high=10.0,
    ),
    Setting(
        "command_timeout", 20.0, "How long a command may take, in addition to the time of its motion at its speed.",
        unit="s", low=1.0, high=300.0, source="homing takes less than ten seconds",
    ),
)  # fmt: skip

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
