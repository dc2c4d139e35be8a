"""The topic ``~/robot_state``: libfranka's whole robot state, as franka_ros2's broadcaster publishes it.

Used by the node, in its process and its one thread. The control process copies libfranka's state only as often as this
topic needs it, and not at all without subscribers; see :data:`~aiofranka_ros.control.robot_records.ROBOT_STATE` for the
copy. The topic has a separate timer, because it may be faster than the node's tick.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from franka_msgs.msg import FrankaRobotState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile

from aiofranka_ros.arm.driver import Driver
from aiofranka_ros.control.robot_records import ERROR_NAMES, ROBOT_STATE
from aiofranka_ros.control.shared_memory import ROBOT_STATES
from aiofranka_ros.control.stamps import Stamps
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model.fr3 import CYCLE
from aiofranka_ros.model.kinematics import quaternion_from_matrix
from aiofranka_ros.model.names import FR3, ArmNames
from aiofranka_ros.ros.cdr import SerializedMessage
from aiofranka_ros.ros.clock import node_time
from aiofranka_ros.ros.messages import header_of

#: Names of the topic: this node's, and that of franka_ros2's broadcaster.
TOPICS = ("~/robot_state", "franka_robot_state_broadcaster/robot_state")

#: Shortest period in which the timer looks for new states [s].
_SHORTEST_PERIOD = 0.002
_ZEROS = array("d", [0.0] * 7)
_IDENTITY = np.eye(4).ravel()


class RobotStateTopic:
    """The publishers of the robot's whole state, with ``rate`` [Hz]."""

    def __init__(self, node: LifecycleNode, driver: Driver, rate: float, clock: Clock, names: ArmNames) -> None:
        self._driver = driver
        # Reliable, like franka_ros2's: it matches subscribers of either kind.
        qos = QoSProfile(depth=ROBOT_STATES)
        self._publishers = [node.create_publisher(FrankaRobotState, name, qos) for name in TOPICS]
        self._period = max(1, round(1.0 / (rate * CYCLE)))
        self._message = RobotStateMessage(names)
        self._stamps = Stamps(node_time(node))
        # Twice as often as there is a new state, so that it does not wait long; but not so often that the node would do
        # nothing else: then several states are published at once.
        period = max(0.5 * self._period * CYCLE, _SHORTEST_PERIOD)
        group = ReentrantCallbackGroup()  # It may be faster than the turns of the executor.
        self._timer = node.create_timer(period, self._publish, clock=clock, callback_group=group)
        self._timer.cancel()

    def follow(self) -> None:
        """Have the control process copy states as long as there are subscribers; called at every tick."""
        client = self._driver.client
        wanted = any(publisher.get_subscription_count() > 0 for publisher in self._publishers)
        if not wanted or client is None:
            self._timer.cancel()
        elif self._timer.is_canceled():
            client.robot_states()  # Skip old states.
            self._timer.reset()
        period = self._period if wanted else 0
        if client is not None:
            client.copy_robot_states(period)

    def _publish(self) -> None:
        client = self._driver.client
        if client is None:
            return
        publishers = [publisher for publisher in self._publishers if publisher.get_subscription_count() > 0]
        for state in client.robot_states():
            state["stamp"] = self._stamps.of(int(state["stamp"]))
            data = self._message.of(state)
            for publisher in publishers:
                publisher.publish(data)


#: The content of the message: libfranka's state, and the quaternions (x, y, z, w) of its poses.
_POSES = ("O_T_EE", "O_T_EE_d", "O_T_EE_c", "F_T_EE", "EE_T_K")
_CONTENT = np.dtype([*ROBOT_STATE.descr, ("quaternions", "f8", (len(_POSES), 4))])


