"""The topics of targets: check each message, pass it on, count and explain refusals.

Used by the node, in its process and its one thread. A refused message changes nothing: the arm keeps its last
target and holds it if no other arrives.

A target in a frame of TF may arrive before the transform that it needs. It then waits, as the only kind of target, and
is tried again at every tick of the node until the transform has arrived or the target is too old.

Targets may come before they are due, by their stamps, and many at once, as far ahead as ``max_target_age``. They are
passed on one after the other, and the control process waits for their time.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from aiofranka_ros.arm.moves import ArmOwner, Mover
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.law.approach import NEAR_ANGULAR, NEAR_LINEAR
from aiofranka_ros.control.law.stream import SHORTEST_LEAD
from aiofranka_ros.control.records import Approach, Limit
from aiofranka_ros.control.snapshot import distance_text
from aiofranka_ros.errors import InvalidTarget, TransformMissing
from aiofranka_ros.kernels import Record
from aiofranka_ros.model.names import CONTROLLER, ArmNames
from aiofranka_ros.node.admission import Admission, Overtaken
from aiofranka_ros.node.frames import Frames
from aiofranka_ros.node.limited import describe_blocked, describe_limited
from aiofranka_ros.node.owners import Owners
from aiofranka_ros.node.servo import Steps, read_step
from aiofranka_ros.ros.arrivals import publisher_of
from aiofranka_ros.ros.cdr import JointValues, PoseValues, TwistValues, nanoseconds, read_joints, read_pose, read_twist
from aiofranka_ros.ros.conditions import CONDITIONS
from aiofranka_ros.ros.executor import with_info
from aiofranka_ros.ros.messages import PoseTarget, TwistTarget, by_joint, pose_target, twist_target
from aiofranka_ros.ros.refusals import RefusalTopic
from aiofranka_ros.ros.warnings import Warnings

#: Most targets that may come before they are due, and how far apart they are passed on [s], which is two cycles.
_MOST_COMING, _SPACING = 64, 2e-3
#: A best-effort subscription matches reliable publishers as well.
TARGET_QOS = QoSProfile(
    depth=_MOST_COMING, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE
)
#: Reason of refusals by the control process.
FAR_AWAY = "begins far away"
#: Most targets that may wait for transforms: each of them is tried again at every tick.
_MOST_WAITING = 100


class _Topic(NamedTuple):
    """One kind of target.

    :ivar name: after ``~/``, or the full name of the topic.
    :ivar modes: names of the modes that use it.
    :ivar convert: makes the content of a message into a target, in the base or by joint.
    :ivar send: passes a target, its stamp and how long from now it is due [ns] on to the control process.
    """

    name: str
    modes: tuple[str, ...]
    convert: Callable[[Any, ControlClient], Any]
    send: Callable[[ControlClient, Any, int, int], object]

    @property
    def title(self) -> str:
        """For messages."""
        return self.name if self.name.startswith("/") else f"~/{self.name}"


class _Waiting(NamedTuple):
    """A target that waits for a transform until ``until`` [s, monotonic].

    :ivar period: the control process and its ``mode_id`` when it arrived.
    """

    topic: _Topic
    content: Any
    stamp: int
    info: Mapping[str, Any]
    until: float
    period: tuple[ControlClient, int]


class _Coming(NamedTuple):
    """A target that is due later; ``period`` is as in :class:`_Waiting`."""

    topic: _Topic
    target: Any
    stamp: int
    period: tuple[ControlClient, int]


class TargetTopics:
    """The subscriptions for the targets of every mode.

    They exist in every state of the node, so that a target for an inactive arm is answered in the log instead of
    ignored.
    """

    def __init__(
        self,
        node: LifecycleNode,
        owner: ArmOwner,
        mover: Mover,
        frames: Frames,
        names: ArmNames,
        refusals: RefusalTopic,
    ) -> None:
        self._node = node
        self._owner = owner
        self._mover = mover
        self._frames = frames
        self._joints = names.joints
        #: Numbers of targets since the node was started: refused, by reason; limited, by the limit; and passed on.
        self.refused: Counter[str] = Counter()
        self.limited: Counter[str] = Counter()
        self.accepted = 0
        #: How long before it was due the newest target was passed on [s]; 0: it was due.
        self.ahead = 0.0
        #: Which joint limits keep the hand from its target, as a sentence; empty if none do.
        self.blocked = ""
        self._limited_before = np.zeros(len(Limit), dtype=np.uint64)
        self._approaches, self._far_targets = 0, 0
        self._newest: tuple[str, Any] = "", None  # Its topic and the target.
        self._source: tuple[_Topic, Mapping[str, Any]] | None = None  # Its topic and rclpy's info about it.
        self._warnings = Warnings(node.get_logger().warning)
        self._refusals = refusals
        self._waiting: deque[_Waiting] = deque()
        self._coming: deque[_Coming] = deque(maxlen=_MOST_COMING)
        self._sent = 0.0  # When the last target was passed on [s, monotonic].
        #: Called with every accepted target: its topic, the target, its stamp [ns] and its publisher's identity.
        self.on_target: Callable[[str, Any, int, bytes], object] = lambda topic, target, stamp, publisher: None
        #: Called with the topic of every chunk that is accepted.
        self.on_chunk: Callable[[str], object] = lambda topic: None
        #: Decides whether a target is accepted, and a chunk.
        self.admission = Admission(node, owner, mover)
        group = ReentrantCallbackGroup()  # Not the node's default group, whose callbacks can wait.
        osc, joints = ("osc",), ("impedance", "pid")
        set_velocities = ControlClient.set_joint_velocities
        for kind, read, topic in (
            (PoseStamped, read_pose, _Topic("ee_desired", osc, self._pose, _set_pose)),
            (JointState, read_joints, _Topic("q_desired", joints, self._position, ControlClient.set_joints)),
            (TwistStamped, read_twist, _Topic("twist_desired", osc, self._twist, _set_twist)),
            (JointState, read_joints, _Topic("dq_desired", joints, self._velocity, set_velocities)),
            (JointState, read_joints, _Topic("torque_desired", ("torque",), self._torque, _set_torque)),
        ):
            callback = with_info(partial(self._on_message, topic, read))
            node.create_subscription(kind, f"~/{topic.name}", callback, TARGET_QOS, callback_group=group, raw=True)
        name = node.resolve_topic_name(f"{CONTROLLER}/joint_trajectory")
        self._steps = Steps()
        self._servo = _Topic(name, ("osc", *joints, "torque"), self._step, self._set_servo)

    @property
    def owners(self) -> Owners:
        """The clients that send targets."""
        return self.admission.owners

    @property
    def without_priority(self) -> bool:
        """Whether ``priority_clients`` names clients, but rclpy does not report who sends targets."""
        return self.admission.anonymous and bool(self._owner.parameter("priority_clients"))

    def try_again(self) -> None:
        """Try the targets that wait for transforms; called at every tick while the arm is active."""
        client = self._owner.active_client
        for _ in range(len(self._waiting)):
            waiting = self._waiting.popleft()
            # Targets from before an activation or a switch of the mode are dropped.
            if client is not None and waiting.period == (client, client.mode_id):
                self._take(waiting.topic, waiting.content, waiting.stamp, waiting.info, waiting.until)

    def send_next(self) -> None:
        """Pass on the next of the targets that came before they are due; called at every tick while the arm is active.

        One at a time, because the control process sees only the newest one of each of its cycles.
        """
        client = self._owner.active_client
        while self._coming:
            coming = self._coming.popleft()
            if client is not None and coming.period == (client, client.mode_id) and not self._mover.owner:
                self._send(client, coming)
                return

    def replaced_by(self, chunk: str) -> None:
        """A chunk on the topic ``chunk`` is followed, instead of the targets that are not due yet or wait."""
        self.accepted += 1
        self.on_chunk(chunk)
        self._newest, self._source = (chunk, None), None
        self._coming.clear()
        self._waiting.clear()

    def _send(self, client: ControlClient, target: _Coming) -> None:
        lead = self._lead(target.stamp)
        target.topic.send(client, target.target, target.stamp, lead)
        self.ahead, self._sent = 1e-9 * lead, time.monotonic()

    def _lead(self, stamp: int) -> int:
        """How long from now a target is due [ns]; 0: now, or it is not known."""
        lead = self.admission.lead(stamp)
        return lead if lead > 1e9 * SHORTEST_LEAD else 0

    def check_limited(self, state: Record) -> None:
        """Log if the control process had to limit a target; called with every new ``state``."""
        counts = state["limited_targets"]
        client = self._owner.active_client
        for limit in map(Limit, np.flatnonzero(counts > self._limited_before)):
            name = limit.name.lower()
            self.limited[name] += int(counts[limit] - self._limited_before[limit])
            if client is not None:
                message = describe_limited(name, *self._newest, state, client, self._owner.parameter, self._joints)
                self._warnings.warn(("limited", name), message)
        self._limited_before = counts

    def check_approach(self, state: Record) -> None:
        """Log if the control process approaches a stream slowly, or refuses it; called with every new ``state``."""
        topic, left = (
            self._source[0].title if self._source else f"~/{self._newest[0]}",
            distance_text(state["approach_left"]),
        )
        approaches, far_targets = int(state["approaches"]), int(state["far_targets"])
        if approaches > self._approaches and state["approach"] == Approach.APPROACHING:
            self._warnings.warn(
                ("approach", topic),
                f"approaching the targets on {topic}, which begin {left} from the arm; until it has met them, "
                "approach_linear_velocity, approach_angular_velocity and approach_joint_velocity keep it slow",
            )
        if (far := far_targets - self._far_targets) > 0 and self._source is not None:
            error = InvalidTarget(
                f"it is {left} from the arm; with approach_far_streams false, a stream must begin within "
                f"{NEAR_LINEAR:g} m and {NEAR_ANGULAR:g} rad",
                reason=FAR_AWAY,
            )
            source, info = self._source
            self.refuse(source.name, info, error)
            self.refused[FAR_AWAY] += far - 1  # This was one.
            self.accepted -= far
        self._approaches, self._far_targets = approaches, far_targets  # They start again at an activation.

    def check_blocked(self, state: Record) -> None:
        """Log when joint limits begin to keep the hand from its target, and when they no longer do; for every state."""
        blocked, log = describe_blocked(state, self._owner.parameter, self._joints), self._node.get_logger()
        if blocked and not self.blocked:
            log.warning(f"{blocked}; {CONDITIONS['blocked'].remedy}")
        elif self.blocked and not blocked:
            log.info("no joint limit keeps the hand from its target any more")
        self.blocked = blocked

    def servo(self, message: JointTrajectory, info: Mapping[str, Any]) -> None:
        """Pass a step of a stream of trajectories on, see :mod:`aiofranka_ros.node.servo`, or explain why not.

        :param info: rclpy's info about the message.
        """
        self._take(self._servo, message, nanoseconds(message.header.stamp), info)

    def _on_message(self, topic: _Topic, read: Callable[[bytes], Any], message: bytes, info: Mapping[str, Any]) -> None:
        try:
            content = read(message)
        except InvalidTarget as error:
            self.refuse(topic.name, info, error)
        else:
            self._take(topic, content, content.stamp, info)

    def _take(
        self, topic: _Topic, content: Any, stamp: int, info: Mapping[str, Any], until: float | None = None
    ) -> None:
        """Pass a target on, or explain why not.

        :param stamp: when it was made [ns, the node's clock]; 0: unknown.
        :param until: how long it may wait for a transform [s, monotonic]; ``None``: it has just arrived.
        """
        try:
            client = self.admission.check(topic.name, topic.modes, stamp, info, waited=until is not None)
            target = topic.convert(content, client)
        except TransformMissing as error:
            now = time.monotonic()
            if until is None:
                until = now + self.admission.time_left(stamp)
            if now < until and len(self._waiting) < _MOST_WAITING:
                self._waiting.append(_Waiting(topic, content, stamp, info, until, (client, client.mode_id)))
            else:
                self.refuse(topic.name, info, error)
        except Overtaken:
            return  # Its sender could not know.
        except InvalidTarget as error:
            self.refuse(topic.name, info, error)
        else:
            if self.admission.accepted(client, topic.name, stamp, info):
                self._coming.clear()  # Of the client before.
                self._steps.forget()
            if self.without_priority:
                self._warnings.warn("priority", CONDITIONS["no priority"].message)
            self._newest, self._source = ("q_desired" if topic is self._servo else topic.name, target), (topic, info)
            self.accepted += 1
            made = stamp
            # Not a simulated time, which may be slow, or stand still: targets follow each other in the robot's time.
            stamp = 0 if self.admission.simulated_time else stamp
            coming = _Coming(topic, target, stamp, (client, client.mode_id))
            if self._coming or (self._lead(stamp) > 0 and time.monotonic() - self._sent < _SPACING):
                self._coming.append(coming)
            else:
                self._send(client, coming)
            self.on_target(topic.name, target, made, self.owners.publisher)  # Last: the arm does not wait for it.

    def refuse(self, topic: str, info: Mapping[str, Any], error: InvalidTarget, what: str = "a target") -> None:
        """Count, log and report a refused message.

        :param topic: its name after ``~/``, or its full name.
        :param what: what it is, for people.
        """
        self.refused[error.reason] += 1
        sender = publisher_of(info)
        title = topic if topic.startswith("/") else f"~/{topic}"
        name = partial(self.owners.name_of, sender, topic)
        self._refusals.target(f"{what} on {title}", error, sender, name)
        self._warnings.warn((topic, error.reason), f"refused {what} on {title}: {error}")

    def _pose(self, content: PoseValues, client: ControlClient) -> PoseTarget:
        return self._frames.to_base(pose_target(content.numbers), content.frame, content.stamp, client)

    def _position(self, content: JointValues, client: ControlClient) -> tuple[float, ...]:
        return by_joint(content.name, content.position, "position", self._joints)

    def _twist(self, content: TwistValues, client: ControlClient) -> TwistTarget:
        return self._frames.twist_to_base(twist_target(content.numbers), content.frame, content.stamp, client)

    def _velocity(self, content: JointValues, client: ControlClient) -> tuple[float, ...]:
        return by_joint(content.name, content.velocity, "velocity", self._joints)

    def _step(self, content: JointTrajectory, client: ControlClient) -> tuple[float, ...]:
        return self._steps.target(read_step(content, self._joints), time.monotonic())

    def _set_servo(self, client: ControlClient, target: tuple[float, ...], stamp: int, lead: int) -> None:
        client.set_servo(target, stamp or self._steps.stamp)

    def _torque(self, content: JointValues, client: ControlClient) -> tuple[float, ...]:
        return by_joint(content.name, content.effort, "effort", self._joints)


def _set_pose(client: ControlClient, target: PoseTarget, stamp: int, lead: int) -> None:
    client.set_pose(*target, stamp, lead)


def _set_twist(client: ControlClient, target: TwistTarget, stamp: int, lead: int) -> None:
    client.set_twist(target.twist, stamp, lead, in_tool=target.in_tool)


def _set_torque(client: ControlClient, target: tuple[float, ...], stamp: int, lead: int) -> None:
    client.set_torque(target, stamp)
