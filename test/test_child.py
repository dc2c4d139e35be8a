"""Starting processes while signals arrive, and waiting for what they say."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from common import many_descriptors

from aiofranka_ros.processes import readable, start_child
from aiofranka_ros.testing import descendants, wait_until

pytestmark = pytest.mark.unit


class Interrupted(BaseException):
    """Raised by the signal handler, as Python's own handler raises ``KeyboardInterrupt``."""


@pytest.fixture
def handled() -> Iterator[None]:
    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupted_start_leaves_no_process(handled: None, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    main, popen, seen = threading.get_ident(), subprocess.Popen, threading.Event()

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        """Like subprocess, but the signal arrives just before or just after the process is created."""
        process = popen(*arguments, **options) if moment == "after" else None
        signal.pthread_kill(main, signal.SIGUSR1)
        assert seen.wait(10.0)
        return process or popen(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    before = descendants(os.getpid())
    with pytest.raises(Interrupted):
        start_child(["sleep", "60"])
    seen.set()
    assert wait_until(lambda: "start" not in {thread.name for thread in threading.enumerate()})
    assert descendants(os.getpid()) <= before


def test_a_program_that_does_not_exist_raises() -> None:
    with pytest.raises(FileNotFoundError):
        start_child(["/nowhere/to/be/found"])


@pytest.mark.parametrize("number", [0, 1100])
def test_a_pipe_is_readable_once_it_has_data_or_is_closed_whatever_its_descriptor(number: int) -> None:
    with many_descriptors(number):
        reader, writer = os.pipe()
        assert reader >= number
        with open(reader, "rb", buffering=0) as source, open(writer, "wb", buffering=0) as sink:
            assert not readable(source, 0.0)
            assert not readable(source, 0.01)
            sink.write(b"x")
            assert readable(source, 10.0)
            assert source.read(1) == b"x" and not readable(source, 0.0)
            sink.close()
            assert readable(source, 10.0)
