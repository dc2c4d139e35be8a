"""Answers of services and actions, sent in the background: no client can keep a node waiting.

Used by :mod:`aiofranka_ros.ros.running` for the nodes of this package. DDS waits up to 100 ms before it drops an answer
to a client that it has not discovered yet, or that has left before its request was read, and rclpy keeps Python's lock
during that time. The control process releases the arm if it gets no heartbeat for that long, and a client that sends
ten requests and ends would silence the node for a second. So the node's thread only makes a C structure of an answer.
Other threads pass it to rcl's own functions, which do without the lock.

All answers leave rclpy through four methods of its extension module, which are replaced while a node runs; those to
requests that rclpy has not taken come from :mod:`aiofranka_ros.ros.requests`. Where that extension module is not as
expected, rclpy sends by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.logging import get_logger

from aiofranka_ros.ros.bounded import function_of

#: How many clients that cannot be reached do not delay the answers to others.
_THREADS = 8
#: How long to wait for a client that is not discovered [s]. The 100 ms of DDS are too short on a busy computer, and
#: where a stopped process was killed, discovery may take seconds.
_PATIENCE = 20.0
#: How many answers wait for one client; what it asks beyond that is not answered.
_MOST_WAITING = 1000
#: ``RCL_RET_TIMEOUT``: the client is not discovered; ``RCL_RET_SERVICE_INVALID``: the node has destroyed the service.
_TIMEOUT, _DESTROYED = 2, 600

#: The methods that send answers, the function of rcl that each calls, and its library.
_METHODS = (
    ("Service", "service_send_response", "librcl.so", "rcl_send_response"),
    ("ActionServer", "send_goal_response", "librcl_action.so", "rcl_action_send_goal_response"),
    ("ActionServer", "send_cancel_response", "librcl_action.so", "rcl_action_send_cancel_response"),
    ("ActionServer", "send_result_response", "librcl_action.so", "rcl_action_send_result_response"),
)

_CREATE, _DESTROY = ctypes.CFUNCTYPE(ctypes.c_void_p), ctypes.CFUNCTYPE(None, ctypes.c_void_p)
# These need Python's lock.
_TO_PYTHON = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p)
_FROM_PYTHON = ctypes.PYFUNCTYPE(ctypes.c_bool, ctypes.py_object, ctypes.c_void_p)


class RequestId(ctypes.Structure):
    """``rmw_request_id_t``: which client sent a request, and its number."""

    _fields_ = (("client", ctypes.c_uint8 * 16), ("sequence_number", ctypes.c_int64))


class Structures:
    """The C structures of one type of message."""

    def __init__(self, kind: Any) -> None:
        self.create = _CREATE(function_of(kind, "_CREATE_ROS_MESSAGE"))
        self.destroy = _DESTROY(function_of(kind, "_DESTROY_ROS_MESSAGE"))
        self.to_python = _TO_PYTHON(function_of(kind, "_CONVERT_TO_PY"))
        self._from_python = _FROM_PYTHON(function_of(kind, "_CONVERT_FROM_PY"))

    def from_python(self, message: Any) -> int:
        """The address of a new structure with the content of ``message``."""
        structure = int(self.create())
        try:
            self._from_python(message, structure)
        except BaseException:
            self.destroy(structure)
            raise
        return structure


@functools.cache
def structures_of(kind: Any) -> Structures:
    """Those of messages of ``kind``, made once."""
    return Structures(kind)


class Answer(NamedTuple):
    """An answer to ``request``, which the function ``send`` of rcl sends.

    :ivar handle: rclpy's handle of the service or action server.
    :ivar message: a structure, which ``destroy`` destroys.
    """

    handle: Any
    send: Callable[..., int]
    request: RequestId
    message: int
    destroy: Callable[[int], None]


class _Sender:
    """Sends answers in other threads, to each client in order: one that cannot be reached delays only its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="answers")
        # Clients that are not discovered take turns in a separate thread, where each attempt takes 100 ms.
        self._undiscovered = ThreadPoolExecutor(1, thread_name_prefix="answers to undiscovered clients")
        self._lock = threading.Lock()
        self._waiting: dict[bytes, deque[Answer]] = {}
        self._closing = False

    def send(self, answer: Answer) -> None:
        """Send ``answer`` soon."""
        client = bytes(answer.request.client)
        with self._lock:
            waiting = self._waiting.setdefault(client, deque())
            if len(waiting) == _MOST_WAITING:
                answer.destroy(answer.message)
                return
            waiting.append(answer)
            first = len(waiting) == 1
        if first:
            self._threads.submit(self._send_all, client, waiting, time.monotonic() + _PATIENCE)

    def close(self) -> None:
        """Wait until all answers have been sent, or given up because their client is not discovered."""
        with self._lock:
            self._closing = True
        self._threads.shutdown()
        self._undiscovered.shutdown()

    def _send_all(self, client: bytes, waiting: deque[Answer], deadline: float) -> None:
        """Send the answers to one client, until there are none, or until its next turn if it is not discovered.

        :param deadline: when an undiscovered client is given up [s, monotonic].
        """
        failed = 0
        while waiting:
            answer = waiting[0]
            failed = failed or _send(answer)
            with self._lock:
                if failed == _TIMEOUT and time.monotonic() < deadline and not self._closing:
                    self._undiscovered.submit(self._send_all, client, waiting, deadline)
                    return
                waiting.popleft()
                answer.destroy(answer.message)
                if not waiting:
                    del self._waiting[client]
        if failed and failed != _DESTROYED:
            reason = "its client has left, or was not discovered" if failed == _TIMEOUT else f"rcl's error {failed}"
            get_logger("aiofranka_ros").warning(f"an answer could not be sent: {reason}")


