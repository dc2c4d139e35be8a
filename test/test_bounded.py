"""Long lists in requests and goals are cut before they become Python objects, and nothing else changes."""

from __future__ import annotations

import gc
import resource
from typing import Any

import pytest
import rclpy
from control_msgs.action import FollowJointTrajectory, GripperCommand
from control_msgs.msg import JointTolerance
from franka_msgs.action import Grasp, PTPMotion
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters, SetParametersAtomically
from rclpy.action import ActionClient, ActionServer, GoalResponse
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint, MultiDOFJointTrajectoryPoint

from aiofranka_ros.control.setting import Setting
from aiofranka_ros.errors import ConfigurationError, InvalidTarget, nearest
from aiofranka_ros.node.robot_services import SERVICES
from aiofranka_ros.ros.bounded import bounded, bounded_action
from aiofranka_ros.ros.cdr import read_joints, read_pose
from aiofranka_ros.ros.descriptors import ExplainedParameters
from aiofranka_ros.testing import PATIENCE, wait_until
from bench.faults.fuzz import Fuzzer

pytestmark = pytest.mark.unit


def received(message: Any, kind: Any) -> Any:
    return deserialize_message(bytes(serialize_message(message)), kind)


REQUESTS = [
    SetParameters.Request,
    SetParametersAtomically.Request,
    GetParameters.Request,
    JointTrajectory,
    *(kind.Request for kind, _ in SERVICES.values()),
]
ACTIONS = [FollowJointTrajectory, PTPMotion, Grasp, GripperCommand]


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_a_message_with_short_lists_arrives_as_it_was_sent(kind: Any) -> None:
    """Every field has every kind of value in it, so a layout that is wrong anywhere would change something."""
    limited, fuzzer = bounded(kind, 300), Fuzzer(3, {})
    for _ in range(200):
        message = fuzzer.message(kind, "")
        assert repr(received(message, limited)) == repr(received(message, kind))


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
def test_a_goal_with_short_lists_arrives_as_it_was_sent(action: Any) -> None:
    kind, fuzzer = action.Impl.SendGoalService.Request, Fuzzer(4, {})
    limited = bounded_action(action, 300).Impl.SendGoalService.Request
    for number in range(200):
        message = kind(goal=fuzzer.message(action.Goal, ""))
        message.goal_id.uuid[0] = number
        assert repr(received(message, limited)) == repr(received(message, kind))


def test_a_list_that_is_too_long_is_cut_to_one_more_than_is_allowed() -> None:
    request = SetParameters.Request(parameters=[Parameter(name=f"p{number}") for number in range(500)])
    assert [one.name for one in received(request, bounded(SetParameters.Request, 3)).parameters] == [
        "p0",
        "p1",
        "p2",
        "p3",
    ]


def test_lists_in_lists_are_cut_too_and_all_together_are_bounded() -> None:
    value = ParameterValue(string_array_value=["a"] * 1000)
    request = SetParameters.Request(parameters=[Parameter(value=value)] * 3)
    lengths = [
        len(one.value.string_array_value) for one in received(request, bounded(SetParameters.Request, 50)).parameters
    ]
    assert lengths == [51, 51, 45]
    points = [MultiDOFJointTrajectoryPoint()] * 10
    goal = FollowJointTrajectory.Goal(path_tolerance=[JointTolerance(name="x")] * 40)
    goal.multi_dof_trajectory.points = points
    kind = bounded_action(FollowJointTrajectory, 20).Impl.SendGoalService.Request
    found = received(FollowJointTrajectory.Impl.SendGoalService.Request(goal=goal), kind).goal
    assert (len(found.multi_dof_trajectory.points), len(found.path_tolerance)) == (10, 21)
    assert found.path_tolerance[0].name == "x"


def test_long_texts_and_lists_of_numbers_are_cut_too() -> None:
    point = JointTrajectoryPoint(positions=[1.0] * 5000, velocities=[1.0] * 7)
    trajectory = JointTrajectory(joint_names=["x" * 1_000_000, "y"], points=[point])
    trajectory.header.frame_id = "ä" * 1_000_000
    found = received(trajectory, bounded(JointTrajectory, 10))
    assert [len(name) for name in found.joint_names] == [1000, 1]
    assert (len(found.points[0].positions), list(found.points[0].velocities)) == (1000, [1.0] * 7)
    assert found.header.frame_id == "ä" * 500


