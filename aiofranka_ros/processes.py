"""Processes and signals: no exception can make a started process go unnoticed, and Ctrl-C ends programs in order.

:func:`start_child` is used by everything that starts the control process or the simulated arm. :class:`StopRequest` is
used by the main threads of nodes, tools, demo and benchmarks; Python handles signals in main threads only.
:func:`identity_of` lets a node watch the process of a client. :func:`end_with_parent` is used by processes that must
not outlive the one that started them. :func:`lock` makes sure that one process at a time drives an arm.
"""

from __future__ import annotations

import atexit
import functools
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from aiofranka_ros.errors import Interrupted

#: The signals that ask a program to end.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: How long a wait may take before it checks whether the program was asked to end [s].
WAIT_STEP = 0.05
#: Environment variable with the id of the process with which a node ends; set by the launch files and by tests.
LAUNCH = "AIOFRANKA_ROS_LAUNCH"
#: Of the lock of an arm, before its address.
ARM_LOCK = "aiofranka_ros/arm/"
#: How often a process checks that its parent still lives [s].
_PARENT_POLL_PERIOD = 0.2


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


def end_with_parent(parent: int, grace: float = 0.0) -> None:
    """End this process once ``parent`` is no longer its parent: send it SIGTERM, and kill it after ``grace``.

    A pipe would not do, because a fork of the parent would keep it open; nor would PR_SET_PDEATHSIG, which fires when
    the *thread* of the parent ends that started this process.

    :param grace: how long the process may take to end in order [s].
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL_PERIOD)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os._exit(1)  # The main thread is stuck, and no parent is left to kill this process.

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


class StopRequest:
    """A request to end the program: Ctrl-C, SIGTERM, a closed terminal (SIGHUP), or :meth:`request`.

    A signal is only noted. An exception that its handler raises would land in whatever code runs at that moment: in a
    finalizer, which drops it, or in a callback of a compiler, which crashes. Instead, everything that takes long waits
    in steps and calls :meth:`check` between them.

    rclpy's own handlers must be off: they shut its context down before a node has stopped its arm.

    :ivar number: the first signal, or 0.
    """

    def __init__(self) -> None:
        self.number = 0

    def install(self) -> None:
        """Note signals from now on; call it before slow imports, so that a signal is as quiet then as later.

        Under ``nohup``, SIGHUP stays ignored.
        """
        for number in _SIGNALS:
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)
        atexit.register(_ignore_signals)

    @property
    def requested(self) -> bool:
        """Whether the program was asked to end."""
        return self.number != 0

    @property
    def exit_status(self) -> int:
        """The exit status of a program that the signal ended: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.number

    def request(self, number: int = signal.SIGTERM) -> None:
        """Ask the program to end, as signal ``number`` does; from any thread."""
        self.number = self.number or int(number)

    def check(self) -> None:
        """Do nothing, unless the program was asked to end.

        :raises Interrupted: it was.
        """
        if self.requested:
            raise Interrupted(f"interrupted by {signal.Signals(self.number).name}")

    def sleep(self, duration: float) -> None:
        """Wait for ``duration`` [s].

        :raises Interrupted: the program was asked to end.
        """
        end = time.monotonic() + duration
        while (left := end - time.monotonic()) > 0.0:
            self.check()
            time.sleep(min(left, WAIT_STEP))
        self.check()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.request(number)
        if number == signal.SIGHUP:
            _forget_terminal()


def _forget_terminal() -> None:
    """If the terminal is closed, send the output nowhere: writing to it fails, and would fail again at the exit."""
    poller = select.poll()
    for descriptor in (1, 2):
        poller.register(descriptor, 0)  # Asks for nothing but errors.
    for descriptor, _ in poller.poll(0):
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _ignore_signals() -> None:
    """At the exit: the program has ended, and another signal must not change its exit status."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


#: A request that never comes, for calls that nothing interrupts.
NEVER = StopRequest()


def lock(name: str) -> socket.socket:
    """Lock ``name`` against all processes of this machine until the socket is closed.

    An abstract socket cannot be left behind: it ends with its process.

    :raises OSError: it is locked.
    """
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        held.bind(f"\0{name}")
    except OSError:
        held.close()
        raise
    return held


def is_locked(name: str) -> bool:
    """Whether a process has locked ``name``; asking for it does not lock it for a moment, as an attempt would."""
    with open("/proc/net/unix") as sockets:
        return any(line.split()[-1] == f"@{name}" for line in sockets)
