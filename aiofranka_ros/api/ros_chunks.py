"""Chunks through a node: they are sent as trajectories, and what the node reports about them becomes tickets.

Used by :class:`~aiofranka_ros.api.ros_interface.RosInterface`, in the policy's process. A report says by its stamp and
its publisher which chunk it is about, so each chunk of one client has another stamp. What the arm does if no other
chunk comes arrives in rclpy's thread, so that it is known even while the event loop is blocked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import DurabilityPolicy, QoSProfile
from scipy.interpolate import CubicSpline
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory

from aiofranka_ros.api.ros_client import RosClient
from aiofranka_ros.api.ros_gripper import GRIPPER
from aiofranka_ros.arm.chunk_delays import Delays
from aiofranka_ros.arm.chunks import SAME, Outcome, Ticket
from aiofranka_ros.control.stamps import offset_to
from aiofranka_ros.errors import ConnectionFailed, GripperFailed, InvalidTarget, NotStarted
from aiofranka_ros.kernels import Array
from aiofranka_ros.ros import chunk_reports
from aiofranka_ros.ros.chunk_reports import ChunkReport, ChunkState, reports_of
from aiofranka_ros.ros.trajectories import (
    Trajectory,
    joint_trajectory,
    pose_trajectory,
    read_joint_trajectory,
    read_pose_trajectory,
    twist_trajectory,
)

#: How long the node may take to say whether it follows a chunk, and how long discovery may take, of the gripper's
#: node only once [s].
_ANSWER_TIMEOUT, _DISCOVERY_TIMEOUT = 5.0, 5.0
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class _Sent(NamedTuple):
    """A chunk that the node has not answered: its ticket, when its last point is due [s], and the gripper's part."""

    answer: asyncio.Future[Ticket]
    duration: float
    widths: JointTrajectory | None


