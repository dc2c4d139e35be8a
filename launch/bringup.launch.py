"""Start an arm: its node, the gripper's node, the robot description if it is installed, and RViz if asked for.

    ros2 launch aiofranka_ros bringup.launch.py                          # a simulated arm
    ros2 launch aiofranka_ros bringup.launch.py robot_ip:=172.16.0.2

``two_arms.launch.py`` does that twice.

The launch ends with the node: with exit status 0 if the node's was 0, else with 1, because launch has no other status.
The node is an ordinary ``Node`` action and starts itself through ``autostart``, because ``LifecycleNode`` got an
argument for that only in Kilted; ``ctl`` and ``ros2 lifecycle`` work with it all the same.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import Command, LaunchConfiguration, PythonExpression
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.ros.launch_arguments import check
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

SHARE = get_package_share_directory("aiofranka_ros")
#: With it, the nodes end when this launch does, also if it is killed. See aiofranka_ros/ros/running.py.
END_WITH_LAUNCH = {"AIOFRANKA_ROS_LAUNCH": str(os.getpid())}
#: The same for programs that do not look at it: the kernel sends them SIGTERM.
END_OTHERS_WITH_LAUNCH = "setpriv --pdeathsig TERM" if shutil.which("setpriv") else None
#: Always a string: launch would read ``on`` as a boolean.
ARM_PREFIX = ParameterValue(LaunchConfiguration("arm_prefix"), value_type=str)
#: The frame that RViz shows everything in.
BASE_FRAME = PythonExpression(["'_'.join(filter(None, ('", LaunchConfiguration("arm_prefix"), "', 'fr3_link0')))"])


def generate_launch_description() -> LaunchDescription:
    """Entry point of ``ros2 launch``."""
    return LaunchDescription(
        [
            OpaqueFunction(function=_check_arguments),
            DeclareLaunchArgument(
                "robot_ip",
                default_value="sim",
                description="address of the robot's FCI; sim starts a simulated arm; wins over config_file",
            ),
            DeclareLaunchArgument(
                "namespace", default_value="", description="namespace of the node, for more than one arm"
            ),
            DeclareLaunchArgument(
                "arm_prefix",
                default_value="",
                description="prefix of the names of joints and frames, for more than one arm; wins over the "
                "configuration files",
            ),
            DeclareLaunchArgument(
                "mode",
                default_value="",
                description="control law: osc, impedance, pid, torque or free; empty: as in config_file",
            ),
            DeclareLaunchArgument(
                "config_file",
                default_value=os.path.join(SHARE, "config", "fr3.yaml"),
                description="parameters of the node",
            ),
            DeclareLaunchArgument(
                "autostart",
                default_value="true",
                choices=["true", "false"],
                description="configure and activate the node, even if config_file does not; false: use ctl",
            ),
            DeclareLaunchArgument(
                "gripper", default_value="true", choices=["true", "false"], description="start the gripper's node"
            ),
            DeclareLaunchArgument(
                "gripper_config_file",
                default_value=os.path.join(SHARE, "config", "gripper.yaml"),
                description="parameters of the gripper's node",
            ),
            DeclareLaunchArgument(
                "rviz",
                default_value="false",
                choices=["true", "false"],
                description="show the arm in RViz, with tools that move it",
            ),
            OpaqueFunction(function=_node),
            Node(
                package="aiofranka_ros",
                executable="gripper_node",
                name="franka_gripper",
                namespace=LaunchConfiguration("namespace"),
                # The node gets the address of a simulated arm from the arm's node.
                parameters=[
                    LaunchConfiguration("gripper_config_file"),
                    {"robot_ip": LaunchConfiguration("robot_ip"), "arm_prefix": ARM_PREFIX},
                ],
                additional_env=END_WITH_LAUNCH,
                output="screen",
                emulate_tty=True,
                condition=IfCondition(LaunchConfiguration("gripper")),
            ),
            OpaqueFunction(function=_robot_description),
            Node(
                package="rviz2",
                executable="rviz2",
                prefix=END_OTHERS_WITH_LAUNCH,
                namespace=LaunchConfiguration("namespace"),
                arguments=["-d", os.path.join(SHARE, "config", "bringup.rviz"), "-f", BASE_FRAME],
                condition=IfCondition(LaunchConfiguration("rviz")),
            ),
            Node(
                package="aiofranka_ros",
                executable="rviz_tools",
                namespace=LaunchConfiguration("namespace"),
                additional_env=END_WITH_LAUNCH,
                output="screen",
                emulate_tty=True,
                condition=IfCondition(LaunchConfiguration("rviz")),
            ),
        ]
    )


def _check_arguments(context: LaunchContext) -> None:
    """Refuse arguments that do not exist, which launch would ignore."""
    declared = [argument.name for argument in generate_launch_description().get_launch_arguments()]
    check(__file__, context.launch_configurations, declared, [setting.name for setting in SETTINGS])


def _node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node; arguments of the command line win over its configuration file."""
    given = {name: context.launch_configurations[name] for name in ("robot_ip", "mode")}
    overrides: dict[str, Any] = {name: value for name, value in given.items() if value}
    overrides["arm_prefix"] = ARM_PREFIX
    overrides["autostart"] = context.launch_configurations["autostart"] == "true"
    node = Node(
        package="aiofranka_ros",
        executable="node",
        name="aiofranka",
        namespace=LaunchConfiguration("namespace"),
        parameters=[LaunchConfiguration("config_file"), overrides],
        additional_env=END_WITH_LAUNCH,
        output="screen",
        emulate_tty=True,
    )
    return [node, RegisterEventHandler(OnProcessExit(target_action=node, on_exit=_end_with_node))]


def _end_with_node(event: ProcessExited, context: LaunchContext) -> EmitEvent | None:
    """Shut everything else down. Launch ends with a status other than 0 only after an exception."""
    if event.returncode != 0:
        raise RuntimeError(f"the node ended with status {event.returncode}")
    return None if context.is_shutdown else EmitEvent(event=Shutdown(reason="the node ended"))


def _robot_description(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """robot_state_publisher, if Franka's description of the arm is installed; the node does not need it."""
    missing = [name for name in ("franka_description", "robot_state_publisher") if not _installed(name)]
    if shutil.which("xacro") is None:
        missing.append("xacro")
    if missing:
        return [
            LogInfo(msg=f"no robot description is published, because these are not installed: {', '.join(missing)}")
        ]
    model = os.path.join(get_package_share_directory("franka_description"), "robots", "fr3", "fr3.urdf.xacro")
    arguments = [" hand:=", LaunchConfiguration("gripper"), " arm_prefix:=", LaunchConfiguration("arm_prefix")]
    urdf = Command(["xacro ", model, *arguments])
    return [
        Node(
            package="robot_state_publisher",
            executable="robot_state_publisher",
            prefix=END_OTHERS_WITH_LAUNCH,
            namespace=LaunchConfiguration("namespace"),
            # Without ParameterValue, launch reads the URDF as YAML.
            parameters=[{"robot_description": ParameterValue(urdf, value_type=str)}],
        )
    ]


def _installed(package: str) -> bool:
    try:
        get_package_share_directory(package)
    except PackageNotFoundError:
        return False
    return True
