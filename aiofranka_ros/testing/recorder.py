"""Every control cycle of an arm, read from the shared memory of node and control process.

Called by the demo and by benchmarks, in their one thread, several times a minute. The reader needs nothing of the
processes that it observes and cannot delay them; it also works after both are dead.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from aiofranka_ros.control.records import COMMANDS, CYCLE_RECORD, STATE, new
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.control.stamps import offset_to
from aiofranka_ros.kernels import Record

#: How long to wait for a block that is being written [s]; that takes some microseconds.
_TIMEOUT = 1.0


class CycleRecorder:
    """Keeps every control cycle from now on. Their stamps are [ns, system clock].

    :param address: of the shared memory: ``shared memory`` of the status ``control loop`` in the node's diagnostics.
    :param history: keep the cycles before now, too, as far as the memory still has them.
    :raises OSError: the memory does not exist any more.
    """

    def __init__(self, address: str, *, history: bool = False) -> None:
        self._file = os.stat(address).st_ino
        self._memory = SharedMemory.observe(address)
        self._state, self._commands = new(STATE), new(COMMANDS)
        self._position = 0 if history else self._memory.cycles.count
        self._parts: list[npt.NDArray[Any]] = []
        #: Cycles that were overwritten before they were fetched.
        self.unread = 0

    def reads(self, address: str) -> bool:
        """Whether ``address`` is the memory that this recorder reads; the next control process may reuse an address."""
        return os.stat(address).st_ino == self._file

    def fetch(self) -> None:
        """Copy the cycles recorded since the last call. The memory keeps sixteen seconds, so call it more often."""
        part, self._position, unread = self._memory.cycles.since(self._position)
        self.unread += unread
        if len(part):
            part["stamp"] += offset_to()
            self._parts.append(part)

    def take(self) -> npt.NDArray[Any]:
        """All cycles since the last call of this method, as ``CYCLE_RECORD`` (n,)."""
        self.fetch()
        parts, self._parts = self._parts, []
        return np.concatenate(parts) if parts else np.empty(0, CYCLE_RECORD)

    def state(self) -> Record:
        """The newest measured state, a ``STATE`` record; the next call overwrites it.

        :raises TimeoutError: its writer was interrupted.
        """
        return _read(self._memory.state, self._state)

    def commands(self) -> Record:
        """The commands in use, a ``COMMANDS`` record; the next call overwrites it."""
        return _read(self._memory.commands, self._commands)

    @property
    def heartbeats(self) -> int:
        """How many heartbeats the node has sent."""
        return self._memory.heartbeat

    def close(self) -> None:
        """Unmap the memory."""
        self._memory.close()


def _read(block: Any, copy: npt.NDArray[Any]) -> Record:
    end = time.monotonic() + _TIMEOUT
    while not block.read(copy):
        if time.monotonic() > end:
            raise TimeoutError(f"the block could not be read for {_TIMEOUT:g} s: its writer was interrupted")
        time.sleep(0.0)  # The writer was just changing it.
    return copy[0]
