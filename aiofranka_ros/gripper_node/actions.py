"""The gripper's actions, those of franka_ros2 and the one that MoveIt calls.

Used by the gripper's node, in its process and its one thread: a goal is a coroutine of the executor, see
:mod:`aiofranka_ros.gripper_node.gripper`. All actions share the one gripper, see there for which goal wins.

A value of 0 for speed, force or a tolerance means the default, because a goal that does not give it has a 0 there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from control_msgs.action import GripperCommand
from franka_msgs.action import Grasp, Homing, Move
from rclpy.action.server import ServerGoalHandle

from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.gripper_node.connection import HandState, Request
from aiofranka_ros.gripper_node.gripper import Command, End, Gripper, Outcome
from aiofranka_ros.gripper_node.parameters import MAX_FORCE, MAX_SPEED, MIN_SPEED, GripperParameters
from aiofranka_ros.ros.actions import Actions, Ending, at_intervals

#: The action that MoveIt calls, by its name in franka_ros2's MoveIt configuration.
_MOVEIT_NAME = "fr3_gripper/gripper_action"
_FEEDBACK_PERIOD = 0.1
#: By how much a goal may exceed the width that homing found [m]: most clients send 0.08, and homing finds less.
_WIDTH_SLACK = 0.002


class GripperActions:
    """Serves all actions with ``actions``: checks their goals, and pursues them with ``gripper``."""

    def __init__(self, actions: Actions, settings: GripperParameters, gripper: Gripper) -> None:
        self._actions = actions
        self._settings = settings
        self._gripper = gripper
        parsers: list[tuple[Any, str, Callable[[Any, HandState], Command]]] = [
            (Homing, "~/homing", lambda goal, state: Command(Request.HOMING)),
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
            raise InvalidTarget(self._gripper.why, reason="not connected")
        return parse(goal, self._gripper.state)

    def _parse_move(self, goal: Any, state: HandState) -> Command:
        return Command(Request.MOVE, _width(goal.width, state), self._speed(goal.speed))

    def _parse_grasp(self, goal: Any, state: HandState) -> Command:
        return Command(
            Request.GRASP,
            _width(goal.width, state),
            self._speed(goal.speed),
            self._force(goal.force, "force"),
            self._epsilon(goal.epsilon.inner, "epsilon.inner"),
            self._epsilon(goal.epsilon.outer, "epsilon.outer"),
        )

    def _parse_gripper_command(self, goal: Any, state: HandState) -> Command:
        command = goal.command
        # The position is that of one finger.
        width = _width(2.0 * command.position, state, f"twice the position, {command.position} m,")
        self._force(command.max_effort, "max_effort")
        return width_command(width, command.max_effort, state, self._settings)

    def _speed(self, speed: float) -> float:
        if not (speed == 0.0 or MIN_SPEED <= speed < math.inf):
            raise InvalidTarget(
                f"speed is {speed} m/s, but must be at least {MIN_SPEED} m/s, or 0 for the default",
                reason="bad speed",
            )
        # Faster than the gripper can is as fast as it can.
        return min(speed, MAX_SPEED) or float(self._settings["default_speed"])

    def _force(self, force: float, name: str) -> float:
        if not 0.0 <= force <= MAX_FORCE:
            raise InvalidTarget(
                f"{name} is {force} N, but must be at most {MAX_FORCE:g} N, or 0 for the default", reason="bad force"
            )
        return force or float(self._settings["default_force"])

    def _epsilon(self, epsilon: float, name: str) -> float:
        if not 0.0 <= epsilon < math.inf:
            raise InvalidTarget(
                f"{name} is {epsilon} m, but must be positive, or 0 for the default", reason="bad tolerance"
            )
        return epsilon or float(self._settings["default_epsilon"])

    # Goals that run.

    async def _run(self, handle: ServerGoalHandle, command: Command, feedback: Callable[[HandState], Any]) -> Outcome:
        """Run the command of a goal, with the feedback message for each state."""
        on_state = at_intervals(_FEEDBACK_PERIOD, lambda state: handle.publish_feedback(feedback(state)))
        abandoned = partial(self._actions.why_abandoned, handle)
        outcome = await self._gripper.run(command, lambda: handle.is_cancel_requested or bool(abandoned()), on_state)
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
        if outcome.end in (End.CANCELLED, End.FAILED):
            return _ending(result, outcome)
        result.reached_goal = abs(outcome.width - command.width) <= self._settings["goal_tolerance"]
        result.stalled = not result.reached_goal and (outcome.end is End.BLOCKED or outcome.width > command.width)
        if result.stalled:
            result.effort = outcome.force  # That the gripper was told to hold with; it does not measure one.
        if result.reached_goal or (result.stalled and self._settings["allow_stalling"]):
            return Ending(result)
        return Ending(result, f"the fingers stopped at {outcome.width:.4f} m instead of {command.width:.4f} m")


def width_command(width: float, force: float, state: HandState, settings: GripperParameters) -> Command:
    """Closing with a force [N], or completely, grasps whatever is there; any other width [m] is a move."""
    speed = settings["default_speed"]
    if force > 0.0 or width <= settings["goal_tolerance"]:
        force, tolerance = force or float(settings["default_force"]), state.max_width
        return Command(Request.GRASP, width, speed, force, inner=tolerance, outer=tolerance, may_open=True)
    return Command(Request.MOVE, width, speed)


def _ending(result: Any, outcome: Outcome) -> Ending:
    cancelled = outcome.end is End.CANCELLED
    return Ending(result, "" if cancelled else outcome.failure, cancelled)


def _width(width: float, state: HandState, name: str = "width") -> float:
    """:raises InvalidTarget: the gripper cannot have that width."""
    if state.max_width <= 0.0:
        raise InvalidTarget("the gripper does not know its largest width yet: call homing first", reason="not homed")
    if not 0.0 <= width <= state.max_width + _WIDTH_SLACK:
        raise InvalidTarget(
            f"{name} is {width} m, but the gripper opens from 0 to {state.max_width:.4f} m", reason="bad width"
        )
    return min(width, state.max_width)
