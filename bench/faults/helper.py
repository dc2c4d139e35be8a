"""Processes that carry out requests, one line of JSON at a time on their standard input.

:class:`Helper` is the handle, used by the process that stages faults, in its one thread. The helper prints a line when
it is ready, then answers each request with a line. Everything that it logs goes into a file.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiofranka_ros.processes import readable
from aiofranka_ros.testing import Child, Failed

#: How long a helper may take to start, and to answer [s]; a busy computer explains most of it.
_START_TIMEOUT, _TIMEOUT = 60.0, 10.0
#: The repository.
ROOT = Path(__file__).resolve().parents[2]


class Helper(Child):
    """A process that answers requests. A context manager: at its end, the process is gone.

    :param module: what to run with ``python -m``.
    :param options: its command line.
    :param log: file for its standard error.
    """

    def __init__(self, module: str, options: Sequence[str], log: Path) -> None:
        self._name = module.rpartition(".")[2]
        super().__init__(["-m", module, *options], log=log, append=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._said = b""
        try:
            self.greeting = self._line(_START_TIMEOUT)
        except BaseException:
            self.close()
            raise

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and return the answer.

        :raises Failed: the process ended, did not answer, or refused the request.
        """
        assert self.process.stdin is not None  # A pipe.
        try:
            self.process.stdin.write(json.dumps({"do": request, **arguments}).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise Failed(f"the {self._name} is gone: {error}") from error
        answer: dict[str, Any] = json.loads(self._line(_TIMEOUT))
        if "error" in answer:
            raise Failed(f"the {self._name} refused {request}: {answer['error']}")
        return answer

    def _line(self, timeout: float) -> str:
        assert self.process.stdout is not None  # A pipe.
        deadline = time.monotonic() + timeout
        while b"\n" not in self._said:
            left = deadline - time.monotonic()
            if left <= 0.0 or not readable(self.process.stdout, left):
                raise Failed(f"the {self._name} does not answer within {timeout:.0f} s")
            part = os.read(self.process.stdout.fileno(), 65536)
            if not part:
                last = self.log.splitlines()[-3:]
                raise Failed(f"the {self._name} ended: {' / '.join(last) or 'its log is empty'}")
            self._said += part
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        """End the process; idempotent."""
        self.end(signal.SIGTERM, timeout=5.0)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:  # Data was still buffered for a process that no longer reads it.
                    pass


def prefer_this_process(priority: int, cpu: int) -> bool:
    """In a helper's process: run on one CPU at a SCHED_FIFO priority, and collect no garbage from now on.

    :returns: whether the priority was permitted; without it, the process runs at normal priority.
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
    except Exception as error:  # The caller needs the reason, and this process must survive.
        reply = {"error": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()
