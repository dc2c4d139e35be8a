"""Very large messages on every kind of interface of the node, one at a time."""

from __future__ import annotations

import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from control_msgs.action import FollowJointTrajectory
from control_msgs.msg import JointTolerance
from franka_msgs.action import PTPMotion
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters, SetParametersAtomically
from rclpy.action import ActionClient
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from aiofranka_ros.arm.joint_trajectory import MOST_POINTS
from aiofranka_ros.model.fr3 import HOME, JOINT_NAMES
from bench.faults.catalogue import fault
from bench.faults.heartbeats import Heartbeats
from bench.faults.processes import check_ordinary_move, check_reflex
from bench.faults.rig import Findings, Rig

#: A large number of elements, and a size [bytes] of which much can be made.
_MANY, _LARGE = 10_000, 10_000_000
#: Longest silence of the node [s]: half of the time after which the arm slows down and holds.
_SILENCE = 0.05

#: Matches subscriptions of any durability.
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class _Large(NamedTuple):
    """A large message: what it is, and how to send it."""

    name: str
    send: Callable[[], Any]


def _point(number: int) -> JointTrajectoryPoint:
    """A point of a trajectory that begins elsewhere, with all that a point may give."""
    point = JointTrajectoryPoint(positions=HOME.tolist(), velocities=[0.0] * 7, accelerations=[0.0] * 7)
    point.positions[0] += 1.0
    point.time_from_start.nanosec = number * 1_000_000 + 1
    return point


