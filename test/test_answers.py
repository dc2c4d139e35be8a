"""Answers of services and actions: they reach their clients, and no client keeps the node's thread waiting."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rclpy
from franka_msgs.action import ErrorRecovery
from rcl_interfaces.srv import GetParameters
from rclpy.action import ActionClient
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import CallbackGroup, ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future
from std_srvs.srv import Trigger

from aiofranka_ros.api import ros_client
from aiofranka_ros.api.ros_client import RosClient
from aiofranka_ros.ros import answers
from aiofranka_ros.ros.actions import Actions, Ending
from aiofranka_ros.ros.executor import UrgentFirstExecutor
from aiofranka_ros.testing import PATIENCE, wait_until

#: How many requests a client sends at once: fewer than DDS keeps for a service.
REQUESTS = 9
#: DDS waits this long for a client that it does not know [s].
DDS_WAITS = 0.1


class Answering(Node):
    """A node with a service and an action, which notes when it handles a request."""

    def __init__(self) -> None:
        self.patient = ReentrantCallbackGroup()
        super().__init__("answering")
        self.handled: list[float] = []
        self.declare_parameter("goals_outlive_clients", True)
        self.create_service(Trigger, "~/question", self.on_question)
        self.actions = Actions(self)
        self.actions.serve(ErrorRecovery, ["~/action"], self.check, self.pursue)
        self.released = Future()

    @property
    def default_callback_group(self) -> CallbackGroup:
        return self.patient

    def on_question(self, request: Any, response: Any) -> Any:
        self.handled.append(time.monotonic())
        response.success, response.message = True, "the answer"
        return response

    def check(self, goal: Any) -> Any:
        self.handled.append(time.monotonic())
        return goal

    async def pursue(self, handle: ServerGoalHandle, goal: Any) -> Ending:
        await self.released
        return Ending(ErrorRecovery.Result(), cancelled=handle.is_cancel_requested)


@pytest.fixture
def node() -> Iterator[Answering]:
    rclpy.init()
    try:
        yield Answering()
    finally:
        rclpy.shutdown()


@pytest.fixture
def client() -> Iterator[Node]:
    """Another node, in a separate context."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Node("client", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def spin_until(
    node: Answering, client: Node, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Callable[[], Any]], bool]]:
    """Runs both nodes until something is true, as programs run the first one."""
    monkeypatch.setattr(answers, "_PATIENCE", DDS_WAITS)
    executor, other = UrgentFirstExecutor(node), SingleThreadedExecutor(context=client.context)
    other.add_node(client)

    def spin(condition: Callable[[], Any]) -> bool:
        deadline = time.monotonic() + PATIENCE
        while not (done := condition()) and time.monotonic() < deadline:
            other.spin_once(timeout_sec=0.0)
            executor.spin_turn(timeout=0.0)
        return bool(done)

    with answers.sent_in_background():
        yield spin
        if not node.released.done():
            node.released.set_result(None)
        assert spin(lambda: not node.actions.busy)
    other.shutdown()
    executor.shutdown()


@pytest.fixture
def spun(node: Answering) -> Iterator[None]:
    """Runs the node in a thread."""
    executor, ended = UrgentFirstExecutor(node), threading.Event()

    def spin() -> None:
        while not ended.is_set():
            executor.spin_turn()

    thread = threading.Thread(target=spin)
    thread.start()
    yield
    ended.set()
    thread.join()
    executor.shutdown()


def undiscovered(client: Node, kind: Any, name: str) -> Any:
    """A service's client that can send requests, but whose subscription of answers never matches the service."""
    qos = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    return client.create_client(kind, name, qos_profile=qos)


def shortest_pause(moments: list[float]) -> float:
    """The shortest time between two of ``moments``: a busy computer prolongs some, but not all of them."""
    return min(later - earlier for earlier, later in itertools.pairwise(moments))


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Trigger, "question"), (ErrorRecovery.Impl.SendGoalService, "action/_action/send_goal")],
    ids=["service", "action"],
)
def test_a_client_that_is_not_discovered_does_not_keep_the_node_waiting(
    node: Answering, client: Node, spin_until: Callable[[Callable[[], Any]], bool], kind: Any, name: str
) -> None:
    asker = undiscovered(client, kind, f"/answering/{name}")

    def ask(number: int) -> None:
        request = kind.Request()
        if hasattr(request, "goal_id"):
            request.goal_id.uuid[0] = number
        asker.call_async(request)

    ask(1)  # Until it is discovered in this direction.
    assert spin_until(lambda: node.handled or ask(1))
    node.handled.clear()
    for number in range(2, 2 + REQUESTS):
        ask(number)
    assert spin_until(lambda: len(node.handled) >= REQUESTS)
    assert shortest_pause(node.handled) < DDS_WAITS


def test_a_client_that_left_before_its_requests_were_read_does_not_keep_the_node_waiting(
    node: Answering, client: Node, spin_until: Callable[[Callable[[], Any]], bool]
) -> None:
    asker = client.create_client(Trigger, "/answering/question")
    assert spin_until(asker.service_is_ready)
    answer = asker.call_async(Trigger.Request())
    assert spin_until(answer.done)
    node.handled.clear()
    for _ in range(REQUESTS):
        asker.call_async(Trigger.Request())
    client.destroy_client(asker)
    assert wait_until(lambda: node.count_clients("/answering/question") == 0)
    asker = client.create_client(Trigger, "/answering/question")
    assert spin_until(asker.service_is_ready)
    last = asker.call_async(Trigger.Request())
    assert spin_until(last.done)
    assert shortest_pause(node.handled) < DDS_WAITS


