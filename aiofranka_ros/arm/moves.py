"""Joint-space moves: planned whole, followed to their end, cancelled or replaced on the way.

Used by whoever owns an arm, in its process and its one thread: by the node, for the action ``~/move`` and for joint
trajectories, and by :class:`~aiofranka_ros.api.robot_interface.RobotInterface`. A move is a coroutine that looks at the
measured state once a tick of its owner. What it awaits comes from the owner alone, so the same code runs in the
executor of rclpy and in the event loop of asyncio; nothing here blocks and nothing needs a lock.

What is pursued is a :class:`Task`: a :class:`Goal` is reached as fast as allowed, a :class:`TrajectoryGoal` in time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aiofranka_ros.arm.joint_trajectory import ArmState, JointTrajectory, join, remainder
from aiofranka_ros.arm.planning import first_outside, plan
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.control.records import Hold, Mode, MotionStatus
from aiofranka_ros.errors import GoalMissed, InvalidTarget, MoveFailed, MoveReplaced, PathViolated
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model.fr3 import JOINT_NAMES, POSITION_LOWER, POSITION_UPPER

#: Robot time between looking at a running motion and the beginning of the one that replaces it [s]: longer
#: than planning takes, so that the new one begins where the old one will be.
_LEAD = 0.02
#: An arm rests when no joint is faster than this [rad/s].
REST_VELOCITY = 0.02
#: A motion slows down within :data:`~aiofranka_ros.control.law.motion.STOP_DURATION`, or 1.6 s where a wrist is at its
#: fastest; the arm gets this long to follow [s].
_STOP_TIMEOUT = 3.0
#: Robot time may pass more slowly than this computer's; a motion that is this much late does not run [s].
_START_TIMEOUT = 2.0


class Owner(Protocol):
    """What a move needs of whoever owns the arm."""

    @property
    def active_client(self) -> ControlClient | None:
        """The control process while the arm is active, else ``None``."""

    @property
    def why_inactive(self) -> str:
        """Why the arm is not active, as the end of a sentence."""

    @property
    def why_held(self) -> str:
        """Why nobody may have the arm; empty where it may be had."""

    def parameter(self, name: str) -> Any:
        """Value of a setting."""

    def next_tick(self) -> Awaitable[None]:
        """Done at the owner's next tick."""


class MoveCancelled(Exception):
    """The move was cancelled, and the arm rests."""


@dataclass(frozen=True)
class Departure:
    """Where a new motion leaves what the arm does at the moment.

    :ivar state: how the joints move there.
    :ivar running: what is left of the motion that runs, from there on; ``None`` where none does.
    :ivar start: robot time [s]; 0: at once.
    :ivar lead: how much later than now [s].
    """

    state: ArmState
    running: Motion | None = None
    start: float = 0.0
    lead: float = 0.0


class Task(Protocol):
    """What is pursued: which motion leads there, what must not happen on the way, and when it is reached."""

    @property
    def joints(self) -> Sequence[str]:
        """Names of the joints, for messages."""

    def plan(self, departure: Departure, owner: Owner) -> Motion:
        """The motion from ``departure`` on.

        :raises InvalidTarget: there is none within the limits.
        """

    def check(self, state: Record) -> None:
        """Look at the arm on its way, at every tick.

        :raises PathViolated: it may not go on.
        """

    def missing(self, state: Record) -> str:
        """What keeps the arm at the end of the motion from having arrived, in words; empty: nothing."""

    def patience(self, owner: Owner) -> float:
        """How long the arm may take to arrive after the end of the motion [s]."""


@dataclass(frozen=True)
class Goal:
    """Where to go, as fast as allowed.

    :ivar q: joint positions [rad] (7,), within the joints' limits.
    :ivar velocity: largest joint velocities [rad/s] (7,).
    :ivar tolerance: largest distance of a joint from ``q`` at the end [rad].
    :ivar joints: names of the joints, for messages.
    """

    q: Array
    velocity: Array
    tolerance: float
    joints: Sequence[str] = JOINT_NAMES

    def plan(self, departure: Departure, owner: Owner) -> Motion:
        """See :meth:`Task.plan`."""
        return _plan(departure.state, self.q, owner, max_velocity=self.velocity, joints=self.joints)

    def check(self, state: Record) -> None:
        """See :meth:`Task.check`: any way will do."""

    def missing(self, state: Record) -> str:
        """See :meth:`Task.missing`."""
        error = np.abs(state["q"] - self.q)
        if (error <= self.tolerance).all():
            return ""
        apart = ", ".join(
            f"{name} by {value:.4f} rad"
            for name, value in zip(self.joints, error, strict=True)
            if value > self.tolerance
        )
        return f"{apart}; the tolerance is {self.tolerance:g} rad"

    def patience(self, owner: Owner) -> float:
        """See :meth:`Task.patience`."""
        return float(owner.parameter("move_settle_time"))


