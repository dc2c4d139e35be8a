"""The gripper's actions, those of franka_ros2 and the one that MoveIt calls: check goals, pursue them, tell the result.

Used by the gripper's node, in its process and its one thread: a goal is a coroutine of the executor, see
:mod:`aiofranka_ros.gripper_node.commands`. All actions share the one gripper: whichever gets the newest goal has it.

A value of 0 for speed, force or a tolerance means the default, because that is what a goal has that does not give it.
"""

from __future__ import annotations

import abc
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from control_msgs.action import GripperCommand
from franka_msgs import action as franka_actions
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node

from aiofranka_ros.errors import GripperFailed, InvalidTarget
from aiofranka_ros.gripper_node.commands import Grasp, Gripper, GripperCancelled, Homing, Move, Outcome, Owner, Request
from aiofranka_ros.gripper_node.connection import HandState
from aiofranka_ros.gripper_node.parameters import MAX_FORCE, MAX_SPEED, MIN_SPEED

#: What MoveIt calls the gripper: franka_ros2's MoveIt configuration.
_MOVEIT_NAME = "fr3_gripper/gripper_action"
_FEEDBACK_PERIOD = 0.1
#: By how much a goal may exceed the width that homing found [m]: 0.08 is what everybody sends, and it finds less.
_WIDTH_SLACK = 0.002


class GripperActions:
    """The servers of all actions.

    They exist without a gripper too, so that a goal is rejected with a reason instead of being waited for.

    :param node: where to serve and log.
    :param owner: what the node knows of the gripper.
    :param gripper: what pursues the commands.
    """

    def __init__(self, node: Node, owner: Owner, gripper: Gripper) -> None:
        self._node = node
        self._owner = owner
        self._gripper = gripper
        self._pursued = 0
        #: Rejected goals by reason, since the node was started.
        self.rejected: Counter[str] = Counter()
        self._servers: list[ActionServer] = []
        self._serve(franka_actions.Homing, "~/homing", self._parse_homing, _FrankaGoal)
        self._serve(franka_actions.Move, "~/move", self._parse_move, _FrankaGoal)
        self._serve(franka_actions.Grasp, "~/grasp", self._parse_grasp, _FrankaGoal)
        for name in ("~/gripper_action", _MOVEIT_NAME):
            self._serve(GripperCommand, name, self._parse_gripper_command, _GripperCommandGoal)

    @property
    def busy(self) -> bool:
        """Whether a goal was accepted whose result is still to come."""
        return self._pursued > 0

    def destroy(self) -> None:
        """Serve no more goals."""
        for server in self._servers:
            server.destroy()

    def _serve(self, kind: Any, name: str, parse: Callable[[Any, HandState], Request], goal_type: type[_Goal]) -> None:
        def on_goal(goal: Any) -> GoalResponse:
            try:
                self._check(goal, parse)
            except InvalidTarget as error:
                self.rejected[error.reason] += 1
                self._node.get_logger().warning(f"rejected a goal of {name}: {error}")
                return GoalResponse.REJECT
            return GoalResponse.ACCEPT

        async def execute(handle: ServerGoalHandle) -> Any:
            return await self._execute(goal_type(handle, kind, self._owner), name, parse)

        self._servers.append(
            ActionServer(
                self._node,
                kind,
                name,
                execute,
                goal_callback=on_goal,
                cancel_callback=lambda handle: CancelResponse.ACCEPT,
            )
        )

    async def _execute(self, goal: _Goal, name: str, parse: Callable[[Any, HandState], Request]) -> Any:
        """Pursue one goal to its end."""
        handle = goal.handle
        self._pursued += 1
        try:
            # What it was accepted under may have changed since.
            request = self._check(handle.request, parse)
            self._node.get_logger().info(f"{name}: {request}")
            outcome = await self._gripper.run(
                request, cancelled=lambda: handle.is_cancel_requested, on_tick=goal.on_tick
            )
        except GripperCancelled:
            if handle.is_active:
                handle.canceled()
            return goal.result("cancelled")
        except (GripperFailed, InvalidTarget) as error:
            self._abort(handle, name, str(error))
            return goal.result(str(error))
        finally:
            self._pursued -= 1
        failure = goal.failure(request, outcome)
        if failure:
            self._abort(handle, name, failure)
        elif handle.is_active:
            handle.succeed()
        return goal.result(failure, request, outcome)

    def _abort(self, handle: ServerGoalHandle, name: str, reason: str) -> None:
        self._node.get_logger().warning(f"{name} was aborted: {reason}")
        if handle.is_active:
            handle.abort()

    # What goals mean.

    def _check(self, goal: Any, parse: Callable[[Any, HandState], Request]) -> Request:
        """The goal as it is pursued, defaults filled in.

        :raises InvalidTarget: it cannot be used, or there is no gripper.
        """
        hand = self._owner.hand
        if hand is None or hand.state is None:
            raise InvalidTarget(self._owner.why_no_hand, reason="not connected")
        return parse(goal, hand.state)

    def _parse_homing(self, goal: Any, state: HandState) -> Homing:
        return Homing()

    def _parse_move(self, goal: Any, state: HandState) -> Move:
        return Move(_width(goal.width, state), self._speed(goal.speed))

    def _parse_grasp(self, goal: Any, state: HandState) -> Grasp:
        return Grasp(
            _width(goal.width, state),
            self._speed(goal.speed),
            self._force(goal.force, "force"),
            self._epsilon(goal.epsilon.inner, "epsilon.inner"),
            self._epsilon(goal.epsilon.outer, "epsilon.outer"),
        )

    def _parse_gripper_command(self, goal: Any, state: HandState) -> Move | Grasp:
        """Closing with a force, or completely, is a grasp of whatever is there; everything else is a move."""
        command, speed = goal.command, self._owner.parameter("default_speed")
        # The position is that of one finger.
        width = _width(2.0 * command.position, state, f"twice the position, {command.position} m,")
        force = self._force(command.max_effort, "max_effort")
        closes = width < state.width - self._owner.parameter("goal_tolerance")
        if closes and (command.max_effort > 0.0 or width <= self._owner.parameter("goal_tolerance")):
            return Grasp(width, speed, force, inner=state.max_width, outer=state.max_width)
        return Move(width, speed)

    def _speed(self, speed: float) -> float:
        if not (speed == 0.0 or MIN_SPEED <= speed < math.inf):
            raise InvalidTarget(
                f"speed is {speed} m/s, but must be at least {MIN_SPEED} m/s, or 0 for the default",
                reason="bad speed",
            )
        # The goal's lower bound wins; a higher one than the gripper's cannot.
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


