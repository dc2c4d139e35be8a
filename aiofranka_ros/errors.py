"""Every exception that this package raises on purpose, and what their messages are made of.

Imported by many modules and by users, in every process; it imports nothing of this package. Each class is one kind of
failure and has its data as attributes, so that callers never match the text of a message.

    FrankaError
     ├── ConfigurationError       a parameter, gain or option that cannot be used
     ├── InvalidTarget            a target or goal that was refused at the boundary
     │    ├── Overridden          the arm follows something that takes precedence: a person, ~/hold, a move
     │    ├── TransformMissing    TF does not know, or not yet, where its frame was
     │    └── Unreachable         no joint positions lead to a pose
     ├── ConnectionFailed         no arm could be reached, or the connection was lost
     │    └── IncompatibleRobot   the robot speaks another version of the FCI protocol
     ├── ArmInUse                 another process on this machine already drives the arm
     ├── NameTaken                another node on the ROS graph has the names of this one
     ├── ControlStopped           the 1 kHz loop ended: reflex, lost packets, user stop
     ├── NotStarted               used before start() or after stop()
     ├── WouldDeadlock            a call of the synchronous API that would wait for itself
     ├── CommandRefused           libfranka refused a command in the arm's present state
     ├── MoveFailed               a move did not reach its goal
     │    ├── PathViolated        a joint was too far from its path
     │    ├── GoalMissed          the move ended outside its tolerance
     │    └── MoveReplaced        another move replaced it
     ├── PolicyFailed             a policy that plans in chunks raised, died, hangs, or its chunks are refused
     ├── GripperFailed            the gripper could not execute a command
     ├── ControlProcessDied       the control process is gone or does not answer
     ├── RecordingFailed          a recording of what happened could not be written or read
     ├── Interrupted              the program was asked to end, so a start or a wait was given up
     ├── SimulationError          the simulated arm could not be started or died
     ├── Superseded               a newer call replaced this one, which had not begun
     ├── NotPicklable             something that cannot be sent to or from an isolated object's process
     ├── RemoteError              an isolated object raised an exception that cannot be sent itself
     └── RemoteDied               an isolated object's process is gone
          └── RemoteStopped       because it was stopped on request
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass


class FrankaError(Exception):
    """Base of everything that this package raises on purpose."""


class ConfigurationError(FrankaError, ValueError):
    """A parameter, gain or option that cannot be used; nothing was changed."""


class InvalidTarget(FrankaError, ValueError):
    """A target or goal that was refused at the boundary; the arm keeps its previous one.

    :ivar reason: the kind of refusal in a word or two, by which refusals are counted.
    """

    def __init__(self, message: str, *, reason: str = "invalid") -> None:
        super().__init__(message)
        self.reason = reason


class Overridden(InvalidTarget):
    """Targets are refused while something that takes precedence controls the arm; the sender may continue afterwards.

    :ivar owner: what controls the arm: the full name of a priority client's node, ``~/hold``, ``~/move``, ...
    """

    def __init__(self, message: str, *, owner: str, reason: str = "overridden") -> None:
        super().__init__(message, reason=reason)
        self.owner = owner


class TransformMissing(InvalidTarget):
    """TF does not know where the frame of a target was at the target's time; it may know a moment later."""


class Unreachable(InvalidTarget):
    """No joint positions within the limits bring the control frame to a pose; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="unreachable")


class ConnectionFailed(FrankaError, ConnectionError):
    """No arm could be reached, or the connection was lost."""


class IncompatibleRobot(ConnectionFailed):
    """The robot speaks another version of the FCI protocol than the installed libfranka.

    :ivar robot_version: FCI protocol version of the robot.
    :ivar library_version: FCI protocol version of the installed libfranka.
    """

    def __init__(self, message: str, *, robot_version: int, library_version: int) -> None:
        super().__init__(message)
        self.robot_version = robot_version
        self.library_version = library_version


class ArmInUse(FrankaError):
    """Another process on this machine already drives the arm at this address."""


class NameTaken(FrankaError):
    """Another node on the ROS graph has this node's name, or serves the same actions: a goal would reach both."""


