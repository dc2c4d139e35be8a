"""Records that one process writes, up to every millisecond, and another reads along, in a file that both have mapped.

Written by the simulated arm, the proxy and the witness, each in the thread that has the time to keep, and read by
whoever examines a fault or a soak. The file outlives all of them, so what was recorded before a process was killed is
not lost with it.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

#: Records that are kept: a minute.
CAPACITY = 1 << 16
_HEAD = 64


class Tape:
    """A ring of records in a file; one writer, any number of readers.

    :param path: of the file.
    :param dtype: of one record.
    :param create: make the file, empty.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], *, create: bool = False) -> None:
        with path.open("w+b" if create else "r+b") as file:
            if create:
                file.truncate(_HEAD + CAPACITY * dtype.itemsize)
            self._map = mmap.mmap(file.fileno(), 0)
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

    def close(self) -> None:
        """Let go of the file; arrays that still look into it keep it mapped until they are gone."""
        self.fields = {}

    def __enter__(self) -> Tape:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
