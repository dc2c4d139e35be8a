"""The settings of a gripper: defaults, units, ranges and descriptions in one table.

They are the parameters of the gripper's node (:mod:`aiofranka_ros.gripper_node.parameters`), and some are those of
``RobotInterface(gripper=...)``. ``config/gripper.yaml`` and docs/reference.md follow from the table; a test compares
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from aiofranka_ros.control.setting import Setting, Stage
from aiofranka_ros.errors import ConfigurationError, unknown

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


#: Those that matter without a node, too.
WITHOUT_NODE = (
    "default_speed", "default_force", "default_epsilon", "goal_tolerance", "stall_timeout", "stop_timeout",
    "command_timeout",
)  # fmt: skip


class Settings(Protocol):
    """The present values; one is read whenever it is needed, so a change takes effect with the next command."""

    def __getitem__(self, name: str) -> Any: ...


def without_node(values: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every setting for a gripper without a node: the default, except for those in ``values``.

    :raises ConfigurationError: there is no such setting, or its value cannot be used.
    """
    for name in values:
        if name not in WITHOUT_NODE:
            raise ConfigurationError(unknown("setting of the gripper called", name, WITHOUT_NODE))
    return {setting.name: setting.parse(values.get(setting.name, setting.default)) for setting in GRIPPER_SETTINGS}
