"""Which targets are accepted, by their stamps, senders and topics: alone, and on the topics of a node."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState

from aiofranka_ros.errors import InvalidTarget, Overridden
from aiofranka_ros.node.admission import Admission, Overtaken
from aiofranka_ros.node.owners import HANDOVER
from aiofranka_ros.ros.arrivals import age_of
from aiofranka_ros.testing import Client

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND


@pytest.mark.unit
@pytest.mark.parametrize("age", [-0.5, 0.0, 0.499])
def test_a_stamp_close_to_the_clock_is_accepted(age: float) -> None:
    assert age_of(NOW - int(age * SECOND), NOW, 0.5) == pytest.approx(age)


@pytest.mark.unit
def test_a_negative_stamp_is_refused_even_by_a_clock_that_starts_at_zero() -> None:
    with pytest.raises(InvalidTarget, match="negative"):
        age_of(-1, 0, 1.0)


@pytest.mark.unit
def test_an_empty_stamp_is_always_accepted() -> None:
    assert age_of(0, NOW, 0.5) == 0.0


@pytest.mark.unit
@pytest.mark.parametrize(
    ("age", "reason", "words"),
    [
        (0.51, "old", ["0.510 s old (max_target_age is 0.5 s)", "a sender that hangs", "clocks differ"]),
        (-0.51, "in the future", ["0.510 s in the future", "clocks differ: synchronise them"]),
        (1.7e9 - 5.0, "old", ["1699999995.000 s old", "use_sim_time"]),
        (-1.7e9, "in the future", ["s in the future", "use_sim_time"]),
    ],
)
def test_a_stamp_far_from_the_clock_is_refused_with_the_difference_and_its_likely_cause(
    age: float, reason: str, words: list[str]
) -> None:
    with pytest.raises(InvalidTarget) as refusal:
        age_of(NOW - int(age * SECOND), NOW, 0.5)
    assert refusal.value.reason == reason
    assert not [word for word in words if word not in str(refusal.value)]


class ActiveClient:
    """The control process; ``mode_id`` counts activations and switches of the mode."""

    mode_id = 1
    streams = 0

    def begin_stream(self) -> None:
        self.streams += 1


class Arm:
    """An active arm, as far as :class:`Admission` knows it; the node's clock is the system's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.why_held = self.owner = ""
        self.parameters: dict[str, Any] = {"mode": "osc", "max_target_age": 0.5, "priority_clients": ()}
        self.active_client: Any = ActiveClient()
        self.ros_time_is_active = False
        self.log: list[str] = []
        #: The publishers on the graph, and the names of their nodes.
        self.nodes = {gid: f"policy_{gid.decode()}" for gid in (b"a", b"b", b"c")}
        node: Any = SimpleNamespace(
            get_clock=lambda: self,
            get_fully_qualified_name=lambda: "/arm",
            get_publishers_info_by_topic=lambda topic: [
                SimpleNamespace(endpoint_gid=list(gid), node_namespace="/", node_name=name)
                for gid, name in self.nodes.items()
            ],
            get_logger=lambda: SimpleNamespace(info=self.log.append),
        )
        self.admission = Admission(node, self, self, clock=lambda: self.now)  # type: ignore[arg-type]
        self.admission.follow()

    def parameter(self, name: str) -> Any:
        return self.parameters[name]

    def send(self, stamp: int = 0, sender: bytes = b"", topic: str = "ee_desired", mode: str = "osc") -> bool:
        """Send a target that is passed on unless it is refused; returns whether it begins another client's stream."""
        info = {"publisher_gid": {"data": sender}}
        assert self.admission.check(topic, (mode,), stamp, info) is self.active_client
        return self.admission.accepted(self.active_client, topic, stamp, info)

    def send_chunk(self, sender: bytes, lasts: float = 3.0, refuse: bool = False) -> bool:
        """Send a chunk that is followed, or that its player refuses; returns whether it is another client's."""
        info = {"publisher_gid": {"data": sender}}
        self.admission.check("ee_chunk", ("osc",), 0, info)
        other = self.admission.is_other("ee_chunk", info)
        if not refuse:
            self.admission.accepted_chunk("ee_chunk", info, lasts, 1)
        return other

    def refusal(self, *arguments: Any, **options: Any) -> InvalidTarget:
        with pytest.raises(InvalidTarget) as refusal:
            self.send(*arguments, **options)
        return refusal.value


