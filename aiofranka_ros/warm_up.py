"""Compile the kernels ahead of time: ``python -m aiofranka_ros.warm_up``.

It takes about half a minute the first time and one second after that. ``make setup`` calls this so that the first start
of a node does not have to wait, and a node that finds nothing compiled starts it as a child
(:mod:`aiofranka_ros.control.compilation`); the doctor checks with ``--check`` whether it was done.
"""

from __future__ import annotations

import argparse
import sys

from aiofranka_ros.arm import chunk_paths, limit_checks
from aiofranka_ros.control import loop as control_loop
from aiofranka_ros.kernels import compiled
from aiofranka_ros.model import inverse_kinematics
from aiofranka_ros.processes import end_with_parent


def main() -> int:
    """Compile everything that is not in the cache yet.

    :returns: exit status; with ``--check``, 1 if there is something to compile.
    """
    parser = argparse.ArgumentParser(
        description="Compile the kernels of the control loop, unless they are compiled already."
    )
    parser.add_argument(
        "--check", action="store_true", help="compile nothing; exit with 1 if something is not compiled"
    )
    parser.add_argument("--parent", type=int, metavar="PID", help="exit once this parent process is gone")
    options = parser.parse_args()
    if options.parent is not None:
        end_with_parent(options.parent)
    if options.check:
        return 0 if compiled() else 1
    control_loop.load_kernels()
    limit_checks.load_kernels()
    chunk_paths.load_kernels()
    inverse_kinematics.load_kernels()
    return 0


if __name__ == "__main__":
    sys.exit(main())
