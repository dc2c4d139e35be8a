"""The gripper's actions, those of franka_ros2 and the one that MoveIt calls.

Used by the gripper's node, in its process and its one thread: a goal is a coroutine of the executor, see
:mod:`aiofranka_ros.gripper_node.commands`. All actions share the one gripper: the newest goal of any of them wins.

A value of 0 for speed, force or a tolerance means the default, because a goal that does not give it has a 0 there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import control_msgs.action
from franka_msgs import action as franka_actions
from rclpy.action.server import ServerGoalHandle

from aiofranka_ros.errors import GripperFailed, InvalidTarget
from aiofranka_ros.gripper_node.commands import (
    GraspCommand,
    Gripper,
    GripperCancelled,
    GripperCommand,
    HandOwner,
    HomingCommand,
    MoveCommand,
    Outcome,
)
from aiofranka_ros.gripper_node.connection import HandState
from aiofranka_ros.gripper_node.parameters import MAX_FORCE, MAX_SPEED, MIN_SPEED
from aiofranka_ros.ros.actions import Actions, Ending, at_intervals

#: The action that MoveIt calls, by its name in franka_ros2's MoveIt configuration.
_MOVEIT_NAME = "fr3_gripper/gripper_action"
_FEEDBACK_PERIOD = 0.1
#: By how much a goal may exceed the width that homing found [m]: most clients send 0.08, and homing finds less.
_WIDTH_SLACK = 0.002


class _Run(NamedTuple):
    """How the command of a goal ended.

    :ivar outcome: of a command that ran to its end, else ``None``.
    :ivar error: why it did not; empty if it did.
    :ivar cancelled: whether it was cancelled.
    """

    outcome: Outcome | None
    error: str = ""
    cancelled: bool = False


class GripperActions:
    """Checks and pursues the goals of all actions.

    :param actions: where to serve them.
    :param owner: the node.
    :param gripper: runs the commands.
    """

    def __init__(self, actions: Actions, owner: HandOwner, gripper: Gripper) -> None:
        self._owner = owner
        self._gripper = gripper
        parsers: list[tuple[Any, str, Callable[[Any, HandState], GripperCommand]]] = [
            (franka_actions.Homing, "~/homing", self._parse_homing),
            (franka_actions.Move, "~/move", self._parse_move),
            (franka_actions.Grasp, "~/grasp", self._parse_grasp),
        ]
        for kind, name, parse in parsers:
            check: Callable[[Any], Any] = partial(self._check, parse)
            actions.serve(kind, [name], check, partial(self._pursue_franka_goal, kind))
        for name in ("~/gripper_action", _MOVEIT_NAME):
            check = partial(self._check, self._parse_gripper_command)
            actions.serve(control_msgs.action.GripperCommand, [name], check, self._pursue_gripper_command)

    # Goals as commands.

    def _check(self, parse: Callable[[Any, HandState], GripperCommand], goal: Any) -> GripperCommand:
        """The command for a goal, with defaults filled in.

        :raises InvalidTarget: the goal cannot be used, or there is no gripper.
        """
        hand = self._owner.hand
        if hand is None or hand.state is None:
            raise InvalidTarget(self._owner.why_no_hand, reason="not connected")
        return parse(goal, hand.state)

    def _parse_homing(self, goal: Any, state: HandState) -> HomingCommand:
        return HomingCommand()

    def _parse_move(self, goal: Any, state: HandState) -> MoveCommand:
        return MoveCommand(_width(goal.width, state), self._speed(goal.speed))

    def _parse_grasp(self, goal: Any, state: HandState) -> GraspCommand:
        return GraspCommand(
            _width(goal.width, state),
            self._speed(goal.speed),
            self._force(goal.force, "force"),
            self._epsilon(goal.epsilon.inner, "epsilon.inner"),
            self._epsilon(goal.epsilon.outer, "epsilon.outer"),
        )

    def _parse_gripper_command(self, goal: Any, state: HandState) -> MoveCommand | GraspCommand:
        """A goal that closes with a force, or completely, grasps whatever is there; any other goal is a move."""
        command, speed = goal.command, self._owner.parameter("default_speed")
        # The position is that of one finger.
        width = _width(2.0 * command.position, state, f"twice the position, {command.position} m,")
        force = self._force(command.max_effort, "max_effort")
        closes = width < state.width - self._owner.parameter("goal_tolerance")
        if closes and (command.max_effort > 0.0 or width <= self._owner.parameter("goal_tolerance")):
            return GraspCommand(width, speed, force, inner=state.max_width, outer=state.max_width)
        return MoveCommand(width, speed)

    def _speed(self, speed: float) -> float:
        if not (speed == 0.0 or MIN_SPEED <= speed < math.inf):
            raise InvalidTarget(
                f"speed is {speed} m/s, but must be at least {MIN_SPEED} m/s, or 0 for the default",
                reason="bad speed",
            )
        # Faster than the gripper can is as fast as it can.
        return min(speed, MAX_SPEED) or float(self._owner.parameter("default_speed"))

    def _force(self, force: float, name: str) -> float:
        if not 0.0 <= force <= MAX_FORCE:
            raise InvalidTarget(
                f"{name} is {force} N, but must be at most {MAX_FORCE:g} N, or 0 for the default", reason="bad force"
            )
        return force or float(self._owner.parameter("default_force"))

    def _epsilon(self, epsilon: float, name: str) -> float:
        if not 0.0 <= epsilon < math.inf:
            raise InvalidTarget(
                f"{name} is {epsilon} m, but must be positive, or 0 for the default", reason="bad tolerance"
            )
        return epsilon or float(self._owner.parameter("default_epsilon"))

    # Goals that run.

    async def _run(
        self, handle: ServerGoalHandle, command: GripperCommand, feedback: Callable[[HandState], Any]
    ) -> _Run:
        """Run the command of a goal, with feedback.

        :param feedback: the feedback message for a state.
        """
        on_state = at_intervals(_FEEDBACK_PERIOD, lambda state: handle.publish_feedback(feedback(state)))
        try:
            return _Run(
                await self._gripper.run(command, cancelled=lambda: handle.is_cancel_requested, on_state=on_state)
            )
        except GripperCancelled:
            return _Run(None, "cancelled", cancelled=True)
        except GripperFailed as error:
            return _Run(None, str(error))

    async def _pursue_franka_goal(self, kind: Any, handle: ServerGoalHandle, command: GripperCommand) -> Ending:
        """Pursue a goal of franka_msgs, whose result is the gripper's own verdict."""
        outcome, error, cancelled = await self._run(
            handle, command, lambda state: kind.Feedback(current_width=state.width)
        )
        if outcome is not None and not outcome.done:
            error = command.failure(outcome)
        result = kind.Result(success=not error, error=error)
        return Ending(result, cancelled=True) if cancelled else Ending(result, error)

    async def _pursue_gripper_command(self, handle: ServerGoalHandle, command: GripperCommand) -> Ending:
        """Pursue a goal of control_msgs, whose result distinguishes a position reached from blocked fingers."""
        assert not isinstance(command, HomingCommand)
        action = control_msgs.action.GripperCommand
        outcome, error, cancelled = await self._run(
            handle, command, lambda state: action.Feedback(position=state.width / 2.0)
        )
        if outcome is None:
            hand = self._owner.hand
            width = hand.state.width if hand is not None and hand.state is not None else math.nan
            result = action.Result(position=width / 2.0)
            return Ending(result, cancelled=True) if cancelled else Ending(result, error)
        reached = abs(outcome.width - command.width) <= self._owner.parameter("goal_tolerance")
        stalled = not reached and (outcome.blocked or outcome.width > command.width)
        result = action.Result(
            position=outcome.width / 2.0,
            # The force that the gripper was told to hold with; it does not measure one.
            effort=command.force if stalled and isinstance(command, GraspCommand) else 0.0,
            stalled=stalled,
            reached_goal=reached,
        )
        if reached or (stalled and self._owner.parameter("allow_stalling")):
            return Ending(result)
        return Ending(result, f"the fingers stopped at {outcome.width:.4f} m instead of {command.width:.4f} m")


def _width(width: float, state: HandState, name: str = "width") -> float:
    """A width that the gripper can have.

    :raises InvalidTarget: it cannot.
    """
    if state.max_width <= 0.0:
        raise InvalidTarget("the gripper does not know its largest width yet: call homing first", reason="not homed")
    if not 0.0 <= width <= state.max_width + _WIDTH_SLACK:
        raise InvalidTarget(
            f"{name} is {width} m, but the gripper opens from 0 to {state.max_width:.4f} m", reason="bad width"
        )
    return min(width, state.max_width)
