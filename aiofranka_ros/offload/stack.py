"""Which line an event loop is running, seen from another thread.

The thread of :mod:`~aiofranka_ros.offload.guard` calls it to report where a block happens.
"""

from __future__ import annotations

import asyncio
import linecache
import os
import selectors
import site
import sys
import sysconfig
from types import FrameType
from typing import NamedTuple

#: Code that isn't the user's: Python, its installed libraries, and this package.
_FOREIGN = tuple(
    os.path.join(os.path.realpath(path), "")
    for path in {
        *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
        os.path.dirname(os.path.dirname(__file__)),
    }
)
_ASYNCIO = os.path.join(os.path.dirname(asyncio.__file__), "")
#: Where asyncio runs callbacks: below on the stack are the loop itself and its caller.
_LOOP_FUNCTIONS = {"_run", "_run_once", "run_forever", "run_until_complete", "run"}
_LOOP_FILES = {os.path.join(_ASYNCIO, name) for name in ("events.py", "base_events.py", "runners.py")}
#: Code of a loop that is idle: it waits, is busy with itself, or runs the timer of the guard.
_IDLE = (selectors.__file__, _ASYNCIO, os.path.join(os.path.dirname(__file__), "guard.py"))
_DEBUGGERS = ("pdb.py", "bdb.py")


class Place(NamedTuple):
    """A line of code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        text = linecache.getline(self.file, self.line).strip()
        place = f"{self.file}:{self.line} in {self.function}"
        return f"{place}: {text}" if text else place

    @property
    def is_debugger(self) -> bool:
        """Whether this is the code of a debugger."""
        return os.path.basename(self.file) in _DEBUGGERS or "pydevd" in self.file


def running_in(thread: int) -> list[Place]:
    """What the event loop in the thread with this identifier is running, innermost first; nothing if it is idle."""
    stack: list[Place] = []
    frame: FrameType | None = sys._current_frames().get(thread)
    while frame is not None:
        code = frame.f_code
        if code.co_filename in _LOOP_FILES and code.co_name in _LOOP_FUNCTIONS:
            break
        stack.append(Place(code.co_filename, frame.f_lineno or 0, code.co_name))
        frame = frame.f_back
    return [] if all(place.file.startswith(_IDLE) for place in stack) else stack


def to_blame(stack: list[Place]) -> Place:
    """The innermost line of the user's code, or of any code if there is none."""
    for place in stack:
        path = place.file if place.file.startswith("<") else os.path.realpath(place.file)
        if not path.startswith(("<frozen", *_FOREIGN)):
            return place
    return stack[0]