def test_answers_of_services_and_actions_reach_their_clients(
    node: Answering, client: Node, spin_until: Callable[[Callable[[], Any]], bool]
) -> None:
    service = client.create_client(Trigger, "/answering/question")
    parameters = client.create_client(GetParameters, "/answering/get_parameters")
    action = ActionClient(client, ErrorRecovery, "/answering/action")
    assert spin_until(lambda: service.service_is_ready() and parameters.service_is_ready() and action.server_is_ready())

    def outcome(future: Future) -> Any:
        assert spin_until(future.done)
        return future.result()

    assert outcome(service.call_async(Trigger.Request())).message == "the answer"
    values = outcome(parameters.call_async(GetParameters.Request(names=["goals_outlive_clients"]))).values
    assert values[0].bool_value
    goal = outcome(action.send_goal_async(ErrorRecovery.Goal()))
    assert goal.accepted
    assert len(outcome(goal.cancel_goal_async()).goals_canceling) == 1
    result = goal.get_result_async()
    node.released.set_result(None)
    assert outcome(result).status == 5  # Cancelled.


def test_rclpy_sends_answers_by_itself_if_it_is_not_as_expected(
    node: Answering, client: Node, spin_until: Callable[[Callable[[], Any]], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_request_of", lambda header: None)
    service = client.create_client(Trigger, "/answering/question")
    assert spin_until(service.service_is_ready)
    answer = service.call_async(Trigger.Request())
    assert spin_until(answer.done)


class Sent:
    """Takes answers instead of rcl; those for client 1 only when ``open`` is set, and none of them if ``lost``.

    Client 0 is discovered only after ``attempts``, and as long as it is not, each attempt takes a moment.
    """

    pointer = 0

    def __init__(self) -> None:
        self.open, self.lost, self.attempts = threading.Event(), False, 0
        self.sent: list[int] = []
        self.destroyed: list[int] = []
        self.sender = answers._Sender()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def send(self, client: int, message: int) -> None:
        request = answers.RequestId(sequence_number=message)
        request.client[0] = client

        def send(pointer: int, request: int, message: int) -> int:
            if client == 1:
                self.open.wait()
                if self.lost:
                    return 1
            elif client == 0 and self.attempts:
                self.attempts -= 1
                return int(answers._TIMEOUT)
            self.sent.append(message)
            return 0

        self.sender.send(answers.Answer(self, send, request, message, self.destroyed.append))


def test_a_client_that_cannot_be_reached_delays_only_its_own_answers() -> None:
    sent = Sent()
    with contextlib.closing(sent.sender):
        for message in (1, 2, 3):
            sent.send(client=1, message=message)
        sent.send(client=2, message=4)
        assert wait_until(lambda: sent.sent == [4])
        sent.open.set()
    assert sent.sent == [4, 1, 2, 3]
    assert sorted(sent.destroyed) == [1, 2, 3, 4]


def test_what_else_was_to_be_sent_to_a_client_that_has_left_is_dropped() -> None:
    sent = Sent()
    sent.lost = True
    with contextlib.closing(sent.sender):
        for message in (1, 2, 3):
            sent.send(client=1, message=message)
        sent.open.set()
    assert sent.sent == []
    assert sent.destroyed == [1, 2, 3]


def test_a_client_that_is_discovered_late_gets_its_answers_in_order() -> None:
    sent = Sent()
    sent.attempts = 100
    for message in (1, 2, 3):
        sent.send(client=0, message=message)
    sent.send(client=2, message=4)
    assert wait_until(lambda: len(sent.sent) == 4)
    assert [message for message in sent.sent if message != 4] == [1, 2, 3]
    sent.sender.close()
    assert sorted(sent.destroyed) == [1, 2, 3, 4]


@pytest.mark.parametrize("patience", [0.0, 1000.0], ids=["in time", "when the node ends"])
def test_a_client_that_is_never_discovered_is_given_up(monkeypatch: pytest.MonkeyPatch, patience: float) -> None:
    monkeypatch.setattr(answers, "_PATIENCE", patience)
    sent = Sent()
    sent.attempts = 10**9
    for message in (1, 2, 3):
        sent.send(client=0, message=message)
    assert patience or wait_until(lambda: len(sent.destroyed) == 3)
    sent.sender.close()
    assert sent.sent == []
    assert sent.destroyed == [1, 2, 3]


def test_what_waits_for_a_client_is_bounded() -> None:
    sent = Sent()
    sent.attempts = 10**9
    for message in range(answers._MOST_WAITING + 10):
        sent.send(client=0, message=message)
    assert len(sent.destroyed) == 10
    sent.sender.close()
    assert len(sent.destroyed) == answers._MOST_WAITING + 10


@pytest.mark.usefixtures("spun")
def test_a_client_repeats_a_question_whose_answer_was_lost(monkeypatch: pytest.MonkeyPatch, node: Answering) -> None:
    monkeypatch.setattr(ros_client, "_REPETITION", 0.1)

    async def ask() -> Any:
        client = RosClient("asking")
        question = GetParameters.Request(names=["goals_outlive_clients"])
        service = client.node.create_client(GetParameters, "/answering/get_parameters")
        client.start()
        try:
            # Sent before the node is discovered, the first one is lost, as an answer can be.
            return await client.ask(service, question)
        finally:
            await client.close()

    assert asyncio.run(ask()).values[0].bool_value
