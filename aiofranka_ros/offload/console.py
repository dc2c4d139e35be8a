"""Read a line of standard input without blocking the event loop: :func:`async_input`.

Scripts ask a person to press Enter while an arm is controlled. ``input()`` in a thread would do that, but such a call
can be neither cancelled nor interrupted: Ctrl-C has to wait for Enter, and a line typed after a timeout is lost. Here
the event loop itself watches the descriptor of standard input and everything runs in its thread, where that is
possible: for terminals, pipes and sockets. Files can't be watched but don't make anybody wait either, and objects that
replace ``sys.stdin`` have no descriptor: their ``readline()`` runs in a daemon thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import select
import stat
import sys
import threading
import weakref
from concurrent.futures import Future
from typing import TextIO

#: Bytes that one turn takes at most, so that a pipe full of data without a line's end does not hold up the loop.
_TURN = 1024
#: Of a terminal a read returns one line at most, whatever its size; this is the longest that Linux edits.
_TERMINAL_LINE = 4096


async def async_input(prompt: str = "") -> str:
    """Like ``input()``, without blocking the event loop: write ``prompt``, wait for a line, return it without its end.

    It can be cancelled, and Ctrl-C works while it waits. A cancelled call takes nothing: the line, also one of which a
    part has arrived, goes to the next call. Of several calls at a time each gets a line of its own, in the order of
    the calls, and shows its prompt when it is its turn.

    A terminal edits the line itself, with its own keys (backspace, Ctrl-U, Ctrl-D); there is no history. It is safe to
    use ``input()`` as well, one after the other: no more than the line is taken. The other way round has a limit: on a
    pipe, ``input()`` and ``sys.stdin`` read ahead, and lines that they have taken already are not seen here. Nothing
    else may watch standard input with ``loop.add_reader`` at the same time.

    Where ``sys.stdin`` is an object without a descriptor, the ``readline()`` of a cancelled call stays in its thread,
    and its line goes to the next call.

    :raises EOFError: standard input has ended; a terminal goes on after Ctrl-D.
    :raises RuntimeError: there is no standard input, as in ``input()``.
    :raises UnicodeDecodeError: the line is not in the encoding of ``sys.stdin``; it is gone.
    """
    stream = sys.stdin
    if stream is None:
        raise RuntimeError("async_input(): lost sys.stdin")
    async with _turn():
        if sys.stdout is not None:
            sys.stdout.write(str(prompt))
            sys.stdout.flush()
        return await _lines_of(stream).next()


_turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()


def _turn() -> asyncio.Lock:
    """The lock that gives the calls in this loop their turns, first come, first served."""
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())


class _WatchedLines:
    """Lines of a terminal, pipe or socket, read when the event loop says that there is something.

    The coroutine itself takes the bytes, after its last await: nothing that was taken can be lost to a cancellation.
    """

    def __init__(self, stream: TextIO, descriptor: int) -> None:
        self._descriptor = descriptor
        self._encoding = stream.encoding
        self._errors = stream.errors or "strict"
        # One byte at a time from a pipe, because what follows the line may be meant for another reader.
        self._chunk = _TERMINAL_LINE if os.isatty(descriptor) else 1
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._taken = bytearray()
        self._lock = threading.Lock()  # loops in other threads may read as well

    async def next(self) -> str:
        while (line := self._take()) is None:
            await self._readable()
        if not line:
            raise EOFError("end of standard input")
        return line.removesuffix(b"\n").removesuffix(b"\r").decode(self._encoding, self._errors)

    def _take(self) -> bytes | None:
        """A line with its end, the rest without one, nothing at the end of input; ``None`` while it is incomplete."""
        with self._lock:
            ended = False
            for _ in range(_TURN):
                if b"\n" in self._taken or ended:
                    size = self._taken.find(b"\n") + 1 or len(self._taken)
                    line = bytes(self._taken[:size])
                    del self._taken[:size]
                    return line
                if not self._poll.poll(0):
                    return None
                data = self._read()
                self._taken += data
                ended = not data
            return None

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, self._chunk)
        except OSError as error:
            if error.errno == errno.EIO:  # the terminal was closed
                return b""
            raise

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        loop.add_reader(self._descriptor, _settle, ready)
        try:
            await ready
        finally:
            loop.remove_reader(self._descriptor)


class _ReadLines:
    """Lines of anything else that has a ``readline()``, which a thread calls."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = weakref.ref(stream)  # what `_sources` keeps must not keep its key
        self._lock = threading.Lock()
        self._reading: Future[str] | None = None

    async def next(self) -> str:
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                if self._reading is None:
                    self._reading = self._start()
                reading = self._reading
            ready = loop.create_future()
            reading.add_done_callback(functools.partial(_wake, loop, ready))
            await ready
            with self._lock:
                if self._reading is not reading:
                    continue  # a loop in another thread was quicker
                self._reading = None
            line = reading.result()
            if not line:
                raise EOFError("end of standard input")
            return line.removesuffix("\n")

    def _start(self) -> Future[str]:
        reading: Future[str] = Future()
        stream = self._stream()

        def read() -> None:
            try:
                reading.set_result(stream.readline() if stream is not None else "")
            except BaseException as error:  # it belongs to who asked
                reading.set_exception(error)

        threading.Thread(target=read, name="async_input", daemon=True).start()
        return reading


_sources: weakref.WeakKeyDictionary[TextIO, _WatchedLines | _ReadLines] = weakref.WeakKeyDictionary()


def _lines_of(stream: TextIO) -> _WatchedLines | _ReadLines:
    """The reader of ``stream``, always the same: it may hold the beginning of a line."""
    source = _sources.get(stream)
    if source is None:
        try:
            descriptor = stream.fileno()
        except (AttributeError, OSError):  # io.UnsupportedOperation is an OSError
            source = _ReadLines(stream)
        else:
            mode = os.fstat(descriptor).st_mode
            watchable = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)
            source = _WatchedLines(stream, descriptor) if watchable else _ReadLines(stream)
        _sources[stream] = source
    return source


def _wake(loop: asyncio.AbstractEventLoop, ready: asyncio.Future[None], _: Future[str]) -> None:
    """From the thread that reads."""
    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
        loop.call_soon_threadsafe(_settle, ready)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
