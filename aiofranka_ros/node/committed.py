"""The topics ``~/joint_committed`` and ``~/ee_committed``: the rest of what the arm follows, on the policy's grid.

Used by :mod:`aiofranka_ros.node.chunks` in the node's one thread. The messages are latched, so a policy that subscribes
later, or begins its inference later, has the last one; one without points means that nothing is followed. A message is
made only when there is a subscriber.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory

from aiofranka_ros.arm.chunks import ChunkPlayer, Ticket
from aiofranka_ros.control.chunk_size import MOST_POINTS
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.ros.trajectories import joint_trajectory, pose_trajectory

_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class _Followed(NamedTuple):
    """The newest chunk: the topic of its kind, and the usual time between two of its points [s]."""

    topic: str
    ticket: Ticket
    period: float


class _Topic(NamedTuple):
    publisher: Publisher
    message_of: Callable[..., Any]
    names: tuple[str, ...]


class CommittedTopics:
    """The two publishers."""

    def __init__(self, node: Node, names: ArmNames) -> None:
        self._frame = names.base
        self._topics = {
            "joint_chunk": _Topic(
                node.create_publisher(JointTrajectory, "~/joint_committed", _LATCHED), joint_trajectory, names.joints
            ),
            "ee_chunk": _Topic(
                node.create_publisher(MultiDOFJointTrajectory, "~/ee_committed", _LATCHED), pose_trajectory,
                (names.tcp,),
            ),
        }  # fmt: skip
        self._followed: _Followed | None = None
        #: Topics whose last message is not true any more.
        self._outdated: set[str] = set()

    def begin(self, topic: str, ticket: Ticket, period: float) -> None:
        """A chunk on ``topic`` begins, with the usual time ``period`` between its points [s]."""
        self.clear()
        self._followed = _Followed(topic, ticket, period)
        self._outdated.add(topic)

    def clear(self) -> None:
        """No chunk is followed."""
        if self._followed is not None:
            self._outdated.add(self._followed.topic)
            self._followed = None

    def publish(self, player: ChunkPlayer | None, offset: int) -> None:
        """Publish what has changed, if there is a subscriber; called at every tick.

        :param player: plays the chunks; ``None``: the arm is not active.
        :param offset: from the monotonic clock to that of the node [ns].
        """
        for name in tuple(self._outdated):
            topic = self._topics[name]
            if topic.publisher.get_subscription_count() > 0:
                self._outdated.discard(name)
                stamp, rows, period = self._rest(player, name)
                stamp = stamp and stamp + offset
                topic.publisher.publish(topic.message_of(stamp, topic.names, rows, period, self._frame))

    def _rest(self, player: ChunkPlayer | None, topic: str) -> tuple[int, Any, float]:
        """When the first row of the rest is due [ns, monotonic], the rows (n, 7), and the time between them [s]."""
        followed = self._followed
        if followed is None or player is None or followed.topic != topic:
            return 0, np.empty((0, 7)), 0.0
        # From the last time on the policy's grid on, so that the present is included.
        ticket, period, now = followed.ticket, followed.period, time.monotonic()
        first = ticket.start + period * math.floor((now - ticket.start) / period)
        rows, _ = player.committed(MOST_POINTS, period, now, first)
        return round(1e9 * first), rows, period
