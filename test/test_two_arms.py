"""Two arms at once, each with its own node, gripper node, namespace and prefix.

``TWO_ARMS_SECONDS`` sets how long they move [s], a few seconds by default; ``make bench-two-arms`` moves them for a
minute.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from control_msgs.action import FollowJointTrajectory
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionClient
from rclpy.qos import qos_profile_sensor_data
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from aiofranka_ros import FrankaController, RosInterface
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.testing import Client, NodeProcess, started

SECONDS = float(os.environ.get("TWO_ARMS_SECONDS", "4"))
SIDES = ("left", "right")
#: Topics that all nodes on a graph share.
GRAPH_WIDE = {"/tf", "/tf_static", "/diagnostics", "/rosout", "/parameter_events", "/clock"}


class GripperProcess(NodeProcess):
    """The node of a gripper."""

    MODULE, NAME = "aiofranka_ros.gripper_node", "franka_gripper"


class ArmNode(NamedTuple):
    """The node of one arm, and a client of it."""

    process: NodeProcess
    client: Client


@pytest.fixture(scope="module")
def gripper_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[GripperProcess]]:
    """The nodes of both grippers, started before the arms: two arms leave a slow computer no time to start more."""
    folder = tmp_path_factory.mktemp("grippers")
    with ExitStack() as stack:
        processes = [GripperProcess(folder / f"{side}.log", side, arm_prefix=side) for side in SIDES]
        for process in processes:
            stack.callback(process.close)
        for process in processes:
            assert process.says(f"waiting for the simulated arm of /{process.namespace}/aiofranka"), process.log
        yield processes


@pytest.fixture(scope="module")
def arms(gripper_nodes: list[GripperProcess], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ArmNode]]:
    """Two active arms, started at the same time."""
    folder = tmp_path_factory.mktemp("arms")
    with ExitStack() as stack:
        found = {}
        for side in SIDES:
            node = started(folder, namespace=side, arm_prefix=side, autostart=True, diagnostics_rate=10.0)
            found[side] = ArmNode(*stack.enter_context(node))
        for arm in found.values():
            assert arm.client.becomes("active"), arm.process.log
        yield found


# Names.


def names_in(message: Any) -> Iterator[str]:
    """The frames, joints and statuses that a message names, at any depth."""
    for field in message.get_fields_and_field_types():
        value = getattr(message, field)
        if field in ("frame_id", "child_frame_id") and value:
            yield value
        elif field in ("name", "joint_names"):
            yield from [value] if isinstance(value, str) else value
        elif hasattr(value, "get_fields_and_field_types"):
            yield from names_in(value)
        elif isinstance(value, list) and value and hasattr(value[0], "get_fields_and_field_types"):
            for element in value:
                yield from names_in(element)


def offered(client: Client, side: str) -> dict[str, set[str]]:
    """Names of one arm's nodes, and of their topics, services and actions, as far as they are discovered."""
    found: dict[str, set[str]] = {"nodes": set(), "topics": set(), "services": set(), "actions": set()}
    for node in client.others():
        if node.startswith(f"/{side}/"):
            offered = client.offered(node)
            found["nodes"].add(node)
            found["topics"] |= offered.publishers.keys() | offered.subscribers.keys()
            found["services"] |= offered.services.keys()
            found["actions"] |= offered.actions.keys()
    return found


def sides_in(names: set[str]) -> set[str]:
    """The namespaces of the nodes whose statuses are among ``names`` on /diagnostics."""
    return {name.partition("/")[0] for name in names if ": " in name}


@pytest.fixture(scope="module")
def grippers(arms: dict[str, ArmNode], gripper_nodes: list[GripperProcess]) -> None:
    """The grippers of both arms, connected."""
    for process in gripper_nodes:
        assert process.says("connected to the gripper"), process.log


def test_two_arms_have_no_name_in_common(arms: dict[str, ArmNode], grippers: None) -> None:
    client = arms["left"].client

    def discovered() -> bool:
        left, right = (offered(client, side) for side in SIDES)
        # Both arms have the same names, each in its namespace.
        return len(left["nodes"]) == 2 and all(
            {name.replace("/left/", "/right/") for name in left[kind]} == right[kind] for kind in left
        )

    assert client.spin_until(discovered), [offered(client, side) for side in SIDES]
    left, right = (offered(client, side) for side in SIDES)
    assert left["topics"] & right["topics"] <= GRAPH_WIDE and {"/tf", "/diagnostics"} <= left["topics"]
    for kind in ("nodes", "services", "actions"):
        assert left[kind] and not left[kind] & right[kind]
    assert {"/left/aiofranka/move", "/left/franka_gripper/grasp"} <= left["actions"]


