"""What the control process asks the system for: nothing that is granted may make it fail later."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest
from common import ROOT

from aiofranka_ros.control import realtime

pytestmark = pytest.mark.unit

#: An unprivileged process with little more locked memory allowed than it has now. Locking it succeeds, but nothing that
#: it allocates later would fit.
LITTLE_LEFT = """
import os, resource
from aiofranka_ros.control import realtime
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
limit = size + (32 << 20)
if hard != resource.RLIM_INFINITY:
    limit = min(limit, hard)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
missing = realtime.prefer_real_time(0)
print(realtime.NO_LOCKED_MEMORY in missing, resource.getrlimit(resource.RLIMIT_MEMLOCK) == (limit, limit))
print(len(bytearray(256 << 20)))
"""


def test_memory_is_not_locked_under_a_limit_that_would_make_a_later_allocation_fail():
    ran = subprocess.run([sys.executable, "-c", LITTLE_LEFT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["True", "True", str(256 << 20)], ran.stderr


@pytest.mark.parametrize(
    ("hard", "privileged", "locked"),
    [
        (resource.RLIM_INFINITY, False, True),
        (8 << 30, False, False),  # More than this process has, but not than it may have later.
        (8 << 20, False, False),
        (0, False, False),
        (8 << 20, True, True),
    ],
)
def test_memory_is_locked_only_if_no_limit_applies(monkeypatch, hard, privileged, locked):
    limits, calls, size = [(hard, hard)], [], 4 << 30
    before = limits[0]

    def lock(flags: int) -> int:
        """As ``mlockall``, see its manual page."""
        soft = limits[-1][0]
        granted = privileged or soft == resource.RLIM_INFINITY or soft >= size
        calls.append(granted)
        return 0 if granted else -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(mlockall=lock))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, values: limits.append(values))
    assert realtime._lock_memory() == locked
    assert calls[-1] == locked
    assert limits[-1] == before or hard == resource.RLIM_INFINITY, "other limits of the process do not change"
