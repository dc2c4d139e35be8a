"""The calls of one isolated object, from the request to the answer; ``process`` owns them, in the event loop's thread.

Only one request is with the child at any time; the others wait here, in order. So a call that is cancelled or times out
before its turn is never executed, and an answer without a waiter is dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiofranka_ros.errors import NotPicklable
from aiofranka_ros.offload.mpify.arrays import Channel, Encoded, Message
from aiofranka_ros.offload.mpify.protocol import Kind, exception_of


@dataclass(eq=False, slots=True)
class Call:
    """One request; ``what`` is its name, for errors, and ``future`` gets the answer."""

    kind: Kind
    number: int
    encoded: Encoded
    what: str
    future: asyncio.Future[Any]

    @property
    def awaited(self) -> bool:
        """Whether a caller still waits for the answer; none does once its event loop has closed."""
        return not self.future.done() and not self.future.get_loop().is_closed()


class Calls:
    """The request that is with the child, and those that wait for their turn."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._number = 0
        self._current: Call | None = None
        self._waiting: deque[Call] = deque()

    @property
    def awaited(self) -> bool:
        """Whether a caller still waits for any answer."""
        return any(call.awaited for call in self._all())

    def submit(self, kind: Kind, encoded: Encoded, what: str, future: asyncio.Future[Any]) -> Call:
        """Send a request now, or when it is its turn; arguments as in :class:`Call`."""
        self._number += 1
        call = Call(kind, self._number, encoded, what, future)
        self._waiting.append(call)
        if self._current is None:
            self._send_next()
        else:
            encoded.keep()
        return call

    def abandon(self, call: Call) -> None:
        """``call`` has no waiter any more, whether it was answered or not: it is not sent if it was not yet."""
        if call in self._waiting:  # Not suppress(ValueError): that error's text would contain all arrays.
            self._waiting.remove(call)

    def answer(self, message: Message) -> None:
        """Hand an answer to its caller, and send the next request."""
        call = self._current
        if call is None:
            return  # It was on its way when stop() told all callers that there would be none.
        assert call.number == message.number, "an answer that belongs to no request"
        self._current = None
        self._send_next()
        if not call.awaited:
            return  # Not even unpickled: it may be large.
        try:
            answer = message.load()
        except Exception as error:
            problem = NotPicklable(f"the answer to {call.what} cannot be unpickled: {type(error).__name__}: {error}")
            problem.__cause__ = error
            call.future.set_exception(problem)
            return
        if message.kind == Kind.ERROR:
            call.future.set_exception(exception_of(answer))
        else:
            call.future.set_result(answer)

    def fail(self, error: Callable[[], Exception]) -> None:
        """Drop all calls; those that are awaited raise what ``error`` makes."""
        calls = self._all()
        self._current = None
        self._waiting.clear()
        for call in calls:
            if call.awaited:
                call.future.set_exception(error())

    def _all(self) -> list[Call]:
        return [call for call in (self._current, *self._waiting) if call is not None]

    def _send_next(self) -> None:
        while self._waiting and self._current is None:
            call = self._waiting.popleft()
            if not call.awaited:
                continue
            self._current = call
            try:
                self._channel.send(call.kind, call.number, self._channel.pack(call.encoded))
            except (BrokenPipeError, ConnectionResetError):
                pass  # The child is about to end; its pidfd will say so.
            except OSError as error:  # No memory or no descriptor left: only this call fails.
                self._current = None
                call.future.set_exception(error)
