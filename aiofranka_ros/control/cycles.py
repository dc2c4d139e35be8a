"""The record of every control cycle, read while the arm moves: as it is, or as columns with the names that scripts use.

Used by recordings (:mod:`aiofranka_ros.api.recording`) in the policy's process, in any thread, and by the node's topic
of cycles.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aiofranka_ros.control.records import CYCLE_RECORD
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.control.stamps import offset_to
from aiofranka_ros.errors import ConfigurationError, unknown
from aiofranka_ros.kernels import Array, Record

#: How often the ring is read [s]: it keeps 16 s, so a busy process may be late.
_PERIOD = 0.1


@dataclass(frozen=True)
class Cycles:
    """Records of consecutive control cycles.

    :ivar source: whose records; those of another control process are numbered from 0 again.
    :ivar number: of the first one.
    :ivar rows: records of :data:`~aiofranka_ros.control.records.CYCLE_RECORD` (n,).
    :ivar offset: what to add to their stamps for the clock of ``state["stamp"]`` [ns].
    """

    source: int
    number: int
    rows: npt.NDArray[Any]
    offset: int

    @property
    def stamps(self) -> npt.NDArray[np.int64]:
        """When the torques were sent [ns, the clock of ``state["stamp"]``] (n,)."""
        return np.asarray(self.rows["stamp"] + self.offset)


class CycleReader:
    """Calls ``take`` with the records of all cycles from now on, in a separate thread, until :meth:`close`.

    :param memory: the memory of the control process that drives the arm at present; ``None``: none does.
    """

    def __init__(self, memory: Callable[[], SharedMemory | None], take: Callable[[Cycles], object]) -> None:
        self._memory, self._take = memory, take
        self._source = memory()
        self._sources = 0
        self._position = 0 if self._source is None else self._source.cycles.count
        self._lock, self._closed = threading.Lock(), threading.Event()
        threading.Thread(target=self._run, name="aiofranka_ros-cycles", daemon=True).start()

    def read(self) -> None:
        """Read what there is now; also those of a control process that has ended since. Nothing after :meth:`close`."""
        with self._lock:
            if self._closed.is_set():
                return
            self._read_rest()
            memory = self._memory()
            if memory is not None and memory is not self._source:
                self._source, self._position, self._sources = memory, 0, self._sources + 1
                self._read_rest()

    def close(self) -> None:
        """Read the last ones, and end; idempotent."""
        self.read()
        with self._lock:  # The thread may be reading.
            self._closed.set()

    def _read_rest(self) -> None:
        if self._source is not None:
            rows, position, _ = self._source.cycles.since(self._position)
            self._position = position
            if len(rows):
                self._take(Cycles(self._sources, position - len(rows), rows, offset_to()))

    def _run(self) -> None:
        while not self._closed.wait(_PERIOD):
            self.read()


def _poses(position: Array, orientation: Array) -> Array:
    """Poses (n, 4, 4) from positions [m] (n, 3) and unit quaternions x, y, z, w (n, 4)."""
    x, y, z, w = orientation.T
    poses = np.zeros((len(position), 4, 4))
    poses[:, 0, :3] = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], axis=1)
    poses[:, 1, :3] = np.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], axis=1)
    poses[:, 2, :3] = np.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], axis=1)
    poses[:, :3, 3], poses[:, 3, 3] = position, 1.0
    return poses


class _Joined:
    """Records of parts, one after the other (n,), with their numbers and stamps."""

    def __init__(self, parts: Sequence[Cycles]) -> None:
        self.rows = np.concatenate([part.rows for part in parts])
        self.numbers = np.concatenate([part.number + np.arange(len(part.rows)) for part in parts])
        self.stamps = np.concatenate([part.stamps for part in parts])


def _arrival(cycles: _Joined) -> Array:
    return np.asarray(1e-9 * cycles.stamps - cycles.rows["response"])


def _tcp(cycles: _Joined) -> Array:
    return _poses(cycles.rows["position"], cycles.rows["orientation"])


#: aiofranka's names of fields of the records.
_ALIASES = {
    "busy": "response",
    "tau_J": "tau_measured",
    "tau_J_d": "tau_last",
    "last_torque": "tau_last",
    "tau_ext_hat_filtered": "tau_external",
    "O_F_ext_hat_K": "external_wrench",
    "control_command_success_rate": "success_rate",
    "q_desired": "ref_q",
}
#: Fields that are computed.
_COMPUTED: dict[str, Callable[[_Joined], Any]] = {
    "cycle": lambda cycles: cycles.numbers,
    "stamp": lambda cycles: cycles.stamps,
    "wall_time": _arrival,
    "tcp": _tcp,
    "ee": _tcp,
    "ee_desired": lambda cycles: _poses(cycles.rows["ref_position"], cycles.rows["ref_orientation"]),
}
#: All fields, and those that are recorded unless others are asked for.
FIELDS = tuple(dict.fromkeys([*_COMPUTED, *_ALIASES, *(CYCLE_RECORD.names or ())]))
DEFAULT_FIELDS = (
    "cycle", "time", "wall_time", "busy", "q", "dq", "tcp", "q_desired", "ee_desired", "tau", "tau_J_d", "tau_J",
    "control_command_success_rate",
)  # fmt: skip


def loop_stats(state: Record) -> dict[str, float]:
    """See :meth:`.Measuring.loop_stats`, from a record of :data:`~aiofranka_ros.control.records.STATE`."""
    count = int(state["cycles"])
    return {
        "count": count,
        "lost": int(state["cycles_lost"]),
        "longest_gap": int(state["longest_gap"]),
        "busy_mean": float(state["response_total"]) / max(count, 1),
        "busy_max": float(state["response_longest"]),
        "success_min": float(state["success_rate_min"]),
    }


def check_fields(names: Sequence[str]) -> tuple[str, ...]:
    """:raises ConfigurationError: there is no such field, it is named twice, or ``names`` is not a list of names."""
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"fields is {names!r}; it must be a list of names")
    for name in names:
        if name not in FIELDS:
            raise ConfigurationError(unknown("field of a recording", name, FIELDS))
    if len(set(names)) != len(names):
        raise ConfigurationError(f"fields names {next(name for name in names if names.count(name) > 1)!r} twice")
    return tuple(names)


def columns(parts: Sequence[Cycles], names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """The fields of that name, each with a row for every cycle of at least one part."""
    cycles, found = _Joined(parts), {}
    for name in names:
        compute = _COMPUTED.get(name)
        found[name] = compute(cycles) if compute else cycles.rows[_ALIASES.get(name, name)].copy()
    return found
