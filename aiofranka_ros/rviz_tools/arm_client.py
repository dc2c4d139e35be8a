"""The client of the arm's node that RViz's tools use: measured state, moves, targets, stop and recovery.

Used by the node of RViz's tools (:mod:`aiofranka_ros.rviz_tools.node`), in its process and its one thread. Everything
goes through the ROS graph. Nothing here waits: callbacks report results. The newest move replaces the one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from action_msgs.msg import GoalStatus
from action_msgs.srv import CancelGoal
from diagnostic_msgs.msg import DiagnosticStatus
from franka_msgs.action import ErrorRecovery, PTPMotion
from geometry_msgs.msg import PoseStamped
from rcl_interfaces.srv import GetParameters
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState

from aiofranka_ros.errors import InvalidTarget, MoveFailed
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.kinematics import control_frame
from aiofranka_ros.model.names import CONTROLLER
from aiofranka_ros.ros import messages, refusals
from aiofranka_ros.ros.clients import Presence, action_client
from aiofranka_ros.ros.refusals import RefusalReader

#: How long the reason for a rejection may take to arrive [s].
_REASON_TIMEOUT = 2.0
#: Endings of the names of the joints.
_JOINTS = [f"joint{number}" for number in range(1, 8)]


@dataclass(eq=False)
class _Move:
    """A goal of ``~/move``: joint positions there and at the start [rad] (7,), and the control frame's pose (4, 4)."""

    q: Array
    begin: Array
    pose: Array
    #: Whether to cancel it once it is accepted.
    stopped: bool = False


class _Rejection(NamedTuple):
    """A rejected goal whose reason may still arrive: until ``until`` [s, monotonic], ``on_reason`` waits for it."""

    goal: bytes
    until: float
    on_reason: Callable[[str], None]


