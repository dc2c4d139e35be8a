"""The gripper's node: it keeps the connection to the gripper, serves its actions, and publishes its state.

Run by :mod:`aiofranka_ros.gripper_node.__main__` in a separate process, so that nothing here can delay the arm, and in
one thread: everything runs on one executor, nothing waits, and nothing needs a lock.

It connects by itself, and again if the connection is lost. The arm's node publishes the address of the simulated arm
that it has started on ``~/robot_address``.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from aiofranka_ros.errors import ConnectionFailed, GripperFailed
from aiofranka_ros.gripper_node.actions import GripperActions
from aiofranka_ros.gripper_node.commands import Gripper
from aiofranka_ros.gripper_node.connection import Hand
from aiofranka_ros.gripper_node.parameters import GripperParameters
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.ros.actions import Actions
from aiofranka_ros.ros.conditions import OK, Recent, condition, status

_DIAGNOSTICS_PERIOD = 1.0
#: Pause between two attempts to connect [s].
_RETRY_PERIOD = 1.0


class GripperNode(Node):
    """The node ``franka_gripper``.

    :raises rclpy.exceptions.ParameterException: a parameter from a file or the command line cannot be used.
    """

    def __init__(self) -> None:
        super().__init__("franka_gripper")
        self._settings = GripperParameters(self)
        self._connection: Hand | None = None
        self._connected = False
        #: Whether the gripper was connected before and is not any more.
        self._lost = False
        self._recent = Recent()
        self._next_attempt = 0.0
        self._ticked: Future = Future()
        self._joints = list(ArmNames(self._settings["arm_prefix"]).fingers)
        self._joint_states = self.create_publisher(JointState, "~/joint_states", QoSProfile(depth=10))
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        # It waits for ticks: in the default group it would block the timer of the ticks.
        self.create_service(Trigger, "~/stop", self._on_stop, callback_group=ReentrantCallbackGroup())
        self._gripper = Gripper(self)
        self._actions = Actions(self)
        GripperActions(self._actions, self, self._gripper)
        self._address = self._address_topic = ""
        if self._settings["robot_ip"] != "sim":
            self._address = self._settings["robot_ip"]
            self._why = f"not connected to {self._address} yet"
            self.get_logger().info(f"connecting to the gripper at {self._address}")
        else:
            self._why = f"there is no simulated arm: {self._settings['arm_node']} does not run, or is not configured"
            latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            topic = f"{self._settings['arm_node']}/robot_address"
            self._address_topic = self.create_subscription(String, topic, self._on_address, latched).topic_name
            self.get_logger().info(f"waiting for the simulated arm of {self._arm}")
        # Not the node's clock: simulated time may stop, the gripper does not.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / self._settings["state_rate"], self._tick, clock=steady)
        self.create_timer(_DIAGNOSTICS_PERIOD, self._publish_diagnostics, clock=steady)

    @property
    def _arm(self) -> str:
        """Full name of the node whose simulated arm has the gripper; empty for the gripper of a real robot."""
        return self._address_topic.rpartition("/")[0]

    # For commands and goals: HandOwner.

    @property
    def hand(self) -> Hand | None:
        """The gripper while it is connected, else ``None``."""
        return self._connection if self._connected else None

    @property
    def why_no_hand(self) -> str:
        """Why it is not connected."""
        return self._why

    @property
    def busy(self) -> bool:
        """Whether an accepted goal has no result yet."""
        return self._actions.busy

    def parameter(self, name: str) -> Any:
        """Value of a parameter."""
        return self._settings[name]

    def next_tick(self) -> Awaitable[None]:
        """Done at the next tick."""
        return self._ticked

    # The connection.

    def _on_address(self, message: String) -> None:
        """The arm's node has started or ended a simulated arm."""
        if message.data == self._address:
            return
        self._address = message.data
        self._lost = False
        self._disconnect(
            f"not connected to {self._address} yet" if self._address else "the arm's node has ended the simulated arm"
        )
        self._next_attempt = 0.0

    def _tick(self) -> None:
        """Read from the gripper, publish its state, and wake the commands that wait for the tick."""
        try:
            if self._connection is not None:
                self._connection.poll()
            elif self._address and time.monotonic() >= self._next_attempt:
                self._connection = Hand(self._address)
        except ConnectionFailed as error:
            if self._connected or str(error) != self._why:  # Once, not at every attempt.
                self.get_logger().error(f"{error} (trying again every {_RETRY_PERIOD:g} s)")
            self._lost |= self._connected
            self._disconnect(str(error))
            if self._address_topic and self.count_publishers(self._address_topic) == 0:
                # The arm's node is gone, and so is its simulated arm; another one may use that address later.
                self._address = ""
        else:
            self._publish_state()
        ticked, self._ticked = self._ticked, Future()
        ticked.set_result(None)

    def _publish_state(self) -> None:
        """Publish the gripper's state, if it is connected."""
        connection = self._connection
        if connection is None or connection.state is None:
            return
        if not self._connected:
            self._connected, self._lost = True, False
            self.get_logger().info(f"connected to the gripper at {connection.address}")
        message = JointState(name=self._joints, position=[connection.state.width / 2.0] * 2)
        message.header.stamp = self.get_clock().now().to_msg()
        self._joint_states.publish(message)

    def _disconnect(self, why: str) -> None:
        connection, self._connection = self._connection, None
        self._connected = False
        self._why = why
        self._next_attempt = time.monotonic() + _RETRY_PERIOD
        if connection is not None:
            connection.close()

    async def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Stop the fingers, which release what they hold."""
        try:
            response.success = await self._gripper.stop("stopped by ~/stop")
            response.message = "" if response.success else "the gripper did not confirm that it stopped"
        except GripperFailed as error:
            response.success, response.message = False, str(error)
        return response

    # Diagnostics.

    def _publish_diagnostics(self) -> None:
        gripper = self._status()
        gripper.hardware_id = self._address or "sim"
        # With its namespace, because viewers distinguish statuses by name.
        gripper.name = f"{self.get_fully_qualified_name().lstrip('/')}: gripper"
        message = DiagnosticArray(status=[gripper])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _status(self) -> DiagnosticStatus:
        """The status of the gripper, with what to do if something is wrong."""
        values: dict[str, Any] = {"robot_ip": self._address or "sim"}
        values |= {f"goal rejected: {reason}": count for reason, count in sorted(self._actions.rejected.items())}
        recently = self._recent.update(self._actions.rejected)
        hand = self.hand
        if hand is None or hand.state is None:
            if not self._address:
                return condition("no arm", values, message=self._why, arm=self._arm)
            return condition("gripper lost" if self._lost else "no gripper", values, message=self._why)
        values |= {
            "width [m]": f"{hand.state.width:.4f}",
            "largest width [m]": f"{hand.state.max_width:.4f}",
            "holds something": hand.state.is_grasped,
            "temperature [deg C]": hand.state.temperature,
        }
        if recently:
            return condition("goal rejected", values, reasons=", ".join(sorted(recently)))
        return status(OK, "busy" if self._gripper.running else "connected", values)

    def abandon(self, reason: str) -> None:
        """End the command that runs, so that its goal gets a result; the fingers keep holding what they hold."""
        self._gripper.abandon(reason)

    def close(self) -> None:
        """Disconnect, and leave the graph."""
        self._disconnect("the gripper's node ends")
        self._actions.destroy()
        self.destroy_node()
