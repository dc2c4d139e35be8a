"""A simulated FR3 that speaks the robot's own network protocol, in a process of its own.

Why it exists: everything above the network runs unchanged, and through the same libfranka, where there is no
robot. A process of its own because a simulator of 1 kHz shares no interpreter with anything, and so that its
death is an event like the robot's.

Two parts. :class:`SimulatedArm` starts and ends the process; the node and the tests use it, on the thread
that they call it from. :func:`main` is that process, also for use by hand:

    python -m aiofranka_ros.simulation --host 127.0.0.2 --viewer

libfranka always connects to port 1337, so each simulated arm of a machine has a loopback address to itself.
MuJoCo and ``franka_sim`` are imported only inside the simulator's process.
"""

from __future__ import annotations

import argparse
import collections
import gc
import ipaddress
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, NoReturn

from aiofranka_ros.errors import SimulationError
from aiofranka_ros.processes import start_child

logger = logging.getLogger(__name__)

PORTS = (1337, 1338)
"""Of the arm and of its gripper; fixed in libfranka."""

READY = "simulated FR3 is ready at"
"""Beginning of the one line that the simulator writes to its standard output."""

MAX_OBJECT_WIDTH = 0.08
"""How far the gripper opens [m]."""

START_TIMEOUT = 30.0
"""How long a start may take [s]. It takes half a second; on a busy machine, many times that."""

STOP_TIMEOUT = 5.0
"""How long the simulator may take to exit before it is killed [s]. It takes a fraction of a second."""

PARENT_POLL_PERIOD = 0.2
"""How often the simulator looks whether its parent still lives [s]."""

PRIORITY = 10
"""SCHED_FIFO priority of the simulator: above everything ordinary, far below who controls the arm."""


