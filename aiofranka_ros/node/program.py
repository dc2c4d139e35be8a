"""What the process of the arm's node does, in its one thread; see :mod:`aiofranka_ros.node.lifecycle` for the node.

Called by :mod:`aiofranka_ros.node.__main__`, which handles signals before it imports this module and all that it needs.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import logging
import os
import shutil
import sys
from collections.abc import Sequence

import rclpy
from rclpy.impl.rcutils_logger import RcutilsLogger

from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.node.lifecycle import FrankaNode
from aiofranka_ros.processes import StopRequest
from aiofranka_ros.ros.arguments import checked, read
from aiofranka_ros.ros.executor import UrgentFirstExecutor
from aiofranka_ros.ros.running import run, send_last_results

#: Niceness of the node, if the system permits it.
_NICENESS = -10
#: How long another thread of this interpreter may keep its lock [s]. The node releases the lock many times while it
#: handles a goal. With four busy threads in the same process and Python's default of 5 ms, it would be silent for
#: seconds; at 0.5 ms it was, on a slow computer, for up to 0.9 s, with this interval for less than 0.1 s. Without other
#: threads, it makes no difference.
_SWITCH_INTERVAL = 20e-6
#: Parameters of glibc's ``mallopt``, see malloc.h, and their values [bytes]: the largest block that is not returned to
#: the kernel at once, and how much free memory is kept.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = (-3, 32 << 20), (-1, 128 << 20)
#: What a message of ten megabytes needs [bytes]: DDS, rcl and Python have one copy each.
_LARGE_MESSAGE = 30_000_000
#: A disk with less free space than this is as good as full [bytes].
_LITTLE_SPACE = 1 << 20
#: DDS uses it to send to other processes on the same computer.
_SHARED_MEMORY = "/dev/shm"


class _RosLog(logging.Handler):
    """Passes the log of the modules without ROS on to ROS."""

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        # A line for each level, because rclpy allows only one level per line of source code.
        message = record.getMessage()
        if record.levelno >= logging.ERROR:
            self._logger.error(message)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(message)
        else:
            self._logger.info(message)


def _warn_of_full_disks(logger: RcutilsLogger) -> None:
    """Warn if a disk is full that ROS or DDS writes to: both continue without it, and do not name the cause."""
    logs = getattr(rclpy.logging, "get_logging_directory", lambda: "")()
    consequences = {logs: "log files will be empty", _SHARED_MEMORY: "DDS has to send over the network instead"}
    for folder, consequence in consequences.items():
        with contextlib.suppress(OSError):
            if folder and shutil.disk_usage(folder).free < _LITTLE_SPACE:
                logger.warning(f"{folder} is full, {consequence}: {os.strerror(errno.ENOSPC)}")


def keep_memory() -> None:
    """Have the C library keep the memory that it frees, and get enough for a message of ten megabytes now.

    The kernel needs 15 ms to supply that much, page by page, and the node's thread has to wait for it.
    """
    with contextlib.suppress(AttributeError):  # Not glibc.
        mallopt = ctypes.CDLL(None).mallopt
        for setting in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            mallopt(*setting)
        b"\1" * _LARGE_MESSAGE  # Written once, and free from now on.


def _create(stop: StopRequest) -> FrankaNode:
    node = FrankaNode(stop)
    _warn_of_full_disks(node.get_logger())
    log = logging.getLogger("aiofranka_ros")
    log.addHandler(_RosLog(node.get_logger()))
    log.propagate = False
    log.setLevel(logging.INFO)
    return node


def _spin(node: FrankaNode, stop: StopRequest) -> None:
    """Run the node until a signal asks it to stop, then stop the arm and let the last results leave."""
    executor = UrgentFirstExecutor(node)
    # Everything built so far stays; a garbage collection of all of it would delay targets by many cycles.
    gc.collect()
    gc.freeze()
    try:
        # The tick's timer ends every wait soon enough for a signal to be noticed.
        while not stop.requested:
            executor.spin_turn()
    finally:
        try:
            node.release()
            send_last_results(node.busy, lambda: executor.spin_turn(timeout=0.01))
        finally:
            executor.shutdown()


def main(stop: StopRequest, arguments: Sequence[str] | None) -> int:
    """Run the node until ``stop`` is requested; arguments and exit status as :func:`aiofranka_ros.ros.running.run`."""
    text = (
        "Drive a Franka arm: a lifecycle node. Without parameters, it waits to be configured and has a simulated arm."
    )
    read(arguments, "aiofranka_ros.node", text, SETTINGS)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    keep_memory()
    with contextlib.suppress(PermissionError):
        # Before DDS starts its threads, which inherit it: other programs on this computer must delay neither targets
        # nor the heartbeat that the control process waits for.
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    return run("aiofranka", stop, lambda stop: checked(_create(stop), arguments), _spin, arguments)
