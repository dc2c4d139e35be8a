"""The memory that node and control process share: who writes what, and why no reader ever sees half of a record.

Used by both processes, and by observers such as the demo and the bench; nothing here waits.

The memory is anonymous (``memfd_create``): it has no name that could collide or be left behind, only processes of the
same user can open it, and it is freed with the last process that has it. The node creates it and passes its descriptor
to the control process; an observer attaches through ``/proc`` while the node lives.

Each :class:`Block` has one writer and any number of readers. A reader that comes during a write keeps its old record.
The writer makes the block's sequence number odd, writes, and makes it even again (a seqlock). If an exception
interrupts it, the number stays odd until the next write, which completes it.

A :class:`Ring` keeps the last records of one kind, e.g. of the control cycles. A reader that falls behind by more than
its capacity learns how many it missed.

Python cannot order the stores and loads of different processors: on ARM, a reader may see a new sequence number or
count before the record that it belongs to. So each record has a CRC-32 of its content *and* its number. If either is
not visible yet, they do not match, and the reader tries again later.
"""

from __future__ import annotations

import bisect
import mmap
import os
import sys
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from aiofranka_ros.control.records import CHUNK, COMMANDS, CYCLE_RECORD, MOTION, STATE
from aiofranka_ros.control.robot_records import ROBOT_STATE
from aiofranka_ros.errors import ControlProcessDied
from aiofranka_ros.kernels import Array, Record

#: Checksum of the records' layouts: two processes with different ones cannot work together.
LAYOUT = zlib.crc32(repr([COMMANDS.descr, MOTION.descr, CHUNK.descr, STATE.descr, ROBOT_STATE.descr]).encode())
#: Cycles that the ring keeps: 16 s.
RING_CAPACITY = 16384
#: Full robot states that are kept for a node that is late.
ROBOT_STATES = 64
#: Bytes between the writers' words, so that they do not share a cache line.
_LINE = 64
#: Bytes that a :class:`GradualReader` copies and checks at once: 20 µs on a slow processor, a fiftieth of a cycle.
_SLICE = 1 << 16


def _checksum(data: bytes | memoryview, number: int) -> int:
    """CRC-32 of a record and its number."""
    return zlib.crc32(data, number & 0xFFFFFFFF)


