"""Requests and goals are taken aside: however long DDS needs for them, urgent callbacks run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import rclpy
from control_msgs.action import FollowJointTrajectory
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.action import ActionClient
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import CallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from unique_identifier_msgs.msg import UUID

from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.ros import requests
from aiofranka_ros.ros.actions import Actions, Ending
from aiofranka_ros.ros.bounded import bounded
from aiofranka_ros.ros.descriptors import ExplainedParameters
from aiofranka_ros.ros.executor import UrgentFirstExecutor
from aiofranka_ros.testing import wait_until

pytestmark = pytest.mark.unit

MANY = 1_000_000
Goal = FollowJointTrajectory.Goal


class Server(ExplainedParameters):
    """A node with parameters and an action, whose goals may name seven joints; an urgent timer runs at 1 kHz."""

    def __init__(self, context: Context) -> None:
        self._patient = ReentrantCallbackGroup()
        super().__init__("server", context=context, use_global_arguments=False)
        #: How much time of the processor the thread of the callbacks had used at each tick [s].
        self.ticks: list[float] = []
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        urgent = ReentrantCallbackGroup()
        self.create_timer(0.001, lambda: self.ticks.append(time.thread_time()), clock=steady, callback_group=urgent)
        self.actions = Actions(self)
        self.actions.serve(FollowJointTrajectory, ["follow"], self._check, self._pursue, longest_list=1000)

    @property
    def default_callback_group(self) -> CallbackGroup:
        return self._patient

    def _check(self, goal: Goal) -> int:
        if len(goal.trajectory.joint_names) > 7:
            raise InvalidTarget("it has too many names", reason="too long")
        return len(goal.trajectory.points)

    async def _pursue(self, handle: ServerGoalHandle, points: int) -> Ending:
        return Ending(FollowJointTrajectory.Result(error_string=f"{points} points"))


class Both(NamedTuple):
    """A server and a client of it, in separate contexts, and what spins them."""

    server: Server
    client: Node
    spin: Callable[[], None]

    def answer(self, future: Any) -> Any:
        assert wait_until(lambda: self.spin() or future.done())
        return future.result()


@pytest.fixture
def both() -> Iterator[Both]:
    contexts = [Context(), Context()]
    for context in contexts:
        rclpy.init(context=context)
    server, client = Server(contexts[0]), Node("client", context=contexts[1], use_global_arguments=False)
    executor, others = UrgentFirstExecutor(server), SingleThreadedExecutor(context=contexts[1])
    others.add_node(client)

    def spin() -> None:
        executor.spin_turn(0.001)
        others.spin_once(timeout_sec=0.0)

    yield Both(server, client, spin)
    server.actions.destroy()
    executor.shutdown()
    others.shutdown()
    for node, context in ((server, contexts[0]), (client, contexts[1])):
        node.destroy_node()
        context.try_shutdown()


@pytest.fixture(params=["taken by rcl", "taken by rclpy"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With rcl's library, and without."""
    if request.param == "taken by rclpy":

        def missing(library: str, *names: str) -> Any:
            raise OSError(library)

        monkeypatch.setattr(requests, "_functions", missing)


def follower(both: Both) -> ActionClient:
    client = ActionClient(both.client, FollowJointTrajectory, "follow")
    assert wait_until(lambda: both.spin() or client.server_is_ready())
    return client


def test_a_request_of_a_million_parts_leaves_the_thread_to_urgent_callbacks(both: Both) -> None:
    mode = Parameter(name="mode", value=ParameterValue(type=9, string_array_value=["a"] * MANY))
    setter, goals = both.client.create_client(SetParameters, "server/set_parameters"), follower(both)
    assert wait_until(lambda: both.spin() or setter.service_is_ready())
    texts, names = SetParameters.Request(parameters=[mode]), Goal(trajectory=JointTrajectory(joint_names=["a"] * MANY))
    both.server.get_logger().info("the first message of a process takes rclpy as long as such a request")
    # What the thread needs if it takes such a request itself, in time of the processor: others may use that, too.
    data, begin = bytes(serialize_message(texts)), time.thread_time()
    deserialize_message(data, bounded(SetParameters.Request, 150))
    needed = time.thread_time() - begin
    for send, request in ((setter.call_async, texts), (goals.send_goal_async, names)):
        future, sent = send(request), len(both.server.ticks)
        both.answer(future)
        assert max(np.diff(both.server.ticks[sent:])) < 0.5 * needed
    goals.destroy()


@pytest.mark.usefixtures("either")
def test_every_client_gets_the_answers_to_its_requests(both: Both) -> None:
    clients = [both.client.create_client(GetParameters, "server/get_parameters") for _ in range(3)]
    assert wait_until(lambda: both.spin() or all(client.service_is_ready() for client in clients))
    wanted = ["use_sim_time"]
    asked = [(client.call_async(GetParameters.Request(names=wanted * n)), n) for n in range(1, 4) for client in clients]
    for future, count in asked:
        assert len(both.answer(future).values) == count


@pytest.mark.usefixtures("either")
def test_goals_are_accepted_refused_and_answered(both: Both) -> None:
    client = follower(both)
    trajectory = JointTrajectory(points=[JointTrajectoryPoint()] * 3)
    goal_id = UUID(uuid=list(range(16)))
    accepted = both.answer(client.send_goal_async(Goal(trajectory=trajectory), goal_uuid=goal_id))
    assert accepted.accepted and bytes(accepted.goal_id.uuid) == bytes(range(16))
    assert both.answer(accepted.get_result_async()).result.error_string == "3 points"
    refused = both.answer(client.send_goal_async(Goal(trajectory=JointTrajectory(joint_names=["a"] * 8))))
    assert not refused.accepted and both.server.actions.rejected == {"too long": 1}
    # Another client repeats the id of a goal.
    other = follower(both)
    assert not both.answer(other.send_goal_async(Goal(trajectory=trajectory), goal_uuid=goal_id)).accepted
    client.destroy()
    other.destroy()


def test_without_rcl_rclpy_takes_requests(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    service = next(iter(both.server.services))
    assert requests.service_channel(service) is not None
    monkeypatch.setattr(requests, "_SERVICE", ("librcl.so", "rcl_take_request", "no_such_function"))
    assert requests.service_channel(service) is None


def test_callbacks_that_are_urgent_run_while_something_runs_aside(both: Both) -> None:
    executor, ticks = both.server.executor, both.server.ticks
    begin = len(ticks)
    executor.aside(wait_until, lambda: len(ticks) > begin + 3)
    assert len(ticks) > begin + 3
    with pytest.raises(ZeroDivisionError):
        executor.aside(lambda: 1 // 0)
