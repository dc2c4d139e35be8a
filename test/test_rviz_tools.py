"""RViz's tools as a person uses them, by publishing exactly what RViz publishes.

Quality of service, frames, stamps and order of the messages are those of RViz's sources (rviz_default_plugins,
``GoalTool``, ``PointTool``, ``InteractiveMarker``; interactive_markers, ``InteractiveMarkerClient``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from action_msgs.msg import GoalStatus
from common import ROOT
from geometry_msgs.msg import PointStamped, PoseStamped
from nav_msgs.msg import Path as PathMessage
from rclpy.qos import DurabilityPolicy, QoSProfile
from visualization_msgs.msg import (
    InteractiveMarker,
    InteractiveMarkerControl,
    InteractiveMarkerFeedback,
    InteractiveMarkerUpdate,
    Marker,
)
from visualization_msgs.srv import GetInteractiveMarkers

from aiofranka_ros.model.fr3 import HOME, READY
from aiofranka_ros.ros.conditions import CTL
from aiofranka_ros.ros.messages import pose_message, pose_of
from aiofranka_ros.rviz_tools.marker import Choice, Look
from aiofranka_ros.rviz_tools.node import point_along
from aiofranka_ros.testing import Client, NodeProcess

#: How far the arm may be from where it was sent [m]: the tolerance of a move is 0.01 rad, half a metre from an axis.
NEAR = 0.006
RED, GREEN, ORANGE, GREY = (Look[name].value[:3] for name in ("REFUSED", "REACHABLE", "MOVING", "AT_ARM"))


class ToolsProcess(NodeProcess):
    """The node as a user starts it."""

    MODULE, NAME = "aiofranka_ros.rviz_tools", "rviz_tools"


class RViz:
    """Acts like RViz: it requests and tracks the marker, and sends clicks and drags."""

    def __init__(self, client: Client, namespace: str, arm: str) -> None:
        self.client, self.arm = client, arm
        node = client.node
        self._clock = node.get_clock()
        tools = f"/{namespace}/rviz_tools"
        self._goal = node.create_publisher(PoseStamped, f"/{namespace}/goal_pose", QoSProfile(depth=5))
        self._point = node.create_publisher(PointStamped, f"/{namespace}/clicked_point", QoSProfile(depth=5))
        self._feedback = node.create_publisher(
            InteractiveMarkerFeedback, f"{tools}/marker/feedback", QoSProfile(depth=100)
        )
        self._sequence = 0
        self.lost = 0
        node.create_subscription(
            InteractiveMarkerUpdate, f"{tools}/marker/update", self._on_update, QoSProfile(depth=100)
        )
        self._texts: dict[str, str] = {}
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(Marker, f"{tools}/status", self._on_text, latched)
        self.paths: list[PathMessage] = []
        node.create_subscription(PathMessage, f"{arm}/planned_path", self.paths.append, latched)
        markers = node.create_client(GetInteractiveMarkers, f"{tools}/marker/get_interactive_markers")

        def initialized() -> bool:
            answer = client.call(markers, GetInteractiveMarkers.Request())
            self._sequence = answer.sequence_number
            self.marker = next(iter(answer.markers), None)
            return self.marker is not None

        self.marker: InteractiveMarker | None = None
        assert client.spin_until(initialized)

    # What RViz shows.

    def _on_update(self, update: InteractiveMarkerUpdate) -> None:
        assert update.type == InteractiveMarkerUpdate.UPDATE
        if self.marker is None or update.seq_num <= self._sequence:
            return
        self.lost += update.seq_num != self._sequence + 1
        self._sequence = update.seq_num
        for marker in update.markers:
            self.marker = marker
        for moved in update.poses:
            assert moved.name == self.marker.name
            self.marker.pose = moved.pose

    def _on_text(self, text: Marker) -> None:
        assert text.type == Marker.TEXT_VIEW_FACING and text.header.frame_id == "fr3_link0"
        self._texts[text.ns] = text.text if text.action == Marker.ADD else ""

    @property
    def text(self) -> str:
        return self._texts.get("message", "")

    @property
    def color(self) -> tuple[float, ...]:
        color = self.marker.controls[0].markers[0].color
        return color.r, color.g, color.b

    def shows(self, color: tuple[float, ...]) -> bool:
        """Whether the ball has that colour in time."""
        return self.client.spin_until(lambda: np.allclose(self.color, color, atol=1e-6))

    def says(self, text: str) -> bool:
        """Whether that text is in the scene in time."""
        return self.client.spin_until(lambda: text in self.text)

    def is_silent(self) -> bool:
        """Whether no text is left in time."""
        return self.client.spin_until(lambda: not self.text)

    @property
    def marker_pose(self) -> np.ndarray:
        """Pose of the marker (4, 4)."""
        return pose_of(PoseStamped(pose=self.marker.pose))

    def marker_is_on_the_gripper(self) -> bool:
        """Whether it is in time, as far as the eye can see."""
        return self.client.spin_until(
            lambda: np.linalg.norm(self.marker_pose[:3, 3] - self.client.position) < 0.003
        ) and self.shows(GREY)

    # What the user does.

    def click_goal(self, x: float, y: float, heading: float, frame: str = "fr3_link0") -> None:
        goal = PoseStamped()
        goal.header.frame_id, goal.header.stamp = frame, self._clock.now().to_msg()
        goal.pose.position.x, goal.pose.position.y = x, y
        goal.pose.orientation.z = math.sin(heading) / (2.0 * math.cos(heading / 2.0))
        goal.pose.orientation.w = math.cos(heading / 2.0)
        self._publish(self._goal, goal)

    def click_point(self, *point: float) -> None:
        message = PointStamped()
        message.header.frame_id, message.header.stamp = "fr3_link0", self._clock.now().to_msg()
        message.point.x, message.point.y, message.point.z = point
        self._publish(self._point, message)

    def press(self) -> None:
        self.tell(InteractiveMarkerFeedback.POSE_UPDATE, self.marker_pose)
        self.tell(InteractiveMarkerFeedback.MOUSE_DOWN, self.marker_pose)

    def drag_to(self, pose: np.ndarray) -> None:
        """Drag the pressed marker there as a mouse does, in small steps, one per frame."""
        start = self.marker_pose
        for part in np.linspace(0.0, 1.0, 10):
            between = pose.copy()
            between[:3, 3] = start[:3, 3] + part * (pose[:3, 3] - start[:3, 3])
            self.tell(InteractiveMarkerFeedback.POSE_UPDATE, between)
            self.client.spin_for(1.0 / 30.0)

    def release(self, pose: np.ndarray) -> None:
        self.tell(InteractiveMarkerFeedback.POSE_UPDATE, pose)
        self.tell(InteractiveMarkerFeedback.MOUSE_UP, pose)

    def drag(self, pose: np.ndarray) -> None:
        self.press()
        self.drag_to(pose)
        self.release(pose)

    def choose(self, choice: Choice) -> None:
        """Right-click the marker and choose a menu entry."""
        entry = next(entry for entry in self.marker.menu_entries if entry.id == choice)
        assert entry.parent_id == 0 and entry.command_type == entry.FEEDBACK
        self.tell(InteractiveMarkerFeedback.MENU_SELECT, self.marker_pose, entry.id)

    def title(self, choice: Choice) -> str:
        return next(entry.title for entry in self.marker.menu_entries if entry.id == choice)

    def tell(self, event: int, pose: np.ndarray, entry: int = 0) -> None:
        feedback = InteractiveMarkerFeedback(client_id="/rviz", marker_name=self.marker.name, control_name="move_x")
        # The marker is locked to its frame, which is RViz's fixed frame: without a stamp.
        feedback.header.frame_id = self.marker.header.frame_id
        feedback.event_type, feedback.menu_entry_id = event, entry
        feedback.pose = pose_message(pose)
        self._publish(self._feedback, feedback)

    def _publish(self, publisher: rclpy.publisher.Publisher, message: object) -> None:
        assert self.client.spin_until(lambda: publisher.get_subscription_count() > 0)
        publisher.publish(message)


@pytest.fixture(scope="module")
def tools(running: tuple[NodeProcess, Client], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToolsProcess]:
    process = ToolsProcess(tmp_path_factory.mktemp("tools") / "tools.log", running[0].namespace)
    yield process
    assert process.end() == 0, process.log


@pytest.fixture(scope="module")
def only_rviz(running: tuple[NodeProcess, Client], tools: ToolsProcess) -> RViz:
    return RViz(running[1], tools.namespace, running[0].name)


@pytest.fixture
def rviz(robot: Client, only_rviz: RViz, tools: ToolsProcess) -> Iterator[RViz]:
    """RViz, with the arm at READY or near it, at rest, and the marker on the gripper."""
    assert tools.process.poll() is None, tools.log
    if np.abs(robot.q - READY).max() > 0.02:
        assert robot.outcome(robot.send_goal(READY)).status == GoalStatus.STATUS_SUCCEEDED
    assert only_rviz.marker_is_on_the_gripper()
    yield only_rviz
    assert only_rviz.lost == 0


def arrives(rviz: RViz, position: np.ndarray) -> bool:
    """Whether the control frame is there in time and stays."""
    robot = rviz.client
    there = robot.spin_until(lambda: np.linalg.norm(robot.position - position) < NEAR)
    return there and robot.rests() and bool(np.linalg.norm(robot.position - position) < NEAR)


def stays(robot: Client, q: np.ndarray) -> bool:
    """Whether the arm is still at ``q`` after it has had time to leave."""
    robot.spin_for(0.5)
    return bool(np.abs(robot.q - q).max() < 0.01)


def pose_now(robot: Client) -> np.ndarray:
    return pose_of(robot.pose)


# --- Processor time


def cpu_of_threads(pid: int) -> dict[int, int]:
    """How long the threads of a process have run so far, except those of DDS [ns]."""
    return {
        int(thread.name): int((thread / "schedstat").read_text().split()[0])
        for thread in Path(f"/proc/{pid}/task").iterdir()
        if not (thread / "comm").read_text().startswith("dds.")
    }


def test_following_the_arm_keeps_only_one_thread_busy(rviz: RViz, tools: ToolsProcess) -> None:
    pid = tools.process.pid
    before = cpu_of_threads(pid)
    rviz.client.spin_for(1.0)
    used = {thread: used - before.get(thread, 0) for thread, used in cpu_of_threads(pid).items()}
    main = used.pop(pid)
    # Threads of OpenBLAS spin while they wait for work: with a system of four equations per message, they took two
    # thirds of the time of the main thread.
    assert sum(used.values()) < 0.2 * main


# --- The marker


def test_the_marker_has_handles_for_every_direction_and_the_menu(rviz: RViz) -> None:
    modes = [control.interaction_mode for control in rviz.marker.controls]
    assert modes.count(InteractiveMarkerControl.MOVE_AXIS) == modes.count(InteractiveMarkerControl.ROTATE_AXIS) == 3
    assert len({control.name for control in rviz.marker.controls}) == len(modes)
    assert [entry.title for entry in rviz.marker.menu_entries] == ["Move here", "Home", "Stop", "Recover", "[ ] Follow"]
    assert rviz.marker.header.frame_id == "fr3_link0"
    stamp = rviz.marker.header.stamp
    assert stamp.sec == stamp.nanosec == 0, "with a stamp, RViz would not keep it locked to its frame"


def test_dragging_alone_moves_nothing_and_move_here_does(rviz: RViz, robot: Client) -> None:
    q, goal = robot.q, pose_now(robot)
    goal[:3, 3] += [0.05, 0.1, 0.05]
    rviz.drag(goal)
    assert rviz.shows(GREEN)
    assert stays(robot, q)
    rviz.choose(Choice.MOVE_HERE)
    assert rviz.shows(ORANGE)
    assert arrives(rviz, goal[:3, 3])
    np.testing.assert_allclose(pose_now(robot)[:3, :3], goal[:3, :3], atol=0.02)
    assert rviz.marker_is_on_the_gripper()
    assert np.abs(robot.q - q).max() < 0.6, "the arm came there the short way"


def test_an_unreachable_pose_is_red_with_the_reason_and_nothing_moves(
    rviz: RViz, robot: Client, tools: ToolsProcess
) -> None:
    q, goal = robot.q, pose_now(robot)
    goal[0, 3] += 1.0
    rviz.drag(goal)
    assert rviz.shows(RED)
    assert rviz.says("unreachable: it is too far away, by at least ")
    rviz.choose(Choice.MOVE_HERE)
    assert rviz.says("Move here: it is too far away, by at least ")
    assert tools.says("Move here: it is too far away, by at least ")
    assert stays(robot, q)
    # Back in reach, everything is as before.
    goal[0, 3] -= 1.05
    rviz.drag(goal)
    assert rviz.shows(GREEN) and rviz.is_silent()
    rviz.choose(Choice.STOP)
    assert rviz.marker_is_on_the_gripper()


def test_the_marker_returns_if_another_client_moves_the_arm(rviz: RViz, robot: Client) -> None:
    goal = pose_now(robot)
    goal[2, 3] += 0.1
    rviz.drag(goal)
    assert rviz.shows(GREEN)
    assert robot.outcome(robot.send_goal(READY + 0.1)).status == GoalStatus.STATUS_SUCCEEDED
    assert rviz.marker_is_on_the_gripper()


def test_a_click_without_a_drag_leaves_the_marker_on_the_gripper(rviz: RViz) -> None:
    rviz.press()
    rviz.release(rviz.marker_pose)
    assert rviz.marker_is_on_the_gripper()


# --- The menu


def test_home_moves_home_and_stop_stops_on_the_way(rviz: RViz, robot: Client) -> None:
    rviz.choose(Choice.HOME)
    assert robot.spin_until(lambda: robot.speed() > 0.3)
    rviz.choose(Choice.STOP)
    assert rviz.says("stopped")
    assert robot.rests()
    assert np.abs(robot.q - HOME).max() > 0.1 and np.abs(robot.q - READY).max() > 0.1
    assert rviz.marker_is_on_the_gripper()
    rviz.choose(Choice.HOME)
    assert robot.spin_until(lambda: np.abs(robot.q - HOME).max() < 0.01)
    assert rviz.marker_is_on_the_gripper() and rviz.is_silent()


def test_recover_activates_the_arm_again(rviz: RViz, robot: Client) -> None:
    assert robot.change("deactivate")
    rviz.choose(Choice.RECOVER)
    assert robot.becomes("active")
    assert rviz.says("recovered")


def test_stop_stops_the_moves_of_other_clients(rviz: RViz, robot: Client) -> None:
    handle = robot.send_goal(HOME)
    assert robot.spin_until(lambda: robot.speed() > 0.3)
    rviz.choose(Choice.STOP)
    assert robot.outcome(handle).status == GoalStatus.STATUS_CANCELED
    assert robot.rests()


def test_follow_follows_the_marker_as_far_as_the_arm_can_reach(rviz: RViz, robot: Client) -> None:
    rviz.choose(Choice.FOLLOW)
    assert robot.spin_until(lambda: rviz.title(Choice.FOLLOW) == "[x] Follow")
    goal = pose_now(robot)
    goal[:3, 3] += [0.0, 0.1, -0.05]
    rviz.press()
    rviz.drag_to(goal)
    # While the marker is held, without feedback from RViz, the arm arrives and stays.
    assert robot.spin_until(lambda: np.linalg.norm(robot.position - goal[:3, 3]) < 0.01)
    away = goal.copy()
    away[2, 3] += 2.0
    rviz.tell(InteractiveMarkerFeedback.POSE_UPDATE, away)
    assert rviz.shows(RED)
    assert robot.rests()
    assert np.linalg.norm(robot.position - goal[:3, 3]) < 0.01, (
        "the arm does not move towards a pose that it cannot reach"
    )
    rviz.release(goal)
    assert rviz.marker_is_on_the_gripper()
    rviz.choose(Choice.FOLLOW)
    assert robot.spin_until(lambda: rviz.title(Choice.FOLLOW) == "[ ] Follow")


def test_follow_says_which_mode_it_needs(rviz: RViz, robot: Client) -> None:
    assert robot.set(mode="impedance") == ""
    rviz.choose(Choice.FOLLOW)
    assert rviz.says(f"Follow: mode osc is needed, but it is impedance: {CTL} set mode osc --node {rviz.arm}")
    assert rviz.title(Choice.FOLLOW) == "[ ] Follow"


# --- 2D Goal Pose and Publish Point


def test_a_goal_pose_moves_the_arm_at_the_same_height_to_point_along_the_arrow(rviz: RViz, robot: Client) -> None:
    before = pose_now(robot)
    rviz.click_goal(0.45, -0.2, -0.6)
    assert arrives(rviz, np.array([0.45, -0.2, before[2, 3]]))
    after = pose_now(robot)
    # At READY the gripper points down, so its x axis points along the arrow.
    assert math.atan2(after[1, 0], after[0, 0]) == pytest.approx(-0.6, abs=0.03)
    np.testing.assert_allclose(after[:3, 2], before[:3, 2], atol=0.03)


def test_a_clicked_point_moves_the_arm_there_with_the_same_orientation(rviz: RViz, robot: Client) -> None:
    before = pose_now(robot)
    rviz.click_point(0.5, 0.15, 0.4)
    assert arrives(rviz, np.array([0.5, 0.15, 0.4]))
    np.testing.assert_allclose(pose_now(robot)[:3, :3], before[:3, :3], atol=0.02)


def test_an_unreachable_click_is_refused_in_rviz_and_in_the_log(rviz: RViz, robot: Client, tools: ToolsProcess) -> None:
    q = robot.q
    rviz.click_goal(2.0, 0.0, 0.0)
    assert rviz.says("2D Goal Pose: it is too far away, by at least ")
    rviz.click_point(0.0, 0.0, 3.0)
    assert rviz.says("Publish Point: it is too far away, by at least ")
    rviz.click_goal(0.4, 0.0, 0.0, frame="moon")
    assert rviz.says("2D Goal Pose: its frame is 'moon'")
    for text in (
        "2D Goal Pose: it is too far away, by at least ",
        "Publish Point: it is too far away, by at least ",
        "its frame is 'moon'",
    ):
        assert tools.says(text)
    assert stays(robot, q)


def test_a_goal_replaces_the_running_one_and_keeps_its_height(rviz: RViz, robot: Client) -> None:
    rviz.click_point(0.5, 0.25, 0.3)
    assert robot.spin_until(lambda: robot.speed() > 0.2)
    rviz.click_goal(0.5, -0.2, 0.0)
    assert arrives(rviz, np.array([0.5, -0.2, 0.3]))
    assert rviz.is_silent()


def test_a_move_that_the_node_rejects_is_reported(rviz: RViz, robot: Client) -> None:
    assert robot.change("deactivate")
    rviz.click_point(0.5, 0.1, 0.4)
    assert rviz.says(f"{rviz.arm} rejected the move: the node is not active")
    assert robot.change("activate")
    assert rviz.marker_is_on_the_gripper()


# --- The planned path


def test_the_planned_path_leads_from_the_arm_to_its_goal(rviz: RViz, robot: Client) -> None:
    begin = robot.position
    rviz.paths.clear()
    rviz.click_point(0.5, 0.15, 0.4)
    assert robot.spin_until(lambda: rviz.paths)
    path = rviz.paths[-1]
    assert path.header.frame_id == "fr3_link0"
    points = np.array([[p.pose.position.x, p.pose.position.y, p.pose.position.z] for p in path.poses])
    np.testing.assert_allclose(points[0], begin, atol=NEAR)
    np.testing.assert_allclose(points[-1], [0.5, 0.15, 0.4], atol=1e-4)
    assert np.linalg.norm(np.diff(points, axis=0), axis=1).max() < 0.05, "fine enough to be seen as a line"
    assert arrives(rviz, points[-1])


# --- RViz's configuration


def test_everything_in_rvizs_configuration_exists(rviz: RViz, robot: Client, tools: ToolsProcess) -> None:
    """Its topics are relative, and it runs in the same namespace."""
    settings = yaml.safe_load((ROOT / "config" / "bringup.rviz").read_text())["Visualization Manager"]
    below = f"/{tools.namespace}/"

    def has_one_subscriber(topic: str) -> bool:
        return robot.spin_until(lambda: robot.node.count_subscribers(topic) == 1)

    for display in settings["Displays"]:
        if "Topic" in display:
            topic = below + display["Topic"]["Value"]
            assert robot.spin_until(lambda topic=topic: robot.node.count_publishers(topic) > 0), topic
        if "Interactive Markers Namespace" in display:
            marker = below + display["Interactive Markers Namespace"]
            assert has_one_subscriber(f"{marker}/feedback")
    for tool in settings["Tools"]:
        if "Topic" in tool:
            assert has_one_subscriber(below + tool["Topic"]["Value"])


# --- Without an arm


def test_pointing_uses_the_axis_that_is_level() -> None:
    down, level = np.diag([1.0, -1.0, -1.0, 1.0]), np.eye(4)
    level[:3, :3] = [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]  # It reaches along x of the base.
    np.testing.assert_allclose(point_along(down, 0.7)[:2, 0], [math.cos(0.7), math.sin(0.7)], atol=1e-12)
    np.testing.assert_allclose(point_along(down, 0.7)[:3, 2], [0.0, 0.0, -1.0], atol=1e-12)
    np.testing.assert_allclose(point_along(level, -2.0)[:3, 2], [math.cos(-2.0), math.sin(-2.0), 0.0], atol=1e-12)
