"""The topic with the reasons of refusals: what is published, how often, and what a client finds in it."""

from __future__ import annotations

from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.ros.refusals import PERIOD, Refusal, RefusalReader, RefusalTopic

pytestmark = pytest.mark.unit

ERROR = InvalidTarget("fr3_joint7 = 3.5 rad is outside", reason="outside the joint limits")


class Node:
    """A node with a publisher, and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.messages: list[Any] = []
        self.topic = RefusalTopic(self, lambda: self.now)  # type: ignore[arg-type]

    def get_fully_qualified_name(self) -> str:
        return "/left/aiofranka"

    def create_publisher(self, kind: Any, name: str, qos: Any) -> Node:
        return self

    def publish(self, message: Any) -> None:
        self.messages.append(message)


@pytest.fixture
def node() -> Node:
    return Node()


def test_a_client_finds_the_reason_of_its_goal(node: Node) -> None:
    reader = RefusalReader()
    for number in range(3):
        node.topic.goal("a goal of ~/move", InvalidTarget(f"reason {number}"), bytes([number] * 16))
    for message in node.messages:
        reader.receive(message)
    assert reader.why(bytes([1] * 16)) == "reason 1"
    assert reader.why(bytes([9] * 16)) == ""


def test_a_message_says_what_to_do(node: Node) -> None:
    node.topic.goal("a goal of ~/move", ERROR, bytes(16))
    (message,) = node.messages
    values = {pair.key: pair.value for pair in message.values}
    assert (message.name, message.message) == ("a goal of ~/move", str(ERROR))
    assert values == {
        "goal": "00" * 16,
        "reason": "outside the joint limits",
        "what to do": "stay between joint_lower and joint_upper",
    }


def test_a_stream_of_refused_targets_is_reported_rarely_but_for_each_publisher_and_reason(node: Node) -> None:
    for _ in range(100):
        node.topic.target("a target on ~/ee_desired", ERROR, b"1", lambda: "/one")
        node.topic.target("a target on ~/ee_desired", ERROR, b"2", lambda: "/two")
        node.topic.target("a target on ~/ee_desired", InvalidTarget("x", reason="old"), b"2", lambda: "/two")
        node.now += PERIOD / 50.0
    found = [Refusal.of(message) for message in node.messages]
    assert [(one.publisher, one.reason) for one in found] == [
        ("/one", ERROR.reason), ("/two", ERROR.reason), ("/two", "old"),
    ] * 2  # fmt: skip


def test_a_client_is_told_that_its_targets_were_refused(node: Node) -> None:
    told: list[Refusal] = []
    node.topic.target("a target on ~/ee_desired", ERROR, b"1", lambda: "/one")
    RefusalReader(told.append).receive(node.messages[0])
    assert told == [Refusal("a target on ~/ee_desired", str(ERROR), ERROR.reason, publisher="/one")]


def test_what_is_remembered_is_bounded(node: Node) -> None:
    reader = RefusalReader()
    for number in range(10_000):
        goal = number.to_bytes(16, "big")
        reader.receive(Refusal("a goal", "no", "old", goal=goal.hex()).message_of("/arm"))
        node.topic.target("a target", ERROR, number, lambda: "/one")
    assert reader.why(goal) == "no"
    assert len(reader._goals) <= 100 and len(node.topic._reported) <= 100


def test_a_message_of_another_kind_is_no_refusal_of_a_goal() -> None:
    RefusalReader().receive(DiagnosticStatus())
