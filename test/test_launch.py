"""The launch files: their arguments and, if ``launch`` is installed, what they start.

PyPI has no ``launch``. Without it, the tests that run the launch files are skipped; the others only read them. The
other tests of this package start the same nodes without launch files.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from common import ROOT

from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.errors import ConfigurationError
from aiofranka_ros.ros.launch_arguments import check
from aiofranka_ros.testing import PATIENCE, Child, Client, alive, descendants, wait_until

LAUNCH_FILE = ROOT / "launch" / "bringup.launch.py"
TWO_ARMS = ROOT / "launch" / "two_arms.launch.py"
ARGUMENTS = {
    "robot_ip": "sim",
    "namespace": "",
    "arm_prefix": "",
    "mode": "",
    "config_file": None,
    "autostart": "true",
    "gripper": "true",
    "gripper_config_file": None,
    "rviz": "false",
}

needs_launch = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("launch", "launch_ros")),
    reason="launch and launch_ros are not installed: they come with a ROS distribution, not from PyPI",
)

#: The equivalent of ``ros2 launch`` with a file and ``name:=value`` arguments.
RUNNER = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import AnyLaunchDescriptionSource

path, *arguments = sys.argv[1:]
service = LaunchService(argv=arguments)
source = AnyLaunchDescriptionSource(path)
values = [tuple(argument.split(":=", 1)) for argument in arguments]
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=values)]))
sys.exit(service.run())
"""


def declared() -> dict[str, dict[str, ast.expr]]:
    """Name and keywords of every DeclareLaunchArgument in the file."""
    calls = [
        node
        for node in ast.walk(ast.parse(LAUNCH_FILE.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "DeclareLaunchArgument"
    ]
    return {
        ast.literal_eval(call.args[0]): {str(keyword.arg): keyword.value for keyword in call.keywords} for call in calls
    }


@pytest.mark.unit
def test_the_launch_file_declares_its_arguments_and_describes_them() -> None:
    arguments = declared()
    assert arguments.keys() == ARGUMENTS.keys()
    for name, keywords in arguments.items():
        assert ast.literal_eval(keywords["description"])
        if ARGUMENTS[name] is not None:
            assert ast.literal_eval(keywords["default_value"]) == ARGUMENTS[name]


@pytest.mark.unit
def test_the_launch_file_of_two_arms_passes_arguments_that_the_file_of_one_arm_declares() -> None:
    (own,) = (
        node.value
        for node in ast.walk(ast.parse(TWO_ARMS.read_text()))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "own" and isinstance(node.value, ast.Dict)
    )
    names = {ast.literal_eval(key) for key in own.keys if key is not None}
    assert names == {"robot_ip", "namespace", "arm_prefix"} and names <= declared().keys()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("file", "given", "message"),
    [
        (
            "bringup.launch.py",
            "robt_ip",
            "there is no argument of bringup.launch.py called 'robt_ip'; did you mean 'robot_ip'",
        ),
        ("bringup.launch.py", "colour", "there is no argument of bringup.launch.py called 'colour'; there are: "),
        ("bringup.launch.py", "kp", "kp is a parameter of the node, not an argument of bringup.launch.py"),
        # The file is included by another one, whose arguments it does not know.
        ("my_cell.launch.py", "robt_ip", "did you mean 'robot_ip'"),
        ("my_cell.launch.py", "kp", ""),
        ("my_cell.launch.py", "colour", ""),
        ("two_arms.launch.py", "left_robot_ip", ""),
        ("bringup.launch.py", "mode", ""),
    ],
)
def test_an_argument_that_does_not_exist_is_refused_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, file: str, given: str, message: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "aiofranka_ros", file, f"{given}:=1"])
    parameters = [setting.name for setting in SETTINGS]
    refused = contextlib.nullcontext() if not message else pytest.raises(ConfigurationError, match=message)
    with refused:
        check(str(LAUNCH_FILE), [given], ARGUMENTS, parameters)


@pytest.mark.unit
def test_no_argument_of_the_launch_files_is_taken_for_one_of_another() -> None:
    others = [f"{side}_{name}" for side in ("left", "right") for name in ("robot_ip", "namespace", "arm_prefix")]
    check(str(LAUNCH_FILE), [*others, *ARGUMENTS], ARGUMENTS, [])


@pytest.mark.unit
def test_rviz_shows_the_topics_of_the_node() -> None:
    settings = yaml.safe_load((ROOT / "config" / "bringup.rviz").read_text())["Visualization Manager"]
    assert settings["Global Options"]["Fixed Frame"] == "fr3_link0"
    shown = {display["Topic"]["Value"] for display in settings["Displays"] if "Topic" in display}
    # Relative, so that they follow the namespace.
    assert shown == {
        *(f"aiofranka/{topic}" for topic in ("ee_pose", "ee_desired", "external_wrench", "planned_path")),
        "rviz_tools/status",
    }
    clicked = {tool["Topic"]["Value"] for tool in settings["Tools"] if "Topic" in tool}
    assert clicked == {"goal_pose", "clicked_point"}


