"""Joint-space moves: planned whole, followed to their end, cancelled or replaced on the way.

Used by whoever owns an arm, in its process and its one thread: by the node, for the action ``~/move``, and by
:class:`~aiofranka_ros.robot_interface.RobotInterface`. A move is a coroutine that looks at the measured state once a
tick of its owner. What it awaits comes from the owner alone, so the same code runs in the executor of rclpy and in the
event loop of asyncio; nothing here blocks and nothing needs a lock.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aiofranka_ros.control_client import ControlClient
from aiofranka_ros.errors import InvalidTarget, MoveFailed
from aiofranka_ros.fr3 import JOINT_NAMES
from aiofranka_ros.records import Array, Mode, MotionStatus, Record
from aiofranka_ros.trajectory import Motion, plan

#: Robot time between looking at a running motion and the beginning of the one that replaces it [s]: longer
#: than planning takes, so that the new one begins where the old one will be.
_LEAD = 0.02
#: A cancelled motion has come to rest when no joint is faster than this [rad/s].
_REST_VELOCITY = 0.02
#: A motion slows down within :data:`~aiofranka_ros.trajectory.STOP_DURATION`; the arm gets this long to
#: follow [s].
_STOP_TIMEOUT = 2.0
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

    def parameter(self, name: str) -> Any:
        """Value of a setting."""

    def next_tick(self) -> Awaitable[None]:
        """Done at the owner's next tick."""


class MoveCancelled(Exception):
    """The move was cancelled, and the arm rests."""


@dataclass(frozen=True)
class Goal:
    """Where to go.

    :ivar q: joint positions [rad] (7,), within the joints' limits.
    :ivar velocity: largest joint velocities [rad/s] (7,).
    :ivar tolerance: largest distance of a joint from ``q`` at the end [rad].
    """

    q: Array
    velocity: Array
    tolerance: float


@dataclass
class _Run:
    """One goal that is pursued.

    :ivar number: number of the motion in the control process.
    """

    goal: Goal
    motion: Motion
    number: int
    cancelled: Callable[[], bool]
    replaced: bool = False


class Mover:
    """Pursues one goal at a time; a new one replaces the one before.

    :param owner: what the owner knows of the arm.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._run: _Run | None = None

    @property
    def owns_arm(self) -> bool:
        """Whether a motion runs, or ended without the mode having taken over yet."""
        return self._run is not None

    async def move(
        self,
        goal: Goal,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Pursue ``goal`` to its end; whatever that is, the arm then holds and the mode has it back.

        :param cancelled: asked at every tick; once it is true, the arm slows down on its path and holds.
        :param on_tick: called at every tick while the arm is on its way.
        :raises MoveCancelled: it was cancelled.
        :raises MoveFailed: it did not arrive, and why.
        """
        run = self._begin(goal, cancelled)
        try:
            await self._until_done(run, on_tick)
            await self._until_settled(run)
        finally:
            await self._give_back(run)

    def _begin(self, goal: Goal, cancelled: Callable[[], bool]) -> _Run:
        """Plan and start a motion; the one that ran before ends.

        :raises MoveFailed: that is not possible.
        """
        client = self._owner.active_client
        if client is None:
            raise MoveFailed(f"the arm is not active{self._owner.why_inactive}")
        before, state = self._run, client.state()
        try:
            start, (from_q, from_dq, from_ddq) = self._departure(state)
            motion = plan(
                from_q, goal.q, dq=from_dq, ddq=from_ddq,
                max_velocity=goal.velocity,
                max_acceleration=self._owner.parameter("move_acceleration"),
                max_jerk=self._owner.parameter("move_jerk"),
            )  # fmt: skip
        except InvalidTarget as error:
            raise MoveFailed(str(error)) from error
        self._run = run = _Run(goal, motion, client.start_motion(motion, start=start), cancelled)
        if before is not None:
            before.replaced = True
        return run

    def _departure(self, state: Record) -> tuple[float, tuple[Array, Array, Array]]:
        """Robot time at which a new motion begins [s], 0: at once; q, dq and ddq (7,) there."""
        status, run = MotionStatus(int(state["motion_status"])), self._run
        if run is not None and state["motion_id"] == run.number and status is MotionStatus.EXECUTING:
            return float(state["time"]) + _LEAD, run.motion.at(float(state["motion_time"]) + _LEAD)
        still = np.zeros(7)
        if status in (MotionStatus.NONE, MotionStatus.REFUSED) and state["mode"] in (Mode.OSC, Mode.TORQUE):
            # These modes have no joint reference.
            return 0.0, (state["q"].copy(), state["dq"].copy(), still)
        return 0.0, (state["ref_q"].copy(), state["ref_dq"].copy(), state["ref_ddq"].copy())

    async def _until_done(self, run: _Run, on_tick: Callable[[], None]) -> None:
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
                raise MoveFailed("the control process stopped the motion because it did not hear from its owner")
            on_tick()

    async def _until_settled(self, run: _Run) -> None:
        """Wait until every joint is within the tolerance.

        :raises MoveFailed, MoveCancelled: it did not come to that.
        """
        limit = time.monotonic() + self._owner.parameter("move_settle_time")
        while True:
            state = await self._next_state(run)
            error = np.abs(state["q"] - run.goal.q)
            if (error <= run.goal.tolerance).all():
                return
            if time.monotonic() > limit:
                apart = ", ".join(
                    f"{name} by {value:.4f} rad"
                    for name, value in zip(JOINT_NAMES, error, strict=True)
                    if value > run.goal.tolerance
                )
                raise MoveFailed(f"missed the goal: {apart}; the tolerance is {run.goal.tolerance:g} rad")

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
            raise MoveFailed("replaced by a new goal")
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
            if over and np.abs(state["dq"]).max() < _REST_VELOCITY:
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