class RosChunks:
    """The chunks of one client of a node.

    :param client: not yet started.
    :param node: full name of the node.
    :param now: the node's clock [ns].
    """

    def __init__(self, client: RosClient, node: str, now: Callable[[], int]) -> None:
        self._client, self._node, self._now = client, node, now
        self._me = client.node.get_fully_qualified_name()
        self._delays = Delays()
        self._sent: dict[int, _Sent] = {}
        self._tickets: dict[int, Ticket] = {}
        #: What the arm does if no other chunk comes, and whether that is poses; ``None``: it follows none.
        self._rest: tuple[Trajectory, bool] | None = None
        self._newest = 0
        #: When the last width of the gripper is due that was sent [ns, the node's clock].
        self._widths_end = 0
        self._patience = _DISCOVERY_TIMEOUT  # With the gripper's node.
        publisher = client.node.create_publisher
        self._joints = publisher(JointTrajectory, f"{node}/joint_chunk", 1)
        self._poses = publisher(MultiDOFJointTrajectory, f"{node}/ee_chunk", 1)
        self._last = self._poses
        namespace = node.rpartition("/")[0]
        self._widths = publisher(JointTrajectory, f"{namespace}/{GRIPPER}/gripper_chunk", 1)
        subscribe, group = client.node.create_subscription, ReentrantCallbackGroup()
        self._status = subscribe(
            DiagnosticArray, f"{node}/{chunk_reports.TOPIC}", client.in_loop(self._on_status), chunk_reports.QOS
        )
        for kind, topic, read in (
            (JointTrajectory, "joint_committed", read_joint_trajectory),
            (MultiDOFJointTrajectory, "ee_committed", read_pose_trajectory),
        ):
            self._listen(kind, f"{node}/{topic}", read, group)

    async def follow(self, kind: str, values: Array, times: Array, start: int | None, gripper: Array | None) -> Ticket:
        """See :meth:`.Link.follow`; widths are sent when the arm has accepted the chunk.

        :raises GripperFailed: widths are given, but no gripper's node is there.
        :raises ConnectionFailed: the node does not answer.
        """
        publisher = self._joints if kind in ("q", "dq") else self._poses
        await self._connected(publisher, gripper is not None)
        stamp = self._now() if start is None else start
        while stamp in self._sent or stamp == self._newest:
            stamp += 1  # One nanosecond, so that reports can tell them apart.
        self._newest, self._last = stamp, publisher
        dt = float(times[1] - times[0]) if len(times) > 1 else 0.0
        answer = asyncio.get_running_loop().create_future()
        # Until the answer comes, even if nothing waits for it any more: the chunk may be in force from then on.
        widths = None if gripper is None else joint_trajectory(stamp, (), gripper[:, np.newaxis], dt)
        self._sent[stamp] = _Sent(answer, float(times[-1]), widths)
        publisher.publish(_message(kind, stamp, values, dt))
        await asyncio.wait([answer], timeout=_ANSWER_TIMEOUT)
        if not answer.done():
            raise ConnectionFailed(f"the node {self._node} did not answer a chunk within {_ANSWER_TIMEOUT:g} s")
        return answer.result()

    def committed(self, n: int, dt: float, start: int | None, freeze: float) -> tuple[Array, int]:
        """See :meth:`.Link.committed`; ``freeze`` is the setting ``chunk_freeze`` [s]."""
        if self._rest is None:
            return np.empty((0, 7)), 0
        (rest, poses), now = self._rest, self._now()
        assert rest.positions is not None
        # Counted from the first row [s].
        times = 1e-9 * ((now if start is None else start) - rest.stamp) + dt * np.arange(n)
        times = times[times <= rest.times[-1] + SAME]
        if len(rest.times) > 1:
            rows = CubicSpline(rest.times, rest.positions)(np.clip(times, rest.times[0], rest.times[-1]))
        else:
            rows = np.repeat(rest.positions, len(times), axis=0)
        if poses:
            rows[:, 3:] /= np.linalg.norm(rows[:, 3:], axis=1, keepdims=True)
        return rows, int(np.count_nonzero(times <= 1e-9 * (now - rest.stamp) + freeze))

    def inference_delay(self, dt: float, quantile: float) -> int:
        """See :meth:`.Link.inference_delay`."""
        return self._delays.steps(dt, quantile)

    def stop(self) -> None:
        """End the chunk in force, if it is this client's, also one that is on its way, and what the gripper does."""
        if self._tickets or self._sent:
            self._last.publish(JointTrajectory() if self._last is self._joints else MultiDOFJointTrajectory())
        self._stop_widths()
        for sent in self._sent.values():  # DDS may never show the node a chunk that this message has followed so soon.
            _set(sent.answer, InvalidTarget("it was stopped before the node had answered", reason="stopped"))

    def close(self, reason: str) -> None:
        """The arm is no longer active."""
        self._stop_widths()
        for ticket in self._tickets.values():
            ticket.end(Outcome.STOPPED, reason)
        self._tickets.clear()
        self._rest = None
        for sent in self._sent.values():
            if not sent.answer.done():
                sent.answer.set_exception(NotStarted(reason))
                sent.answer.exception()  # Retrieved: a call that is being cancelled does not raise it.
        self._sent.clear()

    def _stop_widths(self) -> None:
        """Drop the gripper's widths that are not due yet."""
        if self._now() < self._widths_end:
            self._widths.publish(JointTrajectory())
        self._widths_end = 0

    async def _connected(self, publisher: Any, gripper: bool) -> None:
        """Wait until the nodes are discovered."""

        def ready() -> bool:
            return publisher.get_subscription_count() > 0 and self._client.node.count_publishers(self._status.topic) > 0

        if not await self._client.ready(ready, timeout=_DISCOVERY_TIMEOUT):
            raise ConnectionFailed(f"the node {self._node} does not listen to {publisher.topic_name}: an older one?")
        if gripper:
            patience, self._patience = self._patience, 0.0
            if not await self._client.ready(lambda: self._widths.get_subscription_count() > 0, timeout=patience):
                raise GripperFailed(
                    f"nothing listens to {self._widths.topic_name}: start python -m aiofranka_ros.gripper_node, in the "
                    "namespace of the arm's node"
                )

    def _listen(
        self, kind: Any, topic: str, read: Callable[[bytes], Trajectory], group: ReentrantCallbackGroup
    ) -> None:
        def receive(data: bytes) -> None:
            """In rclpy's thread."""
            with contextlib.suppress(InvalidTarget):
                rest = read(data)
                self._rest = None if rest.positions is None else (rest, kind is MultiDOFJointTrajectory)

        self._client.node.create_subscription(kind, topic, receive, _LATCHED, callback_group=group, raw=True)

    # Reports, in the event loop.

    def _on_status(self, message: DiagnosticArray) -> None:
        with contextlib.suppress(ValueError):  # The node may run another version of this package.
            for report in reports_of(message):
                if report.publisher in ("", self._me):
                    self._on_report(report)

    def _on_report(self, report: ChunkReport) -> None:
        ticket = self._tickets.get(report.number)
        if report.state in (ChunkState.ACCEPTED, ChunkState.REFUSED):
            self._on_answer(report)
        elif report.state is ChunkState.FOLLOWED and ticket is not None:
            ticket.first_torque = ticket.start + report.delay
            self._delays.add(report.delay)
        elif report.state is ChunkState.ENDED and ticket is not None:
            ticket.end(Outcome(report.reason), report.message)
            del self._tickets[report.number]

    def _on_answer(self, report: ChunkReport) -> None:
        """The node follows a chunk, or refuses it."""
        sent = self._sent.pop(report.stamp, None)
        if sent is None:
            return
        # DDS keeps one chunk for a busy node, the newest.
        for stamp in [stamp for stamp in self._sent if stamp < report.stamp]:
            lost = InvalidTarget("a newer chunk replaced it before the node had read it", reason="replaced")
            _set(self._sent.pop(stamp).answer, lost)
        if report.state is ChunkState.REFUSED:
            message = f"the node {self._node} refused a chunk: {report.message}"
            _set(sent.answer, InvalidTarget(message, reason=report.reason))
            return
        offset = offset_to(self._now)
        start, arrived, begin = (1e-9 * (stamp - offset) for stamp in (report.stamp, report.arrival, report.begin))
        ticket = Ticket(
            number=report.number, start=start, arrived=arrived, starts_at=begin, ends_at=start + sent.duration,
            dropped=report.dropped, clipped=report.clipped, seam=report.seam,
        )  # fmt: skip
        self._tickets[report.number] = ticket
        if sent.answer.done():  # It was stopped before.
            return
        sent.answer.set_result(ticket)
        if sent.widths is not None:
            self._widths.publish(sent.widths)
            self._widths_end = report.stamp + round(1e9 * sent.duration)


def _set(answer: asyncio.Future[Ticket], error: InvalidTarget) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # Retrieved: a call that was cancelled does not raise it.


def _message(kind: str, stamp: int, values: Array, dt: float) -> JointTrajectory | MultiDOFJointTrajectory:
    if kind in ("q", "dq"):
        return joint_trajectory(stamp, (), values, dt, velocities=kind == "dq")
    return (pose_trajectory if kind == "ee" else twist_trajectory)(stamp, (), values, dt)
