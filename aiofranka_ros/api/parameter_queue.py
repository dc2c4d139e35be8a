"""Changes of a node's parameters, requested one after the other.

One after the other, because DDS keeps ten requests for a busy node, and the eleventh replaces the first. Part of
:class:`~aiofranka_ros.api.node_connection.NodeConnection`; :meth:`ParameterQueue.put` may be called in any thread,
everything else in the event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter

from aiofranka_ros.api.ros_client import RosClient
from aiofranka_ros.errors import ConfigurationError, FrankaError


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
        self._send_in_loop = client.in_loop(self._send_waiting)
        self._lock = threading.Lock()  # Of the changes that wait, in the order of their requests.
        self._waiting: dict[frozenset[str], Mapping[str, Any]] = {}
        self._sending: asyncio.Task[None] | None = None
        self._answered = asyncio.Event()
        self._refusal: FrankaError | None = None

    @property
    def settled(self) -> bool:
        """Whether the node has answered all requests."""
        return not self._waiting and self._sending is None

    def put(self, changes: Mapping[str, Any]) -> None:
        """Request ``changes``, all or none of them, after those that were put earlier."""
        names = frozenset(changes)
        with self._lock:
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
        if self._sending is not None:
            self._sending.cancel()
        self._sending = self._refusal = None
        self._answered.set()

    def _send_waiting(self, _: None) -> None:
        if self._waiting and self._sending is None:
            self._sending = asyncio.ensure_future(self._send())

    async def _send(self) -> None:
        while self._waiting:
            with self._lock:
                changes = self._waiting.pop(next(iter(self._waiting)))
            request = SetParametersAtomically.Request()
            for name, value in changes.items():
                plain = value.tolist() if isinstance(value, np.ndarray) else value
                request.parameters.append(Parameter(name, value=plain).to_parameter_msg())
            try:
                result = (await self._client.call(self.service, request)).result
                if not result.successful:
                    self._refusal = ConfigurationError(result.reason)
            except FrankaError as error:
                self._refusal = error
        self._sending = None
        self._answered.set()
        self._on_settled()
