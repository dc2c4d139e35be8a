"""The command lines of the nodes: usage, and what would silently be ignored prevents the start.

Nodes are made in this process, and nothing spins them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from aiofranka_ros.arm.gripper.settings import GRIPPER_SETTINGS
from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.errors import ConfigurationError
from aiofranka_ros.ros.arguments import checked, read
from aiofranka_ros.ros.descriptors import ExplainedParameters, describe
from aiofranka_ros.testing import environment

pytestmark = pytest.mark.unit

MODULES = (
    "node",
    "gripper_node",
    "rviz_tools",
    "ctl",
    "ctl.identify_payload",
    "doctor",
    "streams",
    "simulation",
    "demo",
    "warm_up",
    "control.process",
)


class FakeNode(ExplainedParameters, Node):
    """A node with the parameters of the arm's node."""

    def __init__(self, context: Context, arguments: list[str], namespace: str = "") -> None:
        super().__init__(
            "aiofranka", namespace=namespace, context=context, cli_args=arguments, use_global_arguments=False
        )
        self.closed = False
        self.warnings: list[str] = []
        self.get_logger().warning = self.warnings.append
        for setting in SETTINGS:
            default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
            self.declare_parameter(setting.name, default, describe(setting))

    def close(self) -> None:
        self.closed = True
        self.destroy_node()


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    context = Context()
    rclpy.init(args=[], context=context)
    yield context
    context.try_shutdown()


def start(context: Context, *words: str, namespace: str = "") -> list[str]:
    """Start a node as its main function does, and return its warnings.

    :raises ConfigurationError: it does not start.
    """
    arguments = ["--ros-args", *words]
    node = FakeNode(context, arguments, namespace)
    try:
        return checked(node, arguments).warnings
    except ConfigurationError:
        assert node.closed
        raise
    finally:
        if not node.closed:
            node.close()


