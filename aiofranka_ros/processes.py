"""Processes and signals: no exception can make a started process go unnoticed, and Ctrl-C ends programs in order.

:func:`start_child` is used by everything that starts the control process or the simulated arm. :class:`StopRequest` is
used by the main threads of nodes, tools, demo and benchmarks; Python handles signals in main threads only.
:func:`identity_of` lets a node watch the process of a client.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

#: How long to wait before sending a signal again that interrupted a finalizer [s].
_AGAIN = 0.01


class HasFileno(Protocol):
    """A file, a pipe or a socket."""

    def fileno(self) -> int:
        """Its descriptor."""


def start_child(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a process as :class:`subprocess.Popen` does; if this call is interrupted, no process is left.

    A signal handler may raise an exception, such as ``KeyboardInterrupt``, after the process was created and before its
    handle is returned, and the process would survive. Signals are not handled in other threads, so a thread starts it.

    :param options: the options of :class:`subprocess.Popen`.
    :raises OSError: it could not be started.
    """
    started: Future[subprocess.Popen[bytes]] = Future()

    def start() -> None:
        try:
            process = subprocess.Popen(command, **options)
        except OSError as error:
            started.set_exception(error)
            return
        try:
            started.set_result(process)
        except InvalidStateError:  # The caller was interrupted and no longer waits.
            _end(process)

    try:
        threading.Thread(target=start, name="start").start()
        return started.result()
    except BaseException:
        if not started.cancel() and started.exception() is None:
            _end(started.result())
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def readable(source: HasFileno, timeout: float) -> bool:
    """Whether within ``timeout`` [s] there is something to read from ``source``, or its other end was closed.

    ``select.select`` does the same, but not for descriptors from 1024 on.
    """
    poller = select.poll()
    poller.register(source.fileno(), select.POLLIN)
    return bool(poller.poll(1e3 * timeout))


@functools.cache
def _kernel() -> str:
    """What the processes have in common whose ids mean the same as here: a boot of a computer, a namespace of ids."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{os.readlink('/proc/self/ns/pid')}"


def identity_of(pid: int) -> str:
    """What identifies a process among all that ever ran, on any computer; empty if it has ended, or is hidden here."""
    try:
        # After the name of its program, which may contain anything; proc_pid_stat(5) has the fields.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else f"{_kernel()} {pid} {fields[18]}"
    except OSError:
        return ""


def is_running(identity: str) -> bool:
    """Whether the process with this :func:`identity_of` exists on this computer; it may be stopped, or hang."""
    _, _, rest = identity.partition(" ")
    pid, _, _ = rest.partition(" ")
    return pid.isdecimal() and identity_of(int(pid)) == identity


class StopRequest:
    """Ctrl-C or SIGTERM: recorded for the main loop, and raised only inside :meth:`interrupts`.

    rclpy's own handlers would shut the context down before the node has stopped the arm.

    :ivar number: the last signal, or 0.
    """

    def __init__(self) -> None:
        self.number = 0
        self._raise = False

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self.number != 0

    @property
    def exit_status(self) -> int:
        """The exit status of a program that the signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number

    def install(self) -> None:
        """Handle both signals from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """Inside this context, the first signal raises ``KeyboardInterrupt``; later ones do not interrupt the cleanup.

        :raises KeyboardInterrupt: also at once, if a signal has already arrived.
        """
        if self.requested:
            raise KeyboardInterrupt
        self._raise = True
        try:
            yield
        except Exception:
            if self.requested:  # A library, for example a compiler, turned the interruption into its own exception.
                raise KeyboardInterrupt from None
            raise
        finally:
            self._raise = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        if self._raise and not _in_finalizer(number, frame):
            self._raise = False
            raise KeyboardInterrupt


def _in_finalizer(number: int, frame: FrameType | None) -> bool:
    """Whether a signal interrupted a finalizer; if so, send it again shortly.

    Python prints and drops an exception that a finalizer raises.

    :param number: the signal.
    :param frame: the frame that it interrupted.
    """
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    main = threading.main_thread().ident
    if frame is None or main is None:
        return False
    again = threading.Timer(_AGAIN, signal.pthread_kill, (main, number))
    again.daemon = True
    again.start()
    return True
