"""What a process needs from this computer to answer a robot every millisecond, and how to get it.

Used by the control process, which asks for all of it in its one thread before it connects, and has real-time scheduling
while it controls an arm; and by the doctor, which tries the same in a separate process
(``python -m aiofranka_ros.control.realtime``) and checks the processors. Each problem has the command that fixes it.
Nothing here fails: an arm can be driven without real-time scheduling, but then other programs can disturb it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import resource
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from aiofranka_ros.errors import Problem

#: SCHED_FIFO priority of the control process: above other real-time programs, below the kernel's own threads.
PRIORITY = 80
#: ``mlockall`` flags, ``<sys/mman.h>``.
_MCL_CURRENT, _MCL_FUTURE = 1, 2
#: Waking up from deeper idle states than this takes a noticeable part of the millisecond [µs].
_LONG_WAKE_UP = 100
_CPUS = Path("/sys/devices/system/cpu")

_LIMIT = 'echo "$USER - {}" | sudo tee -a /etc/security/limits.d/99-realtime.conf, then log out and in'
NO_SCHEDULING = Problem("no real-time scheduling (SCHED_FIFO)", _LIMIT.format("rtprio 99"))
NO_LOCKED_MEMORY = Problem("memory is not locked", _LIMIT.format("memlock unlimited"))
NO_REALTIME_KERNEL = Problem(
    "the kernel is not a real-time one (PREEMPT_RT)",
    "sudo pro enable realtime-kernel (Ubuntu) or sudo apt install linux-image-rt-amd64 (Debian), then restart",
)
POWER_SAVING = Problem("processors save power", "sudo cpupower frequency-set -g performance")
SLOW_WAKE_UP = Problem(
    "processors sleep too deeply to wake up in time", "sudo setfacl -m u:$USER:rw /dev/cpu_dma_latency"
)


def prefer_real_time(priority: int) -> list[Problem]:
    """Ask the system for locked memory and awake processors, and check whether it grants :func:`real_time`.

    :param priority: SCHED_FIFO priority; 0: ordinary scheduling.
    :returns: what the system did not grant.
    """
    refused = []
    with scheduled_as_before():
        try:
            _schedule(priority)
        except OSError:
            refused.append(NO_SCHEDULING)
    # A core that sleeps between two cycles takes a while to wake up. The request for 0 µs holds while the descriptor is
    # open, which is until this process ends.
    with contextlib.suppress(OSError):
        os.write(os.open("/dev/cpu_dma_latency", os.O_WRONLY | os.O_CLOEXEC), struct.pack("i", 0))
    if not _lock_memory():
        refused.append(NO_LOCKED_MEMORY)
    if "powersave" in governors():
        refused.append(POWER_SAVING)
    return refused


@contextlib.contextmanager
def real_time(priority: int) -> Iterator[None]:
    """In this context nothing delays this thread: neither other processes nor Python's garbage collection.

    Use it only for the control loop. Connecting and disconnecting take a tenth of a second, during which no other
    process, e.g. the node of another arm, would get this processor.

    :param priority: SCHED_FIFO priority; 0, or one that the system does not grant: ordinary scheduling.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        with scheduled_as_before():
            with contextlib.suppress(OSError):
                _schedule(priority)
            yield
    finally:
        gc.enable()
        gc.unfreeze()


def _lock_memory() -> bool:
    """Lock all memory of this process, now and in the future, if no limit applies; return whether it is locked.

    Under a finite limit, an allocation that exceeds it later would fail in the middle of a motion.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = hard == resource.RLIM_INFINITY
    # With a limit of 0, only a process that may exceed every limit can lock anything.
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY if unlimited else 0, hard))
    try:
        return bool(ctypes.CDLL(None, use_errno=True).mlockall(_MCL_CURRENT | _MCL_FUTURE) == 0)
    finally:
        if not unlimited:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))


def _schedule(priority: int) -> None:
    if priority > 0:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))


@contextlib.contextmanager
def scheduled_as_before() -> Iterator[None]:
    """Restore the scheduling of this thread, whatever changes it inside this context."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def realtime_kernel() -> bool:
    """Whether the running kernel is a real-time one: by its version, or by a file that patches for older ones add."""
    return "PREEMPT_RT" in os.uname().version.replace(" ", "_") or _contents([Path("/sys/kernel/realtime")]) == {"1"}


def governors() -> set[str]:
    """The governors of the processors' frequencies; empty if the system does not report them."""
    return _contents(_CPUS.glob("cpu[0-9]*/cpufreq/scaling_governor"))


def turbo() -> bool | None:
    """Whether processors may exceed their nominal frequency; ``None`` if the system does not report it."""
    for path, on in ((_CPUS / "intel_pstate/no_turbo", "0"), (_CPUS / "cpufreq/boost", "1")):
        if values := _contents([path]):
            return values == {on}
    return None


def isolated_cpus() -> str:
    """The CPUs that the kernel keeps free (``isolcpus``), e.g. ``2-3``; empty if there are none."""
    return "".join(_contents([_CPUS / "isolated"]))


def longest_wake_up() -> int:
    """How long a processor may take to wake up from the deepest idle state in use [µs]."""
    longest = 0
    for state in _CPUS.glob("cpu[0-9]*/cpuidle/state[0-9]*"):
        if _contents([state / "disable"]) != {"1"}:
            longest = max([longest, *map(int, _contents([state / "latency"]))])
    return longest


def can_keep_awake() -> bool:
    """Whether this user may keep the processors awake, or does not need to."""
    return longest_wake_up() < _LONG_WAKE_UP or os.access("/dev/cpu_dma_latency", os.W_OK)


def _contents(paths: Iterable[Path]) -> set[str]:
    """The contents of the files that can be read."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            found.add(path.read_text().strip())
    return found


def main() -> None:
    """Try to get real-time scheduling as the control process does; print as JSON what is missing."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--priority", type=int, default=PRIORITY, help="SCHED_FIFO priority; 0: none [%(default)s]")
    options = parser.parse_args()
    missing = prefer_real_time(options.priority)
    sys.stdout.write(json.dumps([asdict(problem) for problem in missing]) + "\n")


if __name__ == "__main__":
    main()