def test_what_is_cut_off_is_freed() -> None:
    kind = bounded(SetParameters.Request, 10)
    data = bytes(serialize_message(SetParameters.Request(parameters=[Parameter(name="x" * 1000)] * 2000)))

    def largest() -> int:
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for _ in range(5):
        deserialize_message(data, kind)
    before = largest()
    for _ in range(50):  # 100 MB of names.
        deserialize_message(data, kind)
    assert largest() - before < 20_000  # [kB]


def test_a_target_of_unusual_size_is_refused_unread() -> None:
    message = bytes(serialize_message(JointState(name=["elbow"] * 10_000)))
    for read in (read_pose, read_joints):
        with pytest.raises(InvalidTarget, match=r"it has \d+ bytes; at most 10000 are read"):
            read(message)


@pytest.mark.parametrize("default", ["osc", (1.0,) * 7, 1.0])
@pytest.mark.parametrize("value", ["x" * 10_000_000, ["x"] * 1_000_000, [0.0] * 1_000_000, b"x" * 10_000_000])
def test_the_message_about_a_wrong_value_is_short_however_long_the_value_is(default: Any, value: Any) -> None:
    setting = Setting("thing", default, "", choices=("osc", "pid") if default == "osc" else ())
    with pytest.raises(ConfigurationError) as raised:
        setting.parse(value)
    assert len(str(raised.value)) < 300


def test_no_suggestion_is_looked_for_if_a_name_is_very_long() -> None:
    assert nearest("gripper" * 1_000_000, ["gripper"]) is None


def test_services_actions_and_subscriptions_take_bounded_messages() -> None:
    context = Context()
    rclpy.init(context=context)
    node = ExplainedParameters("bounded", context=context, use_global_arguments=False)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    received: list[int] = []

    def refuse(goal: Any) -> GoalResponse:
        received.append(len(goal.path_tolerance))
        return GoalResponse.REJECT

    def answer(future: Any) -> Any:
        executor.spin_until_future_complete(future, timeout_sec=PATIENCE)
        return future.result()

    server = ActionServer(
        node, bounded_action(FollowJointTrajectory, 20), "follow", lambda handle: None, goal_callback=refuse
    )
    action = ActionClient(node, FollowJointTrajectory, "follow")
    clients = [
        node.create_client(kind, f"bounded/{name}")
        for kind, name in ((SetParameters, "set_parameters"), (SetParametersAtomically, "set_parameters_atomically"))
    ]
    node.create_subscription(
        bounded(JointTrajectory, 5), "trajectory", lambda message: received.append(len(message.points)), 1
    )
    publisher = node.create_publisher(JointTrajectory, "trajectory", 1)
    try:
        assert action.wait_for_server(PATIENCE) and all(client.wait_for_service(PATIENCE) for client in clients)
        goal = FollowJointTrajectory.Goal(path_tolerance=[JointTolerance()] * 1000)
        assert not answer(action.send_goal_async(goal)).accepted
        assert received == [21]
        publisher.publish(JointTrajectory(points=[JointTrajectoryPoint()] * 1000))
        assert wait_until(lambda: executor.spin_once(0.01) or len(received) == 2) and received[1] == 6
        many = [Parameter(name="use_sim_time", value=ParameterValue(type=1))] * 1000
        each = answer(clients[0].call_async(SetParameters.Request(parameters=many))).results
        assert not any(result.successful for result in each) and "more than 150" in each[0].reason
        together = answer(clients[1].call_async(SetParametersAtomically.Request(parameters=many))).result
        assert not together.successful and "more than 150 parameters at once" in together.reason
        each = answer(clients[0].call_async(SetParameters.Request(parameters=many[:2]))).results
        assert [result.successful for result in each] == [True, True]
    finally:
        server.destroy()
        action.destroy()
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()
