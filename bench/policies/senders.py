"""The messages of a stream, on the topic that its targets go to.

Called by :mod:`bench.policies.__main__` in its thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import PoseStamped, TwistStamped
from scipy.spatial.transform import Rotation
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from aiofranka_ros.kernels import Array
from aiofranka_ros.model.fr3 import JOINT_NAMES
from aiofranka_ros.model.names import CONTROLLER, FR3
from aiofranka_ros.testing import Client
from bench.policies.streams import JOINT_SPEED, SPEED, Kind, Message


class Sender:
    """A new publisher for a stream, because the node knows the rate of the last one.

    :param origin: where the stream begins, in the base [m] (3,).
    :param orientation: of the hand there (4,).
    """

    def __init__(self, client: Client, kind: Kind, sent: Sequence[Message], origin: Array, orientation: Array) -> None:
        namespace, _, _ = client.name.rpartition("/")
        message, topic = {
            "pose": (PoseStamped, f"{client.name}/ee_desired"),
            "twist": (TwistStamped, f"{client.name}/twist_desired"),
            "servo": (JointTrajectory, f"{namespace}/{CONTROLLER}/joint_trajectory"),
        }[kind.to.rstrip("+")]
        self._client, self._kind, self._origin, self._orientation = client, kind, origin, orientation
        self._period = sent[1].sent - sent[0].sent
        self._q = np.array(client.joint_state.position) if kind.to.startswith("servo") else np.zeros(7)
        self._publisher = client.node.create_publisher(message, topic, 1)
        client.wait(lambda: self._publisher.get_subscription_count() > 0, "the node does not listen")

    def send(self, message: Message, begin: float) -> None:
        """Publish a target of a stream that began at ``begin`` [s, system clock]."""
        make = {"pose": self._pose, "twist": self._twist}.get(self._kind.to, self._point)
        found = make(message)
        if message.stamp is not None:
            seconds, rest = divmod(begin + message.stamp, 1.0)
            found.header.stamp = Time(sec=int(seconds), nanosec=int(1e9 * rest))
        self._publisher.publish(found)

    def close(self) -> None:
        """The stream has ended."""
        self._client.node.destroy_publisher(self._publisher)

    def _pose(self, message: Message) -> PoseStamped:
        turned = Rotation.from_rotvec([0.0, 0.0, message.turn]) * Rotation.from_quat(self._orientation)
        return pose(self._origin + message.offset, turned.as_quat())

    def _twist(self, message: Message) -> TwistStamped:
        found = TwistStamped()
        found.header.frame_id = FR3.base
        found.twist.linear.y = SPEED
        return found

    def _point(self, message: Message) -> JointTrajectory:
        q, dq = self._q.copy(), np.zeros(7)
        q[0] += message.joint
        dq[0] = JOINT_SPEED
        point = JointTrajectoryPoint(positions=q.tolist(), time_from_start=Duration(nanosec=int(1e9 * self._period)))
        if self._kind.to.endswith("+"):
            point.velocities = dq.tolist()
        return JointTrajectory(joint_names=list(JOINT_NAMES), points=[point])


def pose(position: Array, orientation: Array) -> Any:
    """A pose of the control frame in the base, without a stamp."""
    message = PoseStamped()
    message.header.frame_id = FR3.base
    point, turn = message.pose.position, message.pose.orientation
    point.x, point.y, point.z = (float(value) for value in position)
    turn.x, turn.y, turn.z, turn.w = (float(value) for value in orientation)
    return message
