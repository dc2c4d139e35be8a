"""Joint-space motions: planned whole, followed to their end, cancelled or replaced on the way.

Used in the process and thread that own an arm: by the node, for the action ``~/move`` and for joint trajectories, and
by :class:`~aiofranka_ros.api.robot_interface.RobotInterface`. A move is a coroutine that looks at the measured state
once per tick of its owner. It awaits only the owner's tick, so the same code runs in rclpy's executor and in asyncio's
event loop; nothing here blocks and nothing needs a lock.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np

from aiofranka_ros.arm.curves import remainder
from aiofranka_ros.arm.joint_trajectory import ArmState
from aiofranka_ros.arm.limit_checks import check_set_limits
from aiofranka_ros.arm.tasks import REST_VELOCITY, Departure, Task
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.law.motion import LONGEST_STOP, Motion
from aiofranka_ros.control.records import Hold, Mode, MotionStatus
from aiofranka_ros.errors import GoalMissed, InvalidTarget, MoveFailed, MoveReplaced, PathViolated
from aiofranka_ros.kernels import Array, Record

#: Robot time between reading the state of a running motion and the beginning of the one that replaces it [s]: longer
#: than planning takes, so that the new one begins where the old one will be.
_LEAD = 0.02
#: A motion that stops may take as long as the first of these, and the arm the second to follow [s].
_STOP_TIMEOUT = LONGEST_STOP + 1.5
#: Robot time may pass more slowly than this computer's; a motion that is this late does not run [s].
_START_TIMEOUT = 2.0
#: Settings that limit every motion.
_LIMITS = ("joint_lower", "joint_upper", "workspace_lower", "workspace_upper", "move_acceleration", "move_jerk")


_Result = TypeVar("_Result")


class ArmOwner(Protocol):
    """What a move needs from the owner of the arm."""

    @property
    def active_client(self) -> ControlClient | None:
        """The control process while the arm is active, else ``None``."""

    @property
    def why_inactive(self) -> str:
        """Why the arm is not active, as the end of a sentence."""

    @property
    def why_held(self) -> str:
        """Why no client may control the arm; empty if a client may."""

    def parameter(self, name: str) -> Any:
        """Value of a setting."""

    def next_tick(self) -> Awaitable[None]:
        """Done at the owner's next tick."""

    def aside(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """What ``function`` returns, which takes long; until then, the owner may do what is urgent.

        The arm may be inactive or held afterwards.
        """


class MoveCancelled(Exception):
    """The move was cancelled, and the arm has stopped."""


_Task = TypeVar("_Task", bound=Task)
#: Positions [rad], velocities [rad/s] and accelerations [rad/s²] (7,).
Asked: TypeAlias = tuple[Array, Array, Array]
OnTick: TypeAlias = Callable[[Record, Asked], None]


@dataclass(frozen=True)
class Plan(Generic[_Task]):
    """A task and the motion that was planned for it."""

    task: _Task
    motion: Motion
    departure: Departure  #: the state from which the motion begins
    #: the limits of joints and workspace that it keeps to, and the control frame that it holds for
    limits: tuple[Array, ...]

    def holds(self, departure: Departure, limits: tuple[Array, ...]) -> bool:
        """Whether the motion may begin at ``departure`` under ``limits``."""
        if self.task.timed or self.departure.running is not None or departure.running is not None:
            return False
        same_limits = all(np.array_equal(a, b) for a, b in zip(limits, self.limits, strict=True))
        return same_limits and departure.state.equals(self.departure.state)


@dataclass
class _Run:
    """A task that is pursued."""

    task: Task
    motion: Motion
    number: int  #: number of the motion in the control process
    owner: str  #: the client or interface that asked for it
    cancelled: Callable[[], bool]
    why_abandoned: Callable[[], str]
    replaced: bool = False
    interrupted: str = ""  #: why it must stop; empty: it continues

    def asked(self, state: Record) -> Asked:
        """What the arm was asked to do when ``state`` was measured."""
        return self.motion.asked(float(state["motion_time"]))


class Mover:
    """Pursues one task at a time; a new one replaces the one before.

    :param owner: what the owner knows of the arm.
    :param on_begin: called with every motion that has begun, and the pose of the control frame in the flange (4, 4).
    """

    def __init__(self, owner: ArmOwner, on_begin: Callable[[Motion, Array], None] = lambda motion, tcp: None) -> None:
        self._owner = owner
        self._on_begin = on_begin
        self._run: _Run | None = None

    @property
    def owner(self) -> str:
        """What controls the arm during a motion, and until the mode controls it again; empty: nothing here."""
        return "" if self._run is None else self._run.owner

    def interrupt(self, reason: str) -> None:
        """Make the running task slow down on its path and fail for ``reason``; does nothing if none runs."""
        if self._run is not None:
            self._run.interrupted = reason

    def plan(self, task: _Task) -> Plan[_Task]:
        """Plan ``task`` as if it began now; nothing moves.

        :raises InvalidTarget: it cannot begin now, and why.
        """
        client = self._owner.active_client
        if client is None:
            raise InvalidTarget(f"the node is not active{self._owner.why_inactive}", reason="not active")
        if self._owner.why_held:
            raise InvalidTarget(self._owner.why_held, reason="held")
        return self._owner.aside(self._plan, task, self._departure(client.state()), self._limits(client))

    async def move(
        self,
        task: Task,
        *,
        planned: Plan[Any] | None = None,
        owner: str = "a move",
        cancelled: Callable[[], bool] = lambda: False,
        why_abandoned: Callable[[], str] = lambda: "",
        on_tick: OnTick = lambda state, asked: None,
    ) -> None:
        """Pursue ``task`` to its end. However it ends, the arm then holds and the mode controls it again.

        :param planned: what :meth:`plan` returned for ``task``. It is planned again if the arm has moved, or its limits
            have changed, since.
        :param owner: name of the client or interface, for messages.
        :param cancelled: asked at every tick; once it is true, the arm slows down on its path and holds.
        :param why_abandoned: asked at every tick; once it gives a reason, the arm stops likewise, and the task fails.
        :param on_tick: called with the state, and what was asked for then, at every tick until the arm has arrived.
        :raises MoveCancelled: it was cancelled.
        :raises PathViolated, GoalMissed: it violated one of the task's tolerances.
        :raises MoveReplaced: another task replaced it.
        :raises MoveFailed: it did not arrive for another reason.
        """
        run = self._begin(task, planned, owner, cancelled, why_abandoned)
        try:
            end = await self._until_done(run, on_tick)
            await self._until_settled(run, end, on_tick)
        finally:
            await self._give_back(run)

    def _begin(
        self,
        task: Task,
        planned: Plan[Any] | None,
        owner: str,
        cancelled: Callable[[], bool],
        why_abandoned: Callable[[], str],
    ) -> _Run:
        """Start a motion, which ends the one before; ``MoveFailed`` if that is not possible and the other continues."""
        client = self._free_client()
        departure, limits = self._departure(client.state()), self._limits(client)
        if planned is None or not planned.holds(departure, limits):
            try:
                planned = self._owner.aside(self._plan, task, departure, limits)
            except InvalidTarget as error:
                raise MoveFailed(str(error)) from error
            client = self._free_client()
        before, number = self._run, client.start_motion(planned.motion, start=departure.start)
        self._run = run = _Run(task, planned.motion, number, owner, cancelled, why_abandoned)
        if before is not None:
            before.replaced = True
        self._on_begin(planned.motion, client.flange_to_tcp)
        return run

    def _free_client(self) -> ControlClient:
        """:raises MoveFailed: the arm is not active, or held."""
        client = self._owner.active_client
        if client is None:
            raise MoveFailed(f"the arm is not active{self._owner.why_inactive}")
        if self._owner.why_held:
            raise MoveFailed(self._owner.why_held)
        return client

    def _limits(self, client: ControlClient) -> tuple[Array, ...]:
        """The values of :data:`_LIMITS`, and the pose of the control frame in the flange (4, 4)."""
        return *(self._owner.parameter(name) for name in _LIMITS), client.flange_to_tcp

    def _plan(self, task: _Task, departure: Departure, limits: tuple[Array, ...]) -> Plan[_Task]:
        """Plan ``task``; ``InvalidTarget`` if no motion keeps within the limits of joints and workspace."""
        motion = task.plan(departure, self._owner.parameter)
        lower, upper, workspace_lower, workspace_upper, _, _, flange_to_tcp = limits
        check_set_limits(
            motion, flange_to_tcp, lower, upper, workspace_lower, workspace_upper, task.goal_tolerance.joints
        )
        return Plan(task, motion, departure, limits)

    def _departure(self, state: Record) -> Departure:
        """The state in which a motion that is planned now can begin."""
        status, run = MotionStatus(int(state["motion_status"])), self._run
        if run is not None and state["motion_id"] == run.number and status is MotionStatus.EXECUTING:
            running = remainder(run.motion, float(state["motion_time"]) + _LEAD)
            return Departure(ArmState(*running.at(0.0)), running, float(state["time"]) + _LEAD, _LEAD)
        if status in (MotionStatus.NONE, MotionStatus.REFUSED) and state["mode"] not in (Mode.IMPEDANCE, Mode.PID):
            # The other modes have no joint reference.
            return Departure(ArmState(state["q"].copy(), state["dq"].copy(), np.zeros(7)))
        return Departure(ArmState(state["ref_q"].copy(), state["ref_dq"].copy(), state["ref_ddq"].copy()))

    async def _until_done(self, run: _Run, on_tick: OnTick) -> Record:
        """Wait for the motion's end; return the state. ``MoveFailed`` or ``MoveCancelled`` if it was not reached."""
        seen = time.monotonic()
        while True:
            state = await self._next_state(run)
            status = MotionStatus(int(state["motion_status"]))
            if state["motion_id"] != run.number:
                if time.monotonic() - seen > _START_TIMEOUT:
                    raise MoveFailed("the control process did not begin the motion")
                continue
            if status is MotionStatus.DONE:
                return state
            if status is MotionStatus.REFUSED:
                raise MoveFailed("the arm was not where the motion begins")
            if status in (MotionStatus.STOPPING, MotionStatus.STOPPED):
                raise MoveFailed(_why_stopped(state))
            asked = run.asked(state)
            on_tick(state, asked)
            if run.task.path_tolerance is not None and (violations := run.task.path_tolerance.violations(asked, state)):
                # A failure while stopping matters less than the violation that led to it.
                with contextlib.suppress(MoveFailed):
                    await self._stop(run)
                raise PathViolated(f"left the path: {violations}")

    async def _until_settled(self, run: _Run, state: Record, on_tick: OnTick) -> None:
        """Wait until the arm has arrived; ``MoveFailed`` or ``MoveCancelled`` if it did not."""
        limit = time.monotonic() + run.task.settle_time
        while violations := run.task.goal_tolerance.violations(asked := run.asked(state), state):
            if time.monotonic() > limit:
                raise GoalMissed(f"missed the goal: {violations}")
            on_tick(state, asked)
            state = await self._next_state(run)

    async def _next_state(self, run: _Run) -> Record:
        """The state at the next tick; ``MoveFailed`` or ``MoveCancelled`` if the task no longer runs then."""
        client = await self._client_at_next_tick()
        if run.cancelled():
            await self._stop(run)
            raise MoveCancelled
        if run.replaced:
            raise MoveReplaced(f"replaced by a new goal of {self.owner}")
        if reason := run.interrupted or run.why_abandoned():
            await self._stop(run)
            raise MoveFailed(reason)
        return client.state()

    async def _client_at_next_tick(self) -> ControlClient:
        """:raises MoveFailed: the arm is not active then."""
        await self._owner.next_tick()
        client = self._owner.active_client
        if client is None:
            raise MoveFailed(f"the arm is not active any more{self._owner.why_inactive}")
        return client

    async def _stop(self, run: _Run) -> None:
        """Slow the motion down on its path, and wait until the arm has stopped; ``MoveFailed`` if it does not."""
        client = self._owner.active_client
        limit = time.monotonic() + _STOP_TIMEOUT
        if client is not None and not run.replaced:
            client.stop_motion(run.number)
        while not run.replaced:
            state = (await self._client_at_next_tick()).state()
            over = state["motion_status"] in (MotionStatus.STOPPED, MotionStatus.DONE, MotionStatus.REFUSED)
            if state["motion_id"] == run.number and over and np.abs(state["dq"]).max() < REST_VELOCITY:
                return
            if time.monotonic() > limit:
                raise MoveFailed("cancelled, but the arm did not stop")

    async def _give_back(self, run: _Run) -> None:
        """Let the mode continue from where the arm is; does nothing if another motion replaced this one.

        Waits until the mode controls the arm, so that a target sent after the result does not arrive during a move.
        """
        client = self._owner.active_client
        limit = time.monotonic() + _START_TIMEOUT
        if client is not None and not run.replaced:
            client.release_motion(run.number)
            with contextlib.suppress(MoveFailed):  # Without an active arm there is nothing to wait for.
                while not run.replaced and time.monotonic() < limit:
                    state = (await self._client_at_next_tick()).state()
                    free = state["motion_status"] in (MotionStatus.NONE, MotionStatus.REFUSED)
                    if state["motion_id"] == run.number and free:
                        break
        if self._run is run:
            self._run = None


def _why_stopped(state: Record) -> str:
    """Why the control process stopped a motion by itself."""
    hold = Hold(int(state["hold"]))
    if hold & Hold.PUSHED:
        return "the arm was pushed harder than max_external_force or max_external_torque allows"
    if hold & Hold.ASKED:
        return "the arm is held"
    return "the control process stopped the motion because it received no heartbeat from its owner"
