"""One name, one arm: nodes that answer to the same names notice each other, and no goal reaches two of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rclpy
from franka_msgs.action import PTPMotion
from rclpy.action import ActionServer
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import Trigger

from aiofranka_ros.errors import NameTaken
from aiofranka_ros.node.hold import HoldServices
from aiofranka_ros.ros.identity import Identity
from aiofranka_ros.testing import Child, wait_until

pytestmark = pytest.mark.light

SHARED = "controller/follow"


class Member:
    """A node with an identity, which need not be an arm's."""

    def __init__(self, name: str, namespace: str = "lab", serves: tuple[str, ...] = ("~/move",)) -> None:
        self.context = Context()
        rclpy.init(args=[], context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node(name, namespace=namespace, context=self.context, use_global_arguments=False)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.active = False
        self.changes = 0
        self.identity = Identity(
            self.node,
            serves,
            active=lambda: self.active,
            hardware=lambda: "robot 172.16.0.2",
            discovery_time=3.5,
            on_change=self._on_change,
        )

    def _on_change(self) -> None:
        self.changes += 1

    def activate(self, *others: Member) -> None:
        """Become active, as the arm's node does, while ``others`` run."""

        def sleep(duration: float) -> None:
            end = time.monotonic() + duration
            while (left := end - time.monotonic()) > 0.0:
                for member in others:
                    member.executor.spin_once(timeout_sec=left / len(others))

        self.identity.require_alone(*([sleep] if others else []))
        self.active = True
        self.identity.refresh()

    def close(self) -> None:
        """Leave the graph; idempotent."""
        if self.context.ok():
            self.executor.shutdown()
            self.node.destroy_node()
            self.context.try_shutdown()


Join = Callable[..., Member]


@pytest.fixture
def join() -> Iterator[Join]:
    members: list[Member] = []

    def join(*arguments: Any, **options: Any) -> Member:
        members.append(Member(*arguments, **options))
        return members[-1]

    yield join
    for member in members:
        member.close()


def becomes(condition: Callable[[], Any], *members: Member) -> bool:
    """Whether ``condition`` comes true while ``members`` run."""

    def reached() -> bool:
        for member in members:
            if member.context.ok():
                member.executor.spin_once(timeout_sec=0.0)
        return bool(condition())

    return wait_until(reached)


def test_two_nodes_of_one_name_refuse_goals_until_one_leaves(join: Join) -> None:
    first, second = join("arm"), join("arm")
    assert becomes(lambda: first.identity.conflict and second.identity.conflict, first, second)
    for conflict in (first.identity.conflict, second.identity.conflict):
        assert f"another node is called /lab/arm (process {os.getpid()} on " in conflict
        assert "robot 172.16.0.2" in conflict
    assert not first.identity.suffix and f"process {os.getpid()}" in second.identity.suffix
    assert not (first.identity.must_yield or second.identity.must_yield)
    second.close()
    assert becomes(lambda: not first.identity.conflict, first)
    assert first.changes == 2


def test_the_younger_of_two_nodes_may_not_become_active_and_the_older_may(join: Join) -> None:
    first, second = join("arm"), join("arm")
    assert becomes(lambda: first.identity.conflict and second.identity.conflict, first, second)
    with pytest.raises(NameTaken, match="another node is called /lab/arm"):
        second.activate(first)
    first.activate()


def test_the_older_of_two_nodes_may_not_become_active_while_the_younger_is(join: Join) -> None:
    first = join("arm")
    first.identity.require_alone()
    second = join("arm")
    second.active = True  # It did not see the other one in time.
    assert becomes(lambda: first.identity.conflict and second.identity.conflict, first, second)
    second.identity.refresh()

    def is_refused() -> bool:  # Once it has been told.
        try:
            first.identity.require_alone()
        except NameTaken:
            return True
        return False

    assert becomes(is_refused, first, second)
    with pytest.raises(NameTaken):
        first.activate()


def test_a_node_that_could_not_listen_for_a_while_still_notices_the_other_before_it_becomes_active(join: Join) -> None:
    first = join("arm")
    first.activate()
    second = join("arm")
    with pytest.raises(NameTaken):
        second.activate()  # Nothing was received by its executor.


def test_a_node_in_a_transition_counts_although_it_announces_nothing(join: Join) -> None:
    first, second = join("arm"), join("arm")
    assert becomes(lambda: first.identity.conflict, first, second)
    with second.identity.transition():
        begin = time.monotonic()
        assert becomes(lambda: time.monotonic() - begin > 3.0, first)
        assert first.changes == 1 and first.identity.conflict
    second.identity._busy = True  # Another transition begins, during which it leaves.
    second.identity.announce()
    second.close()
    assert becomes(lambda: not first.identity.conflict, first)


def test_of_two_active_nodes_the_younger_must_yield_or_the_older_is_contested(join: Join) -> None:
    first, second = join("arm"), join("arm")
    first.active = second.active = True
    assert becomes(lambda: second.identity.must_yield, first, second)
    assert not (first.identity.must_yield or first.identity.contested)
    assert becomes(lambda: first.identity.contested, first, second), "it does not yield"
    second.active = False
    assert becomes(lambda: not (second.identity.must_yield or first.identity.contested), first, second)
    assert first.identity.conflict and second.identity.conflict


def test_two_nodes_that_serve_one_action_notice_it_although_their_names_differ(join: Join) -> None:
    first, second = join("arm", serves=("~/move", SHARED)), join("other", serves=("~/move", SHARED))
    assert becomes(lambda: first.identity.conflict and second.identity.conflict, first, second)
    assert f"/lab/other (process {os.getpid()} on " in first.identity.conflict
    assert "serves /lab/controller/follow, too" in first.identity.conflict
    assert not second.identity.suffix, "their diagnostics have different names"


def test_nodes_with_other_names_are_none_of_its_business(join: Join) -> None:
    first = join("arm", serves=("~/move", SHARED))
    others = join("gripper"), join("arm", namespace="right", serves=("~/move", SHARED))
    heard: list[str] = []
    first.node.create_subscription(String, "presence", lambda message: heard.append(message.data), 10)
    assert becomes(lambda: sum('"/lab/gripper"' in data for data in heard) > 2, first, *others)
    assert not any(member.identity.conflict for member in (first, *others))
    first.activate()


def test_another_program_that_serves_the_same_action_is_noticed(join: Join) -> None:
    first, stranger = join("arm", serves=(SHARED,)), join("driver", serves=())
    server = ActionServer(stranger.node, PTPMotion, SHARED, lambda handle: PTPMotion.Result())
    mine = ActionServer(first.node, PTPMotion, SHARED, lambda handle: PTPMotion.Result())
    try:
        assert becomes(lambda: first.identity.conflict, first, stranger)
        assert "the node /lab/driver serves /lab/controller/follow, too" in first.identity.conflict
        with pytest.raises(NameTaken):
            first.activate()
    finally:
        server.destroy()
        mine.destroy()
    assert becomes(lambda: not first.identity.conflict, first, stranger)


#: A node with an identity that announces itself until it is killed.
_ALONE = """
import rclpy
from aiofranka_ros.ros.conditions import CTL
from aiofranka_ros.ros.identity import Identity
rclpy.init()
node = rclpy.create_node("arm", namespace="lab")
identity = Identity(node, ["~/move"], active=lambda: True)
rclpy.spin(node)
"""


def test_a_node_of_the_same_name_that_was_killed_counts_no_more_although_the_graph_lists_it(
    join: Join, tmp_path: Path
) -> None:
    arm = join("arm")
    with Child(["-c", _ALONE], log=tmp_path / "killed.log") as child:
        assert becomes(lambda: arm.identity.conflict, arm), child.log
        with pytest.raises(NameTaken):
            arm.activate()
        child.end(signal.SIGKILL)
    assert becomes(lambda: not arm.identity.conflict, arm)
    assert arm.node.get_node_names_and_namespaces().count(("arm", "/lab")) == 2
    arm.activate()


def test_another_program_with_the_same_node_name_is_noticed(join: Join) -> None:
    arm, other = join("arm", serves=()), join("watcher", serves=())
    stranger = Node("arm", namespace="lab", context=other.context, use_global_arguments=False)
    try:
        assert becomes(lambda: arm.identity.conflict, arm, other)
        assert "another node is called /lab/arm, and is not one of aiofranka_ros" in arm.identity.conflict
    finally:
        stranger.destroy_node()
    assert becomes(lambda: not arm.identity.conflict, arm, other)


def test_messages_that_are_no_announcements_are_ignored(join: Join) -> None:
    arm, other = join("arm"), join("other")
    qos = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = other.node.create_publisher(String, "presence", qos)
    assert becomes(lambda: publisher.get_subscription_count() == 2, arm, other)
    nested = "[" * 4000
    for data in ("", "{}", "[]", "1", nested, '{"id": 1, "node": "/lab/arm", "started": "yesterday"}', "x" * 100_000):
        publisher.publish(String(data=data))
    begin = time.monotonic()
    assert becomes(lambda: time.monotonic() - begin > 1.0, arm, other)
    assert not arm.identity.conflict


@pytest.mark.unit
def test_an_older_node_whose_arm_is_contested_holds_it_until_that_ends() -> None:
    held: list[str] = []
    client = SimpleNamespace(hold=lambda asked: held.append(f"hold {asked}"), release=lambda: held.append("release"))
    mover = SimpleNamespace(owner="", interrupt=lambda reason: held.append(f"stop the move: {reason}"))
    quiet = SimpleNamespace(info=lambda text: None)
    services: dict[str, Any] = {}
    node = SimpleNamespace(
        create_service=lambda kind, name, callback: services.update({name: callback}),
        get_logger=lambda: quiet,
        get_fully_qualified_name=lambda: "/arm",
    )
    hold = HoldServices(node, SimpleNamespace(client=client), mover)  # type: ignore[arg-type]
    hold.hold_while("another node is active")
    assert held == ["hold True", "stop the move: the arm is held: another node is active"]
    answer = services["~/release"](Trigger.Request(), Trigger.Response())
    assert not answer.success and "another node is active" in answer.message, "no client can end it"
    hold.hold_while("")
    assert held[2:] == ["release"] and not hold.reason
    # A client that called ~/hold in the meantime keeps it.
    hold.hold_while("another node is active")
    services["~/hold"](Trigger.Request(), Trigger.Response())
    hold.hold_while("")
    assert held[-1] != "release" and "a client called ~/hold" in hold.reason
