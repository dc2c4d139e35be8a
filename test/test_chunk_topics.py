"""Chunks over ROS, on a simulated arm: they move it without a jolt, and say what became of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory

from aiofranka_ros import FrankaController, RosInterface
from aiofranka_ros.arm.chunks import Outcome
from aiofranka_ros.control.chunk_size import MOST_POINTS
from aiofranka_ros.errors import GripperFailed, InvalidTarget
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.fr3 import JOINT_NAMES
from aiofranka_ros.ros.cdr import nanoseconds
from aiofranka_ros.ros.chunk_reports import ChunkReport, ChunkState, reports_of
from aiofranka_ros.ros.trajectories import joint_trajectory, pose_trajectory, twist_trajectory
from aiofranka_ros.testing import PATIENCE, Client, CycleRecorder, NodeProcess

DT = 1.0 / 15.0


class Policy:
    """Sends chunks with a client's node, and remembers what the arm's node says about them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.reports: list[ChunkReport] = []
        self.committed: dict[str, Any] = {}
        node, name = client.node, client.name
        self.publishers = {
            topic: node.create_publisher(kind, f"{name}/{topic}", 1)
            for topic, kind in (("joint_chunk", JointTrajectory), ("ee_chunk", MultiDOFJointTrajectory))
        }
        node.create_subscription(
            DiagnosticArray, f"{name}/chunk_status", lambda it: self.reports.extend(reports_of(it)), 50
        )
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for topic, kind in (("joint_committed", JointTrajectory), ("ee_committed", MultiDOFJointTrajectory)):
            note: Callable[[Any], None] = lambda it, topic=topic: self.committed.__setitem__(topic, it)  # noqa: E731
            node.create_subscription(kind, f"{name}/{topic}", note, latched)
        client.wait(lambda: node.count_publishers(f"{name}/chunk_status") > 0, "no reports")

    def send(self, topic: str, message: Any) -> None:
        publisher = self.publishers[topic]
        self.client.wait(lambda: publisher.get_subscription_count() > 0, f"no ~/{topic}")
        self.reports.clear()
        publisher.publish(message)

    def becomes(self, state: ChunkState) -> ChunkReport:
        """The first report that says so."""

        def found() -> bool:
            return any(report.state is state for report in self.reports)

        assert self.client.spin_until(found), f"no report that says {state.value}: {self.reports}"
        return next(report for report in self.reports if report.state is state)

    def pose(self) -> Array:
        """Position [m] and orientation x, y, z, w of the hand (7,)."""
        pose = self.client.pose.pose
        p, o = pose.position, pose.orientation
        return np.array([p.x, p.y, p.z, o.x, o.y, o.z, o.w])


@pytest.fixture(scope="module")
def sender(running: tuple[NodeProcess, Client]) -> Policy:
    return Policy(running[1])


@pytest.fixture
def policy(sender: Policy, robot: Client) -> Policy:
    """In the node's default mode, with an arm at rest."""
    assert robot.rests()
    sender.reports.clear()
    return sender


@pytest.fixture
def cycles(running: tuple[NodeProcess, Client]) -> Iterator[CycleRecorder]:
    client = running[1]
    client.wait(lambda: client.value("control loop", "shared memory") != "", "no diagnostics")
    recorder = CycleRecorder(client.value("control loop", "shared memory"))
    yield recorder
    recorder.close()


def swing(q: Array, count: int = 12, begin: float = 0.0) -> Array:
    """Positions [rad] (n, 7): joint 7 goes from ``q`` to 0.1 rad beyond and back, slowly."""
    rows = np.tile(q, (count, 1))
    rows[:, 6] += 0.05 * (1.0 - np.cos(2.0 * np.pi * 0.4 * (begin + DT * np.arange(count))))
    return rows


def test_a_chunk_of_joint_positions_moves_the_arm_and_says_so(policy: Policy, robot: Client) -> None:
    assert robot.set(mode="impedance") == ""
    q = robot.q
    rows = swing(q, 20)
    policy.send("joint_chunk", joint_trajectory(0, (), rows, DT))
    accepted, followed = policy.becomes(ChunkState.ACCEPTED), policy.becomes(ChunkState.FOLLOWED)
    assert accepted.points == 20 and accepted.dropped == 0 and accepted.seam[1] < 0.02
    assert accepted.publisher == robot.node.get_fully_qualified_name()
    assert followed.number == accepted.number and followed.delay < 0.5
    assert policy.becomes(ChunkState.ENDED).reason == "finished"
    robot.rests()
    np.testing.assert_allclose(robot.q, rows[-1], atol=0.02)  # With the joints' friction.
    assert "1 accepted" in robot.value("targets", "chunks") or robot.spin_until(
        lambda: "accepted" in robot.value("targets", "chunks")
    )


