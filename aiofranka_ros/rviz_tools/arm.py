"""The arm as RViz's tools see it: what the arm's node measures, and what it can be asked to do, newest wish first.

Used by the node of RViz's tools (:mod:`aiofranka_ros.rviz_tools`), in its process and its one thread. Everything goes
through the graph; nothing here waits: what comes of a wish is told to callbacks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from action_msgs.msg import GoalStatus
from action_msgs.srv import CancelGoal
from franka_msgs.action import ErrorRecovery, PTPMotion
from geometry_msgs.msg import PoseStamped
from rcl_interfaces.srv import GetParameters
from rclpy.action import ActionClient
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState

from aiofranka_ros.errors import InvalidTarget, MoveFailed
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.kinematics import control_frame
from aiofranka_ros.model.names import CONTROLLER
from aiofranka_ros.ros import messages

#: What the names of the joints end with.
_JOINTS = [f"joint{number}" for number in range(1, 8)]


class _Wish:
    """A goal of ``~/move`` that was asked for.

    :ivar q: where to [rad] (7,).
    :ivar begin: where from [rad] (7,).
    :ivar pose: where the control frame will be (4, 4).
    :ivar stopped: whether it is to be cancelled once it is accepted.
    """

    def __init__(self, q: Array, begin: Array, pose: Array) -> None:
        self.q, self.begin, self.pose = q, begin, pose
        self.stopped = False


class Arm:
    """One arm's node.

    :param node: where to subscribe and ask.
    :param name: name of the arm's node, in the namespace of ``node``.
    :param on_end: called when the newest move has ended, with the reason why it did not arrive, empty if it did.
    """

    def __init__(self, node: Node, name: str, on_end: Callable[[str], None]) -> None:
        self._node = node
        self._on_end = on_end
        self._joints: JointState | None = None
        self._pose: PoseStamped | None = None
        self._wish: _Wish | None = None
        #: Full name of the arm's node.
        self.name = name = f"{node.get_namespace().rstrip('/')}/{name}"
        #: Joint positions [rad] (7,), and pose of the control frame in the base (4, 4), measured at one instant.
        self.q, self.pose = np.zeros(7), np.eye(4)
        #: Frame of the base; empty as long as nothing was measured.
        self.frame = ""
        # A group of its own: these two come often, and all the rest can wait, see UrgentFirstExecutor.
        often = ReentrantCallbackGroup()
        for kind, topic, callback, qos in (
            (JointState, "joint_states", self._on_joints, QoSProfile(depth=1)),
            (PoseStamped, f"{name}/ee_pose", self._on_pose, qos_profile_sensor_data),
        ):
            node.create_subscription(kind, topic, callback, qos, callback_group=often)
        self._target = node.create_publisher(PoseStamped, f"{name}/ee_desired", QoSProfile(depth=1))
        self._move = ActionClient(node, PTPMotion, f"{name}/move")
        self._recovery = ActionClient(node, ErrorRecovery, f"{name}/error_recovery")
        # Whatever moves the arm: what others have asked for as well.
        self._cancel = [
            node.create_client(CancelGoal, f"{action}/_action/cancel_goal")
            for action in (f"{name}/move", f"{CONTROLLER}/follow_joint_trajectory")
        ]
        self._parameters = node.create_client(GetParameters, f"{name}/get_parameters")

    def destroy(self) -> None:
        """Ask for nothing any more."""
        self._move.destroy()
        self._recovery.destroy()

    # What is measured.

    def _on_joints(self, message: JointState) -> None:
        self._joints = message
        self._measure()

    def _on_pose(self, message: PoseStamped) -> None:
        self._pose = message
        self._measure()

    def _measure(self) -> None:
        """Take in what was measured at one instant: together, positions and pose tell where the control frame is."""
        if self._joints is None or self._pose is None or self._joints.header.stamp != self._pose.header.stamp:
            return
        # Whatever the names begin with; a gripper's end otherwise.
        joints = sorted(zip(self._joints.name, self._joints.position, strict=False))
        if [name[-len(_JOINTS[0]) :] for name, _ in joints] != _JOINTS:
            return
        self.q = np.array([position for _, position in joints])
        self.pose = messages.pose_of(self._pose)
        self.frame = self._pose.header.frame_id

    @property
    def flange_to_tcp(self) -> Array:
        """Pose of the control frame in the flange (4, 4).

        Computed when it is asked for, and not with every message: after each solution of a linear system, however
        small, a thread of OpenBLAS keeps a processor busy for some hundredths of a second in case there is another.
        """
        return np.linalg.solve(control_frame(self.q), self.pose)

    def in_base(self, message: PoseStamped) -> Array:
        """The pose in ``message`` (4, 4), which must be given in the base: RViz's fixed frame, and the marker's.

        :raises InvalidTarget: it is given in another frame, or cannot be used.
        """
        frame = message.header.frame_id
        # Of several arms, each with a prefix of its own, `base` is the common root.
        if frame not in ("", self.frame) and (frame, self.frame) != ("base", "fr3_link0"):
            raise InvalidTarget(f"its frame is {frame!r}, but RViz's fixed frame must be {self.frame!r}")
        return messages.pose_of(message)

    # Moves.

    @property
    def moving(self) -> bool:
        """Whether a move that was asked for is still to end."""
        return self._wish is not None

    @property
    def destination(self) -> Array:
        """Where the control frame will be when the move has ended, or is where none runs (4, 4)."""
        return self.pose if self._wish is None else self._wish.pose

    @property
    def progress(self) -> float:
        """How much of the move is done, from 0 to 1; 1 where none runs."""
        if self._wish is None:
            return 1.0
        way = np.abs(self._wish.q - self._wish.begin).max()
        left = np.abs(self._wish.q - self.q).max()
        return float(np.clip(1.0 - left / way, 0.0, 1.0)) if way > 0.0 else 1.0

    def move(self, q: Array) -> None:
        """Ask for a move to joint positions ``q`` [rad] (7,); the one before is replaced.

        :raises MoveFailed: nobody is there to ask.
        """
        if not self._move.server_is_ready():
            raise MoveFailed(f"the arm's node {self.name} does not run")
        wish = self._wish = _Wish(q, self.q.copy(), control_frame(q, self.flange_to_tcp))
        goal = PTPMotion.Goal(goal_joint_configuration=q.tolist())
        self._move.send_goal_async(goal).add_done_callback(lambda future: self._on_answer(wish, future.result()))

    def check(self) -> None:
        """Notice where the arm's node is gone, and with it the result of a move; called now and then."""
        if self._wish is not None and not self._move.server_is_ready():
            self._end(self._wish, f"the arm's node {self.name} is gone")

    def stop(self) -> None:
        """Let the arm slow down and hold, whoever moves it."""
        if self._wish is not None:
            self._wish.stopped = True
        for client in self._cancel:
            if client.service_is_ready():
                client.call_async(CancelGoal.Request())  # Of no goal in particular: of all.

    def _on_answer(self, wish: _Wish, handle: Any) -> None:
        if not handle.accepted:
            self._end(wish, f"{self.name} rejected the move; its log says why")
            return
        if wish.stopped:
            handle.cancel_goal_async()
        handle.get_result_async().add_done_callback(lambda future: self._on_result(wish, future.result()))

    def _on_result(self, wish: _Wish, answer: Any) -> None:
        if answer.status == GoalStatus.STATUS_SUCCEEDED:
            self._end(wish, "")
        elif answer.status == GoalStatus.STATUS_CANCELED:
            self._end(wish, "stopped")
        else:
            self._end(wish, answer.result.error_message or f"{self.name} aborted the move; its log says why")

    def _end(self, wish: _Wish, why: str) -> None:
        if wish is self._wish:  # A replaced one is of no interest.
            self._wish = None
            self._on_end(why)

    # Everything else.

    def stream(self, pose: Array) -> None:
        """Send a target of the control frame (4, 4) in the base, for mode ``osc``."""
        stamp = self._node.get_clock().now().to_msg()
        self._target.publish(messages.pose_stamped(pose, stamp, self.frame))

    def ask_mode(self, on_mode: Callable[[str], None]) -> None:
        """Find out the mode; empty where nobody answers the question."""
        if not self._parameters.service_is_ready():
            on_mode("")
            return
        asked = self._parameters.call_async(GetParameters.Request(names=["mode"]))
        asked.add_done_callback(lambda future: on_mode(future.result().values[0].string_value))

    def recover(self, on_end: Callable[[str], None]) -> None:
        """Clear the robot's errors and take torque control again.

        :param on_end: called with the reason why that did not succeed, empty if it did.
        """
        if not self._recovery.server_is_ready():
            on_end(f"{self.name} offers no error_recovery")
            return

        def accepted(future: Any) -> None:
            handle = future.result()
            if handle.accepted:
                handle.get_result_async().add_done_callback(ended)
            else:
                on_end(f"{self.name} rejected the recovery; its log says why")

        def ended(future: Any) -> None:
            succeeded = future.result().status == GoalStatus.STATUS_SUCCEEDED
            on_end("" if succeeded else f"{self.name} could not recover; its log says why")

        self._recovery.send_goal_async(ErrorRecovery.Goal()).add_done_callback(accepted)