def test_names_in_messages_begin_with_the_prefix_of_the_arm(arms: dict[str, ArmNode], grippers: None) -> None:
    client = arms["left"].client
    named: dict[str, set[str]] = {}
    heard: list[Any] = []
    for side in SIDES:
        for node in ("aiofranka", "franka_gripper"):
            for topic, kind in client.offers(f"/{side}/joint_states", node=f"/{side}/{node}").publishers.items():
                if topic in ("/rosout", "/parameter_events") or "/_action/" in topic or topic in named:
                    continue
                package, _, message_type = kind.split("/")
                named[topic] = set()
                heard.append(
                    client.node.create_subscription(
                        getattr(importlib.import_module(f"{package}.msg"), message_type),
                        topic,
                        lambda message, names=named[topic]: names.update(names_in(message)),
                        qos_profile_sensor_data,
                    )
                )
    try:
        busy = [f"/{side}/{topic}" for side in SIDES for topic in ("joint_states", "franka_gripper/joint_states")]
        assert client.spin_until(lambda: all(named[topic] for topic in busy))
        # The arm and its gripper publish on this one.
        assert client.spin_until(lambda: all(len(named[f"/{side}/joint_states"]) > 9 for side in SIDES)), named
        # Both arms publish on these topics.
        assert client.spin_until(lambda: len(named["/tf"]) >= 4 and len(sides_in(named["/diagnostics"])) == 2), named
        client.spin_for(0.5)
    finally:
        for subscription in heard:
            client.node.destroy_subscription(subscription)
    arm_names = {side: ArmNames(side) for side in SIDES}
    for side, names in arm_names.items():
        assert named[f"/{side}/joint_states"] == {names.base, *names.joints, *names.fingers}
        assert named[f"/{side}/franka_gripper/joint_states"] == set(names.fingers)
        of_the_arm = [topic for topic in named if topic.startswith(f"/{side}/")]
        assert not [name for topic in of_the_arm for name in named[topic] if not name.startswith(f"{side}_")]
    assert named["/tf"] == {name for names in arm_names.values() for name in (names.base, names.tcp)}
    assert sides_in(named["/diagnostics"]) == set(SIDES)


def test_joint_names_of_the_other_arm_are_refused(arms: dict[str, ArmNode]) -> None:
    process, client = arms["left"]
    follow = ActionClient(client.node, FollowJointTrajectory, "/left/fr3_arm_controller/follow_joint_trajectory")
    try:
        assert client.spin_until(follow.server_is_ready)
        for side, accepted in (("right", False), ("left", True)):
            trajectory = JointTrajectory(joint_names=list(ArmNames(side).joints))
            point = JointTrajectoryPoint(positions=client.q.tolist())
            point.time_from_start.sec = 1
            trajectory.points.append(point)
            goal = FollowJointTrajectory.Goal(trajectory=trajectory)
            handle = client.result(follow.send_goal_async(goal))
            assert handle.accepted == accepted
            if accepted:
                assert client.outcome(handle).result.error_code == FollowJointTrajectory.Result.SUCCESSFUL
    finally:
        follow.destroy()
    assert "unknown joint right_fr3_joint1" in process.log and "missing joint left_fr3_joint1" in process.log
    assert not client.send_goal([*HOME[:6], 3.5]).accepted
    assert process.says("left_fr3_joint7 = 3.5000 rad is outside")
    outcome = client.outcome(client.send_goal(HOME + 0.01, tolerance=1e-6))
    assert "missed the goal: left_fr3_joint" in outcome.result.error_message


@pytest.mark.parametrize("frame", ["right_fr3_link0", "base"])
def test_a_target_in_the_frame_of_the_other_arm_is_refused(arms: dict[str, ArmNode], frame: str) -> None:
    """Also in ``base``, the common root of all robot descriptions."""
    client = arms["left"].client
    before = int(client.diagnostics("targets")[1].get("refused: unknown frame", 0))
    target = client.pose
    target.header.frame_id, target.header.stamp = frame, Time()
    client.publish("ee_desired", target)
    assert client.spin_until(
        lambda: int(client.diagnostics("targets")[1].get("refused: unknown frame", 0)) > before, 10.0
    )


