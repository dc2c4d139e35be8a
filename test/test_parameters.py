"""The table of parameters: it is consistent, agrees with the configuration file, and validation follows it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import yaml
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.control.records import COMMANDS, Mode
from aiofranka_ros.control.setting import Effect, Setting, Stage
from aiofranka_ros.errors import ConfigurationError
from aiofranka_ros.model import kinematics
from aiofranka_ros.node.parameters import Parameters
from aiofranka_ros.ros.descriptors import ExplainedParameters

pytestmark = pytest.mark.unit

CONFIG = Path(__file__).resolve().parent.parent / "config" / "fr3.yaml"
BY_NAME = {setting.name: setting for setting in SETTINGS}


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node("parameters", context=context, use_global_arguments=False)
    yield node
    node.destroy_node()
    context.try_shutdown()


@pytest.fixture(scope="module")
def reached() -> list[Stage]:
    """The stage that the node claims to be in, as the only element."""
    return [Stage.STARTED]


@pytest.fixture(scope="module")
def parameters(node: Node, reached: list[Stage]) -> Parameters:
    return Parameters(node, lambda: reached[0])


def change(node: Node, **values: Any) -> str:
    """Set parameters together; return why they were refused, or an empty string."""
    result = node.set_parameters_atomically([Parameter(name, value=value) for name, value in values.items()])
    return "" if result.successful else result.reason


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_default_is_valid_and_every_parameter_is_explained(setting: Setting) -> None:
    default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
    np.testing.assert_array_equal(setting.parse(default), setting.default)
    assert setting.text.endswith(".")
    is_number = isinstance(setting.default, (float, tuple)) and not setting.is_list
    assert bool(setting.unit) == is_number, "numbers have units"
    if is_number:
        assert np.isfinite(setting.low).all() and np.isfinite(setting.high).all()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_the_configuration_file_lists_every_parameter_as_in_the_table(setting: Setting) -> None:
    values = yaml.safe_load(CONFIG.read_text())["/**"]["ros__parameters"]
    assert values.keys() == BY_NAME.keys()
    np.testing.assert_array_equal(values[setting.name], setting.default)
    assert type(values[setting.name]) is (list if isinstance(setting.default, tuple) else type(setting.default))
    # The comment above it gives its meaning, its range with the unit, and its source.
    above = re.search(rf"((?:^    #.*\n)+)    {setting.name}:", CONFIG.read_text(), re.MULTILINE)
    assert above is not None
    comment = " ".join(line.strip(" #") for line in above[1].splitlines())
    assert comment == f"{setting.text} {setting.terms}"


def test_every_field_that_a_parameter_sets_exists_and_has_its_size() -> None:
    fields = COMMANDS.fields
    assert fields is not None
    for setting in SETTINGS:
        if setting.effect in (Effect.COMMAND, Effect.LAW):
            assert fields[setting.field or setting.name][0].shape == ((setting.size,) if setting.size else ())


def test_the_modes_are_those_of_the_control_process() -> None:
    assert sorted(BY_NAME["mode"].choices) == sorted(mode.name.lower() for mode in Mode)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("kp", [600.0] * 6, "kp has 6 values; allowed: 7 values, each in [0, 3000] Nm/rad"),
        ("kp", [600.0] * 6 + [-1.0], "kp is -1 Nm/rad at index 6"),
        ("kp", [600.0] * 6 + [math.nan], "kp is nan Nm/rad at index 6"),
        ("kp", 600.0, "kp is 600.0; allowed"),
        ("kp", "stiff", "kp is 'stiff'"),
        ("torque_limit", [87.0] * 7, "torque_limit is 87 Nm at index 4; allowed: 7 values, each in [0, (87"),
        ("max_linear_step", -0.1, "max_linear_step is -0.1 m; allowed: in [0.001, 1] m"),
        ("max_linear_step", math.inf, "max_linear_step is inf m"),
        ("max_linear_step", "far", "max_linear_step is 'far'"),
        ("max_linear_step", True, "max_linear_step is True"),
        ("torque_diff_limit", 1000.1, "torque_diff_limit is 1000.1 Nm/s; allowed: in [1, 999] Nm/s"),
        ("realtime_priority", 99, "realtime_priority is 99"),
        ("realtime_priority", 1.5, "realtime_priority is 1.5, which is not whole"),
        ("mode", "gravity", "mode is 'gravity'; allowed: one of osc, impedance, pid, torque, free"),
        ("robot_ip", " ", "robot_ip is ' '; allowed: not empty"),
        ("arm_prefix", "left arm", "arm_prefix is 'left arm'; allowed: a letter, then letters, digits and _; or empty"),
        ("arm_prefix", "2nd", "arm_prefix is '2nd'"),
        ("tcp_frame", "", "tcp_frame is ''; allowed: a letter, then letters, digits and _"),
        ("priority_clients", "/teleop", "priority_clients is '/teleop'; allowed: any number of names of nodes"),
        ("priority_clients", ["/teleop", "1"], "priority_clients has '1', which is not a name of a node"),
        ("priority_clients", [b"/teleop"], "priority_clients has b'/teleop', which is not"),
        ("priority_clients", None, "priority_clients is None"),
        ("free_axes", "x", "free_axes is 'x'; allowed: any of x, y, z, roll, pitch, yaw, elbow"),
        ("free_axes", ["x", "yow"], "free_axes has 'yow' (did you mean 'yaw'?); allowed: any of x,"),
        ("free_axes", [1, 0], "free_axes has 1"),
        ("smooth_targets", 1, "smooth_targets is 1; allowed: true or false"),
        ("smooth_targets", None, "smooth_targets is None"),
    ],
)
def test_a_refusal_names_value_range_and_unit(name: str, value: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        BY_NAME[name].parse(value)


def test_integers_are_accepted_as_floats() -> None:
    assert BY_NAME["max_linear_step"].parse(1) == 1.0
    assert BY_NAME["kp"].parse([1, 2, 3, 4, 5, 6, 7]).dtype == np.float64


def test_a_list_of_names_may_be_empty_also_in_a_file_and_its_names_full_or_relative() -> None:
    names = BY_NAME["priority_clients"].parse(["/teleop", "left/joystick", ""])
    assert names == ("/teleop", "left/joystick")
    context = Context()
    rclpy.init(context=context)
    # ROS reads an empty list in a file as a parameter without a value.
    node = rclpy.create_node(
        "lists", context=context, use_global_arguments=False, parameter_overrides=[Parameter("priority_clients")]
    )
    try:
        assert Parameters(node, lambda: Stage.STARTED)["priority_clients"] == ()
        assert node.get_parameter("priority_clients").value == []
        assert change(node, priority_clients=["/teleop"]) == "" and change(node, priority_clients=[]) == ""
        assert "priority_clients is None" in change(node, priority_clients=None)
    finally:
        node.destroy_node()
        context.try_shutdown()


def test_a_refused_change_changes_nothing(node: Node, parameters: Parameters) -> None:
    assert "kp has 1 values" in change(node, max_linear_step=0.3, kp=[600.0])
    assert parameters.changes() == set()
    assert node.get_parameter("max_linear_step").value == 0.15


def test_a_change_is_used_only_once_the_node_asks_for_it(node: Node, parameters: Parameters) -> None:
    assert change(node, max_linear_step=0.3, mode="pid") == ""
    assert parameters["max_linear_step"] == 0.15
    assert parameters.changes() == {"max_linear_step", "mode"}
    assert (parameters["max_linear_step"], parameters.mode) == (0.3, Mode.PID)
    assert parameters.changes() == set()
    assert change(node, max_linear_step=0.15, mode="osc") == ""
    parameters.changes()


def test_a_mode_that_is_set_again_counts_as_changed(node: Node, parameters: Parameters) -> None:
    """Its targets then start from where the arm is."""
    assert change(node, mode="osc") == ""
    assert parameters.changes() == {"mode"}
    assert change(node, max_linear_step=0.15) == ""
    assert parameters.changes() == set()


def test_a_parameter_that_cannot_change_now_says_what_to_do(
    node: Node, parameters: Parameters, reached: list[Stage]
) -> None:
    try:
        reached[0] = Stage.CONFIGURED
        assert "robot_ip can be changed only while the node is unconfigured" in change(node, robot_ip="a")
        assert change(node, collision_force_thresholds=[30.0] * 6) == ""
        reached[0] = Stage.ACTIVE
        assert "deactivate it first" in change(node, collision_force_thresholds=[40.0] * 6)
        assert "read-only" in change(node, state_rate=50.0)
        assert change(node, kp=[500.0] * 7) == ""
    finally:
        reached[0] = Stage.STARTED


def test_the_control_frame_cannot_have_the_name_of_a_link() -> None:
    with pytest.raises(ConfigurationError, match="tcp_frame is 'fr3_link8', which is one of the arm's links"):
        ArmSettings(tcp_frame="fr3_link8")
    assert ArmSettings(arm_prefix="left", tcp_frame="tip").names.tcp == "left_tip"


def test_a_control_frame_needs_a_unit_quaternion(node: Node, parameters: Parameters) -> None:
    assert "norm of 0.500" in change(node, tcp_in_flange=[0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 0.5])


def test_the_commands_get_every_value_and_the_control_frame(node: Node, parameters: Parameters) -> None:
    robot_tcp = np.diag([1.0, -1.0, -1.0, 1.0])
    commands = parameters.commands(robot_tcp)
    assert commands["torque_rate_limit"] == 990.0 and commands["smooth_targets"] == 1
    np.testing.assert_array_equal(commands["flange_to_tcp"], robot_tcp)
    pose = [0.1, 0.2, 0.3, 0.5, -0.5, 0.5, 0.5]
    assert change(node, tcp_from_robot=False, tcp_in_flange=pose) == ""
    parameters.changes()
    commands = parameters.commands(robot_tcp)
    np.testing.assert_array_equal(commands["flange_to_tcp"], kinematics.pose_matrix(np.array(pose)))


def test_a_pose_becomes_the_matrix_of_its_quaternion() -> None:
    pose = np.array([1.0, 2.0, 3.0, 0.1, -0.2, 0.3, 0.9])
    matrix = kinematics.pose_matrix(pose)
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
    quaternion = np.empty(4)
    kinematics.quaternion_from_matrix(matrix, quaternion)
    np.testing.assert_allclose(quaternion, pose[3:] / np.linalg.norm(pose[3:]), atol=1e-12)
    assert matrix[:3, 3].tolist() == [1.0, 2.0, 3.0]


def test_every_parameter_describes_itself(node: Node, parameters: Parameters) -> None:
    for setting in SETTINGS:
        descriptor = node.describe_parameter(setting.name)
        assert descriptor.description == setting.text
        assert setting.range.lower() in descriptor.additional_constraints.lower()
        assert descriptor.read_only == (setting.locked_from is Stage.STARTED)


def test_all_values_can_be_sent_back_unchanged_also_those_that_cannot_change_now() -> None:
    """As ``ros2 param load`` does with a dump of all parameters."""
    context = Context()
    rclpy.init(context=context)
    node = ExplainedParameters("dump", context=context, use_global_arguments=False)
    try:
        Parameters(node, lambda: Stage.ACTIVE)
        dump = {name: node.get_parameter(name).value for name in (*BY_NAME, "use_sim_time")}
        assert change(node, **dump) == ""
        assert not [name for name, value in dump.items() if change(node, **{name: value})]
        locked = [setting for setting in SETTINGS if setting.locked_from is not None and setting.choices == ()]
        assert locked
        for setting in locked:
            value = setting.default
            other = {bool: lambda v: not v, str: lambda v: f"{v}x", int: lambda v: v + 1, float: lambda v: v * 1.01}
            if isinstance(value, tuple):
                value = [*value[:-1], value[-1] * 0.5 + 1e-3]
            else:
                value = other[type(value)](value)
            assert "can be" in change(node, **{**dump, setting.name: value}), setting.name
    finally:
        node.destroy_node()
        context.try_shutdown()
