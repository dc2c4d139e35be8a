"""What only the tests of this package share; everything else they use is in :mod:`aiofranka_ros.testing`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import selectors
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


class InstantLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer instead of passing, so that clocks are exact."""

    def __init__(self) -> None:
        super().__init__(selectors.SelectSelector())
        self.now = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None) -> Any:
            events = select(0.0 if timeout is None or timeout >= 0.0 else timeout)
            if not events and timeout is not None and timeout > 0.0:
                self.now += timeout
            return events or select(0.0 if timeout is not None else 1.0)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now
