"""The gripper's node: it serves the gripper's actions, and publishes its state.

Run by :mod:`aiofranka_ros.gripper_node.__main__` in a separate process, so that nothing here can delay the arm, and in
one thread: everything runs on one executor, nothing waits, and nothing needs a lock.

The arm's node publishes the address of the simulated arm that it has started on ``~/robot_address``.
"""

from __future__ import annotations

import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import Trigger

from aiofranka_ros.arm.gripper.gripper import Gripper
from aiofranka_ros.gripper_node.actions import GripperActions
from aiofranka_ros.gripper_node.chunks import GripperChunks
from aiofranka_ros.gripper_node.parameters import GripperParameters
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.ros.actions import Actions
from aiofranka_ros.ros.clock import node_time
from aiofranka_ros.ros.conditions import Recent, problem, summary
from aiofranka_ros.ros.descriptors import ExplainedParameters
from aiofranka_ros.ros.gripper_state import TOPIC, gripper_state_message
from aiofranka_ros.ros.identity import Identity

_DIAGNOSTICS_PERIOD = 1.0


class GripperNode(ExplainedParameters, Node):
    """The node ``franka_gripper``.

    :raises rclpy.exceptions.ParameterException: a parameter from a file or the command line cannot be used.
    """

    def __init__(self) -> None:
        super().__init__("franka_gripper")
        settings = GripperParameters(self)
        self._recent = Recent()
        self._joints = list(ArmNames(settings["arm_prefix"]).fingers)
        # The second is for programs that need all joints of the robot, such as robot_state_publisher and MoveIt.
        self._joint_states = [
            self.create_publisher(JointState, name, QoSProfile(depth=10)) for name in ("~/joint_states", "joint_states")
        ]
        self._states = self.create_publisher(Float64MultiArray, f"~/{TOPIC}", qos_profile_sensor_data)
        self._now = node_time(self)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        # It waits for ticks: in the default group it would block the timer of the ticks.
        self.create_service(Trigger, "~/stop", self._on_stop, callback_group=ReentrantCallbackGroup())
        self._gripper = Gripper(settings, self.get_logger())
        self._actions = Actions(self)
        GripperActions(self._actions, settings, self._gripper)
        self._chunks = GripperChunks(self, settings, self._gripper, self._actions)
        self._identity = Identity(
            self,
            self._actions.names,
            hardware=lambda: f"gripper of {settings['robot_ip']}",
            on_change=self._on_identity,
        )
        #: Full name of the topic with the simulated arm's address; empty for the gripper of a real robot.
        self._address_topic = ""
        address, arm = settings["robot_ip"], settings["arm_node"]
        if address != "sim":
            self._gripper.use(address, f"not connected to {address} yet")
            self.get_logger().info(f"connecting to the gripper at {address}")
        else:
            self._gripper.use("", f"there is no simulated arm: {arm} does not run, or is not configured")
            latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            addresses = self.create_subscription(String, f"{arm}/robot_address", self._on_address, latched)
            self._address_topic = addresses.topic_name
            self.get_logger().info(f"waiting for the simulated arm of {self._arm}")
        # Not the node's clock: simulated time may stop, the gripper does not.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / settings["state_rate"], self._tick, clock=steady)
        self.create_timer(_DIAGNOSTICS_PERIOD, self._publish_diagnostics, clock=steady)

    @property
    def _arm(self) -> str:
        """Full name of the node whose simulated arm has the gripper; empty for the gripper of a real robot."""
        return self._address_topic.rpartition("/")[0]

    def _on_address(self, message: String) -> None:
        """The arm's node has started or ended a simulated arm."""
        address = message.data
        if address != self._gripper.address:
            ended = "the arm's node has ended the simulated arm"
            self._gripper.use(address, f"not connected to {address} yet" if address else ended)

    def _tick(self) -> None:
        if not self._gripper.tick() and self._address_topic and self.count_publishers(self._address_topic) == 0:
            # The arm's node is gone, and so is its simulated arm; another one may use that address later.
            self._gripper.address = ""
        self._chunks.tick()
        state = self._gripper.state
        if state is not None:
            message = JointState(name=self._joints, position=[state.width / 2.0] * 2)
            message.header.stamp = self.get_clock().now().to_msg()
            for publisher in self._joint_states:
                publisher.publish(message)
            stamp = self._now() - round(1e9 * (time.monotonic() - self._gripper.heard))
            self._states.publish(gripper_state_message(state, stamp))

    async def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Stop the fingers, which release what they hold."""
        ended = Future()
        self._gripper.stop("stopped by ~/stop", ended.set_result)
        response.message = await ended
        response.success = not response.message
        return response

    def _on_identity(self) -> None:
        """Another node with the same names has appeared or left."""
        self._actions.conflict = self._identity.conflict
        self._publish_diagnostics()

    def _publish_diagnostics(self) -> None:
        gripper = self._status()
        gripper.hardware_id = f"{self._gripper.address or 'sim'} {self.get_fully_qualified_name()}"
        # With its namespace, because viewers distinguish statuses by name.
        gripper.name = f"{self.get_fully_qualified_name().lstrip('/')}{self._identity.suffix}: gripper"
        message = DiagnosticArray(status=[gripper])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _status(self) -> DiagnosticStatus:
        """The status of the gripper, with what to do if something is wrong."""
        gripper, state = self._gripper, self._gripper.state
        values: dict[str, Any] = {"robot_ip": gripper.address or "sim"}
        values |= {f"goal rejected: {reason}": count for reason, count in sorted(self._actions.rejected.items())}
        recently = self._recent.update(self._actions.rejected)
        conflict = self._identity.conflict
        problems = [problem("gripper double", message=conflict)] if conflict else []
        if state is not None:
            values |= {
                "width [m]": f"{state.width:.4f}",
                "largest width [m]": f"{state.max_width:.4f}",
                "holds something": state.is_grasped,
                "temperature [deg C]": state.temperature,
            }
        elif gripper.address:
            problems.append(problem("gripper lost" if gripper.lost else "no gripper", message=gripper.why))
        else:
            problems.append(problem("no arm", message=gripper.why, arm=self._arm))
        if recently:
            problems.append(problem("goal rejected", reasons=", ".join(sorted(recently))))
        return summary(problems, "busy" if gripper.running else "connected", values)

    def abandon(self, reason: str) -> bool:
        """End the command that runs, so that its goal gets a result; the fingers keep holding what they hold.

        :returns: whether an accepted goal has no result yet.
        """
        self._gripper.abandon(reason)
        return self._actions.busy

    def close(self) -> None:
        """Disconnect, and leave the graph."""
        self._gripper.disconnect("the gripper's node ends")
        self._actions.destroy()
        self.destroy_node()
