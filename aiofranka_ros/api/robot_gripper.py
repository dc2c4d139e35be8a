"""The hand of an arm that this process owns: the gripper behind ``FrankaController(RobotInterface(ip))``.

Used by the controller, in the policy's process and event loop; :mod:`aiofranka_ros.api.hand_thread` drives the hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from aiofranka_ros.api.gripper import GripperLink, GripperRequest, GripperState
from aiofranka_ros.api.hand_thread import PERIOD, HandThread
from aiofranka_ros.api.link import uninterrupted
from aiofranka_ros.arm.gripper.settings import without_node
from aiofranka_ros.arm.gripper.widths import DueWidths
from aiofranka_ros.errors import FrankaError, GripperFailed, NotStarted
from aiofranka_ros.kernels import Array


class RobotGripper(GripperLink):
    """The gripper of one arm, which connects when it is first used.

    :param settings: see :func:`.without_node`, which also says what it raises.
    """

    def __init__(self, settings: Mapping[str, Any] = MappingProxyType({})) -> None:
        self._settings = without_node(settings)
        self._address = ""
        self._thread: HandThread | None = None
        self._lock = threading.Lock()  # Of these two.

    def open(self, address: str) -> None:
        """The arm at ``address`` is driven from now on; blocks for a moment if another one was used."""
        if address != self._address:
            self.close()
            self._address = address

    def close(self) -> None:
        """Stop the fingers if they move, and disconnect; blocks for a moment. What is held stays held. Idempotent."""
        with self._lock:
            thread, self._thread, self._address = self._thread, None, ""
        if thread is not None:
            thread.close()

    def state(self) -> GripperState:
        """See :meth:`.GripperLink.state`."""
        seen = self._require().seen
        if seen.state is None:
            hint = "" if seen.tried else ": await controller.gripper.next_state() first"
            raise GripperFailed(seen.why + hint)
        return seen.state

    async def next_state(self) -> GripperState:
        """See :meth:`.GripperLink.next_state`."""
        begin = time.time_ns()
        while (state := await self._connected()).stamp < begin:
            await asyncio.sleep(PERIOD)
        return state

    async def run(self, request: GripperRequest) -> None:
        """See :meth:`.GripperLink.run`."""
        await self._connected()
        cancelled = threading.Event()
        await self._until_ended(partial(self._require().submit, request, cancelled.is_set), cancelled.set)

    async def stop(self) -> None:
        """See :meth:`.GripperLink.stop`."""
        await self._connected()
        await self._until_ended(self._require().stop)

    def set_width(self, width: float) -> None:
        """See :meth:`.GripperLink.set_width`."""
        self._require().set_width(width)

    async def prepare(self, widths: Array) -> None:
        """Check widths [m] (n,) that are to be followed; errors as :meth:`set_width`."""
        await self._connected()
        for index, width in enumerate(widths.tolist()):
            self._require().check(width, f"the width of point {index}")

    def follow(self, start: float, times: Array, widths: Array) -> None:
        """Follow widths [m] (n,), each ``times`` [s] (n,) after ``start`` [s, monotonic]."""
        self._require().begin(DueWidths(start, times, widths))

    def stop_following(self) -> None:
        """Drop the widths that are not due yet; the fingers finish what they do."""
        thread = self._thread
        if thread is not None:
            thread.begin(None)

    def _require(self) -> HandThread:
        with self._lock:
            if not self._address:
                raise NotStarted("the controller does not run: await controller.start() first")
            if self._thread is None:
                self._thread = HandThread(self._address, self._settings)
            return self._thread

    async def _connected(self) -> GripperState:
        """The newest state, when it is known whether there is a gripper; raises as :meth:`state` if there is none."""
        while not self._require().seen.tried:
            await asyncio.sleep(PERIOD)
        return self.state()

    async def _until_ended(
        self,
        begin: Callable[[Callable[[FrankaError | None], None]], None],
        on_cancelled: Callable[[], object] = lambda: None,
    ) -> None:
        """Begin something and wait for its end, also if that is cancelled; then raise its error or the cancellation."""
        loop, ended = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def on_end(error: FrankaError | None) -> None:
            with contextlib.suppress(RuntimeError):  # The event loop is closed, so nothing waits for this any more.
                loop.call_soon_threadsafe(_settle, ended, error)

        begin(on_end)
        await uninterrupted(ended, on_cancelled)


def _settle(ended: asyncio.Future[Any], error: FrankaError | None) -> None:
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
