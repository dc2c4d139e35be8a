"""The topics on which targets arrive: check each message, pass it on, count and explain refusals.

Used by the node, in its process and its one thread. A refused message changes nothing: the arm keeps its last
target and holds it when no further one comes.

A target in a frame of TF may be faster than the transform that it needs. It waits then, as nothing else does, and is
tried again at every tick of the node until the transform has come or the target is too old.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState

from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.errors import InvalidTarget, TransformMissing
from aiofranka_ros.kernels import Numbers, Record
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.node import stamps
from aiofranka_ros.node.frames import Frames
from aiofranka_ros.node.senders import Senders, told
from aiofranka_ros.ros import messages
from aiofranka_ros.ros.cdr import JointReader, JointValues, PoseValues, read_pose

#: Only the newest target matters, and a best-effort subscription matches reliable publishers as well.
TARGET_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)
#: Shortest time between two log messages about the same thing [s].
LOG_PERIOD = 2.0
#: Methods of the control process that take the targets of each topic.
_SETTERS = {"ee_desired": "set_pose", "q_desired": "set_joints", "torque_desired": "set_torque"}
#: Most targets that wait for transforms: each of them is looked at in every tick.
_MOST_WAITING = 100


class Owner(Protocol):
    """What targets need to know of the node."""

    @property
    def active_client(self) -> ControlClient | None:
        """The control process while the arm is active, else ``None``."""

    @property
    def why_held(self) -> str:
        """Why nobody may have the arm; empty where it may be had."""

    @property
    def moving(self) -> str:
        """Which move or trajectory has the arm; empty where none does."""

    def parameter(self, name: str) -> Any:
        """Value of a parameter."""


@dataclass
class _Topic:
    """One kind of targets.

    :ivar name: after ``~/``.
    :ivar modes: names of those that use them.
    :ivar read: reads a serialized message.
    :ivar convert: from its content and the control process to fields of the commands.
    :ivar full_name: its name on the graph.
    """

    name: str
    modes: tuple[str, ...]
    read: Callable[[bytes], Any]
    convert: Callable[[Any, ControlClient], dict[str, Numbers]]
    full_name: str
    order: stamps.Order = field(default_factory=stamps.Order)


@dataclass(frozen=True)
class _Waiting:
    """A target that waits for a transform.

    :ivar message: as it came.
    :ivar info: what rclpy knows of the message.
    :ivar until: how long it may [s, monotonic].
    """

    topic: _Topic
    message: bytes
    info: Any
    until: float


class TargetTopics:
    """Subscriptions of the node for the targets of every mode.

    They exist in every state of the node, so that a target for an inactive arm is answered by a message in
    the log instead of silence.

    :param node: where to subscribe and log.
    :param owner: what the node knows of the arm.
    :param frames: what is known of the frames of targets.
    :param names: what the joints are called.
    """

    def __init__(self, node: LifecycleNode, owner: Owner, frames: Frames, names: ArmNames) -> None:
        self._node = node
        self._owner = owner
        self._frames = frames
        self._names = names
        #: Refused messages by reason, since the node was started.
        self.refused: Counter[str] = Counter()
        #: Targets that were cut off at a limit, since the node was started.
        self.limited = 0
        #: Targets passed on, since the node was started.
        self.accepted = 0
        self._limited_before = 0
        self._target: dict[str, Numbers] = {}
        self._said: dict[tuple[str, str], float] = {}
        self._waiting: deque[_Waiting] = deque()
        self._clock = node.get_clock()
        self._simulated_time = True  # Until it is known, so that the clock is asked.
        self._senders = Senders(node)
        self._group = ReentrantCallbackGroup()  # Not the node's own: that is for what can wait.
        #: Which stretch of time between activations and switches of the mode the newest target came in.
        self._stretch: tuple[ControlClient, int] | None = None
        self._topics = [
            self._subscribe(PoseStamped, "ee_desired", ("osc",), read_pose, self._pose),
            self._subscribe(JointState, "q_desired", ("impedance", "pid"), JointReader().read, self._position),
            self._subscribe(JointState, "torque_desired", ("torque",), JointReader().read, self._torque),
        ]

    @property
    def owner(self) -> str:
        """Who streams targets at the moment; empty where nobody does."""
        return self._senders.owner

    def try_again(self) -> None:
        """Look whether transforms have come that targets wait for; called at every tick while the arm is active."""
        self._simulated_time = self._clock.ros_time_is_active
        client = self._owner.active_client
        if client is not None:
            self._begin_stretch(client)
        for _ in range(len(self._waiting)):
            waiting = self._waiting.popleft()
            self._take(waiting.topic, waiting.message, waiting.info, waiting.until)

    def check_limited(self, state: Record) -> None:
        """Say so where the control process had to cut a target off; called with every fresh ``state``."""
        count = int(state["limited_targets"])
        if count > self._limited_before:
            self.limited += count - self._limited_before
            self._say("limited", *self._describe_limited(state))
        self._limited_before = count

    def _subscribe(
        self,
        kind: type,
        name: str,
        modes: tuple[str, ...],
        read: Callable[[bytes], Any],
        convert: Callable[[Any, ControlClient], dict[str, Numbers]],
    ) -> _Topic:
        topic = _Topic(name, modes, read, convert, f"{self._node.get_fully_qualified_name()}/{name}")
        callback = told(lambda message, info: self._take(topic, message, info))
        self._node.create_subscription(kind, f"~/{name}", callback, TARGET_QOS, callback_group=self._group, raw=True)
        return topic

    def _take(self, topic: _Topic, message: bytes, info: Any, until: float | None = None) -> None:
        """Pass a target on, or say why not.

        :param info: what rclpy knows of the message.
        :param until: how long it may wait for a transform [s, monotonic]; ``None``: it has just come.
        """
        left = 0.0
        try:
            content = topic.read(message)
            stamp = content.stamp
            client = self._client_for(topic.modes)
            self._begin_stretch(client)
            self._senders.check(topic.full_name, info)
            if until is None:
                left = self._time_left(topic, stamp)
            topic.order.check(stamp)
            target = topic.convert(content, client)
        except TransformMissing as error:
            now = time.monotonic()
            until = until or now + left
            if now < until and len(self._waiting) < _MOST_WAITING:
                self._waiting.append(_Waiting(topic, message, info, until))
            else:
                self._refuse(topic, error)
        except InvalidTarget as error:
            self._refuse(topic, error)
        else:
            getattr(client, _SETTERS[topic.name])(*target.values(), stamp)
            topic.order.took(stamp)
            self._senders.took(topic.full_name, info)
            self._target = target
            self.accepted += 1

    def _refuse(self, topic: _Topic, error: InvalidTarget) -> None:
        self.refused[error.reason] += 1
        self._say(topic.name, error.reason, f"refused a target on ~/{topic.name}: {error}")

    def _begin_stretch(self, client: ControlClient) -> None:
        """Forget about what came before an activation or a switch of the mode."""
        stretch = (client, client.mode_id)
        if stretch != self._stretch:
            self._stretch = stretch
            self._waiting.clear()
            self._senders.forget()
            for topic in self._topics:
                topic.order.forget()

    def _time_left(self, topic: _Topic, stamp: int) -> float:
        """How long a target that has just come may wait for a transform [s].

        :raises InvalidTarget: it is too old already, or too far in the future.
        """
        # Past rclpy where both are the same, because it needs longer than all other checks together.
        now = self._clock.now().nanoseconds if self._simulated_time else time.time_ns()
        limit = self._owner.parameter("max_target_age")
        # Beyond this, a clock was put back.
        topic.order.forget(beyond=now + int(1e9 * limit))
        return limit - max(0.0, stamps.age_of(stamp, now, limit))

    def _pose(self, content: PoseValues, client: ControlClient) -> dict[str, Numbers]:
        target = messages.pose_target(content.numbers)
        target = self._frames.to_base(target, content.frame, content.stamp, client)
        return {"target_position": target.position, "target_orientation": target.orientation}

    def _position(self, content: JointValues, client: ControlClient) -> dict[str, Numbers]:
        return {"target_q": messages.by_joint(content.name, content.position, "position", self._names.joints)}

    def _torque(self, content: JointValues, client: ControlClient) -> dict[str, Numbers]:
        return {"target_torque": messages.by_joint(content.name, content.effort, "effort", self._names.joints)}

    def _client_for(self, modes: tuple[str, ...]) -> ControlClient:
        """The control process, if it takes targets of ``modes`` now.

        :raises InvalidTarget: it does not, and why.
        """
        client = self._owner.active_client
        if client is None:
            raise InvalidTarget("the node is not active", reason="not active")
        mode = self._owner.parameter("mode")
        if mode not in modes:
            node = self._node.get_fully_qualified_name()
            raise InvalidTarget(
                f"the mode is {mode}; to use this topic: ros2 param set {node} mode {modes[0]}",
                reason="another mode",
            )
        if self._owner.why_held:
            raise InvalidTarget(self._owner.why_held, reason="held")
        if self._owner.moving:
            raise InvalidTarget(f"{self._owner.moving} has the arm", reason="during a move")
        return client

    def _describe_limited(self, state: Record) -> tuple[str, str]:
        """Which limits cut a target off, and the target, judged by the newest one."""
        target, distances = self._target, []
        if "target_position" in target:
            distance = float(np.linalg.norm(np.array(target["target_position"]) - state["ref_position"]))
            turn = 2.0 * np.arccos(
                min(1.0, abs(float(np.array(target["target_orientation"]) @ state["ref_orientation"])))
            )
            distances = [(distance, "m", "max_linear_step"), (turn, "rad", "max_angular_step")]
        elif "target_q" in target:
            distances = [(float(np.abs(np.array(target["target_q"]) - state["ref_q"]).max()), "rad", "max_joint_step")]
        cut = {
            name: f"{distance:.2f} {unit} away was limited to {name} ({self._owner.parameter(name):g} {unit})"
            for distance, unit, name in distances
            if distance > self._owner.parameter(name)
        }
        if not cut:
            return "", "targets further away than allowed were limited"
        return " ".join(cut), "a target " + " and ".join(cut.values())

    def _say(self, topic: str, reason: str, message: str) -> None:
        """Warn, but seldom of the same; a throttle for all would let a flood of one kind hide another."""
        now = time.monotonic()
        if now - self._said.get((topic, reason), -LOG_PERIOD) >= LOG_PERIOD:
            self._said[topic, reason] = now
            self._node.get_logger().warning(message)
