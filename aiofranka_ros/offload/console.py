"""Read a line of standard input without blocking the event loop: :func:`async_input`.

Scripts ask a person to press Enter while they control an arm. ``input()`` in a thread would do that, but it can be
neither cancelled nor interrupted: Ctrl-C has to wait for Enter, and a line typed after a timeout is lost. Here the
event loop watches the descriptor of a terminal, pipe or socket, and everything runs in the loop's thread. Files cannot
be watched, and objects that replace ``sys.stdin`` have no descriptor: their ``readline()`` runs in a daemon thread.
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

#: Bytes read at most in one turn of the loop, so that a pipe full of data without a line end does not block it.
_TURN = 1024
#: A read from a terminal returns at most one line, whatever its size; this is the longest line that Linux edits.
_TERMINAL_LINE = 4096


async def async_input(prompt: str = "") -> str:
    """Like ``input()``, without blocking the event loop: write ``prompt``, wait for a line, return it without its end.

    It can be cancelled, and Ctrl-C works while it waits. A cancelled call takes nothing: the line goes to the next
    call, even if part of it has arrived. Concurrent calls each get a line, in order, and show their prompts when it is
    their turn.

    A terminal edits the line itself, with its own keys (backspace, Ctrl-U, Ctrl-D); there is no history. ``input()``
    may be used after this, because nothing beyond the line is read. The reverse has a limit: on a pipe, ``input()`` and
    ``sys.stdin`` read ahead, and lines that they have read already are not seen here. Nothing else may watch standard
    input with ``loop.add_reader`` at the same time.

    If ``sys.stdin`` is an object without a descriptor, the ``readline()`` of a cancelled call continues in its thread,
    and its line goes to the next call.

    :raises EOFError: standard input has ended; on a terminal further calls work after Ctrl-D.
    :raises RuntimeError: there is no standard input, as in ``input()``.
    :raises UnicodeDecodeError: the line is not in the encoding of ``sys.stdin``; it is lost.
    """
    stream = sys.stdin
    if stream is None:
        raise RuntimeError("async_input(): lost sys.stdin")
    async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        if sys.stdout is not None:
            sys.stdout.write(str(prompt))
            sys.stdout.flush()
        with _making:
            lines = _lines_of(stream)
        return await lines.next()


#: Loops in several threads share one reader: a cached function alone may be called in each of them.
_making = threading.Lock()
#: The lock that gives the calls in each loop their turns, in order.
_turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()


class _WatchedLines:
    """Lines of a terminal, pipe or socket, read when the event loop finds it readable.

    The coroutine reads the bytes itself, after its last await, so a cancellation loses nothing.
    """

    def __init__(self, stream: TextIO, descriptor: int) -> None:
        self._descriptor = descriptor
        self._encoding = stream.encoding
        self._errors = stream.errors or "strict"
        # One byte at a time from a pipe, because the data after the line may be meant for another reader.
        self._chunk = _TERMINAL_LINE if os.isatty(descriptor) else 1
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._taken = bytearray()
        self._lock = threading.Lock()  # loops in other threads may read too

    async def next(self) -> str:
        while (line := self._take()) is None:
            await self._readable()
        if not line:
            raise EOFError("end of standard input")
        return line.removesuffix(b"\n").removesuffix(b"\r").decode(self._encoding, self._errors)

    def _take(self) -> bytes | None:
        """A line with its end, or at the end of input the rest; ``None`` if the line is incomplete."""
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
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._descriptor)


class _ReadLines:
    """Lines of anything else that has a ``readline()``, which a thread calls; for one event loop at a time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._reading: Future[str] | None = None

    async def next(self) -> str:
        if self._reading is None:
            self._reading = Future()
            self._reading.set_running_or_notify_cancel()  # a cancelled call does not cancel it
            threading.Thread(target=self._read, args=(self._reading,), name="async_input", daemon=True).start()
        reading = self._reading
        with contextlib.suppress(Exception):
            await asyncio.wrap_future(reading)
        self._reading = None
        line = reading.result()
        if not line:
            raise EOFError("end of standard input")
        return line.removesuffix("\n")

    def _read(self, reading: Future[str]) -> None:
        try:
            reading.set_result(self._stream.readline())
        except BaseException as error:  # any error belongs to the caller
            reading.set_exception(error)


@functools.lru_cache(maxsize=1)
def _lines_of(stream: TextIO) -> _WatchedLines | _ReadLines:
    """The reader of ``stream``; the same one as last time, because it may hold the start of a line."""
    try:
        descriptor = stream.fileno()
    except (AttributeError, OSError):  # io.UnsupportedOperation is an OSError
        return _ReadLines(stream)
    mode = os.fstat(descriptor).st_mode
    watchable = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)
    return _WatchedLines(stream, descriptor) if watchable else _ReadLines(stream)
