"""A process that records when the computer stopped a CPU, or ran slowly.

Simulated arm, network and control process share a CPU (:func:`aiofranka_ros.simulation.simulated_arm.cpu_for`), so all
of them are late together in two cases: the computer stops that CPU, as a hypervisor does, or one of them does not yield
it to the others. The witness distinguishes these cases. It wakes several times per cycle, on the same CPU and at a
higher priority than all of them, so none of them can delay it, and whatever delays it delays all of them.

A computer may also run several times as slowly as usual for tens of milliseconds: it is stopped too briefly and too
often to notice, or another virtual machine shares the core. So the witness does the same small piece of work whenever
it wakes. If that takes longer than usual, everything does.

:class:`Witness` is the handle, used by the soak; :func:`main` runs in the witness's process:

    python -m bench.witness --cpu 1 --tape PATH
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.faults.helper import Helper, prefer_this_process
from bench.faults.tape import Tape

#: When the witness wanted to wake, when it did, and when its work was done [ns, monotonic clock].
WAKE = np.dtype([("due", "i8"), ("woke", "i8"), ("done", "i8")])
#: Above the control process (:data:`aiofranka_ros.control.realtime.PRIORITY`), the arm and the network.
_PRIORITY = 90
#: How long it sleeps [s], and the shortest delay that counts as a stop [ns].
_PERIOD, _NOTED = 0.25e-3, 200_000
#: Its work: rounds of an empty loop, some microseconds. The pace at a time is that of the work around it [ns]: about
#: eight pieces in either direction.
_WORK, _AROUND = range(300), 2_000_000
#: How long the wakes are kept [ns].
_KEPT = 10_000_000_000
_READY, _POWERLESS = "ready", "without real-time priority"


class Evidence:
    """The observations of a witness during some time.

    :param wakes: in the order of time, see :data:`WAKE`.
    :param usual: how long its work usually takes [ns].
    """

    def __init__(self, wakes: npt.NDArray[Any], usual: float) -> None:
        self._due, self._work, self._usual = wakes["due"], wakes["done"] - wakes["woke"], usual
        # It can be stopped before it wakes, while it works, or before it sleeps again.
        asleep = wakes["due"] - int(1e9 * _PERIOD)
        begins = np.stack([np.append(asleep[:1], wakes["done"][:-1]), wakes["due"], wakes["woke"]], axis=1).ravel()
        ends = np.stack([asleep, wakes["woke"], wakes["done"]], axis=1).ravel()
        stop = ends - begins > _NOTED
        #: When the stops began [ns, monotonic clock], and their lengths [ms].
        self.begins, self.stops = begins[stop], 1e-6 * (ends - begins)[stop]
        self._edges = np.stack([self.begins, ends[stop]], axis=1).astype(float).ravel()
        until = np.cumsum(self.stops)
        self._until = np.stack([until - self.stops, until], axis=1).ravel()

    def stopped(self, begin: npt.ArrayLike, end: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """How long the computer was stopped between each ``begin`` and its ``end`` [ms].

        Up to 0.25 ms too short for each stop that delayed a wake: the stop may have begun before the wake was due.
        At most some microseconds too long, if the stop interrupted the work.

        :param begin: (n,) or a single one [ns, monotonic clock].
        :param end: the same shape.
        """
        if len(self.stops) == 0:
            return np.zeros(np.shape(begin))
        return np.asarray(np.interp(end, self._edges, self._until) - np.interp(begin, self._edges, self._until))

    def slowness(self, begin: float, end: float) -> float:
        """How many times as long as usual everything took from ``begin`` to ``end`` [ns], at least 1."""
        first, last = np.searchsorted(self._due, (begin - _AROUND, end + _AROUND))
        if first == last:
            return 1.0
        # A single slow piece of work is a short stop; if half of them are slow, it is the pace.
        return max(1.0, float(np.median(self._work[first:last])) / self._usual)


class Witness(Helper):
    """The witness of one CPU; it runs until it is closed.

    :param cpu: the CPU to watch.
    :param folder: for its log.
    :ivar credible: whether it has the priority that it needs; without it, nothing is recorded.
    :ivar stops: how many stops :meth:`evidence` has found so far.
    :ivar longest: the longest of them [ms].
    """

    def __init__(self, cpu: int, folder: Path) -> None:
        self.tape = Tape(WAKE)
        self._position = 0
        self._wakes = np.zeros(0, WAKE)
        self._medians: list[float] = []
        options = ["--cpu", str(cpu), "--tape", str(self.tape.path)]
        super().__init__("bench.witness", options, folder / f"witness{cpu}.log")
        self.credible = self.greeting == _READY
        self.cpu = cpu
        self.stops, self.longest = 0, 0.0

    def outranks(self, pid: int) -> bool:
        """Whether its priority is higher than that of process ``pid``."""
        theirs = os.sched_getparam(pid).sched_priority if os.sched_getscheduler(pid) == os.SCHED_FIFO else 0
        return self.credible and os.sched_getparam(self.process.pid).sched_priority > theirs

    @property
    def usual(self) -> float:
        """The median duration of its work [ns]: the median over all calls of :meth:`evidence`."""
        return float(np.median(self._medians)) if self._medians else 1.0

    @property
    def slowest(self) -> float:
        """How many times as long as usual its work took in the slowest period between two calls."""
        return max(self._medians, default=1.0) / self.usual

    def evidence(self) -> Evidence:
        """Its observations of the last ten seconds; call it every second."""
        before, known = self._position, int(self._wakes["done"][-1]) if len(self._wakes) else 0
        new, self._position = self.tape.since(before)
        if self._position - before > len(new):  # Called too late: the missing records are not a stop.
            self._wakes = self._wakes[:0]
        if len(new):
            self._medians.append(float(np.median(new["done"] - new["woke"])))
        wakes = np.concatenate([self._wakes, new])
        self._wakes = wakes[wakes["woke"] > time.monotonic_ns() - _KEPT]
        evidence = Evidence(self._wakes, self.usual)
        fresh = evidence.stops[evidence.begins >= known]
        self.stops += len(fresh)
        self.longest = max([self.longest, *fresh])
        return evidence


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch until the standard input ends or SIGTERM arrives."""
    parser = argparse.ArgumentParser(description="Records when the computer stopped a CPU; started by bench.soak.")
    parser.add_argument("--cpu", type=int, required=True, help="CPU to watch")
    parser.add_argument("--tape", type=Path, required=True, help="tape to record every wake on")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    tape = Tape(WAKE, options.tape)
    credible = prefer_this_process(_PRIORITY, options.cpu)
    sys.stdout.write((_READY if credible else _POWERLESS) + "\n")
    sys.stdout.flush()
    period = _PERIOD if credible else None
    due_in, work = int(1e9 * _PERIOD), _WORK
    while True:
        due = time.monotonic_ns() + due_in
        if select.select([sys.stdin], [], [], period)[0]:
            return 0
        woke = time.monotonic_ns()
        for _ in work:
            pass
        done = time.monotonic_ns()
        index = tape.next()
        tape.fields["due"][index], tape.fields["woke"][index], tape.fields["done"][index] = due, woke, done
        tape.commit()


if __name__ == "__main__":
    sys.exit(main())
