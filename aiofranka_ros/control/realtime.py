"""What a process needs of this computer to answer a robot every millisecond: asking for it, and how to get it.

Used by the control process, which asks for all of it in its one thread before there is an arm, and has real-time
scheduling while it controls one; and by the doctor, which tries the same in a process of its own
(``python -m aiofranka_ros.control.realtime``) and looks at the processors. Whatever is missing is said here, once,
with the command that mends it. Nothing here fails: without real time an arm can be driven, but whoever else uses the
computer decides how well.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import mmap
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from aiofranka_ros.errors import Problem

#: SCHED_FIFO priority of the control process: above what else asks for real time, below the kernel's own threads.
PRIORITY = 80
#: ``mlockall`` flags, ``<sys/mman.h>``.
_MCL_CURRENT, _MCL_FUTURE = 1, 2
#: More than the address space of a control process [bytes].
_ADDRESS_SPACE = 4 << 30
#: Idle states that take longer to wake up from cost a noticeable part of the millisecond [µs].
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
    """Ask the system for locked memory and awake processors, and whether it would grant :func:`real_time`.

    :param priority: SCHED_FIFO priority; 0: ordinary scheduling, which is not missing then.
    :returns: what the system did not grant.
    """
    refused = []
    with scheduled_as_before():
        try:
            _schedule(priority)
        except OSError:
            refused.append(NO_SCHEDULING)
    # A core that fell asleep between two cycles takes a while to wake up. The request for 0 µs holds while the
    # descriptor is open: until this process ends.
    with contextlib.suppress(OSError):
        os.write(os.open("/dev/cpu_dma_latency", os.O_WRONLY | os.O_CLOEXEC), struct.pack("i", 0))
    if ctypes.CDLL(None, use_errno=True).mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        refused.append(NO_LOCKED_MEMORY)
    if "powersave" in governors():
        refused.append(POWER_SAVING)
    return refused


@contextlib.contextmanager
def real_time(priority: int) -> Iterator[None]:
    """Let nothing delay this thread inside of this context: neither other processes nor Python's garbage collection.

    Only for what is due every millisecond. Connecting, ending and the like take a tenth of a second, in which no other
    process would get this processor, the node of another arm for example.

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


def _schedule(priority: int) -> None:
    if priority > 0:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))


@contextlib.contextmanager
def scheduled_as_before() -> Iterator[None]:
    """Give this thread back the scheduling that it had, whatever changes it inside of this context."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def realtime_kernel() -> bool:
    """Whether the running kernel is a real-time one.

    The file is there with the patches for older kernels; the version says so with every kernel.
    """
    file = Path("/sys/kernel/realtime")
    return "PREEMPT_RT" in os.uname().version.replace(" ", "_") or (file.exists() and file.read_text().strip() == "1")


def governors() -> set[str]:
    """What decides about the processors' frequencies; empty where the system does not say."""
    return _contents(_CPUS.glob("cpu[0-9]*/cpufreq/scaling_governor"))


def turbo() -> bool | None:
    """Whether processors may go beyond their nominal frequency; ``None`` where the system does not say."""
    for path, on in ((_CPUS / "intel_pstate/no_turbo", "0"), (_CPUS / "cpufreq/boost", "1")):
        if values := _contents([path]):
            return values == {on}
    return None


def isolated_cpus() -> str:
    """The CPUs that the kernel keeps free (``isolcpus``), e.g. ``2-3``; empty where there are none."""
    return "".join(_contents([_CPUS / "isolated"]))


def longest_wake_up() -> int:
    """How long a processor may take to wake up from its deepest idle state that is in use [µs]."""
    longest = 0
    for state in _CPUS.glob("cpu[0-9]*/cpuidle/state[0-9]*"):
        if _contents([state / "disable"]) != {"1"}:
            longest = max([longest, *map(int, _contents([state / "latency"]))])
    return longest


def can_keep_awake() -> bool:
    """Whether this user may keep the processors awake, or need not."""
    return longest_wake_up() < _LONG_WAKE_UP or os.access("/dev/cpu_dma_latency", os.W_OK)


def _contents(paths: Iterable[Path]) -> set[str]:
    """What stands in the files that can be read."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            found.add(path.read_text().strip())
    return found


def main() -> int:
    """Try to get real time for a process as large as the control process; say as JSON what is missing."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--priority", type=int, default=PRIORITY, help="SCHED_FIFO priority; 0: none [%(default)s]")
    options = parser.parse_args()
    # The limit is on the address space; of pages that nobody may touch, none is taken.
    with mmap.mmap(-1, _ADDRESS_SPACE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 0):
        missing = prefer_real_time(options.priority)
    sys.stdout.write(json.dumps([asdict(problem) for problem in missing]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
