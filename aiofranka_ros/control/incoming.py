"""Motions and chunks on their way from the node's memory to the kernels.

Used by the control loop, in its only thread. A path that replaces another is read into a second record, at once or a
part in each cycle, and waits there for its time; until then the other one stays in force.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aiofranka_ros.control.records import new
from aiofranka_ros.control.shared_memory import Block, GradualReader


class Words:
    """A record, an array of one, also as bytes and words: numpy takes some microseconds to look up a field."""

    def __init__(self, record: npt.NDArray[Any]) -> None:
        self.record = record
        self.bytes = record.view(np.uint8).data
        self.integers, self.numbers = self.bytes.cast("Q"), self.bytes.cast("d")


class Incoming:
    """The motion or chunk in force, and the one that will replace it.

    :param block: where the node writes it.
    :param dtype: MOTION or CHUNK, whose first field is the number.
    """

    def __init__(self, block: Block, dtype: np.dtype[Any]) -> None:
        assert dtype.fields is not None
        self._start = int(dtype.fields["start"][1]) // 8
        self._block, self._reader = block, GradualReader(block)
        self._present, self._next = Words(new(dtype)), Words(new(dtype))
        #: The one in force, for the kernels.
        self.record = self._present.record
        #: Number of the one that the commands name.
        self.number = 0
        #: Whether it still has to be read.
        self.reading = False
        #: Robot time from which it is in force, once it was read [s].
        self.due: float | None = None

    def reset(self, number: int) -> None:
        """Ignore number ``number`` and those before it: they belong to an earlier activation."""
        self.number, self.reading, self.due = number, False, None

    def expect(self, number: int, at_once: int = 0) -> None:
        """Read number ``number`` from now on; one that still waits for its time is replaced, too.

        :param at_once: if it has at most this many bytes, it is read in this call.
        """
        self.number, self.due = number, None
        self.reading = not (self._block.size <= at_once and self._block.read(self._next.bytes) and self._is_read())
        if self.reading:
            self._reader.restart(self._next.bytes)

    def read(self) -> None:
        """Read the next part of it."""
        self.reading = not (self._reader.proceed() and self._is_read())

    def _is_read(self) -> bool:
        taken = self._next
        if taken.integers[0] != self.number:
            return False
        self.due = taken.numbers[self._start]
        return True

    def switch(self) -> None:
        """Put the one that was read in force."""
        self.due = None
        self._present, self._next = self._next, self._present
        self.record = self._present.record
