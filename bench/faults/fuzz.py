"""Invalid messages on every topic, action, service and parameter of the node.

What there is is asked of the graph, so that what is added later is covered as well. Messages keep their structure: they
begin as something plausible, then some of their fields become what numbers, texts and lists can be at their worst.
"""

from __future__ import annotations

import importlib
import random
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import GetParameters, ListParameters, SetParameters
from rclpy.action import ActionClient
from rclpy.qos import DurabilityPolicy, QoSProfile

from aiofranka_ros.model.fr3 import JOINT_NAMES
from bench.faults.catalogue import fault
from bench.faults.processes import check_ordinary_move
from bench.faults.rig import Findings, Rig
from bench.faults.walk import violations

#: How many of 100 messages are goals, service requests and parameters; the others are sent on topics.
_GOALS, _REQUESTS, _PARAMETERS = 10, 20, 5
#: How many service requests may wait for an answer at a time: each takes the node about 10 ms.
_MOST_ASKED = 8
_NUMBERS = (float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 5e-324, -5e-324, 0.0, -0.0, 1e-9, 1.0, -1.0, 1e6)
_TEXTS = ("", " ", "fr3_joint1", "fr3_link0", "base", "elbow", "camera", "/", "~", "ä" * 50, "x" * 1000, "osc", "-1")
_SIZES = (0, 1, 6, 7, 8, 100)
#: Numbers of elements of long lists, characters of long texts, and their share. Other faults send even larger ones.
_LONG_LISTS, _LONG_TEXT, _LONG = (1000, 10_000), 1_000_000, 0.004
#: Offsets from the current time [s].
_STAMPS = (0.0, -0.05, -1.0, -3600.0, 1.0, 3600.0)
_INTEGER = re.compile(r"(u?)int(\d+)|byte|octet|char")
#: After how many messages the mode changes, and the modes; empty: goals and trajectories, in any mode.
_BLOCK = 250
_MODES = ("", "osc", "impedance", "torque", "free")
#: Matches subscriptions of any durability.
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
#: The transitions requested here cannot succeed while the node is active; the storm tests the others.
_HARMLESS = {0, 1, 8, 10, 60, 99, 255}


def kind_of(name: str) -> Any:
    """The class of an interface, e.g. of ``sensor_msgs/msg/JointState``."""
    package, folder, kind = name.split("/")
    return getattr(importlib.import_module(f"{package}.{folder}"), kind)


