"""The gripper's node as a user runs it: a separate process, on the simulated arm's hand, called through rclpy."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from action_msgs.msg import GoalStatus
from common import ROOT
from control_msgs.action import GripperCommand
from diagnostic_msgs.msg import DiagnosticStatus
from franka_msgs.action import Grasp, Homing, Move
from franka_msgs.msg import GraspEpsilon
from franka_sim.gripper.backend import GripperStateData
from franka_sim.gripper.protocol import GripperCommand as GripperCommandName
from franka_sim.gripper.protocol import GripperCommandHeader, GripperStatus, build_command_response
from hands import GRASP, HOMING, MOVE, STOP, Counting
from rcl_interfaces.srv import DescribeParameters
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from test_hand import served

from aiofranka_ros.arm.gripper.settings import GRIPPER_SETTINGS
from aiofranka_ros.ros.cdr import nanoseconds
from aiofranka_ros.ros.gripper_state import Measured, read_gripper_state
from aiofranka_ros.simulation.hand import HandServer
from aiofranka_ros.simulation.simulated_arm import SimulatedArm
from aiofranka_ros.testing import PATIENCE, NodeClient, NodeProcess

pytestmark = pytest.mark.light

ARM, BARE, COUNTED = "127.0.0.60", "127.0.0.61", "127.0.0.64"
OBJECT = 0.03
SUCCEEDED, CANCELED, ABORTED = (
    GoalStatus.STATUS_SUCCEEDED,
    GoalStatus.STATUS_CANCELED,
    GoalStatus.STATUS_ABORTED,
)
KINDS = {
    "franka_gripper/homing": Homing,
    "franka_gripper/move": Move,
    "franka_gripper/grasp": Grasp,
    "franka_gripper/gripper_action": GripperCommand,
    "fr3_gripper/gripper_action": GripperCommand,
}


class GripperProcess(NodeProcess):
    """The gripper's node."""

    MODULE, NAME = "aiofranka_ros.gripper_node", "franka_gripper"


class GripperClient(NodeClient):
    """A client of one gripper's node."""

    def __init__(self, namespace: str) -> None:
        super().__init__(f"{namespace}/franka_gripper")
        self.joint_states: list[Any] = []
        self.feedback: list[tuple[float, Any]] = []
        self.node.create_subscription(JointState, f"{self.name}/joint_states", self.joint_states.append, 10)
        self._goals = {name: self.action(kind, f"{namespace}/{name}") for name, kind in KINDS.items()}
        self.describe = self.node.create_client(DescribeParameters, f"{self.name}/describe_parameters")

    def send(self, name: str, goal: Any) -> Any:
        """Send a goal; return its handle."""
        action = self._goals[name]
        self.wait(action.server_is_ready, f"no {name}")
        self.feedback.clear()

        # DDS may receive the request before it knows where to send the answer, which is lost then.
        answer = self.ask(name, goal)
        if not self.spin_until(answer.done, 5.0):
            answer = self.ask(name, goal)
        return self.result(answer)

    def ask(self, name: str, goal: Any) -> Any:
        """Send a goal; return the future of its handle."""
        return self._goals[name].send_goal_async(
            goal, feedback_callback=lambda it: self.feedback.append((time.monotonic(), it.feedback))
        )

    def end_of(self, handle: Any) -> tuple[int, Any]:
        """Status and result of an accepted goal."""
        assert handle.accepted
        answer = self.outcome(handle)
        return answer.status, answer.result

    def do(self, name: str, goal: Any) -> tuple[int, Any]:
        """Send a goal and wait for its end."""
        return self.end_of(self.send(name, goal))

    @property
    def width(self) -> float:
        """Distance of the fingers [m], measured after this call."""
        # Messages that are on their way already were measured before.
        now = self.node.get_clock().now().nanoseconds

        def fresh() -> bool:
            return bool(self.joint_states) and nanoseconds(self.joint_states[-1].header.stamp) > now

        self.wait(fresh, "no joint states")
        return float(sum(self.joint_states[-1].position))

    def says(self, level: bytes, text: str) -> bool:
        """Whether its diagnostics say so in time."""

        def found() -> bool:
            status = self.statuses.get("gripper")
            return status is not None and status.level == level and text in status.message

        return self.spin_until(found)

    @property
    def to_do(self) -> str:
        """The remedy in its diagnostics; empty if all is well."""
        return self.value("gripper", "what to do")


