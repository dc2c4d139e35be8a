"""The action ``~/move``: a joint-space move to a goal, with feedback, cancellable, replaced by a new one.

Used by the node, in its process and its one thread: a goal is a coroutine of the executor, see
:mod:`aiofranka_ros.arm.moves`.
"""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
from franka_msgs.action import PTPMotion
from franka_msgs.msg import TargetStatus
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.lifecycle import LifecycleNode

from aiofranka_ros.arm.moves import Goal, MoveCancelled, Mover, Owner
from aiofranka_ros.arm.planning import check_goal
from aiofranka_ros.errors import InvalidTarget, MoveFailed
from aiofranka_ros.kernels import Record
from aiofranka_ros.model.fr3 import VELOCITY_LIMIT
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.ros.messages import joint_values

#: The action's names: this node's, and that of franka_ros2.
NAMES = ("~/move", "action_server/ptp_motion")
_FEEDBACK_PERIOD = 0.05


class MoveAction:
    """The servers of ``~/move``, which goes by two names.

    They exist in every state of the node, so that a goal for an inactive arm is rejected with a reason instead
    of being waited for.

    :param node: where to serve and log.
    :param owner: what the node knows of the arm.
    :param mover: what moves the arm; whoever else has it replaces these moves, and the other way round.
    :param names: what the joints are called.
    """

    def __init__(self, node: LifecycleNode, owner: Owner, mover: Mover, names: ArmNames) -> None:
        self._node = node
        self._owner = owner
        self._mover = mover
        self._names = names
        self._pursued = 0
        #: Rejected goals by reason, since the node was started.
        self.rejected: Counter[str] = Counter()
        self._servers = [
            ActionServer(
                node,
                PTPMotion,
                name,
                self._execute,
                goal_callback=self._on_goal,
                cancel_callback=lambda handle: CancelResponse.ACCEPT,
            )
            for name in NAMES
        ]

    @property
    def busy(self) -> bool:
        """Whether a goal was accepted whose result is still to come."""
        return self._pursued > 0

    def destroy(self) -> None:
        """Serve no more goals."""
        for server in self._servers:
            server.destroy()

    def _on_goal(self, goal: PTPMotion.Goal) -> GoalResponse:
        try:
            self._mover.check(self._parse(goal))
        except InvalidTarget as error:
            self.rejected[error.reason] += 1
            self._node.get_logger().warning(f"rejected a goal of ~/move: {error}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _parse(self, goal: PTPMotion.Goal) -> Goal:
        """The goal as it is pursued, defaults filled in.

        :raises InvalidTarget: one of them cannot be used.
        """
        q = joint_values(goal.goal_joint_configuration, "goal_joint_configuration")
        check_goal(q, self._names.joints)
        if len(goal.maximum_joint_velocities) == 0:
            velocity = self._owner.parameter("move_velocity")
        else:
            velocity = joint_values(goal.maximum_joint_velocities, "maximum_joint_velocities")
            if (velocity <= 0.0).any():
                raise InvalidTarget(
                    f"maximum_joint_velocities must be positive: {velocity.tolist()} rad/s",
                    reason="bad velocity",
                )
            # The goal's lower bound wins; a higher one than the arm's cannot.
            velocity = np.minimum(velocity, VELOCITY_LIMIT)
        tolerance = goal.goal_tolerance
        if not (np.isfinite(tolerance) and tolerance >= 0.0):
            raise InvalidTarget(
                f"goal_tolerance is {tolerance} rad, but must be positive, or 0 for the default",
                reason="bad tolerance",
            )
        return Goal(q, velocity, tolerance or self._owner.parameter("move_tolerance"), self._names.joints)

    async def _execute(self, handle: ServerGoalHandle) -> PTPMotion.Result:
        """Pursue one goal to its end; whatever that is, the arm then holds and the mode has it back."""
        self._pursued += 1
        try:
            await self._pursue(handle)
        except MoveFailed as failure:
            self._node.get_logger().warning(f"~/move was aborted: {failure}")
            if handle.is_active:
                handle.abort()
            return _result(TargetStatus.ABORTED, str(failure))
        except MoveCancelled:
            if handle.is_active:
                handle.canceled()
            # Not ABORTED: nothing failed. The arm holds and pursues nothing, which is what IDLE says.
            return _result(TargetStatus.IDLE, "cancelled")
        finally:
            self._pursued -= 1
        if handle.is_active:
            handle.succeed()
        return _result(TargetStatus.TARGET_REACHED, "")

    async def _pursue(self, handle: ServerGoalHandle) -> None:
        """:raises MoveFailed, MoveCancelled: how it ended where it was not reached."""
        try:
            goal = self._parse(handle.request)
        except InvalidTarget as error:  # The parameters that it was accepted under have changed since.
            raise MoveFailed(str(error)) from error
        feedback = PTPMotion.Feedback(target_status=TargetStatus(status=TargetStatus.EXECUTING))
        next_feedback = time.monotonic()

        def tell(state: Record) -> None:
            nonlocal next_feedback
            now = time.monotonic()
            if now >= next_feedback:
                next_feedback = now + _FEEDBACK_PERIOD
                handle.publish_feedback(feedback)

        self._node.get_logger().info(f"~/move to {np.round(goal.q, 3).tolist()} rad")
        await self._mover.move(goal, owner="~/move", cancelled=lambda: handle.is_cancel_requested, on_tick=tell)


def _result(status: int, message: str) -> PTPMotion.Result:
    return PTPMotion.Result(target_status=TargetStatus(status=status), error_message=message)
