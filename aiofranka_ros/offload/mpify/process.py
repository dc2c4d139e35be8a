"""The user's side of an isolated object: starts its process, connects it to the event loop, and reaps it.

``mpify`` makes one for each object. Calls run in the thread of the event loop; stopping also works without a loop.
Nothing else here blocks the loop: packets are small, and one request at a time is with the child.

A pidfd tells when the child has ended. The end of the channel would not do: processes that the child has forked, such
as data loaders, keep it open.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import multiprocessing
import multiprocessing.util  # Registers its own exit handler, see _stop_all.
import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from typing import Any

from aiofranka_ros.errors import RemoteDied, RemoteStopped
from aiofranka_ros.offload.mpify import worker
from aiofranka_ros.offload.mpify.arrays import Channel, Encoded
from aiofranka_ros.offload.mpify.calls import Calls
from aiofranka_ros.offload.mpify.protocol import Kind

_log = logging.getLogger(__name__)


class RemoteProcess:
    """A child process that makes and holds an object; :meth:`made` waits until it is there.

    :param name: for errors and listings of processes.
    :param make: the factory, its positional and its keyword arguments.
    :param threshold: arrays of at least this size travel through shared memory [bytes].
    :param grace: how long :meth:`stop` waits after each of its steps [s].
    :raises NotPicklable: ``make`` cannot be pickled; nothing was started.
    :raises RuntimeError: this process is itself a child that is still importing the user's script.
    :raises OSError: the system has no process or no descriptor left.
    """

    def __init__(self, name: str, make: tuple[Any, ...], *, threshold: int, grace: float) -> None:
        self.name = name
        self.exit_code: int | None = None
        self._grace = grace
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = self._stopped = self._ended = self._reaped = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel = Channel(ours, threshold)
        self._calls = Calls(self._channel)
        with theirs:
            try:
                self._make: Encoded | None = self._channel.encode(make, f"factory {name} or its arguments")
                self._process, self._pidfd = self._spawn(theirs, threshold)
            except BaseException:
                self._channel.close()
                raise
        self.pid = self._process.pid
        _alive.add(self)

    def _spawn(self, connection: socket.socket, threshold: int) -> tuple[SpawnProcess, int]:
        # Not daemonic: such a process may have no children, and models have data loaders.
        process = multiprocessing.get_context("spawn").Process(
            target=worker.main,
            args=(connection, threshold, os.getpid(), _log_levels()),
            name=f"mpify {self.name}",
            daemon=False,
        )
        try:
            process.start()
            assert process.pid is not None
            pidfd = os.pidfd_open(process.pid)
        except RuntimeError as error:
            raise RuntimeError(
                "no process for an isolated object can be started here. Its process imports the script that starts it, "
                'so a script has to call mpify under `if __name__ == "__main__":`, not while it is imported'
            ) from error
        except BaseException:
            if process.pid is not None:
                process.kill()
                process.join()
            raise
        return process, pidfd

    # --- Calls

    async def made(self, timeout: float | None) -> None:
        """Wait until the object is there; only once.

        :param timeout: how long to wait [s]; ``None``: without limit.
        :raises TimeoutError: it is not there in time.
        :raises RemoteDied: the process ended.
        :raises Exception: whatever the factory raised.
        """
        make, self._make = self._make, None  # Its memory must not be kept forever.
        await self.call(Kind.MAKE, make, self.name, timeout)

    async def call(self, kind: Kind, request: Any, what: str, timeout: float | None) -> Any:
        """Send a request from the running event loop, and wait for its answer.

        A call that is cancelled or times out before the child has begun it is never executed; later, the child
        finishes it and the answer is dropped.

        :param request: what :class:`Kind` says; pickled at once.
        :param what: the request's name, for errors.
        :param timeout: how long to wait [s], earlier calls included; ``None``: without limit.
        :raises TimeoutError: there was no answer in time.
        :raises NotPicklable: the request or its answer cannot be pickled.
        :raises RemoteDied: the process has ended.
        :raises RuntimeError: no event loop runs, or another one uses this process.
        """
        loop = asyncio._get_running_loop()
        if loop is None:
            raise RuntimeError(f"{what}: an isolated object can only be used in a running asyncio event loop")
        if loop is not self._loop:
            self._attach(loop)
        encoded = request if kind is Kind.MAKE else self._channel.encode(request, f"an argument of {what}")
        future = loop.create_future()
        call = self._calls.submit(kind, encoded, what, future)
        timer = None if timeout is None else loop.call_later(timeout, _expire, future, what, timeout)
        try:
            return await future
        finally:
            if timer is not None:
                timer.cancel()
            self._calls.abandon(call)

    # --- Messages of the child

    def _readable(self) -> None:
        if self._read():
            return
        loop = self._loop
        if loop is not None:  # Nothing more will come; the pidfd tells when the process has ended.
            loop.remove_reader(self._channel.fileno())
            loop.call_later(self._grace, self._kill)

    def _read(self) -> bool:
        """Handle one message, if there is one.

        :returns: ``False`` if no more will come.
        """
        try:
            message = self._channel.receive(wait=False)
        except BlockingIOError:
            return True
        except OSError as error:
            _log.error("%s is killed because its channel failed: %s", self, error)
            self._kill()
            return False
        if message is None:
            return False
        if message.kind == Kind.LOG:
            record = logging.makeLogRecord(message.load())
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        elif message.kind == Kind.STARTED:
            self._started = True
        else:
            self._calls.answer(message)
        return True

    # --- The event loop

    def _attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve ``loop`` from now on, instead of one that has ended."""
        if self._ended or self._stopped:
            raise self._gone()
        with self._lock:
            old = self._loop
            if old is not None and not old.is_closed():
                if old.is_running() or self._calls.awaited:
                    raise RuntimeError(f"{self} is in use by another event loop; it can serve only one at a time")
                self._remove_readers(old)
            loop.add_reader(self._channel.fileno(), self._readable)
            loop.add_reader(self._pidfd, self._on_exit)
            self._loop = loop

    def _remove_readers(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._channel.fileno())
        loop.remove_reader(self._pidfd)

    def _detach(self) -> None:
        """Leave the event loop and fail its calls. In the loop's thread, or while it does not run."""
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_closed():
            self._remove_readers(loop)
        self._calls.fail(self._gone)

    def _leave_loop(self, patience: float) -> None:
        """Detach from the event loop, in whichever thread it runs; not if that is busy for ``patience`` [s]."""
        loop = self._loop
        if loop is None or not loop.is_running() or loop is asyncio._get_running_loop():
            self._detach()
            return
        detached = threading.Event()

        def leave() -> None:
            self._detach()
            detached.set()

        _call_in(loop, leave)
        detached.wait(patience)

    # --- The end

    def stop(self, grace: float | None = None) -> None:
        """End the process and reap it: ask it to end, after ``grace`` send SIGTERM, after ``grace`` again SIGKILL.

        Idempotent; from any thread, which it blocks. Calls that wait raise :class:`RemoteStopped`.

        :param grace: how long to wait after each step [s]; ``None``: as constructed.
        """
        if not self.to_be_stopped:
            return
        grace = self._grace if grace is None else grace
        with self._lock:
            if self._reaped:
                return
            self._stopped = True
            self._channel.shut_down()
            self._leave_loop(grace)
            for name, force in (("SIGTERM", self._process.terminate), ("SIGKILL", self._process.kill)):
                if _is_readable(self._pidfd, grace):
                    break
                _log.warning("%s does not end, so it gets %s", self.name, name)
                force()
            self._finish()

    async def stop_in_thread(self) -> None:
        """The same without blocking the event loop; if cancelled, it continues in its thread."""
        self._stopped = self._stopped or not self._ended
        self._leave_loop(0.0)
        await asyncio.to_thread(self.stop)

    @property
    def to_be_stopped(self) -> bool:
        """Whether this process still has to :meth:`stop` it; a fork of the user's process never does."""
        return not self._reaped and os.getpid() == self._owner

    def __repr__(self) -> str:
        return f"{self.name} in process {self.pid}"

    def _on_exit(self) -> None:
        # If another thread holds the lock, it is stopping the process, and will reap it.
        if not self._lock.acquire(blocking=False):
            self._detach()
            return
        try:
            self._finish()
        finally:
            self._lock.release()

    def _finish(self) -> None:
        """Reap the process, which has ended."""
        loop = self._loop
        ours = (
            loop is None or loop is asyncio._get_running_loop()
        )  # Otherwise a loop in another thread uses the channel.
        while ours and _is_readable(self._channel.fileno(), 0.0) and self._read():
            pass  # Answers and log records that it left behind.
        self._process.join()
        self.exit_code = self._process.exitcode
        self._ended = True
        if loop is None or ours:
            self._close()
        else:
            _call_in(loop, self._close)

    def _close(self) -> None:
        self._detach()
        if not self._reaped:
            self._reaped = True
            self._channel.close()
            os.close(self._pidfd)
            self._process.close()
            _alive.discard(self)

    def _kill(self) -> None:
        with contextlib.suppress(ValueError):  # It has ended, and was reaped.
            self._process.kill()

    def _gone(self) -> RemoteDied:
        if self._stopped:
            return RemoteStopped(f"{self.name} was stopped", exit_code=self.exit_code)
        how = f"ended with exit code {self.exit_code}"
        if self.exit_code is not None and self.exit_code < 0:
            names = {number.value: number.name for number in signal.Signals}
            how = f"was killed by {names.get(-self.exit_code, f'signal {-self.exit_code}')}"
        if self._started:
            return RemoteDied(f"the process of {self.name} {how}", exit_code=self.exit_code)
        return RemoteDied(
            f"the process of {self.name} {how} while it was starting; stderr says why. It cannot import a script that "
            'calls mpify outside of `if __name__ == "__main__":`, or that is not a file',
            exit_code=self.exit_code,
        )


def _log_levels() -> dict[str, int]:
    """The log levels set in this process, by the logger's name; the root's name is empty."""
    root = logging.getLogger()
    loggers = [logger for logger in list(root.manager.loggerDict.values()) if isinstance(logger, logging.Logger)]
    return {"": root.level} | {logger.name: logger.level for logger in loggers if logger.level}


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Call ``function`` in the loop's thread, or here if the loop has just closed."""
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        function()


def _is_readable(descriptor: int, timeout: float) -> bool:
    poller = select.poll()  # select() cannot handle descriptors from 1024 on.
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(1e3 * timeout))


def _expire(future: Any, what: str, timeout: float | None) -> None:
    if not future.done():
        future.set_exception(TimeoutError(f"{what}: no answer within {timeout} s"))


#: Processes that are not reaped yet.
_alive: set[RemoteProcess] = set()


# Registered after multiprocessing's own handler, so it runs first: that one waits for every child to end by itself.
@atexit.register
def _stop_all() -> None:
    for process in list(_alive):
        process.stop()
