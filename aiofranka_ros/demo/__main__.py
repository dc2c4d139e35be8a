"""``python -m aiofranka_ros.demo``, ``make demo`` and ``ros2 run aiofranka_ros demo``: run by people and by tests.

One thread; see :mod:`aiofranka_ros.demo.run` for the processes.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from aiofranka_ros.demo.evaluation import REQUIREMENTS
from aiofranka_ros.demo.run import run
from aiofranka_ros.processes import StopRequest
from aiofranka_ros.testing import Failed, isolate

#: About how long everything but the circle takes [s].
_OTHER_STAGES = 14.0


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


def _table(report: dict[str, Any]) -> Table:
    """The figures, their requirements, and whether they meet them."""
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("figure")
    table.add_column("measured", justify="right")
    table.add_column("required", justify="right")
    table.add_column("")
    relations = {"<=": "≤ ", ">=": "≥ ", ">": "> ", "=": ""}
    for requirement in REQUIREMENTS:
        value = requirement.value(report)
        unit = f" {requirement.unit}" if requirement.unit else ""
        table.add_row(
            requirement.text,
            "not measured" if value is None else f"{_number(value)}{unit}",
            f"{relations[requirement.relation]}{_number(requirement.limit)}{unit}",
            "[green]✓[/]" if requirement.holds(report) else "[bold red]✗[/]",
        )
    return table


@contextlib.contextmanager
def _progress(console: Console, duration: float) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """Show the stages: on a terminal a progress bar with the present one, otherwise a line for each.

    Without a thread, because Python runs code between fork and exec to start the node's process.
    """
    if not console.is_terminal:
        yield console.print, lambda: None
        return
    begin = time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        task = progress.add_task("", total=duration + _OTHER_STAGES)
        yield (
            lambda text: progress.update(task, description=text),
            lambda: progress.update(task, completed=time.monotonic() - begin, refresh=True),
        )


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo.

    :returns: exit status: 0 if every requirement is met, 1 if not, 130 after Ctrl-C and 143 after SIGTERM.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if not 2.0 <= options.duration <= 600.0:
        parser.error(f"argument --duration: {options.duration} s is not between 2 and 600 s")
    stop = StopRequest()
    stop.install()
    console, errors = Console(quiet=options.quiet, highlight=False), Console(stderr=True, highlight=False)
    domain = isolate(options.domain_id)
    console.print(f"In ROS domain {domain}; to watch from another terminal: export ROS_DOMAIN_ID={domain}")
    try:
        with stop.interrupts(), _progress(console, options.duration) as (say, on_wait):
            report = run(options.output, options.duration, say, on_wait)
    except (Failed, OSError) as failure:
        errors.print(f"The demo failed: {failure}", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        return stop.exit_status
    console.print(_table(report))
    for name in ("tracking.png", "report.json"):
        console.print(f"{options.output / name}", markup=False)
    if not report["system"]["real_time_scheduling"]:
        errors.print("Without real-time scheduling: see the README, 'Real-time limits'.")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