def test_the_seam_of_two_chunks_is_no_step(policy: Policy, robot: Client, cycles: CycleRecorder) -> None:
    assert robot.set(mode="impedance") == ""
    q = robot.q
    begin = time.time_ns()
    policy.send("joint_chunk", joint_trajectory(begin, JOINT_NAMES, swing(q), DT))
    policy.becomes(ChunkState.FOLLOWED)
    robot.spin_for(0.3)
    # From a later observation, and 0.03 rad away from what the first one says.
    later = time.time_ns()
    rows = swing(q, begin=1e-9 * (later - begin)) + 0.03
    policy.send("joint_chunk", joint_trajectory(later, JOINT_NAMES, rows, DT))
    accepted = policy.becomes(ChunkState.ACCEPTED)
    assert accepted.seam[1] == pytest.approx(0.03, abs=0.015)
    policy.becomes(ChunkState.ENDED)
    record = cycles.take()
    velocity = 1e3 * np.diff(record["ref_q"][record["chunk_id"] > 0], axis=0)
    # The limit of acceleration is 8 rad/s²; a step of 0.03 rad would be 30 rad/s in one cycle.
    assert np.abs(np.diff(velocity, axis=0)).max() < 0.02


def test_the_reported_delay_is_that_on_the_wire(policy: Policy, robot: Client, cycles: CycleRecorder) -> None:
    pose = policy.pose()
    stamp = time.time_ns() - 150_000_000  # As if the policy had computed for 150 ms.
    rows = np.tile(pose, (16, 1))
    rows[:, 2] += 0.01 * DT * np.arange(16)
    policy.send("ee_chunk", pose_trajectory(stamp, (), rows, DT, "fr3_link0"))
    report = policy.becomes(ChunkState.FOLLOWED)
    assert report.stamp == stamp and report.dropped == 3 and report.points == 16
    record = cycles.take()
    first = record["stamp"][record["chunk_id"] == report.number][0]
    assert report.delay == pytest.approx(1e-9 * (first - stamp), abs=1e-3)
    assert report.first_torque == pytest.approx(first, abs=1e6)
    assert report.steps == int(np.ceil(report.delay / DT))


def test_poses_in_the_frame_of_the_hand_are_those_at_the_stamp(policy: Policy, robot: Client) -> None:
    before = policy.pose()
    rows = np.tile([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], (12, 1))
    rows[:, 2] = -0.03 * np.arange(12) / 11.0  # Against the direction in which the hand points, which is down.
    policy.send("ee_chunk", pose_trajectory(0, ("fr3_tcp",), rows, DT, "fr3_tcp"))
    policy.becomes(ChunkState.ENDED)
    robot.rests()
    assert policy.pose()[2] - before[2] == pytest.approx(0.03, abs=0.008)


@pytest.mark.parametrize("kind", ["dq", "twist"])
def test_velocities_only_are_added_up_from_the_reference(policy: Policy, robot: Client, kind: str) -> None:
    if kind == "dq":
        assert robot.set(mode="impedance") == ""
        q, rows = robot.q, np.zeros((15, 7))
        rows[:, 6] = 0.1
        policy.send("joint_chunk", joint_trajectory(0, (), rows, DT, velocities=True))
    else:
        height, rows = policy.pose()[2], np.zeros((15, 6))
        rows[:, 2] = 0.03
        policy.send("ee_chunk", twist_trajectory(0, (), rows, DT))
    policy.becomes(ChunkState.ENDED)
    robot.rests()
    if kind == "dq":
        assert robot.q[6] - q[6] == pytest.approx(0.1, abs=0.03)
    else:
        assert policy.pose()[2] - height == pytest.approx(0.03, abs=0.012)