def run(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"aiofranka_ros.{module}", *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.slow
def test_help_prints_the_usage_and_starts_nothing(module: str) -> None:
    ran = run(module, "--help")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("usage: ") and ran.stderr == ""


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.slow
def test_an_argument_that_does_not_exist_exits_with_2_and_the_usage(module: str) -> None:
    ran = run(module, "--robt-ip", "172.16.0.2")
    assert ran.returncode == 2
    assert ran.stdout == "" and ran.stderr.startswith("usage: ")


def test_a_command_line_may_be_empty(context: Context) -> None:
    node = FakeNode(context, [], "/")
    assert checked(node, []) is node
    node.close()


@pytest.mark.parametrize("settings", [SETTINGS, GRIPPER_SETTINGS], ids=["arm", "gripper"])
def test_help_explains_the_arguments_of_ros_and_every_parameter(settings: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit) as exit_:
        read(["--help"], "aiofranka_ros.node", "Drive an arm.", settings)
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    assert "-p NAME:=VALUE" in printed and "--params-file FILE" in printed and "__ns:=" in printed
    for setting in settings:
        assert f"  {setting.name}\n      {setting.text}\n" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--robot-ip", "172.16.0.2"], "unrecognized arguments: --robot-ip 172.16.0.2"),
        (["robot_ip:=172.16.0.2"], "unrecognized arguments: robot_ip:=172.16.0.2"),
        (["--ros-args", "--robot-ip"], "--robot-ip"),
        (["--ros-args", "-p", "mode=osc"], "mode=osc"),
        (["--ros-args", "-p"], "-p"),
        (["--ros-args", "--params-file", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_names_the_argument(
    words: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        read(words, "aiofranka_ros.node", "Drive an arm.", SETTINGS)
    assert exit_.value.code == 2
    said = capfd.readouterr().err
    assert (
        "usage: python3 -m aiofranka_ros.node" in said
        and message in said
        and "arguments.c" not in said.split("usage")[1]
    )


def test_parameters_that_exist_start_the_node_whatever_gives_them(context: Context, tmp_path: Path) -> None:
    file = tmp_path / "fr3.yaml"
    file.write_text("/**:\n  ros__parameters:\n    mode: impedance\n    use_sim_time: false\n")
    assert start(context, "-p", "move_jerk:=[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]", "--params-file", str(file)) == []
    assert start(context, "-p", "aiofranka:mode:=pid") == []
    # rclpy's own: quality of service of a topic.
    assert start(context, "-p", "qos_overrides./parameter_events.publisher.depth:=10") == []


def test_a_misspelt_parameter_prevents_the_start_and_the_nearest_is_named(context: Context) -> None:
    with pytest.raises(ConfigurationError, match=r"'move_velocty' \(-p move_velocty:=.*did you mean 'move_velocity'\?"):
        start(context, "-p", "move_velocty:=[0.3]")
    with pytest.raises(ConfigurationError, match="there is no parameter 'colour'"):
        start(context, "-p", "colour:=red")


@pytest.mark.parametrize("section", ["aiofranka", "/aiofranka"])
def test_in_a_section_for_this_node_every_unknown_parameter_prevents_the_start(
    context: Context, tmp_path: Path, section: str
) -> None:
    file = tmp_path / "fr3.yaml"
    file.write_text(f"{section}:\n  ros__parameters:\n    colour: red\n    group: {{nested: 1}}\n")
    with pytest.raises(ConfigurationError) as error:
        start(context, "--params-file", str(file))
    assert "'colour'" in str(error.value) and "'group.nested'" in str(error.value) and str(file) in str(error.value)


def test_under_a_wildcard_an_unknown_parameter_is_a_warning_unless_it_is_a_misspelling(
    context: Context, tmp_path: Path
) -> None:
    file = tmp_path / "all.yaml"
    names = {setting.name for setting in GRIPPER_SETTINGS} - {setting.name for setting in SETTINGS}
    lines = "".join(f"    {name}: 1.0\n" for name in names)
    file.write_text(f"/**:\n  ros__parameters:\n{lines}")
    warnings = start(context, "--params-file", str(file))
    assert len(warnings) == len(names) and "another node may have it" in warnings[0]
    file.write_text("/**:\n  ros__parameters:\n    move_velocty: 1.0\n")
    with pytest.raises(ConfigurationError, match="did you mean 'move_velocity'"):
        start(context, "--params-file", str(file))


def test_a_file_for_this_node_in_another_namespace_prevents_the_start(context: Context, tmp_path: Path) -> None:
    file = tmp_path / "left.yaml"
    file.write_text("aiofranka:\n  ros__parameters:\n    mode: impedance\n")
    with pytest.raises(ConfigurationError, match=r"left.yaml is not for /left/aiofranka, but for /aiofranka"):
        start(context, "--params-file", str(file), namespace="left")
    file.write_text("left:\n  aiofranka:\n    ros__parameters:\n      mode: impedance\n")
    assert start(context, "--params-file", str(file), namespace="left") == []
    with pytest.raises(ConfigurationError, match=r"-p aiofranka:mode:=pid is not for /left/aiofranka"):
        start(context, "-p", "aiofranka:mode:=pid", namespace="left")


def test_a_file_for_other_nodes_only_is_a_warning(context: Context, tmp_path: Path) -> None:
    file = tmp_path / "camera.yaml"
    file.write_text("camera:\n  ros__parameters:\n    exposure: 1.0\n")
    (warning,) = start(context, "--params-file", str(file))
    assert "is not for /aiofranka, but for /camera" in warning


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("move_velocty", "there is no parameter 'move_velocty'; did you mean 'move_velocity'? There are: "),
        ("colour", "there is no parameter 'colour'; there are: "),
        ("state_rate", "state_rate can be set only at the start: in the configuration file or with --ros-args -p"),
    ],
)
def test_a_change_that_rclpy_refuses_gets_a_reason(context: Context, name: str, reason: str) -> None:
    node = FakeNode(context, [])
    try:
        result = node.set_parameters_atomically([Parameter("mode", value="pid"), Parameter(name, value=1.0)])
        assert not result.successful and result.reason.startswith(reason)
        assert node.get_parameter("mode").value == "osc"
    finally:
        node.close()
