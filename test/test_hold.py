"""Which client controls the arm, how ~/hold takes control from all of them, and the limits of the workspace."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import rclpy
from action_msgs.msg import GoalStatus
from geometry_msgs.msg import PoseStamped
from rclpy.subscription import MessageInfo
from std_srvs.srv import Trigger

from aiofranka_ros.model.fr3 import HOME, POSITION_UPPER
from aiofranka_ros.model.kinematics import control_frame
from aiofranka_ros.testing import PATIENCE, Client, NodeProcess

Log = Callable[[str], bool]
ELSEWHERE = HOME + np.array([0.5, 0.0, 0.0, -0.3, 0.0, 0.3, 0.0])


class Services:
    """``~/hold`` and ``~/release`` of the module's node."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._services = {
            service: client.node.create_client(Trigger, f"{name}/{service}") for service in ("hold", "release")
        }

    def __call__(self, service: str) -> str:
        answer = self._client.call(self._services[service], Trigger.Request())
        assert answer.success
        return str(answer.message)


@pytest.fixture(scope="module")
def services(running: Any) -> Services:
    process, client = running
    return Services(client, process.name)


@pytest.fixture
def call(services: Services, robot: Client) -> Any:
    """Calls a service by name; the arm is at HOME at the beginning and released at the end."""
    handle = robot.send_goal(HOME)
    assert robot.outcome(handle).status == GoalStatus.STATUS_SUCCEEDED
    yield services
    services("release")


def owner(robot: Client) -> str:
    return robot.diagnostics("targets")[1]["owner"]


def under_way(robot: Client) -> bool:
    return robot.spin_until(lambda: robot.speed() > 0.1)


def test_a_hold_aborts_a_move_and_its_result_says_why(robot: Client, call: Services, log: Log) -> None:
    handle = robot.send_goal(ELSEWHERE)
    assert under_way(robot)
    assert owner(robot) == "~/move"
    assert call("hold") == "held; ~/move no longer controls the arm"
    outcome = robot.outcome(handle)
    assert outcome.status == GoalStatus.STATUS_ABORTED
    assert "a client called ~/hold" in outcome.result.error_message
    assert robot.speed() < 0.05, "the goal ends when the arm has stopped"
    assert owner(robot) == "~/hold"
    assert robot.state == "active"
    assert np.abs(robot.q - ELSEWHERE).max() > 0.05


def test_goals_and_targets_for_a_held_arm_are_refused_and_counted(robot: Client, call: Services, log: Log) -> None:
    assert call("hold") == "held"
    q = robot.q
    assert not robot.send_goal(ELSEWHERE).accepted
    assert robot.spin_until(lambda: log("rejected a goal of ~/move: the arm is held"))
    target = robot.pose
    target.header.stamp.sec = target.header.stamp.nanosec = 0
    target.pose.position.z += 0.05
    robot.publish("ee_desired", target)
    assert robot.spin_until(lambda: log("refused a target on ~/ee_desired: the arm is held"))
    values = robot.diagnostics("targets")[1]
    assert int(values["refused: held"]) >= 1 and int(values["goal rejected: held"]) >= 1
    assert np.abs(robot.q - q).max() < 0.01

    assert call("release") == "released"
    assert owner(robot) == "no client"
    before = robot.position
    for _ in range(20):
        robot.publish("ee_desired", target)
        robot.spin_for(0.02)
    assert robot.spin_until(lambda: robot.position[2] > before[2] + 0.03)
    assert call("release") == "it was not held"


def test_a_held_arm_stays_held_when_it_is_activated_again(robot: Client, call: Services) -> None:
    call("hold")
    assert robot.change("deactivate")
    assert robot.change("cleanup")
    assert robot.change("configure")
    assert robot.change("activate")
    assert not robot.send_goal(ELSEWHERE).accepted
    assert owner(robot) == "~/hold"
    call("release")
    handle = robot.send_goal(HOME)
    assert robot.outcome(handle).status == GoalStatus.STATUS_SUCCEEDED


