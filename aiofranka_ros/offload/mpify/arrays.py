"""Objects between two processes over one socket; large arrays travel through shared memory.

Both ends of an isolated object use it: ``process`` in the user's process, ``worker`` in the child. A :class:`Channel`
sends and receives in one thread; only :meth:`Channel.send_note` may be called from any thread.

Pickling a camera image copies it into the pickle, through the socket and out again. Here a message is pickled without
its large buffers (pickle protocol 5). They are copied once, into anonymous memory (``memfd_create``) that the receiver
maps too, and the receiver's arrays are views of that memory. Each direction has :data:`SLOTS` pieces of memory, which
are reused. The two sides take turns, request and answer, and every message says which pieces its sender's arrays still
use; the other side does not write to those. So an array never changes while it is in use. A message that finds no free
slot, or is too large for one, travels in separate memory, from which the receiver copies: memory and mappings stay
bounded however many arrays are kept. Each message is one packet (``SOCK_SEQPACKET``), which arrives whole or not at
all. New memory travels with the message that first uses it.

Four camera images, there and back, take about 1 ms this way on a virtual machine with two cores, and about 20 ms
through a pipe: fresh pages are the expensive part (docs/architecture.md compares more methods).
"""

from __future__ import annotations

import array
import contextlib
import copyreg
import io
import mmap
import os
import pickle
import socket
import struct
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aiofranka_ros.errors import NotPicklable

#: Arrays of at least this size go through shared memory, unless told otherwise [bytes].
THRESHOLD = 16 * 1024
#: Messages whose arrays a receiver may keep in shared memory; arrays of further messages are copied.
SLOTS = 8
#: Larger messages are always copied [bytes].
_SLOT_LIMIT = 32 * 1024 * 1024
#: The number of a message's memory if it is in none of the slots.
_EXTRA, _NONE = SLOTS, SLOTS + 1

#: A longer pickle goes through shared memory too [bytes].
_INLINE_LIMIT = 32 * 1024
#: Longest packet [bytes]; a socket's buffer holds 208 KiB by default.
_PACKET_LIMIT = 128 * 1024
#: Buffers begin at multiples of this [bytes]: a cache line, and more than any dtype needs.
_ALIGNMENT = 64
#: How every packet begins: kind, number, bit mask of the receiver's slots that are in use here, slot of this message.
#: The pickle follows, or, if there is a slot, its contents.
_HEADER = struct.Struct("<BQBB")
#: Whether the slot's memory is new, number of buffers in it, offset and length of their sizes and the pickle, which
#: come after them.
_CONTENTS = struct.Struct("<?IQQ")
_ANCILLARY_SIZE = socket.CMSG_SPACE(array.array("i").itemsize)
# Plain integers: or-ing two flags of an enum takes longer than receiving.
_WAIT, _DO_NOT_WAIT = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)

