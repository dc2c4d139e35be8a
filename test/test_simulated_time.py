"""A node with ``use_sim_time``: everything that it publishes has the simulated time, whatever that clock does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from builtin_interfaces.msg import Time
from franka_msgs.msg import FrankaRobotState
from geometry_msgs.msg import PoseStamped, WrenchStamped
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from tf2_msgs.msg import TFMessage

from aiofranka_ros import FrankaController, RosInterface
from aiofranka_ros.testing import Client, NodeProcess


class SimulatedClock(threading.Thread):
    """Publishes ``/clock`` a hundred times a second until it is closed.

    :ivar speed: simulated seconds for each second.
    """

    def __init__(self, client: Client) -> None:
        super().__init__(daemon=True)
        self._publisher = client.node.create_publisher(Clock, "/clock", 1)
        self._client, self._ended = client, threading.Event()
        self.now, self.speed = 1000.0, 1.0
        self.start()

    def run(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(0.01):
            last, before = time.monotonic(), last
            self.now += self.speed * (last - before)
            self._publisher.publish(Clock(clock=self.stamp))

    @property
    def stamp(self) -> Time:
        """The present time."""
        return Time(sec=int(self.now), nanosec=int(self.now % 1.0 * 1e9))

    def close(self) -> None:
        self._ended.set()
        self.join()
        self._client.node.destroy_publisher(self._publisher)


@pytest.fixture
def clock(robot: Client) -> Iterator[SimulatedClock]:
    """The clock of the module's node; afterwards, that is the system's again."""
    clock = SimulatedClock(robot)
    try:
        assert robot.set(use_sim_time=True) == ""
        assert robot.spin_until(lambda: 0.0 <= clock.now - seconds(robot.pose.header.stamp) < 1.0)
        yield clock
    finally:
        assert robot.set(use_sim_time=False) == ""
        clock.close()


def seconds(stamp: Time) -> float:
    return stamp.sec + 1e-9 * stamp.nanosec


def follows(robot: Client, clock: SimulatedClock) -> bool:
    """Whether the arm follows targets that are stamped by ``clock``, by 3 cm up, and back."""
    target = robot.pose
    height = target.pose.position.z
    for goal in (height + 0.03, height):

        def arrived(goal: float = goal) -> bool:
            target.pose.position.z += max(-0.002, min(0.002, goal - target.pose.position.z))
            target.header.stamp = clock.stamp
            robot.publish("ee_desired", target)
            return abs(robot.position[2] - goal) < 0.01

        if not robot.spin_until(arrived, 10.0):
            return False
    return robot.rests()


def test_every_measurement_has_the_simulated_time(
    running: tuple[NodeProcess, Client], robot: Client, clock: SimulatedClock
) -> None:
    process, _ = running
    heard: dict[str, float] = {}

    def listen(kind: Any, name: str, stamp: Any, qos: Any = qos_profile_sensor_data) -> Any:
        def note(message: Any) -> None:
            heard[name] = stamp(message)

        return robot.node.create_subscription(kind, process.name_of(name), note, qos)

    def of_header(message: Any) -> float:
        return seconds(message.header.stamp)

    subscriptions = [
        listen(JointState, "joint_states", of_header),
        listen(PoseStamped, "~/ee_pose", of_header),
        listen(WrenchStamped, "~/external_wrench", of_header),
        listen(FrankaRobotState, "~/robot_state", of_header),
        listen(Float64MultiArray, "~/state", lambda message: message.data[1] + 1e-9 * message.data[2]),
    ]
    frames: list[float] = []
    subscriptions.append(
        robot.node.create_subscription(
            TFMessage, "/tf", lambda m: frames.extend(map(of_header, m.transforms)), QoSProfile(depth=100)
        )
    )
    try:
        assert robot.spin_until(lambda: len(heard) == 5 and len(frames) > 10), heard
        heard.clear()
        frames.clear()
        begin = clock.now
        assert robot.spin_until(lambda: len(heard) == 5 and len(frames) > 10), heard
        # A message may have been on its way.
        for stamp in (*heard.values(), *frames):
            assert begin - 0.5 < stamp <= clock.now
        assert frames == sorted(set(frames)), "TF's listeners complain of repetitions"
    finally:
        for subscription in subscriptions:
            robot.node.destroy_subscription(subscription)


def test_a_policy_sees_the_simulated_time_and_its_targets_are_accepted(
    running: tuple[NodeProcess, Client], robot: Client, clock: SimulatedClock
) -> None:
    process, _ = running
    before = int(robot.diagnostics("targets")[1]["accepted"])

    async def drive() -> None:
        async with FrankaController(RosInterface(process.name)) as controller:
            for _ in range(20):
                await controller.set("ee_desired", controller.state["ee"])
            assert abs(1e-9 * controller.state["stamp"] - clock.now) < 1.0

    asyncio.run(drive())
    assert int(robot.diagnostics("targets")[1]["accepted"]) > before


@pytest.mark.parametrize("speed", [0.0, 0.2, 5.0])
def test_the_arm_follows_targets_whatever_the_speed_of_the_simulated_clock(
    robot: Client, clock: SimulatedClock, speed: float
) -> None:
    clock.speed = speed
    assert follows(robot, clock)
    assert seconds(robot.pose.header.stamp) <= clock.now


def test_a_simulated_clock_that_is_put_back_moves_nothing_and_its_targets_are_accepted(
    robot: Client, clock: SimulatedClock
) -> None:
    assert follows(robot, clock)
    where = robot.position
    clock.now = 10.0
    assert robot.spin_until(lambda: seconds(robot.pose.header.stamp) < 100.0)
    assert abs(robot.position - where).max() < 0.003
    assert follows(robot, clock)
    assert robot.state == "active"
