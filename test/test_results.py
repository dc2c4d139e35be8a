"""Every goal gets its result, also if many end at once while the client's program does something else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rclpy
from action_msgs.msg import GoalStatus
from control_msgs.action import GripperCommand
from rclpy.action import ActionClient
from rclpy.action.server import ServerGoalHandle
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from aiofranka_ros.ros.actions import Actions, Ending
from aiofranka_ros.ros.results import LONGEST, MOST, Results
from aiofranka_ros.testing import PATIENCE, wait_until

pytestmark = pytest.mark.unit

#: What DDS keeps for a client by default.
KEPT = 10


class Line:
    """Answers of an action, and those that have left."""

    def __init__(self) -> None:
        self.woken = 0
        self.answers = Results(self._wake)
        self.left: list[int] = []

    def _wake(self) -> None:
        self.woken += 1

    def send(self, *numbers: int) -> None:
        for number in numbers:
            self.answers.send(lambda number=number: self.left.append(number))  # type: ignore[misc]

    def tick(self, times: int) -> bool:
        return [self.answers.tick() for _ in range(times)][-1]

    def ask(self, goal: int) -> None:
        self.answers.asked(bytes([goal]))

    def accept(self, goal: int) -> None:
        self.answers.accepted(bytes([goal]))


@pytest.fixture
def line() -> Line:
    return Line()


def test_few_answers_leave_at_once_and_the_others_in_order_after_the_longest_pause_of_a_client(line: Line) -> None:
    line.send(*range(2 * MOST + 3))
    assert line.left == list(range(MOST)) and line.answers.waiting and line.woken
    assert line.tick(LONGEST - 1)
    assert line.left == list(range(MOST))
    assert line.tick(1)
    assert line.left == list(range(2 * MOST)) and line.answers.waiting
    assert line.tick(LONGEST)
    assert line.left == list(range(2 * MOST + 3)) and not line.answers.waiting
    assert not line.tick(LONGEST), "there is nothing to wait for"


def test_a_client_that_has_run_since_an_answer_makes_way_for_one_more(line: Line) -> None:
    line.send(*range(20))
    line.accept(1)
    line.ask(1)
    assert line.left == list(range(MOST + 1))
    line.ask(1)
    assert len(line.left) == MOST + 1, "it has asked for this result before"


def test_a_request_that_was_sent_before_the_answers_says_nothing_about_them(line: Line) -> None:
    line.accept(1)
    line.send(*range(20))
    line.ask(1)
    line.ask(2)  # Another node's goal, or one of long ago.
    assert line.left == list(range(MOST))


def test_a_stream_of_goals_is_answered_as_it_comes_and_catches_up_with_those_that_ended_at_once(line: Line) -> None:
    line.send(*range(40))
    for goal in range(100):
        line.accept(goal)
        line.ask(goal)
        line.send(40 + goal)
        line.tick(1)
    # It alone gives way for a hundred; time, four times, for seven more.
    assert len(line.left) >= MOST + 100 + 20 and line.left == sorted(line.left)


def test_goals_whose_results_no_client_asks_for_are_forgotten(line: Line) -> None:
    for goal in range(100_000):
        line.answers.accepted(goal.to_bytes(4, "big"))
    assert len(line.answers._accepted) <= 1000


def test_no_answer_stays_when_the_node_ends(line: Line) -> None:
    line.send(*range(20))
    line.answers.flush()
    assert line.left == list(range(20)) and not line.answers.waiting


# With DDS.


class Member:
    """A node and its executor."""

    def __init__(self, name: str) -> None:
        self._context = Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node(name, namespace="results", context=self._context, use_global_arguments=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def run(self) -> None:
        """Do a few things: on a slow computer, too, the server's clock ticks at most once in between."""
        for _ in range(5):
            self._executor.spin_once(timeout_sec=0.0)

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()


class Server(Member):
    """A node whose goals end when the test says so."""

    def __init__(self) -> None:
        super().__init__("server")
        self.node.declare_parameter("goals_outlive_clients", True)
        self.goals, self.end = 0, Future(executor=self._executor)
        self.actions = Actions(self.node)
        self.actions.serve(GripperCommand, ["act"], lambda goal: goal, self._pursue)

    async def _pursue(self, handle: ServerGoalHandle, goal: Any) -> Ending:
        self.goals += 1
        await self.end
        return Ending(GripperCommand.Result())

    def close(self) -> None:
        self.actions.destroy()
        super().close()


class FieldClient(Member):
    """A client of another package: with all the defaults of rclpy."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.action = ActionClient(self.node, GripperCommand, "act")
        self.results: list[Any] = []

    def send(self) -> None:
        self.action.send_goal_async(GripperCommand.Goal()).add_done_callback(
            lambda answer: self.results.append(answer.result().get_result_async())
        )

    @property
    def done(self) -> int:
        """How many results have arrived."""
        return sum(result.done() for result in self.results)

    def close(self) -> None:
        self.action.destroy()
        super().close()


@pytest.fixture
def members() -> Iterator[tuple[Server, FieldClient, FieldClient]]:
    made = Server(), FieldClient("one"), FieldClient("other")
    try:
        assert wait_until(lambda: all(client.action.server_is_ready() for client in made[1:]))
        yield made
    finally:
        for member in reversed(made):
            member.close()


def becomes(condition: Callable[[], Any], *members: Member) -> bool:
    """Whether ``condition`` comes true while ``members`` run."""
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        for member in members:
            member.run()
    return bool(condition())


def test_clients_that_take_nothing_for_a_second_get_the_results_of_all_goals_that_end_in_it(
    members: tuple[Server, FieldClient, FieldClient],
) -> None:
    server, one, other = members
    other.send()  # It gets the answers to the first one, too.
    for number in range(2 * KEPT):
        one.send()
        assert becomes(lambda number=number: len(one.results) > number, *members)  # type: ignore[misc]
    assert becomes(lambda: len(other.results) == 1 and server.goals == 2 * KEPT + 1, *members)
    server.end.set_result(None)
    begin = time.monotonic()
    assert becomes(lambda: time.monotonic() - begin > 1.0, server)
    assert becomes(lambda: one.done == 2 * KEPT and other.done == 1, *members)
    assert {result.result().status for result in one.results} == {GoalStatus.STATUS_SUCCEEDED}


def test_a_stream_of_goals_that_end_at_once_waits_for_no_time_to_pass(
    members: tuple[Server, FieldClient, FieldClient],
) -> None:
    server, one, _ = members
    server.end.set_result(None)
    server.actions._results[0].tick = lambda: False  # type: ignore[method-assign]
    for number in range(5 * KEPT):
        one.send()
        assert becomes(lambda number=number: one.done > number, server, one)  # type: ignore[misc]
