"""Requests of services and goals of actions, taken from DDS without Python's lock.

Used by the nodes, in their one thread and in the helper thread of :meth:`.UrgentFirstExecutor.aside`. rclpy keeps
Python's lock while DDS makes a C structure of a request, and while that is freed: for ten megabytes of tiny parts, a
quarter of a second in which no thread can send a heartbeat. Here rcl's own functions are called, which do without it.
rclpy cannot answer a request that was taken like this, because it makes no request ids; so rcl does that, too.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

from rclpy.logging import get_logger

from aiofranka_ros.ros.bounded import function_of

_CREATE, _DESTROY = ctypes.CFUNCTYPE(ctypes.c_void_p), ctypes.CFUNCTYPE(None, ctypes.c_void_p)
# These need Python's lock.
_TO_PYTHON = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p)
_FROM_PYTHON = ctypes.PYFUNCTYPE(ctypes.c_bool, ctypes.py_object, ctypes.c_void_p)
#: The functions of rcl that take a request and send an answer, by their library.
_SERVICE = ("librcl.so", "rcl_take_request", "rcl_send_response")
_GOALS = ("librcl_action.so", "rcl_action_take_goal_request", "rcl_action_send_goal_response")
_OK = 0  # RCL_RET_OK


class RequestId(ctypes.Structure):
    """``rmw_request_id_t``: which client sent a request, and its number."""

    _fields_ = (("writer", ctypes.c_int8 * 16), ("sequence_number", ctypes.c_int64))


class Channel:
    """Takes the requests of one service and sends the answers.

    :param handle: rclpy's handle of the service, or of the action server.
    :param kind: type of the service.
    :param take: rcl's function, and ``send``.
    """

    def __init__(self, handle: Any, kind: Any, take: Callable[..., int], send: Callable[..., int]) -> None:
        self._handle, self._take, self._send = handle, take, send
        self._request, self._response = _Structure(kind.Request), _Structure(kind.Response)

    def take(self) -> tuple[RequestId | None, Any]:
        """The next request and its id; ``None`` twice if there is none that can be read. For any thread."""
        number, message = RequestId(), self._request.create()
        try:
            with self._handle:
                if self._take(self._handle.pointer, ctypes.byref(number), message) != _OK:
                    _reset_error()
                    return None, None
            return number, self._request.to_python(message)
        finally:
            self._request.destroy(message)

    def answer(self, number: RequestId, response: Any) -> bool:
        """Send the answer to a request; returns whether that was possible: its client may be gone."""
        message = self._response.create()
        try:
            self._response.from_python(response, message)
            with self._handle:
                sent = self._send(self._handle.pointer, ctypes.byref(number), message) == _OK
            if not sent:
                _reset_error()
                get_logger("aiofranka_ros").warning(f"no client took a {type(response).__name__}: it may be gone")
            return sent
        finally:
            self._response.destroy(message)


class _Structure:
    """The C structures of one type of message."""

    def __init__(self, kind: Any) -> None:
        self.create = _CREATE(function_of(kind, "_CREATE_ROS_MESSAGE"))
        self.destroy = _DESTROY(function_of(kind, "_DESTROY_ROS_MESSAGE"))
        self.to_python = _TO_PYTHON(function_of(kind, "_CONVERT_TO_PY"))
        self.from_python = _FROM_PYTHON(function_of(kind, "_CONVERT_FROM_PY"))


def service_channel(service: Any) -> Channel | None:
    """The requests of one of rclpy's services; ``None`` if only rclpy can take them."""
    return _channel(service.handle, service.srv_type, _SERVICE)


def goal_channel(handle: Any, action_type: Any) -> Channel | None:
    """The goals of an action server, by rclpy's handle of it; ``None`` if only rclpy can take them."""
    return _channel(handle, action_type.Impl.SendGoalService, _GOALS)


def _channel(handle: Any, kind: Any, names: tuple[str, str, str]) -> Channel | None:
    try:
        return Channel(handle, kind, *_functions(*names))
    except (OSError, AttributeError):
        return None


@functools.cache
def _functions(library: str, *names: str) -> list[Callable[..., int]]:
    """Functions of a library that rclpy has loaded; ``OSError`` or ``AttributeError`` if there are none."""
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    return [prototype((name, ctypes.CDLL(library))) for name in names]


def _reset_error() -> None:
    """Forget rcl's message about an error, which it keeps for each thread."""
    ctypes.CDLL("librcutils.so").rcutils_reset_error()
