"""Widths in chunks: the topic ``~/gripper_chunk``, for policies whose actions include the gripper.

Used by the gripper's node, in its process and its one thread. A policy gives a width for every step, ten times a second
and more, and nearly always the same one. So a width is sent to the gripper only when it is due and differs from the
one that was sent last by more than ``goal_tolerance``; of several that are due, only the newest counts. A width means
what it means for ``~/gripper_action``: closing completely grasps whatever is there, everything else is a move.

The newest chunk counts, whichever client sent it, as the newest goal does, and a goal or ``~/stop`` ends the chunk in
force. What a client asked for ends with the client, unless ``goals_outlive_clients`` says otherwise.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile
from trajectory_msgs.msg import JointTrajectory

from aiofranka_ros.errors import InvalidTarget, brief
from aiofranka_ros.gripper_node.actions import width_command
from aiofranka_ros.gripper_node.connection import Hand, HandState
from aiofranka_ros.gripper_node.gripper import Command, End, Gripper
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
#: Policies are not exact: a width may exceed what the gripper can by this [m], and is cut off there.
_BEYOND = 0.01
#: By how much a stamp may be in the future, because clocks differ [s].
_FUTURE = 0.5


class Widths:
    """The widths of a chunk that are not due yet.

    :param times: when they are due, counted from ``start`` [s] (n,).
    :param widths: [m] (n,).
    """

    def __init__(self, client: Sender, report: ChunkReport, start: float, times: Array, widths: Array) -> None:
        self.client = client
        self.report = report
        self.start = start  #: when its stamp was, or it arrived [s, monotonic]
        self.period = float(np.median(np.diff(times))) if len(times) > 1 else math.inf
        #: When each width is due [s, monotonic], and the width [m].
        self.left = deque(zip((start + times).tolist(), widths.tolist(), strict=True))

    def take(self, now: float) -> float | None:
        """The newest width that is due [m]; ``None`` if none is. Older ones are dropped."""
        width = None
        while self.left and self.left[0][0] <= now:
            _, width = self.left.popleft()
        return width


class GripperChunks:
    """The topic ``~/gripper_chunk``, and ``~/chunk_status`` for what became of the chunks."""

    def __init__(self, node: Node, settings: GripperParameters, gripper: Gripper, actions: Actions) -> None:
        self._node, self._settings, self._gripper, self._actions = node, settings, gripper, actions
        self._now = node_time(node)
        self._chunk: Widths | None = None
        self._number = 0
        # What the gripper was told last: the command, the number of commands up to it, and the connection.
        self._last: tuple[Command, int, Hand | None] | None = None
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
                self._send(chunk, width, self._gripper.state)
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
        self._chunk = Widths(client, report, start, times, widths)
        self._chunk.left = deque(list(self._chunk.left)[past:])
        self._begun = self._gripper.begun
        self._publish(report)
        self.tick()

    def _widths(self, trajectory: Trajectory) -> Array:
        """The widths of the points [m] (n,), within what the gripper can.

        :raises InvalidTarget: they cannot be used, or there is no gripper.
        """
        state = self._gripper.state
        if state is None:
            raise InvalidTarget(self._gripper.why, reason="not connected")
        if state.max_width <= 0.0:
            raise InvalidTarget(
                "the gripper does not know its largest width yet: call homing first", reason="not homed"
            )
        if trajectory.names not in ((), ("width",)):
            raise InvalidTarget(
                f"it names {brief(', '.join(trajectory.names))!r}, but its points are widths, the distances between "
                "the fingers, twice the position of one finger: leave joint_names empty",
                reason=WRONG_JOINTS,
            )
        if trajectory.positions is None or trajectory.positions.shape[1] != 1:
            raise InvalidTarget("its points must have one position each, the width", reason=WRONG_SIZE)
        widths = trajectory.positions[:, 0]
        for index in np.flatnonzero(~((widths >= -_BEYOND) & (widths <= state.max_width + _BEYOND)))[:1]:
            raise InvalidTarget(
                f"the width of point {index} is {widths[index]} m, but the gripper opens from 0 to "
                f"{state.max_width:.4f} m",
                reason="bad width" if math.isfinite(widths[index]) else "not finite",
            )
        return np.clip(widths, 0.0, state.max_width)

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

    def _send(self, chunk: Widths, width: float, state: HandState) -> None:
        """Tell the gripper to open or close to ``width`` [m], unless it was told so."""
        if chunk.report.first_torque == 0:
            delay = time.monotonic() - chunk.start
            steps = math.ceil(delay / chunk.period - 1e-6)
            chunk.report = chunk.report._replace(first_torque=self._now(), delay=delay, steps=steps)
            self._publish(chunk.report._replace(state=ChunkState.FOLLOWED))
        command, hand = width_command(width, 0.0, state, self._settings), self._gripper.hand
        if self._last is not None:
            last, begun, told = self._last
            close = abs(last.width - width) <= self._settings["goal_tolerance"]
            if begun == self._gripper.begun and told is hand and last.request is command.request and close:
                return
        outcome = self._gripper.submit(command, partial(self._abandoned, chunk.client))
        self._begun = begun = self._gripper.begun
        self._last = command, begun, hand
        outcome.add_done_callback(partial(self._on_outcome, begun))

    def _on_outcome(self, begun: int, done: Any) -> None:
        """Log a failure, unless something newer caused it."""
        outcome = done.result()
        if begun == self._gripper.begun and outcome.failure and outcome.end is not End.CANCELLED:
            self._actions.warnings.warn(TOPIC, f"a width of ~/{TOPIC} was not reached: {outcome.failure}")

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