@pytest.mark.unit
def test_a_target_older_than_the_last_one_of_its_topic_is_refused() -> None:
    arm, now = Arm(), time.time_ns()
    arm.send(now)
    arm.send(now)
    arm.send(0)
    refusal = arm.refusal(now - SECOND // 50)
    assert refusal.reason == "out of order"
    assert "0.020 s newer: are there two senders" in str(refusal)
    arm.send(now - SECOND // 50, topic="another")


@pytest.mark.unit
def test_the_order_starts_again_when_the_clock_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    arm, now = Arm(), time.time_ns()
    arm.send(now)
    monkeypatch.setattr(time, "time_ns", lambda: now - SECOND // 4)
    assert arm.refusal(now - SECOND // 4).reason == "out of order"
    monkeypatch.setattr(time, "time_ns", lambda: now - SECOND)
    arm.send(now - SECOND)


@pytest.mark.unit
@pytest.mark.parametrize("change", ["mode", "held", "move", "inactive"])
def test_a_target_that_was_on_its_way_when_the_arm_ceased_to_be_free_is_not_refused_aloud(change: str) -> None:
    """DDS keeps no order between a last target and the call that follows it."""
    arm = Arm()
    before = time.time_ns()
    if change == "mode":
        arm.parameters["mode"] = "impedance"
        arm.active_client.mode_id += 1
    elif change == "inactive":
        arm.active_client = None
    else:
        setattr(arm, {"held": "why_held", "move": "owner"}[change], "a move")
    arm.admission.follow()
    refusals = []
    for sent in (before, time.time_ns() + SECOND):
        with pytest.raises(InvalidTarget) as refusal:
            arm.admission.check("ee_desired", ("osc",), 0, {"source_timestamp": sent})
        refusals.append(refusal.value)
    assert [isinstance(refusal, Overtaken) for refusal in refusals] == [True, False]
    assert refusals[0].reason == refusals[1].reason


@pytest.mark.unit
def test_the_order_and_the_sender_start_again_after_an_activation_or_a_switch_of_the_mode() -> None:
    arm, now = Arm(), time.time_ns()
    arm.send(now, b"a")
    arm.active_client.mode_id += 1
    arm.send(now - SECOND // 10, b"b")
    arm.active_client = ActiveClient()
    arm.send(now - SECOND // 5, b"a")


@pytest.mark.unit
def test_the_control_process_learns_that_another_sender_begins_its_stream() -> None:
    arm = Arm()
    begun = []
    for sender in (b"a", b"a", b"b", b"b", b"a"):
        arm.send(sender=sender)
        arm.now += HANDOVER if sender == b"b" or len(begun) == 1 else 0.02
        begun.append(arm.active_client.streams)
    assert begun == [1, 1, 2, 2, 3]


@pytest.mark.unit
def test_one_publisher_controls_the_arm_until_it_is_silent_whatever_its_topic() -> None:
    arm = Arm()
    arm.send(sender=b"a")
    arm.now += 0.9 * HANDOVER
    refusal = arm.refusal(sender=b"b", topic="another")
    assert refusal.reason == "another publisher"
    assert "/policy_b has to wait: /policy_a on /arm/ee_desired controls the arm" in str(refusal)
    assert arm.admission.owners.sender == "/policy_a on /arm/ee_desired"
    arm.now += 0.2 * HANDOVER
    assert arm.admission.owners.sender == ""
    arm.send(sender=b"b")


@pytest.fixture
def shared() -> Arm:
    """An arm that a policy, ``b"a"``, drives, and that ``b"b"`` and ``b"c"`` may take over from it."""
    arm = Arm()
    arm.parameters["priority_clients"] = ("/policy_b", "policy_c")
    arm.send(sender=b"a")
    return arm


@pytest.mark.unit
def test_a_priority_client_takes_over_at_once_and_the_others_are_refused_until_it_is_silent(shared: Arm) -> None:
    assert shared.send(sender=b"b") and shared.active_client.streams == 2
    for _ in range(10):
        shared.now += 0.9 * HANDOVER
        refusal = shared.refusal(sender=b"a")
        assert isinstance(refusal, Overridden) and (refusal.reason, refusal.owner) == ("overridden", "/policy_b")
        assert "/policy_a is overridden: /policy_b on /arm/ee_desired, one of priority_clients" in str(refusal)
        assert not shared.send(sender=b"b")
    shared.now += 1.1 * HANDOVER
    assert shared.send(sender=b"a") and shared.active_client.streams == 3
    assert shared.log == ["/policy_b takes control from /policy_a", "/policy_a continues after /policy_b"]


@pytest.mark.unit
def test_of_two_priority_clients_the_first_one_keeps_control(shared: Arm) -> None:
    shared.send(sender=b"b")
    assert shared.refusal(sender=b"c").reason == "overridden"
    shared.now += 1.1 * HANDOVER
    shared.send(sender=b"c")
    assert shared.refusal(sender=b"b").owner == "/policy_c"  # type: ignore[attr-defined]


@pytest.mark.unit
def test_priority_follows_the_parameter_as_it_changes(shared: Arm) -> None:
    shared.send(sender=b"b")
    shared.parameters["priority_clients"] = ("/policy_a",)
    shared.send(sender=b"a")
    shared.parameters["priority_clients"] = ()
    assert shared.refusal(sender=b"b").reason == "another publisher"


@pytest.mark.unit
def test_a_priority_client_takes_over_once_its_name_is_known(shared: Arm) -> None:
    name, shared.nodes[b"b"] = shared.nodes[b"b"], "_NODE_NAME_UNKNOWN_"
    assert shared.refusal(sender=b"b").reason == "another publisher"
    shared.nodes[b"b"] = name
    shared.send(sender=b"b")


@pytest.mark.unit
def test_a_priority_client_has_to_wait_for_a_hold_and_for_a_move(shared: Arm) -> None:
    shared.owner = "~/move"
    assert shared.refusal(sender=b"b").reason == "during a move"
    shared.why_held = "the arm is held"
    assert shared.refusal(sender=b"b").reason == "held"


@pytest.mark.unit
def test_no_other_client_moves_the_arm_while_a_priority_client_drives(shared: Arm) -> None:
    check = shared.admission.owners.check_goal
    check("/policy_a")
    check("")
    shared.send(sender=b"b")
    check("/policy_b")
    for other in ("/policy_a", ""):
        with pytest.raises(Overridden, match="/policy_b on /arm/ee_desired, one of priority_clients, controls the arm"):
            check(other)
    shared.now += 1.1 * HANDOVER
    check("/policy_a")


@pytest.mark.unit
def test_an_invalid_target_of_a_priority_client_does_not_take_control(shared: Arm) -> None:
    shared.admission.check("ee_desired", ("osc",), 0, {"publisher_gid": {"data": b"b"}})
    shared.send(sender=b"a")


@pytest.mark.unit
def test_the_stamps_of_a_client_are_not_compared_with_those_of_another_one(shared: Arm) -> None:
    now = time.time_ns()
    shared.send(now + SECOND // 5, b"a")
    shared.send(now, b"b")
    assert shared.refusal(now - 1, b"b").reason == "out of order"
    shared.now += 1.1 * HANDOVER
    shared.send(now - SECOND // 5, b"a")


@pytest.mark.unit
def test_the_publishers_of_one_node_are_one_client() -> None:
    arm, (pose, twist) = Arm(), (b"process_0001pose", b"process_0001twist")
    arm.nodes |= {pose: "policy", twist: "policy", b"process_0002pose": "policy"}
    arm.send(sender=pose)
    assert not arm.send(sender=twist, topic="twist_desired")
    assert not arm.send(sender=pose) and arm.active_client.streams == 3, "each stream has its own period"
    # Nodes of one name in two processes are two.
    assert arm.refusal(sender=b"process_0002pose").reason == "another publisher"


@pytest.mark.unit
def test_a_chunk_keeps_control_while_it_lasts_but_not_from_a_priority_client(shared: Arm) -> None:
    shared.parameters["priority_clients"] = ("policy_c",)
    shared.send_chunk(b"a")
    shared.now += 3.0 + 0.9 * HANDOVER
    assert shared.refusal(sender=b"b").reason == "another publisher"
    shared.now += 0.2 * HANDOVER
    shared.send(sender=b"b")
    shared.send_chunk(b"b")
    shared.send(sender=b"c")


@pytest.mark.unit
def test_a_refused_chunk_of_a_priority_client_does_not_disturb_the_stream_of_the_owner(shared: Arm) -> None:
    shared.parameters["priority_clients"] = ("policy_c",)
    now = time.time_ns()
    shared.send(now, sender=b"a")
    streams = shared.active_client.streams
    assert shared.send_chunk(b"c", refuse=True)
    assert shared.active_client.streams == streams
    assert shared.refusal(now - SECOND // 50, sender=b"a").reason == "out of order"
    assert shared.send_chunk(b"c")
    assert shared.admission.owners.client == "/policy_c"


@pytest.mark.unit
def test_a_chunk_that_ended_early_keeps_control_no_longer_than_a_target(shared: Arm) -> None:
    shared.parameters["priority_clients"] = ()
    shared.admission.owners.accepted(b"a", "ee_chunk", 3.0, 7)
    shared.admission.owners.ended_early(7)
    shared.now += 0.9 * HANDOVER
    shared.admission.owners.ended_early(7)  # As late as that, it changes nothing.
    assert shared.refusal(sender=b"b").reason == "another publisher"
    shared.now += 0.2 * HANDOVER
    shared.send(sender=b"b")


@pytest.mark.unit
def test_the_end_of_a_chunk_does_not_end_the_control_of_a_newer_one(shared: Arm) -> None:
    shared.parameters["priority_clients"] = ()
    owners = shared.admission.owners
    owners.accepted(b"a", "ee_chunk", 3.0, 7)
    owners.accepted(b"a", "ee_chunk", 3.0, 8)
    owners.ended_early(7)  # Known late: the node looks once in a while.
    shared.now += 3.0
    assert shared.refusal(sender=b"b").reason == "another publisher"
    shared.now += 1.1 * HANDOVER
    shared.send(sender=b"b")


@pytest.mark.unit
def test_who_drives_since_when_and_who_waits_for_how_long_is_known(shared: Arm) -> None:
    owners = shared.admission.owners
    assert (owners.client, owners.overrides, owners.waiting) == ("/policy_a", False, "")
    shared.send(sender=b"b")
    for _ in range(4):
        shared.refusal(sender=b"a")
        shared.now += 0.4
        shared.send(sender=b"b")
    assert (owners.client, owners.overrides) == ("/policy_b", True)
    assert owners.in_control == pytest.approx(1.6)
    assert owners.waiting == "/policy_a on /arm/ee_desired for 1.6 s"
    for _ in range(5):
        shared.now += 0.45
        shared.send(sender=b"b")
    assert owners.waiting == "", "it has given up"
    shared.now += 1.1 * HANDOVER
    assert (owners.client, owners.overrides, owners.in_control) == ("", False, 0.0)


@pytest.mark.unit
def test_without_identities_of_publishers_none_has_priority(shared: Arm) -> None:
    shared.now += 2.0 * HANDOVER
    shared.send()
    shared.send()
    assert shared.admission.anonymous


@pytest.mark.unit
def test_no_target_is_accepted_unless_the_arm_is_free_for_it() -> None:
    arm = Arm()
    assert arm.refusal(mode="torque").reason == "another mode"
    arm.owner = "~/move"
    refusal = arm.refusal()
    assert (refusal.reason, str(refusal)) == ("during a move", "~/move controls the arm")
    arm.why_held = "the arm is held"
    assert arm.refusal().reason == "held"
    arm.active_client = None
    assert arm.refusal().reason == "not active"


# On the topics.

Log = Callable[[str], bool]


def stamped(robot: Client, age: float, *, now: float | None = None) -> PoseStamped:
    """The measured pose with a stamp ``age`` [s] before ``now``, by default the system's clock."""
    message = robot.pose
    stamp = int(((time.time() if now is None else now) - age) * SECOND)
    message.header.stamp = Time(sec=stamp // SECOND, nanosec=stamp % SECOND)
    return message


def counted(robot: Client, key: str) -> int:
    """The number of targets that /diagnostics reports under ``key``."""
    return int(robot.diagnostics("targets")[1].get(key, 0))


def counts(robot: Client, key: str, message: PoseStamped | JointState, topic: str = "ee_desired") -> bool:
    """Publish a target; return whether it is counted under ``key``."""
    before = counted(robot, key)
    robot.publish(topic, message)
    return robot.spin_until(lambda: counted(robot, key) > before, 5.0)


@pytest.mark.parametrize(("age", "reason"), [(0.7, "old"), (-0.7, "in the future")])
def test_a_target_with_a_wrong_time_is_counted_and_explained_and_the_arm_does_not_move(
    robot: Client, log: Log, age: float, reason: str
) -> None:
    assert robot.rests()
    where = robot.position
    target = stamped(robot, age)
    target.pose.position.z -= 0.05
    assert counts(robot, f"refused: {reason}", target)
    assert robot.spin_until(lambda: log("(max_target_age is 0.5 s) by the clock of this node"))
    assert robot.rests()
    assert np.abs(robot.position - where).max() < 0.003


def test_every_topic_refuses_old_targets(robot: Client) -> None:
    header = stamped(robot, 0.7).header
    for mode, topic, field in (("impedance", "q_desired", "position"), ("torque", "torque_desired", "effort")):
        assert robot.set(mode=mode) == ""
        values = robot.q.tolist() if field == "position" else [0.0] * 7
        assert counts(robot, "refused: old", JointState(**{"header": header, field: values}), topic)


def test_the_largest_age_of_a_target_is_a_parameter(robot: Client) -> None:
    try:
        assert robot.set(max_target_age=3.0) == ""
        assert counts(robot, "accepted", stamped(robot, 1.0))
    finally:
        assert robot.set(max_target_age=0.5) == ""


def test_a_target_that_was_overtaken_is_refused_until_the_mode_changes_or_the_arm_is_activated(robot: Client) -> None:
    assert counts(robot, "accepted", stamped(robot, -0.4))
    assert counts(robot, "refused: out of order", stamped(robot, 0.0))
    assert counts(robot, "accepted", stamped(robot, 0.0, now=0.0)), "an empty stamp has no order"
    assert robot.set(mode="impedance") == "" and robot.set(mode="osc") == ""
    assert counts(robot, "accepted", stamped(robot, 0.1))
    assert counts(robot, "accepted", stamped(robot, -0.4))
    assert robot.change("deactivate") and robot.change("activate")
    assert counts(robot, "accepted", stamped(robot, 0.1))


def test_with_simulated_time_stamps_are_compared_with_the_simulated_clock(robot: Client, log: Log) -> None:
    publisher = robot.node.create_publisher(Clock, "/clock", 1)
    begin = time.monotonic()

    def tick() -> float:
        now = 100.0 + time.monotonic() - begin
        publisher.publish(Clock(clock=Time(sec=int(now), nanosec=int(now % 1.0 * SECOND))))
        return now

    timer = robot.node.create_timer(0.01, tick)
    try:
        assert robot.set(use_sim_time=True) == ""
        assert robot.spin_until(lambda: counts(robot, "accepted", stamped(robot, 0.0, now=tick())))
        assert counts(robot, "refused: in the future", stamped(robot, 0.0))
        assert log("is use_sim_time the same for both")
    finally:
        assert robot.set(use_sim_time=False) == ""
        robot.node.destroy_timer(timer)
        robot.node.destroy_publisher(publisher)
    assert counts(robot, "accepted", stamped(robot, 0.0))
