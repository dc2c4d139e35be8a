"""``python3 -m aiofranka_ros.streams``, or ``ros2 run aiofranka_ros streams``: which kind of stream are my targets?

Handles signals before the imports of :mod:`aiofranka_ros.streams.program`, which take seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from aiofranka_ros.ctl.options import full_name, node_options
from aiofranka_ros.processes import StopRequest

#: Longest watch [s].
_LONGEST = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch the streams of a node.

    :returns: exit status: 0 if there were targets, 1 if not, 143 after SIGTERM. Ctrl-C ends the watch: what came until
        then is reported. Wrong options exit with 2.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    options.node = full_name(parser, options)
    if options.output is not None and not options.output.absolute().parent.is_dir():
        parser.error(f"argument --output: there is no folder {options.output.absolute().parent}")
    stop = StopRequest()
    stop.install()
    from aiofranka_ros.streams import program

    return program.main(options, stop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="streams",
        parents=[node_options()],
        description="Watch the targets that are sent to a running node, and say of each topic which kind of stream it "
        "is (rate, jitter, repetitions, stamps, gaps, jumps, noise), what the arm does with it (lag, ripple of the "
        "speed, reversals), and which parameters to set. It only listens. Start your policy first.",
        epilog="Exit status: 0 if there were targets, 1 if not, 2 if the command line is wrong. Ctrl-C ends the watch, "
        "and what came until then is reported. It finds the nodes of the environment's ROS_DOMAIN_ID. docs/policies.md "
        "explains the kinds.",
    )
    parser.add_argument(
        "--seconds", type=_duration, default=5.0, metavar="S",
        help="how long to watch from the first target on; slow policies need more [%(default)g]",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE", help="plot targets and arm into a PNG file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _duration(text: str) -> float:
    """An argparse type: how long to watch [s]."""
    value = float(text)
    if not 0.5 <= value <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.5 and {_LONGEST:g} s")
    return value


if __name__ == "__main__":
    sys.exit(main())