@contextmanager
def gripper(
    log: Path, namespace: str | None = None, **parameters: Any
) -> Iterator[tuple[GripperProcess, GripperClient]]:
    """A gripper's node and a client of it."""
    with GripperProcess(log, namespace, **parameters) as process:
        try:
            with GripperClient(f"/{process.namespace}") as client:
                yield process, client
        finally:
            if process.end() != 0:
                sys.stderr.write(process.log)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GripperProcess, GripperClient]]:
    """A node on a simulated arm with an object between the hand's fingers."""
    log = tmp_path_factory.mktemp("gripper") / "log"
    with SimulatedArm(ARM, ["--object-width", str(OBJECT)]), gripper(log, robot_ip=ARM) as (process, client):
        assert client.spin_until(lambda: client.joint_states), process.log
        yield process, client


@pytest.fixture
def hand(running: tuple[GripperProcess, GripperClient]) -> GripperClient:
    """The client of the module's node, whose gripper is open."""
    process, client = running
    assert process.process.poll() is None, process.log
    if client.width < 0.08:
        assert client.do("franka_gripper/move", Move.Goal(width=0.08))[0] == SUCCEEDED
    return client


# --- Commands


def test_a_move_moves_the_fingers_with_feedback(hand: GripperClient) -> None:
    status, result = hand.do("franka_gripper/move", Move.Goal(width=0.04, speed=0.05))
    assert (status, result.success, result.error) == (SUCCEEDED, True, "")
    assert hand.width == pytest.approx(0.04)
    widths = [feedback.current_width for _, feedback in hand.feedback]
    # 0.04 m at 0.05 m/s take 0.8 s: eight messages at 10 Hz, some of which may be late.
    assert 4 <= len(widths) <= 10
    assert widths == sorted(widths, reverse=True) and widths[0] > 0.06


def test_each_finger_joint_has_half_of_the_width(hand: GripperClient) -> None:
    # The newest message may be older than the end of the motion.
    assert hand.spin_until(lambda: hand.width == pytest.approx(0.08))
    message = hand.joint_states[-1]
    assert list(message.name) == ["fr3_finger_joint1", "fr3_finger_joint2"]
    np.testing.assert_allclose(message.position, [0.04, 0.04])


def test_the_finger_joints_are_on_the_topic_of_all_joints(hand: GripperClient) -> None:
    received: list[JointState] = []
    name = f"{hand.name.rpartition('/')[0]}/joint_states"
    # As robot_state_publisher subscribes; MoveIt's request is the same, or reliable.
    subscription = hand.node.create_subscription(JointState, name, received.append, qos_profile_sensor_data)
    try:
        assert hand.spin_until(lambda: received)
    finally:
        hand.node.destroy_subscription(subscription)
    assert list(received[0].name) == ["fr3_finger_joint1", "fr3_finger_joint2"]
    assert sum(received[0].position) == pytest.approx(0.08)


def test_the_state_has_what_is_held_and_the_largest_width(hand: GripperClient) -> None:
    states: list[Measured] = []
    messages: list[Float64MultiArray] = []

    def receive(message: Float64MultiArray) -> None:
        messages.append(message)
        states.append(read_gripper_state(serialize_message(message)))

    name = f"{hand.name}/state"
    subscription = hand.node.create_subscription(Float64MultiArray, name, receive, qos_profile_sensor_data)
    try:
        assert hand.spin_until(lambda: states)
        assert states[-1][:4] == (pytest.approx(0.08), pytest.approx(0.08), False, 30)
        assert hand.do("franka_gripper/grasp", Grasp.Goal(width=OBJECT, force=30.0))[0] == SUCCEEDED
        assert hand.spin_until(lambda: states[-1].is_grasped)
        assert states[-1].width == pytest.approx(OBJECT)
    finally:
        hand.node.destroy_subscription(subscription)
    assert messages[0].layout.dim[0].label == "sec nanosec width max_width is_grasped temperature"
    stamps = [state.stamp for state in states]
    assert stamps == sorted(stamps) and abs(stamps[-1] - time.time_ns()) < PATIENCE * 1e9