class RobotStateMessage:
    """The message, which is serialized again only if more than its numbers has changed."""

    def __init__(self, names: ArmNames = FR3) -> None:
        self._names = names
        self._message = message = FrankaRobotState()
        # Compile it now, for matrices in column order: later it would delay the heartbeat.
        quaternion_from_matrix(np.eye(4).T, np.empty(4))
        self._content = np.zeros(1, _CONTENT)
        self._serialized: SerializedMessage | None = None
        self._constant: tuple[Any, ...] = ()
        joint_states = (
            message.measured_joint_state,
            message.desired_joint_state,
            message.measured_joint_motor_state,
            message.tau_ext_hat_filtered,
        )
        for joint_state in joint_states:
            joint_state.name = list(names.joints)
            joint_state.position = joint_state.velocity = joint_state.effort = _ZEROS
        in_base = (
            message, message.o_f_ext_hat_k, message.o_t_ee, message.o_t_ee_d, message.o_t_ee_c,
            message.o_dp_ee_d, message.o_dp_ee_c, message.o_ddp_ee_c,
        )  # fmt: skip
        in_flange = (message.f_t_ee, message.inertia_load)
        self._in_end_effector = (message.k_f_ext_hat_k, message.ee_t_k, message.inertia_ee, message.inertia_total)
        for part in (*joint_states, *in_base):
            part.header.frame_id = names.base
        for part in in_flange:
            part.header.frame_id = names.flange
        self._headers = [part.header for part in (*joint_states, *in_base, *in_flange, *self._in_end_effector)]

    def of(self, state: Record) -> bytes:
        """The message of ``state``, ready to publish, a record of
        :data:`~aiofranka_ros.control.robot_records.ROBOT_STATE`.

        Every part has the stamp of the measurement, and the same frame as in franka_ros2.
        """
        content = self._content[0]
        self._content.view(np.uint8)[: ROBOT_STATE.itemsize] = np.frombuffer(state, np.uint8)
        for name, quaternion in zip(_POSES, content["quaternions"], strict=True):
            quaternion_from_matrix(state[name].reshape(4, 4).T, quaternion)
        # Without a hand, franka_ros2 calls the flange the end effector.
        bare = bool((state["F_T_EE"] == _IDENTITY).all())
        errors = state["current_errors"].tobytes() + state["last_motion_errors"].tobytes()
        constant = bare, int(state["robot_mode"]), errors
        if self._serialized is None or constant != self._constant:
            self._set_constant(state, bare)
            self._serialized, self._constant = SerializedMessage(self._fill, _CONTENT), constant
        return self._serialized.of(content)

    def _set_constant(self, state: Record, bare: bool) -> None:
        """Set the fields that rarely change."""
        message = self._message
        for part in self._in_end_effector:
            part.header.frame_id = self._names.flange if bare else self._names.hand_tcp
        message.robot_mode = int(state["robot_mode"])  # The same numbers as libfranka's.
        for name in ("current_errors", "last_motion_errors"):
            for error, flag in zip(ERROR_NAMES, state[name].tolist(), strict=True):
                setattr(getattr(message, name), error, flag)

    def _fill(self, state: Record) -> FrankaRobotState:
        """Set the numbers, and the stamp."""
        message, s = self._message, state
        stamp = header_of(s, self._names).stamp
        for header in self._headers:
            header.stamp = stamp
        joints = message.measured_joint_state
        joints.position, joints.velocity, joints.effort = _numbers(s["q"]), _numbers(s["dq"]), _numbers(s["tau_J"])
        joints = message.desired_joint_state
        joints.position, joints.velocity = _numbers(s["q_d"]), _numbers(s["dq_d"])
        joints.effort = _numbers(s["tau_J_d"])
        joints = message.measured_joint_motor_state
        joints.position, joints.velocity = _numbers(s["theta"]), _numbers(s["dtheta"])
        message.tau_ext_hat_filtered.effort = _numbers(s["tau_ext_hat_filtered"])
        message.ddq_d, message.dtau_j = s["ddq_d"], s["dtau_J"]

        indicators = message.collision_indicators
        indicators.is_joint_collision, indicators.is_joint_contact = s["joint_collision"], s["joint_contact"]
        elbow = message.elbow
        elbow.position, elbow.desired_position, elbow.commanded_position = s["elbow"], s["elbow_d"], s["elbow_c"]
        elbow.commanded_velocity, elbow.commanded_acceleration = s["delbow_c"], s["ddelbow_c"]
        on_stiffness_frame, on_base = message.k_f_ext_hat_k.wrench, message.o_f_ext_hat_k.wrench
        desired, commanded, acceleration = message.o_dp_ee_d.twist, message.o_dp_ee_c.twist, message.o_ddp_ee_c.accel
        for name, linear, angular in (
            (
                "cartesian_collision",
                indicators.is_cartesian_linear_collision,
                indicators.is_cartesian_angular_collision,
            ),
            ("cartesian_contact", indicators.is_cartesian_linear_contact, indicators.is_cartesian_angular_contact),
            ("K_F_ext_hat_K", on_stiffness_frame.force, on_stiffness_frame.torque),
            ("O_F_ext_hat_K", on_base.force, on_base.torque),
            ("O_dP_EE_d", desired.linear, desired.angular),
            ("O_dP_EE_c", commanded.linear, commanded.angular),
            ("O_ddP_EE_c", acceleration.linear, acceleration.angular),
        ):
            linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = s[name].tolist()
        for name in ("ee", "load", "total"):
            part = getattr(message, f"inertia_{name}").inertia
            part.m = float(s[f"m_{name}"])
            part.com.x, part.com.y, part.com.z = s[f"F_x_C{name}"].tolist()
            part.ixx, part.ixy, part.ixz, _, part.iyy, part.iyz, _, _, part.izz = s[f"I_{name}"].tolist()
        for name, quaternion in zip(_POSES, s["quaternions"], strict=True):
            pose = getattr(message, name.lower()).pose
            p, o = pose.position, pose.orientation
            p.x, p.y, p.z = s[name][12:15].tolist()  # The columns come first.
            o.x, o.y, o.z, o.w = quaternion.tolist()
        message.time = float(s["time"])
        message.control_command_success_rate = float(s["control_command_success_rate"])
        return message


def _numbers(values: Array) -> array[float]:
    return array("d", values.tobytes())
