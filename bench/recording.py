"""What a recording of every cycle costs, and whether it has every cycle; ``make bench-recording``.

Through both links: an arm that this process owns, and one behind a node. First, this process blocks its event loop for
300 ms in every second while four threads compute, and a recording must have every control cycle all the same. Then
recordings of some seconds take turns with pauses of the same length; the response of the control loop in both is read
from its shared memory at the end of each, and so are the processor time of the node and the rate of its state.

The exit status is 0 if no row is missing or there twice, and a recording costs no more than :data:`_RATIO`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from aiofranka_ros import FrankaController, RobotInterface, RosInterface
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.testing import NodeProcess, descendant, isolate

#: The load: threads that compute, and for how long the event loop is blocked in each second [s].
_THREADS, _BLOCKED = 4, 0.3
#: How long a recording and the pause after it take [s], and how much slower responses may be with it.
_TURN, _RATIO = 5.0, 1.05


@dataclass
class Found:
    """What was found with one link.

    :ivar rows: of the recording under load; ``cycles``: as many as the control loop had in that time.
    :ivar response: of each cycle [s], without (0) and with (1) a recording.
    :ivar busy: processor time of the node in these times [s]; ``states``: how many it published.
    """

    rows: int = 0
    cycles: int = 0
    doubled: int = 0
    dropped: int = 0
    response: tuple[list[np.ndarray], list[np.ndarray]] = field(default_factory=lambda: ([], []))
    busy: list[float] = field(default_factory=lambda: [0.0, 0.0])
    states: list[int] = field(default_factory=lambda: [0, 0])
    seconds: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def quantile(self, share: float, recorded: bool) -> float:
        """Of the responses [us]."""
        return 1e6 * float(np.quantile(np.concatenate(self.response[recorded]), share))


async def under_load(controller: FrankaController, memory: SharedMemory, seconds: float, found: Found) -> None:
    """Record while the event loop is blocked and threads compute."""
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=compute) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    try:
        with controller.record(["cycle", "time"]) as recording:
            begin, first = time.monotonic(), memory.cycles.count
            while time.monotonic() < begin + seconds:
                time.sleep(_BLOCKED)
                await asyncio.sleep(1.0 - _BLOCKED)
            last = memory.cycles.count
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    numbers = recording.data()["cycle"]
    # Some cycles before and after these moments are recorded, too.
    inside = numbers[(numbers >= first) & (numbers < last)]
    found.rows, found.cycles, found.dropped = len(inside), last - first, recording.dropped
    found.doubled = len(numbers) - len(np.unique(numbers))


async def in_turns(
    controller: FrankaController, memory: SharedMemory, node: int | None, turns: int, found: Found
) -> None:
    """Record and pause in turns."""
    for turn in range(2 * turns):
        recorded = turn % 2
        recording = controller.record() if recorded else contextlib.nullcontext()
        with recording:
            await asyncio.sleep(0.5)  # The first rows may come a little later.
            position, busy, begin = memory.cycles.count, _busy(node), time.monotonic()
            states = 0
            while time.monotonic() < begin + _TURN:
                await controller.next_state()
                states += 1
            found.busy[recorded] += _busy(node) - busy
            found.seconds[recorded] += time.monotonic() - begin
            found.states[recorded] += states
            rows, _, _ = memory.cycles.since(position)
        found.response[recorded].append(rows["response"].copy())


def _busy(pid: int | None) -> float:
    """Processor time of a process until now [s]; 0 without one."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(kind: str, output: Path, seconds: float, turns: int) -> Found:
    """Everything for the link of this kind, ``direct`` or ``node``."""
    found = Found()
    with contextlib.ExitStack() as stack:
        node = None
        if kind == "node":
            node = NodeProcess(output / "recording_node.log", heartbeat_timeout=1.0, discovery_time=0.0)
            stack.callback(node.close)
        link = RobotInterface("sim") if node is None else RosInterface(node.name)
        controller = FrankaController(link)
        controller.guard = None  # It would report what is done here on purpose.
        async with controller:
            control = descendant(os.getpid() if node is None else node.process.pid, "aiofranka_ros.control.process")
            words = Path(f"/proc/{control}/cmdline").read_text().split("\0")
            descriptor = words[words.index("--shared-memory") + 1]
            memory = stack.enter_context(SharedMemory.observe(f"/proc/{control}/fd/{descriptor}"))
            await under_load(controller, memory, seconds, found)
            await in_turns(controller, memory, None if node is None else node.process.pid, turns, found)
    return found


def verdicts(kind: str, found: Found) -> list[tuple[str, str, bool]]:
    """What is required, what was found, and whether that is good."""
    missing = found.cycles - found.rows
    result = [
        (f"{kind}: rows missing of {found.cycles} cycles under load", f"{missing}", missing == 0),
        (f"{kind}: rows there twice, or counted as dropped", f"{found.doubled + found.dropped}",
         found.doubled + found.dropped == 0),
    ]  # fmt: skip
    for share, name in ((0.5, "p50"), (0.999, "p99.9")):
        before, after = found.quantile(share, False), found.quantile(share, True)
        result.append(
            (f"{kind}: response {name} with a recording, at most {_RATIO:g} of without ({before:.0f} us)",
             f"{after / before:.3f}", after <= _RATIO * before)
        )  # fmt: skip
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write ``recording.md``; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make bench-recording", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="folder for the report [%(default)s]")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to record under load [s, %(default)g]")
    parser.add_argument("--turns", type=int, default=12, help="recordings and pauses of 5 s [%(default)d]")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    isolate()
    console, lines, good = Console(), ["| required | found | |", "|---|---|---|"], True
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        for kind in progress.track(("direct", "node"), description="recording"):
            found = asyncio.run(measure(kind, options.output, options.seconds, options.turns))
            for what, value, met in verdicts(kind, found):
                lines.append(f"| {what} | {value} | {'✓' if met else '✗'} |")
                good &= met
            if kind == "node":
                (off, on), (before, after) = found.seconds, found.states
                lines.append(f"| node: states per second with a recording, and without | {after / on:.1f}, "
                             f"{before / off:.1f} | |")  # fmt: skip
                lines.append(f"| node: its share of a processor with a recording, and without | "
                             f"{found.busy[1] / on:.3f}, {found.busy[0] / off:.3f} | |")  # fmt: skip
    report = options.output / "recording.md"
    report.write_text("\n".join(lines) + "\n")
    console.print("\n".join(lines), soft_wrap=True, markup=False)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
