"""How long a node is silent at a time: a process that watches its heartbeat in shared memory.

    python -m bench.faults.heartbeats --memory /proc/123/fd/4 --tape PATH

:class:`Heartbeats` is the handle of the process that stages faults. It is a separate process because that one is busy
itself while it makes messages of megabytes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aiofranka_ros.control.shared_memory import SharedMemory
from bench.faults.helper import Helper
from bench.faults.tape import Tape

#: Heartbeats so far, and when that was noticed.
BEAT = np.dtype([("stamp", "i8"), ("count", "i8")])  # [ns, system clock]
#: How often to look [s].
_PERIOD = 0.0005


class Heartbeats(Helper):
    """Watches the heartbeats of one node until it is closed.

    :param memory: address of the shared memory, from the diagnostics.
    :param folder: for its log.
    """

    def __init__(self, memory: str, folder: Path) -> None:
        self.tape = Tape(BEAT)
        options = ["--memory", memory, "--tape", str(self.tape.path)]
        super().__init__("bench.faults.heartbeats", options, folder / "heartbeats.log")

    def longest_silence(self, since: int, until: int) -> float:
        """The longest time between two heartbeats, one of which was between ``since`` and ``until`` [ns] [s]."""
        beats, _ = self.tape.since(0)
        steps = np.diff(beats["stamp"]) / np.maximum(
            1, np.diff(beats["count"])
        )  # More than one: this process was late.
        shown = (beats["stamp"][1:] > since) & (beats["stamp"][:-1] < until)
        return 1e-9 * float(steps[shown].max(initial=0.0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch until standard input ends, or SIGTERM."""
    parser = argparse.ArgumentParser(description="Watches the heartbeat of a node; started by bench.faults.")
    parser.add_argument("--memory", required=True, help="address of the shared memory")
    parser.add_argument("--tape", type=Path, required=True, help="tape to record on")
    options = parser.parse_args(arguments)
    with contextlib.suppress(OSError):  # Without the permission, it is late now and then, which it notices.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))
    tape = Tape(BEAT, options.tape)
    ended = select.poll()
    ended.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    with SharedMemory.observe(options.memory) as memory:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        before = -1
        while not ended.poll(0):
            count = memory.heartbeat
            if count != before:
                fields, index = tape.fields, tape.next()
                fields["stamp"][index], fields["count"][index] = time.time_ns(), count
                tape.commit()
                before = count
            time.sleep(_PERIOD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
