"""Run a node as a process: signals, fatal errors, the exit status, and time for the last results to leave.

Called by the ``main`` functions of the nodes, in the main thread of their processes.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.signals import SignalHandlerOptions

from aiofranka_ros.errors import ConfigurationError, Interrupted
from aiofranka_ros.processes import LAUNCH, StopRequest
from aiofranka_ros.ros.answers import sent_in_background

#: How long the results of ended goals may take to leave [s].
_LAST_RESULTS = 0.8


def run(
    name: str,
    stop: StopRequest,
    create: Callable[[StopRequest], Any],
    spin: Callable[[Any, StopRequest], None],
    arguments: Sequence[str] | None,
) -> int:
    """Run a node until ``stop`` is requested.

    :param name: of the node, for the log if it could not be created.
    :param create: creates the node, which has a method ``close``; may raise ``Interrupted``.
    :param spin: runs it until a stop is requested.
    :param arguments: from the command line; ``None``: this process's.
    :returns: exit status: 0 after a signal, 1 if the node could not start or failed.
    """
    # Without rclpy's own handlers: they would shut the context down before the node could stop what it drives.
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    _end_with_launch(name, stop)
    try:
        stop.check()
        node = create(stop)
        try:
            with sent_in_background():
                spin(node, stop)
        finally:
            node.close()
    except Interrupted as error:
        rclpy.logging.get_logger(name).info(str(error))
    except (ParameterException, ConfigurationError) as error:
        rclpy.logging.get_logger(name).fatal(f"cannot start: {error}")
        return 1
    except Exception:
        rclpy.logging.get_logger(name).fatal(f"the node failed:\n{traceback.format_exc()}")
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


def _end_with_launch(name: str, stop: StopRequest) -> None:
    """If a launch file has started this process, request its stop once the launch is gone, however that ended.

    ``ros2 launch`` leaves its processes behind if it is terminated or killed. A node that was started in another way,
    for example with ``nohup``, outlives whatever started it.
    """
    launch = os.environ.pop(LAUNCH, "")  # Not for the processes that the node starts.
    if not launch.isdigit():
        return
    descriptor = -1
    with contextlib.suppress(ProcessLookupError):  # It is already gone.
        descriptor = os.pidfd_open(int(launch))

    def watch() -> None:
        if descriptor >= 0:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll()
        rclpy.logging.get_logger(name).warning(f"the launch (process {launch}) is gone: this node ends")
        stop.request()

    threading.Thread(target=watch, name="launch-watch", daemon=True).start()


def send_last_results(busy: bool, spin: Callable[[], None]) -> None:
    """Run an executor for a moment longer, so that the results of ended goals reach their clients.

    Ending a goal, sending its result and delivering it take several turns of the executor; nothing says how many.

    :param busy: whether there are such goals.
    :param spin: runs one turn.
    """
    deadline = time.monotonic() + (_LAST_RESULTS if busy else 0.0)
    while time.monotonic() < deadline:
        spin()
