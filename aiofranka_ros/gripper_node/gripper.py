"""The gripper: it stays connected, and runs one command at a time. The newest wins, and blocked fingers are noticed.

Used by the gripper's node, in its process and its one thread. A command is a coroutine that awaits only the next tick,
like a move of the arm (:mod:`aiofranka_ros.arm.moves`). Widths are the distance between the two fingers [m].
"""

from __future__ import annotations

import contextlib
import enum
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from rclpy.task import Future

from aiofranka_ros.errors import ConnectionFailed, GripperFailed
from aiofranka_ros.gripper_node.connection import Hand, HandState, Request, SentCommand, Status
from aiofranka_ros.gripper_node.parameters import GripperParameters

#: Pause between two attempts to connect [s].
_RETRY_PERIOD = 1.0
#: Fingers that move less than this within ``stall_timeout`` are blocked [m].
_STILL = 0.0002


class Command(NamedTuple):
    """What a goal requests: homing, which needs no numbers, a move or a grasp.

    The object may be smaller than ``width`` by ``inner``, and larger by ``outer`` [m]; [m/s], [N].
    """

    request: Request
    width: float = 0.0
    speed: float = math.inf
    force: float = 0.0
    inner: float = 0.0
    outer: float = 0.0

    def send(self, hand: Hand) -> SentCommand:
        """:raises ConnectionFailed: the connection was lost."""
        if self.request is Request.HOMING:
            return hand.send(self.request)
        if self.request is Request.MOVE:
            return hand.send(self.request, self.width, self.speed)
        return hand.send(self.request, self.width, self.inner, self.outer, self.speed, self.force)

    def why_unsuccessful(self, width: float) -> str:
        """Why the gripper calls it no success, with its fingers at ``width``."""
        if self.request is Request.HOMING:
            return "homing failed: is something between the fingers?"
        if self.request is Request.MOVE:
            return f"the gripper gave up, with its fingers at {width:.4f} m"
        return (
            f"nothing was grasped: the fingers ended at {width:.4f} m, which is not between "
            f"{self.width - self.inner:.4f} and {self.width + self.outer:.4f} m"
        )


class End(enum.Enum):
    """How a command ended."""

    #: The gripper carried it out, with or without success.
    FINISHED = enum.auto()
    #: A move was stopped because the fingers were blocked.
    BLOCKED = enum.auto()
    #: The gripper could not carry it out, or something else ended it.
    FAILED = enum.auto()
    CANCELLED = enum.auto()


class Outcome(NamedTuple):
    """How a command ended, with the width [m] (NaN: not connected any more), and why it had no success, if so."""

    end: End
    width: float
    failure: str = ""


class _Cancelled(Exception):
    """The command was cancelled, and the gripper was told to stop."""


@dataclass
class _Run:
    """The command that runs: whether its client has cancelled it, and why else it must end, if it must."""

    cancelled: Callable[[], bool]
    ended_by: str = ""


