"""The action ``~/move``: a joint-space move to a goal, with feedback; it can be cancelled, and a new goal replaces it.

Used by the node, in its process and its one thread: a goal is a coroutine of the executor, see
:mod:`aiofranka_ros.arm.moves`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from franka_msgs.action import PTPMotion
from franka_msgs.msg import TargetStatus
from rclpy.action.server import ServerGoalHandle

from aiofranka_ros.arm.moves import MoveCancelled, Mover, Plan
from aiofranka_ros.arm.tasks import Goal, Tolerance
from aiofranka_ros.errors import InvalidTarget, MoveFailed
from aiofranka_ros.model.fr3 import VELOCITY_LIMIT
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.ros.actions import Actions, Ending, at_intervals
from aiofranka_ros.ros.messages import joint_values

if TYPE_CHECKING:
    from aiofranka_ros.node.lifecycle import FrankaNode

#: The action's names: this node's, and that of franka_ros2.
NAMES = ("~/move", "action_server/ptp_motion")
_FEEDBACK_PERIOD = 0.05


class MoveAction:
    """The action ``~/move``, which goes by two names."""

    def __init__(self, node: FrankaNode, actions: Actions, mover: Mover, names: ArmNames) -> None:
        self._node = node
        self._actions = actions
        self._mover = mover
        self._names = names
        actions.serve(PTPMotion, NAMES, self._check, self._pursue, moves=True)

    def _check(self, goal: PTPMotion.Goal) -> Plan[Goal]:
        """Fill in the goal's defaults, and plan it.

        :raises InvalidTarget: the goal is refused.
        """
        q = joint_values(goal.goal_joint_configuration, "goal_joint_configuration")
        if len(goal.maximum_joint_velocities) == 0:
            velocity = self._node.parameter("move_velocity")
        else:
            velocity = joint_values(goal.maximum_joint_velocities, "maximum_joint_velocities")
            if (velocity <= 0.0).any():
                raise InvalidTarget(
                    f"maximum_joint_velocities must be positive: {velocity.tolist()} rad/s",
                    reason="bad velocity",
                )
            # A goal may lower the arm's limits, not raise them.
            velocity = np.minimum(velocity, VELOCITY_LIMIT)
        tolerance = goal.goal_tolerance
        if not (np.isfinite(tolerance) and tolerance >= 0.0):
            raise InvalidTarget(
                f"goal_tolerance is {tolerance} rad, but must be positive, or 0 for the default",
                reason="bad tolerance",
            )
        tolerance = tolerance or self._node.parameter("move_tolerance")
        tolerances = Tolerance.of_position(tolerance, self._names.joints)
        settle_time = self._node.parameter("move_settle_time")
        return self._mover.plan(Goal(q=q, velocity=velocity, goal_tolerance=tolerances, settle_time=settle_time))

    async def _pursue(self, handle: ServerGoalHandle, plan: Plan[Goal]) -> Ending:
        """Pursue one goal to its end. However it ends, the arm then holds and the mode controls it again."""
        feedback = PTPMotion.Feedback(target_status=TargetStatus(status=TargetStatus.EXECUTING))
        publish = at_intervals(_FEEDBACK_PERIOD, lambda state, asked: handle.publish_feedback(feedback))
        self._node.get_logger().info(f"~/move to {np.round(plan.motion.goal, 3).tolist()} rad")
        try:
            await self._mover.move(
                plan.task, planned=plan, owner="~/move",
                cancelled=lambda: handle.is_cancel_requested,
                why_abandoned=lambda: self._actions.why_abandoned(handle), on_tick=publish,
            )  # fmt: skip
        except MoveFailed as failure:
            return Ending(_result(TargetStatus.ABORTED, str(failure)), failure=str(failure))
        except MoveCancelled:
            # Not ABORTED: nothing failed. The arm holds and has no goal, which is what IDLE means.
            return Ending(_result(TargetStatus.IDLE, "cancelled"), cancelled=True)
        return Ending(_result(TargetStatus.TARGET_REACHED, ""))


def _result(status: int, message: str) -> PTPMotion.Result:
    return PTPMotion.Result(target_status=TargetStatus(status=status), error_message=message)
