"""What the owner of an arm remembers for a recording: targets as they came, its own ticks, events and log lines.

Used in the process that owns the arm: by the node, in its one thread, and by ``RobotInterface``, in any thread. A note
costs about a microsecond, because it must delay no target. Targets and ticks are kept in rings of anonymous memory,
like the control cycles, so that a recording copies them without Python's lock; :mod:`aiofranka_ros.recording.writer`
reads them. All times are of the monotonic clock [ns], until they are written.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from aiofranka_ros.control.records import STATE, Phase, new
from aiofranka_ros.control.shared_memory import Ring
from aiofranka_ros.kernels import Record

#: A target as it came.
TARGET = np.dtype(
    [
        ("stamp", "i8"),  # when it was accepted [ns, monotonic]
        ("made", "i8"),  # its own stamp [ns, the sender's clock]; 0: none
        ("topic", "i8"),  # which of the topics, and of the senders; see :attr:`Notes.topics`
        ("sender", "i8"),
        ("size", "i8"),  # of the values
        ("values", "f8", (7,)),
    ]
)
#: What the owner saw at one of its ticks.
TICK = np.dtype(
    [
        ("stamp", "i8"),  # of the tick [ns, monotonic]
        # How long the control process has run, and has waited for a processor, since it started, and how long the
        # owner's thread has waited [ns]; 0 if the kernel does not say.
        *((name, "i8") for name in ("control_ran", "control_waited", "owner_waited")),
        ("control_code", "i8"),  # its state in proc_pid_stat(5), as a character; looked up only if no cycle came
        ("state", STATE),
    ]
)
#: How many of them are kept: 16 s of targets at 1 kHz, and of ticks at 100 Hz.
TARGETS, TICKS = 16384, 2048
#: Ticks are not noted more often [ns].
_TICK_PERIOD = 8_000_000
#: How many events and log lines are kept.
_EVENTS, _LINES = 500, 500
_PACK = struct.Struct("=5q7d").pack_into
_ZEROS = (0.0,) * 7


class Event(NamedTuple):
    """Something that happened once."""

    stamp: int  #: when [ns, monotonic]
    kind: str  #: e.g. ``request``, ``refusal``, ``owner``, ``diagnostics``, ``parameters``, ``lifecycle``
    message: str  #: for people
    data: dict[str, Any]  #: what else there is, as JSON has it


class Line(NamedTuple):
    """A line of the log."""

    stamp: int  #: when [ns, monotonic]
    level: str  #: ``info``, ``warning``, ``error``, ...
    message: str


class Notes:
    """The story of one arm; :meth:`close` frees its memory."""

    def __init__(self) -> None:
        #: Of the anonymous memory: the ring of targets, then that of ticks.
        self.descriptor = os.memfd_create("aiofranka_ros_notes")
        size = Ring.size(TARGET, TARGETS)
        try:
            os.ftruncate(self.descriptor, size + Ring.size(TICK, TICKS))
            memory = memoryview(mmap.mmap(self.descriptor, 0))
        except BaseException:
            os.close(self.descriptor)
            raise
        self._targets, self._ticks = rings(memory)
        self._lock = threading.Lock()  # Policies set targets in any thread.
        self._target = bytearray(TARGET.itemsize)
        self._tick = new(TICK)
        self._tick_bytes, self._tick_state = self._tick.view(np.uint8).data, self._tick["state"]
        #: Names of the topics and senders of targets, in the order of their numbers.
        self.topics: dict[str, int] = {}
        self.senders: dict[str, int] = {}
        self.events: deque[Event] = deque(maxlen=_EVENTS)
        self.lines: deque[Line] = deque(maxlen=_LINES)
        self._due = 0
        self._stamp = 0  # Of the state in the last tick.
        self._pid: int | None = None
        self._control = self._own = -1

    def target(self, topic: str, values: Sequence[float], made: int, sender: str) -> None:
        """Note a target that was accepted.

        :param values: up to seven numbers, as the control process gets them.
        :param made: its stamp [ns, the sender's clock].
        :param sender: full name of the node that sent it; empty: not known.
        """
        size = len(values)
        with self._lock:
            topics, senders = self.topics, self.senders
            number = topics.get(topic)
            if number is None:
                number = topics[topic] = len(topics)
            who = senders.get(sender)
            if who is None:
                who = senders[sender] = len(senders)
            _PACK(self._target, 0, time.monotonic_ns(), made, number, who, size, *values, *_ZEROS[size:])
            self._targets.append(memoryview(self._target))

    def tick(self, state: Record, pid: int | None) -> None:
        """Note that the owner runs, and the state that it sees; more often than 125 Hz, some are left out.

        :param pid: of the control process.
        """
        now = time.monotonic_ns()
        if now < self._due:
            return
        self._due = now + _TICK_PERIOD
        if pid != self._pid:
            self._watch(pid)
        tick, stamp = self._tick[0], int(state["stamp"])
        silent, self._stamp = stamp == self._stamp and state["phase"] == Phase.ACTIVE, stamp
        tick["stamp"] = now
        tick["control_ran"], tick["control_waited"] = _schedule(self._control)
        tick["owner_waited"] = _schedule(self._own)[1]
        tick["control_code"] = _code(pid) if silent else 0
        self._tick_state[0] = state
        self._ticks.append(self._tick_bytes)

    def event(self, kind: str, message: str, **data: Any) -> None:
        """Note something that happened once; ``data`` are numbers, texts and lists of them."""
        self.events.append(Event(time.monotonic_ns(), kind, message, data))

    def changed(self, names: Iterable[str]) -> None:
        """Note that parameters were changed; one that is changed again and again counts once."""
        message = ", ".join(sorted(names))
        events = self.events
        if message and not (events and events[-1].kind == "parameters" and events[-1].message == message):
            self.event("parameters", message)

    def line(self, level: str, message: str) -> None:
        """Note a line of the log."""
        self.lines.append(Line(time.monotonic_ns(), level, message))

    def close(self) -> None:
        """Free the memory; idempotent. Notes after that are lost."""
        self._watch(None)
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _watch(self, pid: int | None) -> None:
        """Look at another control process from now on."""
        for descriptor in (self._control, self._own):
            if descriptor >= 0:
                os.close(descriptor)
        self._control = self._own = -1
        self._pid = pid
        if pid is not None:
            with contextlib.suppress(OSError):  # It has just ended, or this kernel does not count.
                self._control = os.open(f"/proc/{pid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
                self._own = os.open(
                    f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY | os.O_CLOEXEC
                )


def rings(memory: memoryview) -> tuple[Ring, Ring]:
    """The rings of targets and ticks in the memory of :class:`Notes`."""
    size = Ring.size(TARGET, TARGETS)
    return Ring(memory, TARGET, TARGETS), Ring(memory[size:], TICK, TICKS)


def _schedule(descriptor: int) -> tuple[int, int]:
    """How long a thread has run, and waited for a processor [ns]: its schedstat, see sched-stats of the kernel."""
    if descriptor < 0:
        return 0, 0
    try:
        ran, waited, _ = os.pread(descriptor, 80, 0).split()
    except (OSError, ValueError):  # It has ended.
        return 0, 0
    return int(ran), int(waited)


def _code(pid: int | None) -> int:
    """The state of a process as in proc_pid_stat(5), e.g. ``ord("T")`` if a signal has stopped it; 0: unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read(4096).rpartition(b")")[2].split()[0][0]
    except (OSError, IndexError):
        return 0