class ArmClient:
    """A client, on ``node``, of the arm's node ``name`` in the same namespace.

    :param on_end: called when the newest move has ended, with the reason why it did not arrive; empty if it did.
    """

    def __init__(self, node: Node, name: str, on_end: Callable[[str], None]) -> None:
        self._node = node
        self._on_end = on_end
        self._joints: JointState | None = None
        self._pose: PoseStamped | None = None
        self._move: _Move | None = None
        #: Full name of the arm's node.
        self.name = name = f"{node.get_namespace().rstrip('/')}/{name}"
        #: Joint positions [rad] (7,), and pose of the control frame in the base (4, 4), measured at one instant.
        self.q, self.pose = np.zeros(7), np.eye(4)
        #: Name of the base frame; empty until the arm's node has published a state.
        self.frame = ""
        # A separate group: these two are frequent, everything else can wait, see UrgentFirstExecutor.
        often = ReentrantCallbackGroup()
        pose, qos = f"{name}/ee_pose", qos_profile_sensor_data
        node.create_subscription(JointState, "joint_states", self._on_joints, QoSProfile(depth=1), callback_group=often)
        node.create_subscription(PoseStamped, pose, self._on_pose, qos, callback_group=often)
        self._target = node.create_publisher(PoseStamped, f"{name}/ee_desired", QoSProfile(depth=1))
        self._move_action = action_client(node, PTPMotion, f"{name}/move")
        self._recovery = action_client(node, ErrorRecovery, f"{name}/error_recovery")
        self._presence = Presence(node, name)
        self._refusals = RefusalReader()
        node.create_subscription(DiagnosticStatus, f"{name}/{refusals.TOPIC}", self._refusals.receive, refusals.QOS)
        self._rejections: list[_Rejection] = []
        # For goals of any client.
        self._cancel = [
            node.create_client(CancelGoal, f"{action}/_action/cancel_goal")
            for action in (f"{name}/move", f"{CONTROLLER}/follow_joint_trajectory")
        ]
        self._parameters = node.create_client(GetParameters, f"{name}/get_parameters")

    def destroy(self) -> None:
        """Destroy the action clients."""
        self._move_action.destroy()
        self._recovery.destroy()

    # Measured state.

    def _on_joints(self, message: JointState) -> None:
        # The names may have any prefix; those of a gripper, in separate messages, end differently.
        if sorted(name[-len(_JOINTS[0]) :] for name in message.name) == _JOINTS:
            self._joints = message
            self._update()

    def _on_pose(self, message: PoseStamped) -> None:
        self._pose = message
        self._update()

    def _update(self) -> None:
        """Keep positions and pose if they were measured at the same instant: together, they give the control frame."""
        if self._joints is None or self._pose is None or self._joints.header.stamp != self._pose.header.stamp:
            return
        joints = sorted(zip(self._joints.name, self._joints.position, strict=False))
        self.q = np.array([position for _, position in joints])
        self.pose = messages.pose_of(self._pose)
        self.frame = self._pose.header.frame_id

    @property
    def flange_to_tcp(self) -> Array:
        """Pose of the control frame in the flange (4, 4).

        Computed on demand, not with every message: after each linear system, however small, a thread of OpenBLAS keeps
        a processor busy for some hundredths of a second, waiting for another one.
        """
        return np.linalg.solve(control_frame(self.q), self.pose)

    def in_base(self, message: PoseStamped) -> Array:
        """The pose in ``message`` (4, 4), which must be given in the base: the fixed frame of RViz and of the marker.

        :raises InvalidTarget: it is given in another frame, or is not a valid pose.
        """
        frame = message.header.frame_id
        # `base` is the common root of several arms with different prefixes.
        if frame not in ("", self.frame) and (frame, self.frame) != ("base", "fr3_link0"):
            raise InvalidTarget(f"its frame is {frame!r}, but RViz's fixed frame must be {self.frame!r}")
        return messages.pose_of(message)

    # Moves.

    @property
    def moving(self) -> bool:
        """Whether a requested move has not ended yet."""
        return self._move is not None

    @property
    def destination(self) -> Array:
        """Pose of the control frame at the end of the move, or now if no move runs (4, 4)."""
        return self.pose if self._move is None else self._move.pose

    @property
    def progress(self) -> float:
        """How much of the move is done, from 0 to 1; 1 if no move runs."""
        if self._move is None:
            return 1.0
        way = np.abs(self._move.q - self._move.begin).max()
        left = np.abs(self._move.q - self.q).max()
        return float(np.clip(1.0 - left / way, 0.0, 1.0)) if way > 0.0 else 1.0

    def move(self, q: Array) -> None:
        """Request a move to joint positions ``q`` [rad] (7,), which replaces the one before.

        :raises MoveFailed: the arm's node does not run.
        """
        if not self._move_action.server_is_ready():
            raise MoveFailed(f"the arm's node {self.name} does not run")
        move = self._move = _Move(q, self.q.copy(), control_frame(q, self.flange_to_tcp))
        goal = PTPMotion.Goal(goal_joint_configuration=q.tolist())
        goal_id = self._presence.goal_id()
        sent = self._move_action.send_goal_async(goal, goal_uuid=goal_id)
        sent.add_done_callback(lambda future: self._on_answer(move, bytes(goal_id.uuid), future.result()))

    def check(self) -> None:
        """End the move if the arm's node is gone, which would send no result, and report rejections; called often."""
        if self._move is not None and not self._move_action.server_is_ready():
            self._end(self._move, f"the arm's node {self.name} is gone")
        waiting, self._rejections = self._rejections, []
        for rejection in waiting:
            reason = self._refusals.why(rejection.goal)
            if reason or time.monotonic() > rejection.until:
                rejection.on_reason(reason or "its log says why")
            else:
                self._rejections.append(rejection)

    def stop(self) -> None:
        """Make the arm slow down and hold, whichever client moves it."""
        if self._move is not None:
            self._move.stopped = True
        for client in self._cancel:
            if client.service_is_ready():
                client.call_async(CancelGoal.Request())  # An empty request cancels all goals.

    def _rejected(self, goal: bytes, on_reason: Callable[[str], None]) -> None:
        """Call ``on_reason`` with the reason why a goal was rejected: at a check, because it may arrive later."""
        self._rejections.append(_Rejection(goal, time.monotonic() + _REASON_TIMEOUT, on_reason))

    def _on_answer(self, move: _Move, goal: bytes, handle: Any) -> None:
        if not handle.accepted:
            self._rejected(goal, lambda reason: self._end(move, f"{self.name} rejected the move: {reason}"))
            return
        if move.stopped:
            handle.cancel_goal_async()
        handle.get_result_async().add_done_callback(lambda future: self._on_result(move, future.result()))

    def _on_result(self, move: _Move, answer: Any) -> None:
        if answer.status == GoalStatus.STATUS_SUCCEEDED:
            self._end(move, "")
        elif answer.status == GoalStatus.STATUS_CANCELED:
            self._end(move, "stopped")
        else:
            self._end(move, answer.result.error_message or f"{self.name} aborted the move; its log says why")

    def _end(self, move: _Move, why: str) -> None:
        if move is self._move:  # The result of a replaced move does not matter.
            self._move = None
            self._on_end(why)

    # Targets, mode and recovery.

    def stream(self, pose: Array) -> None:
        """Publish a target for the control frame in the base (4, 4), for mode ``osc``."""
        stamp = self._node.get_clock().now().to_msg()
        self._target.publish(messages.pose_stamped(pose, stamp, self.frame))

    def ask_mode(self, on_mode: Callable[[str], None]) -> None:
        """Ask for the mode; ``on_mode`` gets an empty one if the arm's node does not answer."""
        if not self._parameters.service_is_ready():
            on_mode("")
            return
        asked = self._parameters.call_async(GetParameters.Request(names=["mode"]))
        asked.add_done_callback(lambda future: on_mode(future.result().values[0].string_value))

    def recover(self, on_end: Callable[[str], None]) -> None:
        """Clear the robot's errors and take torque control again.

        :param on_end: called with the reason why that failed; empty if it succeeded.
        """
        if not self._recovery.server_is_ready():
            on_end(f"{self.name} offers no error_recovery")
            return

        def accepted(future: Any) -> None:
            handle = future.result()
            if handle.accepted:
                handle.get_result_async().add_done_callback(ended)
            else:
                self._rejected(goal, lambda reason: on_end(f"{self.name} rejected the recovery: {reason}"))

        def ended(future: Any) -> None:
            succeeded = future.result().status == GoalStatus.STATUS_SUCCEEDED
            on_end("" if succeeded else f"{self.name} could not recover; its log says why")

        goal_id = self._presence.goal_id()
        goal = bytes(goal_id.uuid)
        sent = self._recovery.send_goal_async(ErrorRecovery.Goal(), goal_uuid=goal_id)
        sent.add_done_callback(accepted)