#: Names of dtypes, which pickle much faster than the dtypes themselves.
_CODES = {np.dtype(code): code for code in "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]}
#: Marks, in a pickle, the place of an array that is in shared memory.
_PLACEHOLDER = pickle.PickleBuffer(bytearray())


def _restore(buffer: Any, dtype: Any, shape: tuple[int, ...], order: Any) -> npt.NDArray[Any]:
    return np.ndarray(shape, dtype, buffer, 0, None, order)


@dataclass(slots=True)
class Encoded:
    """A pickled message that still refers to the caller's large arrays."""

    pickled: bytes
    arrays: list[npt.NDArray[Any]]

    def keep(self) -> None:
        """Copy the arrays, because the message must wait and must not change until it is sent."""
        self.arrays = [source.copy(order="A") for source in self.arrays]


@dataclass(slots=True)
class Packed:
    """A message that is ready to be sent and independent of the caller's arrays."""

    content: bytes
    slot: int = _NONE
    #: Of memory that the receiver does not have yet.
    descriptor: int | None = None


@dataclass(slots=True)
class Message:
    """A received message, with its sender's arguments of :meth:`Channel.send`; load it before the next is received."""

    kind: int
    number: int
    pickled: memoryview
    buffers: list[npt.NDArray[np.uint8]]

    def load(self) -> Any:
        """The object; only once, because this message must not keep its arrays alive.

        :raises Exception: whatever unpickling it raises.
        """
        buffers, self.buffers = self.buffers, []
        return pickle.loads(self.pickled, buffers=buffers)


class Channel:
    """One end of a connection between two processes.

    :param connection: one end of a ``SOCK_SEQPACKET`` socket pair, owned from now on.
    :param threshold: arrays of at least this size travel through shared memory [bytes].
    """

    def __init__(self, connection: socket.socket, threshold: int = THRESHOLD) -> None:
        self._socket = connection
        self._threshold = threshold
        #: Memory that this end writes to, and a bit mask of the slots that the other end still uses.
        self._slots: list[mmap.mmap | None] = [None] * SLOTS
        self._busy = 0
        #: Memory that the other end writes to, and the array in each slot whose views the user may hold.
        self._mapped: dict[int, mmap.mmap] = {}
        self._views: dict[int, weakref.ref[Any]] = {}
        self._packet = memoryview(bytearray(_PACKET_LIMIT))
        #: Large arrays of the message that is being pickled, in the order of their placeholders.
        self._arrays: list[npt.NDArray[Any]] = []
        self._file = io.BytesIO()
        self._pickler = pickle.Pickler(self._file, 5, buffer_callback=self._is_inline)

    def fileno(self) -> int:
        """The socket's descriptor; -1 once closed."""
        return self._socket.fileno()

    def encode(self, value: Any, what: str) -> Encoded:
        """Pickle ``value``, except for its large arrays.

        :param what: its name, for errors.
        :raises NotPicklable: it, or something in it, cannot be pickled.
        """
        self._pickler.dispatch_table = copyreg.dispatch_table | {np.ndarray: self._reduce}
        try:
            self._pickler.dump(value)
            return Encoded(self._file.getvalue(), self._arrays)
        except Exception as error:  # Anything that the object's own methods raise.
            raise NotPicklable(f"{what} cannot be pickled: {type(error).__name__}: {error}") from error
        finally:  # The channel keeps no arrays: they may be in the other end's memory, and would keep it in use.
            self._file.seek(0)
            self._file.truncate()
            self._pickler.clear_memo()
            self._arrays = []

    def _reduce(self, source: npt.NDArray[Any]) -> Any:
        """Numpy's own way takes twice as long for small arrays, and leaves out contiguous arrays only."""
        if source.dtype.hasobject:
            return source.__reduce_ex__(5)
        buffer: Any = _PLACEHOLDER
        if source.nbytes < self._threshold:
            buffer = bytearray(source.tobytes("A"))  # Not bytes: the receiver's array must be writable.
        else:
            self._arrays.append(source)
        code = _CODES.get(source.dtype, source.dtype)
        return _restore, (buffer, code, source.shape, "F" if source.flags.fnc else "C")

    def _is_inline(self, buffer: pickle.PickleBuffer) -> bool:
        if buffer is _PLACEHOLDER:
            return False
        raw = buffer.raw()
        if raw.nbytes < self._threshold:
            return True
        self._arrays.append(np.frombuffer(raw, np.uint8))
        return False

    def pack(self, message: Encoded) -> Packed:
        """Copy the large arrays of ``message`` into shared memory; the next thing to do is to send it.

        :raises OSError: the system has no memory or no descriptor left.
        """
        if not message.arrays and len(message.pickled) <= _INLINE_LIMIT:
            return Packed(message.pickled)
        sizes = [source.nbytes for source in message.arrays]
        tail = struct.pack(f"<{len(sizes)}Q", *sizes) + message.pickled
        offset = sum(map(_aligned, sizes))
        slot, memory, descriptor = self._memory(offset + len(tail))
        position = 0
        for source in message.arrays:
            order: Any = "F" if source.flags.fnc else "C"
            np.copyto(np.ndarray(source.shape, source.dtype, memory, position, order=order), source)
            position += _aligned(source.nbytes)
        memory[offset : offset + len(tail)] = tail
        return Packed(_CONTENTS.pack(descriptor is not None, len(sizes), offset, len(tail)), slot, descriptor)

    def _memory(self, size: int) -> tuple[int, mmap.mmap, int | None]:
        """Shared memory of at least ``size`` bytes: its slot, and its descriptor if the other end does not have it."""
        if size > _SLOT_LIMIT:
            return (_EXTRA, *new_memory(size))
        free = [slot for slot in range(SLOTS) if not self._busy >> slot & 1]
        for slot in free:
            memory = self._slots[slot]
            if memory is not None and len(memory) >= size:
                return slot, memory, None
        # Leave room for slightly larger messages; pages that are never touched cost nothing.
        memory, descriptor = new_memory(max(mmap.PAGESIZE, 1 << (size - 1).bit_length()))
        if not free:
            return _EXTRA, memory, descriptor
        self._slots[free[0]] = memory
        return free[0], memory, descriptor

    def send(self, kind: int, number: int, message: Packed) -> None:
        """Send ``message``; blocks only while the other side has a lot to read.

        :param kind: for the receiver.
        :param number: for the receiver, which answers with the same one; more than 0.
        :raises OSError: the other side is gone.
        """
        in_use = 0
        for slot, view in self._views.items():
            if view() is not None:
                in_use |= 1 << slot
        packet = _HEADER.pack(kind, number, in_use, message.slot) + message.content
        if message.slot < SLOTS:
            self._busy |= 1 << message.slot
        try:
            if message.descriptor is None:
                self._socket.send(packet)
            else:
                socket.send_fds(self._socket, [packet], [message.descriptor])
        except BaseException:
            if message.slot < SLOTS:
                self._slots[message.slot] = None  # The other end may not have this memory.
            raise
        finally:
            if message.descriptor is not None:
                os.close(message.descriptor)

    def send_note(self, kind: int, pickled: bytes) -> None:
        """Send a short pickle outside of the turns, from any thread, and from a fork of this process too.

        :raises OSError: the other side is gone.
        """
        self._socket.send(_HEADER.pack(kind, 0, 0, _NONE) + pickled)

    def receive(self, *, wait: bool = True) -> Message | None:
        """The next message.

        :param wait: wait until there is one.
        :returns: ``None`` if the other side has closed.
        :raises BlockingIOError: there is none, and ``wait`` is false.
        :raises OSError: this process has no descriptor left for the memory that came with the message.
        """
        packet = self._packet
        flags = _WAIT if wait else _DO_NOT_WAIT
        try:
            size, ancillary, _, _ = self._socket.recvmsg_into([packet], _ANCILLARY_SIZE, flags)
        except ConnectionResetError:  # The other side closed without reading everything.
            return None
        if size == 0:
            return None
        kind, number, busy, slot = _HEADER.unpack_from(packet)
        if number:
            self._busy = busy  # The other side had received everything sent from here when it wrote this.
        if slot == _NONE:
            return Message(kind, number, packet[_HEADER.size : size], [])
        new, count, offset, length = _CONTENTS.unpack_from(packet, _HEADER.size)
        if new:
            self._mapped[slot] = _map(ancillary)
        whole = np.frombuffer(self._mapped[slot], np.uint8)
        if slot == _EXTRA:
            del self._mapped[slot]
        else:
            self._views[slot] = weakref.ref(whole)
        # Copied: the pickle alone must not keep the slot in use.
        tail = memoryview(whole[offset : offset + length].tobytes())
        buffers, position = [], 0
        for nbytes in struct.unpack_from(f"<{count}Q", tail):
            buffer = whole[position : position + nbytes]
            buffers.append(buffer.copy() if slot == _EXTRA else buffer)
            position += _aligned(nbytes)
        return Message(kind, number, tail[8 * count :], buffers)

    def close(self) -> None:
        """Close; arrays that were received stay valid."""
        self._socket.close()
        self._slots = [None] * SLOTS
        self._mapped.clear()

    def shut_down(self) -> None:
        """Signal the end to the other side; what it still sends can be received."""
        with contextlib.suppress(OSError):  # It is gone already.
            self._socket.shutdown(socket.SHUT_WR)


def new_memory(size: int) -> tuple[mmap.mmap, int]:
    """Anonymous shared memory of ``size`` bytes for this user alone, and its descriptor."""
    descriptor = os.memfd_create("aiofranka_ros")
    try:
        os.fchmod(descriptor, 0o600)
        os.ftruncate(descriptor, size)
        return mmap.mmap(descriptor, size), descriptor
    except BaseException:
        os.close(descriptor)
        raise


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _map(ancillary: list[tuple[int, int, bytes]]) -> mmap.mmap:
    if not ancillary:
        raise OSError("shared memory could not be received: has this process too many open files?")
    descriptor = array.array("i", ancillary[0][2])[0]
    try:
        return mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)