class SimulatedArm:
    """A simulated FR3, running from :meth:`start` to :meth:`close`, at the latest until this process ends.

    A context manager: ``with SimulatedArm() as arm: connect(arm.host)``. Not safe to share between threads.
    In a forked child, the copy of the handle does nothing: the arm belongs to the process that started it.
    """

    def __init__(self, host: str | None = None, options: Sequence[str] = ()) -> None:
        """
        :param host: loopback address to serve at; ``None`` takes the first free one from 127.0.0.1 upwards.
        :param options: further command-line options of the simulator, such as ``["--viewer"]``.
        """
        self._wanted = host
        self._options = tuple(options)
        self._host: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._reader: threading.Thread | None = None
        self._ready = False
        self._tail: collections.deque[str] = collections.deque(maxlen=20)

    def start(self) -> None:
        """Start the simulator and wait until it serves clients, about one second.

        :raises SimulationError: if it ends before that, with what it said; if it takes longer than
            ``START_TIMEOUT``; or if it was started before.
        """
        if self._process is not None:
            raise SimulationError("a simulated arm can be started only once")
        for host in _loopback_hosts() if self._wanted is None else (self._wanted,):
            if self._wanted is None and _taken(host):
                continue
            try:
                self._start_at(host)
            except SimulationError:
                # Somebody else may have taken the address since: that is what the next one is for.
                if self._wanted is None and _taken(host):
                    continue
                raise
            return
        raise SimulationError("no loopback address is free for another simulated arm")

    def close(self) -> None:
        """End the simulator and wait for that, at most ``STOP_TIMEOUT``; harmless when it isn't running."""
        process = self._process
        if process is None or os.getpid() != self._owner:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                logger.warning("the simulated arm at %s does not stop; it is killed", self._host)
                process.kill()
                process.wait()
        if self._reader is not None:
            self._reader.join()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()

    @property
    def host(self) -> str:
        """Address that the arm is served at, a dotted quad.

        :raises SimulationError: before :meth:`start`.
        """
        if self._host is None:
            raise SimulationError("the simulated arm was not started")
        return self._host

    @property
    def pid(self) -> int:
        """Process id of the simulator.

        :raises SimulationError: before :meth:`start`.
        """
        if self._process is None:
            raise SimulationError("the simulated arm was not started")
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """As :attr:`subprocess.Popen.returncode`; ``None`` while it runs and before :meth:`start`."""
        return None if self._process is None else self._process.poll()

    @property
    def alive(self) -> bool:
        """Whether the simulator runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def last_words(self) -> str:
        """The last lines that the simulator logged, for error messages; empty when it had nothing to say."""
        return "\n".join(self._tail)

    def __enter__(self) -> SimulatedArm:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start_at(self, host: str) -> None:
        """Start the simulator at one address; on failure, nothing of it is left."""
        command = [
            sys.executable,
            "-m",
            "aiofranka_ros.simulation",
            "--host",
            host,
            "--parent",
            str(os.getpid()),
            *self._options,
        ]
        # A session of its own, because a terminal's Ctrl-C is meant for the parent, which then ends the arm
        # in order.
        process = start_child(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_child_environment(),
            start_new_session=True,
        )
        assert process.stdout is not None and process.stderr is not None  # both are pipes
        self._process, self._owner, self._host = process, os.getpid(), host
        self._ready = False
        self._tail.clear()
        # The pipe must never fill: a simulator that blocks in its log loses robot cycles.
        self._reader = threading.Thread(
            target=self._relay_log, args=(process.stderr, host), name="simulation-log", daemon=True
        )
        self._reader.start()
        try:
            self._wait_until_ready(process, process.stdout)
        except BaseException:
            self.close()
            self._process = self._host = None
            raise

    def _wait_until_ready(self, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        """Wait for the simulator's line on its standard output.

        Its own word, rather than a connection attempt, because the arm serves one client at a time.
        """
        deadline = time.monotonic() + START_TIMEOUT
        said = b""
        while READY.encode() not in said:
            readable, _, _ = select.select([output], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise SimulationError(f"the simulated arm at {self._host} was not ready after {START_TIMEOUT:.0f} s")
            chunk = os.read(output.fileno(), 4096)
            if not chunk:
                status = process.wait()
                if self._reader is not None:
                    self._reader.join()  # its last words are complete only then
                raise SimulationError(
                    f"the simulated arm at {self._host} ended with status {status} before it was ready:\n"
                    f"{self.last_words or '(it said nothing)'}"
                )
            said += chunk
        self._ready = True

    def _relay_log(self, stream: IO[bytes], host: str) -> None:
        """Pass the simulator's log on to this process's, on a thread of its own, until the simulator ends.

        What it says before it is ready belongs into the exception that :meth:`start` raises, and isn't logged
        twice.
        """
        for line in stream:
            text = line.decode(errors="replace").rstrip()
            if text:
                self._tail.append(text)
                level = logging.ERROR if text.startswith(("ERROR", "CRITICAL")) else logging.WARNING
                logger.log(level if self._ready else logging.DEBUG, "simulated arm at %s: %s", host, text)


def cpu_for(host: str) -> int:
    """The CPU that the simulated arm at ``host`` runs on, and that its 1 kHz client should run on, too.

    When the machine, or the hypervisor below it, takes a CPU away for some milliseconds, it then stops both
    or none. A client that is stopped alone loses robot cycles although it never was late: measured on a
    virtual machine of two cores, 16 to 35 of 10,000 on separate CPUs, none on a shared one. The two take half
    a CPU together. Only with SCHED_FIFO, and at a higher priority than :data:`PRIORITY`, is it a good idea to
    follow.

    :param host: loopback address of the arm; several arms are spread over the CPUs by the last number in it.
    """
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[-int(ipaddress.IPv4Address(host)) % len(cpus)]


def _loopback_hosts() -> Iterator[str]:
    return (f"127.0.0.{last}" for last in range(1, 255))


def _taken(host: str) -> bool:
    """Whether something listens at the arm's ports.

    Binding without listening is in nobody's way, not even in that of another process which looks for an
    address.
    """
    for port in PORTS:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return True
    return False


def _child_environment() -> dict[str, str]:
    """This process's environment, in which this package can be imported even if it isn't installed.

    It comes last on the path, so that it shadows nothing of a ROS distribution.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{root}" if path else root}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one simulated arm until Ctrl-C, SIGTERM, the viewer's or the parent's end.

    :returns: exit status: 0 after a regular end, 1 if the arm cannot be served. Wrong options exit with 2.
    """
    # Before the slow imports, so that a Ctrl-C during the start is as quiet as any other.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    try:
        options = _parser().parse_args(arguments)
        _set_up_logging(options.log_level)
        if options.parent is not None:
            threading.Thread(target=_follow, args=(options.parent,), name="parent-watch", daemon=True).start()
        return _serve(options)
    except KeyboardInterrupt:
        return 0


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Turn the first signal into KeyboardInterrupt; later ones must not interrupt the clean-up."""
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _set_up_logging(level: str) -> None:
    """Log to standard error, a line for each record."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    if level != "debug":
        # franka_sim adds a traceback to ordinary events such as a client that goes away during the handshake.
        handler.addFilter(_without_traceback)
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True


def _serve(options: argparse.Namespace) -> int:
    if options.viewer and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        logger.error("--viewer needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set")
        return 1
    try:
        from aiofranka_ros.simulation import model as simulation_model
    except ImportError as error:
        logger.error("the simulated arm needs the package franka-sim: %s. Try: pip install franka-sim", error)
        return 1
    if not options.viewer:  # its rendering thread would inherit the priority
        _prefer_this_process(cpu_for(options.host))

    def announce() -> None:
        server.wait_until_accepting()
        # What was built so far lives as long as the process; a collection that traverses it costs several
        # cycles.
        gc.collect()
        gc.freeze()
        sys.stdout.write(f"{READY} {options.host} (ports {PORTS[0]} and {PORTS[1]})\n")
        sys.stdout.flush()

    physics = simulation_model.ArmPhysics(viewer=options.viewer, on_ready=announce)
    server = simulation_model.ArmServer(
        options.host,
        physics,
        hand=options.hand,
        object_width=options.object_width,
        protocol_version=options.protocol_version,
    )
    try:
        server.claim()
        server.start()
    except SimulationError as error:
        logger.error("%s", error)
        return 1
    finally:
        server.stop()
    return 0


def _prefer_this_process(cpu: int) -> None:
    """Ask for what a 1 kHz process needs; it runs without, and then loses cycles when the machine is busy."""
    # franka_sim's 1 kHz threads share one interpreter; at the default of 5 ms, one can cost the others five
    # cycles.
    sys.setswitchinterval(1e-4)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        os.sched_setaffinity(0, {cpu})  # see cpu_for; without the priority, one CPU would be a cage
    except OSError:
        logger.debug("no permission for real-time scheduling (ulimit -r); continuing without")
    try:
        # A core that went to sleep between two cycles may take a millisecond to wake up, above all in a
        # virtual machine. The request for 0 µs holds while the descriptor is open, which is until this
        # process ends.
        os.write(os.open("/dev/cpu_dma_latency", os.O_WRONLY | os.O_CLOEXEC), struct.pack("i", 0))
    except OSError:
        logger.debug("no permission to keep the cores awake (/dev/cpu_dma_latency); continuing without")


def _follow(parent: int) -> None:
    """End this process when ``parent`` is no longer its parent; runs on a thread of its own.

    Asked of the system rather than learnt from a pipe, which a fork of the parent would keep open, or by
    PR_SET_PDEATHSIG, which fires when the parent's *thread* ends that started this process.
    """
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_PERIOD)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_TIMEOUT)
    os._exit(1)  # the main thread is stuck, and nobody is left to kill this process


def _loopback(text: str) -> str:
    """An argparse type: an IPv4 loopback address."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IPv4 address such as 127.0.0.2") from error
    if not address.is_loopback:
        raise argparse.ArgumentTypeError(
            f"{text} is not a loopback address, and whoever reaches the port may move the arm; "
            "use 127.0.0.1 to 127.255.255.254"
        )
    return text


