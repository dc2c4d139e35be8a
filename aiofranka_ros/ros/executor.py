"""An executor that runs urgent callbacks at once and everything else in turns between them.

Used by the node, where targets are urgent, by policies, where the measured state is, and by RViz's tools, which receive
the state often; each in one thread.

Before every wait, rclpy builds a wait set of everything in a node, afterwards asks each entity whether it is ready, and
makes a task of each callback. For the thirty services and five action servers of the node, that takes longer than
handling a target. So this executor takes the few urgent messages and timers straight from a separate wait set, as
``rclpy.wait_for_message`` does. Every few milliseconds it checks the rest in the same way, without waiting, and calls
rclpy if there is something to do. What takes long, as large requests do, runs aside: in a helper thread, while the
executor's thread runs only what is urgent.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from rclpy.executors import SingleThreadedExecutor, TimeoutException, await_or_execute
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.subscription import Subscription
from rclpy.task import Task
from rclpy.waitable import NumberOfEntities

#: How often callbacks that can wait have a turn [s]; services may be answered that much later.
TURN_PERIOD = 0.01
#: Longest time for a turn [s]; urgent callbacks wait until it ends.
_LONGEST_TURN = 0.005
#: How often rclpy checks for events of publishers and subscriptions, such as incompatible QoS [s].
_EVENTS_PERIOD = 1.0
#: How often to check whether the helper thread is done [s].
_CHECK_PERIOD = 0.001

_Result = TypeVar("_Result")


class _Entities:
    """The urgent parts of a node, or those that can wait; they share a wait set.

    :param urgent: subscriptions and timers that are not in the node's default callback group; or else everything but
        them.
    """

    def __init__(self, node: Node, *, urgent: bool) -> None:
        group = node.default_callback_group
        self.subscriptions = [one for one in node.subscriptions if (one.callback_group is not group) == urgent]
        self.timers = [one for one in node.timers if (one.callback_group is not group) == urgent]
        self._services = [] if urgent else list(node.services)
        self._clients = [] if urgent else list(node.clients)
        # Without events, see _EVENTS_PERIOD.
        waitables = [] if urgent else node.waitables
        self._waitables = [one for one in waitables if not one.get_num_entities().num_events]
        #: The subscriptions by their pointers, and how many arguments their callbacks take.
        self.by_pointer = {one.handle.pointer: (one, _arguments(one.callback)) for one in self.subscriptions}
        count = NumberOfEntities(len(self.subscriptions), 0, len(self.timers), len(self._clients), len(self._services))
        for waitable in self._waitables:
            count += waitable.get_num_entities()
        self._wait_set = rclpy_implementation.WaitSet(
            count.num_subscriptions, count.num_guard_conditions, count.num_timers, count.num_clients,
            count.num_services, count.num_events, node.context.handle,
        )  # fmt: skip

    def wait(self, timeout: float) -> tuple[list[int], list[int]]:
        """Wait at most ``timeout`` [s]; returns pointers of the subscriptions and of the timers that are ready."""
        wait_set = self._wait_set
        wait_set.clear_entities()
        for subscription in self.subscriptions:
            wait_set.add_subscription(subscription.handle)
        for timer in self.timers:
            wait_set.add_timer(timer.handle)
        for service in self._services:
            wait_set.add_service(service.handle)
        for client in self._clients:
            wait_set.add_client(client.handle)
        for waitable in self._waitables:
            waitable.add_to_wait_set(wait_set)
        wait_set.wait(int(1e9 * timeout))
        return wait_set.get_ready_entities("subscription"), wait_set.get_ready_entities("timer")

    def any_ready(self) -> bool:
        """Whether something is ready now."""
        subscriptions, timers = self.wait(0.0)
        wait_set = self._wait_set
        return bool(
            subscriptions
            # As in rclpy, timers are asked too, because some may have been cancelled.
            or (timers and any(timer.is_ready() for timer in self.timers))
            or wait_set.get_ready_entities("service")
            or wait_set.get_ready_entities("client")
            or any(waitable.is_ready(wait_set) for waitable in self._waitables)
        )


def _arguments(callback: Callable[..., Any]) -> int:
    """How many arguments a subscription's callback takes: the message, or also its info. rclpy decides it like this."""
    try:
        inspect.signature(callback).bind(None)
    except TypeError:
        return 2
    return 1