class Launch(Child):
    """A running launch, and its output."""

    def __init__(self, prefix: Path, *arguments: str, file: Path = LAUNCH_FILE) -> None:
        prefixes = os.pathsep.join(filter(None, [str(prefix), os.environ.get("AMENT_PREFIX_PATH", "")]))
        environment = {"AMENT_PREFIX_PATH": prefixes, "ROS_LOG_DIR": str(prefix)}
        super().__init__(["-c", RUNNER, str(file), *arguments], log=prefix / "launch.log", env=environment)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An install prefix of the package."""
    share, index = tmp_path / "share", tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "aiofranka_ros").touch()
    for folder in ("config", "launch"):
        shutil.copytree(ROOT / folder, share / "aiofranka_ros" / folder)
    executables = tmp_path / "lib" / "aiofranka_ros"
    executables.mkdir(parents=True)
    for name in ("node", "gripper_node", "rviz_tools"):
        (executables / name).write_text(
            f'#!/bin/sh\nPYTHONPATH="{ROOT}:$PYTHONPATH" exec "{sys.executable}" -m aiofranka_ros.{name} "$@"\n'
        )
        (executables / name).chmod(0o755)
    # In place of RViz.
    (index / "rviz2").touch()
    (share / "rviz2").mkdir()
    (rviz := tmp_path / "lib" / "rviz2" / "rviz2").parent.mkdir()
    rviz.write_text("#!/bin/sh\nexec sleep 600\n")
    rviz.chmod(0o755)
    return tmp_path


@pytest.fixture
def launch(prefix: Path) -> Iterator[Launch]:
    """A launch whose node is active."""
    launch = Launch(prefix, "namespace:=launched", "mode:=impedance")
    try:
        assert launch.says("the arm holds; mode impedance"), launch.log
        yield launch
    finally:
        launch.close()


def node_of(launch: Launch) -> int:
    """Process id of the node."""
    for pid in descendants(launch.process.pid):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"aiofranka_ros.node" in command:
            return pid
    raise AssertionError("no node")


@needs_launch
def test_launching_brings_up_an_active_node_in_its_namespace_and_ctrl_c_ends_it(launch: Launch) -> None:
    client = Client("/launched/aiofranka")
    try:
        assert client.becomes("active")
        assert client.get("robot_ip") == "sim"
    finally:
        client.close()
    children = descendants(launch.process.pid)
    # Ctrl-C in a terminal reaches the node, too.
    for pid in (node_of(launch), launch.process.pid):
        os.kill(pid, signal.SIGINT)
    assert launch.process.wait(PATIENCE) == 0, launch.log
    assert not [pid for pid in children if alive(pid)]


@needs_launch
@pytest.mark.parametrize("argument", ["robt_ip:=sim", "move_velocity:=[0.3]"])
def test_a_launch_with_an_argument_that_does_not_exist_starts_nothing(prefix: Path, argument: str) -> None:
    launch = Launch(prefix, argument)
    try:
        assert launch.process.wait(PATIENCE) == 1, launch.log
        assert "argument" in launch.log and "connecting" not in launch.log
    finally:
        launch.close()


@needs_launch
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_a_launch_that_is_terminated_or_killed(prefix: Path, number: signal.Signals) -> None:
    launch = Launch(prefix, "namespace:=launched", "rviz:=true")
    try:
        assert launch.says("the arm holds"), launch.log
        assert wait_until(lambda: len(descendants(launch.process.pid)) == 6), "the nodes and their processes, and RViz"
        children = descendants(launch.process.pid)
        os.kill(launch.process.pid, number)
        launch.process.wait(PATIENCE)
        assert wait_until(lambda: not [pid for pid in children if alive(pid)])
    finally:
        launch.close()


@needs_launch
def test_a_node_that_dies_ends_the_launch_with_an_error(launch: Launch) -> None:
    os.kill(node_of(launch), signal.SIGKILL)
    assert launch.process.wait(PATIENCE) == 1, launch.log
    assert "the node ended with status -9" in launch.log


@needs_launch
def test_sigterm_to_the_node_ends_the_launch_without_an_error(launch: Launch) -> None:
    os.kill(node_of(launch), signal.SIGTERM)
    assert launch.process.wait(PATIENCE) == 0, launch.log


@needs_launch
def test_two_arms_start_with_their_own_namespaces_and_prefixes_and_end_together(prefix: Path) -> None:
    launch = Launch(prefix, "mode:=impedance", "right_arm_prefix:=on", file=TWO_ARMS)
    clients: list[Client] = []
    try:
        assert wait_until(lambda: launch.log.count("the arm holds; mode impedance") == 2), launch.log
        assert wait_until(lambda: launch.log.count("connected to the gripper at") == 2), launch.log
        for side, arm_prefix in (("left", "left"), ("right", "on")):
            clients.append(client := Client(f"/{side}/aiofranka"))
            assert client.becomes("active")
            assert client.get("arm_prefix") == arm_prefix
            assert client.spin_until(lambda: client.joint_states)
            assert client.joint_states[-1].name[0] == f"{arm_prefix}_fr3_joint1"
        os.kill(launch.process.pid, signal.SIGINT)
        assert launch.process.wait(PATIENCE) == 0, launch.log
    finally:
        for client in clients:
            client.close()
        launch.close()


@needs_launch
def test_an_invalid_configuration_ends_the_launch_with_an_error(prefix: Path) -> None:
    config = prefix / "bad.yaml"
    config.write_text("/**:\n  ros__parameters:\n    kp: [1.0]\n")
    launch = Launch(prefix, f"config_file:={config}")
    try:
        assert launch.process.wait(PATIENCE) == 1, launch.log
    finally:
        launch.close()
    assert "kp has 1 values" in launch.log