_sender: _Sender | None = None


@contextlib.contextmanager
def sent_in_background() -> Iterator[None]:
    """Inside this context, answers are sent in the background; at its end, all have been sent or given up."""
    global _sender
    with contextlib.ExitStack() as stack:
        _sender = _Sender()
        stack.callback(_sender.close)
        for owner, name, library, function in _METHODS:
            with contextlib.suppress(AttributeError, OSError):  # Another rclpy.
                kind = getattr(rclpy_implementation, owner)
                original, (send_answer,) = getattr(kind, name), functions(library, function)
                setattr(kind, name, functools.partialmethod(_answer, original, send_answer))
                stack.callback(setattr, kind, name, original)
        try:
            yield
        finally:
            _sender = None


def send(answer: Answer) -> None:
    """Send ``answer``, in the background if that is possible; its client may be gone."""
    if _sender is not None:
        _sender.send(answer)
    else:
        _send(answer)
        answer.destroy(answer.message)


@functools.cache
def functions(library: str, *names: str) -> list[Callable[..., int]]:
    """Functions of a library that rclpy has loaded; ``OSError`` or ``AttributeError`` if there are none."""
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    return [prototype((name, ctypes.CDLL(library))) for name in names]


def reset_error() -> None:
    """Forget rcl's message about an error, which it keeps for each thread."""
    ctypes.CDLL("librcutils.so").rcutils_reset_error()


def _answer(handle: Any, original: Any, send_answer: Any, *arguments: Any) -> None:
    """What the methods of rclpy do instead; a service and an action server have different orders of arguments."""
    header, response = sorted(arguments, key=lambda one: not isinstance(one, rclpy_implementation.rmw_request_id_t))
    request = _request_of(header)
    if request is None:
        original(handle, *arguments)
    else:
        kind: Any = type(response)
        structures = structures_of(kind)
        send(Answer(handle, send_answer, request, structures.from_python(response), structures.destroy))


def _request_of(header: Any) -> RequestId | None:
    """The content of rclpy's ``header``; ``None`` if it is not where pybind11 keeps it, behind the object's head."""
    pointer = ctypes.c_void_p.from_address(id(header) + object.__basicsize__).value
    if not pointer:
        return None
    request = RequestId.from_buffer_copy(ctypes.string_at(pointer, ctypes.sizeof(RequestId)))
    return request if request.sequence_number == header.sequence_number else None


def _send(answer: Answer) -> int:
    """Send ``answer`` now; returns 0, or why it has not left, as a code of rcl."""
    try:
        with answer.handle:
            if failed := answer.send(answer.handle.pointer, ctypes.addressof(answer.request), answer.message):
                reset_error()
            return failed
    except rclpy_implementation.InvalidHandle:
        return _DESTROYED