def test_the_rest_of_a_chunk_is_known_while_it_is_followed(policy: Policy, robot: Client) -> None:
    assert robot.set(mode="impedance") == ""
    rows = swing(robot.q, 30)
    stamp = time.time_ns()
    policy.send("joint_chunk", joint_trajectory(stamp, (), rows, DT))
    robot.wait(lambda: "joint_committed" in policy.committed and policy.committed["joint_committed"].points, "no rest")
    message = policy.committed["joint_committed"]
    first = (nanoseconds(message.header.stamp) - stamp) / (1e9 * DT)
    assert first == pytest.approx(round(first), abs=1e-3), "it is on the grid of the policy"
    assert tuple(message.joint_names) == JOINT_NAMES
    rest = np.array([point.positions for point in message.points])
    assert len(rest) == 30 - round(first)
    np.testing.assert_allclose(rest, rows[round(first) :], atol=0.02)  # Smoothed, and it begins where the arm was.
    policy.becomes(ChunkState.ENDED)
    robot.wait(lambda: not policy.committed["joint_committed"].points, "something is still followed")


@pytest.mark.parametrize("how", ["empty", "target", "hold", "mode"])
def test_a_chunk_is_ended_by_what_ends_streams(policy: Policy, robot: Client, how: str) -> None:
    pose = policy.pose()
    policy.send("ee_chunk", pose_trajectory(0, (), np.tile(pose, (60, 1)), DT))
    policy.becomes(ChunkState.FOLLOWED)
    if how == "empty":
        policy.publishers["ee_chunk"].publish(MultiDOFJointTrajectory())
    elif how == "target":
        robot.publish("ee_desired", robot.pose)
    elif how == "hold":
        assert robot.trigger("hold").success
    else:
        assert robot.set(mode="impedance") == ""
    report = policy.becomes(ChunkState.ENDED)
    if how == "hold":
        assert robot.trigger("release").success
    assert report.reason == "stopped" and report.message


def test_another_client_has_to_wait_while_a_chunk_is_followed(policy: Policy, robot: Client) -> None:
    pose, here = policy.pose(), robot.pose
    with Client(robot.name, measurements=False) as other:
        publisher = other.publishers["ee_desired"]
        other.wait(lambda: publisher.get_subscription_count() > 0, "no ~/ee_desired")
        policy.send("ee_chunk", pose_trajectory(0, (), np.tile(pose, (120, 1)), DT))
        policy.becomes(ChunkState.FOLLOWED)

        def refused() -> bool:
            publisher.publish(here)  # Again and again: DDS may lose what comes before discovery.
            return robot.value("targets", "refused: another publisher") != ""

        assert robot.spin_until(refused)
    assert not any(report.state is ChunkState.ENDED for report in policy.reports)
    policy.publishers["ee_chunk"].publish(MultiDOFJointTrajectory())
    policy.becomes(ChunkState.ENDED)


def test_a_chunk_ends_with_its_client(policy: Policy, robot: Client) -> None:
    pose = policy.pose()
    message = pose_trajectory(0, (), np.tile(pose, (60, 1)), DT)
    policy.reports.clear()
    with Client(robot.name, measurements=False) as other:
        publisher = other.node.create_publisher(MultiDOFJointTrajectory, f"{robot.name}/ee_chunk", 1)
        other.wait(lambda: publisher.get_subscription_count() > 0, "no ~/ee_chunk")
        publisher.publish(message)
        policy.becomes(ChunkState.FOLLOWED)
    assert policy.becomes(ChunkState.ENDED).reason == "stopped"


def bad(reason: str, q: Array) -> tuple[str, Any]:
    """A message that is refused for ``reason`` in mode impedance."""
    rows = np.tile(q, (4, 1))
    now = time.time_ns()
    if reason == "not finite":
        rows[2, 3] = np.nan
    elif reason == "wrong size":
        rows = rows[:, :6]
    elif reason == "too many points":
        return "joint_chunk", joint_trajectory(now, (), np.tile(q, (MOST_POINTS + 1, 1)), 0.01)
    elif reason == "too late":
        return "joint_chunk", joint_trajectory(now - 2_000_000_000, (), rows, DT)
    elif reason == "in the future":
        return "joint_chunk", joint_trajectory(now + 2_000_000_000, (), rows, DT)
    elif reason == "wrong joints":
        return "joint_chunk", joint_trajectory(now, ("a", *JOINT_NAMES[1:]), rows, DT)
    elif reason == "wrong times":
        return "joint_chunk", joint_trajectory(now, (), rows, -DT)
    elif reason == "another mode":
        return "ee_chunk", pose_trajectory(now, (), rows, DT)
    return "joint_chunk", joint_trajectory(now, (), rows, DT)