@dataclass(frozen=True)
class Tolerance:
    """How far joints may be from where they are meant to be; infinite: anywhere.

    :ivar position: [rad] (7,).
    :ivar velocity: [rad/s] (7,).
    :ivar joints: names of the joints, for messages.
    """

    position: Array
    velocity: Array
    joints: Sequence[str] = JOINT_NAMES

    def violations(self, state: Record) -> str:
        """The joints that are further away than this from the reference in ``state``, and by how much."""
        return ", ".join(
            f"{name} by {error:.4f} {unit} (tolerance {limit:g})"
            for actual, desired, limits, unit in (
                ("q", "ref_q", self.position, "rad"),
                ("dq", "ref_dq", self.velocity, "rad/s"),
            )
            for name, error, limit in zip(self.joints, np.abs(state[desired] - state[actual]), limits, strict=True)
            if not error <= limit  # Nor where there is no number.
        )


@dataclass
class TrajectoryGoal:
    """A trajectory to follow at its times.

    :ivar trajectory: the points, checked.
    :ivar path_tolerance: on the way.
    :ivar goal_tolerance: at the end.
    :ivar goal_time: how long the arm may take to be there after the end [s]; infinite: as long as it likes.
    :ivar elapsed: how long ago the trajectory began [s], negative if it is still to begin; ``None``: it begins when
        the arm can.
    :ivar begin: time in the trajectory at which the motion begins [s]; known once it was planned.
    """

    trajectory: JointTrajectory
    path_tolerance: Tolerance
    goal_tolerance: Tolerance
    goal_time: float
    elapsed: Callable[[], float] | None = None
    begin: float = 0.0

    @property
    def joints(self) -> Sequence[str]:
        """See :attr:`Task.joints`."""
        return self.trajectory.joints

    def plan(self, departure: Departure, owner: Owner) -> Motion:
        """See :meth:`Task.plan`."""
        self.begin = 0.0 if self.elapsed is None else self.elapsed() + departure.lead
        before = departure.state if departure.running is None else departure.running
        if self.begin < 0.0 and isinstance(before, ArmState) and np.abs(before.dq).max() > REST_VELOCITY:
            # Until it begins the arm rests, in reach of where it would have braked.
            ahead = 0.5 * before.dq * np.abs(before.dq) / owner.parameter("move_acceleration")
            before = _plan(before, np.clip(before.q + ahead, POSITION_LOWER, POSITION_UPPER), owner)
        return join(self.trajectory, before, self.begin)

    def check(self, state: Record) -> None:
        """See :meth:`Task.check`."""
        if violations := self.path_tolerance.violations(state):
            raise PathViolated(f"left the path: {violations}")

    def missing(self, state: Record) -> str:
        """See :meth:`Task.missing`."""
        return self.goal_tolerance.violations(state)

    def patience(self, owner: Owner) -> float:
        """See :meth:`Task.patience`."""
        return self.goal_time


def _plan(state: ArmState, goal: Array, owner: Owner, **options: Any) -> Motion:
    return plan(
        state.q, goal, dq=state.dq, ddq=state.ddq,
        max_acceleration=owner.parameter("move_acceleration"), max_jerk=owner.parameter("move_jerk"), **options,
    )  # fmt: skip


@dataclass
class _Run:
    """One task that is pursued.

    :ivar number: number of the motion in the control process.
    :ivar owner: who pursues it.
    :ivar interrupted: why it shall not be pursued any more; empty: it shall.
    """

    task: Task
    motion: Motion
    number: int
    owner: str
    cancelled: Callable[[], bool]
    replaced: bool = False
    interrupted: str = ""


