"""The action ``~/move``: a joint-space motion to a goal, planned whole, cancellable, replaced by a new one.

Used by the node, in its process and its one thread: a goal is a coroutine of the executor that looks at the
measured state once a tick of the node, so nothing here blocks and nothing needs a lock.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from franka_msgs.action import PTPMotion
from franka_msgs.msg import TargetStatus
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.lifecycle import LifecycleNode

from aiofranka_ros.control_client import ControlClient
from aiofranka_ros.conversions import joint_values
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.fr3 import JOINT_NAMES, VELOCITY_LIMIT
from aiofranka_ros.records import Array, Mode, MotionStatus, Record
from aiofranka_ros.trajectory import Motion, check_goal, plan

#: Robot time between looking at a running motion and the beginning of the one that replaces it [s]: longer
#: than planning takes, so that the new one begins where the old one will be.
_LEAD = 0.02
_FEEDBACK_PERIOD = 0.05
#: A cancelled motion has come to rest when no joint is faster than this [rad/s].
_REST_VELOCITY = 0.02
#: A motion slows down within :data:`~aiofranka_ros.trajectory.STOP_DURATION`; the arm gets this long to
#: follow [s].
_STOP_TIMEOUT = 2.0
#: Robot time may pass more slowly than this computer's; a motion that is this much late does not run [s].
_START_TIMEOUT = 2.0


class Owner(Protocol):
    """What the action needs of the node."""

    @property
    def active_client(self) -> ControlClient | None:
        """The control process while the arm is active, else ``None``."""

    @property
    def why_inactive(self) -> str:
        """Why the arm is not active, as the end of a sentence."""

    def parameter(self, name: str) -> Any:
        """Value of a parameter."""

    def next_tick(self) -> Awaitable[None]:
        """Done at the node's next tick."""


class _Failure(Exception):
    """The goal is to be aborted; the message says why."""


class _Cancelled(Exception):
    """The goal was cancelled, and the arm rests."""


@dataclass
class _Run:
    """One goal that is pursued."""

    handle: ServerGoalHandle
    goal: Array
    tolerance: float
    motion: Motion
    #: Number of the motion in the control process.
    number: int
    replaced: bool = False


