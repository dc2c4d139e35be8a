"""What an isolated object's two processes say to each other, and how exceptions and log records travel.

``remote_process`` uses it in the process of the user, ``remote_worker`` in the child.
"""

from __future__ import annotations

import copy
import logging
import pickle
import traceback
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from aiofranka_ros.errors import RemoteError

_log = logging.getLogger(__name__)

#: A log record's texts are cut to this length, so that it fits a packet [characters].
_LOG_LENGTH = 8000


class Kind(IntEnum):
    """What a message is; each with what it carries."""

    MAKE = 0  # (factory, args, kwargs): make the object
    CALL = 1  # (dotted name, args, kwargs): call what has that name; the object itself where that is empty
    GET = 2  # dotted name
    ASSIGN = 3  # (dotted name, value)
    STARTED = 4  # nothing: the process is up
    RESULT = 5  # the answer
    ERROR = 6  # a Failure
    LOG = 7  # the attributes of a log record


@dataclass(frozen=True)
class Failure:
    """An exception on its way from the child.

    :ivar type_name: its class, with its module.
    :ivar message: its text.
    :ivar traceback: its traceback as text, with those of its causes.
    :ivar pickled: the exception itself; ``None`` where it cannot be pickled or must not be raised as it is.
    """

    type_name: str
    message: str
    traceback: str
    pickled: bytes | None


@dataclass(frozen=True)
class Settings:
    """What the child takes over from the process that starts it.

    :ivar parent: that process's id.
    :ivar threshold: arrays of at least so many bytes travel through shared memory.
    :ivar log_levels: the levels that were set there, by the loggers' names; the root's is empty.
    """

    parent: int
    threshold: int
    log_levels: dict[str, int]


class RemoteTraceback(Exception):
    """The cause of an exception that came from another process: where it was raised there, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def failure_of(error: BaseException, internal: str) -> Failure:
    """Prepare an exception for the way.

    :param internal: the file whose frames at the beginning of the traceback say nothing about the object.
    """
    kind = type(error)
    pickled = None
    # A coroutine cannot raise StopIteration; what is no Exception would stop or cancel the user's process, not this.
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        try:
            pickled = pickle.dumps(error, protocol=5)
        except Exception:
            pass  # Its text travels in any case.
    return Failure(f"{kind.__module__}.{kind.__qualname__}", _text(error), _traceback(error, internal), pickled)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # An exception whose __str__ fails shall not hide that there was one.
        return f"<its text could not be made: {type(second).__name__}>"


def _traceback(error: BaseException, internal: str) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == internal:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def exception_of(failure: Failure) -> Exception:
    """What the object raised, or what stands for it, with its traceback as the cause."""
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
    """A record's attributes without what may not be picklable, as :class:`logging.handlers.QueueHandler` does it."""
    record = copy.copy(record)
    message, trace = record.getMessage(), record.exc_text
    if record.exc_info and not trace:
        trace = logging.Formatter().formatException(record.exc_info)
    record.msg, record.args, record.exc_info, record.exc_text = message, None, None, trace
    known = vars(record)
    return {name: _cut(value) for name, value in known.items() if isinstance(value, (str, int, float, type(None)))}


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _LOG_LENGTH:
        return f"{value[:_LOG_LENGTH]}... ({len(value)} characters)"
    return value


def handle_portable(attributes: dict[str, Any]) -> None:
    """Give a record that was made :func:`portable` to the logger of its name, if that is enabled for it."""
    record = logging.makeLogRecord(attributes)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def log_levels() -> dict[str, int]:
    """The levels that were set in this process, by logger; the root's name is empty."""
    root = logging.getLogger()
    loggers = [logger for logger in list(root.manager.loggerDict.values()) if isinstance(logger, logging.Logger)]
    return {"": root.level} | {logger.name: logger.level for logger in loggers if logger.level}
