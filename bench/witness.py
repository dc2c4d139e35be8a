"""Somebody who runs beside the control loop, and before it, and notes when the computer let nobody run.

Simulated arm, network and control process share a CPU (:func:`aiofranka_ros.simulation.cpu_for`), so all of them are
late together both when the computer stops that CPU, as a hypervisor does, and when one of them keeps it from the
others. The witness tells these apart. It wakes several times within a cycle, on the same CPU and at a higher priority
than all of them: none of them can delay it. What delays it, delays everybody.

:class:`Witness` is the handle; :func:`main` is the process:

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

#: One stop: from when the witness was due until it ran [ns, monotonic clock].
STOP = np.dtype([("begin", "i8"), ("end", "i8")])
#: Above the control process's (:data:`aiofranka_ros.realtime.PRIORITY`) and what it talks with.
_PRIORITY = 90
#: How long it sleeps [s], and from which delay on that was a stop [ns].
_PERIOD, _NOTED = 0.25e-3, 200_000
#: How long stops are kept for whoever asks [ns].
_KEPT = 10_000_000_000
_READY, _POWERLESS = "ready", "without real-time priority"


class Witness(Helper):
    """The witness on one CPU, running until it is closed.

    A stop is noted up to 0.25 ms too short, never too long: it may have begun before the witness was due.

    :param cpu: to watch.
    :param folder: for its log.
    :ivar cpu: that it watches.
    :ivar credible: whether it has the priority that it needs; without, it notes nothing.
    :ivar longest: stop that :meth:`recent` has seen so far [ms].
    """

    def __init__(self, cpu: int, folder: Path) -> None:
        self.tape = Tape(STOP)
        self._position = 0
        self._recent = np.zeros(0, STOP)
        options = ["--cpu", str(cpu), "--tape", str(self.tape.path)]
        super().__init__("bench.witness", options, folder / f"witness{cpu}.log")
        self.credible = self.greeting == _READY
        self.cpu = cpu
        self.longest = 0.0

    def outranks(self, pid: int) -> bool:
        """Whether it runs before that process whenever both want to."""
        theirs = os.sched_getparam(pid).sched_priority if os.sched_getscheduler(pid) == os.SCHED_FIFO else 0
        return self.credible and os.sched_getparam(self.process.pid).sched_priority > theirs

    @property
    def count(self) -> int:
        """Stops so far."""
        return self.tape.count

    def recent(self) -> npt.NDArray[Any]:
        """The stops of the last ten seconds before this call or more, in order; see :data:`STOP`."""
        new, self._position = self.tape.since(self._position)
        if len(new):
            self.longest = max(self.longest, 1e-6 * float((new["end"] - new["begin"]).max()))
        known = np.concatenate([self._recent, new])
        self._recent = known[known["end"] > time.monotonic_ns() - _KEPT]
        return self._recent


def stopped(stops: npt.NDArray[Any], begin: npt.ArrayLike, end: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """For how long the computer stood still between each ``begin`` and its ``end`` [ms].

    :param stops: in order, see :data:`STOP`.
    :param begin: (n,) or a single one [ns, monotonic clock].
    :param end: of the same shape.
    """
    if len(stops) == 0:
        return np.zeros(np.shape(begin))
    edges = np.stack([stops["begin"], stops["end"]], axis=1).astype(float).ravel()  # In order: one after the other.
    lengths = (stops["end"] - stops["begin"]).astype(float)
    until = np.stack([np.cumsum(lengths) - lengths, np.cumsum(lengths)], axis=1).ravel()
    return np.asarray(1e-6 * (np.interp(end, edges, until) - np.interp(begin, edges, until)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch until the standard input ends or SIGTERM."""
    parser = argparse.ArgumentParser(description="A witness of when the computer stopped; started by bench.soak.")
    parser.add_argument("--cpu", type=int, required=True, help="CPU to watch")
    parser.add_argument("--tape", type=Path, required=True, help="tape to record every stop on")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    tape = Tape(STOP, options.tape)
    credible = prefer_this_process(_PRIORITY, options.cpu)
    sys.stdout.write((_READY if credible else _POWERLESS) + "\n")
    sys.stdout.flush()
    period = _PERIOD if credible else None
    while True:
        due = time.monotonic_ns() + int(1e9 * _PERIOD)
        if select.select([sys.stdin], [], [], period)[0]:
            return 0
        woke = time.monotonic_ns()
        if woke - due > _NOTED:
            index = tape.next()
            tape.fields["begin"][index], tape.fields["end"][index] = due, woke
            tape.commit()


if __name__ == "__main__":
    sys.exit(main())
