"""What runs on a gripper: one command at a time, the latest wins, and what is in the way is noticed.

Used by the gripper's node, in its process and its one thread. It knows nothing of ROS: a command is a coroutine that
awaits nothing but its owner's next tick, as a move of the arm is (:mod:`aiofranka_ros.arm.moves`).

Widths are the distance of the two fingers [m].
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from aiofranka_ros.errors import ConnectionFailed, GripperFailed
from aiofranka_ros.gripper_node.connection import Command, Hand, Status

#: Fingers that move less than this within ``stall_timeout`` are blocked [m].
_STILL = 0.0002


class Owner(Protocol):
    """What commands need to know of the node."""

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
    """How a command ended that ran to its end.

    :ivar done: whether the gripper calls it a success.
    :ivar blocked: whether something was in the way of a move, which was stopped then.
    :ivar width: [m].
    """

    done: bool
    blocked: bool
    width: float


@dataclass(frozen=True)
class Homing:
    """Find out the largest width."""

    def send(self, hand: Hand) -> Command:
        """Begin."""
        return hand.homing()

    def duration(self, stroke: float) -> float:
        """How long it takes [s], beside what every command may take."""
        return 0.0

    def failure(self, outcome: Outcome) -> str:
        """Why it was in vain."""
        return "homing failed: is something between the fingers?"


@dataclass(frozen=True)
class Move:
    """Move the fingers.

    :ivar width: [m].
    :ivar speed: [m/s].
    """

    width: float
    speed: float

    def send(self, hand: Hand) -> Command:
        """Begin."""
        return hand.move(self.width, self.speed)

    def duration(self, stroke: float) -> float:
        """How long it takes [s], beside what every command may take."""
        return stroke / self.speed

    def failure(self, outcome: Outcome) -> str:
        """Why it was in vain."""
        if outcome.blocked:
            return f"the fingers are blocked at {outcome.width:.4f} m"
        return f"the gripper gave up, with its fingers at {outcome.width:.4f} m"


@dataclass(frozen=True)
class Grasp:
    """Close until something is in the way, and hold it.

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

    def send(self, hand: Hand) -> Command:
        """Begin."""
        return hand.grasp(self.width, self.speed, self.force, self.inner, self.outer)

    def duration(self, stroke: float) -> float:
        """How long it takes [s], beside what every command may take."""
        return stroke / self.speed

    def failure(self, outcome: Outcome) -> str:
        """Why it was in vain."""
        return (
            f"nothing was grasped: the fingers ended at {outcome.width:.4f} m, which is not between "
            f"{self.width - self.inner:.4f} and {self.width + self.outer:.4f} m"
        )


Request: TypeAlias = "Homing | Move | Grasp"


class GripperCancelled(Exception):
    """The command was cancelled, and the gripper was told to stop."""


@dataclass
class _Run:
    """One command that is pursued.

    :ivar ended_by: why it must end, where somebody else decided so.
    """

    cancelled: Callable[[], bool]
    ended_by: str = ""


class Gripper:
    """Pursues one command at a time; a new one replaces the one before.

    :param owner: what the node knows of the gripper.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._run: _Run | None = None

    @property
    def running(self) -> bool:
        """Whether a command is pursued."""
        return self._run is not None

    async def run(
        self,
        request: Request,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_tick: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Pursue ``request`` to its end.

        :param cancelled: asked at every tick; once it is true, the gripper is stopped.
        :param on_tick: called at every tick while the command runs.
        :returns: how it ended; a command that was in vain is no exception.
        :raises GripperCancelled: it was cancelled.
        :raises GripperFailed: it could not be carried out, or something else came between.
        """
        before, self._run = self._run, _Run(cancelled)
        run = self._run
        if before is not None:
            before.ended_by = "replaced by a new goal"
        try:
            hand = self._require_hand()
            # Two commands at once would leave it to the gripper which of them counts.
            await self._halt(hand)
            await self._look(run, hand)
            return await self._until_done(run, hand, request, on_tick)
        except ConnectionFailed as error:
            raise GripperFailed(str(error)) from error
        finally:
            if self._run is run:
                self._run = None

    async def stop(self, reason: str) -> bool:
        """End what runs, and let the gripper stop and let go of what it holds.

        :param reason: why, for whoever waits for the command.
        :returns: whether the gripper confirmed that within ``stop_timeout``.
        :raises GripperFailed: there is no gripper.
        """
        if self._run is not None:
            self._run.ended_by = reason
        hand = self._require_hand()
        try:
            command = hand.stop()
        except ConnectionFailed as error:
            raise GripperFailed(str(error)) from error
        limit = time.monotonic() + self._owner.parameter("stop_timeout")
        while command.status is None and self._owner.hand is hand and time.monotonic() < limit:
            await self._owner.next_tick()
        return command.status is Status.SUCCESS

    def abandon(self, reason: str) -> None:
        """End what runs, without waiting for that; does nothing where nothing runs.

        :param reason: why, for whoever waits for the command.
        """
        if self._run is None:
            return
        self._run.ended_by = reason
        hand = self._owner.hand
        if hand is not None and hand.busy:
            with contextlib.suppress(ConnectionFailed):  # Then there is nothing to stop any more.
                hand.stop()

    async def _until_done(self, run: _Run, hand: Hand, request: Request, on_tick: Callable[[], None]) -> Outcome:
        """Send a command and wait for its end, telling of it on the way."""
        state = hand.state
        assert state is not None  # Else the owner would not show it.
        command = request.send(hand)
        began = still_since = time.monotonic()
        limit = self._owner.parameter("command_timeout") + request.duration(state.max_width)
        still_at = state.width
        while command.status is None:
            await self._look(run, hand)
            on_tick()
            state, now = hand.state or state, time.monotonic()
            if abs(state.width - still_at) > _STILL:
                still_at, still_since = state.width, now
            if now - began > limit:
                await self._halt(hand)
                raise GripperFailed(f"the gripper did not answer within {limit:.0f} s: it was told to stop")
            if (
                isinstance(request, Move)
                and now - still_since > self._owner.parameter("stall_timeout")
                and abs(state.width - request.width) > self._owner.parameter("goal_tolerance")
            ):
                # The gripper itself would go on trying for minutes.
                await self._halt(hand)
                return Outcome(done=False, blocked=True, width=state.width)
        if command.status is Status.FAILED:
            raise GripperFailed("the gripper refused the command: has it been homed, and is the robot ready?")
        if command.status is Status.ABORTED:
            raise GripperFailed("something else stopped the gripper: Desk, or another program")
        answered = hand.states
        while hand.states == answered:  # The state that is there may be older than the answer.
            await self._look(run, hand)
        return Outcome(command.status is Status.SUCCESS, blocked=False, width=(hand.state or state).width)

    async def _look(self, run: _Run, hand: Hand) -> None:
        """Wait for the next tick, and see whether the command is still to be pursued then.

        :raises GripperCancelled, GripperFailed: it is not.
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
        """Stop what runs, and wait for that; but no longer than ``stop_timeout``.

        A gripper whose fingers are blocked may ignore it, as its makers know; whoever cancelled shall not wait for it.
        """
        if not hand.busy:
            return
        hand.stop()
        limit = time.monotonic() + self._owner.parameter("stop_timeout")
        while hand.busy and self._owner.hand is hand and time.monotonic() < limit:
            await self._owner.next_tick()

    def _require_hand(self) -> Hand:
        if self._owner.hand is None:
            raise GripperFailed(self._owner.why_no_hand)
        return self._owner.hand
