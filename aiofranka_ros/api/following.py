"""The part of the controller that sends chunks: the next actions of a policy, with the times at which they are due.

Used by policies, in their process and event loop. Here, the arguments are checked; the link has everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any, TypeVar

import numpy as np

from aiofranka_ros.api.arguments import positive, share, stamp_of
from aiofranka_ros.api.attributes import Attributes, array, positions_and_quaternions
from aiofranka_ros.api.chunk_ticket import ChunkTicket
from aiofranka_ros.api.link import uninterrupted
from aiofranka_ros.arm.chunk_points import KINDS
from aiofranka_ros.arm.chunks import Ticket
from aiofranka_ros.control.chunk_size import check_size
from aiofranka_ros.control.records import Mode
from aiofranka_ros.control.setting import plain
from aiofranka_ros.errors import ConfigurationError, FrankaError, InvalidTarget, unknown
from aiofranka_ros.kernels import Array

_T = TypeVar("_T")


class Following(Attributes):
    """The part of the controller that sends chunks; its coroutines belong to the event loop of the controller."""

    #: Done when the control loop ends; made at the start.
    _ended: asyncio.Future[None]

    @property
    def task(self) -> asyncio.Future[None] | None:
        """Await it for the end of the control loop, however it comes: it raises nothing. ``None`` before the start."""
        ended = getattr(self, "_ended", None)
        return None if ended is None else asyncio.shield(ended)

    async def follow(
        self,
        chunk: Any,
        *,
        dt: float,
        start: int | None = None,
        kind: str | None = None,
        gripper: Any = None,
    ) -> ChunkTicket:
        """Let the arm follow a chunk: one action for each ``dt``, the first of which is due at ``start``.

        It replaces the chunk in force without a step in position, velocity or acceleration. Actions that are past are
        dropped; after the last one the arm slows down and holds (the setting ``chunk_end``). Limits apply as to every
        target. Returns when the chunk is accepted; the ticket then says what becomes of it. If cancelled, it may be in
        force all the same.

        :param chunk: by ``kind``: joint positions [rad] (n, 7); poses of the control frame in the base (n, 4, 4), or
            positions [m] and quaternions x, y, z, w (n, 7); joint velocities [rad/s] (n, 7); or velocities of the
            control frame's origin in the axes of the base [m/s], [rad/s] (n, 6). Velocities begin where the arm's
            reference is. At most 128 rows.
        :param dt: time from one action to the next [s].
        :param start: when the first one is due [ns, as ``state["stamp"]``], usually the time of the observation;
            ``None``: now.
        :param kind: ``"q"``, ``"ee"``, ``"dq"`` or ``"twist"``; ``None``: ``"ee"`` in mode ``osc``, otherwise ``"q"``.
        :param gripper: widths of the gripper, at the same times [m] (n,); only if the arm follows the chunk.
        :raises ConfigurationError: there is no such kind, ``dt`` is not a positive number, or ``start`` is no stamp.
        :raises InvalidTarget: the chunk is refused, and ``reason`` is why: not finite, too late, older than the one in
            force, far away, for another mode, during a move, ...; the arm continues what it did.
        :raises FrankaError: what ended the control loop.
        """
        self._check()
        kind = kind or ("ee" if self.type == "osc" else "q")
        if kind not in KINDS:
            raise ConfigurationError(unknown("kind of chunk", kind, KINDS))
        dt = positive("dt", dt, "s")
        begin = None if start is None else stamp_of("start", start)
        values = _rows(kind, chunk)
        widths = None if gripper is None else array("gripper", gripper, (len(values),))
        if self._moves:
            raise InvalidTarget("a chunk is refused during a move: await or cancel the move", reason="during a move")
        modes = KINDS[kind][2]
        if Mode[self.type.upper()] not in modes:
            remedy = " or ".join(f"controller.switch({mode.name.lower()!r})" for mode in modes)
            message = f"a chunk of kind {kind!r} is not for mode {self.type}: {remedy} first"
            raise InvalidTarget(message, reason="another mode")
        with self.state_lock:
            self._setters.check("a chunk")
        times = dt * np.arange(len(values))

        async def send() -> Ticket:
            await self.robot.settled()
            return await self.robot.follow(kind, values, times, begin, widths)

        return ChunkTicket(await self._unless_ended(send()))

    def committed(self, n: int, dt: float, start: int | None = None) -> tuple[Array, int]:
        """What the arm does if no other chunk comes, in the rows of a policy.

        :param n: how many rows, at most.
        :param dt: time from one row to the next [s].
        :param start: time of the first one [ns, as ``state["stamp"]``]; ``None``: now.
        :returns: joint positions [rad], or positions [m] and quaternions x, y, z, w, by the mode (m, 7), up to the
            end of the chunk in force, m = 0 if there is none; and how many of these rows no chunk can change any more
            (the setting ``chunk_freeze``).
        :raises ConfigurationError: ``dt`` is not a positive number, or ``start`` is no stamp.
        """
        begin = None if start is None else stamp_of("start", start)
        return self.robot.committed(n, positive("dt", dt, "s"), begin)

    def inference_delay(self, dt: float, quantile: float = 0.95) -> int:
        """How many steps of ``dt`` [s] pass from the start of a chunk to the first torque that follows it.

        :param quantile: this share of the last chunks took no longer.
        :returns: 0 before the first chunk.
        :raises ConfigurationError: ``dt`` is not a positive number, or ``quantile`` no share.
        """
        return self.robot.inference_delay(positive("dt", dt, "s"), share("the quantile", quantile))

    async def state_at(self, stamp: int) -> dict[str, Any]:
        """The state at an earlier time, e.g. when an image was taken, interpolated between two measured ones.

        :param stamp: [ns, as ``state["stamp"]``], within the last seconds.
        :raises ConfigurationError: it is no stamp.
        :raises InvalidTarget: that is too long ago, or in the future.
        """
        self._check()
        return self.robot.snapshot_at(stamp_of("the stamp", stamp)).as_state()

    def stop_following(self) -> None:
        """End the chunk in force: the arm slows down within its limits and holds, and the gripper follows it no more.

        A chunk that is on its way ends, too. Does nothing if there is none.
        """
        if self._running:
            self.robot.stop_following()
            with contextlib.suppress(FrankaError):
                self._reseed(self.robot.snapshot())

    async def _unless_ended(self, work: Awaitable[_T]) -> _T:
        """Await ``work``, unless the control loop ends first."""
        task = asyncio.ensure_future(work)
        either: list[asyncio.Future[Any]] = [task, self._ended]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await uninterrupted(asyncio.wait([task]))
        if not task.cancelled():
            task.exception()  # Retrieved: what ended the loop explains it better.
        self._check()
        return task.result()


def _rows(kind: str, chunk: Any) -> Array:
    """The rows of a chunk (n, 6 or 7).

    :raises InvalidTarget: it has another shape, too many rows, is not finite, or has a row that is no pose.
    """
    what, width, _ = KINDS[kind]
    try:
        given = np.array(chunk if isinstance(chunk, np.ndarray) else plain(chunk))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTarget(f"the chunk is not an array of numbers: {error}", reason="wrong type") from error
    if given.dtype.kind not in "fiu":
        raise InvalidTarget(f"the chunk is not an array of numbers, but of {given.dtype}", reason="wrong type")
    values = given.astype(float, order="C")
    if kind == "ee" and values.shape[1:] == (4, 4):
        values = positions_and_quaternions("row {row} of the chunk", values)
    if values.ndim != 2 or len(values) == 0 or values.shape[1] != width:
        raise InvalidTarget(
            f"the chunk has the shape {values.shape}, but a chunk of kind {kind!r} must have (n, {width}): {what}",
            reason="wrong size",
        )
    check_size(len(values))
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise InvalidTarget(f"row {row} of the chunk is not finite: {values[row].tolist()}", reason="not finite")
    return values
