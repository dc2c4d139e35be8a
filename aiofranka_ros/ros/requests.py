"""Requests of services and goals of actions, taken from DDS without Python's lock.

Used by the nodes, in their one thread and in the helper thread of :meth:`.UrgentFirstExecutor.aside`. rclpy keeps
Python's lock while DDS makes a C structure of a request, and while that is freed: for ten megabytes of tiny parts, a
quarter of a second in which no thread can send a heartbeat. Here rcl's own functions are called, which do without it.
rclpy cannot answer a request that was taken like this, because it makes no request ids; so rcl does that, too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from aiofranka_ros.ros.answers import Answer, RequestId, functions, reset_error, send, structures_of

#: The functions of rcl that take a request and send an answer, by their library.
_SERVICE = ("librcl.so", "rcl_take_request", "rcl_send_response")
_GOALS = ("librcl_action.so", "rcl_action_take_goal_request", "rcl_action_send_goal_response")
_OK = 0  # RCL_RET_OK


class Channel:
    """Takes the requests of one service and sends the answers.

    :param handle: rclpy's handle of the service, or of the action server.
    :param kind: type of the service.
    :param take: rcl's function, and ``send``.
    """

    def __init__(self, handle: Any, kind: Any, take: Callable[..., int], send: Callable[..., int]) -> None:
        self._handle, self._take, self._send = handle, take, send
        self._request, self._response = structures_of(kind.Request), structures_of(kind.Response)

    def take(self) -> tuple[RequestId | None, Any]:
        """The next request and its id; ``None`` twice if there is none that can be read. For any thread."""
        number, message = RequestId(), self._request.create()
        try:
            with self._handle:
                if self._take(self._handle.pointer, ctypes.byref(number), message) != _OK:
                    reset_error()
                    return None, None
            return number, self._request.to_python(message)
        finally:
            self._request.destroy(message)

    def answer(self, number: RequestId, response: Any) -> None:
        """Send the answer to a request, see :func:`.send`."""
        message = self._response.from_python(response)
        send(Answer(self._handle, self._send, number, message, self._response.destroy))


def service_channel(service: Any) -> Channel | None:
    """The requests of one of rclpy's services; ``None`` if only rclpy can take them."""
    return _channel(service.handle, service.srv_type, _SERVICE)


def goal_channel(handle: Any, action_type: Any) -> Channel | None:
    """The goals of an action server, by rclpy's handle of it; ``None`` if only rclpy can take them."""
    return _channel(handle, action_type.Impl.SendGoalService, _GOALS)


def _channel(handle: Any, kind: Any, names: tuple[str, str, str]) -> Channel | None:
    try:
        return Channel(handle, kind, *functions(*names))
    except (OSError, AttributeError):
        return None
