"""Chunks over ROS: several targets in one message, each with its time, and what becomes of them.

Used by the node, in its process and its one thread. A chunk is a target: the same client may send it, and it is refused
in the same way. How chunks are put together is decided in :mod:`aiofranka_ros.arm.chunks`; here are the messages, the
clocks and the reports.

A stamp says when the observation was made that the chunk comes from. So it may be older than that of a single target,
as long as some of its points are still due; and it may not be in the future, by more than clocks differ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import QoSProfile
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory

from aiofranka_ros.arm.chunk_points import KINDS, Chunk
from aiofranka_ros.arm.chunks import ChunkPlayer, Outcome, Ticket
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.stamps import offset_to
from aiofranka_ros.errors import InvalidTarget, TransformMissing, brief
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model.kinematics import pose_matrix, quaternion_from_matrix
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.node.admission import Admission
from aiofranka_ros.node.committed import CommittedTopics
from aiofranka_ros.node.frames import Frames
from aiofranka_ros.node.targets import TargetTopics
from aiofranka_ros.ros import chunk_reports
from aiofranka_ros.ros.arrivals import Sender, publisher_of, start_of, times_of
from aiofranka_ros.ros.chunk_reports import ChunkReport, ChunkState
from aiofranka_ros.ros.clock import node_time
from aiofranka_ros.ros.executor import with_info
from aiofranka_ros.ros.messages import WRONG_JOINTS, joint_order, unit_quaternions
from aiofranka_ros.ros.trajectories import WRONG_SIZE, Trajectory, read_joint_trajectory, read_pose_trajectory

if TYPE_CHECKING:
    from aiofranka_ros.node.lifecycle import FrankaNode

#: A chunk is sent once, so it must not be lost; of several that wait, only the newest counts.
CHUNK_QOS = QoSProfile(depth=1)
_NANOSECONDS = 1e9
_JOINT_MODES, _POSE_MODES = (tuple(mode.name.lower() for mode in KINDS[kind][2]) for kind in ("q", "ee"))


class _Topic(NamedTuple):
    """A topic of chunks: its name after ``~/``, the modes that use it, and how its messages become arrays."""

    name: str
    kind: type
    modes: tuple[str, ...]
    read: Callable[[bytes], Trajectory]
    convert: Callable[[Trajectory, ControlClient], tuple[str, Array]]


class _Waiting(NamedTuple):
    """A chunk that waits for a transform until ``until`` [s, monotonic]; ``period`` is as for targets."""

    topic: _Topic
    data: bytes
    info: Mapping[str, Any]
    arrival: float
    until: float
    period: tuple[ControlClient, int]


class _Played(NamedTuple):
    """A chunk that was accepted, and the report about it so far."""

    ticket: Ticket
    report: ChunkReport
    period: float  #: usual time between two points [s]


class ChunkTopics:
    """The subscriptions for chunks, and the publishers of what became of them."""

    def __init__(self, node: FrankaNode, targets: TargetTopics, frames: Frames, names: ArmNames) -> None:
        self._node, self._targets, self._frames, self._names = node, targets, frames, names
        self._admission: Admission = targets.admission
        self._now = node_time(node)
        self._player: ChunkPlayer | None = None
        self._period: tuple[ControlClient, int] | None = None
        self._played: list[_Played] = []
        self._waiting: _Waiting | None = None
        self._sender: Sender | None = None  # Of the newest chunk, until it is known to be gone.
        self._accepted = self._refused = self._dropped = 0
        self._newest: ChunkReport | None = None
        self._reports = node.create_publisher(DiagnosticArray, f"~/{chunk_reports.TOPIC}", chunk_reports.QOS)
        self._committed = CommittedTopics(node, names)
        group = ReentrantCallbackGroup()  # Not the node's default group, whose callbacks can wait.
        for topic in (
            _Topic("joint_chunk", JointTrajectory, _JOINT_MODES, read_joint_trajectory, self._joints),
            _Topic("ee_chunk", MultiDOFJointTrajectory, _POSE_MODES, read_pose_trajectory, self._poses),
        ):
            callback = with_info(partial(self._on_message, topic))
            node.create_subscription(topic.kind, f"~/{topic.name}", callback, CHUNK_QOS, callback_group=group, raw=True)

    def follow(self, state: Record | None) -> None:
        """Report what has become of the chunks; called at every tick.

        :param state: the newest state while the arm is active, else ``None``.
        """
        client = self._node.active_client
        if self._player is not None and (
            state is None or client is None or self._period != (client, client.activation)
        ):
            self._player.close("the arm is not active any more")
            self._report_progress()
            self._player = None
        if state is not None:
            self._try_again()
        if state is not None and self._player is not None:
            self._player.observe(state)
            self._report_progress()
            self._check_sender(self._player)
        self._committed.publish(self._player, offset_to(self._now))

    @property
    def status(self) -> dict[str, str]:
        """What diagnostics say about chunks; empty if there were none."""
        if not self._accepted and not self._refused:
            return {}
        values = {
            "chunks": f"{self._accepted} accepted, {self._refused} refused, {self._dropped} points past at arrival"
        }
        if (newest := self._newest) is not None and math.isfinite(newest.delay):
            values["newest chunk"] = (
                f"delay {newest.delay:.3f} s ({newest.steps} steps), {newest.dropped} of {newest.points} points past, "
                f"seam {newest.seam[0]:.4f} m {newest.seam[1]:.4f} rad"
            )
        return values

    def _try_again(self) -> None:
        """Try the chunk that waits for a transform; one from before an activation or a change of mode is dropped."""
        waiting, self._waiting = self._waiting, None
        client = self._node.active_client
        if waiting is not None and client is not None and waiting.period == (client, client.mode_id):
            self._on_message(waiting.topic, waiting.data, waiting.info, waiting)

    def _on_message(self, topic: _Topic, data: bytes, info: Mapping[str, Any], waited: _Waiting | None = None) -> None:
        """Follow a chunk, or explain why not."""
        arrival = time.monotonic() if waited is None else waited.arrival
        stamp = round(_NANOSECONDS * arrival) + offset_to(self._now)
        report = ChunkReport(topic.name, ChunkState.REFUSED, arrival=stamp)
        try:
            trajectory = topic.read(data)
            report = report._replace(stamp=trajectory.stamp, points=len(trajectory.times))
            # Age and order are checked by the player, by the times of its points.
            client = self._admission.check(topic.name, topic.modes, 0, info)
            if len(trajectory.times) == 0:
                self._end(client)
                return
            start = start_of(trajectory.stamp, stamp, arrival, self._node.parameter("max_target_age"))
            kind, values = topic.convert(trajectory, client)
        except TransformMissing as error:
            until = arrival + self._node.parameter("max_target_age") if waited is None else waited.until
            if time.monotonic() < until:
                self._waiting = _Waiting(topic, data, info, arrival, until, (client, client.mode_id))
            else:
                self._refuse(topic, info, report, error)
        except InvalidTarget as error:
            self._refuse(topic, info, report, error)
        else:
            self._waiting = None
            times = times_of(trajectory.times, self._node.parameter("chunk_frequency"))
            at_once = trajectory.stamp == 0 and waited is None
            self._play(topic, info, report, client, Chunk(kind, times, values, None if at_once else start))

    def _play(
        self, topic: _Topic, info: Mapping[str, Any], report: ChunkReport, client: ControlClient, chunk: Chunk
    ) -> None:
        """Follow a chunk whose message is in order, if its times and limits are."""
        if self._player is None or self._period != (client, client.activation):
            self._player, self._period = ChunkPlayer(client, self._node.parameter), (client, client.activation)
        now = time.monotonic()
        other = self._admission.is_other(topic.name, info)
        try:
            ticket = self._player.follow(chunk, now, other=other)
        except InvalidTarget as error:
            self._refuse(topic, info, report, error)
            return
        self._admission.accepted_chunk(topic.name, info, max(0.0, ticket.ends_at - now), ticket.number)
        times, frequency = chunk.times, self._node.parameter("chunk_frequency")
        period = float(np.median(np.diff(times))) if len(times) > 1 else 1.0 / frequency
        self._accepted += 1
        self._dropped += ticket.dropped
        self._targets.replaced_by(topic.name)
        report = report._replace(
            state=ChunkState.ACCEPTED,
            message=f"chunk {ticket.number} of {len(chunk.times)} points",
            publisher=self._publisher(topic, info),
            number=ticket.number,
            begin=round(_NANOSECONDS * ticket.starts_at) + offset_to(self._now),
            dropped=ticket.dropped,
            clipped=ticket.clipped,
            seam=ticket.seam,
        )
        self._newest = report
        self._sender = Sender(self._node, self._admission.owners.full_name(topic.name), publisher_of(info))
        self._publish(report)
        self._played.append(_Played(ticket, report, period))
        self._committed.begin(topic.name, ticket, period)

    def _check_sender(self, player: ChunkPlayer) -> None:
        """End the chunk in force if its client is gone, as goals end with their clients."""
        if player.running is None or self._sender is None or self._node.parameter("goals_outlive_clients"):
            return
        if self._sender.gone():
            self._sender = None
            player.stop()
            self._node.get_logger().warning(
                "the client of a chunk is gone: the arm slows down and holds; the parameter goals_outlive_clients "
                "would let its chunks continue"
            )

    def _end(self, client: ControlClient) -> None:
        """End the chunk in force, as a message without points asks for."""
        if self._player is not None and self._period == (client, client.activation):
            self._player.stop()
        self._waiting = None

    def _report_progress(self) -> None:
        """Report first torques and ends."""
        self._played = [played for played in map(self._reported, self._played) if played is not None]
        if not self._played:
            self._committed.clear()

    def _reported(self, played: _Played) -> _Played | None:
        """Report what is new of a chunk; ``None`` if it has ended."""
        ticket, report = played.ticket, played.report
        if report.first_torque == 0 and ticket.first_torque is not None and ticket.latency is not None:
            report = report._replace(
                state=ChunkState.FOLLOWED,
                first_torque=round(_NANOSECONDS * ticket.first_torque) + offset_to(self._now),
                delay=ticket.latency,
                steps=max(0, math.ceil(ticket.latency / played.period - 1e-6)),
            )
            if self._newest is not None and self._newest.number == report.number:
                self._newest = report
            self._publish(report)
        if ticket.done:
            if ticket.outcome is Outcome.STOPPED:
                self._admission.owners.ended_early(ticket.number)
            self._publish(report._replace(state=ChunkState.ENDED, message=ticket.reason, reason=ticket.outcome.value))
            return None
        return played._replace(report=report)

    def _refuse(self, topic: _Topic, info: Mapping[str, Any], report: ChunkReport, error: InvalidTarget) -> None:
        self._refused += 1
        self._targets.refuse(topic.name, info, error, what="a chunk")
        self._publish(report._replace(message=str(error), reason=error.reason, publisher=self._publisher(topic, info)))

    def _publish(self, report: ChunkReport) -> None:
        if self._reports.get_subscription_count() > 0:
            message = DiagnosticArray(status=[report.message_of(self._node.get_fully_qualified_name())])
            message.header.stamp = self._node.get_clock().now().to_msg()
            self._reports.publish(message)

    def _publisher(self, topic: _Topic, info: Mapping[str, Any]) -> str:
        return self._admission.owners.name_of(publisher_of(info), topic.name)

    # Messages as arrays.

    def _joints(self, trajectory: Trajectory, client: ControlClient) -> tuple[str, Array]:
        kind, values = ("dq", trajectory.velocities) if trajectory.positions is None else ("q", trajectory.positions)
        assert values is not None
        joints = self._names.joints
        order = joint_order(trajectory.names, joints) if trajectory.names else range(len(joints))
        if values.shape[1] != len(joints):
            raise InvalidTarget(
                f"its points have {values.shape[1]} values, but the arm has {len(joints)} joints", reason=WRONG_SIZE
            )
        return kind, values[:, list(order)]

    def _poses(self, trajectory: Trajectory, client: ControlClient) -> tuple[str, Array]:
        names = trajectory.names
        if names not in ((), (self._names.tcp,)):
            raise InvalidTarget(
                f"it names {brief(', '.join(names))!r}, but the arm follows poses of its control frame: name "
                f"{self._names.tcp!r}, or nothing",
                reason=WRONG_JOINTS,
            )
        there = self._frames.pose_of(trajectory.frame, trajectory.stamp, client)
        if trajectory.positions is None:
            assert trajectory.velocities is not None
            twists = trajectory.velocities.reshape(-1, 2, 3)
            return "twist", (twists if there is None else twists @ there[:3, :3].T).reshape(-1, 6)
        poses = unit_quaternions(trajectory.positions)
        if there is not None:
            for pose in poses:
                moved = there @ pose_matrix(pose)
                pose[:3] = moved[:3, 3]
                quaternion_from_matrix(moved, pose[3:])
        return "ee", poses
