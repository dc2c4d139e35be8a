"""Records that one process writes, up to every millisecond, and another reads along, in memory that both have mapped.

Written by the simulated arm, the proxy and the witness, each in the thread that has the time to keep, and read by
whoever examines a fault or a soak. The memory is that one's, so what was recorded before a process was killed is not
lost with it. It is no file on a disk: whoever writes into one waits, now and then, until the disk has taken what was
written before.
"""

from __future__ import annotations

import mmap
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

#: Records that are kept: a minute.
CAPACITY = 1 << 16
_HEAD = 64


class Tape:
    """A ring of records; one writer, any number of readers.

    :param dtype: of one record.
    :param path: under which another process's is found; without, a new one is made.
    :ivar path: under which another process finds this one, as long as this object lives.
    """

    def __init__(self, dtype: np.dtype[Any], path: Path | None = None) -> None:
        file = os.memfd_create("tape") if path is None else os.open(path, os.O_RDWR | os.O_CLOEXEC)
        weakref.finalize(self, os.close, file)
        if path is None:
            os.truncate(file, _HEAD + CAPACITY * dtype.itemsize)
        self.path = path or Path(f"/proc/{os.getpid()}/fd/{file}")
        # Every page at once: each would cost the writer time when it is first used.
        self._map = mmap.mmap(file, 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self._count = np.frombuffer(self._map, np.uint64, count=1)
        self._records = np.frombuffer(self._map, dtype, count=CAPACITY, offset=_HEAD)
        #: A view of every field, made once: looking them up by name every millisecond would cost time.
        self.fields = {name: self._records[name] for name in dtype.names or ()}

    @property
    def count(self) -> int:
        """Records written so far."""
        return int(self._count[0])

    def next(self) -> int:
        """Index of the record to fill now; :meth:`commit` publishes it. Writer only."""
        return int(self._count[0]) % CAPACITY

    def commit(self) -> None:
        """Publish the record of :meth:`next`. Writer only."""
        self._count[0] += np.uint64(1)

    def since(self, position: int) -> tuple[npt.NDArray[Any], int]:
        """Copies of the records after the first ``position`` ones, and the position to ask for next."""
        count = self.count
        first = max(position, count - CAPACITY + 1)
        index = np.arange(first, count) % CAPACITY
        copies = self._records[index]
        intact = max(first, self.count - CAPACITY + 1)
        return copies[intact - first :], count
