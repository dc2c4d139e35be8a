"""Messages that are published again and again, kept in the form in which they travel.

Used by the node, in its process and its one thread. To make a message of many parts and to serialize it takes Python up
to a millisecond, although from one message to the next nothing but a few numbers differ. So it is done once, and from
then on the numbers are replaced where they stand in its bytes.

Where they stand, nobody has to know: a message is made of numbers that occur nowhere else, and looked through for them.
That suits every middleware and every type of message whose length never changes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message

from aiofranka_ros.control.records import new
from aiofranka_ros.kernels import Record

_NANOSECONDS = 1_000_000_000
_STAMP, _SECONDS = struct.Struct("=q"), struct.Struct("=II")


class SerializedMessage:
    """The bytes of one message, with the numbers of the newest record.

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
        #: Where numbers stand in the message, and where in the record.
        self._runs = _runs(places)
        assert dtype.fields is not None
        self._stamp_at = int(dtype.fields["stamp"][1])
        self._stamps = [slice(place, place + 8) for place in _find(_stamp(source, self._stamp_at), data)]
        # Not the bytes are compared, because padding between them may hold anything.
        other = _marked(dtype, 2)
        message = message_of(other)
        if (
            len(serialize_message(message)) != len(data)
            or deserialize_message(self.of(other), type(message)) != message
        ):
            raise ValueError(f"a {type(message).__name__} is more than copies of numbers in a record")

    def of(self, record: Record | memoryview) -> bytes:
        """The message of ``record``, or of its bytes, as a publisher takes it."""
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
    """The stamp of a record as it stands in a message: seconds and nanoseconds, four bytes each."""
    return _SECONDS.pack(*divmod(_STAMP.unpack_from(source, offset)[0], _NANOSECONDS))


def _runs(places: dict[int, int]) -> list[tuple[slice, slice]]:
    """Slices of a message and of a record, as long as may be, from the ``places`` of eight bytes each."""
    runs: list[tuple[slice, slice]] = []
    for there, here in sorted(places.items()):
        if runs and (runs[-1][0].stop, runs[-1][1].stop) == (there, here):
            (to, origin) = runs.pop()
            runs.append((slice(to.start, there + 8), slice(origin.start, here + 8)))
        else:
            runs.append((slice(there, there + 8), slice(here, here + 8)))
    return runs


def _floats(dtype: np.dtype[Any]) -> list[int]:
    """Where the floats of a record begin [bytes]."""
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
    record["stamp"] = seconds * _NANOSECONDS + rest
    return record[0]


def _find(mark: bytes | memoryview, data: bytes) -> list[int]:
    """Where ``mark`` stands in ``data``."""
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return found
