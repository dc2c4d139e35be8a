"""Writes one recording: ``python -m aiofranka_ros.recording.writer``, started only by :mod:`.recorder`.

A process that lives for a second or two, with a low priority: whatever it does, and however long the disk takes,
neither the control loop nor the node's thread waits for it. It inherits copies of the memory that node and control
process share, of the notes, and a description of the rest as JSON. It answers with one line of JSON on its standard
output, ``path`` or ``error``.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import mmap
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from mcap.writer import Writer

from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.errors import RecordingFailed, brief
from aiofranka_ros.recording import channels, folder
from aiofranka_ros.recording.notes import rings

#: Raised by this much: what is computed at the normal priority has precedence, but does not stop it.
_NICENESS = 10
#: Small pieces, so that a file whose end is missing has lost little [bytes].
_CHUNK_SIZE = 1 << 19
#: Processes that use more than this share of a processor are named, and at most so many of them.
_BUSY, _MOST_BUSY = 0.2, 5

#: The time of a message [ns, system clock], its topic, and the message.
Message = tuple[int, str, dict[str, Any]]


def messages(job: Mapping[str, Any], control: SharedMemory | None, notes: memoryview | None) -> Iterator[Message]:
    """Everything but the summary and the parameters, in no particular order."""
    offset = int(job["offset"])
    if control is not None:
        cycles = control.cycles.intact()
        columns = {name: cycles[name] for name in channels.CYCLE_FIELDS}
        yield from _rows("/cycles", cycles["stamp"] + offset, columns)
        robot = control.robot_states.intact()
        yield from _rows(
            "/robot_states", robot["stamp"] + offset, {name: robot[name] for name in channels.ROBOT_FIELDS}
        )
    if notes is not None:
        targets, ticks = (ring.intact() for ring in rings(notes))
        topics, senders = job["topics"], job["senders"]
        for target in targets:
            message = {
                "topic": topics[target["topic"]] if target["topic"] < len(topics) else "",
                "sender": senders[target["sender"]] if target["sender"] < len(senders) else "",
                "made": int(target["made"]),
                "values": np.round(target["values"][: target["size"]], 9).tolist(),
            }
            yield int(target["stamp"]) + offset, "/targets", message
        state = ticks["state"]
        own = {name: 1e-9 * ticks[name] for name in channels.TICK_OWN[1:4]}
        columns = {"state_age": 1e-9 * (ticks["stamp"] - state["stamp"]), **own, "control_code": ticks["control_code"]}
        columns |= {name: state[name] for name in channels.TICK_FIELDS}
        yield from _rows("/ticks", ticks["stamp"] + offset, columns)
    for stamp, kind, text, data in job["events"]:
        yield stamp + offset, "/events", {"kind": kind, "message": text, "data": data}
    for stamp, level, text in job["lines"]:
        when = stamp + offset
        seconds, nanoseconds = divmod(when, 1_000_000_000)
        message = {
            "timestamp": {"sec": seconds, "nsec": nanoseconds}, "level": channels.LEVELS.get(level, 2),
            "message": text, "name": job["summary"]["owner"],
        }  # fmt: skip
        yield when, "/log", message


def _rows(topic: str, stamps: npt.NDArray[Any], columns: Mapping[str, npt.NDArray[Any]]) -> Iterator[Message]:
    for stamp, message in zip(stamps.tolist(), channels.messages_of(columns), strict=True):
        yield stamp, topic, message


def write(file: IO[bytes], summary: Mapping[str, Any], parameters: Mapping[str, Any], rest: Iterable[Message]) -> None:
    """Write a whole recording; ``rest`` is what :func:`messages` yields."""
    writer = Writer(file, chunk_size=_CHUNK_SIZE)
    writer.start(library="aiofranka_ros")
    # Before everything else, and not compressed: the most important part of a file whose end is missing.
    texts = {"version": str(channels.VERSION), "summary": json.dumps(summary), "parameters": json.dumps(parameters)}
    writer.add_metadata(channels.METADATA, texts)
    numbers = {}
    for topic, channel in channels.CHANNELS.items():
        schema = writer.register_schema(channel.schema, "jsonschema", json.dumps(channel.json_schema).encode())
        numbers[topic] = writer.register_channel(topic, "json", schema)
    first: list[Message] = [(summary["stamp"], "/recording", dict(summary))]
    first.append((summary["stamp"], "/parameters", {"values": dict(parameters)}))
    for stamp, topic, message in [*first, *sorted(rest, key=lambda message: message[0])]:
        data = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
        writer.add_message(numbers[topic], max(stamp, 0), data, max(stamp, 0))
    writer.finish()


def save(job: Mapping[str, Any], control: SharedMemory | None, notes: memoryview | None) -> Path:
    """Write the recording that ``job`` describes into its folder, which never has more than it may.

    :raises RecordingFailed: that was not possible, and why; nothing of it is left.
    """
    path = Path(job["folder"]) / job["name"]
    before = _used()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with folder.locked(path.parent):
            _save(job, path, messages(job, control, notes), before)
    except OSError as error:
        raise RecordingFailed(f"cannot write to {path.parent}: {os.strerror(error.errno or errno.EIO)}") from error
    return path


def _save(job: Mapping[str, Any], path: Path, rest: Iterable[Message], before: Mapping[int, tuple[str, float]]) -> None:
    most_files, most_bytes = int(job["most_files"]), int(job["most_bytes"])
    folder.make_room(path.parent, most_files - 1, most_bytes)  # First: the disk may be full.
    rows = list(rest)
    own = job["summary"].get("pid"), job["summary"].get("control_pid")
    summary = {**job["summary"], "busy": _busy(before, own)}
    partial = folder.partial(path)
    try:
        with partial.open("wb") as file:
            write(file, summary, job["parameters"], rows)
        size = partial.stat().st_size
        if size > most_bytes:
            raise RecordingFailed(
                f"a recording of {1e-6 * size:.1f} MB is larger than recording_megabytes allows: {1e-6 * most_bytes:g}"
            )
        folder.make_room(path.parent, most_files - 1, most_bytes - size)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _used() -> dict[int, tuple[str, float]]:
    """Name and used processor time [s] of every process, and under key 0 the time now."""
    used = {0: ("", float(os.times().elapsed))}
    ticks = os.sysconf("SC_CLK_TCK")
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError, ValueError, IndexError):
                name, _, rest = Path(f"/proc/{entry}/stat").read_text().partition("(")[2].rpartition(")")
                fields = rest.split()
                used[int(entry)] = name, (int(fields[11]) + int(fields[12])) / ticks
    return used


def _busy(before: Mapping[int, tuple[str, float]], own: Collection[Any]) -> list[dict[str, Any]]:
    """Which processes but our ``own`` have used processors since ``before``: pid, name, share; the busiest first."""
    after = _used()
    passed = max(after[0][1] - before[0][1], 0.01)
    shares = [
        ((used - before[pid][1]) / passed, pid, name)
        for pid, (name, used) in after.items()
        if pid and pid in before and pid not in own
    ]
    busiest = sorted(shares, reverse=True)[:_MOST_BUSY]
    return [
        {"pid": pid, "name": _title(pid, name), "share": round(share, 2)}
        for share, pid, name in busiest
        if share > _BUSY
    ]


def _title(pid: int, name: str) -> str:
    """What a process runs, for people; ``name`` if it has ended."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return name
    return brief(" ".join([os.path.basename(words[0]), *words[1:]]).strip(), 50) or name


def main() -> None:
    """Write the recording, and answer."""
    parser = argparse.ArgumentParser(description="Writes one recording; started by the owner of an arm.")
    parser.add_argument("--job", type=int, required=True, help="descriptor of its description")
    parser.add_argument("--control", type=int, default=-1, help="descriptor of a copy of the shared memory")
    parser.add_argument("--notes", type=int, default=-1, help="descriptor of a copy of the notes")
    options = parser.parse_args()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    with open(options.job, "rb") as file:
        job = json.load(file)
    control = SharedMemory(options.control, writable=False) if options.control >= 0 else None
    notes = memoryview(mmap.mmap(options.notes, 0, access=mmap.ACCESS_READ)) if options.notes >= 0 else None
    try:
        answer = {"path": str(save(job, control, notes))}
    except RecordingFailed as error:
        answer = {"error": str(error)}
    with contextlib.suppress(BrokenPipeError):  # The owner has ended.
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
