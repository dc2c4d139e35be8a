"""``python -m aiofranka_ros.demo``, ``make demo`` and ``ros2 run aiofranka_ros demo``: run by people and by tests.

One thread; see :mod:`aiofranka_ros.demo.run` for the processes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from aiofranka_ros.demo.run import Demo
from aiofranka_ros.demo.screen import Screen, verdict_table
from aiofranka_ros.processes import StopRequest
from aiofranka_ros.testing import Failed, isolate


def _duration(text: str) -> float:
    """An argparse type: how long to draw [s]."""
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from error
    if not 2.0 <= value <= 600.0:
        raise argparse.ArgumentTypeError(f"{text} s is not between 2 and 600 s")
    return value


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
        "--duration", type=_duration, default=10.0, metavar="S", help="how long to draw the circle [%(default)s s]"
    )
    parser.add_argument(
        "--domain-id", type=int, choices=range(102), metavar="ID",
        help="ROS domain to use, for watching with ros2; by default one that is probably free",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="show only errors")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo.

    :returns: exit status: 0 if every requirement is met, 1 if not, 130 after Ctrl-C and 143 after SIGTERM.
    """
    options = _parser().parse_args(arguments)
    stop = StopRequest()
    stop.install()
    console, errors = Console(), Console(stderr=True)
    domain = isolate(options.domain_id)
    screen = Screen(console, Demo.expected_duration(options.duration), quiet=options.quiet)
    try:
        with stop.interrupts(), screen, Demo(options.output, options.duration, screen) as demo:
            screen.say(f"In ROS domain {domain}; to watch from another terminal: export ROS_DOMAIN_ID={domain}")
            report = demo.run()
    except (Failed, OSError) as failure:
        errors.print(f"The demo failed: {failure}", markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        return stop.exit_status
    if not options.quiet:
        console.print(verdict_table(report))
        for name in ("tracking.png", "report.json"):
            console.print(f"{options.output / name}", highlight=False)
    if not report["system"]["real_time_scheduling"]:
        errors.print("Without real-time scheduling: see the README, 'Real-time limits'.", highlight=False)
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
