"""Widths in chunks: the topic ``~/gripper_chunk``, for policies whose actions include the gripper.

Used by the gripper's node, in its process and its one thread. A width means what it means for ``~/gripper_action``, and
is sent to the gripper when it is due, unless that was told the same last: :mod:`aiofranka_ros.arm.gripper.widths`.

The newest chunk counts, whichever client sent it, as the newest goal does, and a goal or ``~/stop`` ends the chunk in
force. What a client asked for ends with the client, unless ``goals_outlive_clients`` says otherwise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile
from trajectory_msgs.msg import JointTrajectory

from aiofranka_ros.arm.gripper.commands import BEYOND, NOT_CONNECTED, width_of
from aiofranka_ros.arm.gripper.gripper import Gripper
from aiofranka_ros.arm.gripper.widths import DueWidths, WidthTargets
from aiofranka_ros.errors import InvalidTarget, brief
from aiofranka_ros.gripper_node.parameters import GripperParameters
from aiofranka_ros.kernels import Array
from aiofranka_ros.ros import chunk_reports
from aiofranka_ros.ros.actions import Actions
from aiofranka_ros.ros.arrivals import Sender, publisher_of, start_of, times_of
from aiofranka_ros.ros.chunk_reports import ChunkReport, ChunkState
from aiofranka_ros.ros.clock import node_time
from aiofranka_ros.ros.executor import with_info
from aiofranka_ros.ros.messages import WRONG_JOINTS
from aiofranka_ros.ros.trajectories import WRONG_SIZE, Trajectory, read_joint_trajectory

TOPIC = "gripper_chunk"
#: By how much a stamp may be in the future, because clocks differ [s].
_FUTURE = 0.5


class _Chunk(DueWidths):
    """A chunk in force.

    :param start: when its stamp was, or it arrived [s, monotonic].
    :param past: how many of its widths are dropped.
    """

    def __init__(
        self, client: Sender, report: ChunkReport, start: float, times: Array, widths: Array, past: int
    ) -> None:
        super().__init__(start, times[past:], widths[past:])
        self.client, self.report, self.start = client, report, start
        self.period = float(np.median(np.diff(times))) if len(times) > 1 else math.inf


class GripperChunks:
    """The topic ``~/gripper_chunk``, and ``~/chunk_status`` for what became of the chunks."""

    def __init__(self, node: Node, settings: GripperParameters, gripper: Gripper, actions: Actions) -> None:
        self._node, self._settings, self._gripper, self._actions = node, settings, gripper, actions
        self._now = node_time(node)
        self._chunk: _Chunk | None = None
        self._number = 0
        self._targets = WidthTargets(
            settings, gripper, lambda why: actions.warnings.warn(TOPIC, f"a width of ~/{TOPIC} was not reached: {why}")
        )
        #: How many commands the gripper had been given when the chunk in force last used it.
        self._begun = 0
        self._reports = node.create_publisher(DiagnosticArray, f"~/{chunk_reports.TOPIC}", chunk_reports.QOS)
        self._topic = node.create_subscription(
            JointTrajectory, f"~/{TOPIC}", with_info(self._on_message), QoSProfile(depth=1), raw=True
        ).topic_name

    def tick(self) -> None:
        """Send the gripper what is due; called regularly."""
        chunk = self._chunk
        if chunk is None:
            return
        if self._gripper.begun != self._begun:
            self._end("a goal or ~/stop replaced it")
        elif self._abandoned(chunk.client):
            self._end("its client is gone; the parameter goals_outlive_clients would let it continue")
        else:
            width = chunk.take(time.monotonic())
            if width is not None and self._gripper.state is not None:
                self._send(chunk, width)
            if not chunk.left:
                self._end("")

    def _on_message(self, data: bytes, info: Mapping[str, Any]) -> None:
        """Begin a chunk, or explain why not."""
        arrival, now = time.monotonic(), self._now()
        client = Sender(self._node, self._topic, publisher_of(info))
        report = ChunkReport(TOPIC, ChunkState.REFUSED, publisher=client.name, arrival=now)
        try:
            self._actions.require_alone()
            trajectory = read_joint_trajectory(data)
            report = report._replace(stamp=trajectory.stamp, points=len(trajectory.times))
            if len(trajectory.times) == 0:
                self._end("its client ended it")
                return
            start = start_of(trajectory.stamp, now, arrival, _FUTURE)
            times = times_of(trajectory.times, self._settings["chunk_frequency"])
            widths = self._widths(trajectory)
            past = int(np.searchsorted(start + times, arrival))
            self._check_times(times, arrival - start, client, trajectory.stamp)
        except InvalidTarget as error:
            self._actions.refuse(f"a chunk on ~/{TOPIC}", error)
            self._publish(report._replace(message=str(error), reason=error.reason))
            return
        self._end("replaced by a newer chunk")
        self._number += 1
        report = report._replace(
            state=ChunkState.ACCEPTED, message=f"chunk {self._number} of {len(times)} points", number=self._number,
            dropped=past, begin=now + round(1e9 * max(0.0, start + float(times[past]) - arrival)),
        )  # fmt: skip
        self._chunk = _Chunk(client, report, start, times, widths, past)
        self._begun = self._gripper.begun
        self._publish(report)
        self.tick()

    def _widths(self, trajectory: Trajectory) -> Array:
        """The widths of the points [m] (n,), within what the gripper can.

        :raises InvalidTarget: they cannot be used, or there is no gripper.
        """
        state = self._gripper.state
        if state is None:
            raise InvalidTarget(self._gripper.why, reason=NOT_CONNECTED)
        if trajectory.names not in ((), ("width",)):
            raise InvalidTarget(
                f"it names {brief(', '.join(trajectory.names))!r}, but its points are widths, the distances between "
                "the fingers, twice the position of one finger: leave joint_names empty",
                reason=WRONG_JOINTS,
            )
        if trajectory.positions is None or trajectory.positions.shape[1] != 1:
            raise InvalidTarget("its points must have one position each, the width", reason=WRONG_SIZE)
        widths = trajectory.positions[:, 0]
        return np.array(
            [width_of(float(each), state, f"the width of point {index}", BEYOND) for index, each in enumerate(widths)]
        )

    def _check_times(self, times: Array, age: float, client: Sender, stamp: int) -> None:
        """:raises InvalidTarget: they do not increase, all are past, or the chunk is older than the one in force."""
        if (np.diff(times) <= 0.0).any():
            index = int(np.argmax(np.diff(times) <= 0.0)) + 1
            raise InvalidTarget(
                f"the time of point {index} is not after that of the point before", reason="wrong times"
            )
        if times[-1] < age:
            raise InvalidTarget(
                f"its last point was due {age - times[-1]:.3f} s ago: send it sooner, or more points", reason="too late"
            )
        running = self._chunk
        if running is not None and running.client.identity == client.identity and 0 < stamp < running.report.stamp:
            raise InvalidTarget("it is older than the chunk in force", reason="stale")

    def _send(self, chunk: _Chunk, width: float) -> None:
        """Tell the gripper to open or close to ``width`` [m]."""
        if chunk.report.first_torque == 0:
            delay = time.monotonic() - chunk.start
            steps = math.ceil(delay / chunk.period - 1e-6)
            chunk.report = chunk.report._replace(first_torque=self._now(), delay=delay, steps=steps)
            self._publish(chunk.report._replace(state=ChunkState.FOLLOWED))
        self._targets.send(width, partial(self._abandoned, chunk.client))
        self._begun = self._gripper.begun

    def _abandoned(self, client: Sender) -> bool:
        return not self._settings["goals_outlive_clients"] and client.gone()

    def _end(self, reason: str) -> None:
        """End the chunk in force; ``reason`` is empty if its last width was sent."""
        chunk, self._chunk = self._chunk, None
        if chunk is not None:
            self._publish(chunk.report._replace(state=ChunkState.ENDED, reason=reason))

    def _publish(self, report: ChunkReport) -> None:
        if self._reports.get_subscription_count() > 0:
            message = DiagnosticArray(status=[report.message_of(self._node.get_fully_qualified_name())])
            message.header.stamp = self._node.get_clock().now().to_msg()
            self._reports.publish(message)
