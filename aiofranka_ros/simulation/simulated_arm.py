"""The handle on a simulated FR3, which speaks the robot's own network protocol and runs in a separate process.

Used by the arm's driver, the bench and the tests, on the thread that calls it. Everything above the network runs
unchanged, through the same libfranka, as with a robot. The simulator needs its own process: at 1 kHz, it cannot share
an interpreter, and if it dies, that looks like a robot that is gone. :mod:`aiofranka_ros.simulation.__main__` is that
process.

libfranka always connects to port 1337, so each simulated arm of a machine has its own loopback address. MuJoCo and
``franka_sim`` are imported only in the simulator's process.
"""

from __future__ import annotations

import collections
import ipaddress
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from aiofranka_ros.errors import SimulationError
from aiofranka_ros.processes import ARM_LOCK, NEVER, WAIT_STEP, StopRequest, is_locked, readable, start_child

logger = logging.getLogger(__name__)

#: TCP ports of the arm and of its gripper; fixed in libfranka.
PORTS = (1337, 1338)
#: Beginning of the one line that the simulator writes to its standard output.
READY = "simulated FR3 is ready at"
#: How long a start may take [s]. It takes half a second; on a busy machine, many times that.
START_TIMEOUT = 30.0
#: How long the simulator may take to exit before it is killed [s]. It takes a fraction of a second.
STOP_TIMEOUT = 5.0
#: SCHED_FIFO priority of the simulator: above every ordinary process, far below the one that controls the arm.
PRIORITY = 10
_LOOPBACK_HOSTS: Sequence[str] = [f"127.0.0.{last}" for last in range(1, 255)]


