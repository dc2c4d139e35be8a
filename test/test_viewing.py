"""Configurations that show and record an arm with other programs: the layout for Foxglove, the topics for rosbag2.

No arm, no ROS graph: they are compared with the tables of the documents, which another test compares with the node.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from common import ROOT
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSReliabilityPolicy
from sensor_msgs.msg import JointState

pytestmark = pytest.mark.unit

#: Topics of robot_state_publisher, of every node, and of lifecycle nodes.
OF_OTHERS = {"/tf", "/tf_static", "/robot_description", "/rosout", "/aiofranka/transition_event"}
#: Panels in the layout, by their names in Foxglove and Lichtblick.
PANELS = {"3D", "CallService", "DiagnosticSummary", "Parameters", "Plot", "Publish"}
PANELS |= {"RawMessages", "RosOut", "StateTransitions", "Tab"}


def topics() -> set[str]:
    """The topics in the tables of the documents: those of the arm's node, of the gripper's and of RViz's tools."""
    arm, _, gripper = (ROOT / "docs" / "reference.md").read_text().partition("## The gripper")
    tools = (ROOT / "docs" / "rviz.md").read_text()
    found = set()
    for text, node in ((arm, "/aiofranka"), (gripper, "/franka_gripper"), (tools, "/rviz_tools")):
        for cell in re.findall(r"^\| (`[^|]*`) \| (?:topic )?`\w+/\w+` \|", text, re.MULTILINE):
            for name in re.findall(r"`([^`]*)`", cell):
                found.add(name.replace("~", node) if name.startswith("~") else f"/{name.lstrip('/')}")
    return found | OF_OTHERS


@pytest.fixture(scope="module")
def layout() -> dict[str, Any]:
    return json.loads((ROOT / "config" / "foxglove_layout.json").read_text())  # type: ignore[no-any-return]


def panels_in(tree: Any) -> Iterator[str]:
    """The panels of a tree of splits."""
    if isinstance(tree, str):
        yield tree
    else:
        assert tree["direction"] in ("row", "column") and 0 < tree["splitPercentage"] < 100
        yield from panels_in(tree["first"])
        yield from panels_in(tree["second"])


def names_in(config: Any) -> Iterator[str]:
    """The topics and services in a panel's configuration, including those at the start of message paths."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "topics":
                yield from value
            elif key in ("topic", "topicName", "topicPath", "topicToRender", "serviceName", "value"):
                if isinstance(value, str) and value.startswith("/"):
                    yield re.split(r"[.\[{]", value)[0]
            else:
                yield from names_in(value)
    elif isinstance(config, list):
        for element in config:
            yield from names_in(element)


def test_every_panel_of_the_layout_has_a_place_and_a_configuration(layout: dict[str, Any]) -> None:
    assert layout.keys() == {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}
    configurations = layout["configById"]
    placed = list(panels_in(layout["layout"]))
    for panel in list(placed):
        for tab in configurations[panel].get("tabs", ()):
            placed += panels_in(tab["layout"])
    assert sorted(placed) == sorted(configurations)
    assert {panel.partition("!")[0] for panel in placed} == PANELS


def test_the_layout_shows_topics_that_exist(layout: dict[str, Any]) -> None:
    services = {"/aiofranka/change_state"}
    shown = set(names_in(layout["configById"]))
    assert shown >= {"/joint_states", "/diagnostics", "/aiofranka/ee_pose", "/aiofranka/external_wrench"} | services
    assert shown - topics() - services == set()


def fill(message: Any, values: dict[str, Any]) -> None:
    """Set fields of a message; an unknown field or a wrong type raises."""
    for name, value in values.items():
        if isinstance(value, dict):
            fill(getattr(message, name), value)
        else:
            setattr(message, name, value)


def test_the_layout_sends_valid_messages(layout: dict[str, Any]) -> None:
    for panel, config in layout["configById"].items():
        if panel.startswith("CallService!"):
            request = ChangeState.Request()
            fill(request, json.loads(config["requestPayload"]))
            assert request.transition.label in ("configure", "activate", "deactivate")
        elif panel.startswith("Publish!"):
            assert config["datatype"] == "sensor_msgs/JointState"
            message = JointState()
            fill(message, json.loads(config["value"]))
            assert len(message.name) == len(message.position) == 7


@pytest.fixture(scope="module")
def profiles() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((ROOT / "config" / "rosbag2_record.yaml").read_text())  # type: ignore[no-any-return]


def test_recorded_topics_exist_and_include_every_target_and_measurement(
    profiles: dict[str, dict[str, Any]],
) -> None:
    assert profiles.keys() - topics() == set()
    ends = ("_desired", "_chunk", "/state", "joint_states")
    assert not {topic for topic in topics() if topic.endswith(ends)} - profiles.keys()


def test_every_recorded_topic_has_a_complete_profile(profiles: dict[str, dict[str, Any]]) -> None:
    """The values that an incomplete profile gets differ between ROS distributions."""
    for profile in profiles.values():
        assert profile.keys() == {"reliability", "durability", "history", "depth"}
        assert QoSReliabilityPolicy.get_from_short_key(profile["reliability"]) is not None
        assert QoSDurabilityPolicy.get_from_short_key(profile["durability"]) is not None
        assert QoSHistoryPolicy.get_from_short_key(profile["history"]) == QoSHistoryPolicy.KEEP_LAST
        assert profile["depth"] > 0


def test_the_command_in_the_documents_records_what_has_a_profile(profiles: dict[str, dict[str, Any]]) -> None:
    command = re.search(r"ros2 bag record .*?\n```", (ROOT / "docs" / "recording.md").read_text(), re.DOTALL)
    assert command is not None and "config/rosbag2_record.yaml" in command[0] and "--storage mcap" in command[0]
    pattern = re.search(r"--regex '([^']*)'", command[0])
    assert pattern is not None
    assert [topic for topic in profiles if not re.fullmatch(pattern[1], topic)] == []
