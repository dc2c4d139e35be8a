"""Start two arms, each as bringup.launch.py does, in separate namespaces and with separate prefixes.

    ros2 launch aiofranka_ros two_arms.launch.py                         # two simulated arms
    ros2 launch aiofranka_ros two_arms.launch.py left_robot_ip:=172.16.0.2 right_robot_ip:=172.16.1.2

Namespaces separate topics, services and actions, prefixes separate joints and frames. The other arguments of
bringup.launch.py apply to both arms. The launch ends with the first node that ends.
"""

from __future__ import annotations

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription, LaunchDescriptionEntity

BRINGUP = os.path.join(get_package_share_directory("aiofranka_ros"), "launch", "bringup.launch.py")


def generate_launch_description() -> LaunchDescription:
    """Entry point of ``ros2 launch``."""
    return LaunchDescription([*_arm("left"), *_arm("right")])


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
