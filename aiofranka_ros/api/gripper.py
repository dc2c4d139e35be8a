"""``controller.gripper``: the Franka Hand of an arm, and the seam between it and the two ways to reach one.

Used by policies, in their process and event loop. :class:`~aiofranka_ros.api.robot_gripper.RobotGripper` drives the
hand itself, :class:`~aiofranka_ros.api.ros_gripper.RosGripper` asks the gripper's node; one test suite runs against
both.
"""

from __future__ import annotations

import abc
import math
from typing import Any, NamedTuple

from aiofranka_ros.arm.gripper.commands import NOT_CONNECTED, NOT_HOMED
from aiofranka_ros.arm.gripper.connection import Request
from aiofranka_ros.control.setting import plain
from aiofranka_ros.errors import FrankaError, GripperFailed, InvalidTarget


class GripperState(NamedTuple):
    """What a gripper measures: widths [m], temperature [°C], and when [ns, the clock of ``controller.state``]."""

    width: float
    max_width: float
    is_grasped: bool
    temperature: int
    stamp: int


class GripperRequest(NamedTuple):
    """What a gripper is asked to do [m], [m/s], [N]; 0 for everything but the width means the default.

    The object may be smaller than ``width`` by ``inner`` and larger by ``outer`` [m].
    """

    kind: Request
    width: float = 0.0
    speed: float = 0.0
    force: float = 0.0
    inner: float = 0.0
    outer: float = 0.0


class GripperLink(abc.ABC):
    """A way to a gripper. Coroutines run in the event loop of the controller; the rest may be called from any thread.

    All raise ``NotStarted`` before the controller's start and after its stop.
    """

    @abc.abstractmethod
    def state(self) -> GripperState:
        """The newest measured state.

        :raises GripperFailed: there is no gripper, or it is not connected yet.
        """

    @abc.abstractmethod
    async def next_state(self) -> GripperState:
        """The first state that arrives after this call; waits for the gripper to be connected.

        :raises GripperFailed: there is no gripper.
        """

    @abc.abstractmethod
    async def run(self, request: GripperRequest) -> None:
        """Run a request to its end; if cancelled, stop the fingers first.

        :raises InvalidTarget: the gripper cannot do it.
        :raises GripperFailed: there is no gripper, it was not homed, or it did not succeed.
        """

    @abc.abstractmethod
    async def stop(self) -> None:
        """Stop the fingers and release what they hold; if cancelled, it finishes first.

        :raises GripperFailed: there is no gripper, or it did not confirm.
        """

    @abc.abstractmethod
    def set_width(self, width: float) -> None:
        """Send a width [m] as a target; never waits.

        :raises InvalidTarget: the gripper cannot have it.
        :raises GripperFailed: there is no gripper, or it was not homed.
        """


