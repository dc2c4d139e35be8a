"""Targets that arrive before the transforms they need, with a fake TF, because PyPI has none.

``test_frames.py`` has the same with the real one, if it is installed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode
from rclpy.serialization import serialize_message

from aiofranka_ros.errors import TransformMissing
from aiofranka_ros.model.names import FR3
from aiofranka_ros.node.targets import TargetTopics
from aiofranka_ros.ros.refusals import RefusalTopic

pytestmark = pytest.mark.unit


class Arm:
    """The node, its mover and its frames, as far as targets need them; TF knows the frame once ``known`` is set."""

    def __init__(self) -> None:
        self.known = False
        self.owner = self.why_held = ""
        self.parameters: dict[str, Any] = {"mode": "osc", "max_target_age": 0.2, "priority_clients": ()}
        self.passed_on: list[float] = []
        self.active_client: Any = SimpleNamespace(
            mode_id=1,
            set_pose=lambda position, orientation, stamp, lead: self.passed_on.append(position[0]),
        )

    def parameter(self, name: str) -> Any:
        return self.parameters[name]

    def to_base(self, target: Any, frame: str, stamp: int, client: Any) -> Any:
        if not self.known and frame == "camera":
            raise TransformMissing("not yet", reason="unknown frame")
        return target


@pytest.fixture
def arm() -> Arm:
    return Arm()


@pytest.fixture
def node() -> Iterator[LifecycleNode]:
    context = Context()
    rclpy.init(context=context)
    node = LifecycleNode("targets", context=context, use_global_arguments=False)
    yield node
    node.destroy_node()
    context.try_shutdown()


@pytest.fixture
def targets(arm: Arm, node: LifecycleNode) -> TargetTopics:
    return TargetTopics(node, arm, arm, arm, FR3, RefusalTopic(node))  # type: ignore[arg-type]


Send = Callable[..., None]


@pytest.fixture
def send(targets: TargetTopics, node: LifecycleNode) -> Send:
    (on_message,) = (topic.callback for topic in node.subscriptions if topic.topic_name.endswith("/ee_desired"))

    def send(number: int, frame: str = "camera", *, stamped: bool = True) -> None:
        message = PoseStamped()
        message.header.frame_id = frame
        if stamped:
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(time.time_ns(), 1_000_000_000)
        message.pose.position.x, message.pose.orientation.w = float(number), 1.0
        on_message(serialize_message(message), {})

    return send


def test_waiting_targets_are_passed_on_in_order_once_tf_knows_the_frame(
    arm: Arm, targets: TargetTopics, send: Send
) -> None:
    for number in range(3):
        send(number)
    targets.try_again()
    assert arm.passed_on == [] and not targets.refused
    arm.known = True
    targets.try_again()
    targets.try_again()
    assert arm.passed_on == [0.0, 1.0, 2.0] and targets.accepted == 3


@pytest.mark.parametrize("stamped", [True, False])
def test_a_target_that_waited_too_long_is_refused_with_what_was_missing(
    arm: Arm, targets: TargetTopics, send: Send, stamped: bool
) -> None:
    send(1, stamped=stamped)
    deadline = time.monotonic() + 60.0
    while not targets.refused and time.monotonic() < deadline:
        targets.try_again()
    assert targets.refused == {"unknown frame": 1}
    arm.known = True
    targets.try_again()
    assert arm.passed_on == []


def test_a_waiting_target_is_overtaken_by_a_newer_one_that_need_not_wait(
    arm: Arm, targets: TargetTopics, send: Send
) -> None:
    send(1)
    send(2, frame="")
    arm.known = True
    targets.try_again()
    assert arm.passed_on == [2.0] and targets.refused == {"out of order": 1}


def test_waiting_targets_are_dropped_when_the_mode_is_switched_or_the_arm_activated(
    arm: Arm, targets: TargetTopics, send: Send
) -> None:
    send(1)
    arm.active_client.mode_id += 1
    arm.known = True
    targets.try_again()
    assert arm.passed_on == [] and not targets.refused


def test_only_as_many_targets_wait_as_can_be_tried_in_every_tick(arm: Arm, targets: TargetTopics, send: Send) -> None:
    for number in range(150):
        send(number, stamped=False)
    assert targets.refused["unknown frame"] == 50


def test_targets_of_a_policy_that_are_not_due_yet_are_dropped_when_a_person_takes_over(
    arm: Arm, targets: TargetTopics, node: LifecycleNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {b"policy": "/policy", b"teleop": "/teleop"}
    monkeypatch.setattr(targets.owners, "name_of", lambda publisher, topic: names.get(publisher, ""))
    arm.active_client.begin_stream = lambda: arm.passed_on.append(0.0)
    arm.parameters["priority_clients"] = ("teleop",)
    (on_message,) = (topic.callback for topic in node.subscriptions if topic.topic_name.endswith("/ee_desired"))

    def send(sender: bytes, number: int, ahead: float) -> None:
        message = PoseStamped()
        stamp = time.time_ns() + int(1e9 * ahead)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 1_000_000_000)
        message.pose.position.x, message.pose.orientation.w = float(number), 1.0
        on_message(serialize_message(message), {"publisher_gid": {"data": sender}})

    targets.admission.follow()  # The node's clock is known from now on.
    for number in (1, 2, 3):
        send(b"policy", number, 0.05 * number)
    send(b"teleop", 9, 0.0)
    for _ in range(5):
        targets.send_next()
    assert arm.passed_on[0] == 0.0 and arm.passed_on[-2:] == [0.0, 9.0]
    assert targets.accepted == 4 and 3.0 not in arm.passed_on
