"""``python -m aiofranka_ros.demo``, ``make demo`` and ``ros2 run aiofranka_ros demo``: run by people and by tests.

Handles signals before the imports of :mod:`aiofranka_ros.demo.program`, which take seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from aiofranka_ros.processes import StopRequest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo.

    :returns: exit status: 0 if every requirement is met, 1 if not, 130 after Ctrl-C, 143 after SIGTERM, and 129
        after the end of its terminal.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if not 2.0 <= options.duration <= 600.0:
        parser.error(f"argument --duration: {options.duration} s is not between 2 and 600 s")
    stop = StopRequest()
    stop.install()
    from aiofranka_ros.demo import program

    return program.main(options, stop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aiofranka_ros.demo",
        description="Drive a simulated arm through the node: a policy that blocks itself for 300 ms of every second "
        "draws a circle, then the arm moves home, then a move is cancelled half way. The exit status is 0 if every "
        "figure in the table meets its requirement.",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("demo"), metavar="DIR",
        help="folder for report.json, tracking.png, targets.json and the logs [%(default)s]",
    )  # fmt: skip
    parser.add_argument(
        "--duration", type=float, default=10.0, metavar="S", help="how long to draw the circle [%(default)s s]"
    )
    parser.add_argument(
        "--domain-id", type=int, choices=range(102), metavar="ID",
        help="ROS domain to use, for watching with ros2; by default one that is probably free",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="show only errors")
    return parser


if __name__ == "__main__":
    sys.exit(main())
