"""Notice when the event loop was blocked, and report for how long and at which line: :func:`guard`.

A blocked loop does not endanger the arm, whose 1 kHz loop runs in a separate process, but it makes targets late. A
``FrankaController`` runs a guard from ``start()`` to ``stop()``; scripts may use one directly. It needs neither ROS nor
libfranka.

A timer in the loop beats twice per threshold and notices when it was late. A daemon thread wakes about as often, looks
at the loop's stack while a beat is overdue, and writes the log. Together they use about 1 % of a core. asyncio's debug
mode also reports slow callbacks, but names the line where the task waits next rather than the one that blocked, and
makes each turn of the loop 20 times as slow (246 instead of 12 us). Limits of the guard:

- A block begins between two beats: durations are right to within a quarter of the threshold.
- While a C call keeps the GIL, no other thread can look. The place is then where the loop is seen when the GIL becomes
  free, usually in the same function, and the message says so.
- If no code of the loop was seen running and the process used almost no processor time, the process was stopped
  (Ctrl-Z) or the computer is overloaded. That is logged for debugging only, and not counted. Time at a prompt of
  ``pdb`` does not count either.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from aiofranka_ros.errors import ConfigurationError
from aiofranka_ros.offload.stack import Place, running_in, to_blame

__all__ = ["Guard", "blocking_ok", "guard"]

#: Blocks of at least this duration are reported [s], unless the caller says otherwise.
THRESHOLD = 0.05
#: A block that lasts is reported after this time [s], and then at this interval.
_LONG, _STILL = 1.0, 10.0
#: The same place is reported at most once in this time [s]; the next message sums up the rest.
_QUIET = 5.0
#: A process that uses less than this share of one processor stands still.
_STANDSTILL = 0.2
_HINT = "await it through asyncify, CudaInferenceThread or mpify, or mark it with blocking_ok()"

_logger = logging.getLogger(__name__)


class Guard:
    """Watches one event loop from :meth:`start` to :meth:`stop`; ``with`` and ``async with`` do both.

    Any number of guards may watch the same loop. Each counts for itself; guards with the same logger log a block once.

    :param loop: the loop; ``None``: the running one.
    :param threshold: the shortest block that counts [s]; blocks within a quarter of it may or may not be noticed.
    :param log: where warnings go; ``None``: the logger of this module.
    :ivar blocks: number of blocks since the guard was made.
    :ivar longest: the longest block [s].
    :ivar total: all blocks together [s].
    :raises ConfigurationError: the threshold is below 5 ms, which the operating system alone may take.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        threshold: float = THRESHOLD,
        log: logging.Logger | None = None,
    ) -> None:
        if not threshold >= 0.005:
            raise ConfigurationError(f"a threshold of {threshold} s is too small: the minimum is 0.005 s")
        self.threshold = threshold
        self.log = _logger if log is None else log
        self.blocks = 0
        self.longest = 0.0
        self.total = 0.0
        self._loop = loop
        self._watch: _Watch | None = None

    @property
    def running(self) -> bool:
        """Whether it watches."""
        return self._watch is not None

    def start(self) -> None:
        """Begin to watch; does nothing if it already does. From any thread if the loop was given.

        :raises RuntimeError: no loop was given, and none is running in this thread.
        """
        if self._watch is None:
            self._watch = _Watch(self, self._loop or asyncio.get_running_loop())

    def stop(self) -> None:
        """Stop watching, and report a block that lasts until now. Idempotent; from any thread."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()

    def __enter__(self) -> Guard:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Guard:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.stop()


def guard(threshold: float = THRESHOLD, log: logging.Logger | None = None) -> Guard:
    """A :class:`Guard` for the running event loop: ``with guard():`` inside a coroutine.

    :param threshold: the shortest block that counts [s].
    :param log: where warnings go; ``None``: the logger of this module.
    :raises ConfigurationError: the threshold is below 5 ms.
    """
    return Guard(threshold=threshold, log=log)


@contextlib.contextmanager
def blocking_ok(reason: str = "") -> Iterator[None]:
    """Mark a deliberate block: guards of the loop that runs in this thread neither log nor count it.

    Meant for code without ``await``: what other tasks do during an ``await`` is excused as well. Also a decorator of
    functions. Does nothing if no loop runs or no guard watches it.

    :param reason: why it is fine, for the reader and for the debug log.
    """
    watches = [watch for watch in _watches if watch.loop is asyncio._get_running_loop()]
    for watch in watches:
        watch.excuse()
    begin = time.perf_counter()
    try:
        yield
    finally:
        for watch in watches:
            watch.resume()
        if watches:
            _logger.debug("the event loop was held for %.3f s on purpose: %s", time.perf_counter() - begin, reason)


class _Block:
    """The time from one beat of the loop to the next, which turns out to be a block if that comes late.

    The loop's thread measures it; the watch's thread adds what it sees.

    :ivar busy: processor time of the process until the first beat, once it has ended between the two beats [s].
    :ivar collecting: the same for the time spent in garbage collection [s].
    :ivar late: how long the watch's thread was kept from looking [s].
    """

    def __init__(self, begin: float, busy: float, collecting: float) -> None:
        self.begin, self.busy, self.collecting = begin, busy, collecting
        self.seconds = 0.0
        self.late = 0.0
        self.places: list[Place] = []
        self.next_report = _LONG
        self.in_debugger = False

    def end(self, seconds: float, busy: float, collecting: float) -> None:
        """The next beat has come; ``seconds``: the estimated duration, the others: the clocks at this beat."""
        self.seconds, self.busy, self.collecting = seconds, busy - self.busy, collecting - self.collecting

    @property
    def place(self) -> Place | None:
        """Where the loop was seen most often."""
        return max(self.places, key=self.places.count, default=None)

    @property
    def is_standstill(self) -> bool:
        """Whether nothing kept the loop from running but the operating system."""
        return self.place is None and max(self.busy, self.collecting) < _STANDSTILL * self.seconds

    def __str__(self) -> str:
        text, place = f"the event loop was blocked for {self.seconds:.2f} s", self.place
        if self.collecting >= self.seconds / 2:
            during = f" during {place}" if place else ""
            text += f" by garbage collection ({self.collecting:.2f} s of it){during}; "
            return text + "gc.freeze() after loading excludes all objects that exist then"
        if place is None:
            return text + " while none of its code was seen running: another thread or a C call kept the GIL"
        if self.late >= self.seconds / 2:
            text += ", like all Python code, by a C call that keeps the GIL or because the process was stopped; "
            return text + f"seen right after: {place}"
        return text + f" at {place}; {_HINT}"


class _Watch:
    """The timer in the loop and the thread next to it, from the guard's start to its stop.

    ``_beat``, ``excuse`` and ``resume`` run in the loop's thread, ``_run`` and ``_look`` in the watch's own.
    """

    def __init__(self, guard: Guard, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.guard = guard
        self._threshold = guard.threshold
        self._thread_of_loop = 0
        self._block: _Block | None = None  # the current one; None: the loop isn't running
        self._ended: deque[_Block] = deque()
        self._excused = 0
        self._collecting = 0.0  # in all [s]
        self._collection_began: float | None = None
        self._reported: dict[tuple[str, str] | None, float] = {}  # when each place was reported last
        self._unreported: list[float] = []  # durations of the blocks since the last message
        self._reporting = threading.RLock()
        self._stopped = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loop-guard", daemon=True)
        _watches.append(self)
        gc.callbacks.append(self._note_collection)
        self._thread.start()
        if asyncio._get_running_loop() is loop:
            self._beat()
        else:
            loop.call_soon_threadsafe(self._beat)

    def stop(self) -> None:
        """Report all blocks until now, including one by the caller that still lasts, and end."""
        if threading.get_ident() == self._thread_of_loop:
            self._judge()
        self._flush()
        self._end()
        self._wake.set()
        self._thread.join()
        if self._unreported:
            times, seconds = len(self._unreported), sum(self._unreported)
            self._warn(f"the event loop was blocked {times} more times at the reported places, {seconds:.2f} s in all")

    def _end(self) -> None:
        self._stopped = True
        with contextlib.suppress(ValueError):  # it has ended already
            _watches.remove(self)
            gc.callbacks.remove(self._note_collection)

    # In the loop's thread.

    def _beat(self) -> None:
        if not self._stopped:
            self._thread_of_loop = threading.get_ident()
            self._judge()
            self.loop.call_later(self._threshold / 2, self._beat)

    def _judge(self) -> None:
        """The loop is free, or about to do something else: was it blocked since the last beat?"""
        block, now, clocks = self._block, time.perf_counter(), (time.process_time(), self._collecting)
        if block is not None and not self._excused:
            seconds = now - block.begin - self._threshold / 4  # it began between that beat and the next
            if seconds >= self._threshold:
                block.end(seconds, *clocks)
                self._ended.append(block)
                self._wake.set()
        self._block = _Block(now, *clocks)

    def excuse(self) -> None:
        """A deliberate block begins."""
        self._judge()
        self._excused += 1

    def resume(self) -> None:
        """A deliberate block ends."""
        self._judge()
        self._excused -= 1

    def _note_collection(self, phase: str, info: dict[str, Any]) -> None:
        """Hook of the garbage collector, in the thread that runs it; all others wait."""
        now = time.perf_counter()
        if phase == "start":
            self._collection_began = now
        elif self._collection_began is not None:
            self._collecting += now - self._collection_began

    # In the watch's own thread.

    def _run(self) -> None:
        timeout = self._threshold / 2
        while not self._stopped:
            expected = time.perf_counter() + timeout
            self._wake.wait(timeout)
            self._wake.clear()
            now = time.perf_counter()
            if self.loop.is_closed():
                self._end()
            elif not self.loop.is_running():
                self._block = None
            self._flush()
            timeout = self._look(now, late=max(0.0, now - expected))

    def _look(self, now: float, late: float) -> float:
        """Look at the loop's stack if a beat is overdue; returns how long to wait until the next look [s]."""
        block = self._block
        if block is None or self._excused:
            return self._threshold
        held = now - block.begin
        if held < self._threshold:
            return max(self._threshold - held, 0.001)
        stack = running_in(self._thread_of_loop)
        with self._reporting:
            if self._block is not block:
                return self._threshold  # it has ended: the stack may show something else
            block.late += late
            if any(place.is_debugger for place in stack):
                block.in_debugger = True
            elif stack:
                block.places.append(to_blame(stack))
            seconds = held - self._threshold / 4
            if seconds >= block.next_report and block.places and not block.in_debugger:
                text = f"the event loop has been blocked for {seconds:.1f} s so far at {block.place}; {_HINT}"
                self._warn(text)
                block.next_report = seconds + _STILL
        return max(self._threshold / 2, min(held / 4, 0.5))

    # In either, and in any thread that stops a guard.

    def _flush(self) -> None:
        """Report the blocks that have ended."""
        with self._reporting:
            while self._ended:
                self._report(self._ended.popleft())

    def _report(self, block: _Block) -> None:
        if block.in_debugger:
            return
        if block.is_standstill:
            _logger.debug("the process stood still for %.2f s: it was stopped, or got no processor", block.seconds)
            return
        self.guard.blocks += 1
        self.guard.longest = max(self.guard.longest, block.seconds)
        self.guard.total += block.seconds
        text = str(block)
        if block.next_report == _LONG:  # not reported while it lasted
            now = time.perf_counter()
            key = None if block.place is None else (block.place.file, block.place.function)
            if now - self._reported.get(key, -math.inf) < _QUIET:
                self._unreported.append(block.seconds)
                return
            self._reported[key] = now
        if self._unreported:
            seconds = sum(self._unreported)
            text += f" ({len(self._unreported)} more blocks since the last message, {seconds:.2f} s in all)"
            self._unreported.clear()
        self._warn(text)

    def _warn(self, text: str) -> None:
        """Log, unless a more sensitive guard of the same loop and logger does."""
        log = self.guard.log
        watches = [watch for watch in _watches if watch.loop is self.loop and watch.guard.log is log]
        if min(watches, key=lambda watch: watch.guard.threshold, default=self) is self:
            log.warning(text)


#: Of all guards that run.
_watches: list[_Watch] = []
