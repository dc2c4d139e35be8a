"""A stream of targets that is far away when it gains control: speeds of every cycle of a node, log, diagnostics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from common import lose_packets
from sensor_msgs.msg import JointState

from aiofranka_ros.control.records import Approach
from aiofranka_ros.testing import Client, CycleRecorder
from bench.faults.lunge import LIMITS, speeds

#: How far away streams begin [m], and joint 1 of one [rad].
FAR, FAR_JOINT = 0.1, 0.4

Log = Callable[[str], bool]


class Poses:
    """A stream of one pose at 50 Hz, as a timer of the client publishes it."""

    def __init__(self, robot: Client) -> None:
        self._robot, self.pose = robot, robot.pose
        self.pose.header.stamp.sec = self.pose.header.stamp.nanosec = 0
        self.start()

    def jump(self) -> None:
        """From now on, the pose is another one."""
        self.pose.pose.position.y += FAR

    def start(self) -> None:
        self._timer = self._robot.node.create_timer(0.02, self.publish)

    def publish(self) -> None:
        self._robot.publishers["ee_desired"].publish(self.pose)

    def stop(self) -> None:
        self._robot.node.destroy_timer(self._timer)


@pytest.fixture
def poses(robot: Client, cycles: CycleRecorder) -> Iterator[Poses]:
    poses = Poses(robot)
    follows(robot, cycles)
    yield poses
    poses.stop()


def follows(robot: Client, cycles: CycleRecorder) -> None:
    robot.wait(lambda: cycles.state()["approach"] == Approach.FOLLOWING, "the stream is not met")


def approaches(robot: Client, cycles: CycleRecorder) -> None:
    robot.wait(lambda: cycles.state()["approach"] == Approach.APPROACHING, "the arm does not approach its stream")


def activate(robot: Client, poses: Poses) -> None:
    assert robot.change("deactivate")
    poses.jump()
    robot.spin_for(0.1)
    assert robot.change("activate")


def recover(robot: Client, poses: Poses) -> None:
    lose_packets(int(robot.diagnostics("control loop")[1]["control process"]))
    assert robot.becomes("inactive")
    poses.jump()
    robot.spin_for(0.1)
    assert robot.change("activate")


def release(robot: Client, poses: Poses) -> None:
    robot.trigger("hold")
    poses.jump()
    robot.spin_for(0.1)
    robot.trigger("release")


def move(robot: Client, poses: Poses) -> None:
    handle = robot.send_goal(robot.q + 0.05)
    poses.jump()
    assert robot.outcome(handle).status == GoalStatus.STATUS_SUCCEEDED


def set_mode_again(robot: Client, poses: Poses) -> None:
    poses.stop()
    assert robot.set(mode="osc") == ""
    poses.jump()
    poses.start()


@pytest.mark.parametrize("regain", [activate, recover, release, move, set_mode_again], ids=lambda way: way.__name__)
def test_the_arm_never_lunges_at_a_stream_that_is_far_away_when_it_regains_control(
    robot: Client, cycles: CycleRecorder, poses: Poses, regain: Callable[[Client, Poses], None]
) -> None:
    cycles.take()
    regain(robot, poses)
    approaches(robot, cycles)
    follows(robot, cycles)
    assert robot.rests()
    linear, angular = (speed.max() for speed in speeds(cycles.take()))
    assert linear <= LIMITS[0] and angular <= LIMITS[1]
    assert robot.position[1] == pytest.approx(poses.pose.pose.position.y, abs=5e-3)  # Friction.


def test_a_joint_stream_far_away_is_approached_slowly(robot: Client, cycles: CycleRecorder) -> None:
    assert robot.set(mode="impedance") == ""
    goal = robot.q
    goal[0] += FAR_JOINT
    cycles.take()
    robot.publish("q_desired", JointState(position=goal.tolist()))
    approaches(robot, cycles)
    follows(robot, cycles)
    assert robot.rests()
    recorded = cycles.take()
    moved = np.abs(recorded["q"][20:] - recorded["q"][:-20]) / (recorded["time"][20:] - recorded["time"][:-20])[:, None]
    assert moved.max() <= 0.36
    assert robot.q[0] == pytest.approx(goal[0], abs=0.02)


def test_log_and_diagnostics_say_how_far_the_stream_is(
    robot: Client, cycles: CycleRecorder, poses: Poses, log: Log
) -> None:
    robot.trigger("hold")
    poses.pose.pose.position.z -= 0.2
    robot.trigger("release")
    said: list[str] = []

    def message() -> str:
        robot.refresh("targets")
        said.append(robot.statuses["targets"].message)
        return said[-1]

    assert robot.spin_until(lambda: message().startswith("approaching its stream: 0."))
    assert log("approaching the targets on ~/ee_desired, which begin 0.2")
    follows(robot, cycles)
    assert robot.spin_until(lambda: not message().startswith("approaching"))
    assert not [text for text in said if "catch up" in text]


def test_a_stream_that_begins_far_away_is_refused_if_the_user_prefers_that(
    robot: Client, cycles: CycleRecorder, log: Log
) -> None:
    assert robot.set(approach_far_streams=False) == ""
    try:
        where = robot.position
        target: Any = robot.pose
        target.header.stamp.sec = target.header.stamp.nanosec = 0
        target.pose.position.y += FAR
        robot.publish("ee_desired", target)
        text = "refused a target on ~/ee_desired: it is 0.10 m from the arm; with approach_far_streams false"
        assert robot.spin_until(lambda: log(text))
        level, values = robot.diagnostics("targets")
        assert level == b"\x01" and "approach_far_streams true" in values["what to do"]
        assert values["refused: begins far away"] == "1"
        assert np.abs(robot.position - where).max() < 2e-3
        target.pose.position.y += 0.015 - FAR
        robot.publish("ee_desired", target)
        assert robot.spin_until(lambda: robot.position[1] > where[1] + 0.008)
    finally:
        assert robot.set(approach_far_streams=True) == ""
