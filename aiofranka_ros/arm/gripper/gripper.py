"""The gripper: it stays connected, and runs one command at a time; blocked fingers are noticed.

Used by the gripper's node and by ``RobotInterface``, each in one thread of its process, which calls
:meth:`Gripper.tick` regularly. A command is a coroutine that awaits only the next tick, so it needs neither asyncio nor
rclpy. Widths are the distance between the two fingers [m].

Clients repeat themselves: a policy at 30 Hz sends its goal 30 times a second. The gripper would be stopped, and would
let go, for each of them. So a command for what the gripper does already joins the one that runs, and a command for what
the last one achieved, or for a grasp of what is held, has succeeded; neither sends anything. Of different commands, the
newest is next: it replaces the one that waits, and stops the one that runs. A command that had to wait for another one
may run for a while first, so that the fingers move however often clients change their mind.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from types import coroutine
from typing import Any, NamedTuple

from aiofranka_ros.arm.gripper.commands import Command, End, Outcome
from aiofranka_ros.arm.gripper.connection import Hand, HandState, Request, Status
from aiofranka_ros.arm.gripper.settings import Settings
from aiofranka_ros.errors import ConnectionFailed, GripperFailed

#: Pause between two attempts to connect [s].
_RETRY_PERIOD = 1.0
#: Fingers that move less than this within ``stall_timeout`` are blocked [m].
_STILL = 0.0002
#: How long a command that had to wait for another one runs before the next one may replace it [s]: several times what
#: stopping the fingers takes, and little for a person.
_LEAST_RUN = 0.3


class _Cancelled(Exception):
    """Every client of the command has cancelled it, and the gripper was told to stop."""


class _Replaced(Exception):
    """Another command or a stop ended the command."""


@coroutine
def _next_tick() -> Generator[None, None, None]:
    """Wait for the next :meth:`Gripper.tick`, which continues the coroutine."""
    yield


class _Goal(NamedTuple):
    """A client's interest in a command."""

    cancelled: Callable[[], bool]
    on_state: Callable[[HandState], object]
    on_end: Callable[[Outcome], object]


@dataclass(eq=False)
class _Job:
    """A command that runs or waits, with everyone who wants it.

    :ivar least_run: how long it runs at least before another command may replace it [s].
    :ivar began: when it was sent [s, monotonic].
    :ivar cancelled: whether the last of its goals was cancelled.
    :ivar ended_by: why else it must end, if it must.
    """

    command: Command
    goals: list[_Goal] = field(default_factory=list)
    least_run: float = 0.0
    began: float = math.inf
    cancelled: bool = False
    ended_by: str = ""

    def end(self, outcome: Outcome) -> None:
        """Tell everyone who wants it how it ended."""
        for goal in self.goals:
            goal.on_end(outcome)


