"""Recordings of every control cycle: ``controller.record()``.

Used by policies, in their process. Rows are collected in other threads, so a blocked event loop loses none.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aiofranka_ros.control.cycles import Cycles, check_fields, columns
from aiofranka_ros.control.records import CYCLE_RECORD
from aiofranka_ros.errors import ConfigurationError
from aiofranka_ros.recording.rows import write_rows

#: A first row this much later than asked for shows that others are missing [ns]: half a cycle more than one.
_LATE = 1_500_000
_CYCLE = 1_000_000
#: The field that a file of messages needs for their times.
_STAMP = "stamp"
#: Endings of the files that can be written.
_ENDINGS = (".npz", ".mcap")
#: So many rows become columns together.
_TOGETHER = 5000
#: How often a recording that ends looks for its last rows [s].
_LOOK = 0.01


class Recording:
    """Rows of control cycles; made by :meth:`.FrankaController.record`, ended by ``with`` or :meth:`stop`.

    Its methods may be called from any thread, and while it records.

    :ivar fields: names of the columns.
    :ivar path: where :meth:`stop` saves the rows; ``None``: nowhere.
    """

    def __init__(self, fields: Sequence[str], path: str | os.PathLike[str] | None) -> None:
        self.fields = check_fields(fields)
        self._kept = tuple(dict.fromkeys([*self.fields, _STAMP]))
        self.path = None if path is None else _writable(Path(path))
        self._lock = threading.Lock()
        # Rows as columns, and those that are not yet: if other threads compute, many small arrays take long.
        self._parts: list[dict[str, npt.NDArray[Any]]] = []
        self._raw: list[Cycles] = []
        self._raw_rows = 0
        self._rows = self._dropped = 0
        self._source, self._next = -1, 0
        self._begin = self._newest = 0  # [ns]
        self._read: Callable[[], None] = lambda: None
        self._finish: Callable[[], None] | None = None

    def follow(self, read: Callable[[], None], finish: Callable[[], None], begin: int = 0) -> Recording:
        """Begin; called by the link.

        :param read: calls :meth:`take` with the rows that there are now.
        :param finish: the same for the last time.
        :param begin: rows before are left out [ns, as their stamps]; 0: none are.
        """
        self._begin, self._read, self._finish = begin, read, finish
        return self

    @property
    def recording(self) -> bool:
        """Whether it still records."""
        return self._finish is not None

    @property
    def rows(self) -> int:
        """How many cycles were recorded."""
        self._read()
        return self._rows

    @property
    def dropped(self) -> int:
        """How many cycles are missing between others, because this process or the network could not keep up.

        Cycles that the robot did not get an answer to in time have no row either; the field ``lost`` counts them.
        """
        return self._dropped

    def take(self, cycles: Cycles) -> None:
        """Add rows; called by the link, in any thread. Rows that it has already are left out."""
        with self._lock:
            rows, number = cycles.rows, cycles.number
            if cycles.source != self._source:
                self._source, self._next = cycles.source, number
            if self._begin:  # All rows so far were earlier.
                stamps = cycles.stamps
                skipped = int(np.searchsorted(stamps, self._begin))
                self._next = number + skipped
                if skipped == len(rows):
                    return
                late = int(stamps[skipped]) - self._begin
                self._dropped += late // _CYCLE if skipped == 0 and late > _LATE else 0
                self._begin = 0
            known = self._next - number
            if known >= len(rows):
                return
            if known < 0:
                self._dropped -= known
            fresh = Cycles(cycles.source, max(number, self._next), rows[max(known, 0) :], cycles.offset)
            self._next = number + len(rows)
            self._raw.append(fresh)
            self._raw_rows += len(fresh.rows)
            if self._raw_rows >= _TOGETHER:
                self._convert()
            self._newest = int(fresh.stamps[-1])
            self._rows += len(fresh.rows)

    def wait_until(self, stamp: int, timeout: float) -> None:
        """Wait until a row of this time [ns, as their stamps] has come; called by the link.

        :param timeout: how long to wait if no row comes [s]: the arm may have stopped.
        """
        self._read()
        newest, deadline = self._newest, time.monotonic() + timeout
        while newest < stamp and time.monotonic() < deadline:
            time.sleep(_LOOK)
            self._read()
            if self._newest > newest:
                newest, deadline = self._newest, time.monotonic() + timeout

    def data(self) -> dict[str, npt.NDArray[Any]]:
        """The rows so far, oldest first: an array for each field, with a row for each cycle."""
        return self._columns()[0]

    def _convert(self) -> None:
        """Make columns of the rows that are none yet; with the lock."""
        raw = self._raw or [Cycles(0, 0, np.zeros(0, CYCLE_RECORD), 0)]
        self._parts.append(columns(raw, self._kept))
        self._raw, self._raw_rows = [], 0

    def _columns(self) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.int64]]:
        """The rows so far, and their stamps [ns]."""
        self._read()
        with self._lock:
            if self._raw or not self._parts:
                self._convert()
            if len(self._parts) > 1:
                self._parts = [{name: np.concatenate([part[name] for part in self._parts]) for name in self._kept}]
            found = self._parts[0]
        return {name: found[name] for name in self.fields}, found[_STAMP]

    def save(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Save the rows so far, whole or not at all: for numpy (``.npz``), or for Foxglove (``.mcap``).

        :param path: where; ``None``: the recording's own.
        :returns: the file.
        :raises ConfigurationError: there is no path, it has another ending, or its folder cannot be written to.
        :raises OSError: it could not be written, e.g. because the disk is full.
        """
        target = self.path if path is None else _writable(Path(path))
        if target is None:
            raise ConfigurationError("the recording has no path: give save() one")
        data, stamps = self._columns()
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                if target.suffix == ".mcap":
                    write_rows(file, data, stamps)
                else:
                    np.savez(file, **data)  # type: ignore[arg-type]
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return target

    def stop(self) -> dict[str, npt.NDArray[Any]]:
        """End the recording, and save it if it has a path; again, it does nothing more.

        :returns: :meth:`data`.
        :raises OSError: it could not be saved; :meth:`save` may be called again, with another path.
        """
        finish, self._finish = self._finish, None
        if finish is not None:
            finish()
            self._read = lambda: None
            if self.path is not None:
                self.save()
        return self.data()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "recording" if self.recording else "ended"
        return f"<Recording of {', '.join(self.fields)}: {self._rows} rows, {state}>"


def _writable(path: Path) -> Path:
    """``path``, if a file can be written there; its folder is made.

    :raises ConfigurationError: it cannot, or has another ending than that of a known format.
    """
    if path.suffix not in _ENDINGS:
        raise ConfigurationError(f"a recording is saved as {' or '.join(_ENDINGS)}, not as {path.name!r}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    return path.absolute()
