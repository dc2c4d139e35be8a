"""Notice that the event loop was blocked, and say for how long and at whose line: :func:`guard`.

A blocked loop does not endanger the arm, whose 1 kHz loop runs in a process of its own, but it makes targets late, and
nothing else would tell. A ``FrankaController`` runs a guard from ``start()`` to ``stop()``; scripts may use it on
their own. It needs neither ROS nor libfranka.

Two sides: in the loop, a timer that beats twice per threshold and knows afterwards that it was late; beside it, a
daemon thread that wakes about as often, looks at the loop's stack while a beat is overdue, and writes the log. Both
together cost little more than a task that sleeps for half the threshold again and again: 1.2 % of a core of a slow
virtual machine where that task took 1.0 %. What that cannot see, and how it is dealt with:

- the beginning of a block lies between two beats: durations are right to within a quarter of the threshold;
- while a C call keeps the GIL, no other thread can look: the place is where the loop is seen when the GIL comes free,
  which is the same function as a rule, and the message says so;
- garbage collection is such a call too, but announces itself;
- a process that is stopped (Ctrl-Z, a debugger, a machine that is overloaded) stands still as a whole, without using
  the processor. When the loop was not running anything then, that is not counted as a block, and only logged for
  debugging. Time at a prompt of ``pdb`` does not count either.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import linecache
import logging
import os
import site
import sys
import sysconfig
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

from aiofranka_ros.errors import ConfigurationError

__all__ = ["Guard", "blocking_ok", "guard"]

#: Blocks that take as long as this are reported [s], unless the caller says otherwise.
THRESHOLD = 0.05
#: A block that goes on is reported after so long [s], and then every...
_LONG, _STILL = 1.0, 10.0
#: The same place is reported once in so long [s]; what was left out is summed up in its next message.
_QUIET = 5.0
#: Garbage collections that are shorter don't matter [s].
_SHORT_COLLECTION = 0.002
#: A process that used less than this share of one processor was standing still rather than computing.
_STANDSTILL = 0.2
_HINT = "await it through asyncify, CudaInferenceThread or mpify, or mark it with blocking_ok()"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Place:
    """A line of code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        text = linecache.getline(self.file, self.line).strip()
        where = f"{self.file}:{self.line} in {self.function}"
        return f"{where}: {text}" if text else where


@dataclass(frozen=True)
class _Span:
    """A stretch of time [s], on the clock of ``time.perf_counter``; ``busy`` is the processor's share in it."""

    begin: float
    end: float
    busy: float = 0.0

    def within(self, begin: float, end: float) -> float:
        return max(0.0, min(self.end, end) - max(self.begin, begin))


@dataclass
class _Block:
    """A block of the loop that is over: the beat before it, the end, and the estimate of how long it took [s]."""

    begin: float
    end: float
    seconds: float


@dataclass
class _Seen:
    """What the thread has seen of the block that began after the beat at ``begin``."""

    begin: float
    places: Counter[_Place] = field(default_factory=Counter)
    next_report: float = _LONG
    reported: bool = False
    debugger: bool = False


@dataclass
class _Left:
    """What was left out of the log for one place, and since when it is quiet there."""

    since: float
    blocks: int = 0
    seconds: float = 0.0


class Guard:
    """Watches one event loop from :meth:`start` to :meth:`stop`; ``with`` and ``async with`` do both.

    Any number of guards may watch the same loop: they share the timer and the thread (the smallest threshold decides
    how often they run), each counts for itself, and one message is logged per block and logger.

    :param loop: the loop; the running one, where it is ``None``.
    :param threshold: the shortest block that counts [s]; blocks within a quarter of it may or may not be noticed.
    :param log: where warnings go; the logger of this module, where it is ``None``.
    :ivar blocks: how many there were since the guard was made.
    :ivar longest: the longest of them [s].
    :ivar total: all of them together [s].
    :raises ConfigurationError: the threshold is below 5 ms, which the operating system alone may take.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        threshold: float = THRESHOLD,
        log: logging.Logger | None = None,
    ) -> None:
        if not threshold >= 0.005:
            raise ConfigurationError(f"a threshold of {threshold} s is too small: 0.005 s is the least")
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
        """Begin to watch; does nothing where it does already. From any thread, when the loop was given.

        :raises RuntimeError: no loop was given, and none is running in this thread.
        """
        if self._watch is None:
            self._watch = _Watch.join(self._loop or asyncio.get_running_loop(), self)

    def stop(self) -> None:
        """Stop watching, and report a block that lasts until now. Idempotent; from any thread."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.leave(self)

    def __enter__(self) -> Guard:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Guard:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _count(self, seconds: float) -> None:
        self.blocks += 1
        self.longest = max(self.longest, seconds)
        self.total += seconds