class MoveAction:
    """The server of ``~/move``.

    It exists in every state of the node, so that a goal for an inactive arm is rejected with a reason instead
    of being waited for.

    :param node: where to serve and log.
    :param owner: what the node knows of the arm.
    """

    def __init__(self, node: LifecycleNode, owner: Owner) -> None:
        self._node = node
        self._owner = owner
        self._run: _Run | None = None
        self._pursued = 0
        #: Rejected goals by reason, since the node was started.
        self.rejected: Counter[str] = Counter()
        self._server = ActionServer(
            node,
            PTPMotion,
            "~/move",
            self._execute,
            goal_callback=self._on_goal,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
        )

    @property
    def owns_arm(self) -> bool:
        """Whether a motion runs, or ended without the mode having taken over yet."""
        return self._run is not None

    @property
    def busy(self) -> bool:
        """Whether a goal was accepted whose result is still to come."""
        return self._pursued > 0

    def destroy(self) -> None:
        """Serve no more goals."""
        self._server.destroy()

    def _on_goal(self, goal: PTPMotion.Goal) -> GoalResponse:
        try:
            if self._owner.active_client is None:
                raise InvalidTarget(f"the node is not active{self._owner.why_inactive}", reason="not active")
            self._parse(goal)
        except InvalidTarget as error:
            self.rejected[error.reason] += 1
            self._node.get_logger().warning(f"rejected a goal of ~/move: {error}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _parse(self, goal: PTPMotion.Goal) -> tuple[Array, Array, float]:
        """Goal [rad] (7,), velocity limits [rad/s] (7,) and tolerance [rad], defaults filled in.

        :raises InvalidTarget: one of them cannot be used.
        """
        q = joint_values(goal.goal_joint_configuration, "goal_joint_configuration")
        check_goal(q)
        if len(goal.maximum_joint_velocities) == 0:
            velocity = self._owner.parameter("move_velocity")
        else:
            velocity = joint_values(goal.maximum_joint_velocities, "maximum_joint_velocities")
            if (velocity <= 0.0).any():
                raise InvalidTarget(
                    f"maximum_joint_velocities must be positive: {velocity.tolist()} rad/s",
                    reason="bad velocity",
                )
            # The goal's lower bound wins; a higher one than the arm's cannot.
            velocity = np.minimum(velocity, VELOCITY_LIMIT)
        tolerance = goal.goal_tolerance
        if not (np.isfinite(tolerance) and tolerance >= 0.0):
            raise InvalidTarget(
                f"goal_tolerance is {tolerance} rad, but must be positive, or 0 for the default",
                reason="bad tolerance",
            )
        return q, velocity, tolerance or self._owner.parameter("move_tolerance")

    async def _execute(self, handle: ServerGoalHandle) -> PTPMotion.Result:
        """Pursue one goal to its end; whatever that is, the arm then holds and the mode has it back."""
        self._pursued += 1
        try:
            await self._pursue(handle)
        except _Failure as failure:
            self._node.get_logger().warning(f"~/move was aborted: {failure}")
            if handle.is_active:
                handle.abort()
            return _result(TargetStatus.ABORTED, str(failure))
        except _Cancelled:
            if handle.is_active:
                handle.canceled()
            # Not ABORTED: nothing failed. The arm holds and pursues nothing, which is what IDLE says.
            return _result(TargetStatus.IDLE, "cancelled")
        finally:
            self._pursued -= 1
        if handle.is_active:
            handle.succeed()
        return _result(TargetStatus.TARGET_REACHED, "")

    async def _pursue(self, handle: ServerGoalHandle) -> None:
        """:raises _Failure, _Cancelled: how it ended where it was not reached."""
        run = self._begin(handle)
        try:
            await self._until_done(run)
            await self._until_settled(run)
        finally:
            await self._give_back(run)

    def _begin(self, handle: ServerGoalHandle) -> _Run:
        """Plan and start a motion; the one that ran before ends.

        :raises _Failure: that is not possible.
        """
        client = self._owner.active_client
        if client is None:
            raise _Failure(f"the node is not active{self._owner.why_inactive}")
        before, state = self._run, client.state()
        try:
            q, velocity, tolerance = self._parse(handle.request)
            start, (from_q, from_dq, from_ddq) = self._departure(state)
            motion = plan(
                from_q, q, dq=from_dq, ddq=from_ddq,
                max_velocity=velocity,
                max_acceleration=self._owner.parameter("move_acceleration"),
                max_jerk=self._owner.parameter("move_jerk"),
            )  # fmt: skip
        except InvalidTarget as error:
            raise _Failure(str(error)) from error
        run = _Run(handle, q, tolerance, motion, client.start_motion(motion, start=start))
        if before is not None:
            before.replaced = True
        self._run = run
        self._node.get_logger().info(f"~/move: {motion.duration:.2f} s to {np.round(q, 3).tolist()} rad")
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

    async def _until_done(self, run: _Run) -> None:
        """Wait for the motion's end, telling of it on the way.

        :raises _Failure, _Cancelled: it did not come to that.
        """
        feedback = PTPMotion.Feedback(target_status=TargetStatus(status=TargetStatus.EXECUTING))
        now = time.monotonic()
        next_feedback, seen = now, now
        while True:
            state = await self._next_state(run)
            now = time.monotonic()
            status = MotionStatus(int(state["motion_status"]))
            if state["motion_id"] != run.number:
                if now - seen > _START_TIMEOUT:
                    raise _Failure("the control process did not take the motion up")
                continue
            if status is MotionStatus.DONE:
                return
            if status is MotionStatus.REFUSED:
                raise _Failure("the arm was not where the motion begins")
            if status in (MotionStatus.STOPPING, MotionStatus.STOPPED):
                raise _Failure("the control process stopped the motion because it did not hear from the node")
            if now >= next_feedback:
                next_feedback = now + _FEEDBACK_PERIOD
                run.handle.publish_feedback(feedback)

    async def _until_settled(self, run: _Run) -> None:
        """Wait until every joint is within the tolerance.

        :raises _Failure, _Cancelled: it did not come to that.
        """
        limit = time.monotonic() + self._owner.parameter("move_settle_time")
        while True:
            state = await self._next_state(run)
            error = np.abs(state["q"] - run.goal)
            if (error <= run.tolerance).all():
                return
            if time.monotonic() > limit:
                apart = ", ".join(
                    f"{name} by {value:.4f} rad"
                    for name, value in zip(JOINT_NAMES, error, strict=True)
                    if value > run.tolerance
                )
                raise _Failure(f"missed the goal: {apart}; the tolerance is {run.tolerance:g} rad")

    async def _next_state(self, run: _Run) -> Record:
        """The state at the next tick, if the goal is still to be pursued then.

        :raises _Failure, _Cancelled: it is not.
        """
        await self._owner.next_tick()
        client = self._owner.active_client
        if client is None:
            raise _Failure(f"the arm is not active any more{self._owner.why_inactive}")
        if run.handle.is_cancel_requested:
            await self._stop(run)
            raise _Cancelled
        if run.replaced:
            raise _Failure("replaced by a new goal")
        return client.state()

    async def _stop(self, run: _Run) -> None:
        """Let the motion slow down on its path, and wait until the arm rests.

        :raises _Failure: it did not come to rest, or something else happened to it.
        """
        client = self._owner.active_client
        limit = time.monotonic() + _STOP_TIMEOUT
        if client is not None and not run.replaced:
            client.stop_motion(run.number)
        while not run.replaced:
            await self._owner.next_tick()
            client = self._owner.active_client
            if client is None:
                raise _Failure(f"the arm is not active any more{self._owner.why_inactive}")
            state = client.state()
            over = state["motion_id"] == run.number and state["motion_status"] in (
                MotionStatus.STOPPED,
                MotionStatus.DONE,
                MotionStatus.REFUSED,
            )
            if over and np.abs(state["dq"]).max() < _REST_VELOCITY:
                return
            if time.monotonic() > limit:
                raise _Failure("cancelled, but the arm did not come to rest")

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


def _result(status: int, message: str) -> PTPMotion.Result:
    return PTPMotion.Result(target_status=TargetStatus(status=status), error_message=message)