def test_a_grasp_succeeds_if_the_object_has_the_requested_width(hand: GripperClient) -> None:
    goal = Grasp.Goal(width=OBJECT + 0.004, speed=0.1, force=30.0)
    assert hand.do("franka_gripper/grasp", goal)[0] == SUCCEEDED
    assert hand.width == pytest.approx(OBJECT)


def test_a_grasp_of_another_width_is_aborted_with_the_width_found(hand: GripperClient) -> None:
    goal = Grasp.Goal(width=0.05, epsilon=GraspEpsilon(inner=0.01, outer=0.01), speed=0.1, force=30.0)
    status, result = hand.do("franka_gripper/grasp", goal)
    assert (status, result.success) == (ABORTED, False)
    assert "the fingers ended at 0.0300 m, which is not between 0.0400 and 0.0600 m" in result.error


def test_homing_is_aborted_if_an_object_is_in_the_way(hand: GripperClient) -> None:
    status, result = hand.do("franka_gripper/homing", Homing.Goal())
    assert (status, result.success) == (ABORTED, False)
    assert "is something between the fingers?" in result.error


def test_a_move_against_an_object_ends_as_blocked_although_the_hand_keeps_trying(hand: GripperClient) -> None:
    assert hand.set(stall_timeout=0.3) == ""
    try:
        status, result = hand.do("franka_gripper/move", Move.Goal(width=0.01))
    finally:
        hand.set(stall_timeout=1.0)
    assert (status, result.success, result.error) == (ABORTED, False, "the fingers are blocked at 0.0300 m")


@pytest.mark.parametrize("name", ["franka_gripper/gripper_action", "fr3_gripper/gripper_action"])
def test_the_gripper_command_takes_the_position_of_one_finger(hand: GripperClient, name: str) -> None:
    goal = GripperCommand.Goal()
    goal.command.position = 0.025
    status, result = hand.do(name, goal)
    assert (status, result.reached_goal, result.stalled) == (SUCCEEDED, True, False)
    assert result.position == pytest.approx(0.025)
    assert hand.width == pytest.approx(0.05)


def test_the_gripper_command_holds_an_object_that_it_meets(hand: GripperClient) -> None:
    # What MoveIt sends to close: no effort.
    status, result = hand.do("fr3_gripper/gripper_action", GripperCommand.Goal())
    assert (status, result.reached_goal, result.stalled) == (SUCCEEDED, False, True)
    assert (result.position, result.effort) == (pytest.approx(OBJECT / 2.0), 20.0)
    assert hand.diagnostics("gripper")[1]["holds something"] == "True"


def test_a_gripper_command_with_a_force_grasps(hand: GripperClient) -> None:
    goal = GripperCommand.Goal()
    goal.command.position, goal.command.max_effort = 0.01, 40.0
    status, result = hand.do("franka_gripper/gripper_action", goal)
    assert (status, result.reached_goal, result.stalled, result.effort) == (SUCCEEDED, False, True, 40.0)


def test_a_gripper_command_that_stalls_is_aborted_if_stalling_is_not_allowed(hand: GripperClient) -> None:
    assert hand.set(allow_stalling=False) == ""
    try:
        status, result = hand.do("franka_gripper/gripper_action", GripperCommand.Goal())
    finally:
        hand.set(allow_stalling=True)
    assert (status, result.reached_goal, result.stalled) == (ABORTED, False, True)


# --- Which goal controls the gripper


def test_the_newest_goal_of_any_action_wins(hand: GripperClient) -> None:
    first = hand.send("franka_gripper/move", Move.Goal(width=0.04, speed=0.01))
    assert hand.spin_until(lambda: hand.feedback)
    second = hand.send("franka_gripper/gripper_action", GripperCommand.Goal())
    status, result = hand.end_of(first)
    assert (status, result.error) == (ABORTED, "replaced by a new goal")
    assert hand.end_of(second)[0] == SUCCEEDED
    assert hand.width == pytest.approx(OBJECT)