class Fuzzer:
    """Corrupts messages.

    :param base: plausible messages of a type, by its name.
    :param long: share of lists and texts that are very long.
    """

    def __init__(self, seed: int, base: dict[str, Callable[[], Any]], long: float = 0.0) -> None:
        self.random = random.Random(seed)
        self._base, self._long = base, long

    def message(self, kind: Any, name: str) -> Any:
        """A message of class ``kind``, with up to three corrupted fields, sometimes with none."""
        message = self._base[name]() if name in self._base else kind()
        fields = list(self._fields(message))
        for _ in range(self.random.choice((0, 1, 1, 1, 2, 3))):
            if fields:
                owner, field, type_name = self.random.choice(fields)
                self._spoil(owner, field, type_name)
        return message

    def _fields(self, message: Any) -> Iterator[tuple[Any, str, str]]:
        """Every field of a message and of its submessages, with its message and its type."""
        for field, type_name in message.get_fields_and_field_types().items():
            value = getattr(message, field)
            yield message, field, type_name
            for part in value if isinstance(value, (list, tuple)) else [value]:
                if hasattr(part, "get_fields_and_field_types"):
                    yield from self._fields(part)

    def _spoil(self, owner: Any, field: str, type_name: str) -> None:
        value = self.value(type_name)
        try:
            setattr(owner, field, value)
        except (AssertionError, TypeError, ValueError, OverflowError):
            pass  # rclpy itself refuses to send it.

    def value(self, type_name: str) -> Any:
        """An unexpected value of a type."""
        draw = self.random
        if array := re.fullmatch(r"(.+)\[(\d+)\]", type_name):
            return [self.value(array[1]) for _ in range(int(array[2]))]
        if sequence := re.fullmatch(r"sequence<(.+?)(?:, (\d+))?>", type_name):
            if not sequence[2] and self._is_long():
                return [self.value(sequence[1])] * draw.choice(_LONG_LISTS)
            if sequence[1].startswith("string") and draw.random() < 0.5:
                names = list(JOINT_NAMES)
                return draw.choice((names, names[:6], names[::-1], [*names, "elbow"], [*names, names[2]]))
            # Few messages, because they contain lists as well.
            sizes = (0, 1, 3) if "/" in sequence[1] else _SIZES
            some = [self.value(sequence[1]) for _ in range(draw.choice(sizes))]
            return some[: int(sequence[2])] if sequence[2] else some
        if type_name in ("double", "float", "float32", "float64"):
            number = draw.choice((*_NUMBERS, draw.gauss(0.0, 1.0)))
            if type_name in ("float", "float32") and np.isfinite(number):
                number = float(np.float32(max(-3e38, min(3e38, number))))
            return number
        if type_name == "boolean":
            return draw.random() < 0.5
        if type_name.startswith(("string", "wstring")):
            return "x" * _LONG_TEXT if self._is_long() else draw.choice(_TEXTS)
        if integer := _INTEGER.fullmatch(type_name):
            if type_name in ("byte", "octet"):
                return bytes([draw.randrange(256)])
            bits, unsigned = int(integer[2] or 8), integer[1] != ""
            low, high = (
                (0, 2**bits - 1) if unsigned or type_name == "char" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            )
            return draw.choice((low, high, 0, 1, min(high, 7)))
        kind = kind_of(type_name if type_name.count("/") == 2 else type_name.replace("/", "/msg/"))
        if type_name.endswith("/Time"):
            return self._stamp(kind)
        message = kind()
        for owner, field, part in list(self._fields(message)):
            if owner is message and draw.random() < 0.5:
                self._spoil(owner, field, part)
        return message

    def _is_long(self) -> bool:
        return self._long > 0.0 and self.random.random() < self._long

    def _stamp(self, kind: Any) -> Any:
        now = time.time_ns() + int(1e9 * self.random.choice(_STAMPS))
        extreme = self.random.choice((None, None, (0, 0), (-(2**31), 0), (2**31 - 1, 2**32 - 1)))
        sec, nanosec = divmod(now, 1_000_000_000) if extreme is None else extreme
        return kind(sec=sec, nanosec=nanosec)


