"""Messages that are published again and again, kept in the form in which they travel.

Used by the node, in its process and its one thread. To make a message of many parts and to serialize it takes Python up
to a millisecond, although from one message to the next nothing but a few numbers differ. So it is done once, and from
then on the numbers are replaced where they stand in its bytes.

Where they stand, nobody has to know: a message is made of numbers that occur nowhere else, and looked through for them.
That suits every middleware and every type of message whose length never changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.serialization import deserialize_message, serialize_message

from aiofranka_ros.records import Record, new

_NANOSECONDS = 1_000_000_000


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
        places = [(place, offset) for offset in _floats(dtype) for place in _find(source[offset : offset + 8], data)]
        stamps = _find(_stamp(marked), data)
        self._bytes = np.frombuffer(bytearray(data), np.uint8)
        self._to, self._from = _words([place for place, _ in places]), _words([offset for _, offset in places])
        self._stamps = _words(stamps)
        # Not the bytes are compared, because padding between them may hold anything.
        other = _marked(dtype, 2)
        message = message_of(other)
        if (
            len(serialize_message(message)) != len(data)
            or deserialize_message(self.of(other), type(message)) != message
        ):
            raise ValueError(f"a {type(message).__name__} is more than copies of numbers in a record")

    def of(self, record: Record) -> bytes:
        """The message of ``record``, as a publisher takes it."""
        self._bytes[self._to] = _bytes_of(record)[self._from]
        self._bytes[self._stamps] = _stamp(record)
        return self._bytes.tobytes()


def _bytes_of(record: Record) -> npt.NDArray[np.uint8]:
    return np.frombuffer(record, np.uint8)


def _stamp(record: Record) -> npt.NDArray[np.uint8]:
    """The record's stamp as it stands in a message: seconds and nanoseconds, four bytes each (8,)."""
    return np.array(divmod(int(record["stamp"]), _NANOSECONDS), np.uint32).view(np.uint8)


def _words(begins: list[int]) -> npt.NDArray[np.intp]:
    """Indices of the eight bytes from each of ``begins`` on (n, 8)."""
    return np.add.outer(np.array(begins, np.intp), np.arange(8))


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


def _find(mark: npt.NDArray[np.uint8], data: bytes) -> list[int]:
    """Where ``mark`` stands in ``data``."""
    found, at = [], data.find(mark.tobytes())
    while at >= 0:
        found.append(at)
        at = data.find(mark.tobytes(), at + 1)
    return found
