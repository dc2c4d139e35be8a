"""Compiles kernels in a child process, which can be ended at any moment, unlike a compiler in this one.

Used by what drives an arm and by RViz's tools, in their threads, before they load their kernels from the cache.
"""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys

from aiofranka_ros import kernels
from aiofranka_ros.errors import COMPILING
from aiofranka_ros.processes import NEVER, WAIT_STEP, StopRequest, start_child

_log = logging.getLogger(__name__)


@functools.cache
def report_compiling() -> None:
    """Log, once in a process, why the start takes long; a warning, because scripts without a configured log see it."""
    _log.warning(COMPILING)


def compile_kernels(stop: StopRequest = NEVER) -> None:
    """Fill the cache with all kernels; does nothing if it has those of the loaded modules, or if nothing can be kept.

    If it fails, the kernels are compiled when they are first used.

    :raises Interrupted: ``stop`` was requested; the compiler is gone.
    """
    stop.check()
    if kernels.compiled() or not kernels.cacheable():
        return
    report_compiling()
    command = [sys.executable, "-m", "aiofranka_ros.warm_up", "--parent", str(os.getpid())]
    compiler = start_child(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        while compiler.poll() is None:
            stop.sleep(WAIT_STEP)
    finally:
        compiler.kill()
        compiler.wait()
