"""The memory that node and control process share: who writes what, and why no reader ever sees half of a record.

Used by both processes, and by observers such as the demo and the bench; nothing here waits.

The memory is anonymous (``memfd_create``): it has no name that could collide or be left behind, only processes of the
same user can open it, and it is freed with the last process that has it. The node creates it and passes its descriptor
to the control process; an observer attaches through ``/proc`` while the node lives.

Each :class:`Block` has one writer and any number of readers. A reader that comes during a write keeps its old record.
The writer makes the block's sequence number odd, writes, and makes it even again (a seqlock). Python cannot order the
stores and loads of different processors, so the sequence number alone would prove nothing on ARM. Therefore the payload
also has a CRC-32, and a reader accepts it only if the CRC matches.

A :class:`Ring` keeps the last records of one kind, e.g. of the control cycles. A reader that falls behind by more than
its capacity learns how many it missed.
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

from aiofranka_ros.control.records import COMMANDS, CYCLE_RECORD, LAYOUT, MAX_SEGMENTS, MOTION, ROBOT_STATE, STATE
from aiofranka_ros.errors import ControlProcessDied
from aiofranka_ros.kernels import Array, Record

#: Cycles that the ring keeps: 16 s.
RING_CAPACITY = 16384
#: Full robot states that are kept for a node that is late.
ROBOT_STATES = 64
#: Bytes between the writers' words, so that they do not share a cache line.
_LINE = 64


class Block:
    """One record with one writer; readers see all of it or nothing. ``memory``: :meth:`size` bytes, aligned to 64."""

    def __init__(self, memory: memoryview, dtype: np.dtype[Any]) -> None:
        self._head = memory[:_LINE].cast("Q")
        self._payload = memory[_LINE : _LINE + dtype.itemsize]

    @staticmethod
    def size(dtype: np.dtype[Any]) -> int:
        """Bytes that a block of ``dtype`` needs."""
        return _LINE + -(-dtype.itemsize // _LINE) * _LINE

    @property
    def version(self) -> int:
        """Changes with every write; odd during one."""
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
        check = zlib.crc32(data)
        version = head[0]
        head[0] = version + 1
        payload[:] = data
        head[1] = len(data)
        head[2] = check
        head[0] = version + 2

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
        return head[0] == version and zlib.crc32(data) == check


class Ring:
    """The last ``capacity`` records of one writer, for many readers. ``memory``: :meth:`size` bytes, aligned to 64."""

    def __init__(self, memory: memoryview, dtype: np.dtype[Any], capacity: int) -> None:
        self._count = memory[:8].cast("Q")
        self._capacity = capacity
        self._bytes = memory[_LINE : _LINE + capacity * dtype.itemsize]
        self.records = np.frombuffer(self._bytes, dtype)

    @staticmethod
    def size(dtype: np.dtype[Any], capacity: int) -> int:
        """Bytes that a ring needs."""
        return _LINE + -(-capacity * dtype.itemsize // _LINE) * _LINE

    @property
    def count(self) -> int:
        """Records published since the memory was made."""
        return self._count[0]

    def append(self, record: memoryview) -> None:
        """Publish a record, given as its bytes. Writer only."""
        count = self._count[0]
        begin = count % self._capacity * len(record)
        self._bytes[begin : begin + len(record)] = record
        self._count[0] = count + 1

    def since(self, position: int) -> tuple[npt.NDArray[Any], int, int]:
        """Copies of the records after the first ``position`` ones.

        :returns: the records, the position to ask for next, and how many were overwritten before they could be read.
        """
        count = self.count
        first = max(position, count - self._capacity + 1)
        begin, end = first % self._capacity, count % self._capacity
        if begin <= end:
            copies = self.records[begin:end].copy()
        else:
            copies = np.concatenate((self.records[begin:], self.records[:end]))
        # Drop what may have been overwritten during the copy.
        intact = max(first, self.count - self._capacity + 1)
        return copies[intact - first :], count, intact - position

    def at(self, time: int) -> Record | None:
        """A copy of the cycle nearest to ``time`` [ns, system clock]; ``None`` if there is none."""
        count, stamps = self.count, self.records["stamp"]
        oldest = max(0, count - self._capacity + 1)

        def written(index: int) -> int:
            return int(stamps[index % self._capacity])

        after = oldest + bisect.bisect_left(range(oldest, count), time, key=written)
        around = range(max(oldest, after - 1), min(after + 1, count))
        if not around:
            return None
        nearest = min(around, key=lambda index: abs(written(index) - time))
        record = self.records[nearest % self._capacity].copy()
        # The oldest one may have been overwritten during the search.
        return record if nearest > self.count - self._capacity else None


class SharedMemory:
    """All the memory that one node and its control process share; ``with`` or :meth:`close` free it.

    :param descriptor: an inherited one, which this object then owns; otherwise see :meth:`create` and :meth:`observe`.
    :raises ControlProcessDied: another version of this package created it.
    """

    def __init__(self, descriptor: int, *, writable: bool = True) -> None:
        self.descriptor = descriptor
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        memory = memoryview(mmap.mmap(descriptor, _total(), access=access))
        self._words = memory[: 3 * _LINE].cast("Q")
        if self._words[0] != LAYOUT:
            self.close()
            raise ControlProcessDied("node and control process come from different versions of aiofranka_ros")
        position = 3 * _LINE
        self.commands = Block(memory[position:], COMMANDS)
        position += Block.size(COMMANDS)
        self.motion = Block(memory[position:], MOTION)
        position += Block.size(MOTION)
        self.state = Block(memory[position:], STATE)
        position += Block.size(STATE)
        self.robot_states = Ring(memory[position:], ROBOT_STATE, ROBOT_STATES)
        position += Ring.size(ROBOT_STATE, ROBOT_STATES)
        self.cycles = Ring(memory[position:], CYCLE_RECORD, RING_CAPACITY)

    @classmethod
    def create(cls) -> SharedMemory:
        """New memory, owned by the caller.

        :raises OSError: the system has no memory for it.
        """
        descriptor = os.memfd_create("aiofranka_ros")
        os.fchmod(descriptor, 0o600)
        os.ftruncate(descriptor, _total())
        os.pwrite(descriptor, LAYOUT.to_bytes(8, sys.byteorder), 0)
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
        + sum(map(Block.size, (COMMANDS, MOTION, STATE)))
        + sum(Ring.size(dtype, count) for dtype, count in ((ROBOT_STATE, ROBOT_STATES), (CYCLE_RECORD, RING_CAPACITY)))
    )


def motion_size(segments: int) -> int:
    """How many bytes of a motion record, from its beginning, ``segments`` segments take."""
    return MOTION.itemsize - (MAX_SEGMENTS - segments) * 7 * 6 * 8


def fill_motion(record: Record, number: int, start: float, times: Array, coefficients: Array) -> None:
    """Fill a motion record: number, robot time of the beginning [s], knots [s] (n + 1,) and coefficients (n, 7, 6)."""
    record["id"], record["segments"], record["start"] = number, len(times) - 1, start
    record["times"][0, : len(times)] = times
    record["coefficients"][0, : len(coefficients)] = coefficients
