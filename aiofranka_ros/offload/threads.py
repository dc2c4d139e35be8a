"""Daemon threads that take calls from event loops, and hand the outcomes back.

The basis of :func:`~aiofranka_ros.offload.workers.asyncify` and
:class:`~aiofranka_ros.offload.inference.CudaInferenceThread`. The calls run in the threads and are awaited in an event
loop; several loops, in several threads, may use the same workers.

Daemon threads, because a call that hangs in a driver must not keep a robot's process from ending. At the end of the
process, calls that have not begun are dropped, and running ones get :data:`EXIT_GRACE` to finish: a native library can
crash if its thread is cut off.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from aiofranka_ros.errors import ConfigurationError, NotStarted, Superseded

#: How long running calls may take to end when the process ends [s].
EXIT_GRACE = 2.0


class CallTiming(NamedTuple):
    """How long one call waited before it began, and how long it ran until it returned or raised [s]."""

    waited: float
    ran: float


class Call:
    """One call for a thread, and its outcome; made in the event loop that awaits it.

    :param record: called with the call's timing, in the thread, before the outcome is delivered.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        record: Callable[[CallTiming], None] = lambda timing: None,
    ) -> None:
        self.function = function
        self._args = args
        self._kwargs = kwargs
        self._record = record
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self._value: Any = None
        self._error: BaseException | None = None
        #: Done when there is an outcome. It does not carry it, because ``set_exception`` refuses StopIteration, and
        #: complains about exceptions that are never awaited.
        self.future: asyncio.Future[None] = self._loop.create_future()
        self._asked = time.perf_counter()

    def run(self) -> None:
        """Call the function in the current thread."""
        begun = time.perf_counter()
        try:
            self._value = self._context.run(self.function, *self._args, **self._kwargs)
        except BaseException as error:  # any error belongs to the awaiting task
            self._error = error
        finally:
            self._record(CallTiming(begun - self._asked, time.perf_counter() - begun))

    def outcome(self) -> Any:
        """Return or raise what the function did; an exception only once."""
        if self._error is None:
            return self._value
        try:
            raise self._error
        finally:
            self._error = None  # otherwise error, traceback, frame and call keep each other (and images) alive

    def deliver(self, error: BaseException | None = None) -> None:
        """Hand the outcome to the awaiting task; from any thread.

        :param error: why the function was not called.
        """
        if error is not None:
            self._error = error
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nothing awaits the call
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        if self.future.done():  # cancelled: the outcome is dropped
            self._error = None
        else:
            self.future.set_result(None)


class Workers:
    """A bounded number of daemon threads that take calls in order.

    Unlike a ThreadPoolExecutor it forgets a cancelled call, and the images in its arguments, at once, and does not keep
    the process from ending.

    :param size: the number of threads.
    :param patience: a thread that was idle for this time ends [s]; ``None``: never.
    :raises ConfigurationError: less than one thread.
    """

    _instances: weakref.WeakSet[Workers] = weakref.WeakSet()

    def __init__(self, name: str, size: int, *, patience: float | None) -> None:
        self._name = name
        self._patience = patience
        self._closed = False
        self._forget()
        self.resize(size)
        self._instances.add(self)

    def _forget(self) -> None:
        self._change = threading.Condition()
        self._waiting: deque[Call] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0

    @property
    def alive(self) -> bool:
        """Whether any thread exists."""
        return any(thread.is_alive() for thread in tuple(self._threads))

    @property
    def running(self) -> bool:
        """Whether any thread exists, and calls are accepted."""
        return self.alive and not self._closed

    def resize(self, size: int) -> None:
        """Change the number of threads; surplus threads end after their current call.

        :raises ConfigurationError: less than one thread.
        """
        if size < 1:
            raise ConfigurationError(f"at least one thread is needed, not {size}")
        with self._change:
            self._size = size
            while len(self._threads) < min(size, len(self._waiting)):
                self.add_thread()
            self._change.notify_all()

    async def run(self, call: Call, *, replaces: bool = False) -> Any:
        """Run the call in a thread; returns or raises what it does.

        Awaited in one of these threads (by a call that runs its own event loop), it runs right there: waiting for
        another of the same threads could last forever.

        :param replaces: take the place of a waiting call of the same function, which then raises Superseded.
        """
        if threading.current_thread() in self._threads:
            call.run()
            return call.outcome()
        try:
            self._submit(call, replaces)
            await call.future
        finally:
            with self._change, contextlib.suppress(ValueError):  # it has begun
                self._waiting.remove(call)
        return call.outcome()

    def _submit(self, call: Call, replaces: bool) -> None:
        with self._change:
            if self._closed:
                raise NotStarted(f"{self._name} was stopped")
            if replaces:
                for index, other in enumerate(self._waiting):
                    if other.function == call.function:
                        self._waiting[index] = call
                        other.deliver(Superseded("a newer call took the place of this one"))
                        return
            self._waiting.append(call)
            # Idle threads may already have been woken for earlier calls.
            if len(self._waiting) > self._idle and len(self._threads) < self._size:
                self.add_thread()
            self._change.notify()

    def add_thread(self) -> None:
        """Start one more thread."""
        with self._change:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._threads.add(thread)  # First: a thread that runs although the start was interrupted must end, too.
            try:
                thread.start()
            except BaseException:
                if not thread.is_alive():
                    self._threads.discard(thread)
                raise

    def _work(self) -> None:
        while (call := self._next()) is not None:
            call.run()
            call.deliver()
            del call  # do not keep its arguments until the next call

    def _next(self) -> Call | None:
        """Wait for a call; ``None`` if this thread must end."""
        with self._change:
            while len(self._threads) <= self._size:
                if self._waiting:
                    call = self._waiting.popleft()
                    if call.future.cancelled():  # but not withdrawn yet
                        continue
                    return call
                if self._closed:
                    break
                self._idle += 1
                woken = self._change.wait(self._patience)
                self._idle -= 1
                if not woken and not self._waiting:
                    break
            self._threads.discard(threading.current_thread())
            self._change.notify()  # this thread may have been woken for a call that another must take now
            return None

    def close(self, reason: str) -> None:
        """Refuse further calls and fail those that have not begun; the threads end after their current call."""
        with self._change:
            self._closed = True
            while self._waiting:
                self._waiting.popleft().deliver(NotStarted(reason))
            self._change.notify_all()

    def join(self, timeout: float | None) -> bool:
        """Wait for each thread but the calling one, for ``timeout`` [s] at most; returns whether all have ended."""
        for thread in tuple(self._threads):
            if thread is not threading.current_thread():
                thread.join(timeout)
        return not self.alive

    @classmethod
    def finish_all(cls) -> None:
        """At the end of the process."""
        instances = tuple(cls._instances)
        for workers in instances:
            workers.close("the process ends")
        deadline = time.monotonic() + EXIT_GRACE
        for thread in [thread for workers in instances for thread in tuple(workers._threads)]:
            thread.join(max(0.0, deadline - time.monotonic()))

    @classmethod
    def forget_all(cls) -> None:
        """In the child of a fork, which has none of the threads."""
        for workers in tuple(cls._instances):
            workers._forget()


atexit.register(Workers.finish_all)
os.register_at_fork(after_in_child=Workers.forget_all)
