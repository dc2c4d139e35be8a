"""The topic of all control cycles, for recordings.

Used by the node, in its process and its one thread. Without a subscriber it costs nothing; with one, a copy of some
dozens of kilobytes ten times a second.
"""

from __future__ import annotations

import time

from rclpy.lifecycle import LifecycleNode

from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.control.stamps import offset_to
from aiofranka_ros.ros.clock import node_time
from aiofranka_ros.ros.cycles import QOS, TOPIC, UInt8MultiArray, message_of

#: A new subscriber also gets the cycles of this time before [s]: it may have asked for them before it was discovered.
_BEFORE = 2.0
#: Cycles in a message: it fits into one datagram (64 kB), so DDS need not divide it and wait for its parts.
_MOST = 90
#: The last cycles of an arm that has stopped are sent after this time [s].
_PATIENCE = 0.25


class CycleTopic:
    """Publishes ``~/cycles``."""

    def __init__(self, node: LifecycleNode) -> None:
        self._publisher = node.create_publisher(UInt8MultiArray, f"~/{TOPIC}", QOS)
        self._now = node_time(node)
        self._memory: SharedMemory | None = None
        self._subscribers = self._position = self._sources = 0
        self._sent = 0.0

    def follow(self, client: ControlClient | None) -> None:
        """Publish what is due; call at every tick.

        :param client: the control process; what one that has ended has left is published, too.
        """
        memory = None if client is None else client.shared
        if memory is not None and memory is not self._memory:
            self._memory, self._position, self._sources = memory, 0, self._sources + 1
        subscribers, before = self._publisher.get_subscription_count(), self._subscribers
        self._subscribers = subscribers
        if subscribers == 0 or self._memory is None:
            return
        ring, now = self._memory.cycles, time.monotonic()
        if subscribers > before:
            self._position = max(0, ring.count - round(1e3 * _BEFORE))
        elif now - self._sent < _PATIENCE and ring.count - self._position < _MOST:
            return
        slots, first = ring.slots(self._position, _MOST)
        if len(slots):
            self._position, self._sent = first + len(slots), now
            self._publisher.publish(message_of(self._sources, first, slots, offset_to(self._now)))
