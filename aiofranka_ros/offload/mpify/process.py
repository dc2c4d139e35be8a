"""The user's side of an isolated object: starts its process, carries requests to it and answers back, and reaps it.

``mpify`` makes one for each object. Everything happens in the thread that runs the event loop; starting and stopping
also work without a loop. Nothing here blocks the loop: packets are small, and what the child has not begun yet waits in
this process, one request at a time being with the child. So a call that is cancelled, or whose time is over, before its
turn is never executed, and an answer that nobody waits for any more is dropped by its number.

The end of the child is noticed through a pidfd. The end of the channel would not do: processes that the child has
forked, such as data loaders, keep it open.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import logging
import multiprocessing
import multiprocessing.util  # Registers its own end, see _stop_all.
import os
import select
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from typing import Any

from aiofranka_ros.errors import NotPicklable, RemoteDied, RemoteStopped
from aiofranka_ros.offload.mpify import worker as remote_worker
from aiofranka_ros.offload.mpify.arrays import Channel, Encoded, Message
from aiofranka_ros.offload.mpify.protocol import Kind, Settings, exception_of, handle_portable, log_levels

_log = logging.getLogger(__name__)


class _Call:
    """A request, from its encoding to its answer."""

    __slots__ = ("kind", "number", "encoded", "future", "what")

    def __init__(self, kind: Kind, number: int, encoded: Encoded, future: Any, what: str) -> None:
        self.kind, self.number, self.encoded, self.what = kind, number, encoded, what
        #: An asyncio or, where no loop runs, a concurrent future; None when its loop was closed.
        self.future: Any = future

    @property
    def awaited(self) -> bool:
        """Whether somebody still waits for the answer."""
        return self.future is not None and not self.future.done()


class RemoteProcess:
    """A child process with an object in it, or on its way: :meth:`made` or :meth:`wait_made` say when it is there.

    :param name: for errors and listings of processes.
    :param make: the factory, its positional and its keyword arguments.
    :param threshold: arrays of at least so many bytes travel through shared memory.
    :param grace: how long :meth:`stop` lets each of its steps take effect [s].
    :raises NotPicklable: ``make`` cannot be pickled; nothing was started.
    :raises RuntimeError: this process is itself a child that has only begun to import the user's script.
    :raises OSError: the system has no process or no descriptor left.
    """

    def __init__(self, name: str, make: tuple[Any, ...], *, threshold: int, grace: float) -> None:
        self.name = name
        self.exit_code: int | None = None
        self._grace = grace
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._number = 0
        #: With the child; then, in this order, those that wait for their turn.
        self._current: _Call | None = None
        self._waiting: deque[_Call] = deque()
        self._started = self._stopped = self._ended = self._reaped = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel = Channel(ours, threshold)
        with theirs:
            try:
                self._make = self._channel.encode(make, f"factory {name} or what it was given")
                self._process, self._pidfd = self._spawn(theirs, threshold)
            except BaseException:
                self._channel.close()
                raise
        self.pid = self._process.pid
        _alive.add(self)

    def _spawn(self, connection: socket.socket, threshold: int) -> tuple[SpawnProcess, int]:
        settings = Settings(os.getpid(), threshold, log_levels())
        # Not daemonic: such a process may have no children of its own, and models have data loaders.
        process = multiprocessing.get_context("spawn").Process(
            target=remote_worker.main, args=(connection, settings), name=f"mpify {self.name}", daemon=False
        )
        try:
            process.start()
        except RuntimeError as error:
            raise RuntimeError(
                "no process for an isolated object can be started here. Its process imports the script that starts it, "
                'so a script has to call mpify under `if __name__ == "__main__":`, not while it is imported'
            ) from error
        assert process.pid is not None
        try:
            return process, os.pidfd_open(process.pid)
        except BaseException:
            process.kill()
            process.join()
            raise

    # --- Requests

    def wait_made(self, timeout: float | None) -> None:
        """Block the thread until the object is there; before any event loop has used it.

        :param timeout: how long to wait [s]; ``None``: as long as it takes.
        :raises TimeoutError: it is not there in time.
        :raises RemoteDied: the process ended.
        :raises Exception: whatever the factory raised.
        """
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._submit(Kind.MAKE, self._take_make(), self.name, future)
        if not self._pump(future.done, timeout):
            _expire(future, self.name, timeout)
        future.result()

    async def made(self, timeout: float | None) -> None:
        """The same without blocking the event loop."""
        await self.call(Kind.MAKE, self._take_make(), self.name, timeout)

    def _take_make(self) -> Encoded:
        make, self._make = self._make, Encoded(b"", [])  # Its memory shall not be kept for ever.
        return make

    async def call(self, kind: Kind, request: Any, what: str, timeout: float | None, keep: object = None) -> Any:
        """Ask the child, in the running event loop, and wait for its answer.

        Cancelled or out of time before the child has begun, it is never executed; later, the child goes on and its
        answer is dropped.

        :param request: what :class:`Kind` says; encoded at once.
        :param what: the request's name, for errors.
        :param timeout: how long to wait [s], including what the child does before; ``None``: as long as it takes.
        :param keep: an object that shall not be garbage collected meanwhile.
        :raises TimeoutError: there was no answer in time.
        :raises NotPicklable: the request or its answer cannot be pickled.
        :raises RemoteDied: the process is gone, or ended meanwhile.
        :raises RuntimeError: no event loop runs, or another one uses this process.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                f"{what}: an isolated object can be used only where an asyncio event loop runs"
            ) from None
        if loop is not self._loop:
            self._attach(loop)
        encoded = request if kind is Kind.MAKE else self._channel.encode(request, f"what {what} was given")
        call = self._submit(kind, encoded, what, loop.create_future())
        timer = None if timeout is None else loop.call_later(timeout, _expire, call.future, what, timeout)
        try:
            return await call.future
        finally:
            if timer is not None:
                timer.cancel()
            self._abandon(call)

    def _submit(self, kind: Kind, encoded: Encoded, what: str, future: Any) -> _Call:
        self._number += 1
        call = _Call(kind, self._number, encoded, future, what)
        self._waiting.append(call)
        if self._current is None:
            self._send_next()
        else:
            encoded.keep()
        return call

    def _send_next(self) -> None:
        while self._waiting and self._current is None:
            call = self._waiting.popleft()
            try:
                packed = self._channel.pack(call.encoded)
            except OSError as error:  # No memory or no descriptor left.
                if call.awaited:
                    call.future.set_exception(error)
                continue
            self._current = call
            try:
                self._channel.send(call.kind, call.number, packed)
            except (BrokenPipeError, ConnectionResetError):
                pass  # The process is about to end: the pidfd will say so, and why.
            except OSError as error:
                self._give_up(error)

    def _abandon(self, call: _Call) -> None:
        """``call`` has no waiter any more, answered or not."""
        if call in self._waiting:
            self._waiting.remove(call)

    def _give_up(self, error: OSError) -> None:
        """The channel does not work any more; nobody could tell what has arrived."""
        _log.error("%s is killed, its channel failed: %s", self, error)
        self._process.kill()

    # --- Answers

    def _readable(self) -> None:
        if self._read():
            return
        loop = self._loop
        if loop is not None:  # Nothing more will come; the pidfd tells when the process has ended.
            loop.remove_reader(self._channel.fileno())
            loop.call_later(self._grace, self._kill)

    def _read(self) -> bool:
        """Take one message, if there is one.

        :returns: ``False`` where no more will come.
        """
        try:
            message = self._channel.receive(wait=False)
        except BlockingIOError:
            return True
        except OSError as error:
            self._give_up(error)
            return False
        if message is None:
            return False
        if message.kind == Kind.LOG:
            handle_portable(message.load())
        elif message.kind == Kind.STARTED:
            self._started = True
        else:
            self._answer(message)
        return True

    def _answer(self, message: Message) -> None:
        call = self._current
        if call is None:
            return  # It was on its way when stop() told everybody that there would be none.
        assert call.number == message.number, "an answer to what was not asked"
        self._current = None
        self._send_next()
        if not call.awaited:
            return  # Not even unpickled: it may be large.
        future = call.future
        try:
            answer = message.load()
        except Exception as error:
            problem = NotPicklable(f"the answer to {call.what} cannot be unpickled: {type(error).__name__}: {error}")
            problem.__cause__ = error
            future.set_exception(problem)
            return
        if message.kind == Kind.ERROR:
            future.set_exception(exception_of(answer))
        else:
            future.set_result(answer)

    # --- The event loop

    def _attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve ``loop`` from now on, instead of one that has ended."""
        if self._ended or self._stopped:
            raise self._gone()
        with self._lock:
            old = self._loop
            if old is not None and not old.is_closed():
                waiting = [call for call in (self._current, *self._waiting) if call is not None and call.awaited]
                if old.is_running() or waiting:
                    raise RuntimeError(f"{self} is in use by another event loop; it can serve only one at a time")
                self._remove_readers(old)
            # Whoever waited in a closed loop will never go on.
            for call in list(self._waiting):
                self._abandon(call)
            if self._current is not None:
                self._current.future = None
            loop.add_reader(self._channel.fileno(), self._readable)
            loop.add_reader(self._pidfd, self._on_exit)
            self._loop = loop

    def _remove_readers(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._channel.fileno())
        loop.remove_reader(self._pidfd)

    def _detach(self) -> None:
        """Leave the event loop; whoever waits is told why. In the loop's thread, or while it does not run."""
        loop, self._loop = self._loop, None
        calls = [call for call in (self._current, *self._waiting) if call is not None]
        self._current = None
        self._waiting.clear()
        if loop is not None:
            if loop.is_closed():
                return  # Nobody there can be told anything.
            self._remove_readers(loop)
        for call in calls:
            if call.awaited:
                call.future.set_exception(self._gone())

    # --- The end

    def stop(self, grace: float | None = None) -> None:
        """End the process and reap it: ask it to end, after ``grace`` terminate it, after ``grace`` again kill it.

        Idempotent; in any thread, which it blocks. Calls that wait raise :class:`RemoteStopped`.

        :param grace: how long it may take to end by itself, and again after SIGTERM [s]; ``None``: as constructed.
        """
        if os.getpid() != self._owner:
            return  # In a fork of the user's process: the child is not its own.
        grace = self._grace if grace is None else grace
        with self._lock:
            if self._reaped:
                return
            self._stopped = True
            self._channel.shut_down()
            ours = self._leave_loop(grace)
            steps: list[tuple[Callable[[], None] | None, float | None]]
            steps = [(None, grace), (self._process.terminate, grace), (self._process.kill, None)]
            for force, patience in steps:
                if force is not None:
                    _log.warning("%s does not end; it is asked by force: %s", self.name, force.__name__)
                    force()
                if self._pump(lambda: self._ended, patience, ours):
                    break

    async def stop_in_thread(self) -> None:
        """The same without blocking the event loop; cancelled, it goes on nevertheless."""
        self._stopped = self._stopped or not self._ended
        self._leave_loop(0.0)
        await asyncio.to_thread(self.stop)

    @property
    def to_be_stopped(self) -> bool:
        """Whether it is this process that has to :meth:`stop` it yet."""
        return not self._reaped and os.getpid() == self._owner

    def __repr__(self) -> str:
        return f"{self.name} in process {self.pid}"

    def _leave_loop(self, patience: float) -> bool:
        """Detach from the event loop, wherever it runs.

        :returns: ``False`` where that loop is too busy for that: then the channel is still its own.
        """
        loop = self._loop
        if loop is None or not loop.is_running() or loop is _running_loop():
            self._detach()
            return True
        detached = threading.Event()

        def leave() -> None:
            self._detach()
            detached.set()

        try:
            loop.call_soon_threadsafe(leave)
        except RuntimeError:  # It was closed just now.
            leave()
        return detached.wait(patience)

    def _on_exit(self) -> None:
        # Where another thread has the lock, it is stopping the process, and will reap it.
        if not self._lock.acquire(blocking=False):
            self._detach()
            return
        try:
            self._finish(True)
        finally:
            self._lock.release()

    def _finish(self, ours: bool) -> None:
        """Reap the process, which has ended.

        :param ours: whether this thread may use the channel and the event loop.
        """
        while ours and _is_readable(self._channel.fileno(), 0.0) and self._read():
            pass  # Answers and log records that it left behind.
        self._process.join()
        self.exit_code = self._process.exitcode
        self._ended = True
        loop = self._loop
        if ours or loop is None:
            self._close()
        else:
            try:
                loop.call_soon_threadsafe(self._close)
            except RuntimeError:  # That loop has ended meanwhile.
                self._close()

    def _close(self) -> None:
        self._detach()
        if not self._reaped:
            self._reaped = True
            self._channel.close()
            os.close(self._pidfd)
            self._process.close()
            _alive.discard(self)

    def _kill(self) -> None:
        if not self._lock.acquire(blocking=False):
            return  # Another thread is about to stop it anyway.
        try:
            if not self._ended:
                self._process.kill()
        finally:
            self._lock.release()

    def _pump(self, done: Callable[[], bool], timeout: float | None, ours: bool = True) -> bool:
        """Read messages without an event loop until ``done``.

        :returns: ``False`` where it is not done in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if ours:
            poller.register(self._channel.fileno(), select.POLLIN)
        while not done():
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = [descriptor for descriptor, _ in poller.poll(None if wait is None else 1e3 * wait)]
            if not ready:
                return done()
            if self._pidfd in ready:
                self._finish(ours)
            elif not self._read():
                poller.unregister(self._channel.fileno())
                if not _is_readable(self._pidfd, self._grace):
                    self._process.kill()  # It has left, but something in it does not end.
        return True

    def _gone(self) -> RemoteDied:
        if self._stopped:
            return RemoteStopped(f"{self.name} was stopped", exit_code=self.exit_code)
        how = _how_it_ended(self.exit_code)
        if self._started:
            return RemoteDied(f"the process of {self.name} {how}", exit_code=self.exit_code)
        return RemoteDied(
            f"the process of {self.name} {how} while it was starting; it says why on stderr. A script that calls mpify "
            'outside of `if __name__ == "__main__":`, or that is no file, cannot be imported by it',
            exit_code=self.exit_code,
        )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _is_readable(descriptor: int, timeout: float) -> bool:
    poller = select.poll()  # Not select(): that cannot take descriptors from 1024 on.
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(1e3 * timeout))


def _expire(future: Any, what: str, timeout: float | None) -> None:
    if not future.done():
        future.set_exception(TimeoutError(f"{what}: no answer within {timeout} s"))


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:  # A real-time signal.
        name = f"signal {-exit_code}"
    return f"was killed by {name}"


#: Not yet reaped.
_alive: set[RemoteProcess] = set()


# Registered after multiprocessing's own, so it is executed before it: that one waits for every child to end by itself.
@atexit.register
def _stop_all() -> None:
    for process in list(_alive):
        process.stop()
