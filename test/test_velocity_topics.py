"""Velocities, and streams of trajectories with one point each, through the node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import TwistStamped
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from aiofranka_ros.control.records import Law
from aiofranka_ros.model import fr3
from aiofranka_ros.testing import Client, CycleRecorder

READY = fr3.READY.copy()
#: At this rate velocities are sent [Hz].
RATE = 50


@pytest.fixture
def cycles(robot: Client) -> Iterator[CycleRecorder]:
    recorder = CycleRecorder(robot.diagnostics("control loop")[1]["shared memory"])
    yield recorder
    recorder.close()


@pytest.fixture(autouse=True)
def at_rest(robot: Client) -> None:
    if np.abs(robot.q - READY).max() > 0.02:
        robot.outcome(robot.send_goal(READY))
    assert robot.rests()


def stream(robot: Client, rate: float, count: int, send: Callable[[int], None]) -> None:
    due = time.monotonic()
    for k in range(count):
        send(k)
        due += 1.0 / rate
        robot.spin_until(lambda until=due: time.monotonic() >= until, period=0.002)


def twist(*numbers: float, frame: str = "") -> TwistStamped:
    message = TwistStamped()
    message.header.frame_id = frame
    v, w = message.twist.linear, message.twist.angular
    v.x, v.y, v.z, w.x, w.y, w.z = numbers
    return message


def refusals(robot: Client) -> int:
    robot.forget()
    return int(robot.diagnostics("targets")[1]["refused"])


@pytest.mark.parametrize("frame", ["", "fr3_tcp", "fr3_hand_tcp"])
def test_a_twist_moves_the_hand_along_the_axes_of_its_frame_and_stops_when_it_times_out(
    robot: Client, cycles: CycleRecorder, frame: str
) -> None:
    refused = refusals(robot)
    cycles.take()
    message = twist(0.05, 0.02, -0.04, 0.0, 0.0, 0.0, frame=frame)
    stream(robot, RATE, RATE, lambda k: robot.publish("twist_desired", message))
    robot.forget()
    values = robot.diagnostics("targets")[1]
    robot.spin_for(1.0)
    record = cycles.take()
    position, moving = record["ref_position"], np.linalg.norm(np.diff(record["ref_position"], axis=0), axis=1) > 2e-5
    way = position[-1] - position[0]
    axes = Rotation.from_quat(record["ref_orientation"][0]) if frame == "fr3_tcp" else Rotation.identity()
    if frame == "fr3_hand_tcp":  # At READY, a Franka Hand points down, its x axis forward.
        axes = Rotation.from_euler("x", np.pi)
    expected = axes.apply([0.05, 0.02, -0.04])
    # As long as the stream and the timeout, by the robot's time; it takes some milliseconds to be that fast.
    seconds = np.diff(record["time"])[moving].sum()
    np.testing.assert_allclose(way / seconds, expected, atol=0.002)
    assert 0.5 < seconds < 2.5, "the robot's time is slower on a busy computer"
    along = (position - position[0]) @ expected
    assert along.max() - along[-1] < 1e-4, "it does not return"
    assert "velocit" in values["driven by"]
    robot.forget()
    assert "timed out" in robot.diagnostics("targets")[1]["driven by"]
    assert refusals(robot) == refused


def test_velocities_of_joints_move_them_by_their_names(robot: Client, cycles: CycleRecorder) -> None:
    assert robot.set(mode="impedance") == ""
    cycles.take()
    message = JointState(name=list(fr3.JOINT_NAMES[::-1]), velocity=[0.0] * 5 + [-0.1, 0.2])
    stream(robot, RATE, RATE, lambda k: robot.publish("dq_desired", message))
    robot.spin_for(1.0)
    record = cycles.take()
    way = record["ref_q"][-1] - record["ref_q"][0]
    assert way[0] > 0.15 and way[1] == pytest.approx(-0.5 * way[0], rel=0.01)
    np.testing.assert_allclose(way[2:], 0.0, atol=1e-4)
    assert robot.rests()


@pytest.mark.parametrize(
    ("topic", "message", "reason"),
    [
        ("twist_desired", twist(np.nan, 0.0, 0.0, 0.0, 0.0, 0.0), "not finite"),
        ("twist_desired", twist(0.1, 0.0, 0.0, 0.0, 0.0, 0.0, frame="nowhere"), "unknown frame"),
        ("dq_desired", JointState(velocity=[0.1] * 7), "another mode"),
    ],
)
def test_velocities_that_cannot_be_used_are_refused_with_the_reason(
    robot: Client, topic: str, message: Any, reason: str
) -> None:
    robot.publish(topic, message)

    def refused() -> bool:
        robot.forget()
        return f"refused: {reason}" in robot.diagnostics("targets")[1]

    assert robot.spin_until(refused)
    assert robot.speed() < 0.02


class Servo:
    """Sends what MoveIt Servo sends."""

    def __init__(self, robot: Client) -> None:
        self.robot = robot
        namespace = robot.name.rpartition("/")[0]
        topic = f"{namespace}/fr3_arm_controller/joint_trajectory"
        self._publisher = robot.node.create_publisher(JointTrajectory, topic, 1)

    def send(self, q: np.ndarray, due: float, *, dq: np.ndarray | None = None, stamped: bool = False) -> None:
        self.robot.wait(lambda: self._publisher.get_subscription_count() > 0, "the node does not listen")
        seconds, rest = divmod(round(1e9 * due), 10**9)
        point = JointTrajectoryPoint(positions=q.tolist(), time_from_start=Duration(sec=seconds, nanosec=rest))
        point.velocities = [] if dq is None else dq.tolist()
        message = JointTrajectory(joint_names=list(fr3.JOINT_NAMES), points=[point])
        if stamped:
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(time.time_ns(), 10**9)
        self._publisher.publish(message)


@pytest.mark.parametrize(
    ("mode", "rate", "velocities", "stamped"),
    [
        ("osc", 30, True, False),
        ("osc", 100, False, True),
        ("impedance", 100, True, False),
        ("pid", 30, False, True),
        ("torque", 30, True, True),
    ],
)
def test_moveit_servo_moves_the_arm_at_its_speed_in_every_mode_and_not_beyond_its_last_point(
    robot: Client, cycles: CycleRecorder, mode: str, rate: int, velocities: bool, stamped: bool
) -> None:
    assert robot.set(mode=mode) == ""
    servo, refused, begin = Servo(robot), refusals(robot), robot.q
    dq = np.array([0.2, 0.0, 0.0, 0.0, 0.0, -0.1, 0.0])

    def send(k: int) -> None:
        servo.send(begin + dq * (k + 1) / rate, 1.0 / rate, dq=dq if velocities else None, stamped=stamped)

    cycles.take()
    stream(robot, rate, 2 * rate, send)
    robot.spin_for(1.5)
    record, last = cycles.take(), begin + 2.0 * dq
    after = record["ref_q"][:, 0]
    i, j = (int(np.argmax(after > begin[0] + way)) for way in (0.1, 0.35))
    # In windows of a tenth of a second, by the clock by which they were sent: a busy computer sends some of them late.
    way, seconds = after[i + 100 : j] - after[i : j - 100], record["stamp"][i + 100 : j] - record["stamp"][i : j - 100]
    # A simulated robot on a slow computer is slower than that clock, and so is its arm.
    pace = min(float(np.median(1e9 * 0.1 / seconds)), 1.0)
    assert 0.95 * pace * 0.2 < np.median(1e9 * way / seconds) < 1.05 * 0.2
    assert after.max() < last[0] + 1e-3
    np.testing.assert_allclose(robot.q, last, atol=0.02)
    assert refusals(robot) == refused
    expected = {"impedance": Law.IMPEDANCE, "pid": Law.PID}.get(mode, Law.HOLD)
    assert record["law"][j] == expected
    assert record["motion_status"].max() == 0, "nothing was planned"
    assert record["law"][-1] == {"osc": Law.OSC, "torque": Law.HOLD}.get(mode, expected)


def test_a_point_that_is_due_later_is_planned_and_must_end_at_rest(robot: Client, cycles: CycleRecorder) -> None:
    servo, goal = Servo(robot), READY + [0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    cycles.take()
    servo.send(goal, 2.0)
    assert robot.spin_until(lambda: bool(np.abs(robot.q - goal).max() < 0.01))
    assert Law.MOTION in cycles.take()["law"]
    assert robot.rests()
    servo.send(READY, 2.0, dq=np.full(7, 0.1))
    robot.spin_for(0.5)
    assert Law.MOTION not in cycles.take()["law"][-200:]
