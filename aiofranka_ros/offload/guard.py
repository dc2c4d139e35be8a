"""Notice when the event loop was blocked, and report for how long and at which line: :func:`guard`.

A blocked loop does not endanger the arm, whose 1 kHz loop runs in a separate process, but it makes targets late. A
``FrankaController`` runs a guard from ``start()`` to ``stop()``; scripts may use one directly.

A timer in the loop beats twice per threshold. A daemon thread wakes about as often, looks at the loop's stack while a
beat is overdue, and counts and logs the blocks. Together they use about 1 % of a core. Durations are right to within a
quarter of the threshold, because a block begins between two beats. Garbage collection is measured by a hook of the
collector. While a C call keeps the GIL, and while the process is stopped, the thread cannot look: the message then
lists these causes and the place seen right after, usually in the same function.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import linecache
import logging
import math
import os
import selectors
import site
import sys
import sysconfig
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from aiofranka_ros.errors import ConfigurationError

__all__ = ["Guard", "blocking_ok", "guard"]

#: Blocks of at least this duration are reported [s], unless the caller says otherwise.
THRESHOLD = 0.05
#: A block that lasts is reported after this time [s], and then at this interval.
_LONG, _STILL = 1.0, 10.0
#: The same function is reported at most once in this time [s]; its next message sums up the rest.
_QUIET = 5.0
_HINT = "await it through asyncify, CudaInferenceThread or mpify, or mark it with blocking_ok()"

#: Code that isn't the user's: Python, its installed libraries, and this package.
_FOREIGN = (
    "<frozen",
    *(os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    *(os.path.join(path, "") for path in (*site.getsitepackages(), site.getusersitepackages())),
    os.path.join(os.path.dirname(os.path.dirname(__file__)), ""),
)
_ASYNCIO = os.path.join(os.path.dirname(asyncio.__file__), "")
#: Where asyncio runs callbacks: below on the stack are the loop itself and its caller.
_LOOP_FUNCTIONS = ("_run", "_run_once", "run")
#: Code of a loop that is idle: it waits, is busy with itself, or runs the timer of a guard.
_IDLE = (selectors.__file__, _ASYNCIO, __file__)

_logger = logging.getLogger(__name__)


class _Collections:
    """Hook of the garbage collector: how long it has run so far [s], in whichever thread; all threads wait for it."""

    seconds = began = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self.began = now
        else:
            self.seconds += now - self.began


_collections = _Collections()


class _Place(NamedTuple):
    """A line of code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        text = linecache.getline(self.file, self.line).strip()
        place = f"{self.file}:{self.line} in {self.function}"
        return f"{place}: {text}" if text else place


def _running_in(thread: int) -> _Place | None:
    """The innermost line of the user's code that the loop in this thread runs, or of any code; ``None`` if idle."""
    innermost = None
    frame = sys._current_frames().get(thread)
    while frame is not None:
        place = _Place(frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_name)
        if place.file.startswith(_ASYNCIO) and place.function in _LOOP_FUNCTIONS:
            break
        if not place.file.startswith(_FOREIGN):
            return place
        if innermost is None and not place.file.startswith(_IDLE):
            innermost = place
        frame = frame.f_back
    return innermost


