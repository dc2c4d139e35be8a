"""The action ``~/error_recovery``: from wherever the robot stopped to an active arm that holds, in one call.

Used by the node, in its process and its one thread. It does what activating the node does: it clears a reflex, connects
again to an arm that was lost, forgets earlier targets, and holds the arm where it is. It leaves an active arm alone, so
an unnecessary call does no harm. The result only says whether it succeeded; the reason for a failure is in the log and
on ``/diagnostics``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from franka_msgs.action import ErrorRecovery
from rclpy.action.server import ServerGoalHandle
from rclpy.lifecycle import TransitionCallbackReturn

from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.ros.actions import Actions, Ending

if TYPE_CHECKING:
    from aiofranka_ros.node.lifecycle import FrankaNode

#: The action's names: this node's, and that of franka_ros2.
NAMES = ("~/error_recovery", "action_server/error_recovery")


class RecoveryAction:
    """The action ``~/error_recovery``, which goes by two names."""

    def __init__(self, node: FrankaNode, actions: Actions) -> None:
        self._node = node
        self._actions = actions
        # Not cancellable: recovery is over before a request to cancel it could be read.
        actions.serve(ErrorRecovery, NAMES, self._check, self._pursue, cancellable=False)

    def _check(self, goal: ErrorRecovery.Goal) -> None:
        """:raises InvalidTarget: there is nothing to activate."""
        if not self._node.configured:
            raise InvalidTarget(f"the node is not configured{self._node.why_inactive}", reason="not configured")

    async def _pursue(self, handle: ServerGoalHandle, checked: None) -> Ending:
        await self._node.next_tick()  # After it, the node knows whether the robot has just stopped.
        if reason := self._actions.why_abandoned(handle):
            return Ending(ErrorRecovery.Result(), failure=reason)
        if self._node.active_client is None and not self._activate():
            failure = f"the arm could not be activated{self._node.why_inactive}"
            return Ending(ErrorRecovery.Result(), failure=failure)
        return Ending(ErrorRecovery.Result())

    def _activate(self) -> bool:
        return self._node.configured and self._node.trigger_activate() == TransitionCallbackReturn.SUCCESS
