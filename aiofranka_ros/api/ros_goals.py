"""Goals of one node's actions, each pursued to its end: until the arm or the gripper has arrived, or has stopped.

Used by both clients of nodes, :class:`~aiofranka_ros.api.node_connection.NodeConnection` and
:class:`~aiofranka_ros.api.ros_gripper.GripperConnection`, in the policy's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from aiofranka_ros.api.ros_client import RosClient
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.ros.clients import Presence
from aiofranka_ros.ros.refusals import Refusal, RefusalReader

#: How often the result of a running goal is requested [s].
_RESULT_PERIOD = 5.0
#: How long the reason why a goal was refused may take to arrive [s].
_REASON_TIMEOUT = 2.0


class Goals:
    """The goals that one client sends to one node, which end with the client.

    :param client: not yet started.
    :param node: full name of the node that serves the actions.
    :param on_refused_target: called in the event loop with refusals of targets, of any client.
    :param lasting: see :meth:`.RosClient.answer`.
    """

    def __init__(
        self,
        client: RosClient,
        node: str,
        on_refused_target: Callable[[Refusal], None] = lambda refusal: None,
        lasting: bool = False,
    ) -> None:
        self._client, self._node, self._lasting = client, node, lasting
        self._presence = Presence(client.node, node)
        self.refusals = RefusalReader(on_refused_target)

    async def pursue(self, action: Any, name: str, goal: Any, cancelled: asyncio.Event) -> Any:
        """Send ``goal`` and wait for its outcome; when ``cancelled`` is set, cancel it first.

        :param action: rclpy's client of the action.
        :param name: of the action, for messages.
        :returns: the outcome, with its status and result.
        :raises InvalidTarget: the node refused it, for a reason that it gives.
        :raises ConnectionFailed: the node does not answer.
        """
        goal_id = self._presence.goal_id()
        handle = await self._prompt(name, lambda: action.send_goal_async(goal, goal_uuid=goal_id))
        if not handle.accepted:
            raise await self._refusal(bytes(goal_id.uuid))
        result = asyncio.ensure_future(self._result(handle))
        cancellation = asyncio.ensure_future(cancelled.wait())
        try:
            await asyncio.wait([result, cancellation], return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                await self._prompt(name, handle.cancel_goal_async)
            return await result
        finally:
            cancellation.cancel()
            if not result.cancel() and not result.cancelled():
                result.exception()  # Retrieved: it is raised above, or a failed cancellation is.

    async def _refusal(self, goal_id: bytes) -> InvalidTarget:
        await self._client.ready(lambda: self.refusals.of(goal_id) is not None, timeout=_REASON_TIMEOUT)
        refusal = self.refusals.of(goal_id)
        if refusal is None:
            return InvalidTarget("see its log")
        return InvalidTarget(refusal.message, reason=refusal.reason)

    async def _prompt(self, name: str, send: Callable[[], Any]) -> Any:
        return await self._client.prompt_answer(name, send, lasting=self._lasting)

    async def _result(self, handle: Any) -> Any:
        """The result of a goal, whenever it comes; requested repeatedly, because an answer may be lost."""
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                return await self._client.answer(handle.get_result_async, _RESULT_PERIOD, self._lasting)
