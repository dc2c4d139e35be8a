"""Messages in their serialized form (CDR): read and written without rclpy's message objects where speed counts.

Called by the node and by ``RosInterface``, in the thread of their executor. To publish ``~/robot_state``, up to 1000
times a second, rclpy needs 285 µs and :class:`SerializedMessage` 50 µs; to read a pose, rclpy needs 28 µs and
:func:`read_pose` 1.5 µs. The readers here handle little-endian CDR, which the middlewares of ROS send on today's
processors, and leave everything else to rclpy.

:class:`SerializedMessage` works with every middleware: it finds the numbers in a message instead of knowing the format.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.subscription import Subscription
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from aiofranka_ros.control.records import new
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array, Record

NANOSECONDS = 1_000_000_000

#: A serialized message begins with its encoding and two bytes of options; then comes the body. OMG RTPS 2.5, 10.2.
LITTLE_ENDIAN, BODY = b"\x00\x01", 4
#: The body of a message with a header begins with its stamp, followed by the frame. Strings and sequences begin with
#: their length, aligned to four bytes.
_FRAME, _COUNT = 12, struct.Struct("<I")
_TIME_AND_COUNT, _POSE, _TWIST = struct.Struct("<iII"), struct.Struct("<7d"), struct.Struct("<6d")
#: Most bytes of a target: ten times what one with long names has.
_LARGEST = 10_000
#: What reading a damaged message raises.
UNREADABLE = (struct.error, RuntimeError, UnicodeDecodeError, MemoryError)

#: A stamp in a message: seconds and nanoseconds.
_SECONDS = struct.Struct("=II")


def nanoseconds(stamp: Time | Duration) -> int:
    """A time stamp or duration in nanoseconds; 0 if its sender left it empty."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


class PoseValues(NamedTuple):
    """The content of a ``PoseStamped``.

    :ivar stamp: [ns]; 0: empty.
    :ivar frame: name of the frame in which the pose is given; may be empty.
    :ivar numbers: x, y, z [m], qx, qy, qz, qw.
    """

    stamp: int
    frame: str
    numbers: tuple[float, ...]


class TwistValues(NamedTuple):
    """The content of a ``TwistStamped``.

    :ivar stamp: [ns]; 0: empty.
    :ivar frame: name of the frame along whose axes the twist is given; may be empty.
    :ivar numbers: linear velocity x, y, z [m/s], angular velocity x, y, z [rad/s].
    """

    stamp: int
    frame: str
    numbers: tuple[float, ...]


class JointValues(NamedTuple):
    """The content of a ``JointState`` that is a target.

    :ivar stamp: [ns]; 0: empty.
    :ivar name: names of the joints; empty: the values are in order.
    :ivar position: [rad], one for each joint.
    :ivar velocity: [rad/s], one for each joint.
    :ivar effort: [Nm], one for each joint.
    """

    stamp: int
    name: tuple[str, ...]
    position: tuple[float, ...]
    velocity: tuple[float, ...]
    effort: tuple[float, ...]


def read_message(data: bytes, kind: Any, largest: int) -> Any:
    """A serialized message of ``kind``, which rclpy makes.

    :raises InvalidTarget: it is something else, or has more than ``largest`` bytes.
    """
    _check_size(data, largest)
    try:
        return deserialize_message(data, kind)
    except UNREADABLE as error:
        raise unreadable(error) from error


def subscribe(
    node: Node, kind: Any, topic: str, callback: Callable[[Any], None], qos: QoSProfile,
    group: CallbackGroup | None = None, largest: int = _LARGEST,
) -> Subscription:  # fmt: skip
    """Subscribe to messages of at most ``largest`` bytes; a larger one is ignored unread.

    To make an ordinary message of it could take seconds, in which nothing else runs.
    """

    def on_data(data: bytes) -> None:
        with contextlib.suppress(InvalidTarget):
            callback(read_message(data, kind, largest))

    return node.create_subscription(kind, topic, on_data, qos, callback_group=group, raw=True)


def read_pose(data: bytes) -> PoseValues:
    """Read a serialized ``PoseStamped``.

    :raises InvalidTarget: it is something else, or too large.
    """
    _check_size(data)
    try:
        if data[:2] == LITTLE_ENDIAN:
            return PoseValues(*_header_and_numbers(data, _POSE))
        message = deserialize_message(data, PoseStamped)
    except UNREADABLE as error:
        raise unreadable(error) from error
    p, o = message.pose.position, message.pose.orientation
    return PoseValues(nanoseconds(message.header.stamp), message.header.frame_id, (p.x, p.y, p.z, o.x, o.y, o.z, o.w))


def read_twist(data: bytes) -> TwistValues:
    """Read a serialized ``TwistStamped``.

    :raises InvalidTarget: it is something else, or too large.
    """
    _check_size(data)
    try:
        if data[:2] == LITTLE_ENDIAN:
            return TwistValues(*_header_and_numbers(data, _TWIST))
        message = deserialize_message(data, TwistStamped)
    except UNREADABLE as error:
        raise unreadable(error) from error
    v, w = message.twist.linear, message.twist.angular
    return TwistValues(nanoseconds(message.header.stamp), message.header.frame_id, (v.x, v.y, v.z, w.x, w.y, w.z))


