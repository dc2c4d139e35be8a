"""rclpy for asyncio: a node with its own context, executor and thread, whose answers can be awaited.

Base of :class:`~aiofranka_ros.api.node_connection.NodeConnection`, in the policy's process. All of rclpy happens in
that thread, except publishing, which rclpy allows anywhere; asyncio never awaits a future of rclpy, which would raise.
With its own context it does not disturb other uses of rclpy in the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import rclpy
from rclpy.action import ActionClient
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, ShutdownException
from rclpy.signals import SignalHandlerOptions

from aiofranka_ros.errors import ConnectionFailed, FrankaError, NotStarted
from aiofranka_ros.ros.executor import UrgentFirstExecutor

_number = itertools.count(1)
_CLOSED = "the controller was stopped"
#: How often to check whether a service has appeared [s].
_DISCOVERY_PERIOD = 0.05
#: How long an answer that the node gives at once may take [s]. Where a stopped process was killed, DDS may deliver
#: nothing to the next one for some seconds (on a busy computer up to seven, also if the node is nothing but rclpy). A
#: node that is lost is noticed sooner, because its state is missing.
ANSWER_TIMEOUT = 30.0
#: How long to wait before a question is repeated [s]: DDS drops an answer to a client that it has not discovered yet.
_REPETITION = 5.0


def unique_name(beginning: str) -> str:
    """A name for a node that no other one has, on this computer."""
    return f"{beginning}_{os.getpid()}_{next(_number)}"


class RosClient:
    """A node whose services and actions can be awaited in the event loop that made it.

    Make publishers, subscriptions and clients on :attr:`node` before :meth:`start`; a subscription that must not wait
    for others needs its own callback group.

    :param name: of the node.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        try:
            self.node = rclpy.create_node(name, context=self._context, use_global_arguments=False)
        except BaseException:
            self._context.try_shutdown()
            raise
        self._executor = UrgentFirstExecutor(self.node)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="aiofranka_ros-rclpy", daemon=True)
        self._unanswered: set[asyncio.Future[Any]] = set()
        self._lasting: set[asyncio.Future[Any]] = set()

    def start(self) -> None:
        """Start to receive."""
        self._thread.start()

    async def close(self) -> None:
        """Leave the graph, for good; calls that wait for an answer, and later ones, raise :class:`.NotStarted`."""
        self._stopping.set()
        self.abandon(NotStarted(_CLOSED), self._unanswered | self._lasting)
        await self._loop.run_in_executor(None, self.discard)

    def discard(self) -> None:
        """Leave the graph; blocks. Also for a client that was never started, or whose constructor fails."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._executor.shutdown()
        # The node does not destroy them, and an exception that the program keeps may keep them, too: servers would then
        # see their client on the graph, and continue with its goals.
        for each in [one for one in self.node.waitables if isinstance(one, ActionClient)]:
            each.destroy()
        self.node.destroy_node()
        self._context.try_shutdown()

    def in_loop(self, callback: Callable[[Any], object]) -> Callable[[Any], None]:
        """A function that may be called from any thread, and calls ``callback`` in the event loop."""

        def call(argument: Any) -> None:
            with contextlib.suppress(RuntimeError):  # The event loop is closed, so nothing waits for this any more.
                self._loop.call_soon_threadsafe(callback, argument)

        return call

    def request(self, send: Callable[[], Any], done: Callable[[Any], object]) -> None:
        """Send something in rclpy's thread; may be called from any thread. Ignored after :meth:`close`.

        :param send: returns rclpy's future.
        :param done: called in the event loop with that future when it is done.
        """
        # In that thread, because up to Humble the answer may arrive before the client is ready to wait for it.
        self._do(lambda: send().add_done_callback(self.in_loop(done)))

    def subscribe(self, kind: type, topic: str, receive: Callable[[bytes], object], qos: Any) -> Callable[[], None]:
        """Receive messages from now on, as their bytes, in rclpy's thread; may be called from any thread.

        :returns: ends it; ignored after :meth:`close`.
        """
        made: list[Any] = []
        urgent = ReentrantCallbackGroup()  # Otherwise, it takes long if other threads of this process compute.

        def make() -> None:
            # A lambda, because rclpy looks at the signature, which built-in functions do not have.
            one = self.node.create_subscription(
                kind, topic, lambda data: receive(data), qos, raw=True, callback_group=urgent
            )
            made.append(one)

        self._do(make)
        return lambda: self._do(lambda: self.node.destroy_subscription(made.pop()))

    def _do(self, call: Callable[[], object]) -> None:
        """Call ``call`` in rclpy's thread; ignored after :meth:`close`."""
        if not self._stopping.is_set():
            self._executor.create_task(call)

    def after_turn(self, call: Callable[[], object]) -> None:
        """Call ``call`` in the event loop when rclpy's thread had time to receive something. Ignored once closed."""
        self._do(lambda: self.in_loop(lambda _: call())(None))

    async def call(self, service: Any, request: Any, timeout: float = ANSWER_TIMEOUT, lasting: bool = False) -> Any:
        """The answer of a service; errors and cancellation as in :meth:`prompt_answer`."""
        return await self.prompt_answer(service.srv_name, lambda: service.call_async(request), timeout, lasting)

    async def ask(self, service: Any, question: Any, timeout: float = ANSWER_TIMEOUT) -> Any:
        """As :meth:`call`, for a request that changes nothing; it is repeated until an answer comes."""
        deadline = self._loop.time() + timeout
        while (left := deadline - self._loop.time()) > _REPETITION:
            with contextlib.suppress(asyncio.TimeoutError):
                return await self.answer(lambda: service.call_async(question), _REPETITION)
        return await self.call(service, question, left)

    async def prompt_answer(
        self, name: str, send: Callable[[], Any], timeout: float = ANSWER_TIMEOUT, lasting: bool = False
    ) -> Any:
        """As :meth:`answer`, but a late one is an error.

        :param name: of the service or action, for the message.
        :raises ConnectionFailed: no answer came in time.
        """
        try:
            return await self.answer(send, timeout, lasting)
        except asyncio.TimeoutError:
            raise ConnectionFailed(f"no answer from {name} within {timeout:.0f} s") from None

    async def answer(self, send: Callable[[], Any], timeout: float, lasting: bool = False) -> Any:
        """Send something in rclpy's thread, and wait for the answer. If cancelled, the answer is ignored.

        :param send: returns rclpy's future.
        :param timeout: how long to wait [s].
        :param lasting: whether only :meth:`close` ends the wait, and :meth:`abandon` does not.
        :raises asyncio.TimeoutError: no answer came in time.
        :raises NotStarted: this client is closed.
        :raises FrankaError: the argument of :meth:`abandon`.
        """
        if self._stopping.is_set():
            raise NotStarted(_CLOSED)
        answer: asyncio.Future[Any] = self._loop.create_future()

        def resolve(future: Any) -> None:
            if not answer.done():
                answer.set_result(future)

        waiting = self._lasting if lasting else self._unanswered
        waiting.add(answer)
        try:
            self.request(send, resolve)
            # Unlike this, asyncio.wait_for may miss a cancellation up to Python 3.11.
            await asyncio.wait([answer], timeout=timeout)
            if not answer.done():
                raise asyncio.TimeoutError
            return answer.result().result()
        finally:
            waiting.discard(answer)

    def abandon(self, error: FrankaError, waiting: Iterable[asyncio.Future[Any]] | None = None) -> None:
        """Raise ``error`` in every call that waits for an answer, except for lasting ones, or only in ``waiting``."""
        for answer in self._unanswered if waiting is None else waiting:
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # Retrieved: a call that is being cancelled does not raise it.

    async def ready(self, *servers: Callable[[], bool], timeout: float) -> bool:
        """Wait until all of ``servers`` are ready.

        :returns: whether they were ready within ``timeout`` [s].
        """
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
