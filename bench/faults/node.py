"""The node, in an interpreter with burdens that it has not deserved.

    python -m bench.faults.node --spinning-threads 4 --ros-args -p robot_ip:=sim

Everything is that of :mod:`aiofranka_ros.node`. Added are threads that spin and so compete for the interpreter's lock,
and SIGUSR1: its handler sleeps in the node's one thread, which is what a callback that hangs looks like from outside.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Sequence

from aiofranka_ros.node import __main__ as node


def _spin() -> None:
    number = 0
    while True:
        number += 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node; see :func:`aiofranka_ros.node.__main__.main`."""
    parser = argparse.ArgumentParser(description="The node, burdened; started by bench.")
    parser.add_argument("--spinning-threads", type=int, default=0, help="threads that compete with it [%(default)s]")
    parser.add_argument("--hang", type=float, default=3.0, help="how long SIGUSR1 keeps it [%(default)s s]")
    options, rest = parser.parse_known_args(arguments)
    signal.signal(signal.SIGUSR1, lambda number, frame: time.sleep(options.hang))
    for _ in range(options.spinning_threads):
        threading.Thread(target=_spin, daemon=True).start()
    return node.main(rest)


if __name__ == "__main__":
    sys.exit(main())
