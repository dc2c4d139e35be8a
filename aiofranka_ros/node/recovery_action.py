"""The action ``~/error_recovery``: from wherever the robot stopped to an active arm that holds, in one call.

Used by the node, in its process and its one thread. It does what activating the node does: a reflex is cleared, an arm
that was lost is connected again, targets of before are forgotten, and the arm holds where it is. An active arm stays as
it is, so it does no harm to call it once too often. Its result says nothing but whether it succeeded; why not stands in
the log and on ``/diagnostics``.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from franka_msgs.action import ErrorRecovery
from rclpy.action import ActionServer, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from aiofranka_ros.arm import moves

#: The action's names: this node's, and that of franka_ros2.
NAMES = ("~/error_recovery", "action_server/error_recovery")


class Owner(moves.Owner, Protocol):
    """What recovery needs of the node."""

    @property
    def configured(self) -> bool:
        """Whether the node is inactive or active, although the arm may have been lost since."""


class RecoveryAction:
    """The servers of the action.

    They exist in every state of the node, so that a goal for an arm that is not connected is rejected with a reason.

    :param node: where to serve and log.
    :param owner: what the node knows of the arm.
    """

    def __init__(self, node: LifecycleNode, owner: Owner) -> None:
        self._node = node
        self._owner = owner
        self._pursued = 0
        #: Rejected goals by reason, since the node was started.
        self.rejected: Counter[str] = Counter()
        # Goals cannot be cancelled: recovering is over before a request for that could be heard.
        self._servers = [
            ActionServer(node, ErrorRecovery, name, self._execute, goal_callback=self._on_goal) for name in NAMES
        ]

    @property
    def busy(self) -> bool:
        """Whether a goal was accepted whose result is still to come."""
        return self._pursued > 0

    def destroy(self) -> None:
        """Serve no more goals."""
        for server in self._servers:
            server.destroy()

    def _on_goal(self, goal: ErrorRecovery.Goal) -> GoalResponse:
        if not self._owner.configured:
            self.rejected["not configured"] += 1
            self._node.get_logger().warning(
                f"rejected a goal of ~/error_recovery: the node is not configured{self._owner.why_inactive}"
            )
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    async def _execute(self, handle: ServerGoalHandle) -> ErrorRecovery.Result:
        self._pursued += 1
        try:
            await self._owner.next_tick()  # By then the node knows if the robot has just stopped.
            recovered = self._recover()
        finally:
            self._pursued -= 1
        if handle.is_active:
            handle.succeed() if recovered else handle.abort()
        return ErrorRecovery.Result()

    def _recover(self) -> bool:
        """Activate the arm where it is not; return whether it is active now."""
        if self._owner.active_client is not None:
            return True
        if self._owner.configured and self._node.trigger_activate() == TransitionCallbackReturn.SUCCESS:
            return True
        self._node.get_logger().warning(
            f"~/error_recovery was aborted: the arm could not be activated{self._owner.why_inactive}"
        )
        return False