@pytest.mark.parametrize(("beyond", "accepted"), [(-0.01, True), (0.01, False)])
def test_a_goal_outside_the_workspace_is_rejected(
    robot: Client, call: Services, log: Log, beyond: float, accepted: bool
) -> None:
    tcp_height = robot.position[2] - control_frame(robot.q)[2, 3]
    goal = HOME.copy()
    goal[3] -= 0.4
    floor = control_frame(goal)[2, 3] + tcp_height + beyond
    assert robot.set(workspace_lower=[-2.0, -2.0, float(floor)]) == ""
    try:
        handle = robot.send_goal(goal)
        assert handle.accepted == accepted
        if accepted:
            assert robot.outcome(handle).status == GoalStatus.STATUS_SUCCEEDED
        else:
            assert robot.spin_until(lambda: log("z of the control frame would be at"))
            assert robot.spin_until(lambda: log("beyond workspace_lower"))
    finally:
        assert robot.set(workspace_lower=[-2.0, -2.0, -2.0]) == ""


def test_targets_stop_at_the_limit_of_the_workspace(robot: Client, call: Services) -> None:
    start = robot.position
    assert robot.set(workspace_lower=[-2.0, -2.0, float(start[2] - 0.03)]) == ""
    try:
        target = robot.pose
        target.header.stamp.sec = target.header.stamp.nanosec = 0
        target.pose.position.z -= 0.1
        for _ in range(50):
            robot.publish("ee_desired", target)
            robot.spin_for(0.02)
        assert robot.rests()
        # Friction stops the arm at most 5 mm before.
        assert robot.position[2] == pytest.approx(start[2] - 0.03, abs=5e-3)
        assert int(robot.diagnostics("targets")[1]["limited"]) > 0
    finally:
        assert robot.set(workspace_lower=[-2.0, -2.0, -2.0]) == ""


def test_a_goal_beyond_a_soft_limit_of_a_joint_is_rejected(robot: Client, call: Services, log: Log) -> None:
    upper = POSITION_UPPER.copy()
    upper[0] = 0.3
    assert robot.set(joint_upper=upper.tolist()) == ""
    try:
        assert not robot.send_goal(HOME + np.array([0.32, 0, 0, 0, 0, 0, 0])).accepted
        assert robot.spin_until(lambda: log("beyond joint_upper"))
        handle = robot.send_goal(HOME + np.array([0.29, 0, 0, 0, 0, 0, 0]))
        assert robot.outcome(handle).status == GoalStatus.STATUS_SUCCEEDED
    finally:
        assert robot.set(joint_upper=POSITION_UPPER.tolist()) == ""


def test_of_limits_that_contradict_each_other_none_is_set(robot: Client) -> None:
    reason = robot.set(workspace_lower=[0.3, 0.0, 0.0], workspace_upper=[0.6, 0.0, 0.5])
    assert "workspace_lower" in reason and "not below workspace_upper" in reason
    assert list(robot.get("workspace_lower")) == [-2.0] * 3
    # The second call is checked against the first.
    assert robot.set(workspace_lower=[0.3, -1.0, 0.0]) == ""
    assert "not below" in robot.set(workspace_upper=[0.2, 1.0, 1.0])
    assert robot.set(workspace_lower=[-2.0] * 3) == ""


# Two publishers.


def test_the_first_of_two_publishers_controls_the_arm_until_it_is_silent(
    running: tuple[NodeProcess, Client], robot: Client, call: Services, log: Log
) -> None:
    second = rclpy.create_node("second_policy", context=robot.node.context, use_global_arguments=False)
    try:
        publisher = second.create_publisher(PoseStamped, f"{running[0].name}/ee_desired", 1)
        assert robot.spin_until(lambda: publisher.get_subscription_count() > 0)
        here = robot.pose
        here.header.stamp.sec = here.header.stamp.nanosec = 0
        above = copy.deepcopy(here)
        above.pose.position.z += 0.05
        for _ in range(30):
            # With a pause, because the node reads only the newest message.
            robot.publish("ee_desired", here)
            robot.spin_for(0.02)
            publisher.publish(above)
            robot.spin_for(0.02)
        if "publisher_gid" not in MessageInfo.__annotations__:
            pytest.skip("this rclpy does not report the publisher of a message")
        assert robot.spin_until(lambda: log("second_policy has to wait"))
        robot.publish("ee_desired", here)
        assert "client on" in owner(robot) and owner(robot).endswith("/ee_desired")
        assert abs(robot.position[2] - here.pose.position.z) < 0.01
        # The first publisher falls silent; the second one then controls the arm.
        before = robot.position[2]
        deadline = time.monotonic() + PATIENCE
        while robot.position[2] < before + 0.03 and time.monotonic() < deadline:
            publisher.publish(above)
            robot.spin_for(0.02)
        assert robot.position[2] > before + 0.03
        assert "second_policy on" in owner(robot)
    finally:
        second.destroy_node()
