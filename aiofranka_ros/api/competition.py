"""Who else sets the targets: another client of the node, or another task of the same program; and what is refused.

Used by :mod:`aiofranka_ros.api.ros_interface` and by the controller's attributes. Two senders of targets shake the arm,
or one of them moves nothing; either way, it must learn that.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import Callable
from typing import Any

from aiofranka_ros.errors import InvalidTarget, Overridden

#: Targets may be refused for this long without an error: another client may be about to end, or some messages are late;
#: and once none was refused for the second time, it is over [s]. The node reports every half second.
_PATIENCE, _OVER = 0.4, 0.75
#: Reasons of refusals because something takes precedence over targets: a priority client, ``~/hold``, or a move.
_PRECEDENCE = ("overridden", "held", "during a move")
#: A task that set a target and then pauses for this long, at least, is no longer in charge of it [s].
PAUSE = 0.5
#: The thread that sets targets through the synchronous API: there, each call is another task in the same event loop.
SENDER: contextvars.ContextVar[threading.Thread | None] = contextvars.ContextVar("sender", default=None)


class Competition:
    """Whether the node refuses this client's targets, because of another client or for any other reason.

    Used in the event loop, except :attr:`begun`.

    :param node: full name of the node.
    :param name: full name of this client's node.
    :param clock: [s].
    """

    def __init__(self, node: str, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._node, self._name = node, name
        self._clock = clock
        #: Whether a target was set since the last :meth:`check`.
        self.begun = False
        self._first = self._last = -_OVER
        self._message = self._reason = ""
        self._owner, self._client, self._overrides = "", "", False
        self._changed = asyncio.Event()

    def refused(self, message: str, reason: str) -> None:
        """The node reports that a target of this client was refused."""
        now = self._clock()
        if reason != self._reason or now - self._last > _OVER:
            self._first = now
        self._last, self._message, self._reason = now, message, reason

    def owned(self, owner: str, client: str, overrides: bool) -> None:
        """The node reports who controls the arm; arguments as in :class:`~aiofranka_ros.ros.ownership.Ownership`."""
        self._owner, self._client, self._overrides = owner, client, overrides
        self._changed.set()  # Wakes the calls that wait now.
        self._changed.clear()

    @property
    def taken(self) -> bool:
        """Whether anything but this client's targets controls the arm."""
        return self._client != self._name if self._client else self._overrides

    def check(self) -> None:
        """Check the targets that were set since the last call.

        :raises Overridden: something that takes precedence controls the arm.
        :raises InvalidTarget: targets have been refused for a while, for any other reason.
        """
        begun, self.begun = self.begun, False
        if not begun or self._clock() - self._last > _OVER:
            return
        if self._reason not in _PRECEDENCE:
            if self._last - self._first > _PATIENCE:
                self._first = self._last = -_OVER  # Told: what it sends from now on may be accepted.
                raise InvalidTarget(self._message, reason=self._reason)
        elif self._overrides and self.taken:
            raise self.explained(InvalidTarget(self._message, reason=self._reason))

    def explained(self, error: InvalidTarget) -> InvalidTarget:
        """``error``, a refusal by the node; :class:`.Overridden` if its reason is that something takes precedence."""
        if error.reason not in _PRECEDENCE:
            return error
        owner = self._client or self._owner if self.taken else ""
        advice = "await controller.handed_back(), then continue from where the arm is"
        return Overridden(f"{error}; {advice}", owner=owner, reason=error.reason)

    async def handed_back(self) -> None:
        """Wait until nothing but this client's targets controls the arm."""
        while self.taken:
            await self._changed.wait()
        self._last = -_OVER


class Setters:
    """Which task sets a target, or which thread outside of tasks; may be used from any thread, one at a time.

    The first one may continue; another one that sets targets in between is refused, unless the first one has ended or
    sets no more. A task that takes over from another is not refused.

    :param clock: [s].
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: How long one may pause and is still in charge [s].
        self.pause = PAUSE
        # Each with the time when it last set the target [s].
        self._first: tuple[Any, float] = None, 0.0
        self._other: tuple[Any, float] = None, 0.0

    def check(self, name: str) -> None:
        """:raises InvalidTarget: the caller sets the target ``name`` in turns with another task."""
        caller, now = _caller(), self._clock()
        (first, first_set), (other, other_set) = self._first, self._other
        if first is None or caller is first or _is_done(first) or now - first_set > self.pause:
            self._first = caller, now
            return
        if caller is other and first_set > other_set:
            raise InvalidTarget(
                f"{name} is set by two tasks in turns: {_name(first)} does, so {_name(caller)} must not",
                reason="another task",
            )
        self._other = caller, now


def _caller() -> Any:
    if (sender := SENDER.get()) is not None:
        return sender
    with contextlib.suppress(RuntimeError):  # No event loop runs in this thread.
        if (task := asyncio.current_task()) is not None:
            return task
    return threading.current_thread()


def _is_done(caller: Any) -> bool:
    return bool(caller.done()) if isinstance(caller, asyncio.Task) else not caller.is_alive()


def _name(caller: Any) -> str:
    return f"task {caller.get_name()!r}" if isinstance(caller, asyncio.Task) else f"thread {caller.name!r}"
