"""The command that runs on the gripper: one at a time, the newest wins, and blocked fingers are noticed.

Used by the gripper's node, in its process and its one thread. It knows nothing of ROS: a command is a coroutine that
awaits only its owner's next tick, like a move of the arm (:mod:`aiofranka_ros.arm.moves`).

Widths are the distance between the two fingers [m].
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from aiofranka_ros.errors import ConnectionFailed, GripperFailed
from aiofranka_ros.gripper_node.connection import Hand, HandState, SentCommand, Status

#: Fingers that move less than this within ``stall_timeout`` are blocked [m].
_STILL = 0.0002


class HandOwner(Protocol):
    """What commands and goals need to know of the node."""

    @property
    def hand(self) -> Hand | None:
        """The gripper while it is connected, else ``None``."""

    @property
    def why_no_hand(self) -> str:
        """Why it is not connected."""

    def parameter(self, name: str) -> Any:
        """Value of a parameter."""

    def next_tick(self) -> Awaitable[None]:
        """Done at the owner's next tick."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended that was neither refused nor interrupted.

    :ivar done: whether the gripper calls it a success.
    :ivar blocked: whether a move was stopped because the fingers were blocked.
    :ivar width: [m].
    """

    done: bool
    blocked: bool
    width: float


@dataclass(frozen=True)
class HomingCommand:
    """Find the largest width."""

    def send(self, hand: Hand) -> SentCommand:
        """Start."""
        return hand.homing()

    def duration(self, stroke: float) -> float:
        """How long the motion takes [s], in addition to ``command_timeout``."""
        return 0.0

    def failure(self, outcome: Outcome) -> str:
        """Why it failed."""
        return "homing failed: is something between the fingers?"


@dataclass(frozen=True)
class MoveCommand:
    """Move the fingers.

    :ivar width: [m].
    :ivar speed: [m/s].
    """

    width: float
    speed: float

    def send(self, hand: Hand) -> SentCommand:
        """Start."""
        return hand.move(self.width, self.speed)

    def duration(self, stroke: float) -> float:
        """How long the motion takes [s], in addition to ``command_timeout``."""
        return stroke / self.speed

    def failure(self, outcome: Outcome) -> str:
        """Why it failed."""
        if outcome.blocked:
            return f"the fingers are blocked at {outcome.width:.4f} m"
        return f"the gripper gave up, with its fingers at {outcome.width:.4f} m"


@dataclass(frozen=True)
class GraspCommand:
    """Close until the fingers meet an object, and hold it.

    :ivar width: of the object [m].
    :ivar speed: [m/s].
    :ivar force: [N].
    :ivar inner: by how much the object may be smaller [m].
    :ivar outer: by how much it may be larger [m].
    """

    width: float
    speed: float
    force: float
    inner: float
    outer: float

    def send(self, hand: Hand) -> SentCommand:
        """Start."""
        return hand.grasp(self.width, self.speed, self.force, self.inner, self.outer)

    def duration(self, stroke: float) -> float:
        """How long the motion takes [s], in addition to ``command_timeout``."""
        return stroke / self.speed

    def failure(self, outcome: Outcome) -> str:
        """Why it failed."""
        return (
            f"nothing was grasped: the fingers ended at {outcome.width:.4f} m, which is not between "
            f"{self.width - self.inner:.4f} and {self.width + self.outer:.4f} m"
        )


GripperCommand: TypeAlias = "HomingCommand | MoveCommand | GraspCommand"


class GripperCancelled(Exception):
    """The command was cancelled, and the gripper was told to stop."""


@dataclass
class _Run:
    """The command that runs.

    :ivar cancelled: whether its client has cancelled it.
    :ivar ended_by: why it must end; empty if it may continue.
    """

    cancelled: Callable[[], bool]
    ended_by: str = ""


class Gripper:
    """Runs one command at a time; a new one replaces the one before.

    :param owner: the node.
    """

    def __init__(self, owner: HandOwner) -> None:
        self._owner = owner
        self._run: _Run | None = None

    @property
    def running(self) -> bool:
        """Whether a command runs."""
        return self._run is not None

    async def run(
        self,
        command: GripperCommand,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_state: Callable[[HandState], None] = lambda state: None,
    ) -> Outcome:
        """Run ``command`` to its end.

        :param cancelled: asked at every tick; once it is true, the gripper is stopped.
        :param on_state: called with the state at every tick while the command runs.
        :returns: how it ended; a failure of the command itself is not an exception.
        :raises GripperCancelled: it was cancelled.
        :raises GripperFailed: it could not be carried out, or was interrupted.
        """
        before, self._run = self._run, _Run(cancelled)
        run = self._run
        if before is not None:
            before.ended_by = "replaced by a new goal"
        try:
            hand = self._require_hand()
            # Of two commands at once, the gripper would choose which one counts.
            await self._halt(hand)
            await self._next_tick(run, hand)
            return await self._until_done(run, hand, command, on_state)
        except ConnectionFailed as error:
            raise GripperFailed(str(error)) from error
        finally:
            if self._run is run:
                self._run = None

    async def stop(self, reason: str) -> bool:
        """End the command that runs, stop the gripper, and release what it holds.

        :param reason: the failure of the command that runs.
        :returns: whether the gripper confirmed the stop within ``stop_timeout``.
        :raises GripperFailed: there is no gripper.
        """
        if self._run is not None:
            self._run.ended_by = reason
        hand = self._require_hand()
        try:
            sent = hand.stop()
        except ConnectionFailed as error:
            raise GripperFailed(str(error)) from error
        await self._ticks_while(hand, lambda: sent.status is None)
        return sent.status is Status.SUCCESS

    def abandon(self, reason: str) -> None:
        """End the command that runs, if any, without waiting for its end.

        :param reason: the failure of the command.
        """
        if self._run is None:
            return
        self._run.ended_by = reason
        hand = self._owner.hand
        if hand is not None and hand.busy:
            with contextlib.suppress(ConnectionFailed):  # Then there is nothing left to stop.
                hand.stop()

    async def _until_done(
        self, run: _Run, hand: Hand, command: GripperCommand, on_state: Callable[[HandState], None]
    ) -> Outcome:
        """Send a command and wait for its end, reporting every state."""
        state = hand.state
        assert state is not None  # Else the owner would not offer the hand.
        sent = command.send(hand)
        began = still_since = time.monotonic()
        limit = self._owner.parameter("command_timeout") + command.duration(state.max_width)
        still_at = state.width
        while sent.status is None:
            await self._next_tick(run, hand)
            state, now = hand.state or state, time.monotonic()
            on_state(state)
            if abs(state.width - still_at) > _STILL:
                still_at, still_since = state.width, now
            if now - began > limit:
                await self._halt(hand)
                raise GripperFailed(f"the gripper did not answer within {limit:.0f} s: it was told to stop")
            if (
                isinstance(command, MoveCommand)
                and now - still_since > self._owner.parameter("stall_timeout")
                and abs(state.width - command.width) > self._owner.parameter("goal_tolerance")
            ):
                # The gripper itself would keep trying for minutes.
                await self._halt(hand)
                return Outcome(done=False, blocked=True, width=state.width)
        if sent.status is Status.FAILED:
            raise GripperFailed("the gripper refused the command: has it been homed, and is the robot ready?")
        if sent.status is Status.ABORTED:
            raise GripperFailed("something else stopped the gripper: Desk, or another program")
        answered = hand.states
        while hand.states == answered:  # The present state may be older than the answer.
            await self._next_tick(run, hand)
        return Outcome(sent.status is Status.SUCCESS, blocked=False, width=(hand.state or state).width)

    async def _next_tick(self, run: _Run, hand: Hand) -> None:
        """Wait for the next tick, and check that the command may still run then.

        :raises GripperCancelled: it was cancelled.
        :raises GripperFailed: it must end for another reason.
        """
        await self._owner.next_tick()
        if self._owner.hand is not hand:
            raise GripperFailed(self._owner.why_no_hand or "the gripper was disconnected")
        if run.ended_by:
            raise GripperFailed(run.ended_by)
        if run.cancelled():
            await self._halt(hand)
            raise GripperCancelled

    async def _halt(self, hand: Hand) -> None:
        """Stop what the gripper does, and wait for that, for at most ``stop_timeout``.

        A gripper with blocked fingers may ignore a stop, as Franka documents; the caller must not wait for it.
        """
        if hand.busy:
            hand.stop()
            await self._ticks_while(hand, lambda: hand.busy)

    async def _ticks_while(self, hand: Hand, condition: Callable[[], bool]) -> None:
        """Wait while ``condition`` is true and the gripper is connected, for at most ``stop_timeout``."""
        limit = time.monotonic() + self._owner.parameter("stop_timeout")
        while condition() and self._owner.hand is hand and time.monotonic() < limit:
            await self._owner.next_tick()

    def _require_hand(self) -> Hand:
        """:raises GripperFailed: there is no gripper."""
        if self._owner.hand is None:
            raise GripperFailed(self._owner.why_no_hand)
        return self._owner.hand
