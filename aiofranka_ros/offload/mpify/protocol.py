"""The messages between an isolated object's two processes, and how exceptions and log records travel.

``process`` and ``calls`` use it in the user's process, ``worker`` in the child.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import pickle
import traceback
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from aiofranka_ros.errors import RemoteError

_log = logging.getLogger(__name__)

#: A log record's texts are cut to this length, so that it fits into a packet [characters].
_LOG_LENGTH = 8000


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
    :ivar message: its text.
    :ivar traceback: its traceback as text, and the tracebacks of its causes.
    :ivar pickled: the exception itself; ``None`` if it cannot be pickled or must not be raised in the user's process.
    """

    type_name: str
    message: str
    traceback: str
    pickled: bytes | None


class RemoteTraceback(Exception):
    """The cause of an exception that came from another process: its traceback there, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def failure_of(error: BaseException, internal: str) -> Failure:
    """Prepare an exception for the other process.

    :param internal: the file whose frames at the start of the traceback say nothing about the object.
    """
    kind = type(error)
    pickled = None
    # A coroutine cannot raise StopIteration; and a SystemExit or KeyboardInterrupt would end the user's process.
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        with contextlib.suppress(Exception):  # Its text travels anyway.
            pickled = pickle.dumps(error, protocol=5)
    return Failure(f"{kind.__module__}.{kind.__qualname__}", _text(error), _traceback(error, internal), pickled)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # A failing __str__ must not hide the exception.
        return f"<its __str__ raised {type(second).__name__}>"


def _traceback(error: BaseException, internal: str) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == internal:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def exception_of(failure: Failure) -> Exception:
    """What the object raised, or a :class:`RemoteError` in its place, with the remote traceback as the cause."""
    error: Any = None
    if failure.pickled is not None:
        try:
            error = pickle.loads(failure.pickled)
        except Exception as problem:
            _log.debug("%s cannot be unpickled in this process: %s", failure.type_name, problem)
    if not isinstance(error, Exception):
        text = f"{failure.type_name}: {failure.message}"
        error = RemoteError(text, type_name=failure.type_name, traceback=failure.traceback)
    error.__cause__ = RemoteTraceback(failure.traceback)
    return error


def portable(record: logging.LogRecord) -> dict[str, Any]:
    """A record's attributes, except those that may not be picklable; see :class:`logging.handlers.QueueHandler`."""
    record = copy.copy(record)
    message, trace = record.getMessage(), record.exc_text
    if record.exc_info and not trace:
        trace = logging.Formatter().formatException(record.exc_info)
    record.msg, record.args, record.exc_info, record.exc_text = message, None, None, trace
    attributes = vars(record).items()
    return {name: _cut(value) for name, value in attributes if isinstance(value, (str, int, float, type(None)))}


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _LOG_LENGTH:
        return f"{value[:_LOG_LENGTH]}... ({len(value)} characters)"
    return value


def handle_portable(attributes: dict[str, Any]) -> None:
    """Hand a :func:`portable` record to the logger of its name, if that is enabled for its level."""
    record = logging.makeLogRecord(attributes)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def log_levels() -> dict[str, int]:
    """The log levels set in this process, by the logger's name; the root's name is empty."""
    root = logging.getLogger()
    loggers = [logger for logger in list(root.manager.loggerDict.values()) if isinstance(logger, logging.Logger)]
    return {"": root.level} | {logger.name: logger.level for logger in loggers if logger.level}
