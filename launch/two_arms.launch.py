"""Start two arms, each as bringup.launch.py does, in separate namespaces and with separate prefixes.

    ros2 launch aiofranka_ros two_arms.launch.py                         # two simulated arms
    ros2 launch aiofranka_ros two_arms.launch.py left_robot_ip:=172.16.0.2 right_robot_ip:=172.16.1.2

Namespaces separate topics, services and actions, prefixes separate joints and frames. The other arguments of
bringup.launch.py apply to both arms. The launch ends with the first node that ends.
"""

from __future__ import annotations

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.ros.launch_arguments import check
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

#: Arguments that each arm has, with its side's name before them.
_OF_ONE_ARM = ("robot_ip", "namespace", "arm_prefix")
BRINGUP = os.path.join(get_package_share_directory("aiofranka_ros"), "launch", "bringup.launch.py")


def generate_launch_description() -> LaunchDescription:
    """Entry point of ``ros2 launch``."""
    return LaunchDescription([OpaqueFunction(function=_check_arguments), *_arm("left"), *_arm("right")])


def _check_arguments(context: LaunchContext) -> None:
    """Refuse arguments that do not exist, which launch would ignore."""
    one_arm = PythonLaunchDescriptionSource(BRINGUP).get_launch_description(context)
    # Those of both arms; the others are in _arm, with the side's name.
    shared = {argument.name for argument in one_arm.get_launch_arguments()} - set(_OF_ONE_ARM)
    own = [f"{side}_{name}" for side in ("left", "right") for name in _OF_ONE_ARM]
    check(__file__, context.launch_configurations, [*own, *sorted(shared)], [setting.name for setting in SETTINGS])


def _arm(side: str) -> list[LaunchDescriptionEntity]:
    own = {
        "robot_ip": ("sim", f"address of the {side} robot's FCI; sim starts a simulated arm"),
        "namespace": (side, f"namespace of the {side} arm's nodes"),
        "arm_prefix": (side, f"prefix of the names of the {side} arm's joints and frames"),
    }
    arguments = {name: LaunchConfiguration(f"{side}_{name}") for name in own}
    return [
        *(
            DeclareLaunchArgument(f"{side}_{name}", default_value=default, description=text)
            for name, (default, text) in own.items()
        ),
        GroupAction(
            [IncludeLaunchDescription(PythonLaunchDescriptionSource(BRINGUP), launch_arguments=arguments.items())]
        ),
    ]
