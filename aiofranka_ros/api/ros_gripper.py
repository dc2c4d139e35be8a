"""The gripper behind a running node: the node ``franka_gripper`` in the namespace of the arm's node.

Used by :class:`~aiofranka_ros.api.ros_interface.RosInterface`, in the policy's process and event loop. Commands are
goals of the node's actions, and a width is a chunk of one point, so that the node decides what a repeated one is. The
state arrives in rclpy's thread, so that it is new even while the event loop is blocked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from franka_msgs.action import Grasp, Homing, Move
from franka_msgs.msg import GraspEpsilon
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import qos_profile_sensor_data
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from aiofranka_ros.api.gripper import GripperLink, GripperRequest, GripperState, explained
from aiofranka_ros.api.link import uninterrupted, until_stopped
from aiofranka_ros.api.ros_client import RosClient
from aiofranka_ros.api.ros_goals import Goals
from aiofranka_ros.arm.gripper.commands import BEYOND, width_of
from aiofranka_ros.arm.gripper.connection import HandState, Request
from aiofranka_ros.errors import GripperFailed, InvalidTarget, NotStarted
from aiofranka_ros.ros import refusals
from aiofranka_ros.ros.clients import action_client
from aiofranka_ros.ros.gripper_state import TOPIC, read_gripper_state
from aiofranka_ros.ros.trajectories import joint_trajectory
from aiofranka_ros.ros.warnings import Warnings

_log = logging.getLogger(__name__)

#: Name of the gripper's node, in the namespace of the arm's.
GRIPPER = "franka_gripper"
#: How long discovery of the node may take, since the start [s].
_DISCOVERY_TIMEOUT = 5.0
#: A gripper that is silent for this long is not connected [s], and a node that is silent for so long is lost. It
#: publishes at 10 Hz or more, and ends its goals itself if it loses the gripper.
_SILENCE, _LOST = 1.0, 5.0
#: How often to check for what is not there yet [s], and how long a state that is newer than a result may take.
_POLL_PERIOD, _STATE_TIMEOUT = 0.02, 0.5


class GripperConnection:
    """What one client has of the gripper's node.

    :param client: not yet started.
    :param name: full name of the gripper's node.
    """

    def __init__(self, client: RosClient, name: str) -> None:
        self.client, self.name = client, name
        self.began = time.monotonic()
        #: The newest state, when it arrived [s, monotonic], and why there is none, as far as the node has said.
        self.newest: GripperState | None = None
        self.heard = 0.0
        self.why = ""
        node, group = client.node, ReentrantCallbackGroup()
        self.goals = Goals(client, name, self._on_refused, lasting=True)
        self.actions = {
            Request.HOMING: action_client(node, Homing, f"{name}/homing"),
            Request.MOVE: action_client(node, Move, f"{name}/move"),
            Request.GRASP: action_client(node, Grasp, f"{name}/grasp"),
        }
        self.stop = node.create_client(Trigger, f"{name}/stop")
        self.widths = node.create_publisher(JointTrajectory, f"{name}/gripper_chunk", 1)
        self.warnings = Warnings(_log.warning)
        subscribe, in_loop = node.create_subscription, client.in_loop
        subscribe(DiagnosticStatus, f"{name}/{refusals.TOPIC}", in_loop(self.goals.refusals.receive), refusals.QOS)
        options = {"callback_group": group, "raw": True}
        subscribe(Float64MultiArray, f"{name}/{TOPIC}", self._receive, qos_profile_sensor_data, **options)

    @property
    def state(self) -> GripperState | None:
        """The newest state, unless it is old: then the gripper is not connected any more."""
        return self.newest if time.monotonic() - self.heard < _SILENCE else None

    @property
    def tried(self) -> bool:
        """Whether it is known if there is a gripper."""
        return self.state is not None or self.why != "" or time.monotonic() - self.began > _DISCOVERY_TIMEOUT

    @property
    def listens(self) -> bool:
        """Whether the node has a gripper and gets widths."""
        return self.state is not None and self.widths.get_subscription_count() > 0

    def send(self, width: float) -> None:
        """Send a width [m]; may be called from any thread."""
        self.widths.publish(joint_trajectory(0, (), np.array([[width]]), 0.0))

    @property
    def missing(self) -> GripperFailed:
        """Why there is no state."""
        if not self.tried:
            return GripperFailed(f"nothing was heard of {self.name} yet: await controller.gripper.next_state() first")
        if self.widths.get_subscription_count() == 0:
            return GripperFailed(
                f"there is no node {self.name} on the ROS graph: start python -m aiofranka_ros.gripper_node, in the "
                "namespace of the arm's node"
            )
        return GripperFailed(f"the node {self.name} has no gripper: {self.why or 'see its log'}")

    def diagnose(self, message: DiagnosticArray) -> None:
        """Remember what the node says about its gripper."""
        for status in message.status:
            node, _, what = status.name.partition(": ")
            if what == "gripper" and f"/{node}" == self.name:
                self.why = "" if any(value.key == "width [m]" for value in status.values) else status.message

    def _receive(self, data: bytes) -> None:
        """In rclpy's thread."""
        try:
            self.newest = GripperState(*read_gripper_state(data))
        except InvalidTarget:  # Of another version of this package; then there is no state.
            return
        self.heard = time.monotonic()

    def _on_refused(self, refusal: refusals.Refusal) -> None:
        """A width of any client was refused, since the node began."""
        self.warnings.warn(refusal.what, f"the node {self.name} refused {refusal.what}: {refusal.message}")