@dataclass(eq=False)
class _Block:
    """The time from one beat of the loop to the next, which turns out to be a block if that comes late.

    :ivar begin: the first beat, on the clock of ``time.perf_counter`` [s].
    :ivar seconds: the estimated duration, once it has ended.
    :ivar collected: how long garbage was collected in it [s]; until it has ended, the time of all collections before.
    :ivar late: how long the guard's thread was kept from looking [s].
    :ivar places: how often the loop was seen at each place.
    """

    begin: float
    collected: float
    seconds: float = 0.0
    late: float = 0.0
    next_report: float = _LONG
    places: Counter[_Place] = field(default_factory=Counter)

    @property
    def place(self) -> _Place | None:
        return max(self.places, key=self.places.__getitem__, default=None)

    def __str__(self) -> str:
        text = f"the event loop was blocked for {self.seconds:.2f} s"
        if self.place is not None and self.late < self.seconds / 2:
            return f"{text} at {self.place}; {_HINT}"
        if self.collected > self.seconds / 2:
            return f"{text} by garbage collection ({self.collected:.2f} s); gc.freeze() after loading makes it shorter"
        seen = "none of its code was seen running" if self.place is None else f"seen right after: {self.place}"
        return (
            f"{text}, like all Python code: by a C call that keeps the GIL, or because the "
            f"process was stopped or got no processor; {seen}"
        )


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

    # `_beat`, `_judge` and `_excused` belong to the loop's thread, `_run`, `_look` and `_report` to the guard's.

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
        self._thread: threading.Thread | None = None
        self._thread_of_loop = 0
        self._block: _Block | None = None  # the current one; None: the loop isn't running
        self._ended: deque[_Block] = deque()
        self._excused = 0
        self._stopped = threading.Event()
        self._reported: dict[str, float] = {}  # when each function was reported last
        self._unreported: dict[str, list[float]] = {}  # durations of its blocks since then [s]

    @property
    def running(self) -> bool:
        """Whether it watches."""
        return self._thread is not None

    def start(self) -> None:
        """Begin to watch; does nothing if it already does. From any thread if the loop was given.

        :raises RuntimeError: no loop was given, and none is running in this thread.
        """
        if self._thread is not None:
            return
        loop, stopped = self._loop or asyncio.get_running_loop(), threading.Event()
        self._block, self._stopped = None, stopped
        if _collections not in gc.callbacks:
            gc.callbacks.append(_collections)
        self._thread = threading.Thread(target=self._run, args=(loop, stopped), name="loop-guard", daemon=True)
        _guards[self] = loop
        self._thread.start()
        if asyncio._get_running_loop() is loop:
            self._beat(loop, stopped)
        else:
            loop.call_soon_threadsafe(self._beat, loop, stopped)

    def stop(self) -> None:
        """Stop watching, and report a block that lasts until now. Idempotent; from any thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            if threading.get_ident() == self._thread_of_loop:
                self._judge()
            self._stopped.set()
            thread.join()

    def __enter__(self) -> Guard:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Guard:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.stop()

    def _beat(self, loop: asyncio.AbstractEventLoop, stopped: threading.Event) -> None:
        if not stopped.is_set():
            self._thread_of_loop = threading.get_ident()
            self._judge()
            loop.call_later(self.threshold / 2, self._beat, loop, stopped)

    def _judge(self) -> None:
        """The loop is free, or about to do something else: was it blocked since the last beat?"""
        block, now = self._block, time.perf_counter()
        if block is not None and not self._excused:
            block.seconds = now - block.begin - self.threshold / 4  # it began between that beat and the next
            if block.seconds >= self.threshold:
                block.collected = _collections.seconds - block.collected
                self._ended.append(block)
        self._block = _Block(now, _collections.seconds)

    def _run(self, loop: asyncio.AbstractEventLoop, stopped: threading.Event) -> None:
        timeout, over = self.threshold / 2, False
        while not over:
            expected = time.perf_counter() + timeout
            over = stopped.wait(timeout) or loop.is_closed()
            now = time.perf_counter()
            if not loop.is_running():
                self._block = None
            timeout = self._look(now, now - expected)
            while self._ended:
                self._report(self._ended.popleft())
        left = {key: seconds for key, seconds in self._unreported.items() if seconds}
        if left:
            times = sum(map(len, left.values()))
            places = ", ".join(f"{sum(seconds):.2f} s {key}" for key, seconds in left.items())
            self._warn(f"the event loop was blocked {times} more times since the last messages: {places}")
        del _guards[self]
        if not _guards and _collections in gc.callbacks:
            gc.callbacks.remove(_collections)
        self._reported.clear()
        self._unreported.clear()

    def _look(self, now: float, late: float) -> float:
        """Look at the loop's stack if a beat is overdue; returns how long to wait until the next look [s]."""
        block = self._block
        if block is None or self._excused:
            return self.threshold
        held = now - block.begin
        if held >= self.threshold:
            place = _running_in(self._thread_of_loop)
            if self._block is block:  # otherwise it has ended, and the stack may show something else
                block.late += max(0.0, late)
                if place is not None:
                    block.places[place] += 1
                seconds = held - self.threshold / 4
                if seconds >= block.next_report and block.places:
                    self._warn(f"the event loop has been blocked for {seconds:.1f} s so far at {block.place}; {_HINT}")
                    block.next_report = seconds + _STILL
        return max(self.threshold - held, self.threshold / 4)

    def _report(self, block: _Block) -> None:
        self.blocks += 1
        self.longest = max(self.longest, block.seconds)
        self.total += block.seconds
        place, now = block.place, time.perf_counter()
        key = "at an unknown place" if place is None else f"in {place.function} ({place.file})"
        unreported = self._unreported.setdefault(key, [])
        if block.next_report == _LONG and now - self._reported.get(key, -math.inf) < _QUIET:
            unreported.append(block.seconds)
            return
        text = str(block)
        if unreported:
            text += f" ({len(unreported)} more blocks there since the last message, {sum(unreported):.2f} s)"
            unreported.clear()
        self._reported[key] = now
        self._warn(text)

    def _warn(self, text: str) -> None:
        """Log, unless a more sensitive guard of the same loop and logger does."""
        loop = _guards[self]
        guards = [guard for guard, other in tuple(_guards.items()) if other is loop and guard.log is self.log]
        if min(guards, key=lambda guard: guard.threshold) is self:
            self.log.warning(text)


#: All guards that run, and their loops.
_guards: dict[Guard, asyncio.AbstractEventLoop] = {}


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
    running = asyncio._get_running_loop()
    guards = [guard for guard, loop in tuple(_guards.items()) if loop is running]
    for guard in guards:
        guard._judge()
        guard._excused += 1
    begin = time.perf_counter()
    try:
        yield
    finally:
        for guard in guards:
            guard._judge()
            guard._excused -= 1
        if guards:
            _logger.debug("the event loop was held for %.3f s on purpose: %s", time.perf_counter() - begin, reason)
