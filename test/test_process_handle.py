"""The messages between a client and its control process; no process is started."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from aiofranka_ros.control.process_handle import ProcessHandle
from aiofranka_ros.errors import CommandRefused
from bench.faults.interruption import Interruption

pytestmark = pytest.mark.unit


class Handle(ProcessHandle):
    """A handle whose other end is :attr:`theirs`."""

    def __init__(self) -> None:
        self._channel, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._shared: Any = SimpleNamespace(beat=lambda: None)
        self._process: Any = SimpleNamespace(poll=lambda: None)
        self._inbox, self._requests, self.missing = [], 0, []

    def answer(self, **content: Any) -> dict[str, Any]:
        """Answer the oldest request; return it."""
        request = json.loads(self.theirs.recv(65536))
        self.theirs.send(json.dumps({"answers": request["number"], **content}).encode())
        return dict(request)


@pytest.fixture
def handle() -> Iterator[Handle]:
    handle = Handle()
    with handle._channel, handle.theirs:
        yield handle


def test_the_answer_to_an_interrupted_request_is_not_taken_for_that_to_the_next(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, pytest.raises(Interruption):
        patched.setattr(handle, "_receive", lambda timeout: (_ for _ in ()).throw(Interruption))
        handle.request("activate", 1.0, activation=1)
    handle.theirs.send(json.dumps({"event": "ended", "activation": 1}).encode())
    handle.answer(recovered=False)

    def beat() -> None:  # The process gets to the second request while its client waits.
        handle._shared.beat = lambda: None
        handle.answer(recovered=True)

    handle._shared.beat = beat
    assert handle.request("activate", 10.0, activation=2)["recovered"] is True
    assert handle.poll(lambda message: message.get("event") == "ended") == {"event": "ended", "activation": 1}


def test_a_request_that_fails_raises_what_the_process_describes(handle: Handle) -> None:
    handle._shared.beat = lambda: handle.answer(error="CommandRefused", message="too heavy", data={})
    with pytest.raises(CommandRefused, match="too heavy"):
        handle.request("set", 10.0)
