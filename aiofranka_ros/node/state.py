"""The topics of the measured state, published at every tick of the node.

Used by the node, in its process and its one thread. ``~/robot_state``, which may be faster than the tick, is in
:mod:`aiofranka_ros.node.robot_state`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import PoseStamped, WrenchStamped
from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from tf2_msgs.msg import TFMessage

from aiofranka_ros.control.records import STATE
from aiofranka_ros.control.stamps import Stamps
from aiofranka_ros.kernels import Record
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.ros.cdr import SerializedMessage
from aiofranka_ros.ros.clock import node_time
from aiofranka_ros.ros.messages import control_frame, external_wrench, joint_state, measured_pose, snapshot_message

#: Shortest time between two messages on TF [s]: every process that listens to TF has to handle all of them.
_TF_PERIOD = 0.01


class StateTopics:
    """The publishers of the measured state.

    They publish while the node is inactive too, because an arm that is guided by hand is of interest; lifecycle
    publishers would not. A message is made only if there is a subscriber, because a target may be waiting.
    """

    def __init__(self, node: LifecycleNode, names: ArmNames) -> None:
        def topic(
            kind: type, name: str, qos: QoSProfile, message_of: Callable[[Record, ArmNames], Any]
        ) -> tuple[Publisher, SerializedMessage]:
            message = SerializedMessage(lambda state: message_of(state, names), STATE)
            return node.create_publisher(kind, name, qos), message

        self._topics = [
            topic(JointState, "joint_states", QoSProfile(depth=10), joint_state),
            topic(PoseStamped, "~/ee_pose", qos_profile_sensor_data, measured_pose),
            topic(WrenchStamped, "~/external_wrench", qos_profile_sensor_data, external_wrench),
        ]
        self._snapshots = node.create_publisher(Float64MultiArray, "~/state", qos_profile_sensor_data)
        # TF's own quality of service; a broadcaster of tf2_ros has the same.
        self._frames, self._frame = topic(TFMessage, "/tf", QoSProfile(depth=100), control_frame)
        self._stamps = Stamps(node_time(node))
        self._frame_measured = self._frame_stamp = 0

    def publish(self, state: Record, active: bool) -> None:
        """Publish ``state``, and whether the arm is under torque control; its stamp is by the node's clock."""
        measured, state = int(state["stamp"]), state.copy()
        state["stamp"] = stamp = self._stamps.of(measured)
        for publisher, message in self._topics:
            if publisher.get_subscription_count() > 0:
                publisher.publish(message.of(state))
        if self._snapshots.get_subscription_count() > 0:
            self._snapshots.publish(snapshot_message(state, active))
        # Never the same stamp twice, even if simulated time stands still: TF's listeners complain about repeated data.
        due = measured - self._frame_measured >= 0.9e9 * _TF_PERIOD and stamp != self._frame_stamp
        if due and self._frames.get_subscription_count() > 0:
            self._frame_measured, self._frame_stamp = measured, stamp
            self._frames.publish(self._frame.of(state))
