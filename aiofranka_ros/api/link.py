"""The seam between :class:`~aiofranka_ros.api.controller.FrankaController` and the ways to reach an arm.

:class:`~aiofranka_ros.api.robot_interface.RobotInterface` owns an arm in this process,
:class:`~aiofranka_ros.api.ros_interface.RosInterface` talks to a running node; one test suite runs against both.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aiofranka_ros.arm.moves import MoveCancelled
from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.control.snapshot import Snapshot, between
from aiofranka_ros.errors import FrankaError, InvalidTarget, NotStarted
from aiofranka_ros.kernels import Array

if TYPE_CHECKING:
    from aiofranka_ros.api.gripper import GripperLink
    from aiofranka_ros.api.recording import Recording
    from aiofranka_ros.arm.chunks import Ticket

_T = TypeVar("_T")

#: For how long measurements are kept, and how old the newest one may be for a question about the present [ns].
_KEPT, _PRESENT = 3_000_000_000, 100_000_000


@dataclass(frozen=True)
class ConnectionReport:
    """How well the control loop answered the robot for a while; ``print`` it, or read its figures."""

    #: How long it was measured [s].
    duration: float
    #: Control cycles in that time, and states of the robot that were not answered.
    cycles: int
    cycles_lost: int
    #: The most of these in a row; 20 stop the robot.
    longest_gap: int
    #: Lowest ``control_command_success_rate`` of the robot.
    success_rate_min: float
    #: Time from the arrival of a state to the departure of its torque [µs]: ``p50``, ``p99``, ``max``.
    response_us: Mapping[str, float]

    @property
    def frequency(self) -> float:
        """Control cycles per second [Hz]; 1000 if the clocks of robot and computer agree."""
        return self.cycles / self.duration

    def __str__(self) -> str:
        response = self.response_us
        return (
            f"{self.cycles} control cycles in {self.duration:.1f} s ({self.frequency:.0f} Hz), {self.cycles_lost} lost "
            f"(at most {self.longest_gap} in a row), success rate at least {self.success_rate_min:.3f}; "
            f"response p50 {response['p50']:.0f} µs, p99 {response['p99']:.0f} µs, max {response['max']:.0f} µs"
        )


class Link(abc.ABC):
    """A way to an arm.

    Coroutines run in the event loop that called :meth:`start`. One that is cancelled leaves the link usable, and the
    arm held, except for :meth:`start`, which undoes everything; :meth:`stop` must not be cancelled, see
    :func:`uninterrupted`. Plain
    methods return at once and may be called from any thread, one at a time.

    :param name: the arm's name in messages.
    :param settings: values of the node's parameters, as far as they are known.
    """

    def __init__(self, name: str, settings: ArmSettings) -> None:
        self.name = name
        self.settings = settings
        #: The newest measured positions, velocities and torques.
        self.data = Data(self)
        self._newest: Snapshot | None = None
        #: What was measured in the last seconds, at the rate of the states.
        self._recent: deque[Snapshot] = deque()
        # The arguments of start().
        self._on_state: Callable[[], None] = lambda: None
        self._on_end: Callable[[Exception], None] = lambda error: None

    @property
    @abc.abstractmethod
    def gripper(self) -> GripperLink:
        """The way to the arm's gripper, from the start to the stop, also while the arm does not run."""

    @property
    def state(self) -> dict[str, Any]:
        """The newest measured state, see :attr:`FrankaController.state <.FrankaController.state>`."""
        return self.snapshot().as_state()

    @property
    def state_minimal(self) -> dict[str, Any]:
        """``qpos``, ``qvel`` and ``last_torque`` of :attr:`state`."""
        state = self.state
        return {name: state[name] for name in ("qpos", "qvel", "last_torque")}

    def snapshot(self) -> Snapshot:
        """The newest measured state.

        :raises NotStarted: nothing was measured yet.
        """
        if self._newest is None:
            raise NotStarted("nothing was measured yet: call controller.start() first")
        return self._newest

    @abc.abstractmethod
    def clock(self) -> int:
        """The present time [ns, as in a snapshot]."""

    def snapshot_at(self, stamp: int) -> Snapshot:
        """What was measured at ``stamp`` [ns, as in a snapshot], interpolated.

        :raises InvalidTarget: that is too long ago, or in the future.
        """
        recent = [*self._recent, self.snapshot()]
        first, last = recent[0].stamp, recent[-1].stamp
        if not first <= stamp <= last + _PRESENT:
            raise InvalidTarget(
                f"there is no state of the stamp {stamp}: there are those from {1e-9 * (last - first):.2f} s ago until "
                f"now ({last}) [ns, the clock of state['stamp']]",
                reason="no state",
            )
        after = bisect_left(recent, stamp, key=lambda snapshot: snapshot.stamp)
        if after == 0 or after == len(recent):
            return recent[min(after, len(recent) - 1)]
        return between(recent[after - 1], recent[after], stamp)

    def _keep(self, snapshot: Snapshot) -> None:
        """Remember it for :meth:`snapshot_at`; unless it is as old as the last one."""
        recent = self._recent
        if recent and snapshot.stamp < recent[-1].stamp:  # The clock was put back.
            recent.clear()
        if not recent or snapshot.stamp > recent[-1].stamp:
            recent.append(snapshot)
        while snapshot.stamp - recent[0].stamp > _KEPT:
            recent.popleft()

    @abc.abstractmethod
    async def follow(self, kind: str, values: Array, times: Array, start: int | None, gripper: Array | None) -> Ticket:
        """Follow a chunk; returns when it is accepted.

        :param kind: ``q``, ``dq``, ``ee`` or ``twist``, for the present mode.
        :param values: (n, 7), or (n, 6) for ``twist``: joint positions [rad] or velocities [rad/s]; positions [m] and
            quaternions x, y, z, w; velocities [m/s], [rad/s].
        :param times: when they are due, after ``start`` [s] (n,).
        :param start: [ns, as in a snapshot]; ``None``: now.
        :param gripper: widths at the same times [m] (n,); ``None``: the gripper does what it did.
        :raises InvalidTarget: it was refused.
        """

    @abc.abstractmethod
    def committed(self, n: int, dt: float, start: int | None) -> tuple[Array, int]:
        """See :meth:`.Following.committed`."""

    @abc.abstractmethod
    def inference_delay(self, dt: float, quantile: float) -> int:
        """See :meth:`.Following.inference_delay`."""

    @abc.abstractmethod
    def stop_following(self) -> None:
        """End the chunk in force, if there is one: slow down and hold."""

    @abc.abstractmethod
    async def start(self, on_state: Callable[[], None], on_end: Callable[[Exception], None]) -> None:
        """Take torque control, with everything that this requires, and hold where the arm is.

        If it fails or is cancelled, everything that it took is released when the exception reaches the caller.

        :param on_state: called in the event loop after every new state.
        :param on_end: called in the event loop if the control loop ends without a request; the arm is then
            released, and ``start`` may be called again.
        :raises FrankaError: it failed; the arm is released.
        """

    @abc.abstractmethod
    async def stop(self) -> None:
        """Stop smoothly and release what :meth:`start` took; idempotent, and raises nothing for a lost arm or node."""

    @abc.abstractmethod
    def switch(self, mode: str) -> None:
        """Change the control law; targets start where the arm is, even if ``mode`` is already the current one."""

    @abc.abstractmethod
    def apply(self, changes: Mapping[str, Any]) -> None:
        """Change settings, all of them at the beginning of the same cycle.

        :raises ConfigurationError: one of them cannot be used; nothing is changed.
        """

    @abc.abstractmethod
    def set_target(self, name: str, values: Array) -> None:
        """Send a target to the current mode.

        :param name: ``q_desired``, ``dq_desired``, ``ee_desired``, ``ee_velocity`` or ``torque``.
        :param values: joint positions [rad] or velocities [rad/s] (7,); position [m] and unit quaternion x, y, z, w of
            the control frame in the base (7,); its twist along the axes of the base [m/s], [rad/s] (6,); or torques
            [Nm] (7,).
        """

    @abc.abstractmethod
    async def settled(self) -> None:
        """Wait until earlier changes are in force.

        :raises FrankaError: one of them was refused.
        """

    @abc.abstractmethod
    def check_targets(self) -> None:
        """Check whether the targets that were set since the last call were refused; returns at once.

        :raises Overridden: something that takes precedence controls the arm: a priority client, ``~/hold``, a move.
        :raises InvalidTarget: they are refused for another reason, and have been for a while.
        """

    @abc.abstractmethod
    async def handed_back(self) -> None:
        """Wait until nothing else controls the arm."""

    @abc.abstractmethod
    async def move(self, goal: Array) -> None:
        """Move to ``goal`` [rad] (7,) and hold; if cancelled, slow down on the path and hold.

        :raises InvalidTarget: the goal was refused.
        :raises MoveFailed: the arm did not arrive.
        """

    @abc.abstractmethod
    def record(self, recording: Recording) -> None:
        """Give a recording the rows of all control cycles from now on, until it is stopped."""

    @abc.abstractmethod
    def loop_stats(self) -> dict[str, float]:
        """See :meth:`.Measuring.loop_stats`."""

    @abc.abstractmethod
    async def save_recording(self) -> Path:
        """See :meth:`FrankaController.save_recording() <.FrankaController.save_recording>`."""

    @abc.abstractmethod
    async def measure_connection(self, duration: float) -> ConnectionReport:
        """Measure the control loop for ``duration`` [s]."""


