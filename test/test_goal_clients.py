"""Whether the client of a goal is still there, as a node finds out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from franka_msgs.action import PTPMotion
from rclpy.serialization import serialize_message
from service_msgs.msg import ServiceEventInfo
from std_msgs.msg import String

from aiofranka_ros.processes import identity_of, is_running
from aiofranka_ros.ros.clients import SILENCE, GoalClients
from aiofranka_ros.testing import wait_until

pytestmark = pytest.mark.unit

ELSEWHERE = "another-computer 1 1"
CLIENT, GOAL = bytes(8), bytes(16)


class Graph:
    """A node as far as the clients of its goals matter, and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.subscribers: dict[bytes, str] = {}
        self.clients = GoalClients(self, lambda: self.now)  # type: ignore[arg-type]
        self.clients.follow(MagicMock(), PTPMotion, "~/move")
        self.events: list[Any] = []

    def get_clock(self) -> None:
        pass

    def create_subscription(self, kind: Any, name: str, callback: Callable[[Any], None], *_: Any, **__: Any) -> None:
        def receive(message: Any) -> None:
            callback(bytes(serialize_message(message)))

        if name.endswith("_service_event"):
            self.receive_event = receive
        else:
            self.receive = receive

    def get_subscriptions_info_by_topic(self, topic: str) -> list[Any]:
        assert topic == "~/move/_action/feedback"
        return [
            SimpleNamespace(node_namespace="/", node_name=name, endpoint_gid=list(gid))
            for gid, name in self.subscribers.items()
        ]

    def hear(self, process: str, name: str = "/client") -> None:
        self.receive(String(data=f"{CLIENT.hex()} {name} {process}"))

    def request(self, participant: bytes, goal_id: bytes = GOAL) -> None:
        """A client sends its first goal."""
        self.clients.request("~/move", 1, goal_id)
        info = ServiceEventInfo(event_type=ServiceEventInfo.REQUEST_RECEIVED, sequence_number=1)
        info.client_gid = np.frombuffer(participant + b"0009", dtype=np.uint8)
        self.events.append(PTPMotion.Impl.SendGoalService.Event(info=info))

    def report_requests(self) -> None:
        """The middleware says who sent the goals."""
        for event in self.events:
            self.receive_event(event)

    def begin(self) -> None:
        self.clients.begin(GOAL, "~/move")

    def why_gone_after(self, seconds: float) -> str:
        self.now += seconds
        return self.clients.why_gone(GOAL)


@pytest.fixture
def graph() -> Graph:
    return Graph()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing for a long time."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_a_process_exists_until_it_has_ended_even_if_it_is_stopped(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identity_of(sleeper.pid)
    assert is_running(identity)
    sleeper.send_signal(signal.SIGSTOP)
    assert is_running(identity)
    sleeper.kill()
    # It remains in the table of processes until its parent asks for its end.
    assert wait_until(lambda: not is_running(identity))
    assert identity_of(sleeper.pid) == ""


def test_another_process_with_the_same_number_is_another_one() -> None:
    kernel, pid, begin = identity_of(os.getpid()).split()
    assert is_running(f"{kernel} {pid} {begin}")
    assert not is_running(f"{kernel} {pid} {int(begin) + 1}")
    assert not is_running(f"{kernel}x {pid} {begin}")


def assert_present_while_heard(graph: Graph) -> None:
    """A client on another computer counts as present as long as it says something in time."""
    for _ in range(20):
        graph.hear(ELSEWHERE)
        assert graph.why_gone_after(0.9 * SILENCE) == ""


@pytest.mark.parametrize("identity", ["", "x", "x y", "x -1 z", "x 1.5 z", "x ../1 z"])
def test_what_is_not_an_identity_is_of_no_process(identity: str) -> None:
    assert not is_running(identity)


def test_a_client_whose_node_is_not_discovered_counts_as_present(graph: Graph) -> None:
    graph.subscribers[b"1"] = "_NODE_NAME_UNKNOWN_"
    graph.hear(ELSEWHERE)
    graph.begin()
    assert_present_while_heard(graph)
    graph.subscribers.clear()
    graph.hear(ELSEWHERE)
    assert "it has left the ROS graph" in graph.why_gone_after(0.9 * SILENCE)


def test_a_client_that_was_killed_here_is_gone_at_once(graph: Graph, sleeper: subprocess.Popen[bytes]) -> None:
    identity = identity_of(sleeper.pid)
    graph.subscribers[b"1"] = "client"
    graph.hear(identity)
    graph.begin()
    # However long it says nothing: it may be stopped, or hang.
    assert graph.why_gone_after(100.0 * SILENCE) == ""
    sleeper.kill()
    assert wait_until(lambda: not is_running(identity))
    assert graph.why_gone_after(0.2) == "the client /client is gone: its process has ended"


