"""Run a node as a process: signals, fatal errors, the exit status, and time for the last results to leave.

Called by the ``main`` functions of the nodes, in the main thread of their processes.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.signals import SignalHandlerOptions

from aiofranka_ros.errors import ConfigurationError, Interrupted
from aiofranka_ros.processes import StopRequest

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
    try:
        stop.check()
        node = create(stop)
        try:
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


def send_last_results(busy: bool, spin: Callable[[], None]) -> None:
    """Run an executor for a moment longer, so that the results of ended goals reach their clients.

    Ending a goal, sending its result and delivering it take several turns of the executor; nothing says how many.

    :param busy: whether there are such goals.
    :param spin: runs one turn.
    """
    deadline = time.monotonic() + (_LAST_RESULTS if busy else 0.0)
    while time.monotonic() < deadline:
        spin()
