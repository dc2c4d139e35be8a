"""What a policy knows about a chunk that it sent, and how it waits for the end of it.

Made by :meth:`.FrankaController.follow`, in the policy's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib

from aiofranka_ros.arm.chunks import Outcome, Ticket


class ChunkTicket:
    """A chunk that was accepted; its attributes are kept up to date."""

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Outcome] = self._loop.create_future()
        ticket.when_ended(self._end_soon)

    @property
    def accepted(self) -> bool:
        """Always true: a chunk that is refused raises ``InvalidTarget``."""
        return self._ticket.accepted

    @property
    def number(self) -> int:
        """Counts the chunks of the arm."""
        return self._ticket.number

    @property
    def dropped(self) -> int:
        """Rows that were past at its arrival."""
        return self._ticket.dropped

    @property
    def clipped(self) -> int:
        """Rows that were cut to a limit."""
        return self._ticket.clipped

    @property
    def seam(self) -> tuple[float, float]:
        """How far it was from what the arm would have done [m], [rad]."""
        return self._ticket.seam

    @property
    def starts_at(self) -> float:
        """From when on it decides the movement [s, :func:`time.monotonic`]."""
        return self._ticket.starts_at

    @property
    def latency(self) -> float | None:
        """From its ``start`` to the first torque that was computed from it [s]; ``None`` until then."""
        return self._ticket.latency

    @property
    def outcome(self) -> Outcome:
        """Whether it runs, or how it ended."""
        return self._ticket.outcome

    @property
    def reason(self) -> str:
        """Why it ended; empty while it runs."""
        return self._ticket.reason

    @property
    def done(self) -> asyncio.Future[Outcome]:
        """Await it for the end, however it comes: it raises nothing. If cancelled, the chunk continues."""
        return asyncio.shield(self._ended)

    def __repr__(self) -> str:
        return f"<chunk {self.number}: {self.reason or self.outcome.value}>"

    def _end_soon(self) -> None:
        """In any thread."""
        with contextlib.suppress(RuntimeError):  # The event loop is closed; no task waits any more.
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(self.outcome)
