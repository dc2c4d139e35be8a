"""What a gripper can be asked to do, made from what clients ask for, and how it ends.

Used by :mod:`aiofranka_ros.arm.gripper.gripper`, by the gripper's node and by ``RobotInterface``, in the thread that
drives the hand. Widths are the distance between the two fingers [m]. A value of 0 for speed, force or a tolerance means
the default, because a goal that does not give it has a 0 there.
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

from aiofranka_ros.arm.gripper.connection import Hand, HandState, Request, SentCommand
from aiofranka_ros.arm.gripper.settings import MAX_FORCE, MAX_SPEED, MIN_SPEED, Settings
from aiofranka_ros.errors import InvalidTarget

#: Reasons of refusals that are not about the request, but about the gripper's state.
NOT_CONNECTED, NOT_HOMED = "not connected", "not homed"
#: Differences that the gripper cannot resolve: width [m], speed [m/s], force [N], tolerances of the width [m].
_RESOLUTION = (1e-4, 1e-4, 0.1, 1e-4, 1e-4)
#: By how much a request may exceed the width that homing found [m]: most clients send 0.08, and homing finds less.
_WIDTH_SLACK = 0.002
#: Policies are not exact: by how much their widths may be below and above what the gripper can [m].
BEYOND = (0.01, 0.01)


class Command(NamedTuple):
    """What a client requests: homing, which needs no numbers, a move or a grasp.

    The object may be smaller than ``width`` by ``inner``, and larger by ``outer`` [m]; [m/s], [N]. A grasp that
    ``may_open`` is a move instead if the fingers are not further open than ``width`` when it begins. One of
    ``any_force`` is content with what is held already, whatever holds it.
    """

    request: Request
    width: float = 0.0
    speed: float = math.inf
    force: float = 0.0
    inner: float = 0.0
    outer: float = 0.0
    may_open: bool = False
    any_force: bool = False

    def equals(self, other: Command) -> bool:
        """Whether the gripper would do the same."""
        return (self.request, self.may_open) == (other.request, other.may_open) and all(
            math.isclose(one, two, rel_tol=0.0, abs_tol=least)
            for one, two, least in zip(self[1:6], other[1:6], _RESOLUTION, strict=True)
        )

    def is_done_by(self, other: Command) -> bool:
        """Whether it is done once ``other`` was done: how fast does not matter any more."""
        return self._replace(speed=other.speed).equals(other)

    def would_grasp_again(self, state: HandState, force: float, tolerance: float) -> bool:
        """Whether it would only grasp again what a gripper in this ``state`` holds.

        :param force: that it holds with [N]; NaN: not known.
        """
        return (
            self.request is Request.GRASP
            and not self._opens(state, tolerance)
            and self.width - self.inner < state.width < self.width + self.outer
            and (self.any_force or math.isclose(self.force, force, rel_tol=0.0, abs_tol=_RESOLUTION[2]))
        )

    def begin(self, state: HandState, tolerance: float) -> Command:
        """The command to send to a gripper in this ``state``, see ``may_open``."""
        return Command(Request.MOVE, self.width, self.speed) if self._opens(state, tolerance) else self

    def _opens(self, state: HandState, tolerance: float) -> bool:
        # Of a thin object that is held, closing is not a move: that would let go of it.
        least = state.width + tolerance if state.is_grasped else state.width - tolerance
        return self.may_open and self.width >= least

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
    #: The gripper could not carry it out.
    FAILED = enum.auto()
    #: Another command or a stop ended it.
    REPLACED = enum.auto()
    CANCELLED = enum.auto()


class Outcome(NamedTuple):
    """How a command ended, with the width [m] (NaN: not connected any more), and why it had no success, if so.

    ``force`` is that of a grasp [N], else 0.
    """

    end: End
    width: float
    failure: str = ""
    force: float = 0.0


# Commands from what clients ask for. They raise InvalidTarget if the gripper cannot do it.


def homing() -> Command:
    """Close and open completely."""
    return Command(Request.HOMING)


def move(width: float, speed: float, state: HandState, settings: Settings) -> Command:
    """Move the fingers to ``width`` [m] at ``speed`` [m/s]."""
    return Command(Request.MOVE, width_of(width, state), _speed(speed, settings))


def grasp(
    width: float, speed: float, force: float, epsilon: tuple[float, float], state: HandState, settings: Settings
) -> Command:
    """Close until something is in the way, and hold it with ``force`` [N].

    :param epsilon: by how much it may be smaller and larger than ``width`` [m].
    """
    inner, outer = (_epsilon(each, name, settings) for each, name in zip(epsilon, ("inner", "outer"), strict=True))
    width, speed = width_of(width, state), _speed(speed, settings)
    return Command(Request.GRASP, width, speed, force_of(force, "force", settings), inner, outer)


def reach(width: float, force: float, state: HandState, holds: bool, settings: Settings) -> Command:
    """Closing with a force [N], or completely, grasps whatever is there; any other width [m] is a move.

    Fingers that hold something cannot close further, so they hold on: targets of policies are not exact.

    :param holds: whether they hold something, see :attr:`.Gripper.holds`.
    """
    tolerance = settings["goal_tolerance"]
    closes = width <= tolerance or (holds and width <= state.width + tolerance)
    if force <= 0.0 and not closes:
        return Command(Request.MOVE, width, settings["default_speed"])
    return Command(
        Request.GRASP, 0.0 if width <= tolerance else width, settings["default_speed"],
        force or float(settings["default_force"]), inner=state.max_width, outer=state.max_width, may_open=True,
        any_force=force <= 0.0,
    )  # fmt: skip


def width_of(
    width: float, state: HandState, name: str = "width", slack: tuple[float, float] = (0.0, _WIDTH_SLACK)
) -> float:
    """``width`` [m], within what the gripper can.

    :param slack: by how much it may be below and above that [m].
    :raises InvalidTarget: the gripper cannot have that width, or was not homed.
    """
    if state.max_width <= 0.0:
        raise InvalidTarget("the gripper does not know its largest width yet: call homing first", reason=NOT_HOMED)
    if not -slack[0] <= width <= state.max_width + slack[1]:
        raise InvalidTarget(
            f"{name} is {width} m, but the gripper opens from 0 to {state.max_width:.4f} m",
            reason="bad width" if math.isfinite(width) else "not finite",
        )
    return min(max(width, 0.0), state.max_width)


def force_of(force: float, name: str, settings: Settings) -> float:
    """:raises InvalidTarget: the gripper has no such force."""
    if not 0.0 <= force <= MAX_FORCE:
        raise InvalidTarget(
            f"{name} is {force} N, but must be at most {MAX_FORCE:g} N, or 0 for the default", reason="bad force"
        )
    return force or float(settings["default_force"])


def _speed(speed: float, settings: Settings) -> float:
    if not (speed == 0.0 or MIN_SPEED <= speed < math.inf):
        raise InvalidTarget(
            f"speed is {speed} m/s, but must be at least {MIN_SPEED} m/s, or 0 for the default", reason="bad speed"
        )
    # Faster than the gripper can is as fast as it can.
    return min(speed, MAX_SPEED) or float(settings["default_speed"])


def _epsilon(epsilon: float, name: str, settings: Settings) -> float:
    if not 0.0 <= epsilon < math.inf:
        raise InvalidTarget(
            f"epsilon.{name} is {epsilon} m, but must be positive, or 0 for the default", reason="bad tolerance"
        )
    return epsilon or float(settings["default_epsilon"])
