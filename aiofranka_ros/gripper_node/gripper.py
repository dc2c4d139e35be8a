"""The gripper: it stays connected, and runs one command at a time; blocked fingers are noticed.

Used by the gripper's node, in its process and its one thread. A command is a coroutine that awaits only the next tick,
like a move of the arm (:mod:`aiofranka_ros.arm.moves`). Widths are the distance between the two fingers [m].

Clients repeat themselves: a policy at 30 Hz sends its goal 30 times a second. The gripper would be stopped, and would
let go, for each of them. So a goal for what the gripper does already joins the command that runs, and a goal for what
the last command achieved has succeeded; neither sends anything. Of different goals, the newest is next: it replaces the
one that waits, and stops the one that runs. A command that had to wait for another one may run for a while first, so
that the fingers move however often clients change their mind.
"""

from __future__ import annotations

import contextlib
import enum
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rclpy.task import Future

from aiofranka_ros.errors import ConnectionFailed, GripperFailed
from aiofranka_ros.gripper_node.connection import Hand, HandState, Request, SentCommand, Status
from aiofranka_ros.gripper_node.parameters import GripperParameters

#: Pause between two attempts to connect [s].
_RETRY_PERIOD = 1.0
#: Fingers that move less than this within ``stall_timeout`` are blocked [m].
_STILL = 0.0002
#: How long a command that had to wait for another one runs before the next one may replace it [s]: several times what
#: stopping the fingers takes, and little for a person.
_LEAST_RUN = 0.3
#: Differences that the gripper cannot resolve: width [m], speed [m/s], force [N], tolerances of the width [m].
_RESOLUTION = (1e-4, 1e-4, 0.1, 1e-4, 1e-4)


class Command(NamedTuple):
    """What a goal requests: homing, which needs no numbers, a move or a grasp.

    The object may be smaller than ``width`` by ``inner``, and larger by ``outer`` [m]; [m/s], [N]. A grasp that
    ``may_open`` is a move instead if the fingers are not further open than ``width`` when it begins.
    """

    request: Request
    width: float = 0.0
    speed: float = math.inf
    force: float = 0.0
    inner: float = 0.0
    outer: float = 0.0
    may_open: bool = False

    def equals(self, other: Command) -> bool:
        """Whether the gripper would do the same."""
        return (self.request, self.may_open) == (other.request, other.may_open) and all(
            math.isclose(one, two, rel_tol=0.0, abs_tol=least)
            for one, two, least in zip(self[1:6], other[1:6], _RESOLUTION, strict=True)
        )

    def begin(self, width: float, tolerance: float) -> Command:
        """The command to send with the fingers at ``width``, see ``may_open``."""
        if self.may_open and self.width >= width - tolerance:
            return Command(Request.MOVE, self.width, self.speed)
        return self

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
    """How a command ended, with the width [m] (NaN: not connected any more), and why it had no success, if so.

    ``force`` is that of a grasp [N], else 0.
    """

    end: End
    width: float
    failure: str = ""
    force: float = 0.0


class _Cancelled(Exception):
    """Every client of the command has cancelled it, and the gripper was told to stop."""


class _Goal(NamedTuple):
    """A client's interest in a command."""

    cancelled: Callable[[], bool]
    on_state: Callable[[HandState], None]
    outcome: Future


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
            goal.outcome.set_result(outcome)


