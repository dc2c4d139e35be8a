"""Who else sets the targets: another client of the node, or another task of the same program.

Used by :mod:`aiofranka_ros.api.ros_interface` and by the controller's attributes. Two senders of targets shake the arm,
or one of them moves nothing; either way, it must learn that.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from aiofranka_ros.errors import InvalidTarget

#: A client may set targets for this long while another one still controls the arm, which may be about to end; and once
#: no target was refused for the second time, it has ended [s]. The node reports every half second.
_PATIENCE, _OVER = 0.4, 0.75
#: A task that set a target and then pauses for this long, at least, is no longer in charge of it [s].
PAUSE = 0.5


class Competition:
    """Whether another client of the node controls the arm.

    Used in the event loop, except :attr:`begun`.

    :param clock: [s].
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: Whether a target was set since the last :meth:`check`.
        self.begun = False
        self._first = self._last = -_OVER
        self._message = ""

    def refused(self, message: str) -> None:
        """The node reports that a target of this client was refused because of another client."""
        now = self._clock()
        if now - self._last > _OVER:
            self._first = now
        self._last, self._message = now, message

    def check(self) -> None:
        """:raises InvalidTarget: targets were set, and another client has controlled the arm for a while."""
        begun, self.begun = self.begun, False
        if begun and self._clock() - self._last < _OVER and self._last - self._first > _PATIENCE:
            raise InvalidTarget(self._message, reason="another publisher")


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
    with contextlib.suppress(RuntimeError):  # No event loop runs in this thread.
        if (task := asyncio.current_task()) is not None:
            return task
    return threading.current_thread()


def _is_done(caller: Any) -> bool:
    return bool(caller.done()) if isinstance(caller, asyncio.Task) else not caller.is_alive()


def _name(caller: Any) -> str:
    return f"task {caller.get_name()!r}" if isinstance(caller, asyncio.Task) else f"thread {caller.name!r}"
