"""Reads a recording into arrays, also one whose end is missing.

Used by :mod:`aiofranka_ros.explain`, and by scripts that analyse recordings::

    from aiofranka_ros.recording.reader import read

    recording = read("~/.ros/aiofranka/20260101T120000.000Z_aiofranka_robot_stopped.mcap")
    recording.cycles["q"]      # joint positions [rad] (n, 7)
    recording.cycles.stamps    # [ns, system clock] (n,)
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from mcap.records import Channel, Message, Metadata
from mcap.stream_reader import StreamReader

from aiofranka_ros.errors import RecordingFailed
from aiofranka_ros.recording import channels

_log = logging.getLogger(__name__)

#: No record of a recording is larger [bytes]; another file may claim any size.
_LARGEST_RECORD = 1 << 26
_TABLES = {
    "/cycles": channels.CYCLE_FIELDS,
    "/ticks": (*channels.TICK_OWN, *channels.TICK_FIELDS),
    "/robot_states": channels.ROBOT_FIELDS,
}


class Table:
    """Records of one kind: ``table["q"]`` is an array with a row for each.

    :ivar stamps: their times [ns, system clock] (n,).
    """

    def __init__(self, topic: str, stamps: list[int], rows: list[dict[str, Any]]) -> None:
        self.stamps: npt.NDArray[np.int64] = np.array(stamps, dtype=np.int64)
        self._columns = {
            name: channels.column(name, [row[name] for row in rows], channels.type_of(topic, name))
            for name in _TABLES[topic]
        }

    def __len__(self) -> int:
        return len(self.stamps)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._columns[name]

    def only(self, which: Any) -> Table:
        """The records that ``which`` selects, a slice or an index array."""
        table = object.__new__(Table)
        table.stamps = self.stamps[which]
        table._columns = {name: values[which] for name, values in self._columns.items()}
        return table


@dataclass
class Entry:
    """A target, an event or a line of the log; ``entry["message"]``."""

    stamp: int  #: [ns, system clock]
    data: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.data[name]


@dataclass
class Recording:
    """A recording; see :mod:`aiofranka_ros.recording.channels` for the fields of its tables."""

    path: Path
    summary: dict[str, Any]  #: why it was written, by whom, and what is known of the computer
    parameters: dict[str, Any]
    cycles: Table
    ticks: Table
    robot_states: Table
    targets: list[Entry] = field(default_factory=list)
    events: list[Entry] = field(default_factory=list)
    log: list[Entry] = field(default_factory=list)
    #: Whether its end is missing.
    truncated: bool = False


def read(path: str | os.PathLike[str]) -> Recording:
    """Read a recording.

    :raises RecordingFailed: there is no such file, or it is not a recording.
    """
    path = Path(path).expanduser()
    metadata: dict[str, str] = {}
    found: dict[str, list[tuple[int, dict[str, Any]]]] = {topic: [] for topic in channels.CHANNELS}
    truncated = True
    try:
        with path.open("rb") as file:
            for topic, stamp, content in _records(file):
                if topic == channels.METADATA:
                    metadata = content
                elif topic in found:
                    found[topic].append((stamp, content))
                elif topic == "":
                    truncated = False
    except OSError as error:
        raise RecordingFailed(f"cannot read {path}: {error.strerror}") from None
    if not metadata:
        raise RecordingFailed(
            f"{path} is not a recording of this package" + (", or ends too early" if truncated else "")
        )
    if metadata.get("version") != str(channels.VERSION):
        raise RecordingFailed(
            f"{path} was written by another version of this package: its format is {metadata.get('version')}, "
            f"this one reads {channels.VERSION}"
        )
    tables = {topic: Table(topic, *_columns(found[topic])) for topic in _TABLES}
    entries = {
        topic: [Entry(stamp, data) for stamp, data in sorted(found[topic], key=lambda one: one[0])]
        for topic in ("/targets", "/events", "/log")
    }
    return Recording(
        path,
        json.loads(metadata["summary"]),
        json.loads(metadata["parameters"]),
        tables["/cycles"],
        tables["/ticks"],
        tables["/robot_states"],
        entries["/targets"],
        entries["/events"],
        entries["/log"],
        truncated,
    )


def _columns(rows: list[tuple[int, dict[str, Any]]]) -> tuple[list[int], list[dict[str, Any]]]:
    rows.sort(key=lambda row: row[0])
    return [stamp for stamp, _ in rows], [row for _, row in rows]


def _records(file: IO[bytes]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The messages of a file, its metadata, and a last one with an empty topic if the file is complete."""
    topics: dict[int, str] = {}
    try:
        for record in StreamReader(file, validate_crcs=True, record_size_limit=_LARGEST_RECORD).records:
            if isinstance(record, Channel):
                topics[record.id] = record.topic
            elif isinstance(record, Metadata):
                yield record.name, 0, dict(record.metadata)
            elif isinstance(record, Message):
                topic = topics.get(record.channel_id, "?")
                if topic in channels.CHANNELS:
                    yield topic, record.log_time, json.loads(record.data)
    except OSError:
        raise
    except Exception as error:  # Parsing a damaged or foreign file can raise anything: what came before it counts.
        _log.debug("cannot be read any further: %s", error)
        return
    yield "", 0, {}
