"""What :class:`~aiofranka_ros.api.controller.FrankaController` needs of an arm, and what it learns from it.

A link is the one seam between the awaitable API and the ways to reach an arm:
:class:`~aiofranka_ros.api.robot_interface.RobotInterface` owns it in this process,
:class:`~aiofranka_ros.api.ros_interface.RosInterface` talks to a running node. Everything that users see is written
once, in the controller; one suite of tests holds for both links.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.control.snapshot import Snapshot
from aiofranka_ros.kernels import Array

_T = TypeVar("_T")


@dataclass(frozen=True)
class ConnectionReport:
    """How well the control loop answered the robot for a while; ``print`` it, or look at the figures.

    :ivar duration: how long it was watched [s].
    :ivar cycles: control cycles in that time.
    :ivar cycles_lost: states of the robot that were not answered.
    :ivar longest_gap: most of them in a row; 20 stop the robot.
    :ivar success_rate_min: lowest ``control_command_success_rate`` of the robot.
    :ivar response_us: time from the arrival of a state to the departure of its torque [µs]: ``p50``, ``p99``, ``max``.
    """

    duration: float
    cycles: int
    cycles_lost: int
    longest_gap: int
    success_rate_min: float
    response_us: Mapping[str, float]

    @property
    def frequency(self) -> float:
        """Control cycles per second [Hz]; 1000 where robot and computer agree about time."""
        return self.cycles / self.duration

    def __str__(self) -> str:
        response = self.response_us
        return (
            f"{self.cycles} control cycles in {self.duration:.1f} s ({self.frequency:.0f} Hz), {self.cycles_lost} lost "
            f"(at most {self.longest_gap} in a row), success rate at least {self.success_rate_min:.3f}; "
            f"response p50 {response['p50']:.0f} µs, p99 {response['p99']:.0f} µs, max {response['max']:.0f} µs"
        )


class Link(Protocol):
    """A way to an arm.

    Coroutines run in the event loop that called :meth:`start`. A coroutine that is cancelled leaves the link usable,
    and the arm held or released. Plain methods return at once and may be called from any thread, one at a time.
    """

    settings: ArmSettings

    @property
    def name(self) -> str:
        """Which arm this is, for messages."""

    async def start(self, on_state: Callable[[], None], on_end: Callable[[Exception], None]) -> None:
        """Take torque control, whatever that needs, and hold where the arm is.

        :param on_state: called in the event loop after every new state.
        :param on_end: called in the event loop when the control loop ended although nobody asked it to; the arm is
            released then, and ``start`` begins anew.
        :raises FrankaError: it is not possible; the arm is released.
        """

    async def stop(self) -> None:
        """Stop smoothly and release what :meth:`start` took; idempotent, never raises where nothing can be done."""

    def snapshot(self) -> Snapshot:
        """The newest measured state.

        :raises NotStarted: there is none.
        """

    def switch(self, mode: str) -> None:
        """Change the control law; targets begin where the arm is."""

    def apply(self, changes: Mapping[str, Any]) -> None:
        """Let changed settings take effect, all of them at the beginning of one cycle.

        :raises ConfigurationError: one of them cannot be used; nothing is changed.
        """

    def set_target(self, target: Mapping[str, Array]) -> None:
        """Give the mode a new target: fields as those of :data:`~aiofranka_ros.control.records.COMMANDS`."""

    async def settled(self) -> None:
        """Wait until earlier changes are in force.

        :raises FrankaError: one of them was refused.
        """

    async def move(self, goal: Array) -> None:
        """Move to ``goal`` [rad] (7,) and hold; cancelled, slow down on the path and hold.

        :raises InvalidTarget: the goal was refused.
        :raises MoveFailed: the arm did not arrive.
        """

    async def measure_connection(self, duration: float) -> ConnectionReport:
        """Watch the control loop for ``duration`` [s]."""


class Data:
    """``robot.data``, under the names that scripts use.

    :param link: whose state it shows.
    """

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


async def uninterrupted(work: Awaitable[_T]) -> _T:
    """Await ``work`` to its end, even if the caller is cancelled meanwhile; the cancellation goes on after it."""
    task = asyncio.ensure_future(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # Retrieved: the cancellation is what the caller hears of.
    raise cancellation
