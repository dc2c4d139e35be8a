"""The gripper's actions, those of franka_ros2 and the one that MoveIt calls.

Used by the gripper's node, in its process and its one thread: a goal is a coroutine of the executor. All actions share
the one gripper, see :mod:`aiofranka_ros.arm.gripper.gripper` for which goal wins.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from control_msgs.action import GripperCommand
from franka_msgs.action import Grasp, Homing, Move
from rclpy.action.server import ServerGoalHandle
from rclpy.task import Future

from aiofranka_ros.arm.gripper import commands
from aiofranka_ros.arm.gripper.commands import NOT_CONNECTED, Command, End, Outcome
from aiofranka_ros.arm.gripper.connection import HandState
from aiofranka_ros.arm.gripper.gripper import Gripper
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.gripper_node.parameters import GripperParameters
from aiofranka_ros.ros.actions import Actions, Ending, at_intervals

#: The action that MoveIt calls, by its name in franka_ros2's MoveIt configuration.
_MOVEIT_NAME = "fr3_gripper/gripper_action"
_FEEDBACK_PERIOD = 0.1


class GripperActions:
    """Serves all actions with ``actions``: checks their goals, and pursues them with ``gripper``."""

    def __init__(self, actions: Actions, settings: GripperParameters, gripper: Gripper) -> None:
        self._actions = actions
        self._settings = settings
        self._gripper = gripper
        parsers: list[tuple[Any, str, Callable[[Any, HandState], Command]]] = [
            (Homing, "~/homing", lambda goal, state: commands.homing()),
            (Move, "~/move", self._parse_move),
            (Grasp, "~/grasp", self._parse_grasp),
            (GripperCommand, "~/gripper_action", self._parse_gripper_command),
            (GripperCommand, _MOVEIT_NAME, self._parse_gripper_command),
        ]
        for kind, name, parse in parsers:
            check: Callable[[Any], Any] = partial(self._check, parse)
            pursue = self._pursue_gripper_command if kind is GripperCommand else partial(self._pursue, kind)
            actions.serve(kind, [name], check, pursue)

    # Goals as commands.

    def _check(self, parse: Callable[[Any, HandState], Command], goal: Any) -> Command:
        """The command for a goal, with defaults filled in.

        :raises InvalidTarget: the goal cannot be used, or there is no gripper.
        """
        if self._gripper.state is None:
            raise InvalidTarget(self._gripper.why, reason=NOT_CONNECTED)
        return parse(goal, self._gripper.state)

    def _parse_move(self, goal: Any, state: HandState) -> Command:
        return commands.move(goal.width, goal.speed, state, self._settings)

    def _parse_grasp(self, goal: Any, state: HandState) -> Command:
        epsilon = goal.epsilon.inner, goal.epsilon.outer
        return commands.grasp(goal.width, goal.speed, goal.force, epsilon, state, self._settings)

    def _parse_gripper_command(self, goal: Any, state: HandState) -> Command:
        position, force = goal.command.position, goal.command.max_effort
        # The position is that of one finger.
        width = commands.width_of(2.0 * position, state, f"twice the position, {position} m,")
        commands.force_of(force, "max_effort", self._settings)
        return commands.reach(width, force, state, self._gripper.holds, self._settings)

    # Goals that run.

    async def _run(self, handle: ServerGoalHandle, command: Command, feedback: Callable[[HandState], Any]) -> Outcome:
        """Run the command of a goal, with the feedback message for each state."""
        on_state = at_intervals(_FEEDBACK_PERIOD, lambda state: handle.publish_feedback(feedback(state)))
        abandoned = partial(self._actions.why_abandoned, handle)
        ended = Future()
        self._gripper.submit(
            command, lambda: handle.is_cancel_requested or bool(abandoned()), ended.set_result, on_state
        )
        outcome: Outcome = await ended
        if outcome.end is End.CANCELLED and not handle.is_cancel_requested:
            return outcome._replace(end=End.FAILED, failure=abandoned())
        return outcome

    async def _pursue(self, kind: Any, handle: ServerGoalHandle, command: Command) -> Ending:
        """Pursue a goal of franka_msgs, whose result is the gripper's own verdict."""
        outcome = await self._run(handle, command, lambda state: kind.Feedback(current_width=state.width))
        return _ending(kind.Result(success=not outcome.failure, error=outcome.failure), outcome)

    async def _pursue_gripper_command(self, handle: ServerGoalHandle, command: Command) -> Ending:
        """Pursue a goal of control_msgs, whose result distinguishes a position reached from blocked fingers."""
        outcome = await self._run(handle, command, lambda state: GripperCommand.Feedback(position=state.width / 2.0))
        result = GripperCommand.Result(position=outcome.width / 2.0)
        if outcome.end in (End.CANCELLED, End.FAILED, End.REPLACED):
            return _ending(result, outcome)
        result.reached_goal = abs(outcome.width - command.width) <= self._settings["goal_tolerance"]
        result.stalled = not result.reached_goal and (outcome.end is End.BLOCKED or outcome.width > command.width)
        if result.stalled:
            result.effort = outcome.force  # That the gripper was told to hold with; it does not measure one.
        if result.reached_goal or (result.stalled and self._settings["allow_stalling"]):
            return Ending(result)
        return Ending(result, f"the fingers stopped at {outcome.width:.4f} m instead of {command.width:.4f} m")


def _ending(result: Any, outcome: Outcome) -> Ending:
    cancelled = outcome.end is End.CANCELLED
    return Ending(result, "" if cancelled else outcome.failure, cancelled)