def _width(text: str) -> float:
    """An argparse type: the width of something that fits between the fingers [m]."""
    try:
        width = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error
    if not 0.0 < width < MAX_OBJECT_WIDTH:
        raise argparse.ArgumentTypeError(f"{text} m does not fit between the fingers; use 0 to {MAX_OBJECT_WIDTH} m")
    return width


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aiofranka_ros.simulation",
        description="Serve a simulated Franka FR3 to libfranka, with the limits of the real one enforced. "
        "Connect to the address as to a robot; Ctrl-C ends it.",
    )
    parser.add_argument(
        "--host",
        type=_loopback,
        default="127.0.0.1",
        help="loopback address to serve at, one per arm: 127.0.0.2 for a second one [%(default)s]",
    )
    parser.add_argument(
        "--viewer", action="store_true", help="show the arm in a window; closing it ends the simulation"
    )
    parser.add_argument(
        "--hand",
        action="store_true",
        help="report the Franka Hand's fingertips as end effector (F_T_NE); without, it is the flange",
    )
    parser.add_argument(
        "--object-width",
        type=_width,
        metavar="M",
        help="width in metres of an object between the gripper's fingers, such as 0.03; without, there is none",
    )
    parser.add_argument(
        "--protocol-version",
        type=int,
        metavar="N",
        help="pretend to speak version N of the robot's protocol, to see how clients take it",
    )
    parser.add_argument("--parent", type=int, metavar="PID", help="exit when this process, the parent, is gone")
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="warning",
        help="what to log to standard error [%(default)s]",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
