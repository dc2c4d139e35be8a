"""Changes of a node's parameters, requested one after the other.

Used by :class:`~aiofranka_ros.api.ros_interface.RosInterface` in the policy's process; :meth:`ParameterQueue.put` in
any thread, everything else in the event loop. One after the other, because DDS keeps ten requests for a busy node, and
the eleventh replaces the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter

from aiofranka_ros.api.ros_client import RosClient
from aiofranka_ros.errors import ConfigurationError, ConnectionFailed, FrankaError

#: How long the node may take to answer [s].
_ANSWER_TIMEOUT = 10.0


class ParameterQueue:
    """The changes that a node has not confirmed yet. A change replaces an older one of the same parameters.

    :param client: sends the requests.
    :param node: full name of the node.
    :param on_settled: called in the event loop when the node has answered all requests.
    """

    def __init__(self, client: RosClient, node: str, on_settled: Callable[[], None]) -> None:
        self._client = client
        self.service = client.node.create_client(SetParametersAtomically, f"{node}/set_parameters_atomically")
        self._on_settled = on_settled
        self._send_in_loop = client.in_loop(lambda _: self._send_next())
        self._waiting: dict[frozenset[str], Mapping[str, Any]] = {}
        self._sent: SetParametersAtomically.Request | None = None
        self._answered = asyncio.Event()
        self._refusal: FrankaError | None = None

    @property
    def settled(self) -> bool:
        """Whether the node has answered all requests."""
        return not self._waiting and self._sent is None

    def put(self, changes: Mapping[str, Any]) -> None:
        """Request ``changes``, all or none of them, after those that were put earlier."""
        names = frozenset(changes)
        self._waiting.pop(names, None)  # Removed first, so that the new change goes to the end.
        self._waiting[names] = changes
        self._send_in_loop(None)

    async def wait(self) -> None:
        """Wait until the node has answered all requests; cancellation leaves them in the queue.

        :raises FrankaError: one of them was refused since the last call, or not answered.
        """
        while not self.settled:
            self._answered.clear()
            await self._answered.wait()
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal

    def clear(self) -> None:
        """Forget all changes and refusals; waiting calls return."""
        self._waiting.clear()
        self._sent = self._refusal = None
        self._answered.set()

    def _send_next(self) -> None:
        """Send the first waiting change, unless the node still has to answer."""
        if self._sent is not None:
            return
        if not self._waiting:
            self._answered.set()
            self._on_settled()
            return
        names = next(iter(self._waiting))
        request = SetParametersAtomically.Request()
        self._sent = request  # Before the change leaves the queue, or another thread could see neither.
        for name, value in self._waiting.pop(names).items():
            plain = value.tolist() if isinstance(value, np.ndarray) else value
            request.parameters.append(Parameter(name, value=plain).to_parameter_msg())

        def finish(refusal: FrankaError | None) -> None:
            if self._sent is request:
                self._refusal = refusal or self._refusal
                self._sent = None
                self._send_next()

        def on_answer(future: Any) -> None:
            timer.cancel()
            result = None if future.exception() is not None else future.result().result
            finish(None if result is None or result.successful else ConfigurationError(result.reason))

        late = ConnectionFailed(f"no answer from {self.service.srv_name} within {_ANSWER_TIMEOUT:.0f} s")
        timer = asyncio.get_running_loop().call_later(_ANSWER_TIMEOUT, finish, late)
        self._client.request(lambda: self.service.call_async(request), on_answer)
