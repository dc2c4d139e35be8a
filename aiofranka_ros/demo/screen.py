"""The demo's progress bar and its table of results.

Used by :mod:`aiofranka_ros.demo`, in its process and its one thread.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from aiofranka_ros.demo.evaluation import REQUIREMENTS


class Screen:
    """Shows the progress of the demo: a bar in a terminal, plain lines elsewhere.

    A context manager; inside it, the bar is visible.

    :param seconds: about how long all stages take [s].
    :param quiet: show nothing.
    """

    def __init__(self, console: Console, seconds: float, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._bar = Progress(
            TextColumn("{task.description:<40}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            auto_refresh=False,  # That would be a second thread.
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=seconds)
        self._expected = self._begin = self._done = 0.0

    @contextlib.contextmanager
    def stage(self, text: str, seconds: float) -> Iterator[None]:
        """One part of the demo, which takes about ``seconds``."""
        self._begin, self._expected = time.monotonic(), seconds
        self._bar.update(self._task, description=text, refresh=True)
        if not self._quiet and not self._console.is_terminal:
            self._console.print(f"{text} ...")
        yield
        self._done += seconds
        self._bar.update(self._task, completed=self._done, refresh=True)

    def update(self) -> None:
        """Advance the bar; call it several times a second."""
        elapsed = min(time.monotonic() - self._begin, self._expected)
        self._bar.update(self._task, completed=self._done + elapsed, refresh=True)

    def say(self, text: str) -> None:
        """Show a line."""
        if not self._quiet:
            self._console.print(text, highlight=False)

    def __enter__(self) -> Screen:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def verdict_table(report: dict[str, Any]) -> Table:
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
        good = requirement.holds(report)
        table.add_row(
            requirement.text,
            "not measured" if value is None else f"{_number(value)}{unit}",
            f"{relations[requirement.relation]}{_number(requirement.limit)}{unit}",
            "[green]✓[/]" if good else "[bold red]✗[/]",
        )
    return table


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
