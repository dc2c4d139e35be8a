"""What only the tests of this package share; everything else they use is in :mod:`aiofranka_ros.testing`."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

#: The repository.
ROOT = Path(__file__).resolve().parents[1]


def lose_packets(control: int) -> None:
    """Stop a control process for more than the twenty cycles that the robot tolerates without a torque.

    The pause is too short for the node to notice.
    """
    os.kill(control, signal.SIGSTOP)
    try:
        time.sleep(0.04)
    finally:
        os.kill(control, signal.SIGCONT)


@contextlib.contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    """Inside this context, new descriptors of this process are at least ``count``."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 200
    if before[1] != resource.RLIM_INFINITY and before[1] < wanted:
        pytest.skip(f"this system allows only {before[1]} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], wanted), before[1]))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        while True:
            descriptor = os.open(os.devnull, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            if descriptor >= count - 1:
                break
        yield
