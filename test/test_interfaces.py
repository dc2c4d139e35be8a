"""The interface definitions: on the wire they are the same as the packages that they replace.

Two nodes can communicate if the hashes of their types are equal (REP 2016). A hash covers names, types and order of all
fields, including nested types. The hashes below were computed from the definitions of franka_ros2 2.5.0 and 3.4.0,
control_msgs 6.8.0 and geometry2, with the generator of ROS 2 Kilted. They do not cover constants and default values,
which have separate tests. No arm, no ROS graph.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import pytest
from ament_index_python.packages import get_package_share_directory

pytestmark = pytest.mark.unit

#: Hash of every type in use, version 1 (``RIHS01``).
HASHES = {
    "control_msgs/action/FollowJointTrajectory": "ff29901b2693f5deb847e96084a1c2cdb26e70b7c847be21859b70a55fb29cf0",
    "control_msgs/action/GripperCommand": "e17c0e644eccf14bea84a0a93e0977182872c2eb7873ca6694900059b46dbc84",
    "control_msgs/msg/GripperCommand": "57eb8f326c9889ca8bb34ead82cc94cc09bf6bc5c3b6c09546dca3a00b589890",
    "control_msgs/msg/JointComponentTolerance": "739ea7566931944d33830fa10f1bf5e7a7fbdc3172bce7a7eaac642bd6e3ffa4",
    "control_msgs/msg/JointTolerance": "c254f9cece0f3b733017b6990fd46d1326e25242d6b8844398c97d9a88e7d648",
    "franka_msgs/action/ErrorRecovery": "6c5dbf0517672f7127a92796e6a162d096e286c26f88c96177cb4c5448dfc5f5",
    "franka_msgs/action/Grasp": "8e8a4bb9d96564ae56fb2d47e932c65656316f5c10365958a26df3517a06bb92",
    "franka_msgs/action/Homing": "2156a4bd902561e59e6081ba94428daf9a453f960596f8b7ca12e8281e0caeeb",
    "franka_msgs/action/Move": "ff1f93537cae0ce92792433e368199606771ad62bb819d78078bfe37144d3ef1",
    "franka_msgs/action/PTPMotion": "79730b8e281bb30fba9c38c0cd6d59a3ec44e5ec8ea692dd8817087fc4b12b8c",
    "franka_msgs/msg/CollisionIndicators": "17d02113f0e8ec3768433baafd4f27fe5eaacf95d6c21f591bf3473e541e0840",
    "franka_msgs/msg/Elbow": "f54141b92a05447bfa2f993ac28c289b477358a3d543ad099e1a34c10d70d9bb",
    "franka_msgs/msg/Errors": "eaf7a9752f64efac239306101020545cebebff8b5130875d95bf0ed4d8bb774d",
    "franka_msgs/msg/FrankaRobotState": "fd225b337bab54d06047858c866442b98e3a882a4717cefc6ddd783fcbf17332",
    "franka_msgs/msg/GraspEpsilon": "387fda91ae7324c144958fa617e7d5dc21f99d6b054b141b073ead3d082f46d3",
    "franka_msgs/msg/TargetStatus": "7fee694ce8c9efcf798c0c4bb32b7f861ec90f2d954eca624a48b268241d64df",
    "franka_msgs/srv/SetCartesianStiffness": "2cb30af54fcef0eba44d4736f92d42256099c62ffd00fad8d113214904aa4766",
    "franka_msgs/srv/SetForceTorqueCollisionBehavior": "498692c68cbe7d868ca0b90256f9f3c7a51b44b5b33d7a39d28fc06ab01bd2e2",  # noqa: E501
    "franka_msgs/srv/SetFullCollisionBehavior": "43a5dafbb96eb1bd70872cdd6db23d4bf81bfb7a03e563349974f37e89cded15",
    "franka_msgs/srv/SetJointStiffness": "83d1897684cc7adcbfd8a822a2798800066b81e1e2f6169878dd8ff59e5bcb77",
    "franka_msgs/srv/SetLoad": "e1f4caf6d410a1deaf51380d2180e341e68c9da27d1885aa10d5da9f79551db7",
    "franka_msgs/srv/SetStiffnessFrame": "9f078fbd57c29895d045e0b37584c96f34e9875714fba47d57d0cb687592eaee",
    "franka_msgs/srv/SetTCPFrame": "de6a5cb97276b9f4ec7bb7db7abbe257a384db3321072b039ce0da3d287a1462",
    "tf2_msgs/msg/TFMessage": "e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087",
}
#: Up to Jazzy, the feedback of this action has no indices.
BEFORE_KILTED = {
    "control_msgs/action/FollowJointTrajectory": "738ebcb7a2d7cfa42f9f1001cc99ce3a4383d1cfe508015d9be8485e4b1c66f6"
}


def hash_in_use(name: str) -> str:
    """Hash of the installed type; skips the test if the distribution has no hashes."""
    package, kind, interface = name.split("/")
    share = Path(get_package_share_directory(package))
    description = share / kind / f"{interface}.json"
    if not description.exists():
        assert (share / kind / f"{interface}.idl").exists(), f"{name} is not installed"
        pytest.skip("this distribution describes no types: hashes came with Iron")
    hashes = {entry["type_name"]: entry["hash_string"] for entry in json.loads(description.read_text())["type_hashes"]}
    return str(hashes[name])


@pytest.mark.parametrize("name", HASHES)
def test_types_equal_those_of_the_packages_that_they_replace(name: str) -> None:
    known = HASHES | (BEFORE_KILTED if os.environ.get("ROS_DISTRO") in ("iron", "jazzy") else {})
    assert hash_in_use(name) == f"RIHS01_{known[name]}"


def test_every_definition_of_the_underlay_has_a_hash() -> None:
    underlay = Path(__file__).resolve().parent.parent / "underlay"
    definitions = {
        f"{path.parts[-3]}/{path.parts[-2]}/{path.stem}"
        for kind in ("msg", "srv", "action")
        for path in underlay.glob(f"*/{kind}/*.{kind}")
    }
    assert definitions == HASHES.keys()


#: Names and values that users write, by the class that has them.
CONSTANTS = {
    "franka_msgs/msg/TargetStatus": {"IDLE": 0, "EXECUTING": 1, "TARGET_REACHED": 2, "ABORTED": 3},
    "franka_msgs/msg/FrankaRobotState": {
        "ROBOT_MODE_OTHER": 0,
        "ROBOT_MODE_IDLE": 1,
        "ROBOT_MODE_MOVE": 2,
        "ROBOT_MODE_GUIDING": 3,
        "ROBOT_MODE_REFLEX": 4,
        "ROBOT_MODE_USER_STOPPED": 5,
        "ROBOT_MODE_AUTOMATIC_ERROR_RECOVERY": 6,
    },
    "control_msgs/msg/JointComponentTolerance": {
        "X_AXIS": 1,
        "Y_AXIS": 2,
        "Z_AXIS": 3,
        "TRANSLATION": 4,
        "ROTATION": 5,
    },
    "control_msgs/action/FollowJointTrajectory_Result": {
        "SUCCESSFUL": 0,
        "INVALID_GOAL": -1,
        "INVALID_JOINTS": -2,
        "OLD_HEADER_TIMESTAMP": -3,
        "PATH_TOLERANCE_VIOLATED": -4,
        "GOAL_TOLERANCE_VIOLATED": -5,
    },
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_have_their_published_values(name: str) -> None:
    package, kind, interface = name.split("/")
    outer, _, inner = interface.partition("_")
    found = getattr(importlib.import_module(f"{package}.{kind}"), outer)
    found = getattr(found, inner) if inner else found
    assert {constant: getattr(found, constant) for constant in CONSTANTS[name]} == CONSTANTS[name]


def test_a_grasp_without_a_tolerance_has_the_default_of_franka_ros2() -> None:
    epsilon = importlib.import_module("franka_msgs.action").Grasp.Goal().epsilon
    assert (epsilon.inner, epsilon.outer) == (0.005, 0.005)