class SimulatedArm:
    """A simulated FR3, which runs from :meth:`start` to :meth:`close`, or until this process ends.

    A context manager: ``with SimulatedArm() as arm: connect(arm.host)``. Not safe to share between threads.
    In a forked child, the copy of the handle does nothing: the arm belongs to the process that started it.
    """

    def __init__(self, host: str | None = None, options: Sequence[str] = ()) -> None:
        """Serve at ``host``, by default the first free loopback address, with command-line ``options``."""
        self._wanted = host
        self._options = tuple(options)
        self._host: str | None = None
        #: The simulator; ``None`` before :meth:`start`.
        self.process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._reader: threading.Thread | None = None
        self._ready = False
        self._tail: collections.deque[str] = collections.deque(maxlen=20)

    def start(self, stop: StopRequest = NEVER) -> None:
        """Start the simulator and wait until it serves clients, about one second; on failure, nothing of it is left.

        :raises Interrupted: ``stop`` was requested.
        :raises SimulationError: it ended before that (the message quotes its log), it took longer than
            ``START_TIMEOUT``, or it was started before.
        """
        if self.process is not None:
            raise SimulationError("a simulated arm can be started only once")
        for host in _LOOPBACK_HOSTS if self._wanted is None else (self._wanted,):
            if self._wanted is None and is_taken(host):
                continue
            try:
                return self._start_at(host, stop)
            except SimulationError:
                # If another process took the address in the meantime, try the next one.
                if self._wanted is not None or not is_taken(host):
                    raise
        raise SimulationError("no loopback address is free for another simulated arm")

    def close(self) -> None:
        """End the simulator and wait for it, at most ``STOP_TIMEOUT``; does nothing if it does not run."""
        process = self.process
        if process is None or os.getpid() != self._owner:
            return
        with process:  # At the end, it closes the pipes.
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(STOP_TIMEOUT)
                except subprocess.TimeoutExpired:
                    text = "the simulated arm at %s did not stop within %g s: killing it"
                    logger.warning(text, self._host, STOP_TIMEOUT)
                    process.kill()
                    process.wait()
            if self._reader is not None:
                self._reader.join()

    @property
    def host(self) -> str:
        """Address that the arm is served at, a dotted quad.

        :raises SimulationError: before :meth:`start`.
        """
        if self._host is None:
            raise SimulationError("the simulated arm was not started")
        return self._host

    @property
    def alive(self) -> bool:
        """Whether the simulator runs."""
        return self.process is not None and self.process.poll() is None

    def __enter__(self) -> SimulatedArm:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start_at(self, host: str, stop: StopRequest) -> None:
        """Start the simulator at one address; on failure, nothing of it is left."""
        command = [sys.executable, "-m", "aiofranka_ros.simulation", "--host", host, "--parent", str(os.getpid())]
        # A separate session, because a terminal's Ctrl-C is meant for the parent, which then ends the arm in order.
        process = start_child(
            [*command, *self._options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_child_environment(),
            start_new_session=True,
        )
        assert process.stdout is not None and process.stderr is not None  # both are pipes
        self.process, self._owner, self._host = process, os.getpid(), host
        self._ready, self._reader = False, None
        self._tail.clear()
        # The pipe must never fill up: a simulator that blocks while it logs loses robot cycles.
        reader = threading.Thread(
            target=self._relay_log, args=(process.stderr, host), name="simulation-log", daemon=True
        )
        try:
            reader.start()
            self._reader = reader
            self._wait_until_ready(process, process.stdout, stop)
        except BaseException:
            self.close()
            self.process = self._host = None
            raise

    def _wait_until_ready(self, process: subprocess.Popen[bytes], output: IO[bytes], stop: StopRequest) -> None:
        """Wait for the simulator's line on its standard output.

        A connection attempt would not do: the arm serves one client at a time.
        """
        deadline = time.monotonic() + START_TIMEOUT
        said = b""
        while READY.encode() not in said:
            stop.check()
            if not readable(output, WAIT_STEP):
                if time.monotonic() < deadline:
                    continue
                raise SimulationError(f"the simulated arm at {self._host} was not ready after {START_TIMEOUT:.0f} s")
            chunk = os.read(output.fileno(), 4096)
            if not chunk:
                status = process.wait()
                if self._reader is not None:
                    self._reader.join()  # Only then are its last words complete.
                raise SimulationError(
                    f"the simulated arm at {self._host} ended with status {status} before it was ready:\n"
                    + ("\n".join(self._tail) or "(it said nothing)")
                )
            said += chunk
        self._ready = True

    def _relay_log(self, stream: IO[bytes], host: str) -> None:
        """Copy the simulator's log to this process's log until the simulator ends, on a separate thread.

        What it logs before it is ready is part of the exception that :meth:`start` raises, and is not logged as well.
        """
        for line in stream:
            text = line.decode(errors="replace").rstrip()
            if text:
                self._tail.append(text)
                level = logging.ERROR if text.startswith(("ERROR", "CRITICAL")) else logging.WARNING
                logger.log(level if self._ready else logging.DEBUG, "simulated arm at %s: %s", host, text)


def cpu_for(host: str) -> int:
    """The CPU that the simulated arm at ``host`` runs on, and that its 1 kHz client should use, too.

    If the machine, or its hypervisor, takes a CPU away for some milliseconds, it then stops both or neither. A client
    that is stopped alone loses robot cycles although it was never late: measured on a virtual machine with two cores,
    16 to 35 of 10,000 on separate CPUs, none on a shared one. Together they use half a CPU. A client should follow only
    if it runs with SCHED_FIFO, at a higher priority than :data:`PRIORITY`.

    :param host: loopback address of the arm; several arms are spread over the CPUs by the last number in it.
    """
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[-int(ipaddress.IPv4Address(host)) % len(cpus)]


def is_taken(host: str) -> bool:
    """Whether something listens at the arm's ports, or drives an arm there, be it one that has ended.

    Binding without listening disturbs no other process, not even one that looks for an address at the same time.
    """
    for port in PORTS:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return True
    return is_locked(ARM_LOCK + host)


def _child_environment() -> dict[str, str]:
    """This process's environment, in which this package can be imported even if it is not installed.

    The package comes last on the path, so that it shadows nothing of a ROS distribution.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{root}" if path else root}