def test_the_last_of_many_goals_is_pursued_to_its_end(hand: GripperClient) -> None:
    # Each of them would take seconds; all but the first are sent at once.
    first = hand.send("franka_gripper/move", Move.Goal(width=0.035, speed=0.01))
    goals = [*(Move.Goal(width=0.05 - 0.005 * turn, speed=0.01) for turn in range(3)), Move.Goal(width=0.05)]
    answers = [hand.ask("franka_gripper/move", goal) for goal in goals]
    ends = [hand.end_of(handle) for handle in (first, *map(hand.result, answers))]
    assert ends[-1][0] == SUCCEEDED and hand.width == pytest.approx(0.05)
    others = [(status, result.error) for status, result in ends[:-1]]
    assert others[0] == (ABORTED, "replaced by a new goal")
    assert (ABORTED, "replaced by a newer goal before it began") in others
    assert all(status == ABORTED and error.startswith("replaced by a new") for status, error in others)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Counting, GripperClient]]:
    """A node on a hand that remembers its commands, with an object between its fingers."""
    log = tmp_path_factory.mktemp("counted") / "log"
    with served(OBJECT, COUNTED, Counting) as server, gripper(log, robot_ip=COUNTED) as (process, client):
        assert client.spin_until(lambda: client.joint_states), process.log
        assert isinstance(server, Counting)
        yield server, client


@pytest.fixture
def wire(counted: tuple[Counting, GripperClient]) -> tuple[list[GripperCommandName], GripperClient]:
    """The commands that the hand gets from now on, and the client of its node; the fingers are open."""
    server, client = counted
    server.backend._object_width = OBJECT
    assert client.do("franka_gripper/move", Move.Goal(width=0.075))[0] == SUCCEEDED
    assert client.do("franka_gripper/move", Move.Goal(width=0.08))[0] == SUCCEEDED
    server.commands.clear()
    return server.commands, client


def stream(client: GripperClient, goals: Iterable[tuple[str, Any]], count: int) -> list[tuple[int, Any]]:
    """Send ``goals`` in turns, ``count`` in all, 30 a second, without waiting for their ends; return these."""
    ends: list[Any] = []
    turns = itertools.cycle(goals)
    for _ in range(count):
        # As clients do: it asks for the result as soon as the goal is accepted.
        client.ask(*next(turns)).add_done_callback(lambda answer: ends.append(answer.result().get_result_async()))
        client.spin_for(1.0 / 30.0)
    assert client.spin_until(lambda: len(ends) == count and all(end.done() for end in ends))
    return [(end.result().status, end.result().result) for end in ends]


def gripper_goal(position: float, effort: float) -> GripperCommand.Goal:
    goal = GripperCommand.Goal()
    goal.command.position, goal.command.max_effort = position, effort
    return goal


@pytest.mark.parametrize(
    ("name", "goal", "command"),
    [
        ("franka_gripper/homing", Homing.Goal(), HOMING),
        ("franka_gripper/move", Move.Goal(width=0.035), MOVE),
        ("franka_gripper/grasp", Grasp.Goal(width=OBJECT, force=20.0), GRASP),
        ("franka_gripper/gripper_action", gripper_goal(0.0, 20.0), GRASP),
        ("fr3_gripper/gripper_action", gripper_goal(0.0175, 0.0), MOVE),
    ],
)
def test_a_goal_that_is_sent_again_and_again_is_one_command_and_every_goal_gets_its_result(
    wire: tuple[list[GripperCommandName], GripperClient], name: str, goal: Any, command: GripperCommandName,
    counted: tuple[Counting, GripperClient],
) -> None:  # fmt: skip
    commands, client = wire
    if command is HOMING:
        counted[0].backend._object_width = None
    # For two thirds of a second: closing takes half a second, homing, which is never done by another one, 1.6 s.
    ends = stream(client, [(name, goal)], 20)
    assert {status for status, _ in ends} == {SUCCEEDED}
    assert commands == [command]


