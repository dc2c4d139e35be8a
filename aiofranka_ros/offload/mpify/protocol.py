"""The messages between an isolated object's two processes, and how exceptions travel.

``process`` and ``calls`` use it in the user's process, ``worker`` in the child.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import traceback
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from aiofranka_ros.errors import RemoteError

_log = logging.getLogger(__name__)


class Kind(IntEnum):
    """What a message is, and what it carries."""

    MAKE = 0  # (factory, args, kwargs): make the object
    CALL = 1  # (dotted name, args, kwargs): call the attribute of that name, or the object itself if it is empty
    GET = 2  # dotted name
    ASSIGN = 3  # (dotted name, value)
    STARTED = 4  # None: the process has started
    RESULT = 5  # the answer
    ERROR = 6  # a Failure
    LOG = 7  # the attributes of a log record


@dataclass(frozen=True)
class Failure:
    """An exception of the child, as it travels.

    :ivar type_name: its class, with its module.
    :ivar text: its class and message.
    :ivar traceback: its traceback as text, and the tracebacks of its causes.
    :ivar pickled: the exception itself; ``None`` if it cannot be pickled or must not be raised in the user's process.
    """

    type_name: str
    text: str
    traceback: str
    pickled: bytes | None


class RemoteTraceback(Exception):
    """The cause of an exception that came from another process: its traceback there, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def failure_of(error: BaseException) -> Failure:
    """Prepare an exception for the other process."""
    pickled = None
    # A coroutine cannot raise StopIteration; and a SystemExit or KeyboardInterrupt would end the user's process.
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        with contextlib.suppress(Exception):  # Its text travels anyway.
            pickled = pickle.dumps(error, protocol=5)
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    text = "".join(traceback.format_exception_only(error)).strip()
    return Failure(name, text, "".join(traceback.format_exception(error)), pickled)


def exception_of(failure: Failure) -> Exception:
    """What the object raised, or a :class:`RemoteError` in its place, with the remote traceback as the cause."""
    error: Any = None
    if failure.pickled is not None:
        try:
            error = pickle.loads(failure.pickled)
        except Exception as problem:
            _log.debug("%s cannot be unpickled in this process: %s", failure.type_name, problem)
    if not isinstance(error, Exception):
        error = RemoteError(failure.text, type_name=failure.type_name, traceback=failure.traceback)
    error.__cause__ = RemoteTraceback(failure.traceback)
    return error
