"""The child process of an isolated object: makes the object, and handles the requests of the user's process.

``process`` starts it. Requests are handled one after another, in order, in the child's main thread, so an object needs
no locks and a CUDA context stays in one thread. A second thread waits for the user's process to end, and then ends
this one, even in the middle of a computation.
"""

from __future__ import annotations

import faulthandler
import io
import logging
import logging.handlers
import operator
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
from typing import Any

from aiofranka_ros.offload.mpify.arrays import Channel
from aiofranka_ros.offload.mpify.protocol import Kind, failure_of

#: How long this process has to end by itself once the user's process has ended [s].
_ORPHAN_TIME = 1.0
#: A log record's texts are cut to this length, so that it fits into a packet [characters].
_LOG_LENGTH = 8000


def main(connection: socket.socket, threshold: int, parent: int, log_levels: dict[str, int]) -> None:
    """Handle requests until the other side closes; the main function of the child.

    :param connection: its end of the channel.
    :param threshold: arrays of at least this size travel through shared memory [bytes].
    :param parent: the id of the user's process.
    :param log_levels: the log levels set in that process, by the logger's name.
    :raises SystemExit: raised by the object; the process ends with that status.
    """
    # Ctrl-C in a terminal, and its end, reach every process in it, but the user's process decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if sys.stderr is not None:
        faulthandler.enable()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # Nothing printed is lost if the process is killed.
    _end_with(parent)
    channel = Channel(connection, threshold)
    for name, level in log_levels.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger().addHandler(_Forward(channel))  # type: ignore[arg-type]
    channel.send_note(Kind.STARTED, pickle.dumps(None))
    server = _Server(channel)
    try:
        while server.serve():
            pass
    except (BrokenPipeError, ConnectionResetError):
        pass  # The other side closed without waiting for the answer.
    except BaseException:
        channel.close()  # At once: threads of the object may run on for a while.
        raise


class _Server:
    """Makes one object and uses it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._object: Any = None

    def serve(self) -> bool:
        """Handle one request; ``False`` if no more will come."""
        message = self._channel.receive()
        if message is None:
            return False
        kind = Kind.RESULT
        try:
            answer = self._channel.pack(self._channel.encode(self._perform(message.kind, message.load()), "the result"))
        except SystemExit:
            raise
        except BaseException as error:  # Even KeyboardInterrupt: SIGINT is ignored, so the object raised it.
            kind = Kind.ERROR
            answer = self._channel.pack(self._channel.encode(failure_of(error), "an exception"))
        # The arguments are gone by now, unless the object kept them, so the answer can release their memory.
        self._channel.send(kind, message.number, answer)
        return True

    def _perform(self, kind: int, request: Any) -> Any:
        if kind == Kind.MAKE:
            factory, args, kwargs = request
            self._object = factory(*args, **kwargs)
            return None
        if kind == Kind.CALL:
            name, args, kwargs = request
            return self._find(name)(*args, **kwargs)
        if kind == Kind.GET:
            return self._find(request)
        name, value = request
        owner, _, attribute = name.rpartition(".")
        return setattr(self._find(owner), attribute, value)

    def _find(self, name: str) -> Any:
        return operator.attrgetter(name)(self._object) if name else self._object


class _Forward(logging.handlers.QueueHandler):
    """Sends log records to the user's process, where the logger of the same name handles them."""

    queue: Any  # the channel

    def enqueue(self, record: logging.LogRecord) -> None:
        attributes = {}
        for name, value in vars(record).items():  # Without those that may not be picklable.
            if isinstance(value, str) and len(value) > _LOG_LENGTH:
                value = f"{value[:_LOG_LENGTH]}... ({len(value)} characters)"
            if isinstance(value, (str, int, float, type(None))):
                attributes[name] = value
        self.queue.send_note(Kind.LOG, pickle.dumps(attributes))


def _end_with(parent: int) -> None:
    """End this process when ``parent`` ends, whatever the main thread does."""
    # The end of the channel would not do: processes that inherited it by fork keep it open.
    descriptor = os.pidfd_open(parent)

    def wait() -> None:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.poll()
        time.sleep(_ORPHAN_TIME)
        os.kill(os.getpid(), signal.SIGKILL)

    if os.getppid() != parent:
        raise SystemExit("the process that started this one has ended")
    threading.Thread(target=wait, name="parent watch", daemon=True).start()