def test_both_names_of_the_gripper_command_are_one_action(
    wire: tuple[list[GripperCommandName], GripperClient],
) -> None:
    commands, client = wire
    both = [(name, gripper_goal(0.0, 20.0)) for name in ("franka_gripper/gripper_action", "fr3_gripper/gripper_action")]
    ends = stream(client, both, 30)
    assert {(status, result.stalled) for status, result in ends} == {(SUCCEEDED, True)}
    assert commands == [GRASP]


def test_a_grasp_is_repeated_once_what_it_held_is_lost(
    wire: tuple[list[GripperCommandName], GripperClient], counted: tuple[Counting, GripperClient]
) -> None:
    commands, client = wire
    goal = Grasp.Goal(width=OBJECT, force=20.0)
    assert client.do("franka_gripper/grasp", goal)[0] == SUCCEEDED
    server, _ = counted
    server.backend._course = dataclasses.replace(server.backend._course, holds=False)  # It slips.
    assert client.spin_until(lambda: client.diagnostics("gripper")[1]["holds something"] == "False")
    assert client.do("franka_gripper/grasp", goal)[0] == SUCCEEDED
    assert commands == [GRASP, GRASP]


def test_a_move_is_repeated_once_something_has_moved_the_fingers(
    wire: tuple[list[GripperCommandName], GripperClient], counted: tuple[Counting, GripperClient]
) -> None:
    commands, client = wire
    assert client.do("franka_gripper/move", Move.Goal(width=0.05))[0] == SUCCEEDED
    counted[0].backend.move(0.07, 0.1)
    assert client.spin_until(lambda: client.width == pytest.approx(0.07))
    assert client.do("franka_gripper/move", Move.Goal(width=0.05))[0] == SUCCEEDED
    assert client.width == pytest.approx(0.05)
    assert commands == [MOVE, MOVE]


def test_goals_that_alternate_do_not_starve_the_fingers(
    wire: tuple[list[GripperCommandName], GripperClient],
) -> None:
    commands, client = wire
    client.joint_states.clear()
    goals = [("franka_gripper/move", Move.Goal(width=width)) for width in (0.035, 0.06, 0.04)]
    ends = stream(client, [*goals, ("franka_gripper/grasp", Grasp.Goal(width=OBJECT))], 91)
    widths = [sum(state.position) for state in client.joint_states]
    # They travel at least a third of what they could: 0.1 m/s for 3 s. Each command runs for 0.3 s, and to stop and
    # start takes 0.1 s, more on a busy machine.
    assert np.abs(np.diff(widths)).sum() > 0.1
    assert ends[-1][0] == SUCCEEDED
    reasons = {result.error for status, result in ends if status == ABORTED}
    assert reasons == {"replaced by a new goal", "replaced by a newer goal before it began"}
    assert len(commands) < len(ends)  # Not a command and a stop for each goal.


def test_a_cancelled_goal_does_not_stop_the_fingers_if_another_goal_wants_the_same(
    wire: tuple[list[GripperCommandName], GripperClient],
) -> None:
    commands, client = wire
    first, second = (client.send("franka_gripper/move", Move.Goal(width=0.05, speed=0.03)) for _ in range(2))
    assert client.cancel(first).goals_canceling
    assert client.end_of(first)[0] == CANCELED
    assert client.end_of(second)[0] == SUCCEEDED
    assert commands == [MOVE]
    both = [client.send("franka_gripper/move", Move.Goal(width=0.08, speed=0.01)) for _ in range(2)]
    for handle in both:
        assert client.cancel(handle).goals_canceling
    assert [client.end_of(handle)[0] for handle in both] == [CANCELED, CANCELED]
    assert commands == [MOVE, MOVE, STOP] and client.width < 0.08


def test_the_results_of_many_goals_at_once_all_arrive(
    wire: tuple[list[GripperCommandName], GripperClient],
) -> None:
    """DDS keeps ten answers until a program takes them."""
    _, client = wire
    goal = Move.Goal(width=0.05, speed=0.01)
    results = [client.send("franka_gripper/move", goal).get_result_async() for _ in range(30)]
    # Their program does something else while they end.
    assert client.spin_until(lambda: client.joint_states and sum(client.joint_states[-1].position) < 0.06)
    assert {client.result(result).status for result in results} == {SUCCEEDED}


