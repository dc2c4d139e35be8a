"""Messages in their serialized form (CDR): read and written without rclpy's message objects where speed counts.

Called by the node and by ``RosInterface``, in the thread of their executor. rclpy needs up to a millisecond to make and
serialize a large message, and 24 µs to read a pose, for which :func:`read_pose` needs 1.2 µs. The readers here handle
little-endian CDR, which the middlewares of ROS send on today's processors, and leave everything else to rclpy.

:class:`SerializedMessage` works with every middleware: it finds the numbers in a message instead of knowing the format.
"""

from __future__ import annotations

import functools
import struct
from array import array
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import PoseStamped
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, MultiArrayDimension, MultiArrayLayout

from aiofranka_ros.control.records import new
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array, Record

NANOSECONDS = 1_000_000_000

#: A serialized message begins with its encoding and two bytes of options; then comes the body. OMG RTPS 2.5, 10.2.
_LITTLE_ENDIAN, _BODY = b"\x00\x01", 4
#: The body of a message with a header begins with its stamp, followed by the frame. Strings and sequences begin with
#: their length, aligned to four bytes.
_TIME, _FRAME, _COUNT = struct.Struct("<iI"), 12, struct.Struct("<I")
_TIME_AND_COUNT, _POSE = struct.Struct("<iII"), struct.Struct("<7d")
#: What reading a damaged message raises.
_UNREADABLE = (struct.error, RuntimeError, UnicodeDecodeError, MemoryError)

#: The stamp of a record [ns], and in a message: seconds and nanoseconds.
_STAMP, _SECONDS = struct.Struct("=q"), struct.Struct("=II")


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


class JointValues(NamedTuple):
    """The content of a ``JointState`` that is a target.

    :ivar stamp: [ns]; 0: empty.
    :ivar name: names of the joints; empty: the values are in order.
    :ivar position: [rad], one for each joint.
    :ivar effort: [Nm], one for each joint.
    """

    stamp: int
    name: tuple[str, ...]
    position: tuple[float, ...]
    effort: tuple[float, ...]


def read_pose(data: bytes) -> PoseValues:
    """Read a serialized ``PoseStamped``.

    :raises InvalidTarget: it is something else.
    """
    try:
        if data[:2] == _LITTLE_ENDIAN:
            seconds, rest, length = _TIME_AND_COUNT.unpack_from(data, _BODY)
            begin = _FRAME + 4
            frame = data[begin : begin + max(0, length - 1)].decode()  # Without the zero at its end.
            # Numbers of eight bytes are aligned to eight bytes, counted from the beginning of the body.
            numbers = _POSE.unpack_from(data, begin + length + -(4 + length) % 8)
            return PoseValues(seconds * NANOSECONDS + rest, frame, numbers)
        message = deserialize_message(data, PoseStamped)
    except _UNREADABLE as error:
        raise _unreadable(error) from error
    p, o = message.pose.position, message.pose.orientation
    return PoseValues(nanoseconds(message.header.stamp), message.header.frame_id, (p.x, p.y, p.z, o.x, o.y, o.z, o.w))


class JointReader:
    """Reads serialized ``JointState`` messages.

    It remembers how the last one began, because a sender's joint names stay the same from one message to the next.
    """

    def __init__(self) -> None:
        self._beginning: tuple[bytes, tuple[str, ...]] | None = None

    def read(self, data: bytes) -> JointValues:
        """Read one message.

        :raises InvalidTarget: it is something else.
        """
        try:
            if data[:2] == _LITTLE_ENDIAN:
                seconds, rest = _TIME.unpack_from(data, _BODY)
                known = self._beginning
                if known is None or not data.startswith(known[0], _FRAME):
                    self._beginning = known = _read_names(data)
                beginning, names = known
                position, at = _read_doubles(data, _FRAME + len(beginning))
                _, at = _read_doubles(data, at)
                effort, _ = _read_doubles(data, at)
                return JointValues(seconds * NANOSECONDS + rest, names, position, effort)
            message = deserialize_message(data, JointState)
        except _UNREADABLE as error:
            raise _unreadable(error) from error
        stamp = nanoseconds(message.header.stamp)
        return JointValues(stamp, tuple(message.name), tuple(message.position), tuple(message.effort))


def read_numbers(data: bytes, label: str, count: int) -> Array:
    """The numbers of a serialized :func:`numbers_message` (count,).

    :raises InvalidTarget: it is something else.
    """
    beginning, length = _form_of_numbers(label, count)
    if len(data) == length and data.startswith(beginning):
        return np.frombuffer(data, offset=length - 8 * count).copy()
    try:
        numbers = np.array(deserialize_message(data, Float64MultiArray).data, dtype=float)
    except _UNREADABLE as error:
        raise _unreadable(error) from error
    if len(numbers) != count:
        raise InvalidTarget(f"it has {len(numbers)} numbers instead of {count}", reason="wrong size")
    return numbers


def numbers_message(label: str, numbers: Array) -> Float64MultiArray:
    """A message of ``numbers`` (n,) alone.

    :param label: describes them.
    """
    dimension = MultiArrayDimension(label=label, size=len(numbers), stride=len(numbers))
    return Float64MultiArray(layout=MultiArrayLayout(dim=[dimension]), data=array("d", numbers.tobytes()))