class _Goal(abc.ABC):
    """One goal of an action: how it tells its progress and its result.

    :param handle: of rclpy.
    :param kind: type of the action.
    :param owner: what the node knows of the gripper.
    """

    def __init__(self, handle: ServerGoalHandle, kind: Any, owner: Owner) -> None:
        self.handle = handle
        self._kind = kind
        self._owner = owner
        self._next_feedback = time.monotonic()

    def on_tick(self) -> None:
        """Tell the progress, if it is time."""
        hand, now = self._owner.hand, time.monotonic()
        if hand is not None and hand.state is not None and now >= self._next_feedback:
            self._next_feedback = now + _FEEDBACK_PERIOD
            self.handle.publish_feedback(self._feedback(hand.state))

    @abc.abstractmethod
    def failure(self, request: Request, outcome: Outcome) -> str:
        """Why ``outcome`` is not what was asked for; empty where it is."""

    @abc.abstractmethod
    def result(self, error: str, request: Request | None = None, outcome: Outcome | None = None) -> Any:
        """The message that tells how it ended.

        :param error: why it failed; empty where it did not.
        :param request: what was asked for, and
        :param outcome: what came of it; both ``None`` where the command did not run to its end.
        """

    @abc.abstractmethod
    def _feedback(self, state: HandState) -> Any:
        """The message that tells the progress."""


class _FrankaGoal(_Goal):
    """A goal of franka_msgs, whose result is the gripper's own verdict."""

    def failure(self, request: Request, outcome: Outcome) -> str:
        return "" if outcome.done else request.failure(outcome)

    def result(self, error: str, request: Request | None = None, outcome: Outcome | None = None) -> Any:
        return self._kind.Result(success=not error, error=error)

    def _feedback(self, state: HandState) -> Any:
        return self._kind.Feedback(current_width=state.width)


class _GripperCommandGoal(_Goal):
    """A goal of control_msgs, which tells a position that was reached from one that something was in the way of."""

    def failure(self, request: Request, outcome: Outcome) -> str:
        assert not isinstance(request, Homing)
        if self._reached(request, outcome) or (
            self._stalled(request, outcome) and self._owner.parameter("allow_stalling")
        ):
            return ""
        return f"the fingers stopped at {outcome.width:.4f} m instead of {request.width:.4f} m"

    def result(
        self, error: str, request: Request | None = None, outcome: Outcome | None = None
    ) -> GripperCommand.Result:
        if outcome is None or request is None:
            hand = self._owner.hand
            width = hand.state.width if hand is not None and hand.state is not None else math.nan
            return GripperCommand.Result(position=width / 2.0)
        stalled = self._stalled(request, outcome)
        return GripperCommand.Result(
            position=outcome.width / 2.0,
            # What the gripper was told to hold with; it does not measure a force.
            effort=request.force if stalled and isinstance(request, Grasp) else 0.0,
            stalled=stalled,
            reached_goal=self._reached(request, outcome),
        )

    def _feedback(self, state: HandState) -> GripperCommand.Feedback:
        return GripperCommand.Feedback(position=state.width / 2.0)

    def _reached(self, request: Request, outcome: Outcome) -> bool:
        assert not isinstance(request, Homing)
        return abs(outcome.width - request.width) <= self._owner.parameter("goal_tolerance")

    def _stalled(self, request: Request, outcome: Outcome) -> bool:
        assert not isinstance(request, Homing)
        return not self._reached(request, outcome) and (outcome.blocked or outcome.width > request.width)
