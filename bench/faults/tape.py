"""Records that one process writes, up to every millisecond, while another one reads them, in shared memory.

The simulated arm, the proxy and the witness write them, each in its time-critical thread; the process that examines a
fault or a soak reads them. That process owns the memory, so records survive the death of the process that wrote them.
It is not a file on a disk, because a writer sometimes has to wait for the disk.
"""

from __future__ import annotations

import mmap
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

#: How many records are kept: a minute.
CAPACITY = 1 << 16
_HEAD = 64


class Tape:
    """A ring of records; one writer, any number of readers.

    :param dtype: the type of one record.
    :param path: of a tape that another process made; by default, a new one is made.
    :ivar path: where another process finds this tape, as long as this object lives.
    """

    def __init__(self, dtype: np.dtype[Any], path: Path | None = None) -> None:
        file = os.memfd_create("tape") if path is None else os.open(path, os.O_RDWR | os.O_CLOEXEC)
        weakref.finalize(self, os.close, file)
        if path is None:
            os.truncate(file, _HEAD + CAPACITY * dtype.itemsize)
        self.path = path or Path(f"/proc/{os.getpid()}/fd/{file}")
        # Map every page now: each would cost the writer time on first use.
        self._map = mmap.mmap(file, 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self._count = np.frombuffer(self._map, np.uint64, count=1)
        self._records = np.frombuffer(self._map, dtype, count=CAPACITY, offset=_HEAD)
        #: A view of every field, made once, because a lookup by name every millisecond would cost time.
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