def test_a_cancelled_goal_gets_a_result_and_the_fingers_stop(hand: GripperClient) -> None:
    handle = hand.send("franka_gripper/move", Move.Goal(width=0.04, speed=0.02))
    assert hand.spin_until(lambda: hand.feedback and hand.feedback[-1][1].current_width < 0.078)
    assert hand.cancel(handle).goals_canceling
    status, result = hand.end_of(handle)
    assert (status, result.success, result.error) == (CANCELED, False, "cancelled")
    stopped = hand.width
    assert 0.04 < stopped < 0.08
    hand.joint_states.clear()
    assert hand.spin_until(lambda: len(hand.joint_states) > 5)
    assert sum(hand.joint_states[-1].position) == pytest.approx(stopped)


def test_a_blocked_move_can_be_cancelled(hand: GripperClient) -> None:
    assert hand.set(stall_timeout=60.0) == ""
    try:
        handle = hand.send("franka_gripper/move", Move.Goal(width=0.01))
        assert hand.spin_until(lambda: hand.feedback and hand.feedback[-1][1].current_width < OBJECT + 0.001)
        assert hand.cancel(handle).goals_canceling
        assert hand.end_of(handle)[0] == CANCELED
    finally:
        hand.set(stall_timeout=1.0)


def test_the_stop_service_ends_a_goal_and_the_motion(hand: GripperClient) -> None:
    handle = hand.send("franka_gripper/move", Move.Goal(width=0.04, speed=0.02))
    assert hand.spin_until(lambda: hand.feedback)
    answer = hand.trigger("stop")
    assert (answer.success, answer.message) == (True, "")
    status, result = hand.end_of(handle)
    assert (status, result.error) == (ABORTED, "stopped by ~/stop")
    assert hand.width > 0.04


# --- Refused goals


@pytest.mark.parametrize(
    ("name", "goal", "reason"),
    [
        ("move", Move.Goal(width=math.nan), "width is nan m, but the gripper opens from 0 to 0.0800 m"),
        ("move", Move.Goal(width=-0.01), "width is -0.01 m"),
        ("move", Move.Goal(width=0.09), "width is 0.09 m"),
        ("move", Move.Goal(width=0.04, speed=-0.1), "speed is -0.1 m/s, but must be at least 0.001 m/s"),
        ("move", Move.Goal(width=0.04, speed=math.inf), "speed is inf m/s"),
        ("grasp", Grasp.Goal(width=0.04, force=-1.0), "force is -1.0 N, but must be at most 140 N"),
        ("grasp", Grasp.Goal(width=0.04, force=141.0), "force is 141.0 N"),
        ("grasp", Grasp.Goal(width=0.04, force=math.nan), "force is nan N"),
        ("grasp", Grasp.Goal(width=0.04, epsilon=GraspEpsilon(inner=-0.1)), "epsilon.inner is -0.1 m"),
        ("grasp", Grasp.Goal(width=0.04, epsilon=GraspEpsilon(outer=math.nan)), "epsilon.outer is nan m"),
    ],
)
def test_an_impossible_goal_is_rejected_with_the_reason(
    running: tuple[GripperProcess, GripperClient], name: str, goal: Any, reason: str
) -> None:
    process, client = running
    after = len(process.log)
    assert not client.send(f"franka_gripper/{name}", goal).accepted
    assert process.says(f"rejected a goal of ~/{name}: {reason}", after=after), process.log[after:]


@pytest.mark.parametrize(("position", "effort"), [(0.05, 0.0), (math.nan, 0.0), (-0.001, 0.0), (0.02, -5.0)])
def test_an_impossible_gripper_command_is_rejected(hand: GripperClient, position: float, effort: float) -> None:
    goal = GripperCommand.Goal()
    goal.command.position, goal.command.max_effort = position, effort
    assert not hand.send("fr3_gripper/gripper_action", goal).accepted


