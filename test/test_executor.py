"""The node's executor: which callbacks wait, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rclpy
from rclpy.callback_groups import CallbackGroup, ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from std_msgs.msg import Int64
from std_srvs.srv import Trigger

from aiofranka_ros.ros.executor import UrgentFirstExecutor

pytestmark = pytest.mark.light


class PatientNode(Node):
    """A node whose callbacks can wait, except those in another callback group."""

    def __init__(self) -> None:
        self.patient = ReentrantCallbackGroup()
        super().__init__("patient")

    @property
    def default_callback_group(self) -> CallbackGroup:
        return self.patient


@pytest.fixture
def node() -> Iterator[PatientNode]:
    rclpy.init()
    try:
        yield PatientNode()
    finally:
        rclpy.shutdown()


@pytest.fixture
def executor(node: PatientNode) -> Iterator[UrgentFirstExecutor]:
    executor = UrgentFirstExecutor(node)
    yield executor
    executor.shutdown()


class Asker:
    """A client of the node's service ``question``, in a separate context."""

    def __init__(self, context: rclpy.Context) -> None:
        node = Node("asker", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(node)
        self._client = node.create_client(Trigger, "question")
        self._answer: Future | None = None
        self._asked = 0.0

    def is_answered(self) -> bool:
        """Ask, and again every second: a service drops its answer if it does not discover the reader within 100 ms."""
        self.executor.spin_once(timeout_sec=0.0)
        if self._answer is not None and self._answer.done():
            return bool(self._answer.result().success)
        if self._client.service_is_ready() and time.monotonic() > self._asked + 1.0:
            self._asked = time.monotonic()
            self._answer = self._client.call_async(Trigger.Request())
        return False


@pytest.fixture
def asker() -> Iterator[Asker]:
    context = rclpy.Context()
    rclpy.init(context=context)
    asker = Asker(context)
    yield asker
    asker.executor.shutdown()
    rclpy.shutdown(context=context)


def spin_until(executor: UrgentFirstExecutor, condition: Callable[[], bool], timeout: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:
        executor.spin_turn(timeout=0.01)
    return condition()


def test_callbacks_that_can_wait_run_in_their_turn(node: PatientNode, executor: UrgentFirstExecutor) -> None:
    received: list[int] = []
    node.create_subscription(Int64, "patient", lambda message: received.append(message.data), 1)
    node.create_timer(0.0, lambda: None, callback_group=ReentrantCallbackGroup())
    publisher = node.create_publisher(Int64, "patient", 1)
    assert spin_until(executor, lambda: publisher.get_subscription_count() > 0)
    executor._due = float("inf")
    publisher.publish(Int64(data=1))
    for _ in range(100):
        executor.spin_turn(timeout=0.01)
    assert received == []
    executor._due = 0.0
    assert spin_until(executor, lambda: received == [1])


def test_an_urgent_subscription_that_is_created_later_is_waited_for(
    node: PatientNode, executor: UrgentFirstExecutor
) -> None:
    called = []
    executor.spin_turn(timeout=0.0)
    node.create_timer(0.0, lambda: called.append(True), callback_group=ReentrantCallbackGroup())
    executor._due = 0.0
    executor.spin_turn(timeout=0.0)
    executor._due = float("inf")
    called.clear()
    assert spin_until(executor, lambda: bool(called))


def test_a_callback_with_one_argument_gets_the_message_alone(node: PatientNode, executor: UrgentFirstExecutor) -> None:
    received: list[Any] = []
    node.create_subscription(
        Int64,
        "target",
        lambda message, more=None: received.append((message.data, more)),
        1,
        callback_group=ReentrantCallbackGroup(),
    )
    publisher = node.create_publisher(Int64, "target", 1)
    assert spin_until(executor, lambda: publisher.get_subscription_count() > 0)
    publisher.publish(Int64(data=1))
    assert spin_until(executor, lambda: received == [(1, None)])


def test_a_flood_of_urgent_messages_does_not_starve_the_others(
    node: PatientNode, executor: UrgentFirstExecutor, asker: Asker
) -> None:
    node.create_service(Trigger, "question", lambda request, response: Trigger.Response(success=True))
    node.create_timer(0.0, lambda: None, callback_group=ReentrantCallbackGroup())
    assert spin_until(executor, asker.is_answered)


def test_a_flood_of_other_messages_does_not_starve_targets(node: PatientNode, executor: UrgentFirstExecutor) -> None:
    received: list[int] = []
    node.create_timer(0.0, lambda: None)
    node.create_subscription(
        Int64, "target", lambda message: received.append(message.data), 1, callback_group=ReentrantCallbackGroup()
    )
    publisher = node.create_publisher(Int64, "target", 1)
    assert spin_until(executor, lambda: publisher.get_subscription_count() > 0)
    for number in range(10):
        publisher.publish(Int64(data=number))
        assert spin_until(executor, lambda number=number: received[-1:] == [number])


def test_a_service_may_await_a_later_event_before_it_answers(
    node: PatientNode, executor: UrgentFirstExecutor, asker: Asker
) -> None:
    happened = Future()

    async def answer_later(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        node.create_timer(0.01, lambda: happened.done() or happened.set_result(None))
        await happened
        return Trigger.Response(success=True)

    node.create_service(Trigger, "question", answer_later)
    assert spin_until(executor, asker.is_answered)


def test_a_waiting_coroutine_is_asked_once_per_turn(
    node: PatientNode, executor: UrgentFirstExecutor, asker: Asker
) -> None:
    happened, asked = Future(), []

    class Something:
        def __await__(self) -> Iterator[None]:
            while not happened.done():
                asked.append(True)
                yield

    async def answer_later(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        await Something()
        return Trigger.Response(success=True)

    node.create_service(Trigger, "question", answer_later)
    assert spin_until(executor, lambda: bool(asked) or asker.is_answered())
    asked.clear()
    for _ in range(20):
        executor._due = 0.0
        executor.spin_turn(timeout=0.0)
    assert len(asked) == 20
    happened.set_result(None)
    assert spin_until(executor, asker.is_answered)


@pytest.mark.parametrize("group", [None, ReentrantCallbackGroup()], ids=["can wait", "cannot wait"])
def test_a_subscription_that_is_destroyed_is_not_waited_for(
    node: PatientNode, executor: UrgentFirstExecutor, asker: Asker, group: ReentrantCallbackGroup | None
) -> None:
    subscription = node.create_subscription(Int64, "target", lambda message: None, 1, callback_group=group)

    def destroy(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        nonlocal subscription
        node.destroy_subscription(subscription)
        subscription = node.create_subscription(Int64, "target", lambda message: None, 1, callback_group=group)
        return Trigger.Response(success=True)

    node.create_service(Trigger, "question", destroy)
    assert spin_until(executor, asker.is_answered)
    for _ in range(5):
        executor._due = 0.0
        executor.spin_turn(timeout=0.0)


def test_work_that_a_callback_creates_is_done_in_the_same_turn(
    node: PatientNode, executor: UrgentFirstExecutor
) -> None:
    called: list[bool] = []
    done: list[bool] = []

    def call() -> None:
        timer.cancel()
        called.append(True)
        executor.create_task(lambda: done.append(True))

    timer = node.create_timer(0.0, call)
    assert spin_until(executor, lambda: bool(called))
    assert done == [True]


def test_events_of_subscriptions_are_reported(node: PatientNode, executor: UrgentFirstExecutor) -> None:
    handler = pytest.importorskip("rclpy.event_handler", reason="Humble has them elsewhere")
    events: list[Any] = []
    node.create_subscription(
        Int64,
        "target",
        lambda message: None,
        QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE),
        callback_group=ReentrantCallbackGroup(),
        event_callbacks=handler.SubscriptionEventCallbacks(incompatible_qos=events.append),
    )
    node.create_publisher(Int64, "target", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    assert spin_until(executor, lambda: bool(events))


@pytest.mark.parametrize("group", [None, ReentrantCallbackGroup()], ids=["can wait", "cannot wait"])
def test_the_exception_of_a_callback_is_raised(
    node: PatientNode, executor: UrgentFirstExecutor, group: ReentrantCallbackGroup | None
) -> None:
    def fail() -> None:
        raise ArithmeticError

    node.create_timer(0.0, fail, callback_group=group)
    with pytest.raises(ArithmeticError):
        spin_until(executor, lambda: False, timeout=5.0)
