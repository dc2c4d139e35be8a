"""Requests to a running simulated arm: push it, press its user stop. Only the same user's processes may send them.

:class:`Requests` listens in the simulator's process, on its own thread; :func:`ask` is called by
:mod:`aiofranka_ros.simulation.__main__`, by tests and by the bench, in any process. A request is a line of JSON over a
socket in Linux's abstract namespace, which needs no file and ends with the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiofranka_ros.errors import SimulationError

_PREFIX = "aiofranka_ros/simulation/"
#: How long an answer may take [s]. It takes a millisecond; a busy machine explains the rest.
_TIMEOUT = 10.0
#: Longest request and answer [bytes].
_LONGEST = 65536


class Requests:
    """The server of one simulated arm; a context manager.

    :param host: loopback address of the arm.
    :param handlers: called with the arguments of a request, by its name, on the server's thread; they return what to
        answer, or raise :class:`.SimulationError`.
    """

    def __init__(self, host: str, handlers: Mapping[str, Callable[..., Any]]) -> None:
        self._handlers = handlers
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(_address(host))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, name="requests", daemon=True)

    def __enter__(self) -> Requests:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # Closing alone would not wake the thread.
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # The end.
            while True:
                connection, _ = self._socket.accept()
                with connection, contextlib.suppress(OSError):  # A client that is gone.
                    connection.settimeout(_TIMEOUT)
                    connection.sendall(json.dumps(self._answer(connection)).encode() + b"\n")

    def _answer(self, connection: socket.socket) -> Any:
        size = struct.calcsize("3i")
        _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        if user not in (os.getuid(), 0):
            return {"error": "only the user who started the simulated arm may push or stop it"}
        try:
            request = json.loads(_line(connection))
            return self._handlers[request.pop("do")](**request) or {}
        except SimulationError as error:
            return {"error": str(error)}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return {"error": f"not a request: {error!r}"}


def running() -> list[str]:
    """Loopback addresses of the simulated arms that run on this machine, of any user."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    paths = {line.rpartition(" ")[2] for line in lines}
    return sorted(path.removeprefix(f"@{_PREFIX}") for path in paths if path.startswith(f"@{_PREFIX}"))


def ask(host: str | None, request: str, **arguments: Any) -> dict[str, Any]:
    """Send a request to a simulated arm, and return its answer.

    :param host: its loopback address; ``None``: the only one that runs.
    :raises SimulationError: it does not run, does not answer, or refuses the request.
    """
    found = running()
    if host is None and len(found) != 1:
        which = f"several run, choose one with --host: {', '.join(found)}" if found else "none runs on this machine"
        raise SimulationError(f"which simulated arm? {which}")
    host = host or found[0]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect(_address(host))
            connection.sendall(json.dumps({"do": request, **arguments}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(_line(connection))
    except (OSError, ValueError) as error:
        others = f"; there are: {', '.join(found)}" if found else ""
        raise SimulationError(f"no answer from a simulated arm at {host} ({error}){others}") from error
    if "error" in answer:
        raise SimulationError(f"the simulated arm at {host} refused: {answer['error']}")
    return answer


def _address(host: str) -> str:
    return f"\0{_PREFIX}{host}"


def _line(connection: socket.socket) -> bytes:
    """What the other side sends up to the end of the line; ``ValueError`` if it is too long."""
    line = b""
    while not line.endswith(b"\n"):
        part = connection.recv(4096)
        line += part
        if not part or len(line) > _LONGEST:
            raise ValueError("incomplete, or too long")
    return line
