"""Listen to the topics of a node's targets, and to what it measures.

Called by :mod:`aiofranka_ros.streams.__main__`, in its one thread. It subscribes as the node does, but best effort with
a long queue: a publisher never waits for it. During the watch, messages are only kept, with the time at which the
middleware received them; they are read afterwards. The node publishes two topics more often than it would, if nothing
else subscribes to them: ``~/ee_pose`` and ``joint_states``, at its ``state_rate``.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState

from aiofranka_ros.ctl.client import Failed, NodeClient
from aiofranka_ros.errors import InvalidTarget, listed
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.ros.cdr import nanoseconds
from aiofranka_ros.ros.executor import with_info
from aiofranka_ros.ros.graph import node_of
from aiofranka_ros.streams.chunks import Chunk
from aiofranka_ros.streams.recording import Measured, Quantity, Stream
from aiofranka_ros.streams.topics import TOPICS, Point, Topic, measured_pose

#: Matches every publisher; what comes while this program is busy waits.
_QOS = QoSProfile(depth=2000, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)
#: Most messages of a topic that are kept: ten minutes at 500 Hz.
_MOST = 300_000
#: How long the names of publishers may take to be discovered [s].
_DISCOVERY = 0.5
#: How long the subscriptions of the node may take to be discovered [s].
_APPEARANCE = 2.0
#: A state that arrives sooner than this after its stamp was stamped with this computer's clock [s].
_SAME_CLOCK = 0.05
#: Messages with one point count as single targets if at most this share has more.
_SINGLE = 0.2


@dataclass
class Heard:
    """What came on one topic: serialized messages, when [ns, this computer's clock], and from which publisher."""

    data: list[bytes] = field(default_factory=list)
    arrivals: list[int] = field(default_factory=list)
    publishers: list[bytes] = field(default_factory=list)

    def on_message(self, data: bytes, info: Mapping[str, Any]) -> None:
        """Keep a message."""
        if len(self.data) < _MOST:
            self.data.append(data)
            self.arrivals.append(info.get("received_timestamp") or time.time_ns())
            self.publishers.append(bytes((info.get("publisher_gid") or {}).get("data", b"")))


@dataclass(frozen=True)
class Received:
    """The targets of one topic.

    :ivar messages: how many came.
    :ivar publishers: full names of the nodes that publish on it.
    :ivar others: how many messages came from another publisher than the one with the most, and are left out.
    :ivar unusable: how many messages cannot be used, by reason, and an example of why.
    :ivar frames: names of the frames of poses and twists; empty strings left out.
    :ivar stream: single targets; ``None``: there are chunks.
    :ivar chunks: if there are any.
    """

    topic: Topic
    name: str
    messages: int
    publishers: tuple[str, ...]
    others: int
    unusable: Counter[str]
    example: str
    frames: tuple[str, ...]
    stream: Stream | None
    chunks: tuple[Chunk, ...]
    quantity: Quantity


class Watch:
    """The subscriptions to what a node receives and measures, as long as its client exists.

    :param client: of the node, which is on the graph.
    :raises Failed: it takes no targets.
    """

    def __init__(self, client: NodeClient) -> None:
        self._client = client
        if not client.spin_until(self._taken, _APPEARANCE):
            raise Failed(f"{client.name} takes no targets: it is not an arm's node of this package")
        self.topics: list[Topic] = []
        self.heard: dict[str, Heard] = {}
        self._measured = {"ee_pose": Heard(), "joint_states": Heard()}
        self.begin = 0

    def _taken(self) -> list[Topic]:
        """The topics to which the node subscribes, as far as they are discovered."""
        found = []
        for topic in TOPICS:
            infos = self._client.node.get_subscriptions_info_by_topic(topic.full_name(self._client.name))
            if (self._client.name, topic.type_name) in [(node_of(info), info.topic_type) for info in infos]:
                found.append(topic)
        return found

    def start(self) -> None:
        """Subscribe; times count from now on."""
        node = self._client.name
        namespace, _, _ = node.rpartition("/")
        self.begin = time.time_ns()
        for topic in TOPICS:  # Which of them the node takes may not be discovered yet.
            self.heard[topic.name] = Heard()
            self._listen(topic.kind, topic.full_name(node), self.heard[topic.name])
        self._listen(PoseStamped, f"{node}/ee_pose", self._measured["ee_pose"])
        self._listen(JointState, f"{namespace}/joint_states", self._measured["joint_states"])

    def _listen(self, kind: Any, name: str, heard: Heard) -> None:
        self._client.node.create_subscription(kind, name, with_info(heard.on_message), _QOS, raw=True)

    def received(self, joints: tuple[str, ...]) -> list[Received]:
        """The targets of the topics on which there are messages or publishers.

        :param joints: names of the arm's joints.
        """
        self._client.spin_until(lambda: False, _DISCOVERY)
        self.topics = self._taken()
        found = []
        for topic in self.topics:
            heard, publishers = self.heard[topic.name], self._publishers(topic)
            if heard.data or publishers:
                found.append(self._read(topic, heard, publishers, joints))
        return found

    def _publishers(self, topic: Topic) -> dict[bytes, str]:
        """The nodes that publish on a topic, with the middleware's identity of their publishers."""
        infos = self._client.node.get_publishers_info_by_topic(topic.full_name(self._client.name))
        return {
            bytes(info.endpoint_gid): node_of(info) or "a node that is not discovered yet"
            for info in infos
            if info.topic_type == topic.type_name
        }

    def _read(self, topic: Topic, heard: Heard, publishers: dict[bytes, str], joints: tuple[str, ...]) -> Received:
        counts = Counter(heard.publishers)
        # Those that have sent something, if the middleware says who did, and they are still there.
        sent = [publishers[publisher] for publisher, _ in counts.most_common() if publisher in publishers]
        names = tuple(dict.fromkeys(sent or publishers.values()))
        main = counts.most_common(1)[0][0] if counts else b""
        messages: list[tuple[float, float, list[Point]]] = []
        unusable: Counter[str] = Counter()
        example, frames = "", Counter[str]()
        for data, arrival, publisher in zip(heard.data, heard.arrivals, heard.publishers, strict=True):
            if publisher != main:
                continue
            try:
                message = deserialize_message(data, topic.kind)
                points = topic.read(message, joints)
            except InvalidTarget as error:
                unusable[error.reason] += 1
                example = str(error)
                continue
            if not points:
                continue
            stamp = nanoseconds(message.header.stamp)
            frames[message.header.frame_id] += 1
            messages.append((self._since(arrival), self._since(stamp) if stamp else math.nan, points))
        quantity = messages[0][2][0].quantity if messages else Quantity.POSE
        messages = [each for each in messages if each[2][0].quantity is quantity]
        several = [len(points) > 1 for _, _, points in messages]
        stream: Stream | None = None
        chunks: tuple[Chunk, ...] = ()
        if topic.chunks and several and np.mean(several) > _SINGLE:
            chunks = tuple(
                Chunk(arrival, stamp, np.array([p.time for p in points]), np.array([p.values for p in points]))
                for arrival, stamp, points in messages
            )
        else:
            singles = [(arrival, stamp, points[-1].values) for arrival, stamp, points in messages]
            # The order of arrival; the middleware's times of messages in a queue may be the same.
            arrivals = np.array([each[0] for each in singles])
            stream = Stream(
                quantity,
                np.maximum.accumulate(arrivals) if len(arrivals) else arrivals,
                np.array([each[1] for each in singles]),
                np.array([each[2] for each in singles]) if singles else np.empty((0, 7)),
            )
        others = len(heard.data) - counts[main] if counts else 0
        return Received(
            topic, topic.full_name(self._client.name), len(heard.data), names, others, unusable, example,
            tuple(frame for frame in frames if frame), stream, chunks, quantity,
        )  # fmt: skip

    def _since(self, nanoseconds_: int) -> float:
        return 1e-9 * (nanoseconds_ - self.begin)

    def measured(self, quantity: Quantity, names: ArmNames) -> Measured:
        """What was measured of the arm: joint positions for targets of joints, otherwise poses."""
        if quantity in (Quantity.POSE, Quantity.TWIST):
            return self._measurements("ee_pose", PoseStamped, measured_pose)
        return self._measurements("joint_states", JointState, partial(_positions, names.joints))

    def _measurements(self, name: str, kind: Any, values_of: Callable[[Any], Any]) -> Measured:
        heard = self._measured[name]
        arrivals, stamps, values = [], [], []
        for data, arrival in zip(heard.data, heard.arrivals, strict=True):
            message = deserialize_message(data, kind)
            value = values_of(message)
            if value is not None:
                arrivals.append(self._since(arrival))
                stamps.append(self._since(nanoseconds(message.header.stamp)))
                values.append(value)
        if len(values) < 2:
            return Measured(np.empty(0), np.empty((0, 7)))
        # Stamps are even. If the node's clock is not this computer's, arrivals say what it shows.
        times = np.array(stamps)
        age = float(np.median(np.array(arrivals) - times))
        if not 0.0 <= age < _SAME_CLOCK:
            times += age
        if (np.diff(times) <= 0.0).any():  # A simulated time that stands still.
            times = np.maximum.accumulate(np.array(arrivals)) + 1e-6 * np.arange(len(arrivals))
        return Measured(times, np.array(values))

    # What may be wrong if nothing comes.

    def why_nothing(self, received: list[Received]) -> str:
        """An explanation, if no message came."""
        client, node = self._client, self._client.node
        taken = ", ".join(f"{topic.name} ({topic.type_name})" for topic in self.topics)
        if received:
            who = ", ".join(f"{listed(each.publishers)} on {each.name}" for each in received)
            return (
                f"publishers are there, but no message came: {who}. They send nothing now, or their messages do not "
                "arrive: python3 -m aiofranka_ros.doctor tries the middleware"
            )
        text = f"no publisher on any topic of targets of {client.name}: {taken}. "
        ours = {topic.full_name(client.name): topic for topic in self.topics}
        for name, kinds in node.get_topic_names_and_types():
            publishers = [info for info in node.get_publishers_info_by_topic(name) if info.topic_type]
            for topic in self.topics if publishers else ():
                if name in ours:
                    wrong = sorted({info.topic_type for info in publishers} - {ours[name].type_name})
                    if wrong:
                        return f"{text}{name} has a publisher of another type: {', '.join(wrong)}"
                elif topic.type_name in kinds and name.rpartition("/")[2] == topic.name.rpartition("/")[2]:
                    return f"{text}There is one on {name}: remap it, -r {name}:={topic.full_name(client.name)}"
        reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "")
        return (
            f"{text}Is the policy running, and in the same ROS domain ({os.environ.get('ROS_DOMAIN_ID') or '0'} here"
            + (f", discovery {reach.lower()}" if reach else "")
            + ")? Any quality of service fits: the node accepts best effort and reliable, volatile and latched"
        )


def _positions(joints: tuple[str, ...], message: Any) -> Any:
    """The positions of the arm's joints; ``None``: they are those of the gripper."""
    return np.array(message.position) if tuple(message.name) == joints and len(message.position) == 7 else None