def with_info(callback: Callable[[Any, Mapping[str, Any]], None]) -> Callable[..., None]:
    """``callback`` for a subscription, to be called with a message and its info; on Humble, the info is empty."""
    return callback if hasattr(Subscription, "CallbackType") else lambda message: callback(message, {})


class UrgentFirstExecutor(SingleThreadedExecutor):
    """An executor with one thread, for a node most of whose callbacks can wait.

    :param node: its services, clients and actions, and everything in its default callback group, can wait for a turn.
        Subscriptions and timers in other groups are urgent; their callbacks are plain functions. If a callback awaits
        something, the default group must allow other callbacks to start before it is done (a reentrant one does), or
        nothing could end the wait. Guard conditions are checked as rarely as events.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(context=node.context)
        self.add_node(node)
        self._node = node
        self._due = self._events_due = 0.0
        self._helper = ThreadPoolExecutor(1, "aside")
        self._look()

    def wake(self) -> None:
        """Note that the node has gained or lost an entity; rclpy's nodes call this, from any thread."""
        self._changed = True
        super().wake()

    def spin_turn(self, timeout: float = TURN_PERIOD) -> None:
        """Wait until something urgent is ready, and run it; then run what can wait, if a turn is due.

        :param timeout: longest wait [s].
        :raises Exception: from a callback.
        """
        self._run_urgent(timeout)
        now = time.monotonic()
        if now >= self._due:
            self._due = now + TURN_PERIOD
            # A callback that awaits something is a task, which only rclpy can continue.
            waiting = any(not task.done() for task, *_ in self._tasks)
            if waiting or now >= self._events_due or self._any_ready():
                self._events_due = now + _EVENTS_PERIOD
                self._run_patient(now + _LONGEST_TURN)

    def aside(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """What ``function`` returns, which a helper thread runs; until then, urgent callbacks run here.

        For callbacks that can wait, and functions that take long and share nothing with callbacks.

        :raises Exception: from ``function``, or from a callback.
        """
        done = self._helper.submit(function, *arguments)
        with contextlib.suppress(TimeoutError):
            done.exception(_CHECK_PERIOD)
        while not done.done():
            self._run_urgent(_CHECK_PERIOD)
        return done.result()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """See :meth:`rclpy.executors.Executor.shutdown`."""
        self._helper.shutdown()
        return bool(super().shutdown(timeout_sec))

    def _take_service(self, srv: Any) -> Any:
        """Take a request, for rclpy, which then runs what this returns; aside, if the service has a channel."""
        channel = getattr(srv, "channel", None)
        if channel is None or hasattr(SingleThreadedExecutor, "_execute_service"):  # Humble wants something else.
            return super()._take_service(srv)
        number, request = self.aside(channel.take)

        async def execute() -> None:
            if number is not None:
                channel.answer(number, await await_or_execute(srv.callback, request, srv.srv_type.Response()))

        return execute

    def _look(self) -> None:
        """Find out what the node has now: waiting for a destroyed entity would fail."""
        self._changed = False
        self._urgent = _Entities(self._node, urgent=True)
        self._patient = _Entities(self._node, urgent=False)

    def _any_ready(self) -> bool:
        if self._changed:
            self._look()
        return self._patient.any_ready()

    def _run_urgent(self, timeout: float) -> None:
        """Wait for something urgent, and run it, messages first."""
        if self._changed:
            self._look()
        urgent = self._urgent
        if not urgent.subscriptions and not urgent.timers:
            time.sleep(timeout)  # rcl cannot wait for an empty wait set.
            return
        messages, times = urgent.wait(timeout)
        for pointer in messages:
            subscription, arguments = urgent.by_pointer[pointer]
            taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
            if taken is not None:
                subscription.callback(*taken[:arguments])
        for timer in urgent.timers if times else ():
            if timer.handle.pointer in times and timer.is_ready():
                timer.handle.call_timer()
                timer.callback()

    def _run_patient(self, deadline: float) -> None:
        """Run what is ready until nothing is, or until ``deadline`` [s, monotonic].

        A callback that awaits something is asked again only if there is more to do.
        """
        asked: set[Task[Any]] = set()
        more = True
        while more and time.monotonic() < deadline:
            try:
                handler, _, _ = self.wait_for_ready_callbacks(0.0)
            except TimeoutException:  # Every task was asked, and everything that was ready has run.
                more = any(not task.done() and task not in asked for task, *_ in self._tasks) or self._any_ready()
                continue
            asked.add(handler)
            handler()
            error = handler.exception()
            if error is not None:
                raise error
