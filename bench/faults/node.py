"""The node, in an interpreter with extra load.

    python -m bench.faults.node --spinning-threads 4 --ros-args -p robot_ip:=sim

This is :mod:`aiofranka_ros.node` plus threads that spin and so compete for the interpreter's lock, and a handler of
SIGUSR1 that sleeps in the node's one thread, which looks from outside like a callback that hangs.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Sequence

from aiofranka_ros.node import __main__ as node
from aiofranka_ros.node import program as program  # Its imports take long, and minutes while threads spin.


def _spin() -> None:
    number = 0
    while True:
        number += 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node; see :func:`aiofranka_ros.node.__main__.main`."""
    parser = argparse.ArgumentParser(description="The node under extra load; started by bench.")
    parser.add_argument("--spinning-threads", type=int, default=0, help="threads that compete with it [%(default)s]")
    parser.add_argument("--hang", type=float, default=3.0, help="how long SIGUSR1 blocks it [%(default)s s]")
    options, rest = parser.parse_known_args(arguments)
    signal.signal(signal.SIGUSR1, lambda number, frame: time.sleep(options.hang))
    for _ in range(options.spinning_threads):
        threading.Thread(target=_spin, daemon=True).start()
    return node.main(rest)


if __name__ == "__main__":
    sys.exit(main())