def _messages(rig: Rig) -> Iterator[_Large]:
    """Every message; sending one returns the future of its answer, or ``None``."""
    ros = rig.node
    text, numbers = "x" * _LARGE, array.array("d", [0.0]) * (_LARGE // 8)

    def publish(topic: str, message: Any) -> Callable[[], None]:
        publisher = ros.create_publisher(type(message), topic, _LATCHED)
        rig.wait(lambda: publisher.get_subscription_count() > 0, f"the node does not listen to {topic}")
        return lambda: publisher.publish(message)

    def call(kind: Any, service: str, **fields: Any) -> Callable[[], Any]:
        client = ros.create_client(kind, f"{rig.name}/{service}")
        rig.wait(client.service_is_ready, f"no service {service}")
        request = kind.Request(**fields)
        return lambda: client.call_async(request)

    def pursue(kind: Any, action: str, **fields: Any) -> Callable[[], Any]:
        client = ActionClient(ros, kind, action)
        rig.wait(client.server_is_ready, f"no action {action}")
        goal = kind.Goal(**fields)
        return lambda: client.send_goal_async(goal)

    def parameter(name: str, **value: Any) -> Parameter:
        return Parameter(name=name, value=ParameterValue(**value))

    for topic in ("q_desired", "torque_desired"):
        for count in (_MANY, _LARGE // 8):
            yield _Large(f"{count} names to {topic}", publish(f"{rig.name}/{topic}", JointState(name=["a"] * count)))
        yield _Large(f"10 MB of numbers to {topic}", publish(f"{rig.name}/{topic}", JointState(position=numbers)))
    pose = PoseStamped()
    pose.header.frame_id = text
    yield _Large("a frame of 10 MB to ee_desired", publish(f"{rig.name}/ee_desired", pose))

    for topic in (f"{rig.name}/client_alive", f"{rig.name.rpartition('/')[0]}/presence"):
        yield _Large(f"10 MB to {topic}", publish(topic, String(data=text)))

    goal = f"{rig.name.rpartition('/')[0]}/fr3_arm_controller"
    # What is planned before it is refused.
    full = [_point(number) for number in range(MOST_POINTS)]
    trajectories = {
        f"{MOST_POINTS} points elsewhere": JointTrajectory(joint_names=list(JOINT_NAMES), points=full),
        f"{_LARGE // 10} names": JointTrajectory(joint_names=["a"] * (_LARGE // 10)),
        f"{_LARGE // 50} empty points": JointTrajectory(points=[JointTrajectoryPoint()] * (_LARGE // 50)),
    }
    for count in (_MANY, 60_000):
        points = [JointTrajectoryPoint(positions=[0.0] * 7)] * count
        trajectories[f"{count} points"] = JointTrajectory(joint_names=list(JOINT_NAMES), points=points)
    for what, trajectory in trajectories.items():
        yield _Large(f"{what} to joint_trajectory", publish(f"{goal}/joint_trajectory", trajectory))
        follow = pursue(FollowJointTrajectory, f"{goal}/follow_joint_trajectory", trajectory=trajectory)
        yield _Large(f"{what} to follow_joint_trajectory", follow)
    for count in (_MANY, 60_000, _LARGE // 35):
        tolerances = [JointTolerance(name="a")] * count
        follow = pursue(FollowJointTrajectory, f"{goal}/follow_joint_trajectory", path_tolerance=tolerances)
        yield _Large(f"{count} tolerances to follow_joint_trajectory", follow)
    move = pursue(PTPMotion, f"{rig.name}/move", goal_joint_configuration=[0.0] * 7, maximum_joint_velocities=numbers)
    yield _Large("10 MB of velocities to move", move)

    for count in (_MANY, 70_000):
        parameters = [parameter("gain", type=3)] * count
        for kind, service in (
            (SetParameters, "set_parameters"),
            (SetParametersAtomically, "set_parameters_atomically"),
        ):
            yield _Large(f"{count} parameters to {service}", call(kind, service, parameters=parameters))
    for count in (_MANY, _LARGE // 10):
        names = ["a"] * count
        yield _Large(f"{count} names to get_parameters", call(GetParameters, "get_parameters", names=names))
        describe = call(DescribeParameters, "describe_parameters", names=names)
        yield _Large(f"{count} names to describe_parameters", describe)
        listing = call(ListParameters, "list_parameters", prefixes=names)
        yield _Large(f"{count} prefixes to list_parameters", listing)
    for what, request in (
        ("a name of 10 MB", parameter(text, type=3)),
        ("a mode of 10 MB", parameter("mode", type=4, string_value=text)),
        ("10 MB of numbers", parameter("move_velocity", type=8, double_array_value=numbers)),
        ("a million texts", parameter("mode", type=9, string_array_value=["a"] * 1_000_000)),
        ("10 MB of bytes", parameter("mode", type=5, byte_array_value=[b"x"] * _LARGE)),
    ):
        yield _Large(f"{what} to set_parameters", call(SetParameters, "set_parameters", parameters=[request]))
    change = ChangeState.Request()
    change.transition.label = text
    yield _Large("a label of 10 MB to change_state", call(ChangeState, "change_state", transition=change.transition))


@fault("all are refused, the arm stays active, and the node is never silent for long")
def large_messages(rig: Rig, findings: Findings) -> None:
    """Messages of up to ten megabytes, and with up to a million elements, one after the other."""
    rig.ready()
    said = len(rig.log)
    silences: list[tuple[float, str]] = []
    with Heartbeats(rig.value("control loop", "shared memory"), rig.folder) as heartbeats:
        marked = rig.mark()
        for message in _messages(rig):
            begin = rig.node.get_clock().now().nanoseconds
            answer = message.send()
            if answer is not None and not rig.spin_until(answer.done, 20.0):
                findings.check(False, f"no answer to {message.name}")
            state = rig.state  # Answered after the message was handled.
            if state != "active":
                findings.check(False, f"the node is {state} after {message.name}")
                rig.activate()
            rig.spin_for(0.1)
            silence = heartbeats.longest_silence(begin, rig.node.get_clock().now().nanoseconds)
            silences.append((silence, message.name))
            if silence > _SILENCE:
                findings.check(False, f"silent for {1e3 * silence:.0f} ms at {message.name}")

        def draw(figure: Any) -> None:
            beats, _ = heartbeats.tape.since(0)
            axes = figure.subplots()
            axes.plot(1e-9 * (beats["stamp"][1:] - marked), 1e-6 * np.diff(beats["stamp"]), linewidth=0.8)
            axes.set_ylabel("between two heartbeats [ms]", fontsize=8)
            axes.set_xlabel("time since the first message [s]", fontsize=8)
            axes.tick_params(labelsize=7)

        rig.draw = draw
    worst, name = max(silences)
    findings.note(f"{len(silences)} messages; silent for at most {1e3 * worst:.0f} ms, at {name}")
    findings.check(rig.state == "active", f"the node is {rig.state}")
    longest = max((len(line) for line in rig.log[said:].splitlines()), default=0)
    findings.check(longest < 2000, f"the longest line of its log has {longest} characters")
    check_reflex(rig, findings)
    check_ordinary_move(rig, findings)