class Fuzz:
    """Sends messages to one node.

    :ivar sent: messages, by what they were sent to.
    :ivar rejected: goals that were not accepted.
    :ivar unanswered: what was never answered, with the first hundred characters of each.
    """

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.sent: Counter[str] = Counter()
        self._asked: deque[tuple[Any, str]] = deque()
        self.rejected = 0
        self.unanswered: list[str] = []
        pose = rig.pose

        def plausible_pose() -> Any:
            message = kind_of("geometry_msgs/msg/PoseStamped")(header=pose.header)
            source = pose.pose
            for part, names in (("position", "xyz"), ("orientation", "xyzw")):
                for name in names:
                    setattr(getattr(message.pose, part), name, getattr(getattr(source, part), name))
            message.pose.position.x += fuzzer.random.gauss(0.0, 0.01)
            message.header.stamp = rig.node.get_clock().now().to_msg()
            return message

        def plausible_goal() -> Any:
            q = rig.arm_q() + [fuzzer.random.gauss(0.0, 0.05) for _ in range(7)]
            goal = kind_of("franka_msgs/action/PTPMotion").Goal(goal_joint_configuration=q.tolist())
            goal.maximum_joint_velocities = [0.5] * 7
            return goal

        def plausible_trajectory() -> Any:
            point = kind_of("trajectory_msgs/msg/JointTrajectoryPoint")(positions=rig.arm_q().tolist())
            point.time_from_start.sec = 1
            return kind_of("trajectory_msgs/msg/JointTrajectory")(joint_names=list(JOINT_NAMES), points=[point])

        def plausible_follow() -> Any:
            return kind_of("control_msgs/action/FollowJointTrajectory").Goal(trajectory=plausible_trajectory())

        def plausible_joints() -> Any:
            message = rig.joints(rig.arm_q() + [fuzzer.random.gauss(0.0, 0.01) for _ in range(7)])
            message.effort = [0.0] * 7
            return message

        self.fuzzer = fuzzer = Fuzzer(
            rig.options.seed,
            {
                "geometry_msgs/msg/PoseStamped": plausible_pose,
                "sensor_msgs/msg/JointState": plausible_joints,
                "trajectory_msgs/msg/JointTrajectory": plausible_trajectory,
                "franka_msgs/action/PTPMotion": plausible_goal,
                "control_msgs/action/FollowJointTrajectory": plausible_follow,
            },
            _LONG,
        )
        self._discover()

    def _discover(self) -> None:
        """Look up the node's interfaces in the graph."""
        rig, ros = self._rig, self._rig.node
        common = re.compile(r"/(parameter_events|rosout|clock)$|/_action/")
        offered = rig.offers()
        self._topics = [
            (topic, kind, ros.create_publisher(kind_of(kind), topic, _LATCHED))
            for topic, kind in offered.subscribers.items()
            if not common.search(topic)
        ]
        self._services = [
            (service, kind_of(kind), ros.create_client(kind_of(kind), service))
            for service, kind in offered.services.items()
            if not common.search(service) and "/set_parameters" not in service
        ]
        self._actions = [
            (action, kind, ActionClient(ros, kind_of(kind), action)) for action, kind in offered.actions.items()
        ]
        self._setter = ros.create_client(SetParameters, f"{rig.name}/set_parameters")
        self._getter = ros.create_client(GetParameters, f"{rig.name}/get_parameters")
        lister = ros.create_client(ListParameters, f"{rig.name}/list_parameters")
        self._names = list(rig.call(lister, ListParameters.Request()).result.names)
        values = rig.call(self._getter, GetParameters.Request(names=self._names)).values
        self._values = dict(zip(self._names, values, strict=True))

    @property
    def reach(self) -> str:
        """How many interfaces the node has."""
        return (
            f"{len(self._topics)} topics, {len(self._services)} services, {len(self._actions)} actions, "
            f"{len(self._names)} parameters"
        )

    def step(self, calm: bool) -> None:
        """Send one message, and wait for the answer if there is one.

        :param calm: send nothing that takes the arm for a while: during a move, targets are refused unread.
        """
        draw = self.fuzzer.random.randrange(100)
        if draw < _GOALS and not calm:
            self._send_goal()
        elif draw < _GOALS + _REQUESTS:
            self._request()
        elif draw < _GOALS + _REQUESTS + _PARAMETERS:
            self._set_parameter()
        else:
            topics = [entry for entry in self._topics if not (calm and entry[1].endswith("/JointTrajectory"))]
            topic, kind, publisher = self.fuzzer.random.choice(topics)
            publisher.publish(self.fuzzer.message(kind_of(kind), kind))
            self.sent[topic] += 1

    def _answer(self, future: Any, request: str) -> Any:
        if not self._rig.spin_until(future.done, 10.0, period=0.005):
            self.unanswered.append(request[:100])
            return None
        return future.result()

    def _send_goal(self) -> None:
        action, kind, client = self.fuzzer.random.choice(self._actions)
        goal = self.fuzzer.message(kind_of(kind).Goal, kind)
        handle = self._answer(client.send_goal_async(goal), f"{action} {goal}")
        self.sent[action] += 1
        if handle is None:
            return
        if not handle.accepted:
            self.rejected += 1
        elif self.fuzzer.random.random() < 0.5:
            self._answer(handle.cancel_goal_async(), f"cancelling {action}")

    def _settle(self, left: int = 0) -> None:
        """Wait for answers to service requests until at most ``left`` are missing."""
        while len(self._asked) > left:
            self._answer(*self._asked.popleft())

    def _request(self) -> None:
        # ~/hold has a separate fault; here, it would make the node refuse everything else.
        services = [entry for entry in self._services if not entry[0].endswith("/hold")]
        service, kind, client = self.fuzzer.random.choice(services)
        request = self.fuzzer.message(kind.Request, service)
        if service.endswith("/change_state"):
            request.transition.label = self.fuzzer.random.choice(_TEXTS)
            if request.transition.id not in _HARMLESS:
                request.transition.id = 0
        self._asked.append((client.call_async(request), f"{service} {request}"))
        self._settle(left=_MOST_ASKED)
        self.sent[service] += 1

    def _set_parameter(self) -> None:
        name = self.fuzzer.random.choice(self._names)
        value = self.fuzzer.value("rcl_interfaces/ParameterValue")
        if self.fuzzer.random.random() < 0.8:
            value.type = self._values[name].type
        request = SetParameters.Request(parameters=[ParameterMessage(name=name, value=value)])
        answer = self._answer(self._setter.call_async(request), f"set {name} {value}")
        self.sent["parameters"] += 1
        if answer is not None and answer.results and answer.results[0].successful:
            # The value is allowed, but the arm would hardly behave well with it.
            back = ParameterMessage(name=name, value=self._values[name])
            self._answer(self._setter.call_async(SetParameters.Request(parameters=[back])), f"set {name} back")

    def close(self) -> None:
        """Wait for the last answers and leave the graph."""
        self._settle()
        for _, _, client in self._actions:
            client.destroy()
        for _, _, publisher in self._topics:
            self._rig.node.destroy_publisher(publisher)
        for client in (self._setter, self._getter, *(client for _, _, client in self._services)):
            self._rig.node.destroy_client(client)


