"""Processes that are asked for something, a line of JSON at a time, over their standard input.

:class:`Helper` is the handle, used by whoever stages faults, in its one thread. The process says on its standard output
when it is ready, then answers each request with a line. Everything that it logs goes into a file.
"""

from __future__ import annotations

import gc
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

#: How long a helper may take to start, and to answer [s]; a busy machine explains most of it.
_START_TIMEOUT, _TIMEOUT = 60.0, 10.0
ROOT = Path(__file__).resolve().parents[2]


class HelperFailed(Exception):
    """A helper did not do what it is there for; the message says why."""


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, in which the project's modules are found."""
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": path, **changes}


class Helper:
    """A process that answers requests. A context manager: at its end, the process is gone.

    :param module: what to run with ``python -m``.
    :param options: its command line.
    :param log: file for what it says on its standard error.
    """

    def __init__(self, module: str, options: Sequence[str], log: Path) -> None:
        self._name = module.rpartition(".")[2]
        self._log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(),
                start_new_session=True,  # A terminal's Ctrl-C is not meant for it.
            )
        self._said = b""
        try:
            self.greeting = self._line(_START_TIMEOUT)
        except BaseException:
            self.close()
            raise

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and return the answer.

        :raises HelperFailed: there is none.
        """
        assert self.process.stdin is not None  # A pipe.
        try:
            self.process.stdin.write(json.dumps({"do": request, **arguments}).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise HelperFailed(f"the {self._name} is gone: {error}") from error
        answer: dict[str, Any] = json.loads(self._line(_TIMEOUT))
        if "error" in answer:
            raise HelperFailed(f"the {self._name} refused {request}: {answer['error']}")
        return answer

    def _line(self, timeout: float) -> str:
        assert self.process.stdout is not None  # A pipe.
        deadline = time.monotonic() + timeout
        while b"\n" not in self._said:
            left = deadline - time.monotonic()
            if left <= 0.0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise HelperFailed(f"the {self._name} does not answer within {timeout:.0f} s")
            part = os.read(self.process.stdout.fileno(), 65536)
            if not part:
                last = self._log.read_text(errors="replace").splitlines()[-3:]
                raise HelperFailed(f"the {self._name} ended: {' / '.join(last) or 'it said nothing'}")
            self._said += part
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        """End the process; idempotent."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:  # What was still to be sent has nobody to read it.
                    pass

    def __enter__(self) -> Helper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def prefer_this_process(priority: int, cpu: int) -> bool:
    """In a helper's process: run on one CPU at a SCHED_FIFO priority, and collect no garbage from now on.

    :returns: whether the priority was permitted; without, the process runs like everybody else.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
        os.sched_setaffinity(0, {cpu})
    except OSError:
        return False
    return True


def answer(line: bytes | str, handlers: dict[str, Any]) -> None:
    """In a helper's process: carry one request out and answer it."""
    request = json.loads(line)
    name = request.pop("do")
    try:
        reply = handlers[name](**request) or {}
    except Exception as error:  # Whoever asked wants to know, and this process lives on.
        reply = {"error": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()