def guard(threshold: float = THRESHOLD, log: logging.Logger | None = None) -> Guard:
    """A :class:`Guard` for the running event loop: ``with guard():`` inside a coroutine.

    :param threshold: the shortest block that counts [s].
    :param log: where warnings go; the logger of this module, where it is ``None``.
    :raises ConfigurationError: the threshold is below 5 ms.
    """
    return Guard(threshold=threshold, log=log)


@contextlib.contextmanager
def blocking_ok(reason: str = "") -> Iterator[None]:
    """Mark a deliberate block: guards of the loop that runs in this thread neither log nor count it.

    Meant for code without ``await``; what other tasks do during one is excused as well. Works as a decorator of
    functions too, and does nothing where no loop runs or no guard watches.

    :param reason: why it is fine, for the reader and for the debug log.
    """
    try:
        watch = _Watch.of(asyncio.get_running_loop())
    except RuntimeError:
        watch = None
    if watch is None:
        yield
        return
    begin = watch.excuse()
    try:
        yield
    finally:
        watch.resume()
        _logger.debug("the event loop was held for %.3f s on purpose: %s", time.perf_counter() - begin, reason)


class _Watch:
    """The timer in one loop and the thread beside it, for all guards of that loop.

    ``_beat``, ``excuse`` and ``resume`` run in the loop's thread, ``_run`` and what it calls in the watch's own; they
    share attributes that are replaced whole, and ``_ended``.
    """

    _of_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Watch] = weakref.WeakKeyDictionary()
    _registry = threading.RLock()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._guards: tuple[Guard, ...] = ()
        self._threshold = THRESHOLD
        self._period = THRESHOLD / 2
        self._ident: int | None = None  # of the loop's thread
        self._last: float | None = None  # when the loop was last known to be free; None: it isn't running
        self._excused = 0
        self._stopped = False
        self._wake = threading.Event()
        self._ended: deque[_Block] = deque()
        self._seen: _Seen | None = None
        self._stalls: deque[_Span] = deque(maxlen=64)
        self._quiet: dict[tuple[str, str], _Left] = {}
        self._reporting = threading.RLock()
        self._thread = threading.Thread(target=self._run, name="loop-guard", daemon=True)

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> _Watch | None:
        """The watch of ``loop``, if any guard is watching it."""
        with cls._registry:
            return cls._of_loop.get(loop)

    @classmethod
    def join(cls, loop: asyncio.AbstractEventLoop, guard: Guard) -> _Watch:
        """Let ``guard`` take part in the watch of ``loop``, which the first one starts."""
        with cls._registry:
            watch = cls._of_loop.get(loop)
            if watch is not None:
                watch._settle()  # what was before does not concern the new one
                watch._set_guards((*watch._guards, guard))
                return watch
            watch = cls(loop)
            watch._set_guards((guard,))
            watch._thread.start()
            cls._of_loop[loop] = watch
            if len(cls._of_loop) == 1:
                gc.callbacks.append(_note_collection)
        if _running_loop() is loop:
            watch._beat()
        else:
            loop.call_soon_threadsafe(watch._beat)
        return watch

    def leave(self, guard: Guard) -> None:
        """Report what there is to report, and stop with the last guard."""
        self._settle()
        with self._registry:
            self._set_guards(tuple(other for other in self._guards if other is not guard))
            if self._guards:
                return
            self._stopped = True
            self._forget()
        self._wake.set()
        self._thread.join()
        with self._reporting:
            left = sum(place.blocks for place in self._quiet.values())
            if left:
                seconds = sum(place.seconds for place in self._quiet.values())
                text = "the event loop was blocked %d more times at the places that were named, %.2f s in all"
                guard.log.warning(text, left, seconds)

    def _settle(self) -> None:
        """Report all blocks until now; one that lasts until now as well, where it is the caller who blocks."""
        if threading.get_ident() == self._ident:
            self._judge(time.perf_counter())
        self._flush()

    def _forget(self) -> None:
        loop = self._loop()
        if loop is not None and self._of_loop.get(loop) is self:
            del self._of_loop[loop]
        if not self._of_loop and _note_collection in gc.callbacks:
            gc.callbacks.remove(_note_collection)

    def _set_guards(self, guards: tuple[Guard, ...]) -> None:
        self._guards = guards
        if guards:
            self._threshold = min(guard.threshold for guard in guards)
            self._period = self._threshold / 2

    # In the loop's thread.

    def _beat(self) -> None:
        if self._stopped:
            return
        self._ident = threading.get_ident()
        self._judge(time.perf_counter())
        loop = self._loop()
        if loop is not None:
            loop.call_later(self._period, self._beat)

    def _judge(self, now: float) -> None:
        """The loop is free, or about to do something else: was it held since the last beat?"""
        if self._last is not None and not self._excused:
            seconds = now - self._last - self._period / 2  # it began between that beat and the next
            if seconds >= self._threshold:
                self._ended.append(_Block(self._last, now, seconds))
                self._wake.set()
        self._last = now

    def excuse(self) -> float:
        """A deliberate block begins; returns when."""
        now = time.perf_counter()
        self._judge(now)
        self._excused += 1
        return now

    def resume(self) -> None:
        """A deliberate block ends."""
        self._last = time.perf_counter()
        self._excused -= 1

    # In the watch's own thread.

    def _run(self) -> None:
        timeout = self._period
        while not self._stopped:
            expected = time.perf_counter() + timeout
            busy = time.process_time()
            self._wake.wait(timeout)
            self._wake.clear()
            now = time.perf_counter()
            if now - expected > self._threshold / 4:
                self._stalls.append(_Span(expected, now, (time.process_time() - busy) / (now - expected)))
            loop = self._loop()
            if loop is None or loop.is_closed():
                with self._registry:
                    self._stopped = True
                    self._forget()
                self._flush()
                return
            if not loop.is_running():
                self._last = None
            del loop  # which may be collected while this thread waits
            self._flush()
            timeout = self._look(now)

    def _look(self, now: float) -> float:
        """Look at the loop's stack if a beat is overdue; returns how long to wait until the next look [s]."""
        last = self._last
        if last is None or self._excused:
            return self._threshold
        held = now - last
        if held < self._threshold:
            return max(self._threshold - held, 0.001)
        frame = sys._current_frames().get(self._ident or 0)
        stack = [] if frame is None else _above_the_loop(frame)
        del frame
        with self._reporting:
            if self._last != last:
                return self._threshold  # it ended meanwhile: the stack shows something else
            if self._seen is None or self._seen.begin != last:
                self._seen = _Seen(last)
            seen = self._seen
            if any(_is_debugger(place) for place in stack):
                seen.debugger = True
            elif (place := _to_blame(stack)) is not None:
                seen.places[place] += 1
            seconds = held - self._period / 2
            if seconds >= seen.next_report and seen.places and not seen.debugger:
                place = seen.places.most_common(1)[0][0]
                self._warn(seconds, f"the event loop has been blocked for {seconds:.1f} s so far at {place}; {_HINT}")
                seen.next_report = seconds + _STILL
                seen.reported = True
        return max(self._threshold / 2, min(held / 4, 0.5))

    # In either, and in whatever thread stops a guard.

    def _flush(self) -> None:
        """Report the blocks that have ended."""
        with self._reporting:
            while self._ended:
                block = self._ended.popleft()
                seen = self._seen if self._seen is not None and self._seen.begin == block.begin else _Seen(block.begin)
                self._report(block, seen)

    def _report(self, block: _Block, seen: _Seen) -> None:
        place = seen.places.most_common(1)[0][0] if seen.places else None
        stalls = [span for span in tuple(self._stalls) if span.within(block.begin, block.end)]
        stalled = sum(span.within(block.begin, block.end) for span in stalls)
        # This thread may not have run since the block began.
        unseen = not seen.places and not stalls
        computing = sum(span.busy * span.within(block.begin, block.end) for span in stalls) >= _STANDSTILL * stalled
        collected = sum(span.within(block.begin, block.end) for span in tuple(_collections))
        text = f"the event loop was blocked for {block.seconds:.2f} s"
        if seen.debugger:
            return
        if collected >= block.seconds / 2:
            text += f" by garbage collection ({collected:.2f} s of it)"
            text += f" during {place}" if place else ""
            text += "; gc.freeze() after loading spares what is long-lived"
        elif stalled >= block.seconds / 2 and place is None and not computing:
            _logger.debug("the process stood still for %.2f s: stopped, or without a processor", block.seconds)
            return
        elif stalled >= block.seconds / 2:
            cause = "a C call that keeps the GIL" + ("" if computing else ", or a process that was stopped")
            text += f", as all Python was, by {cause}; " + (f"seen right after: {place}" if place else "place unknown")
        elif place is not None:
            text += f" at {place}; {_HINT}"
        elif unseen:
            text += " at a place that was not seen"
        else:
            text += " while it ran nothing itself: other threads kept the GIL or the processors"
        for guard in self._guards:
            if block.seconds >= guard.threshold:
                guard._count(block.seconds)
        if seen.reported:
            self._warn(block.seconds, text)
        else:
            self._warn_seldom(block, place, text)

    def _warn_seldom(self, block: _Block, place: _Place | None, text: str) -> None:
        key = (place.file, place.function) if place else ("", "")
        left = self._quiet.get(key)
        if left is not None and block.end - left.since < _QUIET:
            left.blocks += 1
            left.seconds += block.seconds
            return
        if left is not None and left.blocks:
            text += f" ({left.blocks} more blocks there since the last message, {left.seconds:.2f} s)"
        if len(self._quiet) > 256:
            self._quiet.clear()
        self._quiet[key] = _Left(block.end)
        self._warn(block.seconds, text)

    def _warn(self, seconds: float, text: str) -> None:
        for log in {guard.log for guard in self._guards if seconds >= guard.threshold}:
            log.warning(text)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


