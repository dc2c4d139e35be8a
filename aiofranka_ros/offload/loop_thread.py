"""An event loop in a separate thread, for callers that wait instead of awaiting: :class:`LoopThread`.

Used by :mod:`aiofranka_ros.api.sync`, in the process of a script, IPython or a notebook. Coroutines run in the loop's
thread; any other thread may call them, also one whose own event loop runs.

A daemon thread, because a program that ends must not wait for it forever. What has to be undone first, such as
releasing an arm, runs in it when the main thread ends, before daemon threads and executors are gone.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401 - see the end of this module
import contextlib
import contextvars
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from aiofranka_ros.errors import NotStarted, WouldDeadlock

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

#: How often a waiting thread looks for Ctrl-C [s]: some front ends only mark it, which does not wake the thread.
_LOOK = 0.1
#: How long everything that has to be undone may take when the process ends [s].
EXIT_GRACE = 15.0


class _Call(Generic[_T]):
    """One coroutine that another thread waits for."""

    def __init__(self, coroutine: Coroutine[Any, Any, _T]) -> None:
        self._coroutine = coroutine
        self._task: asyncio.Task[_T] | None = None
        #: Set when there is an outcome.
        self.done = threading.Event()

    def begin(self) -> None:
        """In the loop."""
        if not self.done.is_set():
            self._task = asyncio.get_running_loop().create_task(self._coroutine)
            self._task.add_done_callback(lambda _: self.done.set())

    def cancel(self) -> None:
        """In the loop."""
        if self._task is not None:
            self._task.cancel()
        else:
            self._coroutine.close()
            self.done.set()

    def outcome(self) -> _T:
        """Return or raise what the coroutine did; an exception only once."""
        task, self._task = self._task, None  # Otherwise error, traceback, frame and call would keep each other alive.
        assert task is not None
        try:
            return task.result()
        finally:
            del task

    def drop(self) -> None:
        """Nothing wants the outcome."""
        if self._task is not None and not self._task.cancelled():
            self._task.exception()  # Retrieved, or asyncio would complain.


class LoopThread:
    """An event loop in a thread that starts with the first call.

    :param name: of the thread.
    :param last: makes the coroutine that runs before the thread ends, after :meth:`end` or when the process ends. It
        must not start threads; those of executors that have run before are still there.
    """

    _instances: weakref.WeakSet[LoopThread] = weakref.WeakSet()

    def __init__(self, name: str, last: Callable[[], Coroutine[Any, Any, object]]) -> None:
        self._name = name
        self._last = last
        self._owner = os.getpid()
        self._lock = threading.RLock()  # A finalizer may call end() in any thread, at any time.
        self._thread: threading.Thread | None = None
        self._over = False
        # Made by the thread.
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._ending: asyncio.Event
        self._instances.add(self)

    @property
    def running(self) -> bool:
        """Whether the thread runs and takes calls; false in a fork, which does not have the thread."""
        return self._thread is not None and not self._over and os.getpid() == self._owner

    def call(self, coroutine: Coroutine[Any, Any, _T], context: contextvars.Context | None = None) -> _T:
        """Run ``coroutine`` in the loop, and wait for what it returns or raises.

        Ctrl-C cancels it, waits until it has ended, and is raised; the second one is raised at once.

        :param context: context variables of the coroutine; ``None``: those of the caller.
        :raises WouldDeadlock: called in the loop's thread, so that both would wait for each other.
        :raises NotStarted: :meth:`end` was called, or this process is a fork of the one that made it.
        """
        try:
            self._start()
        except BaseException:
            coroutine.close()
            raise
        call = _Call(coroutine)
        try:
            self._schedule(call.begin, context)
            while not call.done.wait(_LOOK):
                pass
        except BaseException:
            self._cancel(call)
            raise
        try:
            return call.outcome()
        except asyncio.CancelledError:  # Only the end of the thread cancels it while the caller waits.
            raise NotStarted(f"the event loop {self._name} has ended") from None

    def end(self) -> None:
        """Run ``last`` and end the thread, in the background; idempotent. Does nothing in a fork."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            over, self._over = self._over, True
            if self._thread is not None and not over:
                self._ready.wait()
                self._loop.call_soon_threadsafe(self._ending.set)

    def join(self, timeout: float) -> None:
        """Wait until the thread has ended, for ``timeout`` [s] at most; at once if this is the thread, or in a fork."""
        if self._thread is not None and os.getpid() == self._owner and threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _start(self) -> None:
        if os.getpid() != self._owner:
            raise NotStarted(f"the event loop {self._name} is in another process, and this one is a fork of it")
        if threading.current_thread() is self._thread:
            raise WouldDeadlock(
                "a callback cannot wait for the event loop that it runs in: call this in another thread"
            )
        with self._lock:
            if self._over:
                raise NotStarted(f"the event loop {self._name} has ended")
            if self._thread is None:
                thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread = thread  # First: a thread that runs although its start was interrupted is this one.
                try:
                    thread.start()
                except BaseException:
                    if not thread.is_alive():
                        self._thread = None
                    raise
        self._ready.wait()

    def _schedule(self, function: Callable[[], None], context: contextvars.Context | None) -> None:
        with self._lock:  # Whatever is scheduled before the end is begun, so that its caller gets an outcome.
            if self._over:
                raise NotStarted(f"the event loop {self._name} has ended")
            self._loop.call_soon_threadsafe(function, context=context)

    def _cancel(self, call: _Call[Any]) -> None:
        """Cancel it, and wait until it has ended."""
        with contextlib.suppress(RuntimeError):  # The loop is closed, so it has ended.
            self._loop.call_soon_threadsafe(call.cancel)
            while not call.done.wait(_LOOK):
                pass
        call.drop()

    def _serve(self) -> None:
        """The thread. Not asyncio.run: its end starts a thread, which Python 3.12 refuses when the process ends."""
        self._loop = loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(self._run())
        finally:
            loop.close()

    async def _run(self) -> None:
        self._ending = asyncio.Event()
        self._ready.set()
        await self._ending.wait()
        try:
            await self._last()
        except Exception:
            _log.exception("the event loop %s did not end in order", self._name)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()

    @classmethod
    def end_all(cls) -> None:
        """At the end of the process."""
        threads = tuple(cls._instances)
        for thread in threads:
            thread.end()
        deadline = time.monotonic() + EXIT_GRACE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


# atexit is too late: executors refuse work by then, and an arm could not be stopped. They learn of the end in the same
# way, but later, because this was registered after theirs.
getattr(threading, "_register_atexit", atexit.register)(LoopThread.end_all)