def test_a_width_slightly_above_the_largest_is_the_largest_width(hand: GripperClient) -> None:
    assert hand.do("franka_gripper/move", Move.Goal(width=0.081))[0] == SUCCEEDED
    goal = GripperCommand.Goal()
    goal.command.position = 0.0405
    status, result = hand.do("franka_gripper/gripper_action", goal)
    assert (status, result.reached_goal) == (SUCCEEDED, True)


def test_rejected_goals_are_counted_in_the_diagnostics(hand: GripperClient) -> None:
    hand.send("franka_gripper/move", Move.Goal(width=1.0))
    assert hand.spin_until(lambda: hand.value("gripper", "goal rejected: bad width"))
    hand.send("franka_gripper/move", Move.Goal(width=1.0))
    # Next to other reasons, if goals were rejected for them within the last seconds.
    assert hand.says(DiagnosticStatus.WARN, "bad width")


# --- The connection


def test_the_node_connects_when_the_gripper_appears_and_again_after_a_loss(tmp_path: Path) -> None:
    with gripper(tmp_path / "log", robot_ip=BARE) as (process, client):
        assert process.says(f"{BARE} is there, but its port 1338 is closed")
        assert not client.send("franka_gripper/move", Move.Goal(width=0.04)).accepted
        assert process.says("rejected a goal of ~/move: 127.0.0.61 is there, but its port 1338 is closed")
        answer = client.trigger("stop")
        assert not answer.success and "port 1338 is closed" in answer.message
        assert client.says(DiagnosticStatus.WARN, "is a gripper mounted")
        assert client.to_do.startswith("the node tries again every second")

        with served(host=BARE):
            assert process.says(f"connected to the gripper at {BARE}")
            assert client.says(DiagnosticStatus.OK, "connected")
            # There is no object between these fingers.
            assert client.do("franka_gripper/homing", Homing.Goal())[0] == SUCCEEDED
            handle = client.send("franka_gripper/move", Move.Goal(width=0.0, speed=0.005))
            assert client.spin_until(lambda: client.feedback)
        status, result = client.end_of(handle)
        assert status == ABORTED and f"lost the gripper at {BARE}" in result.error
        assert client.says(DiagnosticStatus.ERROR, BARE)
        assert client.to_do.startswith("check the cable")

        after = len(process.log)
        with served(host=BARE):
            assert process.says(f"connected to the gripper at {BARE}", after=after)
            assert client.do("franka_gripper/move", Move.Goal(width=0.06))[0] == SUCCEEDED
            assert process.end() == 0


class Unruly(HandServer):
    """A hand that does not answer every command correctly."""

    #: Its answers; ``None``: no answer.
    answers: ClassVar[dict[GripperCommandName, GripperStatus | None]] = {
        GripperCommandName.kStop: None,
        GripperCommandName.kHoming: None,
        GripperCommandName.kMove: GripperStatus.kFail,
        GripperCommandName.kGrasp: GripperStatus.kAborted,
    }

    def _dispatch_command(self, sock: socket.socket, header: GripperCommandHeader, payload: bytes) -> None:
        status = self.answers[header.command]
        if status is not None:
            sock.sendall(build_command_response(header.command, header.command_id, status))


def test_no_client_waits_for_a_gripper_that_misbehaves(tmp_path: Path) -> None:
    patience = {"stop_timeout": 0.2, "command_timeout": 1.0}
    with (
        served(host=BARE, kind=Unruly) as server,
        gripper(tmp_path / "log", robot_ip=BARE, **patience) as (process, client),
    ):
        assert process.says("connected to the gripper")
        handle = client.send("franka_gripper/homing", Homing.Goal())
        assert client.spin_until(lambda: client.feedback)
        assert client.cancel(handle).goals_canceling
        assert client.end_of(handle)[0] == CANCELED
        answer = client.trigger("stop")
        assert (answer.success, answer.message) == (False, "the gripper did not confirm that it stopped")

        for name, goal, reason in (
            ("homing", Homing.Goal(), "did not answer within 1 s"),
            ("move", Move.Goal(width=0.04), "the gripper refused the command: has it been homed"),
            ("grasp", Grasp.Goal(width=0.04), "something else stopped the gripper"),
        ):
            status, result = client.do(f"franka_gripper/{name}", goal)
            assert (status, result.success) == (ABORTED, False)
            assert reason in result.error

        # Before homing, it does not know its widths.
        server.backend.get_state = lambda: GripperStateData(0.0, 0.0, False, 30)  # type: ignore[method-assign]
        assert client.spin_until(lambda: client.width == 0.0)
        assert not client.send("franka_gripper/move", Move.Goal(width=0.04)).accepted
        assert process.says("rejected a goal of ~/move: the gripper does not know its largest width yet: call homing")