def test_the_asyncio_api_gets_the_prefix_from_the_node(arms: dict[str, ArmNode]) -> None:
    process, client = arms["left"]
    wanted = client.q
    wanted[6] += 0.1

    async def drive() -> None:
        async with FrankaController(RosInterface("/left/aiofranka")) as controller:
            controller.switch("impedance")
            for _ in range(50):
                await controller.set("q_desired", wanted)
            controller.switch("osc")
            target = controller.state["ee"].copy()
            target[2, 3] -= 0.03
            for _ in range(50):
                await controller.set("ee_desired", target)
            with pytest.raises(InvalidTarget, match="left_fr3_joint7 = 3.5000 rad is outside"):
                await controller.move(np.array([*HOME[:6], 3.5]))

    before = client.position
    said = len(process.log)
    asyncio.run(drive())
    # The wrist turns by 5.7 degrees and the hand moves down by 3 cm; friction leaves a compliant arm a small error.
    assert abs(client.q[6] - wanted[6]) < 0.05
    assert -0.04 < client.position[2] - before[2] < -0.02
    assert "refused" not in process.log[said:]
    assert client.state == "active"


# Moving.


class Circle:
    """Targets for one arm on a circle with a radius of 4 cm through its position, at 0.5 Hz, and the outcome.

    If a busy computer delays a target, the circle is delayed too, so the step from the previous target stays small.
    """

    RADIUS, PERIOD, LARGEST_STEP = 0.04, 2.0, 0.05

    def __init__(self, client: Client) -> None:
        self.client = client
        self.target: PoseStamped = client.pose
        self.centre = client.position - [0.0, 0.0, self.RADIUS]
        self.before = self._figures()
        #: Time on the circle [s].
        self.time = 0.0
        self._stepped = time.monotonic()

    def step(self) -> None:
        """Publish the target that is due."""
        now = time.monotonic()
        self.time += min(now - self._stepped, self.LARGEST_STEP)
        self._stepped = now
        angle = 2.0 * np.pi * self.time / self.PERIOD
        p = self.target.pose.position
        p.y = self.centre[1] + self.RADIUS * np.sin(angle)
        p.z = self.centre[2] + self.RADIUS * np.cos(angle)
        self.target.header.stamp = self.client.node.get_clock().now().to_msg()
        self.client.publish("ee_desired", self.target)

    def result(self) -> dict[str, float]:
        """The robot's cycles since the beginning, the lost ones, and how far the arm moved."""
        after, positions = (
            self._figures(),
            [[getattr(m.pose.position, axis) for axis in "xyz"] for m in self.client.poses],
        )
        return {
            **{key: after[key] - self.before[key] for key in ("cycles", "cycles lost")},
            "success rate min": after["success rate min"],
            "width of the circle": float(np.ptp(np.array(positions)[:, 1])),
        }

    def _figures(self) -> dict[str, float]:
        _, values = self.client.diagnostics("control loop")
        return {key: float(values[key]) for key in ("cycles", "cycles lost", "success rate min")}


@pytest.mark.timeout(120 + 2 * SECONDS)
def test_two_arms_move_at_once_and_neither_loses_a_cycle(arms: dict[str, ArmNode]) -> None:
    for arm in arms.values():
        assert arm.client.set(mode="osc") == ""
        assert arm.client.rests()
    circles = {side: Circle(arm.client) for side, arm in arms.items()}
    while any(circle.time < SECONDS for circle in circles.values()):
        for circle in circles.values():
            circle.step()
            circle.client.spin_for(0.01)
    results = {side: circle.result() for side, circle in circles.items()}
    sys.stdout.write(f"{SECONDS:g} s: {results}\n")  # Visible with `pytest -s`, or if the test fails.
    for result in results.values():
        assert result["cycles"] > 100 * SECONDS, "on a busy machine, simulated arms are slower than real time"
        assert result["cycles lost"] == 0
        # A compliant arm lags behind, on a circle of nearly the same size.
        assert 1.5 * Circle.RADIUS < result["width of the circle"] < 2.5 * Circle.RADIUS