class Gripper:
    """The gripper at one address. It connects by itself, and again if the connection is lost.

    :param settings: the owner's.
    :param log: the owner's, of ROS or of Python.
    """

    def __init__(self, settings: Settings, log: Any) -> None:
        self._settings = settings
        self._log = log
        self._connection: Hand | None = None
        self._next_attempt = 0.0
        #: Everything that waits for the next tick.
        self._coroutines: list[Coroutine[None, None, None]] = []
        self._running: _Job | None = None
        self._waiting: _Job | None = None
        self._working = False
        # The last command while its outcome holds, with the state that it left. A lost connection changes nothing.
        self._achieved: tuple[Command, Outcome, HandState] | None = None
        # The last state that may be older than the end of the last command or stop, by its connection and number.
        self._unclear: tuple[Hand | None, int] = (None, 0)
        self._stopping = 0
        #: Empty while there is no robot to connect to.
        self.address = ""
        #: Why the gripper is not connected.
        self.why = ""
        #: Whether it was connected before and is not any more.
        self.lost = False
        #: Whether it is known if there is a gripper at the address: an attempt to connect has ended.
        self.tried = False
        #: Counts what changes what the gripper does: commands that differ from the one before, and stops.
        self.begun = 0

    @property
    def hand(self) -> Hand | None:
        """The connection while it is established, else ``None``."""
        return None if self.state is None else self._connection

    @property
    def state(self) -> HandState | None:
        """The newest state while the gripper is connected, else ``None``."""
        return None if self._connection is None else self._connection.state

    @property
    def heard(self) -> float:
        """When the newest state arrived [s, monotonic]; 0 if the gripper is not connected."""
        return 0.0 if self._connection is None else self._connection.heard

    @property
    def busy(self) -> bool:
        """Whether the gripper has not answered a command or a stop yet."""
        return self.hand is not None and self.hand.busy

    @property
    def running(self) -> bool:
        """Whether a command runs."""
        return self._running is not None

    @property
    def holds(self) -> bool:
        """Whether the gripper holds something, and nothing that it does or has just done may change that."""
        hand, number = self._unclear
        clear = self._connection is not None and (self._connection is not hand or self._connection.states > number)
        idle = self._running is None and self._waiting is None and not self._stopping
        return idle and clear and self.state is not None and self.state.is_grasped

    # The connection.

    def use(self, address: str, why: str) -> None:
        """Connect to the gripper at another address, or to none; ``why`` says why it is not connected yet."""
        self.disconnect(why)
        self.address, self.lost, self.tried, self._next_attempt = address, False, False, 0.0
        self._achieved = None

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
            self.tried = True
            self.disconnect(failure)
        if self.hand is not None and not connected:
            self.lost, self.tried = False, True
            self._log.info(f"connected to the gripper at {self.address}")
        for job in (self._running, self._waiting):
            if job is not None:
                self._attend(job)
        for each in list(self._coroutines):
            self._continue(each)
        return not failure

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        """Run ``work`` until it waits for a tick; the ticks continue it."""
        self._coroutines.append(work)
        self._continue(work)

    def _continue(self, work: Coroutine[None, None, None]) -> None:
        try:
            work.send(None)
        except StopIteration:
            self._coroutines.remove(work)
        except BaseException:
            self._coroutines.remove(work)
            raise

    # Commands.

    def submit(
        self,
        command: Command,
        cancelled: Callable[[], bool],
        on_end: Callable[[Outcome], object],
        on_state: Callable[[HandState], object] = lambda state: None,
    ) -> None:
        """Begin to run ``command``, unless the gripper does so already, or is as it would leave it.

        :param cancelled: called at every tick; once it is true, the gripper is stopped, unless another client wants the
            same.
        :param on_end: called when it has ended, which may be before this returns.
        :param on_state: called with the state at every tick while the command runs.
        """
        done = self._outcome_without(command)
        if done is not None:
            on_end(done)
            return
        self._job_of(command).goals.append(_Goal(cancelled, on_state, on_end))
        if not self._working:
            self._begin(self._work())

    def stop(self, reason: str, on_end: Callable[[str], object]) -> None:
        """End all commands, stop the gripper, and release what it holds.

        :param reason: the failure of the commands.
        :param on_end: called with why the gripper did not confirm the stop within ``stop_timeout``; empty: it did.
        """
        self._end_all(reason)
        self._begin(self._stop(on_end))

    def abandon(self, reason: str) -> None:
        """End all commands for ``reason``, without waiting; fingers that hold something still do."""
        self._end_all(reason)
        hand = self.hand
        if self._running is not None and hand is not None and hand.busy:
            with contextlib.suppress(ConnectionFailed):  # Then there is nothing left to stop.
                hand.send(Request.STOP)

    async def _stop(self, on_end: Callable[[str], object]) -> None:
        self._stopping += 1
        failure = ""
        try:
            hand = self._require_hand()
            sent = hand.send(Request.STOP)
            await self._ticks_while(hand, lambda: sent.status is None)
            if sent.status is not Status.SUCCESS:
                failure = "the gripper did not confirm that it stopped"
        except (GripperFailed, ConnectionFailed) as error:
            failure = str(error)
        self._stopping -= 1
        self._distrust()
        on_end(failure)

    def _distrust(self) -> None:
        """The present state may be older than what the gripper did last."""
        self._unclear = self._connection, 0 if self._connection is None else self._connection.states

    def _outcome_without(self, command: Command) -> Outcome | None:
        """The outcome of ``command`` if the gripper is already as that would leave it."""
        state, tolerance = self.state, self._settings["goal_tolerance"]
        if state is None:
            return None
        force = math.nan
        if self._achieved is not None:
            last, outcome, left = self._achieved
            moved = abs(state.width - left.width) > tolerance
            # What gives way moves the fingers, but is held all the same.
            unchanged = state.is_grasped == left.is_grasped and (state.is_grasped or not moved)
            if unchanged and command.is_done_by(last):
                return outcome._replace(width=state.width)
            force = last.force if unchanged else math.nan
        if self.holds and command.would_grasp_again(state, force, tolerance):
            return Outcome(End.FINISHED, state.width, "", command.force if math.isnan(force) else force)
        return None

    def _job_of(self, command: Command) -> _Job:
        """The job of an equal command, or a new one; it is the next to run unless it runs already."""
        for job in (self._running, self._waiting):
            if job is not None and not (job.cancelled or job.ended_by) and job.command.equals(command):
                if job is self._running:
                    self._drop("replaced by a newer goal before it began")
                return job
        self._drop("replaced by a newer goal before it began")
        self._achieved = None
        self.begun += 1
        job = self._waiting = _Job(command)
        return job

    def _drop(self, reason: str) -> None:
        """End the job that waits, if any."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.end(self._failed(reason, End.REPLACED))

    def _end_all(self, reason: str) -> None:
        self.begun += 1
        self._achieved = None
        self._drop(reason)
        if self._running is not None:
            self._running.ended_by = reason

    def _failed(self, reason: str, end: End = End.FAILED) -> Outcome:
        return Outcome(end, math.nan if self.state is None else self.state.width, reason)

    def _attend(self, job: _Job) -> None:
        """Show everyone who wants a running command the state, and let those go who have cancelled their goals."""
        for goal in list(job.goals):
            if not goal.cancelled():
                if job is self._running and self.state is not None:
                    goal.on_state(self.state)
            elif job is self._running and len(job.goals) == 1:
                job.cancelled = True  # It ends once the fingers have stopped.
            else:
                job.goals.remove(goal)
                goal.on_end(self._failed("cancelled", End.CANCELLED))
        if job is self._waiting and not job.goals:
            self._waiting = None

    async def _work(self) -> None:
        """Run the job that waits, and the next one, until none waits."""
        self._working = True
        least_run = 0.0
        while (job := self._waiting) is not None:
            self._running, self._waiting, self._achieved = job, None, None
            job.least_run = least_run
            outcome = await self._pursue(job)
            if outcome.end is not End.FINISHED:
                self._distrust()
            self._running = None
            job.end(outcome)
            least_run = _LEAST_RUN
        self._working = False

    async def _pursue(self, job: _Job) -> Outcome:
        """Run one job to its end."""
        try:
            hand = self._require_hand()
            # Of two commands at once, the gripper would choose which one counts.
            await self._halt(hand)
            await self._check(job, hand)
            return await self._until_done(job, hand)
        except _Cancelled as error:
            return self._failed(str(error), End.CANCELLED)
        except _Replaced as error:
            return self._failed(str(error), End.REPLACED)
        except (GripperFailed, ConnectionFailed) as error:
            return self._failed(str(error))

    async def _until_done(self, job: _Job, hand: Hand) -> Outcome:
        """Send the command of a job and wait for its end."""
        state, tolerance = hand.state, self._settings["goal_tolerance"]
        assert state is not None  # The hand is connected.
        command = job.command.begin(state, tolerance)
        sent = command.send(hand)
        job.began = still_since = time.monotonic()
        limit = self._settings["command_timeout"] + state.max_width / command.speed
        still_at = state.width
        while sent.status is None:
            await self._next_tick(job, hand)
            state, now = hand.state or state, time.monotonic()
            if abs(state.width - still_at) > _STILL:
                still_at, still_since = state.width, now
            if now - job.began > limit:
                await self._halt(hand)
                raise GripperFailed(f"the gripper did not answer within {limit:.0f} s: it was told to stop")
            if (
                command.request is Request.MOVE
                and now - still_since > self._settings["stall_timeout"]
                and abs(state.width - command.width) > tolerance
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
            await self._next_tick(job, hand)
        state = hand.state or state
        failure = "" if sent.status is Status.SUCCESS else command.why_unsuccessful(state.width)
        outcome = Outcome(End.FINISHED, state.width, failure, command.force)
        # Nothing can get between fingers that have closed. Anything else without success may have success the next
        # time, and homing measures.
        if command.request is not Request.HOMING and (
            not failure or (command.request is Request.GRASP and state.width <= tolerance)
        ):
            self._achieved = job.command, outcome, state
        return outcome

    async def _next_tick(self, job: _Job, hand: Hand) -> None:
        """Wait for the next tick, and check that the command may still run then."""
        await _next_tick()
        await self._check(job, hand)

    async def _check(self, job: _Job, hand: Hand) -> None:
        """:raises GripperFailed, _Replaced, _Cancelled: the command must end now."""
        if self.hand is not hand:
            raise GripperFailed(self.why)
        if job.ended_by:
            raise _Replaced(job.ended_by)
        if job.cancelled:
            await self._halt(hand)
            raise _Cancelled("cancelled")
        if self._waiting is not None and hand.busy and time.monotonic() - job.began >= job.least_run:
            raise _Replaced("replaced by a new goal")

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
            await _next_tick()

    def _require_hand(self) -> Hand:
        """:raises GripperFailed: there is no gripper."""
        if self.hand is None:
            raise GripperFailed(self.why)
        return self.hand
