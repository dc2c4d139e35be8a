"""The folder of recordings: where it is, what is in it, and which files are removed so that it does not grow.

Used by the owner of an arm, by the process that writes a recording, and by the tool that explains them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from aiofranka_ros.errors import RecordingFailed

#: The command that explains a recording; with and without the tools of a distribution. Add the file.
EXPLAIN = "python3 -m aiofranka_ros.explain"
#: Names of recordings: time (UTC), owner, trigger; and of one that is not complete yet.
_NAME, _PARTIAL = re.compile(r"\d{8}T\d{6}\.\d{3}Z_[\w.]*_[a-z_]+\.mcap"), ".part"
#: A file that is still not complete after this time was left by a process that was killed [s].
_ABANDONED = 3600.0


def folder_of(text: str) -> Path:
    """The folder that a parameter names; ``~/.ros`` is ``$ROS_HOME`` if that is set, as for ROS itself."""
    home = os.environ.get("ROS_HOME")
    if home and (text + "/").startswith("~/.ros/"):
        return Path(home).expanduser() / text[len("~/.ros/") :]
    return Path(text).expanduser()


def name_of(stamp: int, owner: str, trigger: str) -> str:
    """The name of a recording.

    :param stamp: when it was triggered [ns, system clock].
    :param owner: name of the node, or of the robot.
    :param trigger: why, in a few words.
    """
    when = time.strftime("%Y%m%dT%H%M%S", time.gmtime(stamp // 1_000_000_000))
    who, why = (
        re.sub(r"\W+", joint, text, flags=re.ASCII).strip(joint) for text, joint in ((owner, "."), (trigger, "_"))
    )
    return f"{when}.{stamp // 1_000_000 % 1000:03d}Z_{who}_{why.lower()}.mcap"


def recordings(folder: Path) -> list[Path]:
    """All recordings in ``folder``, the oldest first; none if it does not exist.

    :raises RecordingFailed: it cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RecordingFailed(f"cannot read the folder {folder}: {error.strerror}") from None


def newest(folder: Path) -> Path:
    """The newest recording.

    :raises RecordingFailed: there is none.
    """
    found = recordings(folder)
    if not found:
        raise RecordingFailed(
            f"there is no recording in {folder}: one is written when the robot stops by itself, when a cycle is lost, "
            "and when ~/save_recording is called (parameter recording_folder)"
        )
    return found[-1]


def make_room(folder: Path, most_files: int, most_bytes: int) -> int:
    """Remove the oldest recordings until there are at most so many, and so many bytes; return how many were removed.

    Also what a killed process has left.
    """
    for path in folder.glob(f"*.mcap{_PARTIAL}"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()
    sizes: dict[Path, int] = {}
    for path in recordings(folder):
        with contextlib.suppress(OSError):  # Another process has just removed it.
            sizes[path] = path.stat().st_size
    removed = 0
    while sizes and (len(sizes) > most_files or sum(sizes.values()) > most_bytes):
        oldest = next(iter(sizes))
        del sizes[oldest]
        oldest.unlink(missing_ok=True)
        removed += 1
    return removed


def partial(path: Path) -> Path:
    """What a recording is called until it is complete."""
    return path.with_name(path.name + _PARTIAL)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within this context, no other process writes a recording into ``folder``; it waits for one that does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