class Mover:
    """Pursues one goal at a time; a new one replaces the one before.

    :param owner: what the owner knows of the arm.
    :param on_begin: called with every motion that has begun, and the pose of the control frame in the flange (4, 4).
    """

    def __init__(self, owner: Owner, on_begin: Callable[[Motion, Array], None] = lambda motion, tcp: None) -> None:
        self._owner = owner
        self._on_begin = on_begin
        self._run: _Run | None = None

    @property
    def owner(self) -> str:
        """Who has the arm while a motion runs, or until the mode has taken over again; empty where nobody does."""
        return "" if self._run is None else self._run.owner

    def interrupt(self, reason: str) -> None:
        """Let what runs slow down on its path and fail for ``reason``; nothing happens where nothing runs."""
        if self._run is not None:
            self._run.interrupted = reason

    def check(self, task: Task) -> None:
        """Whether ``task`` could be pursued if it began now; nothing moves.

        :raises InvalidTarget: it could not, and why.
        """
        client = self._owner.active_client
        if client is None:
            raise InvalidTarget(f"the node is not active{self._owner.why_inactive}", reason="not active")
        if self._owner.why_held:
            raise InvalidTarget(self._owner.why_held, reason="held")
        self._plan(task, self._departure(client.state()), client)

    async def move(
        self,
        task: Task,
        *,
        owner: str = "a move",
        cancelled: Callable[[], bool] = lambda: False,
        on_tick: Callable[[Record], None] = lambda state: None,
    ) -> None:
        """Pursue ``task`` to its end; whatever that is, the arm then holds and the mode has it back.

        :param owner: who pursues it, for people.
        :param cancelled: asked at every tick; once it is true, the arm slows down on its path and holds.
        :param on_tick: called with the state at every tick until the arm has arrived.
        :raises MoveCancelled: it was cancelled.
        :raises PathViolated, GoalMissed: it violated one of the task's tolerances.
        :raises MoveReplaced: another task took its place.
        :raises MoveFailed: it did not arrive for another reason.
        """
        run = self._begin(task, owner, cancelled)
        try:
            await self._until_done(run, on_tick)
            await self._until_settled(run, on_tick)
        finally:
            await self._give_back(run)

    def _begin(self, task: Task, owner: str, cancelled: Callable[[], bool]) -> _Run:
        """Plan and start a motion; the one that ran before ends.

        :raises MoveFailed: that is not possible; what ran goes on.
        """
        client = self._owner.active_client
        if client is None:
            raise MoveFailed(f"the arm is not active{self._owner.why_inactive}")
        if self._owner.why_held:
            raise MoveFailed(self._owner.why_held)
        departure = self._departure(client.state())
        try:
            motion = self._plan(task, departure, client)
        except InvalidTarget as error:
            raise MoveFailed(str(error)) from error
        before, number = self._run, client.start_motion(motion, start=departure.start)
        self._run = run = _Run(task, motion, number, owner, cancelled)
        if before is not None:
            before.replaced = True
        self._on_begin(motion, client.flange_to_tcp)
        return run

    def _plan(self, task: Task, departure: Departure, client: ControlClient) -> Motion:
        """The motion that ``task`` takes.

        :raises InvalidTarget: there is none within the limits of joints and workspace.
        """
        motion = task.plan(departure, self._owner)
        lower, upper = (self._owner.parameter(name) for name in ("joint_lower", "joint_upper"))
        found = np.empty(3)
        index = first_outside(
            motion.times, motion.coefficients, client.flange_to_tcp,
            # The arm's own limits were checked already, and better: a motion may brake beyond where it begins.
            np.where(lower > POSITION_LOWER, lower, -np.inf), np.where(upper < POSITION_UPPER, upper, np.inf),
            self._owner.parameter("workspace_lower"), self._owner.parameter("workspace_upper"), found,
        )  # fmt: skip
        if index >= 0:
            side = "lower" if found[1] < found[2] else "upper"
            what, unit = (task.joints[index], "rad") if index < 7 else (f"{'xyz'[index - 7]} of the control frame", "m")
            raise InvalidTarget(
                f"{what} would be at {found[1]:.3f} {unit} after {found[0]:.2f} s, beyond "
                f"{'joint' if index < 7 else 'workspace'}_{side} ({found[2]:.3f} {unit})",
                reason="outside the joint limits" if index < 7 else "outside the workspace",
            )
        return motion

    def _departure(self, state: Record) -> Departure:
        """Where a motion that is planned now can begin."""
        status, run = MotionStatus(int(state["motion_status"])), self._run
        if run is not None and state["motion_id"] == run.number and status is MotionStatus.EXECUTING:
            running = remainder(run.motion, float(state["motion_time"]) + _LEAD)
            return Departure(ArmState.on(running, 0.0), running, float(state["time"]) + _LEAD, _LEAD)
        if status in (MotionStatus.NONE, MotionStatus.REFUSED) and state["mode"] in (Mode.OSC, Mode.TORQUE):
            # These modes have no joint reference.
            return Departure(ArmState(state["q"].copy(), state["dq"].copy(), np.zeros(7)))
        return Departure(ArmState(state["ref_q"].copy(), state["ref_dq"].copy(), state["ref_ddq"].copy()))

    async def _until_done(self, run: _Run, on_tick: Callable[[Record], None]) -> None:
        """Wait for the motion's end, telling of it on the way.

        :raises MoveFailed, MoveCancelled: it did not come to that.
        """
        seen = time.monotonic()
        while True:
            state = await self._next_state(run)
            status = MotionStatus(int(state["motion_status"]))
            if state["motion_id"] != run.number:
                if time.monotonic() - seen > _START_TIMEOUT:
                    raise MoveFailed("the control process did not take the motion up")
                continue
            if status is MotionStatus.DONE:
                return
            if status is MotionStatus.REFUSED:
                raise MoveFailed("the arm was not where the motion begins")
            if status in (MotionStatus.STOPPING, MotionStatus.STOPPED):
                raise MoveFailed(_why_stopped(state))
            on_tick(state)
            try:
                run.task.check(state)
            except PathViolated:
                # What it leads to is of less interest than what led to it.
                with contextlib.suppress(MoveFailed):
                    await self._stop(run)
                raise

    async def _until_settled(self, run: _Run, on_tick: Callable[[Record], None]) -> None:
        """Wait until the arm has arrived.

        :raises MoveFailed, MoveCancelled: it did not come to that.
        """
        limit = time.monotonic() + run.task.patience(self._owner)
        while True:
            state = await self._next_state(run)
            missing = run.task.missing(state)
            if not missing:
                return
            if time.monotonic() > limit:
                raise GoalMissed(f"missed the goal: {missing}")
            on_tick(state)

    async def _next_state(self, run: _Run) -> Record:
        """The state at the next tick, if the goal is still to be pursued then.

        :raises MoveFailed, MoveCancelled: it is not.
        """
        await self._owner.next_tick()
        client = self._owner.active_client
        if client is None:
            raise MoveFailed(f"the arm is not active any more{self._owner.why_inactive}")
        if run.cancelled():
            await self._stop(run)
            raise MoveCancelled
        if run.replaced:
            raise MoveReplaced(f"replaced by a new goal of {self.owner}")
        if run.interrupted:
            await self._stop(run)
            raise MoveFailed(run.interrupted)
        return client.state()

    async def _stop(self, run: _Run) -> None:
        """Let the motion slow down on its path, and wait until the arm rests.

        :raises MoveFailed: it did not come to rest, or something else happened to it.
        """
        client = self._owner.active_client
        limit = time.monotonic() + _STOP_TIMEOUT
        if client is not None and not run.replaced:
            client.stop_motion(run.number)
        while not run.replaced:
            await self._owner.next_tick()
            client = self._owner.active_client
            if client is None:
                raise MoveFailed(f"the arm is not active any more{self._owner.why_inactive}")
            state = client.state()
            over = state["motion_id"] == run.number and state["motion_status"] in (
                MotionStatus.STOPPED,
                MotionStatus.DONE,
                MotionStatus.REFUSED,
            )
            if over and np.abs(state["dq"]).max() < REST_VELOCITY:
                return
            if time.monotonic() > limit:
                raise MoveFailed("cancelled, but the arm did not come to rest")

    async def _give_back(self, run: _Run) -> None:
        """Let the mode continue from where the arm is; nothing where another motion took over.

        Waits until it does, so that a target that is sent after the result is not one that comes during a
        move.
        """
        client = self._owner.active_client
        limit = time.monotonic() + _START_TIMEOUT
        if client is not None and not run.replaced:
            client.release_motion(run.number)
        while client is not None and not run.replaced and time.monotonic() < limit:
            await self._owner.next_tick()
            client = self._owner.active_client
            if client is None:
                break
            state = client.state()
            if state["motion_id"] == run.number and state["motion_status"] in (
                MotionStatus.NONE,
                MotionStatus.REFUSED,
            ):
                break
        if self._run is run:
            self._run = None


def _why_stopped(state: Record) -> str:
    """Why the control process stopped a motion although nobody asked for it."""
    hold = Hold(int(state["hold"]))
    if hold & Hold.PUSHED:
        return "the arm was pushed harder than max_external_force or max_external_torque allows"
    if hold & Hold.ASKED:
        return "the arm is held"
    return "the control process stopped the motion because it did not hear from its owner"