_collections: deque[_Span] = deque(maxlen=32)
_collecting_since = 0.0


def _note_collection(phase: str, info: dict[str, Any]) -> None:
    """Hook of the garbage collector, in whatever thread runs it; all others wait."""
    global _collecting_since
    now = time.perf_counter()
    if phase == "start":
        _collecting_since = now
    elif now - _collecting_since >= _SHORT_COLLECTION:
        _collections.append(_Span(_collecting_since, now))


#: Code that isn't the user's: Python, what is installed for it, and this package.
_FOREIGN = tuple(
    os.path.join(os.path.realpath(path), "")
    for path in {
        *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
        os.path.dirname(os.path.dirname(__file__)),  # of this package
    }
)
_ASYNCIO = os.path.dirname(asyncio.__file__)
#: Where asyncio runs callbacks: what is below on the stack is the loop itself and who started it.
_LOOP_FUNCTIONS = {"_run", "_run_once", "run_forever", "run_until_complete", "run"}
_LOOP_FILES = {os.path.join(_ASYNCIO, name) for name in ("events.py", "base_events.py", "runners.py")}


def _above_the_loop(frame: FrameType | None) -> list[_Place]:
    """What the loop is running, innermost first; nothing where it only waits."""
    stack: list[_Place] = []
    while frame is not None:
        code = frame.f_code
        if code.co_filename in _LOOP_FILES and code.co_name in _LOOP_FUNCTIONS:
            break
        stack.append(_Place(code.co_filename, frame.f_lineno or 0, code.co_name))
        frame = frame.f_back
    waiting = all(os.path.basename(place.file) == "selectors.py" for place in stack)
    return [] if waiting else stack


def _to_blame(stack: list[_Place]) -> _Place | None:
    """The innermost line of the user's own code, otherwise the innermost one."""
    for place in stack:
        path = place.file if place.file.startswith("<") else os.path.realpath(place.file)
        if not path.startswith(("<frozen", *_FOREIGN)):
            return place
    return stack[0] if stack else None


def _is_debugger(place: _Place) -> bool:
    return os.path.basename(place.file) in ("pdb.py", "bdb.py") or "pydevd" in place.file