class Gripper:
    """The gripper at one address. It connects by itself, and again if the connection is lost.

    :param settings: the node's.
    :param log: the node's.
    """

    def __init__(self, settings: GripperParameters, log: Any) -> None:
        self._settings = settings
        self._log = log
        self._connection: Hand | None = None
        self._next_attempt = 0.0
        self._ticked: Future = Future()
        self._run: _Run | None = None
        #: Empty while there is no robot to connect to.
        self.address = ""
        #: Why the gripper is not connected.
        self.why = ""
        #: Whether it was connected before and is not any more.
        self.lost = False

    @property
    def hand(self) -> Hand | None:
        """The connection while it is established, else ``None``."""
        return None if self.state is None else self._connection

    @property
    def state(self) -> HandState | None:
        """The newest state while the gripper is connected, else ``None``."""
        return None if self._connection is None else self._connection.state

    @property
    def running(self) -> bool:
        """Whether a command runs."""
        return self._run is not None

    # The connection.

    def use(self, address: str, why: str) -> None:
        """Connect to the gripper at another address, or to none; ``why`` says why it is not connected yet."""
        self.disconnect(why)
        self.address, self.lost, self._next_attempt = address, False, 0.0

    def disconnect(self, why: str) -> None:
        """Disconnect for ``why``, for at least the time between two attempts to connect."""
        connection, self._connection = self._connection, None
        self.why = why
        self._next_attempt = time.monotonic() + _RETRY_PERIOD
        if connection is not None:
            connection.close()

    def tick(self) -> bool:
        """Connect, or read from the gripper, and wake the command; called regularly.

        :returns: whether connection and address are still good, as far as is known.
        """
        connected, failure = self.hand is not None, ""
        try:
            if self._connection is not None:
                self._connection.poll()
            elif self.address and time.monotonic() >= self._next_attempt:
                self._connection = Hand(self.address)
        except ConnectionFailed as error:
            failure = str(error)
            if connected or failure != self.why:  # Once, not at every attempt.
                self._log.error(f"{failure} (trying again every {_RETRY_PERIOD:g} s)")
            self.lost |= connected
            self.disconnect(failure)
        if self.hand is not None and not connected:
            self.lost = False
            self._log.info(f"connected to the gripper at {self.address}")
        ticked, self._ticked = self._ticked, Future()
        ticked.set_result(None)
        return not failure

    # Commands.

    async def run(
        self, command: Command, cancelled: Callable[[], bool], on_state: Callable[[HandState], None]
    ) -> Outcome:
        """Run ``command`` to its end, in place of the one before.

        :param cancelled: called at every tick; once it is true, the gripper is stopped.
        :param on_state: called with the state at every tick while the command runs.
        """
        if self._run is not None:
            self._run.ended_by = "replaced by a new goal"
        run = self._run = _Run(cancelled)
        try:
            hand = self._require_hand()
            # Of two commands at once, the gripper would choose which one counts.
            await self._halt(hand)
            await self._next_tick(run, hand)
            return await self._until_done(run, hand, command, on_state)
        except (_Cancelled, GripperFailed, ConnectionFailed) as error:
            end = End.CANCELLED if isinstance(error, _Cancelled) else End.FAILED
            return Outcome(end, math.nan if self.state is None else self.state.width, str(error))
        finally:
            if self._run is run:
                self._run = None

    async def stop(self, reason: str) -> bool:
        """End the command that runs, stop the gripper, and release what it holds.

        :param reason: the failure of the command that runs.
        :returns: whether the gripper confirmed the stop within ``stop_timeout``.
        :raises GripperFailed: there is no gripper.
        :raises ConnectionFailed: the connection was lost.
        """
        if self._run is not None:
            self._run.ended_by = reason
        hand = self._require_hand()
        sent = hand.send(Request.STOP)
        await self._ticks_while(hand, lambda: sent.status is None)
        return sent.status is Status.SUCCESS

    def abandon(self, reason: str) -> None:
        """End the command that runs, if any, for ``reason``, without waiting; fingers that hold something still do."""
        if self._run is None:
            return
        self._run.ended_by = reason
        hand = self.hand
        if hand is not None and hand.busy:
            with contextlib.suppress(ConnectionFailed):  # Then there is nothing left to stop.
                hand.send(Request.STOP)

    async def _until_done(
        self, run: _Run, hand: Hand, command: Command, on_state: Callable[[HandState], None]
    ) -> Outcome:
        """Send a command and wait for its end, reporting every state."""
        state = hand.state
        assert state is not None  # The hand is connected.
        sent = command.send(hand)
        began = still_since = time.monotonic()
        limit = self._settings["command_timeout"] + state.max_width / command.speed
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
                command.request is Request.MOVE
                and now - still_since > self._settings["stall_timeout"]
                and abs(state.width - command.width) > self._settings["goal_tolerance"]
            ):
                # The gripper itself would keep trying for minutes.
                await self._halt(hand)
                return Outcome(End.BLOCKED, state.width, f"the fingers are blocked at {state.width:.4f} m")
        if sent.status is Status.FAILED:
            raise GripperFailed("the gripper refused the command: has it been homed, and is the robot ready?")
        if sent.status is Status.ABORTED:
            raise GripperFailed("something else stopped the gripper: Desk, or another program")
        answered = hand.states
        while hand.states == answered:  # The present state may be older than the answer.
            await self._next_tick(run, hand)
        width = (hand.state or state).width
        failure = "" if sent.status is Status.SUCCESS else command.why_unsuccessful(width)
        return Outcome(End.FINISHED, width, failure)

    async def _next_tick(self, run: _Run, hand: Hand) -> None:
        """Wait for the next tick, and check that the command may still run then."""
        await self._ticked
        if self.hand is not hand:
            raise GripperFailed(self.why)
        if run.ended_by:
            raise GripperFailed(run.ended_by)
        if run.cancelled():
            await self._halt(hand)
            raise _Cancelled("cancelled")

    async def _halt(self, hand: Hand) -> None:
        """Stop what the gripper does, and wait for that, for at most ``stop_timeout``.

        A gripper with blocked fingers may ignore a stop, as Franka documents; the caller must not wait for it.
        """
        if hand.busy:
            hand.send(Request.STOP)
            await self._ticks_while(hand, lambda: hand.busy)

    async def _ticks_while(self, hand: Hand, condition: Callable[[], bool]) -> None:
        """Wait while ``condition`` is true and the gripper is connected, for at most ``stop_timeout``."""
        limit = time.monotonic() + self._settings["stop_timeout"]
        while condition() and self.hand is hand and time.monotonic() < limit:
            await self._ticked

    def _require_hand(self) -> Hand:
        """:raises GripperFailed: there is no gripper."""
        if self.hand is None:
            raise GripperFailed(self.why)
        return self.hand
