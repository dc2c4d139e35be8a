"""The node's handle on the operating-system process that controls the arm: start it, exchange messages, notice its end.

Used by :class:`~aiofranka_ros.control.client.ControlClient` alone, in the node's process; the other end of the
messages is :mod:`aiofranka_ros.control.process`, which describes them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiofranka_ros import errors
from aiofranka_ros.control.records import MESSAGE_SIZE
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.errors import ControlProcessDied, FrankaError
from aiofranka_ros.processes import NEVER, StopRequest, readable, start_child

_log = logging.getLogger(__name__)

Message = dict[str, Any]

#: Warnings about real-time scheduling that this process has logged already.
_logged: set[str] = set()
#: Time between two heartbeats while a request is waited for [s].
_BEAT_PERIOD = 0.01
#: A control process that has published no state for this long may have been stopped by a signal [s].
_SUSPICIOUS_SILENCE = 0.06


class ProcessHandle:
    """A control process, running from here until :meth:`close`; ``OSError`` if it could not be started."""

    def __init__(self, shared: SharedMemory, priority: int) -> None:
        self._shared = shared
        self._inbox: list[Message] = []
        self._requests = 0
        self._seen = (0, 0.0)  # The newest version of the state, and when it was first seen [s, monotonic].
        #: See :attr:`.ControlClient.missing`; complete once the process is ready.
        self.missing: list[str] = []
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "aiofranka_ros.control.process"]
        command += ["--shared-memory", str(shared.descriptor), "--channel", str(theirs.fileno())]
        command += ["--parent", str(os.getpid()), "--priority", str(priority)]
        # One thread for linear algebra: starting others would stall a cycle.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        try:
            with theirs:
                self._process = start_child(
                    command, pass_fds=(shared.descriptor, theirs.fileno()), stdin=subprocess.DEVNULL,
                    env=environment, start_new_session=True,
                )  # fmt: skip
        except BaseException:
            self._channel.close()
            raise
        self.pid = self._process.pid

    def request(self, name: str, timeout: float, stop: StopRequest = NEVER, **arguments: Any) -> Message:
        """Send a request and wait for its answer.

        :raises Interrupted: ``stop`` was requested.
        :raises FrankaError: the request failed, or (``ControlProcessDied``) the process is gone.
        :raises TimeoutError: no answer came in time.
        """
        self._requests = number = self._requests + 1
        # An answer to a request that was interrupted has no waiter any more.
        self._inbox = [message for message in self._inbox if "answers" not in message]
        try:
            self._channel.send(json.dumps({"do": name, "number": number, **arguments}).encode())
        except OSError:
            self._check_alive()
            raise ControlProcessDied("the control process closed its channel") from None
        reply = self.wait(lambda message: message.get("answers") == number, timeout, name, stop)
        if "error" in reply:
            raise exception_from(reply)
        return reply

    def wait(
        self, wanted: Callable[[Message], object], timeout: float, what: str, stop: StopRequest = NEVER
    ) -> Message:
        """Wait for the first message that is ``wanted``, and keep the heartbeat going.

        :param what: what the process should do, for the error.
        :raises Interrupted: ``stop`` was requested.
        :raises ControlProcessDied: the process is gone.
        :raises TimeoutError: no such message came in time.
        """
        deadline = time.monotonic() + timeout
        while (message := self._pop(wanted)) is None:
            stop.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the control process did not {what} within {timeout:.0f} s")
            self._shared.beat()
            if not self._receive(_BEAT_PERIOD):
                self._check_alive()
        return message

    def poll(self, wanted: Callable[[Message], object]) -> Message | None:
        """The first message that is ``wanted``, or ``None``; as :meth:`.ControlClient.poll`."""
        self._receive(0.0)
        message = self._pop(wanted)
        if message is None:
            self._check_alive()
            self._check_running()
        return message

    def abandon(self) -> None:
        """In a forked child: close its copy of the channel, and leave the process to the one that started it."""
        self._channel.close()

    def close(self, patience: float) -> bool:
        """Close the channel, which makes the process end, and wait until it is gone.

        :param patience: how long it may take before it is killed [s].
        :returns: whether it ended by itself.
        """
        with contextlib.suppress(OSError):  # It has already ended.
            # Closing alone would not do: a forked child may have a copy of the channel.
            self._channel.shutdown(socket.SHUT_RDWR)
        self._channel.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            return False
        else:
            return True
        finally:
            self._process.kill()  # Does nothing if it has ended.
            self._process.wait()

    def _pop(self, wanted: Callable[[Message], object]) -> Message | None:
        for index, message in enumerate(self._inbox):
            if wanted(message):
                return self._inbox.pop(index)
        return None

    def _receive(self, timeout: float) -> bool:
        """Move messages from the channel to the inbox; return whether there were any."""
        received = False
        while readable(self._channel, 0.0 if received else timeout):
            try:
                data = self._channel.recv(MESSAGE_SIZE)
            except ConnectionResetError:
                data = b""
            if not data:
                self._check_alive(channel_closed=True)
                return received
            message = json.loads(data)
            received = True
            if message.get("event") != "warning":
                self._inbox.append(message)
                continue
            missing = message["message"]
            self.missing.append(missing)
            if missing not in _logged:  # Once is enough, however often an arm is started.
                _logged.add(missing)
                _log.warning("%s", missing)
        return received

    def _check_alive(self, *, channel_closed: bool = False) -> None:
        if channel_closed:
            try:
                self._process.wait(1.0)
            except subprocess.TimeoutExpired:
                raise ControlProcessDied("the control process closed its channel") from None
        code = self._process.poll()
        if code is not None:
            how = f"was killed by signal {-code}" if code < 0 else f"exited with status {code}"
            raise ControlProcessDied(f"the control process {how}", exit_code=code)

    def _check_running(self) -> None:
        """Notice a process that a signal has stopped: it is alive, but the arm gets no torques from it.

        A process that waits for the robot is left alone: libfranka notices by itself that the robot is gone.
        """
        version, now = self._shared.state.version, time.monotonic()
        if version != self._seen[0]:
            self._seen = version, now
        if now - self._seen[1] < _SUSPICIOUS_SILENCE:
            return
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return  # It is gone; :meth:`_check_alive` reports that.
        if state in ("T", "t"):  # SIGSTOP, or a debugger, see proc(5).
            # If it continued, it would do so with commands of long ago. Only :meth:`close` waits until it is gone,
            # because the kernel takes tens of milliseconds to free its locked memory.
            self._process.kill()
            raise ControlProcessDied("the control process was stopped by a signal and is killed")


def exception_from(message: Message) -> FrankaError:
    """The exception that the control process described."""
    kind: type[FrankaError] = getattr(errors, message["error"])
    data = {key: tuple(value) if isinstance(value, list) else value for key, value in message["data"].items()}
    return kind(message["message"], **data)
