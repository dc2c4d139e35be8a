"""Runs the demo and shows its stages and figures; one thread, see :mod:`aiofranka_ros.demo.run` for the processes.

Called by :mod:`aiofranka_ros.demo.__main__`, which handles signals before it imports this module and all that it needs.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from aiofranka_ros.demo.evaluation import REQUIREMENTS
from aiofranka_ros.demo.run import run
from aiofranka_ros.errors import Interrupted
from aiofranka_ros.processes import StopRequest
from aiofranka_ros.testing import Failed, isolate

#: About how long everything but the circle takes [s].
_OTHER_STAGES = 14.0


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


def main(options: argparse.Namespace, stop: StopRequest) -> int:
    """Run the demo and show its figures; options and exit status as in :mod:`aiofranka_ros.demo.__main__`."""
    console, errors = Console(quiet=options.quiet, highlight=False), Console(stderr=True, highlight=False)
    domain = isolate(options.domain_id)
    console.print(f"In ROS domain {domain}; to watch from another terminal: export ROS_DOMAIN_ID={domain}")
    try:
        with _progress(console, options.duration) as (say, show):

            def on_wait() -> None:
                stop.check()
                show()

            report = run(options.output, options.duration, say, on_wait)
    except (Failed, OSError, Interrupted) as failure:
        if stop.requested:
            errors.print("Interrupted.")
            return stop.exit_status
        errors.print(f"The demo failed: {failure}", markup=False, soft_wrap=True)
        return 1
    console.print(_table(report))
    for name in ("tracking.png", "report.json"):
        console.print(f"{options.output / name}", markup=False)
    if not report["system"]["real_time_scheduling"]:
        errors.print("Without real-time scheduling: see the README, 'Real-time limits'.")
    return 0 if report["passed"] else 1
