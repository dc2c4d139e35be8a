"""The topics of TF, read into a buffer of tf2 as tf2's own listener does it, but at a bounded cost for the node.

Used by :mod:`aiofranka_ros.node.frames`, in the node's process and its one thread. A transform costs it 50 µs, and a
message may have any number of them, from any program on the graph. So large messages are read aside, and very large
ones not at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.ros.cdr import read_message
from aiofranka_ros.ros.warnings import Warnings

if TYPE_CHECKING:
    from aiofranka_ros.node.lifecycle import FrankaNode

#: Messages of up to so many bytes are read at once: about fifty transforms.
_SMALL = 5_000
#: Most bytes of a message, about ten thousand transforms, and how many large ones may wait.
_LARGEST, _MOST_WAITING = 1_000_000, 20


class TransformTopics:
    """Subscriptions to ``/tf`` and ``/tf_static`` that fill ``buffer``."""

    def __init__(self, node: FrankaNode, buffer: Any) -> None:
        self._node = node
        self._waiting = 0
        self._warnings = Warnings(node.get_logger().warning)
        group = ReentrantCallbackGroup()  # Targets may wait for it.
        for topic, put, durability in (
            ("/tf", buffer.set_transform, DurabilityPolicy.VOLATILE),
            ("/tf_static", buffer.set_transform_static, DurabilityPolicy.TRANSIENT_LOCAL),
        ):
            qos = QoSProfile(depth=100, durability=durability)  # As tf2's listener.
            callback = partial(self._on_message, topic, put)
            node.create_subscription(TFMessage, topic, callback, qos, callback_group=group, raw=True)

    def _on_message(self, topic: str, put: Callable[[Any, str], object], data: bytes) -> None:
        size = len(data)
        if size <= _SMALL:
            _read(put, data)
        elif size > _LARGEST or self._waiting == _MOST_WAITING:
            why = f"at most {_LARGEST} are read" if size > _LARGEST else f"{_MOST_WAITING} others wait to be read"
            self._warnings.warn(topic, f"ignored a message on {topic}: it has {size} bytes; {why}")
        else:
            self._waiting += 1
            self._node.executor.create_task(self._read_aside, put, data)

    def _read_aside(self, put: Callable[[Any, str], object], data: bytes) -> None:
        self._waiting -= 1
        self._node.aside(_read, put, data)


def _read(put: Callable[[Any, str], object], data: bytes) -> None:
    with contextlib.suppress(InvalidTarget):  # It is no message of TF.
        for transform in read_message(data, TFMessage, _LARGEST).transforms:
            put(transform, "default_authority")
