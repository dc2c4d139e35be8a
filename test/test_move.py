"""The action ``~/move``: a goal is reached or fails with the reason, and it can be cancelled."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from franka_msgs.msg import TargetStatus

from aiofranka_ros.control.records import MotionStatus
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.testing import Client, CycleRecorder, NodeProcess, descendant

Log = Callable[[str], bool]

#: A second away from HOME at the default velocities.
ELSEWHERE = HOME + np.array([0.4, -0.3, 0.2, -0.4, 0.3, 0.3, -0.5])


@pytest.fixture(autouse=True)
def at_home(robot: Client) -> Iterator[None]:
    """Start at HOME."""
    if np.abs(robot.q - HOME).max() > 0.02:
        assert robot.outcome(robot.send_goal(HOME)).status == GoalStatus.STATUS_SUCCEEDED
    yield


def up_to_speed(robot: Client) -> bool:
    """Whether the arm gets up to speed in time."""
    return robot.spin_until(lambda: robot.speed() > 0.3)


def test_a_move_arrives_within_its_tolerance_and_gives_feedback_until_then(robot: Client) -> None:
    handle = robot.send_goal(ELSEWHERE)
    assert handle.accepted
    outcome = robot.outcome(handle)
    assert outcome.status == GoalStatus.STATUS_SUCCEEDED
    assert outcome.result.target_status.status == TargetStatus.TARGET_REACHED
    assert outcome.result.error_message == ""
    assert np.abs(robot.q - ELSEWHERE).max() <= 0.01
    statuses = [message.feedback.target_status.status for message in robot.feedback]
    # 20 Hz for about a second; a busy machine loses some.
    assert len(statuses) >= 5 and set(statuses) == {TargetStatus.EXECUTING}


@pytest.mark.parametrize("mode", ["osc", "impedance"])
def test_a_move_to_where_the_arm_is_succeeds_without_delay(robot: Client, mode: str) -> None:
    assert robot.set(mode=mode) == ""
    assert robot.rests()
    recorder = CycleRecorder(robot.diagnostics("control loop")[1]["shared memory"])
    for _ in range(10):
        assert robot.outcome(robot.send_goal(robot.q)).status == GoalStatus.STATUS_SUCCEEDED
        robot.spin_for(0.02)
    cycles = recorder.take()
    recorder.close()
    executing = cycles["motion_id"][cycles["motion_status"] == MotionStatus.EXECUTING]
    # In cycles of the arm, so that a busy machine does not matter. Noise of the measured state fades out first.
    assert np.unique(executing, return_counts=True)[1].max(initial=0) < 150


def test_a_move_that_would_take_hours_is_rejected_with_the_reason(robot: Client, log: Log) -> None:
    assert not robot.send_goal(HOME - 0.5, velocities=[1e-5] * 7).accepted
    assert robot.spin_until(lambda: log("is a velocity, an acceleration or a jerk too low?"))
    assert robot.state == "active"


def test_a_move_keeps_to_the_lower_velocities_of_its_goal(robot: Client) -> None:
    handle = robot.send_goal(HOME + np.array([0.2, 0, 0, 0, 0, 0, 0]), velocities=[0.1] * 7)
    result = handle.get_result_async()
    fastest = 0.0
    while not result.done():
        fastest = max(fastest, robot.speed())
    assert result.result().status == GoalStatus.STATUS_SUCCEEDED
    # A stiff joint law overshoots its reference by a few percent.
    assert 0.05 < fastest < 0.13


BAD_GOALS = {
    "too few joints": ({"q": HOME[:6]}, "goal_joint_configuration has 6 values"),
    "not finite": ({"q": [math.nan] * 7}, "goal_joint_configuration is not finite"),
    "out of limits": ({"q": [*HOME[:6], 3.5]}, "fr3_joint7 = 3.5000 rad is outside"),
    "too few velocities": ({"q": HOME, "velocities": [1.0] * 3}, "maximum_joint_velocities has 3 values"),
    "velocity of zero": ({"q": HOME, "velocities": [0.0] * 7}, "maximum_joint_velocities must be positive"),
    "velocity not finite": ({"q": HOME, "velocities": [math.inf] * 7}, "is not finite"),
    "negative tolerance": ({"q": HOME, "tolerance": -0.1}, "goal_tolerance is -0.1 rad"),
}


@pytest.mark.parametrize("what", BAD_GOALS)
def test_a_bad_goal_is_rejected_with_the_reason(robot: Client, log: Log, what: str) -> None:
    goal, text = BAD_GOALS[what]
    assert not robot.send_goal(**goal).accepted
    assert robot.spin_until(lambda: log(text))


def test_cancelling_stops_the_arm_smoothly_where_it_is(robot: Client) -> None:
    handle = robot.send_goal(ELSEWHERE)
    assert up_to_speed(robot)
    assert len(robot.cancel(handle).goals_canceling) == 1
    outcome = robot.outcome(handle)
    assert outcome.status == GoalStatus.STATUS_CANCELED
    assert outcome.result.target_status.status == TargetStatus.IDLE
    assert robot.rests()
    q = robot.q
    assert np.abs(q - ELSEWHERE).max() > 0.05 and np.abs(q - HOME).max() > 0.05
    assert robot.state == "active"


def test_a_new_goal_replaces_the_running_one(robot: Client) -> None:
    first = robot.send_goal(ELSEWHERE)
    assert up_to_speed(robot)
    second = robot.send_goal(HOME)
    assert second.accepted
    outcome = robot.outcome(first)
    assert outcome.status == GoalStatus.STATUS_ABORTED
    assert "replaced by a new goal" in outcome.result.error_message
    assert robot.outcome(second).status == GoalStatus.STATUS_SUCCEEDED
    assert np.abs(robot.q - HOME).max() <= 0.01


def test_targets_are_refused_during_a_move_and_accepted_after_it(robot: Client, log: Log) -> None:
    handle = robot.send_goal(ELSEWHERE)
    assert up_to_speed(robot)
    target = robot.pose
    robot.publish("ee_desired", target)
    assert robot.spin_until(lambda: log("~/move controls the arm"))
    assert robot.outcome(handle).status == GoalStatus.STATUS_SUCCEEDED
    # The mode continues from where the arm is.
    q = robot.q
    robot.spin_for(0.3)
    assert np.abs(robot.q - q).max() < 0.01
    target = robot.pose
    target.header.stamp.sec = target.header.stamp.nanosec = 0
    target.pose.position.z -= 0.05
    wanted = target.pose.position.z

    def arrived() -> bool:
        robot.publish("ee_desired", target)
        return abs(robot.position[2] - wanted) < 0.01

    assert robot.spin_until(arrived)


@pytest.mark.parametrize("mode", ["impedance", "pid", "torque"])
def test_a_move_runs_in_every_mode(robot: Client, mode: str) -> None:
    assert robot.set(mode=mode) == ""
    goal = HOME + 0.1
    assert robot.outcome(robot.send_goal(goal)).status == GoalStatus.STATUS_SUCCEEDED
    assert np.abs(robot.q - goal).max() <= 0.01


def test_a_goal_that_is_missed_names_the_joints(robot: Client) -> None:
    assert robot.set(move_settle_time=0.1) == ""
    outcome = robot.outcome(robot.send_goal(ELSEWHERE, tolerance=1e-7))
    assert robot.set(move_settle_time=1.0) == ""
    assert outcome.status == GoalStatus.STATUS_ABORTED
    assert outcome.result.target_status.status == TargetStatus.ABORTED
    assert "missed the goal: fr3_joint" in outcome.result.error_message


def test_deactivating_aborts_the_move_and_inactive_goals_are_rejected(robot: Client, log: Log) -> None:
    handle = robot.send_goal(ELSEWHERE)
    assert up_to_speed(robot)
    assert robot.change("deactivate")
    outcome = robot.outcome(handle)
    assert outcome.status == GoalStatus.STATUS_ABORTED
    assert "not active" in outcome.result.error_message
    assert not robot.send_goal(HOME).accepted
    assert robot.spin_until(lambda: log("rejected a goal of ~/move: the node is not active"))
    assert robot.change("activate")
    assert robot.outcome(robot.send_goal(HOME)).status == GoalStatus.STATUS_SUCCEEDED


def test_the_robot_dying_aborts_the_move_with_the_reason(
    running: tuple[NodeProcess, Client], robot: Client, log: Log
) -> None:
    simulator = descendant(running[0].process.pid, "aiofranka_ros.simulation")
    handle = robot.send_goal(ELSEWHERE)
    assert up_to_speed(robot)
    os.kill(simulator, signal.SIGKILL)
    outcome = robot.outcome(handle)
    assert outcome.status == GoalStatus.STATUS_ABORTED
    assert "lost the robot" in outcome.result.error_message
    assert robot.becomes("inactive")
    assert robot.change("activate"), "activating starts another simulated arm"