def _refusals(rig: Rig) -> Counter[str]:
    """The counts of targets and goals in the diagnostics."""
    rig.refresh()
    counts: Counter[str] = Counter()
    for item in rig.statuses["targets"].values:
        kind = "rejected" if item.key.startswith("goal rejected") else item.key
        if kind in ("accepted", "refused", "rejected"):
            counts[kind] += int(item.value)
    return counts


@fault("node and control process survive, the arm stays within limits, and each refusal is counted")
def fuzz(rig: Rig, findings: Findings) -> None:
    """100,000 corrupted messages on all interfaces of the node."""
    rig.ready()
    said, control = len(rig.log), rig.control_pid
    sender = Fuzz(rig)
    rig.take()
    before = _refusals(rig)
    rig.mark()
    count = rig.options.messages
    recorded = [rig.take()]
    try:
        for number in range(count):
            mode = _MODES[number // _BLOCK % len(_MODES)]
            if number % _BLOCK == 0:
                rig.progress(number / count)
                recorded.append(rig.take())
                _bring_back(rig)
                rig.set(mode=mode or "osc")
            sender.step(calm=bool(mode))
            if len(sender.unanswered) == 3:
                break  # The node has died.
    finally:
        sender.close()
    findings.note(f"{sum(sender.sent.values())} messages to {sender.reach}, seed {rig.options.seed}")
    silent = "".join(f": {request}" for request in sender.unanswered[:1])
    findings.check(not sender.unanswered, f"{len(sender.unanswered)} requests without an answer{silent}")
    findings.check(rig.node_alive, "the node lives" if rig.node_alive else "the node died")
    _, raised, trace = rig.log[said:].partition("Traceback")
    last = next((line for line in trace.splitlines()[1:] if not line.startswith(" ")), "")
    findings.check(not raised, f"an exception in the log: {last}" if raised else "no exception in the log")
    same = rig.control_pid == control
    findings.check(same, "the same control process" if same else "the control process is another one")
    counted = _refusals(rig)
    counted.subtract(before)
    findings.check(
        counted["rejected"] >= sender.rejected, f"{sender.rejected} goals rejected, {counted['rejected']} counted"
    )
    findings.check(
        counted["refused"] > 0 and counted["accepted"] > 0,
        f"{counted['refused']} targets refused, {counted['accepted']} accepted",
    )
    recorded.append(rig.take())
    _bring_back(rig)
    exceeded = violations(np.concatenate(recorded))
    findings.check(not exceeded, ", ".join(exceeded) or "torques and joints within limits")
    check_ordinary_move(rig, findings)


def _bring_back(rig: Rig) -> None:
    """Whatever a valid message led to, the arm must be active and free for the next ones."""
    rig.release()
    rig.trigger("hold")
    rig.trigger("release")
    for _ in range(3):
        if rig.state == "active":
            return
        rig.activate()
