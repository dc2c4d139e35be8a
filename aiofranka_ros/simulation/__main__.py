"""The process of one simulated arm: ``python -m aiofranka_ros.simulation``, also for use by hand.

    python -m aiofranka_ros.simulation --host 127.0.0.2 --viewer
    python -m aiofranka_ros.simulation push --force 0 0 -30    # in another terminal

:class:`aiofranka_ros.simulation.simulated_arm.SimulatedArm` starts it as a child. The physics runs on the main thread
while the arm has no client; :mod:`aiofranka_ros.simulation.model` describes the other threads.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import ipaddress
import logging
import os
import struct
import sys
from collections.abc import Sequence

from aiofranka_ros.errors import SimulationError
from aiofranka_ros.processes import StopRequest, end_with_parent
from aiofranka_ros.simulation import remote
from aiofranka_ros.simulation.simulated_arm import PORTS, PRIORITY, READY, STOP_TIMEOUT, cpu_for

logger = logging.getLogger(__name__)

#: How far the gripper opens [m].
_MAX_OBJECT_WIDTH = 0.08


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one simulated arm until Ctrl-C or SIGTERM, or until the viewer is closed or the parent is gone.

    With a command, ask a running arm for something instead.

    :returns: exit status: 0 after a regular end, 1 if the arm cannot be served or refuses. Wrong options exit with 2.
    """
    stop = StopRequest()
    stop.install()  # Before the slow imports, so that a Ctrl-C during the start is as quiet as any other.
    options = _parser().parse_args(arguments)
    handler = logging.StreamHandler()
    if options.log_level != "debug":
        # franka_sim adds a traceback to ordinary events such as a client that goes away during the handshake.
        handler.addFilter(_drop_traceback)
    level = options.log_level.upper()
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", handlers=[handler])
    if options.parent is not None:
        end_with_parent(options.parent, STOP_TIMEOUT)
    return _serve(options, stop) if options.command is None else _ask(options)


def _ask(options: argparse.Namespace) -> int:
    """Ask a running arm for something."""
    names = ("force", "torque", "duration", "mass", "center")
    arguments = {name: getattr(options, name) for name in names if hasattr(options, name)}
    try:
        remote.ask(options.host, options.command, **arguments)
    except SimulationError as error:
        logger.error("%s", error)
        return 1
    return 0


def _drop_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True


def _serve(options: argparse.Namespace, stop: StopRequest) -> int:
    host = options.host or "127.0.0.1"
    if options.viewer and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        logger.error("--viewer needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set")
        return 1
    try:
        from aiofranka_ros.simulation import touched
    except ImportError as error:
        logger.error("the simulated arm needs the package franka-sim: %s. Try: pip install franka-sim", error)
        return 1
    if not options.viewer:  # Its rendering thread would inherit the priority.
        _ask_for_real_time(cpu_for(host))

    def announce() -> None:
        server.wait_until_accepting()
        # What exists now lives as long as the process; a garbage collection that traverses it costs several cycles.
        gc.collect()
        gc.freeze()
        sys.stdout.write(f"{READY} {host} (ports {PORTS[0]} and {PORTS[1]})\n")
        sys.stdout.flush()

    physics = touched.TouchedPhysics(viewer=options.viewer, on_ready=announce, ended=lambda: stop.requested)
    server = touched.TouchedServer(host, physics, options.hand, options.object_width, options.protocol_version)
    try:
        server.claim()
        with remote.Requests(host, server.handlers()):
            server.start()
    except SimulationError as error:
        logger.error("%s", error)
        return 1
    finally:
        server.stop()
    return 0