class ControlStopped(FrankaError):
    """The 1 kHz loop ended without a request.

    :ivar errors: libfranka's names of what stopped the arm, e.g. ``("joint_velocity_violation",)``; empty if the
        robot gave none.
    """

    def __init__(self, message: str, *, errors: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.errors = errors


class NotStarted(FrankaError, RuntimeError):
    """Something was used before ``start()`` or after ``stop()``: a controller, an inference thread."""


class WouldDeadlock(FrankaError, RuntimeError):
    """A call of the synchronous API that would wait for itself: in a callback of it, or inside ``state_lock``."""


class Superseded(FrankaError):
    """A newer call replaced this one, which had not begun (``latest_only``)."""


class CommandRefused(FrankaError):
    """libfranka refused a command in the arm's present state."""


class MoveFailed(FrankaError):
    """A move did not reach its goal; the message says why. The arm holds where it is."""


class PathViolated(MoveFailed):
    """A joint was further from its path than the tolerance; the arm slowed down and holds."""


class GoalMissed(MoveFailed):
    """A move ended, but a joint was not within its tolerance in time."""


class MoveReplaced(MoveFailed):
    """Another move replaced this one before it reached its goal."""


class PolicyFailed(FrankaError):
    """A policy that plans in chunks raised, died, hangs, or its chunks are refused; the arm slowed down and holds."""


class GripperFailed(FrankaError):
    """The gripper could not execute a command, or the command was interrupted; the message says why."""


class ControlProcessDied(FrankaError):
    """The control process is gone or does not answer.

    :ivar exit_code: as in :attr:`subprocess.Popen.returncode`; ``None`` while it still exists but does not answer.
    """

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RecordingFailed(FrankaError):
    """A recording of what happened could not be written, or is not one; the arm is not affected."""


class Interrupted(FrankaError):
    """The program was asked to end, so a start or a wait was given up; what it had taken is released."""


class SimulationError(FrankaError):
    """The simulated arm could not be started, or died."""


class NotPicklable(FrankaError, TypeError):
    """Something that cannot be sent to or from an isolated object's process; nothing was sent, or no result."""


class RemoteError(FrankaError):
    """An isolated object raised an exception that cannot be sent itself, or that must not be raised unchanged.

    :ivar type_name: the exception's class, with its module.
    :ivar traceback: where it was raised, as text.
    """

    def __init__(self, message: str, *, type_name: str, traceback: str) -> None:
        super().__init__(message)
        self.type_name = type_name
        self.traceback = traceback


class RemoteDied(FrankaError):
    """An isolated object's process is gone; pending calls have no result.

    :ivar exit_code: as in :attr:`multiprocessing.Process.exitcode`: negative if a signal killed it; ``None`` if
        it is not known.
    """

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RemoteStopped(RemoteDied):
    """An isolated object was used after, or while, it was stopped."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    what: str  #: what it is, as the beginning of a sentence
    remedy: str  #: what to do about it; a command if there is one

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


# Text for messages: quotes only as long as a reader needs, so that a log line stays short whatever a client sends.

#: What a start reports that takes long because :func:`.kernels.compiled` is false; clients look for it in diagnostics.
COMPILING = "compiling the control kernels, once after an installation or a change: this takes about 20 s"
#: Characters of one text, and number of texts, that a message quotes.
_LONGEST, _MOST = 60, 5


def brief(text: str, longest: int = _LONGEST) -> str:
    """``text``, or its beginning and its length if it has more than ``longest`` characters."""
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"


def listed(texts: Iterable[str], most: int = _MOST) -> str:
    """``texts``, brief and with commas between them: the first ``most``, and how many more there are."""
    rest = iter(texts)
    shown = ", ".join(brief(text) for text in itertools.islice(rest, most))
    more = sum(1 for _ in rest)
    return f"{shown} and {more} more" if more else shown


def nearest(name: str, known: Iterable[str], similarity: float = 0.6) -> str | None:
    """The one of ``known`` that is most similar to ``name``, at least by ``similarity`` (0 to 1); ``None``: none is."""
    if len(name) > _LONGEST:  # Finding out takes the longer, the longer it is.
        return None
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=similarity)), None)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """A message about a name that does not exist: the nearest one first, then all that do."""
    names = list(known)
    near = nearest(name, names)
    suggestion = f"did you mean {near!r}? There are" if near else "there are"
    return f"there is no {kind} {brief(name)!r}; {suggestion}: {', '.join(names)}"
