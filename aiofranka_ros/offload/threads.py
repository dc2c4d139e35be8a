"""Daemon threads that take calls from event loops, and hand the outcomes back.

What :func:`~aiofranka_ros.offload.workers.asyncify` and :class:`~aiofranka_ros.offload.workers.CudaInferenceThread`
stand on. The calls run in the threads; who awaits them does so in an event loop, and several loops, in several
threads, may use the same workers.

Daemon threads, because a call that hangs in a driver must not keep a robot's process from ending. At the end of the
process, calls that have not begun are dropped, and running ones get :data:`EXIT_GRACE`: threads that are cut off inside
a native library can crash it, so it is better not to do that to a call that is almost done.
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
from dataclasses import dataclass
from typing import Any

from aiofranka_ros.errors import NotStarted, Superseded

#: How long running calls may take to end when the process does [s].
EXIT_GRACE = 2.0


@dataclass(frozen=True)
class CallTiming:
    """How long one call took.

    :ivar waited: from asking until it began [s].
    :ivar ran: from then until it returned or raised [s].
    """

    waited: float
    ran: float


class Outcome:
    """What a call returned or raised.

    Futures carry this, rather than the exception itself: ``set_exception`` refuses StopIteration, and would complain
    about exceptions that nobody awaits any more.
    """

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self._value = value
        self._error = error

    def get(self) -> Any:
        """Return or raise it; an exception only once."""
        if self._error is None:
            return self._value
        try:
            raise self._error
        finally:
            self._error = None  # or error, traceback, frame and outcome would keep each other (and images) alive


class Call:
    """One call on its way to a thread, with the await that wants its outcome. Made in the loop that awaits.

    :param record: gets the call's timing, in the thread, before the outcome is delivered.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        record: Callable[[CallTiming], None] | None = None,
    ) -> None:
        self.function = function
        self._args = args
        self._kwargs = kwargs
        self._record = record
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Outcome] = self._loop.create_future()
        self._asked = time.perf_counter()

    def run(self) -> Outcome:
        """Call the function, in the thread that this is called in."""
        # No local variable keeps the outcome: the traceback in it keeps this frame.
        begun = time.perf_counter()
        try:
            return Outcome(self._context.run(self.function, *self._args, **self._kwargs))
        except BaseException as error:  # whatever it is, it belongs to who awaits
            return Outcome(error=error)
        finally:
            if self._record is not None:
                self._record(CallTiming(begun - self._asked, time.perf_counter() - begun))

    def deliver(self, outcome: Outcome) -> None:
        """Let who awaits the call have its outcome; from any thread."""
        # A loop that was closed meanwhile has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: Outcome) -> None:
        if not self.future.done():  # cancelled: the outcome is dropped
            self.future.set_result(outcome)


class Workers:
    """A bounded number of daemon threads that take calls in order.

    Unlike a ThreadPoolExecutor it forgets a cancelled call at once, with the images in its arguments, and does not keep
    the process from ending.

    :param patience: a thread that was idle for so long ends [s]; ``None``: never.
    """

    _instances: weakref.WeakSet[Workers] = weakref.WeakSet()

    def __init__(self, name: str, size: int, *, patience: float | None) -> None:
        self._name = name
        self._size = size
        self._patience = patience
        self._closed = False
        self._forget()
        self._instances.add(self)

    def _forget(self) -> None:
        self._change = threading.Condition()
        self._waiting: deque[Call] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0

    @property
    def alive(self) -> bool:
        """Whether any thread is there."""
        return any(thread.is_alive() for thread in tuple(self._threads))

    def resize(self, size: int) -> None:
        """Change the number of threads; surplus ones end after the call that they run."""
        with self._change:
            self._size = size
            while len(self._threads) < min(size, len(self._waiting)):
                self.add_thread()
            self._change.notify_all()

    async def run(self, call: Call, *, replaces: bool = False) -> Any:
        """Let a thread run the call; returns or raises what it does.

        In one of the threads itself, by a call that runs an event loop of its own, it is run right there: waiting for
        another of the same threads could last for ever.

        :param replaces: take the place of a waiting call of the same function, which then raises Superseded.
        """
        if threading.current_thread() in self._threads:
            return call.run().get()
        try:
            self._submit(call, replaces)
            outcome = await call.future
        finally:
            self._withdraw(call)
        return outcome.get()

    def _submit(self, call: Call, replaces: bool) -> None:
        with self._change:
            if self._closed:
                raise NotStarted(f"{self._name} was stopped")
            if replaces:
                for index, other in enumerate(self._waiting):
                    if other.function == call.function:
                        self._waiting[index] = call
                        other.deliver(Outcome(error=Superseded("a newer call took the place of this one")))
                        return
            self._waiting.append(call)
            # Idle threads may have been woken for earlier calls already.
            if len(self._waiting) > self._idle and len(self._threads) < self._size:
                self.add_thread()
            self._change.notify()

    def _withdraw(self, call: Call) -> None:
        with self._change, contextlib.suppress(ValueError):  # it has begun
            self._waiting.remove(call)

    def add_thread(self) -> None:
        """Start one more thread."""
        thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            self._threads.discard(thread)
            raise

    def _work(self) -> None:
        while (call := self._next()) is not None:
            call.deliver(call.run())
            del call  # what it held must not stay until the next one comes

    def _next(self) -> Call | None:
        """Wait for a call; ``None`` when this thread is to end."""
        with self._change:
            while len(self._threads) <= self._size:
                if self._waiting:
                    call = self._waiting.popleft()
                    if call.future.cancelled():  # its await has not come round to withdrawing it
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
            self._change.notify()  # this thread may have been woken for a call that another has to take now
            return None

    def close(self, reason: str) -> None:
        """Take no calls any more and fail those that have not begun; the threads end after what they run."""
        with self._change:
            self._closed = True
            while self._waiting:
                self._waiting.popleft().deliver(Outcome(error=NotStarted(reason)))
            self._change.notify_all()

    def join(self, timeout: float | None) -> bool:
        """Wait until the threads have ended, but not for the calling one; whether all have."""
        deadline = None if timeout is None else time.monotonic() + timeout
        threads = tuple(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    @classmethod
    def finish_all(cls) -> None:
        """At the end of the process."""
        everything = tuple(cls._instances)
        for workers in everything:
            workers.close("the process ends")
        deadline = time.monotonic() + EXIT_GRACE
        for workers in everything:
            workers.join(max(0.0, deadline - time.monotonic()))

    @classmethod
    def forget_all(cls) -> None:
        """In the child of a fork, which has none of the threads."""
        for workers in tuple(cls._instances):
            workers._forget()


atexit.register(Workers.finish_all)
os.register_at_fork(after_in_child=Workers.forget_all)