class Data:
    """``robot.data``, under the names that scripts use: copies of what ``link`` measured last."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def qpos(self) -> Array:
        """Joint positions [rad] (7,)."""
        return self._link.snapshot().q.copy()

    @property
    def qvel(self) -> Array:
        """Joint velocities [rad/s] (7,)."""
        return self._link.snapshot().dq.copy()

    @property
    def ctrl(self) -> Array:
        """Torque commanded last, gravity excluded [Nm] (7,)."""
        return self._link.snapshot().tau.copy()


async def uninterrupted(work: Awaitable[_T], on_cancelled: Callable[[], object] = lambda: None) -> _T:
    """Await ``work`` to its end, even if the caller is cancelled while it runs; then raise the cancellation.

    :param on_cancelled: called at each cancellation; may make ``work`` end sooner.
    """
    task = asyncio.ensure_future(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancellation = error
            on_cancelled()
    if cancellation is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # Retrieved: the cancellation is what the caller sees.
    raise cancellation


async def until_stopped(move: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Await ``move``. If the caller is cancelled, set its event and wait for the arm to stop first."""
    cancelled = asyncio.Event()
    task = asyncio.ensure_future(move(cancelled))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        cancelled.set()
        # If something other than the cancellation stopped the arm, the next call reports it.
        with contextlib.suppress(FrankaError, MoveCancelled):
            await uninterrupted(task)
        raise