def test_ctrl_c_during_a_move_stops_the_fingers_and_the_goal_gets_a_result(tmp_path: Path) -> None:
    with served(host=BARE) as server, gripper(tmp_path / "log", robot_ip=BARE) as (process, client):
        assert process.says("connected to the gripper")
        handle = client.send("franka_gripper/move", Move.Goal(width=0.0, speed=0.005))
        assert client.spin_until(lambda: client.feedback)
        answer = handle.get_result_async()
        process.process.send_signal(signal.SIGINT)
        outcome = client.result(answer)
        assert (outcome.status, outcome.result.error) == (ABORTED, "the gripper's node ends")
        assert process.process.wait(PATIENCE) == 0
        resting = server.backend.get_state().width
        assert 0.0 < resting < 0.08
        assert server.backend.get_state().width == resting


# --- Its parameters


def test_an_invalid_parameter_ends_the_node_with_the_reason(tmp_path: Path) -> None:
    process = GripperProcess(tmp_path / "log", default_force=1000.0)
    try:
        assert process.process.wait(PATIENCE) == 1
        assert re.search(r"cannot start: .*default_force.*140", process.log)
    finally:
        process.close()


def test_a_parameter_change_is_refused_with_the_reason_or_counts_from_the_next_goal(hand: GripperClient) -> None:
    assert re.search(r"default_speed.*0\.1\b", hand.set(default_speed=1.0))
    assert "default_force is 'strong'; allowed: in [0.1, 140] N" in hand.set(default_force="strong")
    assert "only at the start" in hand.set(robot_ip="172.16.0.2")
    assert hand.set(default_speed=0.02) == ""
    try:
        handle = hand.send("franka_gripper/move", Move.Goal(width=0.05))
        assert hand.spin_until(lambda: len(hand.feedback) > 5)
        (start, first), (end, last) = hand.feedback[1], hand.feedback[-1]
        speed = (first.current_width - last.current_width) / (end - start)
        # Between half and twice the speed, because feedback does not arrive evenly on a busy machine.
        assert 0.01 < speed < 0.04
        assert hand.cancel(handle).goals_canceling
        assert hand.end_of(handle)[0] == CANCELED
    finally:
        hand.set(default_speed=0.1)


@pytest.mark.parametrize("setting", GRIPPER_SETTINGS, ids=lambda setting: setting.name)
def test_the_configuration_file_lists_every_parameter_as_in_the_table(setting: Any) -> None:
    text = (ROOT / "config" / "gripper.yaml").read_text()
    values = yaml.safe_load(text)["/**"]["ros__parameters"]
    assert values.keys() == {setting.name for setting in GRIPPER_SETTINGS}
    assert setting.parse(values[setting.name]) == setting.default
    # The comment above it has its description, its range with the unit, and its source.
    above = re.search(rf"((?:^    #.*\n)+)    {setting.name}:", text, re.MULTILINE)
    assert above is not None
    assert " ".join(line.strip(" #") for line in above[1].splitlines()) == f"{setting.text} {setting.terms}"


def test_every_parameter_describes_itself(hand: GripperClient) -> None:
    names = [setting.name for setting in GRIPPER_SETTINGS]
    assert hand.spin_until(hand.describe.service_is_ready)
    descriptors = hand.result(hand.describe.call_async(DescribeParameters.Request(names=names))).descriptors
    for setting, descriptor in zip(GRIPPER_SETTINGS, descriptors, strict=True):
        assert descriptor.description == setting.text
        assert setting.range.lower() in descriptor.additional_constraints.lower()