class RosGripper(GripperLink):
    """The gripper of an arm behind a node.

    :param arm: full name of the arm's node.
    """

    def __init__(self, arm: str) -> None:
        self.name = f"{arm.rpartition('/')[0]}/{GRIPPER}"
        self._connection: GripperConnection | None = None
        #: The newest width, while the gripper's node is not discovered.
        self._waiting: float | None = None

    def open(self, client: RosClient) -> None:
        """Use ``client``, which is not started yet."""
        self._connection = GripperConnection(client, self.name)

    def close(self) -> None:
        """The client leaves the graph, so the node stops the fingers if they move for it; what is held stays held."""
        self._connection = None

    def diagnose(self, message: DiagnosticArray) -> None:
        """Remember what concerns the gripper."""
        if self._connection is not None:
            self._connection.diagnose(message)

    def state(self) -> GripperState:
        """See :meth:`.GripperLink.state`."""
        connection = self._require()
        state = connection.state
        if state is None:
            raise connection.missing
        return state

    async def next_state(self) -> GripperState:
        """See :meth:`.GripperLink.next_state`."""
        connection, begin = self._require(), time.monotonic()
        await self._tried()
        while connection.heard <= begin:
            self.state()  # Raises if it is lost.
            await asyncio.sleep(_POLL_PERIOD)
        return self.state()

    async def run(self, request: GripperRequest) -> None:
        """See :meth:`.GripperLink.run`."""
        await self._tried()
        await until_stopped(lambda cancelled: self._pursue(request, cancelled))

    async def stop(self) -> None:
        """See :meth:`.GripperLink.stop`."""
        await self._tried()
        connection = self._require()
        if not await connection.client.ready(connection.stop.service_is_ready, timeout=_DISCOVERY_TIMEOUT):
            raise connection.missing
        answer = await uninterrupted(connection.client.call(connection.stop, Trigger.Request(), lasting=True))
        if not answer.success:
            raise GripperFailed(f"the node {self.name}: {answer.message}")
        await self._newer_state(connection)

    def set_width(self, width: float) -> None:
        """See :meth:`.GripperLink.set_width`."""
        connection = self._require()
        state = connection.state
        if state is None and connection.tried:
            raise connection.missing
        if state is not None:
            try:
                width_of(width, HandState(*state[:4]), slack=BEYOND)
            except InvalidTarget as error:
                raise explained(error) from None
        if connection.listens:
            self._waiting = None
            connection.send(width)
        else:
            connection.client.in_loop(lambda _: self._send_later(connection, width))(None)

    def _send_later(self, connection: GripperConnection, width: float) -> None:
        """Send a width as soon as the node is there; in the event loop."""
        polls = self._waiting is not None
        self._waiting = width
        if not polls:
            self._poll(connection)

    def _poll(self, connection: GripperConnection) -> None:
        width = self._waiting
        if width is None or connection is not self._connection:
            self._waiting = None
        elif connection.listens:
            self._waiting = None
            connection.send(width)
        elif connection.tried and connection.state is None:
            self._waiting = None
            _log.warning("a width of the gripper was not reached: %s", connection.missing)
        else:
            asyncio.get_running_loop().call_later(_POLL_PERIOD, self._poll, connection)

    async def _pursue(self, request: GripperRequest, cancelled: asyncio.Event) -> None:
        connection = self._require()
        action, name = connection.actions[request.kind], f"{self.name}/{request.kind.name.lower()}"
        if not await connection.client.ready(action.server_is_ready, timeout=_DISCOVERY_TIMEOUT):
            raise connection.missing
        try:
            pursuit = connection.goals.pursue(action, name, _goal(request), cancelled)
            outcome = await self._unless_lost(connection, pursuit)
        except InvalidTarget as error:
            raise explained(error, f"the node {self.name} refused it: ") from None
        if not outcome.result.success and not cancelled.is_set():
            raise GripperFailed(outcome.result.error or f"the node {self.name} gave no reason why it failed")
        await self._newer_state(connection)

    async def _unless_lost(self, connection: GripperConnection, pursuit: Coroutine[Any, Any, Any]) -> Any:
        """Await ``pursuit``, unless nothing is heard of the node for too long."""
        task = asyncio.ensure_future(pursuit)
        try:
            while not (await asyncio.wait([task], timeout=_SILENCE))[0]:
                if time.monotonic() - connection.heard > _LOST:
                    raise GripperFailed(f"nothing was heard of the node {self.name} for {_LOST:g} s: did it end?")
        finally:
            task.cancel()
        return task.result()

    async def _newer_state(self, connection: GripperConnection) -> None:
        """Wait until the state is newer than the answer that has just come."""
        now = time.monotonic()
        while connection.heard <= now and time.monotonic() < now + _STATE_TIMEOUT:
            await asyncio.sleep(_POLL_PERIOD)

    async def _tried(self) -> None:
        """Wait until it is known whether there is a gripper.

        :raises GripperFailed: there is none.
        """
        while not self._require().tried:
            await asyncio.sleep(_POLL_PERIOD)
        self.state()

    def _require(self) -> GripperConnection:
        connection = self._connection
        if connection is None:
            raise NotStarted("the controller does not run: await controller.start() first")
        return connection


def _goal(request: GripperRequest) -> Any:
    """The goal message of a request; there, too, 0 means the default."""
    if request.kind is Request.HOMING:
        return Homing.Goal()
    if request.kind is Request.MOVE:
        return Move.Goal(width=request.width, speed=request.speed)
    epsilon = GraspEpsilon(inner=request.inner, outer=request.outer)
    return Grasp.Goal(width=request.width, speed=request.speed, force=request.force, epsilon=epsilon)
