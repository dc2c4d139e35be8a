"""Shared by all subjects: their command line, the policy, and the file with the measurement.

Imported by the processes of all subjects, each in its own environment, so it depends on neither project.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

try:
    from bench.loops.loads import LOADS, load
except ImportError:  # In the other project's environment this is a folder of scripts.
    from loads import LOADS, load

_THREADS_OF_NUMPY = set(os.listdir("/proc/self/task")) - {str(os.getpid())}
#: How long a subject runs before it is measured [s].
SETTLING = 1.5
#: The policy: its rate [Hz], how far it moves [m, rad], and its frequency [Hz].
RATE, AMPLITUDE_M, AMPLITUDE_RAD, FREQUENCY = 50, 0.02, 0.05, 0.25


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--subject", required=True)
    parser.add_argument("--mode", choices=("impedance", "osc"), required=True)
    parser.add_argument("--load", choices=LOADS, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--cpu", type=int, default=-1)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def keep_off(cpu: int) -> None:
    """Run this process on all processors except ``cpu``, if there are others. numpy's threads stay where they are.

    Loads use those threads. Threads and processes that start later inherit the choice.
    """
    others = os.sched_getaffinity(0) - {cpu}
    for thread in set(os.listdir("/proc/self/task")) - _THREADS_OF_NUMPY if others else ():
        os.sched_setaffinity(int(thread), others)


async def policy(controller: Any, mode: str) -> None:
    """Swing around the current position at :data:`RATE` until cancelled; the same calls for all subjects."""
    controller.switch(mode)
    controller.set_freq(RATE)
    begin, q, ee = time.monotonic(), np.array(controller.initial_qpos), np.array(controller.initial_ee)
    while True:
        share = 0.5 * (1.0 - np.cos(2.0 * np.pi * FREQUENCY * (time.monotonic() - begin)))
        if mode == "osc":
            target = ee.copy()
            target[1, 3] += AMPLITUDE_M * share
            await controller.set("ee_desired", target)
        else:
            await controller.set("q_desired", q + AMPLITUDE_RAD * share * np.array([1, 0, 0, 0, 0, 0, 1.0]))


class Cpu:
    """CPU time that a process, or one of its threads, has used [s]."""

    def __init__(self, pid: int, thread: int | None = None) -> None:
        self._path = Path(f"/proc/{pid}/task/{thread}/stat" if thread else f"/proc/{pid}/stat")
        self._tick = os.sysconf("SC_CLK_TCK")

    def used(self) -> float:
        """The CPU time so far [s]."""
        fields = self._path.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / self._tick


async def measure(
    options: argparse.Namespace,
    controller: Any,
    meters: Callable[[], dict[str, Cpu]],
    begin: Callable[[], None],
    cycles: Callable[[], dict[str, Any]],
    ended: Callable[[], str],
) -> None:
    """Run the policy under its load, and write the measurement.

    :param meters: by name; ``cpu`` is the meter of the loop.
    :param begin: discard everything before the call.
    :param cycles: returns, since then, arrays of ``time`` [s, of the robot], ``response`` [s], ``success_rate`` and
        ``written`` [s, system clock].
    :param ended: why the robot or the loop stopped; empty while it runs.
    """
    task: asyncio.Future[None] = asyncio.ensure_future(policy(controller, options.mode))
    try:
        async with load(options.load):
            await _unless_done(task, SETTLING)
            begin()
            running = meters()
            before, since = {name: meter.used() for name, meter in running.items()}, time.monotonic()
            await _unless_done(task, options.seconds)
            passed = time.monotonic() - since
            shares = {name: (meter.used() - before[name]) / passed for name, meter in running.items()}
            found, reason = cycles(), ended()
    except asyncio.CancelledError:  # This loop ends its process when the robot stops.
        write(options.output, cycles(), {"cpu": float("nan")}, ended() or "it ended its process")
        raise
    if task.done() and not task.cancelled() and task.exception() is not None:
        reason = reason or str(task.exception())
    task.cancel()
    write(options.output, found, shares, reason)


async def _unless_done(task: asyncio.Future[None], seconds: float) -> None:
    """Wait for ``seconds``, or until the policy has failed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not task.done():
        await asyncio.sleep(min(0.1, max(0.0, until - time.monotonic())))


def write(output: Path, cycles: dict[str, Any], shares: dict[str, float], ended: str) -> None:
    """Write the measurement atomically.

    :param shares: CPU time per second, by the name of the meter.
    """
    part = output.with_suffix(".part.npz")
    np.savez(part, ended=ended, **shares, **cycles)
    part.rename(output)


def run(main: Callable[[argparse.Namespace], Awaitable[None]]) -> None:
    """Run a subject's coroutine, then end the process even if threads are left."""
    options = arguments()
    try:
        asyncio.run(main(options))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
            os._exit(1)
