"""Motions and chunks on their way from the node's memory to the kernels.

Used by the control loop, in its only thread. A path that replaces another is read into a second record, a part in each
cycle, and waits there for its time; until then the other one stays in force.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from aiofranka_ros.control.records import new
from aiofranka_ros.control.shared_memory import Block, GradualReader


class Incoming:
    """The motion or chunk in force, and the one that will replace it.

    :param block: where the node writes it.
    :param dtype: MOTION or CHUNK.
    """

    def __init__(self, block: Block, dtype: np.dtype[Any]) -> None:
        #: The one in force, for the kernels.
        self.record = new(dtype)
        self._next, self._reader = new(dtype), GradualReader(block)
        #: Number of the one that the commands name.
        self.number = 0
        #: Whether it still has to be read.
        self.reading = False
        #: Robot time from which it is in force, once it was read [s].
        self.due: float | None = None

    def reset(self, number: int) -> None:
        """Ignore number ``number`` and those before it: they belong to an earlier activation."""
        self.number, self.reading, self.due = number, False, None

    def expect(self, number: int) -> None:
        """Begin to read number ``number``; one that still waits for its time is replaced, too."""
        self.number, self.reading, self.due = number, True, None
        self._reader.restart(self._next)

    def read(self, size: int) -> None:
        """Read the next ``size`` bytes."""
        if self._reader.proceed(size) and self._next["id"][0] == self.number:
            self.due, self.reading = float(self._next["start"][0]), False

    def switch(self) -> None:
        """Put the one that was read in force."""
        self.due = None
        self.record, self._next = self._next, self.record