def read_joints(data: bytes) -> JointValues:
    """Read a serialized ``JointState``.

    :raises InvalidTarget: it is something else, or too large.
    """
    _check_size(data)
    try:
        if data[:2] == LITTLE_ENDIAN:
            seconds, rest, length = _TIME_AND_COUNT.unpack_from(data, BODY)
            names, at = read_names(data, _FRAME + 4 + length)
            position, at = _read_doubles(data, at)
            velocity, at = _read_doubles(data, at)
            effort, _ = _read_doubles(data, at)
            return JointValues(seconds * NANOSECONDS + rest, names, position, velocity, effort)
        message = deserialize_message(data, JointState)
    except UNREADABLE as error:
        raise unreadable(error) from error
    stamp = nanoseconds(message.header.stamp)
    return JointValues(stamp, tuple(message.name), *map(tuple, (message.position, message.velocity, message.effort)))


def read_numbers(data: bytes, count: int) -> Array:
    """The numbers of a serialized ``Float64MultiArray`` (count,).

    :raises InvalidTarget: it is something else.
    """
    try:
        numbers = np.array(deserialize_message(data, Float64MultiArray).data)
    except UNREADABLE as error:
        raise unreadable(error) from error
    if len(numbers) != count:
        raise InvalidTarget(f"it has {len(numbers)} numbers instead of {count}", reason="wrong size")
    return numbers


def _check_size(data: bytes, largest: int = _LARGEST) -> None:
    if len(data) > largest:
        raise InvalidTarget(f"it has {len(data)} bytes; at most {largest} are read", reason="too large")


def unreadable(error: Exception) -> InvalidTarget:
    """What to raise for one of :data:`UNREADABLE`."""
    return InvalidTarget(f"it cannot be read: {error}", reason="cannot be read")


def _header_and_numbers(data: bytes, numbers: struct.Struct) -> tuple[int, str, tuple[float, ...]]:
    """The stamp [ns], the frame and the ``numbers`` that follow them."""
    seconds, rest, length = _TIME_AND_COUNT.unpack_from(data, BODY)
    begin = _FRAME + 4
    frame = data[begin : begin + max(0, length - 1)].decode()  # Without the zero at its end.
    # Numbers of eight bytes are aligned to eight bytes, counted from the beginning of the body.
    return seconds * NANOSECONDS + rest, frame, numbers.unpack_from(data, begin + length + -(4 + length) % 8)


def read_names(data: bytes, at: int, most: int = _LARGEST) -> tuple[tuple[str, ...], int]:
    """A sequence of strings that begins at or after ``at``, and the position of its end.

    :raises struct.error: it has more than ``most``, or is not there.
    """
    at += -at % 4
    (count,) = _COUNT.unpack_from(data, at)
    if count > most:
        raise struct.error(f"it has {count} names; at most {most} are read")
    at += 4
    names = []
    for _ in range(count):
        at += -at % 4
        (length,) = _COUNT.unpack_from(data, at)
        names.append(data[at + 4 : at + 4 + max(0, length - 1)].decode())
        at += 4 + length
    return tuple(names), at


def _read_doubles(data: bytes, at: int) -> tuple[tuple[float, ...], int]:
    """A sequence of doubles that begins at or after ``at``, and the position of its end."""
    at += -at % 4
    (count,) = _COUNT.unpack_from(data, at)
    at += 4
    if count == 0:
        return (), at
    at += (BODY - at) % 8
    return struct.unpack_from(f"<{count}d", data, at), at + 8 * count


class SerializedMessage:
    """The bytes of one message, with the numbers of the newest record.

    From one message to the next only numbers differ. So the message is built and serialized once, from numbers that
    occur nowhere else; they are found in its bytes, and from then on replaced there.

    :param message_of: makes the message of a record. It only copies floats of the record and its ``stamp`` [ns], as
        often as it likes, and the message always has the same length.
    :param dtype: of the record.
    """

    def __init__(self, message_of: Callable[[Record], Any], dtype: np.dtype[Any]) -> None:
        record, random = new(dtype), np.random.default_rng(1)
        record["stamp"] = 987_654_321_123_456_789
        assert dtype.fields is not None
        offsets: list[int] = []
        for name, (field, offset, *_) in dtype.fields.items():
            if field.base == np.float64:
                # No byte of a mark occurs in text or in counts: padding may contain parts of an earlier message, and
                # together with the end of a string they must not look like a mark.
                marks = random.integers(128, 240, (*record[name].shape, 8), np.uint8)
                record[name] = marks.view(np.float64)[..., 0]
                offsets += range(offset, offset + field.itemsize, 8)
        data, source = bytes(serialize_message(message_of(record[0]))), record.tobytes()
        places = [(there, here) for here in offsets for there in _find(source[here : here + 8], data)]
        there, here = np.array(places).T[:, :, None] + np.arange(8)
        self._bytes = np.frombuffer(data, np.uint8).copy()
        #: Where the bytes of numbers are in the message, and where in the record.
        self._there, self._here = there.ravel(), here.ravel()
        self._stamps = np.array(_find(_stamp(record[0]), data))[:, None] + np.arange(8)

    def of(self, record: Record) -> bytes:
        """The message of ``record``, ready to publish."""
        self._bytes[self._there] = np.frombuffer(record, np.uint8)[self._here]
        self._bytes[self._stamps] = np.frombuffer(_stamp(record), np.uint8)
        return self._bytes.tobytes()


def _stamp(record: Record) -> bytes:
    """The stamp of a record as it is in a message: seconds and nanoseconds, four bytes each."""
    return _SECONDS.pack(*divmod(int(record["stamp"]), NANOSECONDS))


def _find(mark: bytes, data: bytes) -> list[int]:
    """Every position of ``mark`` in ``data`` that is aligned to four bytes."""
    return [match.start() for match in re.finditer(re.escape(mark), data) if match.start() % 4 == 0]
