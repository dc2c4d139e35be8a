"""Widths in chunks: when they are sent to the hand, and what else ends them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from franka_msgs.action import Move
from hands import GRASP, MOVE, STOP, Counting
from std_srvs.srv import Trigger
from test_gripper import COUNTED as ADDRESS
from test_gripper import OBJECT, SUCCEEDED, GripperClient, GripperCommandName, gripper
from test_hand import served
from trajectory_msgs.msg import JointTrajectory

from aiofranka_ros.arm.gripper.widths import DueWidths
from aiofranka_ros.control.chunk_size import MOST_POINTS
from aiofranka_ros.ros.chunk_reports import ChunkReport, ChunkState, reports_of
from aiofranka_ros.ros.trajectories import joint_trajectory

pytestmark = pytest.mark.light

DT = 0.05


class ChunkClient:
    """A client of the topic, next to one of the actions.

    :ivar commands: what the hand gets.
    """

    def __init__(self, client: GripperClient, commands: list[GripperCommandName]) -> None:
        self.client, self.commands, self.reports = client, commands, list[ChunkReport]()
        node = client.node
        self.publisher = node.create_publisher(JointTrajectory, f"{client.name}/gripper_chunk", 1)
        node.create_subscription(
            DiagnosticArray, f"{client.name}/chunk_status", lambda it: self.reports.extend(reports_of(it)), 50
        )
        client.wait(lambda: self.publisher.get_subscription_count() > 0, "no topic")
        client.wait(lambda: node.count_publishers(f"{client.name}/chunk_status") > 0, "no reports")

    def send(self, widths: Any, dt: float = DT, stamp: int = 0, names: tuple[str, ...] = ()) -> None:
        self.reports.clear()
        self.publisher.publish(joint_trajectory(stamp, names, np.array(widths, dtype=float)[:, np.newaxis], dt))

    def becomes(self, state: ChunkState) -> ChunkReport:
        """The first report that says so."""
        self.client.wait(lambda: any(report.state is state for report in self.reports), f"not {state.value}")
        return next(report for report in self.reports if report.state is state)


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChunkClient]:
    """A node on a hand that remembers its commands, with an object between its fingers."""
    log = tmp_path_factory.mktemp("chunks") / "log"
    with served(OBJECT, ADDRESS, Counting) as server, gripper(log, robot_ip=ADDRESS) as (process, client):
        assert client.spin_until(lambda: client.joint_states), process.log
        assert isinstance(server, Counting)
        yield ChunkClient(client, server.commands)


@pytest.fixture
def hand(chunks: ChunkClient) -> ChunkClient:
    """The same, with open fingers."""
    client = chunks.client
    assert client.do("franka_gripper/move", Move.Goal(width=0.075))[0] == SUCCEEDED
    assert client.do("franka_gripper/move", Move.Goal(width=0.08))[0] == SUCCEEDED
    chunks.commands.clear()
    chunks.reports.clear()
    return chunks


def test_equal_widths_are_sent_to_the_hand_once(hand: ChunkClient) -> None:
    # As a policy answers: nearly the same width in each step, in overlapping chunks.
    noise = 0.0003 * np.sin(np.arange(8))
    for _ in range(3):
        hand.send(0.05 + noise)
        assert hand.becomes(ChunkState.ENDED).reason == ""
    assert hand.client.spin_until(lambda: hand.client.width == pytest.approx(0.05, abs=0.002))
    assert hand.commands == [MOVE]


def test_a_width_is_sent_when_it_is_due_and_reported(hand: ChunkClient) -> None:
    before = time.time_ns()
    hand.send([0.06, 0.06, 0.04], dt=0.3)
    accepted, followed = hand.becomes(ChunkState.ACCEPTED), hand.becomes(ChunkState.FOLLOWED)
    assert accepted.points == 3 and accepted.dropped == 0 and accepted.arrival >= before
    assert followed.delay == pytest.approx(1e-9 * (followed.first_torque - followed.arrival), abs=1e-3)
    hand.becomes(ChunkState.ENDED)
    assert hand.client.spin_until(lambda: hand.client.width == pytest.approx(0.04, abs=1e-3))
    assert [name for name in hand.commands if name != STOP] == [MOVE, MOVE]


def test_closing_completely_grasps_what_is_there_and_holds_it(hand: ChunkClient) -> None:
    for _ in range(3):
        hand.send([0.0] * 4)
        hand.becomes(ChunkState.ENDED)
    assert hand.client.spin_until(lambda: hand.client.width == pytest.approx(OBJECT))
    assert hand.commands == [GRASP]


def test_the_newest_width_that_is_due_counts() -> None:
    widths = DueWidths(10.0, np.array([0.0, 0.1, 0.2]), np.array([0.01, 0.02, 0.03]))
    assert widths.take(9.9) is None
    assert widths.take(10.15) == 0.02 and widths.take(10.15) is None
    assert widths.take(11.0) == 0.03 and not widths.left


def test_a_newer_chunk_replaces_what_is_left(hand: ChunkClient) -> None:
    hand.send([0.08] * 4 + [0.02], dt=1.0)
    hand.becomes(ChunkState.FOLLOWED)
    hand.send([0.06])
    assert hand.becomes(ChunkState.ENDED).reason == "replaced by a newer chunk"
    assert hand.client.spin_until(lambda: hand.client.width == pytest.approx(0.06, abs=1e-3))
    assert hand.commands == [MOVE]


@pytest.mark.parametrize("how", ["goal", "stop", "empty"])
def test_a_goal_a_stop_and_an_empty_chunk_end_a_chunk(hand: ChunkClient, how: str) -> None:
    hand.send([0.08, 0.02], dt=60.0)
    hand.becomes(ChunkState.FOLLOWED)
    if how == "goal":
        assert hand.client.do("franka_gripper/move", Move.Goal(width=0.07))[0] == SUCCEEDED
    elif how == "stop":
        stop = hand.client.node.create_client(Trigger, f"{hand.client.name}/stop")
        hand.client.wait(stop.service_is_ready, "no stop")
        assert hand.client.result(stop.call_async(Trigger.Request())).success
    else:
        hand.publisher.publish(JointTrajectory())
    expected = "its client ended it" if how == "empty" else "a goal or ~/stop replaced it"
    assert hand.becomes(ChunkState.ENDED).reason == expected


def test_the_rest_of_a_chunk_is_dropped_when_its_client_is_gone(hand: ChunkClient) -> None:
    node, topic = hand.client.node, f"{hand.client.name}/gripper_chunk"
    publisher = node.create_publisher(JointTrajectory, topic, 1)
    hand.client.wait(lambda: publisher.get_subscription_count() > 0, "no topic")
    publisher.publish(joint_trajectory(0, (), np.array([[0.08], [0.02]]), 60.0))
    hand.becomes(ChunkState.FOLLOWED)
    node.destroy_publisher(publisher)
    assert "its client is gone" in hand.becomes(ChunkState.ENDED).reason


REFUSED = {
    "not finite": ([0.05, np.nan], {}),
    "bad width": ([0.05, 0.5], {}),
    "wrong joints": ([0.05], {"names": ("fr3_finger_joint1",)}),
    "wrong times": ([0.05, 0.05, 0.05], {"dt": -0.1}),
    "too late": ([0.05, 0.05], {"stamp": 10_000_000_000}),
    "in the future": ([0.05, 0.05], {"stamp": -10_000_000_000}),
    "too many points": ([0.05] * (MOST_POINTS + 1), {}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_used_is_refused_with_a_reason(hand: ChunkClient, reason: str) -> None:
    widths, options = REFUSED[reason]
    if "stamp" in options:
        options = {"stamp": time.time_ns() - int(options["stamp"])}
    hand.send(widths, **options)
    report = hand.becomes(ChunkState.REFUSED)
    assert report.reason == reason and report.message
    assert hand.client.spin_until(lambda: hand.client.value("gripper", f"goal rejected: {reason}") != "")
    assert hand.commands == []