def test_a_silent_client_on_another_computer_is_gone(graph: Graph) -> None:
    graph.subscribers[b"1"] = "client"
    graph.hear(ELSEWHERE)
    graph.begin()
    assert_present_while_heard(graph)
    assert "nothing was heard of it" in graph.why_gone_after(0.2 * SILENCE)


def test_a_client_that_leaves_the_graph_is_gone_although_its_process_exists(graph: Graph) -> None:
    graph.subscribers |= {b"1": "client", b"2": "another"}
    graph.hear(identity_of(os.getpid()))
    graph.begin()
    assert graph.why_gone_after(1.0) == ""
    del graph.subscribers[b"1"]
    assert graph.why_gone_after(0.2) == "the client /client is gone: it has left the ROS graph"


def test_a_goal_of_an_unknown_client_ends_with_the_last_client_that_may_have_sent_it(graph: Graph) -> None:
    graph.subscribers |= {b"1": "moveit", b"2": "script"}
    graph.begin()
    assert graph.why_gone_after(10.0) == ""
    graph.subscribers[b"3"] = "newcomer"
    del graph.subscribers[b"1"]
    assert graph.why_gone_after(0.2) == ""
    del graph.subscribers[b"2"]
    assert graph.why_gone_after(0.2) == "the client is gone: it has left the ROS graph"


def test_a_client_with_a_presence_is_not_taken_for_an_unknown_one(graph: Graph) -> None:
    graph.receive(String(data=f"{b'presence'.hex()} /idle {identity_of(os.getpid())}"))
    graph.subscribers |= {b"1": "idle", b"2": "script"}
    graph.begin()
    assert graph.why_gone_after(1.0) == ""
    del graph.subscribers[b"2"]
    assert "has left" in graph.why_gone_after(0.2)


def test_a_client_may_be_discovered_after_its_goal(graph: Graph) -> None:
    graph.subscribers[b"1"] = "another"
    graph.begin()
    graph.subscribers[b"2"] = "client"
    graph.hear(identity_of(os.getpid()))
    assert graph.why_gone_after(0.5) == ""
    assert graph.why_gone_after(60.0) == ""


def test_a_client_that_is_never_discovered_is_gone(graph: Graph) -> None:
    graph.begin()
    assert graph.why_gone_after(1.0) == ""
    assert "has left" in graph.why_gone_after(60.0)


@pytest.mark.parametrize("data", ["", "x", "00 /client", "zz /client here 1 1", "\N{SNOWMAN} a b"])
def test_a_message_of_another_kind_is_ignored(graph: Graph, data: str) -> None:
    graph.receive(String(data=data))
    graph.subscribers[b"1"] = "script"
    graph.begin()
    assert graph.why_gone_after(1.0) == ""


def test_a_goal_ends_with_the_process_that_sent_it_if_the_middleware_names_it(graph: Graph) -> None:
    ours, other = b"A" * 12, b"B" * 12
    graph.subscribers |= {ours + b"0001": "script", other + b"0001": "moveit"}
    graph.request(ours)
    graph.begin()
    graph.report_requests()
    assert graph.why_gone_after(10.0) == ""
    del graph.subscribers[ours + b"0001"]
    assert "has left" in graph.why_gone_after(0.2)


def test_requests_with_equal_numbers_are_told_apart_by_their_order(graph: Graph) -> None:
    ours, other = b"A" * 12, b"B" * 12
    graph.subscribers |= {ours + b"0001": "script", other + b"0001": "moveit"}
    graph.request(other, goal_id=b"x" * 16)  # It was refused.
    graph.request(ours)
    graph.begin()
    graph.report_requests()
    del graph.subscribers[other + b"0001"]
    assert graph.why_gone_after(10.0) == ""
    del graph.subscribers[ours + b"0001"]
    assert "has left" in graph.why_gone_after(0.2)


def test_a_client_may_have_the_name_of_one_that_was_killed(graph: Graph, sleeper: subprocess.Popen[bytes]) -> None:
    """DDS still lists the subscriptions of the killed one."""
    ours, killed = b"A" * 12, b"K" * 12
    graph.receive(String(data=f"{b'presence'.hex()} /client {identity_of(sleeper.pid)}"))
    sleeper.kill()
    graph.subscribers |= {killed + b"0001": "client", ours + b"0001": "client"}
    graph.request(ours)
    graph.begin()
    graph.report_requests()
    assert graph.why_gone_after(1.0) == ""
    del graph.subscribers[ours + b"0001"]
    assert "has left" in graph.why_gone_after(0.2)


def test_a_client_that_leaves_before_the_middleware_names_it_is_gone(graph: Graph) -> None:
    ours, other = b"A" * 12, b"B" * 12
    graph.subscribers |= {ours + b"0001": "script", other + b"0001": "moveit"}
    graph.request(ours)
    graph.begin()
    del graph.subscribers[ours + b"0001"]
    graph.report_requests()
    assert "has left" in graph.why_gone_after(0.2)