def _ask_for_real_time(cpu: int) -> None:
    """Ask for what a 1 kHz process needs; without it, the arm loses cycles when the machine is busy."""
    # franka_sim's 1 kHz threads share one interpreter; at the default of 5 ms, one can cost the others five cycles.
    sys.setswitchinterval(1e-4)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        os.sched_setaffinity(0, {cpu})  # See cpu_for; without the priority, it needs every CPU.
    except OSError:
        logger.debug("no permission for real-time scheduling (ulimit -r); continuing without")
    try:
        # A core that sleeps between two cycles may take a millisecond to wake up, above all in a virtual machine. The
        # request for 0 µs holds while the descriptor is open: until this process ends.
        os.write(os.open("/dev/cpu_dma_latency", os.O_WRONLY | os.O_CLOEXEC), struct.pack("i", 0))
    except OSError:
        logger.debug("no permission to keep the cores awake (/dev/cpu_dma_latency); continuing without")


def _loopback(text: str) -> str:
    """An argparse type: an IPv4 loopback address."""
    with contextlib.suppress(ValueError):
        if ipaddress.IPv4Address(text).is_loopback:
            return text
    raise argparse.ArgumentTypeError(
        f"{text!r} is not an IPv4 loopback address, and at any other, every computer that reaches the port could move "
        "the arm; use 127.0.0.1 to 127.255.255.254"
    )


def _width(text: str) -> float:
    """An argparse type: the width of an object that fits between the fingers [m]."""
    with contextlib.suppress(ValueError):
        if 0.0 < float(text) < _MAX_OBJECT_WIDTH:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} does not fit between the fingers; use 0 to {_MAX_OBJECT_WIDTH} m")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aiofranka_ros.simulation",
        description="Serve a simulated Franka FR3 to libfranka; it enforces the limits of the real one. "
        "Connect to its address as to a robot; Ctrl-C ends it. With a command: ask a running arm for something.",
    )
    parser.add_argument(
        "--host",
        type=_loopback,
        help="loopback address to serve at, a different one for each arm, e.g. 127.0.0.2 "
        "[127.0.0.1; with a command, that of the only arm that runs]",
    )
    parser.add_argument(
        "--viewer", action="store_true", help="show the arm in a window; closing it ends the simulation"
    )
    parser.add_argument(
        "--hand",
        action="store_true",
        help="report the fingertips of the Franka Hand as end effector (F_T_NE), instead of the flange",
    )
    parser.add_argument(
        "--object-width",
        type=_width,
        metavar="M",
        help="width of an object between the gripper's fingers [m], e.g. 0.03 [default: no object]",
    )
    parser.add_argument(
        "--protocol-version",
        type=int,
        metavar="N",
        help="pretend to speak version N of the robot's protocol, to test how clients handle that",
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="warning",
        help="what to log to standard error [%(default)s]",
    )  # fmt: skip
    parser.add_argument("--parent", type=int, metavar="PID", help="exit once this parent process is gone")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        added.add_argument(
            "--host", type=_loopback, default=argparse.SUPPRESS, help="address of the arm [the only one that runs]"
        )
        return added

    push = command("push", "push the running arm as a person would; beyond the collision thresholds it stops")
    push.add_argument(
        "--force",
        type=float,
        nargs=3,
        default=[0.0] * 3,
        metavar=("X", "Y", "Z"),
        help="at the flange, base frame [N]",
    )
    push.add_argument(
        "--torque", type=float, nargs=7, default=[0.0] * 7, metavar="T", help="of the joints, in addition [Nm]"
    )
    push.add_argument("--duration", type=float, default=0.2, metavar="S", help="how long [s] [%(default)s]")
    load = command("load", "have the running arm carry a load, which its client must know or the arm sinks")
    load.add_argument("--mass", type=float, required=True, metavar="KG", help="0: nothing")
    load.add_argument(
        "--center",
        type=float,
        nargs=3,
        default=[0.0, 0.0, 0.05],
        metavar=("X", "Y", "Z"),
        help="centre of mass in the flange [m] [0 0 0.05]",
    )
    command("stop", "press the user stop of the running arm")
    command("guide", "press the guiding buttons of the running arm")
    command("release", "release user stop and guiding buttons of the running arm")
    return parser


if __name__ == "__main__":
    sys.exit(main())