class Gripper:
    """The gripper at one address. It connects by itself, and again if the connection is lost.

    :param settings: the node's.
    :param log: the node's.
    :param start: starts a coroutine function as a task of the node's executor.
    """

    def __init__(self, settings: GripperParameters, log: Any, start: Callable[..., Any]) -> None:
        self._settings = settings
        self._log = log
        self._start = start
        self._connection: Hand | None = None
        self._next_attempt = 0.0
        self._ticked: Future = Future()
        self._running: _Job | None = None
        self._waiting: _Job | None = None
        self._worker: Any = None
        # The last command while its outcome holds, with the state that it left.
        self._achieved: tuple[Command, Outcome, HandState] | None = None
        #: Empty while there is no robot to connect to.
        self.address = ""
        #: Why the gripper is not connected.
        self.why = ""
        #: Whether it was connected before and is not any more.
        self.lost = False
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
    def running(self) -> bool:
        """Whether a command runs."""
        return self._running is not None

    # The connection.

    def use(self, address: str, why: str) -> None:
        """Connect to the gripper at another address, or to none; ``why`` says why it is not connected yet."""
        self.disconnect(why)
        self.address, self.lost, self._next_attempt = address, False, 0.0

    def disconnect(self, why: str) -> None:
        """Disconnect for ``why``, for at least the time between two attempts to connect."""
        connection, self._connection = self._connection, None
        self._achieved = None
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
        for job in (self._running, self._waiting):
            if job is not None:
                self._attend(job)
        ticked, self._ticked = self._ticked, Future()
        ticked.set_result(None)
        return not failure

    # Commands.

    async def run(
        self, command: Command, cancelled: Callable[[], bool], on_state: Callable[[HandState], None]
    ) -> Outcome:
        """Run ``command`` to its end, see :meth:`submit`."""
        outcome: Outcome = await self.submit(command, cancelled, on_state)
        return outcome

    def submit(
        self,
        command: Command,
        cancelled: Callable[[], bool],
        on_state: Callable[[HandState], None] = lambda state: None,
    ) -> Future:
        """Begin to run ``command``, unless the gripper does so already, or an equal one has left it so.

        :param cancelled: called at every tick; once it is true, the gripper is stopped, unless another client wants the
            same.
        :param on_state: called with the state at every tick while the command runs.
        :returns: done with the :class:`Outcome`.
        """
        goal = _Goal(cancelled, on_state, Future())
        achieved = self._outcome_without(command)
        if achieved is not None:
            goal.outcome.set_result(achieved)
        else:
            self._job_of(command).goals.append(goal)
        return goal.outcome

    async def stop(self, reason: str) -> bool:
        """End all commands, stop the gripper, and release what it holds.

        :param reason: the failure of the commands.
        :returns: whether the gripper confirmed the stop within ``stop_timeout``.
        :raises GripperFailed: there is no gripper.
        :raises ConnectionFailed: the connection was lost.
        """
        self._end_all(reason)
        hand = self._require_hand()
        sent = hand.send(Request.STOP)
        await self._ticks_while(hand, lambda: sent.status is None)
        return sent.status is Status.SUCCESS

    def abandon(self, reason: str) -> None:
        """End all commands for ``reason``, without waiting; fingers that hold something still do."""
        self._end_all(reason)
        hand = self.hand
        if self._running is not None and hand is not None and hand.busy:
            with contextlib.suppress(ConnectionFailed):  # Then there is nothing left to stop.
                hand.send(Request.STOP)

    def _outcome_without(self, command: Command) -> Outcome | None:
        """The outcome of ``command`` if the last one was equal and the gripper still is as that left it."""
        if self._achieved is None or self.state is None:
            return None
        last, outcome, left = self._achieved
        moved = abs(self.state.width - left.width) > self._settings["goal_tolerance"]
        if moved or self.state.is_grasped != left.is_grasped or not last.equals(command):
            return None
        return outcome._replace(width=self.state.width)

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
        if self._worker is None or self._worker.done():
            self._worker = self._start(self._work)
        return job

    def _drop(self, reason: str) -> None:
        """End the job that waits, if any."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.end(self._failed(reason))

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
                goal.outcome.set_result(self._failed("cancelled", End.CANCELLED))
        if job is self._waiting and not job.goals:
            self._waiting = None

    async def _work(self) -> None:
        """Run the job that waits, and the next one, until none waits."""
        least_run = 0.0
        while (job := self._waiting) is not None:
            self._running, self._waiting = job, None
            job.least_run = least_run
            job.end(await self._pursue(job))
            self._running = None
            least_run = _LEAST_RUN

    async def _pursue(self, job: _Job) -> Outcome:
        """Run one job to its end."""
        try:
            hand = self._require_hand()
            # Of two commands at once, the gripper would choose which one counts.
            await self._halt(hand)
            await self._check(job, hand)
            return await self._until_done(job, hand)
        except (_Cancelled, GripperFailed, ConnectionFailed) as error:
            return self._failed(str(error), End.CANCELLED if isinstance(error, _Cancelled) else End.FAILED)

    async def _until_done(self, job: _Job, hand: Hand) -> Outcome:
        """Send the command of a job and wait for its end."""
        state, tolerance = hand.state, self._settings["goal_tolerance"]
        assert state is not None  # The hand is connected.
        command = job.command.begin(state.width, tolerance)
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
        await self._ticked
        await self._check(job, hand)

    async def _check(self, job: _Job, hand: Hand) -> None:
        """:raises GripperFailed: the command must end now."""
        if self.hand is not hand:
            raise GripperFailed(self.why)
        if job.ended_by:
            raise GripperFailed(job.ended_by)
        if job.cancelled:
            await self._halt(hand)
            raise _Cancelled("cancelled")
        if self._waiting is not None and hand.busy and time.monotonic() - job.began >= job.least_run:
            raise GripperFailed("replaced by a new goal")

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