class Gripper:
    """The Franka Hand of an arm; ``controller.gripper``.

    ::

        await controller.gripper.grasp(0.03, force=30.0)
        controller.gripper.width = 0.08

    It connects when it is first used, and by itself again if the connection was lost. It may be used from the
    controller's start to its stop, also while the arm does not run. The newest command of any client counts; the same
    one again is one command: it joins the one that runs or is done, and never lets go of what is held.
    """

    __slots__ = ("_link",)

    def __init__(self, link: GripperLink) -> None:
        self._link = link

    @property
    def state(self) -> dict[str, Any]:
        """The newest measured state: ``width`` and ``max_width`` [m], ``is_grasped``, ``temperature`` [°C], ``stamp``
        [ns, as ``controller.state["stamp"]``].

        :raises GripperFailed: there is no gripper, or it is not connected yet: ``await gripper.next_state()`` first.
        """
        return self._link.state()._asdict()

    @property
    def width(self) -> float:
        """Measured distance of the fingers [m].

        An assigned one is sent as a target, without waiting, at any rate: closing completely grasps whatever is there,
        everything else is a move. A width that differs by 2 mm or less from the one before sends nothing.

        :raises InvalidTarget: it is not finite, or the gripper cannot have it.
        :raises GripperFailed: there is no gripper, or it was not homed. Later failures are logged.
        """
        return self._link.state().width

    @width.setter
    def width(self, width: Any) -> None:
        self._link.set_width(_number("width", width, "m"))

    @property
    def max_width(self) -> float:
        """The largest width, which homing found [m]; 0: it was not homed."""
        return self._link.state().max_width

    @property
    def is_grasped(self) -> bool:
        """Whether the fingers hold something."""
        return self._link.state().is_grasped

    async def next_state(self) -> dict[str, Any]:
        """The first state that arrives after this call; waits until the gripper is connected.

        :raises GripperFailed: there is no gripper.
        """
        return (await self._link.next_state())._asdict()

    async def homing(self) -> None:
        """Close and open completely, to find the largest width; once after the gripper was switched on.

        If cancelled, the fingers stop first.

        :raises GripperFailed: there is no gripper, something is between the fingers, or something else ended it.
        """
        await self._link.run(GripperRequest(Request.HOMING))

    async def move(self, width: float, speed: float | None = None) -> None:
        """Move the fingers; returns when they have arrived. If cancelled, they stop first, which takes up to a second.

        :param width: distance of the fingers [m].
        :param speed: [m/s]; ``None``: 0.1, as fast as it can.
        :raises InvalidTarget: the gripper cannot do that, or a number is not finite.
        :raises GripperFailed: there is no gripper, it was not homed, an object is in the way, or something newer, or a
            lost connection, ended it.
        """
        request = GripperRequest(Request.MOVE, _number("width", width, "m"), _number("speed", speed, "m/s"))
        await self._link.run(request)

    async def grasp(
        self,
        width: float,
        speed: float | None = None,
        force: float | None = None,
        epsilon_inner: float | None = None,
        epsilon_outer: float | None = None,
    ) -> None:
        """Close until something is in the way, and hold it; returns when it is held. If cancelled, the fingers stop.

        :param width: of the object [m].
        :param speed: [m/s]; ``None``: 0.1.
        :param force: [N]; ``None``: 20.
        :param epsilon_inner: by how much it may be smaller than ``width`` [m]; ``None``: 0.005.
        :param epsilon_outer: by how much it may be larger than ``width`` [m]; ``None``: 0.005.
        :raises InvalidTarget: the gripper cannot do that, or a number is not finite.
        :raises GripperFailed: nothing of that width was there; otherwise as :meth:`move`.
        """
        request = GripperRequest(
            Request.GRASP,
            _number("width", width, "m"),
            _number("speed", speed, "m/s"),
            _number("force", force, "N"),
            _number("epsilon_inner", epsilon_inner, "m"),
            _number("epsilon_outer", epsilon_outer, "m"),
        )
        await self._link.run(request)

    async def stop(self) -> None:
        """Stop the fingers and release what they hold; other calls that wait fail. If cancelled, it finishes first.

        :raises GripperFailed: there is no gripper, or it did not confirm.
        """
        await self._link.stop()

    def __repr__(self) -> str:
        try:
            state = self._link.state()
        except FrankaError as error:
            return f"<Gripper: {error}>"
        return f"<Gripper, {state.width:.4f} m{', holds something' if state.is_grasped else ''}>"


def explained(error: InvalidTarget, prefix: str = "") -> FrankaError:
    """``error`` as callers see it: that there is no gripper, or that it was not homed, is no fault of their numbers."""
    kind = error.reason in (NOT_CONNECTED, NOT_HOMED)
    return GripperFailed(f"{prefix}{error}") if kind else InvalidTarget(f"{prefix}{error}", reason=error.reason)


def _number(name: str, value: Any, unit: str) -> float:
    """``value`` as a number; ``None``: 0, the default.

    :raises InvalidTarget: it is no finite number.
    """
    number = 0.0 if value is None and name != "width" else plain(value)
    if not isinstance(number, (int, float)) or isinstance(number, bool):
        raise InvalidTarget(f"{name} is {number!r}, but must be a number [{unit}]", reason="wrong type")
    if not math.isfinite(number):
        raise InvalidTarget(f"{name} is {number} {unit}, but must be finite", reason="not finite")
    return float(number)
