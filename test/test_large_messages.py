"""What is large is read aside, or not at all: however long that takes, urgent callbacks run."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import rclpy
from control_msgs.action import FollowJointTrajectory
from geometry_msgs.msg import TransformStamped
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.action import ActionClient
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import CallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from unique_identifier_msgs.msg import UUID

from aiofranka_ros.arm.joint_trajectory import MOST_POINTS
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.model.fr3 import JOINT_NAMES
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.node.trajectory_action import LARGEST, TrajectoryAction
from aiofranka_ros.node.transforms import TransformTopics
from aiofranka_ros.ros import requests
from aiofranka_ros.ros.actions import Actions, Ending
from aiofranka_ros.ros.bounded import bounded
from aiofranka_ros.ros.cdr import read_message, subscribe
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

    def aside(self, function: Any, *arguments: Any) -> Any:
        return self.executor.aside(function, *arguments)

    def longest_without_tick(self, since: float) -> float:
        """How long the thread has run without a tick, from ``since`` until now [s, time of the processor]."""
        ticks = [tick for tick in self.ticks if tick > since]
        return float(max(np.diff([since, *ticks, time.thread_time()])))

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

        monkeypatch.setattr(requests, "functions", missing)


def time_to_read(message: Any, kind: Any) -> float:
    """What a thread needs to read ``message`` as one of ``kind`` [s, time of the processor, which others use, too]."""
    data, begin = bytes(serialize_message(message)), time.thread_time()
    deserialize_message(data, kind)
    return time.thread_time() - begin


def publisher(both: Both, kind: Any, topic: str) -> Publisher:
    found = both.client.create_publisher(kind, topic, 10)
    assert wait_until(lambda: both.spin() or found.get_subscription_count() > 0)
    return found


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
    needed = time_to_read(texts, bounded(SetParameters.Request, 150))
    for send, request in ((setter.call_async, texts), (goals.send_goal_async, names)):
        future, sent = send(request), time.thread_time()
        both.answer(future)
        assert both.server.longest_without_tick(sent) < 0.5 * needed
    goals.destroy()


def test_a_trajectory_of_a_million_names_leaves_the_thread_to_urgent_callbacks(both: Both) -> None:
    unused: Any = None
    actions = both.server.actions
    TrajectoryAction(both.server, actions, unused, ArmNames(""), unused)
    topic = publisher(both, JointTrajectory, "fr3_arm_controller/joint_trajectory")
    message = JointTrajectory(joint_names=["a"] * MANY)
    needed = time_to_read(message, bounded(JointTrajectory, 1000))
    both.server.get_logger().info("the first message of a process takes rclpy long")
    topic.publish(message)
    sent = time.thread_time()
    assert wait_until(lambda: both.spin() or actions.rejected["too large"])
    assert both.server.longest_without_tick(sent) < 0.5 * needed


def test_a_message_with_all_points_and_all_values_that_are_allowed_is_read() -> None:
    full = JointTrajectoryPoint(
        **{field: [1.0] * 7 for field in ("positions", "velocities", "accelerations", "effort")}
    )
    message = JointTrajectory(joint_names=list(JOINT_NAMES), points=[full] * MOST_POINTS)
    message.header.frame_id = "x" * 1000
    data = bytes(serialize_message(message))
    assert len(read_message(data, JointTrajectory, LARGEST).points) == MOST_POINTS


def test_a_subscription_ignores_what_is_larger_than_it_allows_or_cannot_be_read(both: Both) -> None:
    received: list[str] = []
    subscribe(both.server, String, "text", lambda message: received.append(message.data), QoSProfile(depth=10))
    topic = publisher(both, String, "text")
    topic.publish(String(data="x" * 20_000))
    topic.publish(b"\0\1\0\0\xff\xff\xff\xff")  # A text of 4 GB that is missing.
    topic.publish(String(data="short"))
    assert wait_until(lambda: both.spin() or received)
    assert received == ["short"]


#: Prints how many pages the kernel had to supply for ten megabytes.
TEN_MEGABYTES = """
import resource
from aiofranka_ros.node.program import keep_memory
keep_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
copy = b"x" * 10_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_for_a_large_message_is_there_before_it_arrives() -> None:
    found = subprocess.run([sys.executable, "-c", TEN_MEGABYTES], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 10_000_000 / resource.getpagesize() / 10


class Buffer:
    """Notes what tf2's buffer would get."""

    def __init__(self) -> None:
        self.moving: list[str] = []
        self.static: list[str] = []

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        self.moving.append(transform.child_frame_id)

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        self.static.append(transform.child_frame_id)


def transforms(count: int, name: str) -> TFMessage:
    return TFMessage(transforms=[TransformStamped(child_frame_id=name)] * count)


def test_transforms_reach_the_buffer_however_many_a_message_has(both: Both) -> None:
    buffer = Buffer()
    TransformTopics(both.server, buffer)
    topic, static = (
        publisher(both, TFMessage, "/tf"),
        both.client.create_publisher(
            TFMessage, "/tf_static", QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        ),
    )
    topic.publish(transforms(3, "few"))
    static.publish(transforms(2, "static"))
    assert wait_until(lambda: both.spin() or (len(buffer.moving), len(buffer.static)) == (3, 2))
    many = transforms(5000, "many")
    needed = time_to_read(many, TFMessage)
    topic.publish(many)
    sent = time.thread_time()
    assert wait_until(lambda: both.spin() or len(buffer.moving) == 5003)
    assert both.server.longest_without_tick(sent) < 0.5 * needed


def test_messages_of_tf_that_are_too_large_are_ignored_and_the_log_says_so(both: Both, capfd: Any) -> None:
    buffer = Buffer()
    TransformTopics(both.server, buffer)
    topic = publisher(both, TFMessage, "/tf")
    topic.publish(transforms(20_000, "very many"))
    topic.publish(transforms(1, "one"))
    assert wait_until(lambda: both.spin() or buffer.moving)
    assert buffer.moving == ["one"]
    assert "ignored a message on /tf: it has" in capfd.readouterr().err


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
