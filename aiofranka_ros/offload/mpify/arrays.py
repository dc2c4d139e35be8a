"""Objects between two processes over one socket; large arrays go through shared memory that is used again and again.

Both ends of an isolated object use it: ``remote_process`` in the process of the user, ``remote_worker`` in the child.
A :class:`Channel` sends from one thread and receives in one thread; :meth:`Channel.send_note` alone may be called from
any.

Pickling a camera image copies it into the pickle, through the socket and out again. Here a message is pickled without
its large buffers (pickle protocol 5). They are copied once, into a piece of anonymous memory (``memfd_create``) that
the receiver has mapped too, and what the receiver gets are arrays in that memory. It belongs to them until the last of
them is garbage collected; only then is the sender told, with the next message, that it may use it again. So nobody's
array changes under his hands. Whoever keeps more than :data:`LEASED_SLOTS` messages gets copies from then on, so that
memory and descriptors stay bounded.

Each message is one packet (``SOCK_SEQPACKET``): it arrives whole or not at all, and a new piece of memory travels with
the message that uses it first. What is too long for a packet is put into the memory as well.
"""

from __future__ import annotations

import copyreg
import io
import mmap
import os
import pickle
import socket
import struct
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from aiofranka_ros.errors import NotPicklable

#: Arrays of at least so many bytes go through shared memory, unless told otherwise.
THRESHOLD = 16 * 1024
#: Messages whose arrays a receiver may keep in shared memory; it gets copies of the arrays of further ones.
LEASED_SLOTS = 8
#: The same, in bytes.
LEASED_BYTES = 256 * 1024 * 1024

#: A longer pickle goes through shared memory too [bytes].
_INLINE_LIMIT = 32 * 1024
#: Longest packet [bytes]; a socket's buffer holds 208 KiB where nobody has changed that.
_PACKET_LIMIT = 128 * 1024
#: Buffers begin at multiples of this [bytes]: a cache line, and more than any dtype needs.
_ALIGNMENT = 64
#: How every packet begins: kind and number. A pickle follows, or, where the kind has the bit _EXTENDED, more header.
_HEADER = struct.Struct("<BQ")
_EXTENDED = 0x80
#: Flags, slot, buffers in it, slots released, slots retired, offset and length of the tail. Then come the numbers of
#: those slots, and then the tail (sizes of the buffers, pickle), unless that is in the slot too.
_EXTENSION = struct.Struct("<BIIIIQQ")
_COPY, _NEW_SLOT = 1, 2
_NO_SLOT = 0xFFFFFFFF
_ANCILLARY_SIZE = socket.CMSG_SPACE(struct.calcsize("i"))
# Plain integers: or-ing two flags of an enum takes longer than receiving.
_CLOSE_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
_DO_NOT_WAIT = int(socket.MSG_DONTWAIT)