@functools.cache
def _form_of_numbers(label: str, count: int) -> tuple[bytes, int]:
    """How a message of numbers begins on this computer, and how long it is; the numbers are at its end."""
    data, mark = bytes(serialize_message(numbers_message(label, np.zeros(count)))), label.encode()
    # Not the bytes after the label: they are padding, and padding may contain anything.
    return data[: data.index(mark) + len(mark)], len(data)


def _unreadable(error: Exception) -> InvalidTarget:
    return InvalidTarget(f"it cannot be read: {error}", reason="cannot be read")


def _read_names(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The bytes of a serialized ``JointState`` from its frame to its names, and the names."""
    (length,) = _COUNT.unpack_from(data, _FRAME)
    at = _FRAME + 4 + length
    at += -at % 4
    (count,) = _COUNT.unpack_from(data, at)
    names = []
    for _ in range(count):
        at += 4 + -at % 4
        (length,) = _COUNT.unpack_from(data, at)
        names.append(data[at + 4 : at + 4 + max(0, length - 1)].decode())
        at += length
    if at + 4 > len(data):
        raise struct.error("it ends within the names of its joints")
    return data[_FRAME : at + 4], tuple(names)


def _read_doubles(data: bytes, at: int) -> tuple[tuple[float, ...], int]:
    """A sequence of doubles that begins at or after ``at``, and the position of its end."""
    at += -at % 4
    (count,) = _COUNT.unpack_from(data, at)
    at += 4
    if count == 0:
        return (), at
    at += (_BODY - at) % 8
    return _doubles(count).unpack_from(data, at), at + 8 * count


@functools.lru_cache(maxsize=32)
def _doubles(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}d")


class SerializedMessage:
    """The bytes of one message, with the numbers of the newest record.

    From one message to the next only numbers differ. So the message is built and serialized once, from numbers that
    occur nowhere else; they are found in its bytes, and from then on replaced there.

    :param message_of: makes the message of a record. It copies floats of the record and its ``stamp`` [ns], as often as
        it likes, and computes nothing from them.
    :param dtype: of the record.
    :raises ValueError: it does compute something, or the length of the message changes.
    """

    def __init__(self, message_of: Callable[[Record], Any], dtype: np.dtype[Any]) -> None:
        marked = _marked(dtype, 1)
        data = serialize_message(message_of(marked))
        source = _bytes_of(marked)
        places = {place: offset for offset in _floats(dtype) for place in _find(source[offset : offset + 8], data)}
        self._bytes = bytearray(data)
        #: Where numbers are in the message, and where in the record.
        self._runs = _runs(places)
        assert dtype.fields is not None
        self._stamp_at = int(dtype.fields["stamp"][1])
        self._stamps = [slice(place, place + 8) for place in _find(_stamp(source, self._stamp_at), data)]
        # The messages are compared, not their bytes, because the padding between them may contain anything.
        other = _marked(dtype, 2)
        message = message_of(other)
        if (
            len(serialize_message(message)) != len(data)
            or deserialize_message(self.of(other), type(message)) != message
        ):
            raise ValueError(f"a {type(message).__name__} is more than copies of numbers in a record")

    def of(self, record: Record | memoryview) -> bytes:
        """The message of ``record``, or of its bytes, ready to publish."""
        source, target = record if isinstance(record, memoryview) else _bytes_of(record), self._bytes
        for there, here in self._runs:
            target[there] = source[here]
        stamp = _stamp(source, self._stamp_at)
        for there in self._stamps:
            target[there] = stamp
        return bytes(target)


def _bytes_of(record: Record) -> memoryview:
    return np.frombuffer(record, np.uint8).data


def _stamp(source: memoryview, offset: int) -> bytes:
    """The stamp of a record as it is in a message: seconds and nanoseconds, four bytes each."""
    return _SECONDS.pack(*divmod(_STAMP.unpack_from(source, offset)[0], NANOSECONDS))


def _runs(places: dict[int, int]) -> list[tuple[slice, slice]]:
    """Slices of a message and of a record, as long as possible, from the ``places`` of eight bytes each."""
    runs: list[tuple[slice, slice]] = []
    for there, here in sorted(places.items()):
        if runs and (runs[-1][0].stop, runs[-1][1].stop) == (there, here):
            to, origin = runs.pop()
            runs.append((slice(to.start, there + 8), slice(origin.start, here + 8)))
        else:
            runs.append((slice(there, there + 8), slice(here, here + 8)))
    return runs


def _floats(dtype: np.dtype[Any]) -> list[int]:
    """Offsets of the floats of a record [bytes]."""
    assert dtype.fields is not None
    offsets: list[int] = []
    for field, offset, *_ in dtype.fields.values():
        if field.base == np.float64:
            offsets += range(offset, offset + field.itemsize, 8)
    return offsets


def _marked(dtype: np.dtype[Any], seed: int) -> Record:
    """A record whose floats and stamp occur nowhere else."""
    record, random = new(dtype), np.random.default_rng(seed)
    for offset in _floats(dtype):
        record.view(np.uint8)[offset : offset + 8] = random.uniform(1.0, 2.0, 1).view(np.uint8)
    seconds, rest = random.integers(1 << 28, 900_000_000, 2).tolist()
    record["stamp"] = seconds * NANOSECONDS + rest
    return record[0]


def _find(mark: bytes | memoryview, data: bytes) -> list[int]:
    """Every position of ``mark`` in ``data``."""
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return found