class Block:
    """One record with one writer; readers see all of it or nothing. ``memory``: :meth:`needs` bytes, aligned to 64."""

    def __init__(self, memory: memoryview, dtype: np.dtype[Any]) -> None:
        self._head = memory[:_LINE].cast("Q")
        self._payload = memory[_LINE : _LINE + dtype.itemsize]

    @staticmethod
    def needs(dtype: np.dtype[Any]) -> int:
        """Bytes that a block of ``dtype`` needs."""
        return _LINE + -(-dtype.itemsize // _LINE) * _LINE

    @property
    def size(self) -> int:
        """Bytes of the record that was published last."""
        return self._head[1]

    @property
    def version(self) -> int:
        """Grows with every write; odd during one, and after one that was interrupted until the next."""
        return self._head[0]

    def write(self, record: npt.NDArray[Any] | memoryview, size: int | None = None) -> None:
        """Publish ``record``, an array of one or its bytes; with ``size``, only that many bytes of it.

        :raises ValueError: it does not have the size of this block.
        """
        data = record if isinstance(record, memoryview) else record.view(np.uint8).data
        head, payload = self._head, self._payload
        if size is not None:
            data, payload = data[:size], payload[:size]
        if len(data) != len(payload):
            raise ValueError(f"a record has {len(payload)} bytes, not {len(data)}")
        version = (head[0] | 1) + 1  # After an interrupted write the number is odd already.
        check = _checksum(data, version)
        head[0] = version - 1
        payload[:] = data
        head[1] = len(data)
        head[2] = check
        head[0] = version

    def read(self, record: npt.NDArray[Any] | memoryview) -> bool:
        """Copy the record that was published last into ``record``, an array of one or its bytes.

        :returns: ``False`` if nothing was published yet or a write is in progress; ``record`` may then hold anything.
        """
        head, payload = self._head, self._payload
        version = head[0]
        if version == 0 or version & 1:
            return False
        size, check = head[1], head[2]
        data = record if isinstance(record, memoryview) else record.view(np.uint8).data
        if size > len(data):
            return False
        if size < len(payload):
            data, payload = data[:size], payload[:size]
        data[:] = payload
        return head[0] == version and _checksum(data, version) == check


class GradualReader:
    """Reads a large block a slice at a time, so that no call takes long.

    :meth:`restart` first; then call :meth:`proceed` until it returns ``True``.
    """

    def __init__(self, block: Block) -> None:
        self._head, self._payload = block._head, block._payload
        self._data = memoryview(b"")
        self._version = self._size = self._done = self._check = 0

    def restart(self, data: memoryview) -> None:
        """Read the block from its beginning into ``data``, the bytes of a record, which hold anything until then."""
        self._data = data
        self._version = 0

    def proceed(self) -> bool:
        """Read the next slice; return ``True`` once for each write, when all of it has been read."""
        head = self._head
        version = head[0]
        if version != self._version:
            if version & 1 or head[1] > len(self._data):
                return False
            self._version, self._size, self._done = version, head[1], 0
            self._check = _checksum(b"", version)
        if self._done == self._size:
            return False
        end = min(self._done + _SLICE, self._size)
        part = self._data[self._done : end]
        part[:] = self._payload[self._done : end]
        self._check, self._done = zlib.crc32(part, self._check), end
        if end < self._size:
            return False
        whole = self._check == head[2] and head[0] == version
        if not whole:
            self._version = 0
        return whole


class Ring:
    """The last ``capacity`` records of one writer, for many readers. ``memory``: :meth:`size` bytes, aligned to 64."""

    def __init__(self, memory: memoryview, dtype: np.dtype[Any], capacity: int) -> None:
        self._count = memory[:8].cast("Q")
        self._capacity = capacity
        slot = slot_of(dtype)
        self._slot_size = slot.itemsize
        self._bytes = memory[_LINE : _LINE + capacity * slot.itemsize]
        self._words = self._bytes.cast("Q")
        self._slots = np.frombuffer(self._bytes, slot)

    @staticmethod
    def size(dtype: np.dtype[Any], capacity: int) -> int:
        """Bytes that a ring needs."""
        return _LINE + -(-capacity * slot_of(dtype).itemsize // _LINE) * _LINE

    @property
    def count(self) -> int:
        """Records published since the memory was made."""
        return self._count[0]

    def append(self, record: memoryview) -> None:
        """Publish a record, given as its bytes. Writer only."""
        count = self._count[0]
        begin = count % self._capacity * self._slot_size
        self._words[begin // 8] = _checksum(record, count)
        self._bytes[begin + 8 : begin + self._slot_size] = record
        self._count[0] = count + 1

    def since(self, position: int) -> tuple[npt.NDArray[Any], int, int]:
        """Copies of the records after the first ``position`` ones, as far as they are complete.

        :returns: the records, the position to ask for next, and how many were overwritten before they could be read.
        """
        slots, first = self.slots(position)
        # Drop what may have been overwritten during the copy.
        intact = max(first, self.count - self._capacity + 1)
        slots = slots[intact - first :]
        # What is not complete yet will be next time.
        whole = complete(slots, intact)
        return slots["record"][:whole], intact + whole, intact - position

    def slots(self, position: int, most: int = sys.maxsize) -> tuple[npt.NDArray[Any], int]:
        """A copy of the records after the first ``position`` ones, at most ``most``, with their checksums.

        Some may not be complete, or be overwritten during the copy: see :func:`complete`.

        :returns: the records, and the number of the first one.
        """
        count = self.count
        first = max(position, count - self._capacity + 1)
        return self._slots[np.arange(first, min(count, first + most)) % self._capacity], first

    def intact(self) -> npt.NDArray[Any]:
        """All records that are complete, in their order; takes long, for a ring that is not written any more.

        In a copy of a ring that was made while it was written, the oldest records may be torn or newer ones.
        """
        count, capacity, data, size = self.count, self._capacity, self._bytes, self._slot_size
        found: list[tuple[int, int]] = []
        for number in range(max(0, count - capacity), count):
            begin = number % capacity * size
            check, record = self._words[begin // 8], data[begin + 8 : begin + size]
            for one in (number, number + capacity):
                if check == _checksum(record, one):
                    found.append((one, number % capacity))
        slots: list[int] = [slot for _, slot in sorted(found)]
        return self._slots["record"][slots]

    def at(self, time: int) -> Record | None:
        """A copy of the cycle nearest to ``time`` [ns, monotonic]; ``None`` if there is none."""
        count, stamps = self.count, self._slots["record"]["stamp"]
        oldest = max(0, count - self._capacity + 1)

        def written(index: int) -> int:
            return int(stamps[index % self._capacity])

        after = oldest + bisect.bisect_left(range(oldest, count), time, key=written)
        around = range(max(oldest, after - 1), min(after + 1, count))
        for number in sorted(around, key=lambda index: abs(written(index) - time)):
            slot = self._slots[number % self._capacity, None].copy()
            # The oldest one may have been overwritten during the search, and the newest may not be complete yet.
            if complete(slot, number):
                return slot["record"][0]
        return None


def complete(slots: npt.NDArray[Any], number: int) -> int:
    """How many records of a ring are complete, from the first one on, which has that number."""
    data, size = slots.view(np.uint8).data, slots.dtype.itemsize
    for index, check in enumerate(slots["check"].tolist()):
        if check != _checksum(data[index * size + 8 : (index + 1) * size], number + index):
            return index
    return len(slots)


def slot_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What a ring keeps of each record."""
    return np.dtype([("check", "u8"), ("record", dtype)])


class SharedMemory:
    """All the memory that one node and its control process share; ``with`` or :meth:`close` free it.

    :param descriptor: an inherited one, which this object then owns; otherwise see :meth:`create` and :meth:`observe`.
    :raises ControlProcessDied: another version of this package created it.
    """

    def __init__(self, descriptor: int, *, writable: bool = True) -> None:
        self.descriptor = descriptor
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        try:
            memory = memoryview(mmap.mmap(descriptor, _total(), access=access))
        except BaseException:
            self.close()
            raise
        self._words = memory[: 3 * _LINE].cast("Q")
        if self._words[0] != LAYOUT:
            self.close()
            raise ControlProcessDied("node and control process come from different versions of aiofranka_ros")
        position = 3 * _LINE
        self.commands = Block(memory[position:], COMMANDS)
        position += Block.needs(COMMANDS)
        self.motion = Block(memory[position:], MOTION)
        position += Block.needs(MOTION)
        self.chunk = Block(memory[position:], CHUNK)
        position += Block.needs(CHUNK)
        self.state = Block(memory[position:], STATE)
        position += Block.needs(STATE)
        self.robot_states = Ring(memory[position:], ROBOT_STATE, ROBOT_STATES)
        position += Ring.size(ROBOT_STATE, ROBOT_STATES)
        self.cycles = Ring(memory[position:], CYCLE_RECORD, RING_CAPACITY)

    @classmethod
    def create(cls) -> SharedMemory:
        """New memory, owned by the caller.

        :raises OSError: the system has no memory for it.
        """
        descriptor = os.memfd_create("aiofranka_ros")
        try:
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, _total())
            os.pwrite(descriptor, LAYOUT.to_bytes(8, sys.byteorder), 0)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    @classmethod
    def observe(cls, address: str) -> SharedMemory:
        """Open the memory read-only, in any process of the same user; ``address`` is the creator's :attr:`address`.

        :raises OSError: the process that created it is gone.
        """
        return cls(os.open(address, os.O_RDONLY | os.O_CLOEXEC), writable=False)

    @property
    def address(self) -> str:
        """Where other processes of this user find this memory while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def beat(self) -> None:
        """Send a heartbeat. Node only."""
        self._words[_LINE // 8] += 1

    @property
    def heartbeat(self) -> int:
        """Counts the node's heartbeats."""
        return self._words[_LINE // 8]

    def close(self) -> None:
        """Free the memory. It stays mapped until no array uses it any more."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> SharedMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _total() -> int:
    return (
        3 * _LINE
        + sum(map(Block.needs, (COMMANDS, MOTION, CHUNK, STATE)))
        + sum(Ring.size(dtype, count) for dtype, count in ((ROBOT_STATE, ROBOT_STATES), (CYCLE_RECORD, RING_CAPACITY)))
    )


def path_size(record: npt.NDArray[Any], segments: int) -> int:
    """How many bytes of a motion or chunk, an array of one, from its beginning, ``segments`` segments take."""
    coefficients = record["coefficients"]
    return record.nbytes - coefficients.nbytes + coefficients[0, :segments].nbytes


def fill_path(record: Record, number: int, start: float, times: Array, coefficients: Array) -> None:
    """Fill a motion or chunk: number, robot time of its start [s], knots [s] (n + 1,) and coefficients (n, 7, 6)."""
    record["id"], record["segments"], record["start"] = number, len(times) - 1, start
    record["times"][0, : len(times)] = times
    record["coefficients"][0, : len(coefficients)] = coefficients
