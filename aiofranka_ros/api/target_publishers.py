"""Publishers of a policy's targets; used by :class:`~aiofranka_ros.api.node_connection.NodeConnection`, in any thread.

The messages stay serialized and only their numbers are replaced, because the arm waits for them.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from rclpy.node import Node
from sensor_msgs.msg import JointState

from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.ros.cdr import SerializedMessage
from aiofranka_ros.ros.messages import header_of

_TARGET = np.dtype([("stamp", "i8"), ("values", "f8", (7,))])


class TargetPublishers:
    """Publishes targets to a node.

    :param node: the client's own node.
    :param name: full name of the node that drives the arm.
    """

    def __init__(self, node: Node, name: str) -> None:
        self._clock = node.get_clock()
        self._publishers = {
            "ee_desired": node.create_publisher(PoseStamped, f"{name}/ee_desired", 1),
            "q_desired": node.create_publisher(JointState, f"{name}/q_desired", 1),
            "torque": node.create_publisher(JointState, f"{name}/torque_desired", 1),
        }
        self._messages: dict[str, SerializedMessage] = {}
        self._simulated_time = False

    def prepare(self, names: ArmNames, simulated_time: bool) -> None:
        """Make the messages; required before :meth:`publish`.

        :param names: of joints and frames.
        :param simulated_time: whether stamps are of ROS's simulated time.
        """
        self._simulated_time = simulated_time

        def pose(target: Record) -> PoseStamped:
            x, y, z, qx, qy, qz, qw = target["values"].tolist()
            pose = Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))
            return PoseStamped(header=header_of(target, names), pose=pose)

        def joints(target: Record, field: str) -> JointState:
            values: Any = {field: target["values"].tolist()}
            return JointState(header=header_of(target, names), name=list(names.joints), **values)

        self._messages = {
            "ee_desired": SerializedMessage(pose, _TARGET),
            "q_desired": SerializedMessage(lambda target: joints(target, "position"), _TARGET),
            "torque": SerializedMessage(lambda target: joints(target, "effort"), _TARGET),
        }

    def publish(self, name: str, values: Array) -> None:
        """Publish a target, stamped now; arguments as in :meth:`.Link.set_target`."""
        record = np.zeros(1, _TARGET)
        # rclpy's clock is slower, and only needed if it differs.
        record["stamp"] = self._clock.now().nanoseconds if self._simulated_time else time.time_ns()
        record["values"] = values
        self._publishers[name].publish(self._messages[name].of(record.view(np.uint8).data))
