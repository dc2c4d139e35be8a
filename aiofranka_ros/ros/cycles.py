"""The topic ``~/cycles``: the record of every control cycle, for recordings through a node.

Published by the node, and received by :class:`~aiofranka_ros.api.ros_interface.RosInterface`. A message has the records
of many cycles as the bytes that they have in shared memory, checksums included: the node only copies them, and the
receiver finds out whether they are whole. Both must run the same version of this package.
"""

from __future__ import annotations

import array
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from std_msgs.msg import UInt8MultiArray

from aiofranka_ros.control.cycles import Cycles
from aiofranka_ros.control.records import CYCLE_RECORD
from aiofranka_ros.control.shared_memory import complete, slot_of
from aiofranka_ros.errors import FrankaError

#: Its name, after that of the node; and a depth of several seconds for a receiver that is busy.
TOPIC, QOS = "cycles", QoSProfile(depth=100)
#: Layout of the records, source, number of the first, offset of their stamps [ns].
_HEAD = struct.Struct("<QQQq")
_SLOT = slot_of(CYCLE_RECORD)
_LAYOUT = zlib.crc32(repr(_SLOT.descr).encode())


def message_of(source: int, number: int, slots: npt.NDArray[Any], offset: int) -> UInt8MultiArray:
    """A message with ``slots`` of a ring; the other arguments as in :class:`.Cycles`."""
    head = _HEAD.pack(_LAYOUT, source, number, offset)
    return UInt8MultiArray(data=array.array("B", head + slots.tobytes()))


def read_cycles(message: bytes) -> Cycles:
    """What a message, as its bytes, has.

    :raises FrankaError: the node runs another version of this package.
    """
    data = bytes(deserialize_message(message, UInt8MultiArray).data)
    layout, source, number, offset = _HEAD.unpack_from(data)
    if layout != _LAYOUT:
        raise FrankaError("the node runs another version of aiofranka_ros, whose cycles cannot be recorded here")
    slots = np.frombuffer(data, _SLOT, offset=_HEAD.size)
    return Cycles(source, number, slots["record"][: complete(slots, number)], offset)