@pytest.mark.parametrize(
    "reason",
    ["not finite", "wrong size", "too many points", "too late", "in the future", "wrong joints", "wrong times",
     "another mode"],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_a_reason(policy: Policy, robot: Client, reason: str) -> None:
    assert robot.set(mode="impedance") == ""
    policy.send(*bad(reason, robot.q))
    report = policy.becomes(ChunkState.REFUSED)
    assert report.reason == reason and report.message
    assert robot.spin_until(lambda: robot.value("targets", f"refused: {reason}") != "")


def test_an_older_chunk_than_the_one_in_force_is_refused(policy: Policy, robot: Client) -> None:
    pose, now = np.tile(policy.pose(), (30, 1)), time.time_ns()
    policy.send("ee_chunk", pose_trajectory(now, (), pose, DT))
    number = policy.becomes(ChunkState.FOLLOWED).number
    policy.send("ee_chunk", pose_trajectory(now - 100_000_000, (), pose, DT))
    assert policy.becomes(ChunkState.REFUSED).reason == "stale"
    report = policy.becomes(ChunkState.ENDED)
    assert report.number == number and report.reason == "finished"


def test_ten_thousand_points_do_not_silence_the_node(policy: Policy, robot: Client) -> None:
    rows = np.tile(policy.pose(), (10_000, 1))
    message = pose_trajectory(0, (), rows, 0.001)
    before = int(robot.value("control loop", "holds for lack of heartbeats"))
    for _ in range(5):
        policy.send("ee_chunk", message)
        assert policy.becomes(ChunkState.REFUSED).reason == "too many points"
    assert robot.spin_until(lambda: robot.value("targets", "refused: too many points") != "")
    assert int(robot.value("control loop", "holds for lack of heartbeats")) == before


def test_a_chunk_during_a_move_is_refused(policy: Policy, robot: Client) -> None:
    q, pose = robot.q, policy.pose()
    goal = robot.send_goal(q + np.array([0, 0, 0, 0, 0, 0, 0.2]), velocities=[0.1] * 7)
    assert goal.accepted and robot.spin_until(lambda: robot.feedback)
    policy.send("ee_chunk", pose_trajectory(0, (), np.tile(pose, (5, 1)), DT))
    assert policy.becomes(ChunkState.REFUSED).reason == "during a move"
    robot.result(goal.cancel_goal_async())
    robot.outcome(goal)


def test_the_asyncio_api_follows_chunks_through_the_node(robot: Client) -> None:
    async def becomes(condition: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end
            await asyncio.sleep(0.01)

    async def work() -> None:
        async with FrankaController(RosInterface(robot.name)) as controller:
            assert len(controller.committed(10, DT)[0]) == 0 and controller.inference_delay(DT) == 0
            state = controller.state
            rows = np.tile(state["ee"], (40, 1, 1))
            rows[:, 2, 3] += 0.01 * DT * np.arange(40)
            start = state["stamp"] - 100_000_000  # As if the policy had computed for 100 ms.
            ticket = await controller.follow(rows, dt=DT, start=start)
            assert ticket.dropped >= 2 and ticket.outcome is Outcome.RUNNING
            await becomes(lambda: ticket.latency is not None)
            assert 0.1 < ticket.latency < 2.0
            assert controller.inference_delay(DT) == int(np.ceil(ticket.latency / DT))
            await becomes(lambda: len(controller.committed(10, DT)[0]) == 10)
            # At a time of the policy: smoothed, and from where the arm was.
            committed, _ = controller.committed(10, DT, start=start + round(20e9 * DT))
            np.testing.assert_allclose(committed[:, :3], rows[20:30, :3, 3], atol=0.003)
            with pytest.raises(InvalidTarget) as refused:
                await controller.follow(rows, dt=DT, start=start - 100_000_000)
            assert refused.value.reason == "stale"
            controller.stop_following()
            assert await ticket.done is Outcome.STOPPED and ticket.reason
            await becomes(lambda: len(controller.committed(10, DT)[0]) == 0)
            with pytest.raises(GripperFailed, match="start python -m aiofranka_ros.gripper_node"):
                await controller.follow(rows, dt=DT, gripper=np.full(40, 0.04))

    asyncio.run(work())
