"""rclpy for asyncio: a node with a context, an executor and a thread of its own, whose answers can be awaited.

Used by :class:`~aiofranka_ros.api.ros_interface.RosInterface`, in the policy's process. All of rclpy happens in that
one thread, publishing excepted, which rclpy allows anywhere; it reaches the event loop through ``call_soon_threadsafe``
alone, and no future of rclpy is ever awaited by asyncio, which would raise. The context of its own disturbs nobody
else's rclpy in the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, ShutdownException
from rclpy.signals import SignalHandlerOptions

from aiofranka_ros.ros.executor import UrgentFirstExecutor

_number = itertools.count(1)
#: How often a service is looked for that is not there yet [s].
_DISCOVERY_PERIOD = 0.05


class RosClient:
    """A node, awaitable from the event loop that it was made in.

    Publishers, subscriptions and clients are made on :attr:`node` before :meth:`start`; a subscription that cannot wait
    for its turn, in a callback group of its own.

    :param name: beginning of the node's name; process and number are appended, because names should be unique.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(
            f"{name}_{os.getpid()}_{next(_number)}", context=self._context, use_global_arguments=False
        )
        self._executor = UrgentFirstExecutor(self.node)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="aiofranka_ros-rclpy", daemon=True)
        self._unanswered: set[asyncio.Future[Any]] = set()
        self._refusal: Exception | None = None

    def start(self) -> None:
        """Begin to receive."""
        self._thread.start()

    def close(self) -> None:
        """Leave the graph; blocks until the thread has ended, a fraction of a second."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def in_loop(self, callback: Callable[[Any], object]) -> Callable[[Any], None]:
        """``callback`` for rclpy's thread, which is then called in the event loop."""

        def pass_on(argument: Any) -> None:
            with contextlib.suppress(RuntimeError):  # The event loop is closed: nobody is interested any more.
                self._loop.call_soon_threadsafe(callback, argument)

        return pass_on

    def request(self, send: Callable[[], Any], done: Callable[[Any], object]) -> None:
        """Send something in rclpy's thread; may be called from any thread.

        :param send: returns rclpy's future.
        :param done: called in the event loop with that future when it is done.
        """
        # In that thread, because up to Humble the answer may be faster than the client that is to wait for it.
        self._executor.create_task(lambda: send().add_done_callback(self.in_loop(done)))

    async def answer(self, send: Callable[[], Any], timeout: float | None) -> Any:
        """Send something in rclpy's thread, and wait for the answer.

        :param send: returns rclpy's future.
        :param timeout: how long to wait [s]; ``None``: for ever.
        :raises asyncio.TimeoutError: no answer came in time.
        :raises Exception: what :meth:`abandon` was called with.
        """
        if self._refusal is not None:
            raise self._refusal
        answer: asyncio.Future[Any] = self._loop.create_future()

        def take(future: Any) -> None:
            if answer.done():
                return
            if future.exception() is not None:
                answer.set_exception(future.exception())
            else:
                answer.set_result(future.result())

        self._unanswered.add(answer)
        try:
            self.request(send, take)
            return await asyncio.wait_for(answer, timeout)
        finally:
            self._unanswered.discard(answer)

    def abandon(self, error: Exception, *, for_good: bool = False) -> None:
        """Let everybody who waits for an answer have ``error`` instead.

        :param for_good: whoever asks from now on has it, too.
        """
        if for_good:
            self._refusal = error
        for answer in self._unanswered:
            if not answer.done():
                answer.set_exception(error)

    async def ready(self, *servers: Callable[[], bool], timeout: float) -> bool:
        """Whether all of ``servers`` become ready in time."""
        deadline = self._loop.time() + timeout
        while not all(is_ready() for is_ready in servers):
            if self._loop.time() > deadline:
                return False
            await asyncio.sleep(_DISCOVERY_PERIOD)
        return True

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException, ShutdownException):
            while not self._stopping.is_set():
                self._executor.spin_turn()