#: Names of dtypes that take much less time to pickle than the dtypes themselves.
_CODES = {np.dtype(code): code for code in "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]}


def _restore(buffer: Any, dtype: Any, shape: tuple[int, ...], order: Any = "C") -> npt.NDArray[Any]:
    return np.ndarray(shape, dtype, buffer, 0, None, order)


class _Reducers(dict[type, Callable[[Any], Any]]):
    """How instances of some classes are pickled; of the others, what :mod:`copyreg` has been told."""

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        return copyreg.dispatch_table[kind]


class _Slot:
    """A piece of shared memory on the sender's side."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size
        #: To be handed to the receiver; -1 once it has it.
        self.descriptor = os.memfd_create("aiofranka_ros")
        try:
            os.fchmod(self.descriptor, 0o600)
            os.ftruncate(self.descriptor, size)
            self.memory = mmap.mmap(self.descriptor, size)
        except BaseException:
            self.announced()
            raise

    def announced(self) -> None:
        """The receiver has it: the mapping alone keeps the memory from now on."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class _Pool:
    """The sender's slots: free ones, and those that a message or a receiver's array still uses."""

    def __init__(self) -> None:
        self._free: list[_Slot] = []
        self._busy: dict[int, _Slot] = {}
        self._bytes = 0
        self._next = 0
        #: Slots that the receiver may forget, to be told with the next message.
        self.retired: list[int] = []

    def take(self, size: int) -> tuple[_Slot, bool]:
        """A slot of at least ``size`` bytes, and whether the receiver may keep arrays in it."""
        lend = len(self._busy) < LEASED_SLOTS and sum(slot.size for slot in self._busy.values()) + size <= LEASED_BYTES
        # The one that was used last is the one that the processor's caches know.
        for index in range(len(self._free) - 1, -1, -1):
            if self._free[index].size >= size:
                slot = self._free.pop(index)
                break
        else:
            if self._free:
                self._retire(self._free.pop(0))
            # Room for a message that is a little larger; pages that nobody touches cost nothing.
            slot = _Slot(self._next, max(mmap.PAGESIZE, 1 << (size - 1).bit_length()))
            self._next += 1
            self._bytes += slot.size
        self._busy[slot.number] = slot
        return slot, lend

    def give_back(self, number: int) -> None:
        slot = self._busy.pop(number)
        # One more than can be lent, from which the receiver copies.
        if len(self._free) + len(self._busy) > LEASED_SLOTS or self._bytes > 2 * LEASED_BYTES:
            self._retire(slot)
        else:
            self._free.append(slot)

    def close(self) -> None:
        for slot in (*self._free, *self._busy.values()):
            slot.announced()
        self._free.clear()
        self._busy.clear()

    def _retire(self, slot: _Slot) -> None:
        self._bytes -= slot.size
        if slot.descriptor < 0:
            self.retired.append(slot.number)
        slot.announced()


@dataclass
class _Mapping:
    """A piece of the other side's shared memory, and a reference to what keeps it leased."""

    memory: mmap.mmap
    lease: weakref.ref[Any] | None = None


@dataclass(frozen=True)
class _Placed:
    """A message in shared memory: its slot, how many buffers it has there, and where its tail is."""

    slot: _Slot
    flags: int
    buffers: int
    offset: int
    length: int
    #: The tail, where that is not in the slot.
    inline: bytes


#: An object that is ready to be sent: :meth:`Channel.send` or :meth:`Channel.discard` it.
Encoded: TypeAlias = "bytes | _Placed"


class Message:
    """What was received; to be loaded before the next message is.

    :ivar kind: as given to :meth:`Channel.send`.
    :ivar number: as given to :meth:`Channel.send`.
    """

    __slots__ = ("kind", "number", "_pickle", "_buffers")

    def __init__(
        self, kind: int, number: int, pickled: memoryview, buffers: list[npt.NDArray[np.uint8]] | None = None
    ) -> None:
        self.kind, self.number = kind, number
        self._pickle, self._buffers = pickled, buffers

    def load(self) -> Any:
        """The object; only once, because its arrays shall live no longer than it does.

        :raises Exception: whatever unpickling it raises.
        """
        buffers, self._buffers = self._buffers, None
        return pickle.loads(self._pickle) if buffers is None else pickle.loads(self._pickle, buffers=buffers)


class Channel:
    """One end of a connection between two processes.

    :param connection: one end of a ``SOCK_SEQPACKET`` socket pair, owned from now on.
    :param threshold: arrays of at least so many bytes travel through shared memory.
    """

    def __init__(self, connection: socket.socket, threshold: int = THRESHOLD) -> None:
        self._socket = connection
        self._threshold = threshold
        self._pool = _Pool()
        self._mappings: dict[int, _Mapping] = {}
        # Filled by whichever thread drops the last array of a slot, perhaps in the middle of anything: no lock here.
        self._released: deque[int] = deque()
        self._packet = memoryview(bytearray(_PACKET_LIMIT))
        self._reducers = _Reducers({np.ndarray: self._reduce})
        #: Buffers of the message being pickled that belong into shared memory, in the order of their places in it.
        self._sources: list[npt.NDArray[Any]] = []
        #: The array whose place in the pickle comes next.
        self._array: npt.NDArray[Any] | None = None
        self._file = io.BytesIO()
        self._pickler = self._new_pickler()

    def fileno(self) -> int:
        """The socket's descriptor; -1 once closed."""
        return self._socket.fileno()

    def encode(self, value: Any, what: str) -> Encoded:
        """Pickle ``value`` and copy its arrays: what happens to it afterwards does not change what is sent.

        :param what: how to call it in an error.
        :raises NotPicklable: it, or something in it, cannot be pickled.
        :raises OSError: the system has no memory or no descriptor left.
        """
        try:
            pickled, sources = self._pickle(value)
        except Exception as error:  # Whatever the object's own methods raise.
            raise NotPicklable(f"{what} cannot be pickled: {type(error).__name__}: {error}") from error
        if not sources and len(pickled) <= _INLINE_LIMIT:
            return pickled
        sizes = [source.nbytes for source in sources]
        tail = struct.pack(f"<{len(sizes)}Q", *sizes) + pickled
        offset = sum(map(_aligned, sizes))
        inline = len(tail) <= _INLINE_LIMIT
        slot, lend = self._pool.take(offset if inline else offset + len(tail))
        position = 0
        for source in sources:
            order: Any = "F" if source.flags.fnc else "C"
            np.copyto(np.ndarray(source.shape, source.dtype, slot.memory, position, order=order), source)
            position += _aligned(source.nbytes)
        if not inline:
            slot.memory[offset : offset + len(tail)] = tail
        return _Placed(slot, 0 if lend else _COPY, len(sizes), offset, len(tail), tail if inline else b"")

    def _pickle(self, value: Any) -> tuple[bytes, list[npt.NDArray[Any]]]:
        """``value``, and its buffers that belong into shared memory."""
        pickler, file = self._pickler, self._file
        sources: list[npt.NDArray[Any]] = []
        self._sources = sources
        try:
            pickler.dump(value)
            return file.getvalue(), sources
        except BaseException:
            self._pickler = self._new_pickler()  # That one stopped in the middle of something.
            raise
        finally:
            # Nothing of what was sent is kept: its arrays may be leased.
            file.seek(0)
            file.truncate()
            pickler.clear_memo()
            self._sources, self._array = [], None

    def _new_pickler(self) -> pickle.Pickler:
        pickler = pickle.Pickler(self._file, 5, buffer_callback=self._take)
        pickler.dispatch_table = self._reducers
        return pickler

    def _reduce(self, array: npt.NDArray[Any]) -> Any:
        """Numpy's own way takes twice as long for small arrays and leaves out only large ones that are contiguous."""
        dtype = array.dtype
        code: Any = _CODES.get(dtype)
        if code is None:
            if dtype.hasobject:
                return array.__reduce_ex__(5)
            code = dtype
        buffer: Any
        if array.nbytes < self._threshold:
            buffer = bytearray(array.tobytes("A"))  # No bytes: the receiver's array shall be writable.
        else:
            self._array = array
            buffer = pickle.PickleBuffer(bytearray())  # Holds its place.
        if array.flags.fnc:
            return _restore, (buffer, code, array.shape, "F")
        return _restore, (buffer, code, array.shape)

    def _take(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether ``buffer`` becomes a part of the pickle."""
        array, self._array = self._array, None
        if array is None:
            raw = buffer.raw()
            if raw.nbytes < self._threshold:
                return True
            array = np.frombuffer(raw, np.uint8)
        self._sources.append(array)
        return False

    def discard(self, encoded: Encoded) -> None:
        """Give up what was not sent."""
        if isinstance(encoded, _Placed):
            self._pool.give_back(encoded.slot.number)

    def send(self, kind: int, number: int, encoded: Encoded) -> None:
        """Send it; blocks only while the other side has very much to read.

        :param kind: 0 to 127, for the receiver.
        :param number: for the receiver, who tells by it which request an answer belongs to.
        :raises OSError: the other side is gone.
        """
        if type(encoded) is bytes and not self._released and not self._pool.retired:
            self._socket.send(_HEADER.pack(kind, number) + encoded)
            return
        released = [self._released.popleft() for _ in range(len(self._released))]
        retired, self._pool.retired = self._pool.retired, []
        slots = struct.pack(f"<{len(released) + len(retired)}I", *released, *retired)
        header = _HEADER.pack(kind | _EXTENDED, number)
        if not isinstance(encoded, _Placed):
            header += _EXTENSION.pack(0, _NO_SLOT, 0, len(released), len(retired), 0, len(encoded))
            self._socket.send(header + slots + encoded)
            return
        slot, flags = encoded.slot, encoded.flags
        new = slot.descriptor >= 0
        if new:
            flags |= _NEW_SLOT
        header += _EXTENSION.pack(
            flags, slot.number, encoded.buffers, len(released), len(retired), encoded.offset, encoded.length
        )
        packet = header + slots + encoded.inline
        if new:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", slot.descriptor))
            self._socket.sendmsg([packet], [rights])
            slot.announced()
        else:
            self._socket.send(packet)

    def send_note(self, kind: int, pickled: bytes) -> None:
        """Send a short pickle, from any thread, and from a fork of this process too.

        :raises OSError: the other side is gone.
        """
        self._socket.send(_HEADER.pack(kind, 0) + pickled)

    def receive(self, *, wait: bool = True) -> Message | None:
        """The next message.

        :param wait: for there being one.
        :returns: ``None`` where the other side has closed.
        :raises BlockingIOError: there is none, and it was not to be waited for.
        :raises OSError: this process has no descriptor left for the memory that came with it.
        """
        packet = self._packet
        flags = _CLOSE_ON_EXEC if wait else _CLOSE_ON_EXEC | _DO_NOT_WAIT
        try:
            size, ancillary, _, _ = self._socket.recvmsg_into([packet], _ANCILLARY_SIZE, flags)
        except ConnectionResetError:  # The other side went without having read everything.
            return None
        if size == 0:
            return None
        kind, number = _HEADER.unpack_from(packet)
        if kind < _EXTENDED:
            return Message(kind, number, packet[_HEADER.size : size])
        flags, slot, count, releases, retires, offset, length = _EXTENSION.unpack_from(packet, _HEADER.size)
        start = _HEADER.size + _EXTENSION.size
        slots = struct.unpack_from(f"<{releases + retires}I", packet, start)
        start += 4 * len(slots)
        for released in slots[:releases]:
            self._pool.give_back(released)
        for retired in slots[releases:]:
            del self._mappings[retired]
        if flags & _NEW_SLOT:
            self._mappings[slot] = _Mapping(_map(ancillary))
        inline = packet[start:size]
        if slot == _NO_SLOT:
            return Message(kind & ~_EXTENDED, number, inline)
        whole = self._lease(slot)
        # The pickle is copied, the arrays are not: it must not keep the slot.
        tail = inline if inline else memoryview(whole[offset : offset + length].tobytes())
        buffers, position = [], 0
        for size in struct.unpack_from(f"<{count}Q", tail):
            buffer = whole[position : position + size]
            buffers.append(buffer.copy() if flags & _COPY else buffer)
            position += _aligned(size)
        return Message(kind & ~_EXTENDED, number, tail[8 * count :], buffers)

    def _lease(self, slot: int) -> npt.NDArray[np.uint8]:
        """The memory of ``slot``, which is released when this array and all that look into it are gone."""
        mapping, released = self._mappings[slot], self._released
        whole = np.frombuffer(mapping.memory, np.uint8)
        mapping.lease = weakref.ref(whole, lambda _: released.append(slot))
        return whole

    def close(self) -> None:
        """Close; arrays that were received stay what they are."""
        self._socket.close()
        self._pool.close()
        self._mappings.clear()

    def shut_down(self) -> None:
        """Let the other side see the end, while this one still can read what it sends."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:  # It is gone already.
            pass


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _map(ancillary: list[tuple[int, int, bytes]]) -> mmap.mmap:
    descriptors = [struct.unpack_from("i", data)[0] for _, kind, data in ancillary if kind == socket.SCM_RIGHTS]
    if not descriptors:
        raise OSError("shared memory could not be received: has this process too many open files?")
    try:
        return mmap.mmap(descriptors[0], 0)
    finally:
        os.close(descriptors[0])
