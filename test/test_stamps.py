"""What stamps of targets lead to: on their own, and on the topics of a node."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from node_harness import Client
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState

from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.node.stamps import Order, age_of

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND


@pytest.mark.parametrize("age", [-0.5, 0.0, 0.499])
def test_a_stamp_near_the_clock_is_fine(age: float) -> None:
    assert age_of(NOW - int(age * SECOND), NOW, 0.5) == pytest.approx(age)


def test_a_negative_stamp_is_refused_on_a_clock_that_begins_at_zero_too() -> None:
    with pytest.raises(InvalidTarget, match="negative"):
        age_of(-1, 0, 1.0)


def test_an_empty_stamp_is_fine_at_any_time() -> None:
    assert age_of(0, NOW, 0.5) == 0.0


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


def test_what_was_overtaken_is_refused_and_what_says_nothing_is_not() -> None:
    order = Order()
    order.check(NOW)
    order.took(NOW)
    order.check(NOW)
    order.check(0)
    order.took(0)
    with pytest.raises(InvalidTarget, match=r"0\.020 s newer: are there two senders") as refusal:
        order.check(NOW - SECOND // 50)
    assert refusal.value.reason == "out of order"


def test_a_clock_that_was_put_back_begins_a_new_order() -> None:
    order = Order()
    order.took(NOW)
    order.forget(beyond=NOW)
    with pytest.raises(InvalidTarget):
        order.check(NOW - 1)
    order.forget(beyond=NOW - 1)
    order.check(NOW - 1)


# On the topics.

Log = Callable[[str], bool]


def stamped(robot: Client, age: float, *, now: float | None = None) -> PoseStamped:
    """The measured pose, as if it had been made ``age`` [s] before ``now``, which is the system's clock by default."""
    message = robot.pose
    stamp = int(((time.time() if now is None else now) - age) * SECOND)
    message.header.stamp = Time(sec=stamp // SECOND, nanosec=stamp % SECOND)
    return message


def counted(robot: Client, key: str) -> int:
    """What /diagnostics has counted of the targets under ``key``."""
    return int(robot.diagnostics("targets")[1].get(key, 0))


def counts(robot: Client, key: str, message: PoseStamped | JointState, topic: str = "ee_desired") -> bool:
    """Whether a target is counted under ``key``."""
    before = counted(robot, key)
    robot.publish(topic, message)
    return robot.spin_until(lambda: counted(robot, key) > before, 5.0)


@pytest.mark.parametrize(("age", "reason"), [(0.7, "old"), (-0.7, "in the future")])
def test_a_target_of_a_wrong_time_is_counted_and_explained_and_nothing_moves(
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


def test_all_topics_refuse_what_is_old(robot: Client) -> None:
    header = stamped(robot, 0.7).header
    for mode, topic, field in (("impedance", "q_desired", "position"), ("torque", "torque_desired", "effort")):
        assert robot.set(mode=mode) == ""
        values = robot.q.tolist() if field == "position" else [0.0] * 7
        assert counts(robot, "refused: old", JointState(**{"header": header, field: values}), topic)


def test_how_old_a_target_may_be_is_a_parameter(robot: Client) -> None:
    try:
        assert robot.set(max_target_age=3.0) == ""
        assert counts(robot, "accepted", stamped(robot, 1.0))
    finally:
        assert robot.set(max_target_age=0.5) == ""


def test_a_target_that_was_overtaken_is_dropped_until_the_mode_changes_or_the_arm_is_activated(robot: Client) -> None:
    assert counts(robot, "accepted", stamped(robot, -0.4))
    assert counts(robot, "refused: out of order", stamped(robot, 0.0))
    assert counts(robot, "accepted", stamped(robot, 0.0, now=0.0)), "an empty stamp has no order"
    assert robot.set(mode="impedance") == "" and robot.set(mode="osc") == ""
    assert counts(robot, "accepted", stamped(robot, 0.1))
    assert counts(robot, "accepted", stamped(robot, -0.4))
    assert robot.change("deactivate") and robot.change("activate")
    assert counts(robot, "accepted", stamped(robot, 0.1))


def test_with_simulated_time_the_stamps_are_of_the_simulated_clock(robot: Client, log: Log) -> None:
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
