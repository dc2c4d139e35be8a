"""``python3 -m aiofranka_ros.explain``, or ``ros2 run aiofranka_ros explain``: what stopped the arm?

Handles signals before the imports of :mod:`aiofranka_ros.explain.program`, which take a second. Needs no ROS.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from aiofranka_ros.processes import StopRequest


def main(arguments: Sequence[str] | None = None) -> int:
    """Explain a recording.

    :returns: exit status: 0 if there is one, 1 if not, 130 after Ctrl-C. Wrong options exit with 2.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.output is not None and not options.output.absolute().parent.is_dir():
        parser.error(f"argument --output: there is no folder {options.output.absolute().parent}")
    stop = StopRequest()
    stop.install()
    from aiofranka_ros.explain import program

    return program.main(options, stop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="explain",
        description="Say what stopped the arm, from a recording that its node or program has written: the cause in "
        "plain words, which joint or limit was how close, who was late, what was asked for last, and what to try.",
        epilog="Exit status: 0 if there is a recording, 1 if not, 2 if the command line is wrong. docs/recording.md "
        "explains what a recording contains.",
    )
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="a recording; default: the newest one")
    parser.add_argument(
        "--folder", metavar="DIR", help="where to look for the newest one, if not in the default of recording_folder"
    )
    parser.add_argument("--output", type=Path, metavar="PAGE", help="write a page with plots, as HTML")
    parser.add_argument("--list", action="store_true", help="list the recordings and their verdicts, the oldest first")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
