"""The outcomes of the faults: a table for the terminal, and a page that plots torque and velocity around each fault.

Called by :mod:`bench.faults.__main__` in its one thread.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from bench.faults.catalogue import Fault

#: Points of a curve that a small plot can show.
_POINTS = 500
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; color: #222; }
table { border-collapse: collapse; width: 100%; }
td, th { border-top: 1px solid #ccc; padding: .6em .5em; text-align: left; vertical-align: top; }
.mark { font-weight: bold; } .good { color: #187a2f; } .bad { color: #b3261e; } .skip { color: #8a6d00; }
.seen span { display: block; } .how { color: #666; } img { width: 460px; }
"""


@dataclass
class Outcome:
    """The outcome of one fault.

    :ivar seen: the findings, in one line.
    :ivar stop_ms: from the fault to standstill; ``None`` if nothing had to stop, or nothing did.
    :ivar marked: when the fault happened [ns, system clock]; 0 if it did not.
    :ivar steps: the motion of the arm around it, see :data:`bench.faults.arm.STEP`.
    :ivar draw: draws something else on a figure.
    """

    fault: Fault
    seen: str
    passed: bool
    skipped: bool = False
    stop_ms: float | None = None
    duration_s: float = 0.0
    marked: int = 0
    steps: npt.NDArray[Any] = field(default_factory=lambda: np.empty(0))
    draw: Callable[[Any], None] | None = None

    @property
    def entry(self) -> dict[str, Any]:
        """The entry in ``report.json``."""
        return {
            "name": self.fault.name,
            "expected": self.fault.expected,
            "seen": self.seen,
            "passed": self.passed,
            "skipped": self.skipped,
            "stop_ms": None if self.stop_ms is None else round(self.stop_ms, 1),
            "duration_s": round(self.duration_s, 1),
        }

    @property
    def verdict(self) -> tuple[str, str]:
        """A symbol, and the CSS class of its colour."""
        if self.skipped:
            return "–", "skip"
        return ("✓", "good") if self.passed else ("✗", "bad")


def table(outcomes: Sequence[Outcome]) -> Table:
    """The table for a terminal."""
    result = Table(show_edge=False, pad_edge=False, show_lines=False)
    for name in ("fault", "", "stop [ms]", "seen"):
        result.add_column(name, justify="right" if "ms" in name else "left", no_wrap=name == "fault")
    colours = {"good": "green", "bad": "bold red", "skip": "yellow"}
    for outcome in outcomes:
        sign, kind = outcome.verdict
        stop = "" if outcome.stop_ms is None else f"{outcome.stop_ms:.0f}"
        result.add_row(outcome.fault.name, f"[{colours[kind]}]{sign}[/]", stop, outcome.seen.replace("[", r"\["))
    return result


def write_page(path: Path, outcomes: Sequence[Outcome], machine: str) -> None:
    """Write the page as a single file."""
    rows = []
    for outcome in outcomes:
        sign, kind = outcome.verdict
        seen = "".join(
            f"<span{' class=bad' if part.startswith('✗') else ''}>{html.escape(part)}</span>"
            for part in outcome.seen.split("; ")
        )
        stop = "" if outcome.stop_ms is None else f"{outcome.stop_ms:.0f}"
        how = html.escape((outcome.fault.stage.__doc__ or "").strip())
        picture = _plot(outcome)
        image = f'<img alt="what was recorded" src="data:image/png;base64,{picture}">' if picture else ""
        rows.append(
            f"<tr><td class='mark {kind}'>{sign}</td><td><b>{outcome.fault.name}</b><br>"
            f"<span class=how>{how}</span><br><i>expected:</i> {html.escape(outcome.fault.expected)}</td>"
            f"<td class=seen>{seen}</td><td>{stop}</td><td>{image}</td></tr>"
        )
    passed = sum(outcome.passed for outcome in outcomes)
    path.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Faults</title>"
        f"<style>{_STYLE}</style><h1>Faults: {passed} of {len(outcomes)} as expected</h1>"
        f"<p>{html.escape(machine)}</p><p>Unless labelled otherwise, the curves show the seven joints, recorded by "
        "the arm's own physics: the commanded torque as a share of its limit, and the velocity. The dashed line marks "
        "the fault.</p>"
        "<table><tr><th></th><th>fault</th><th>seen</th><th>stop [ms]</th><th></th></tr>"
        + "".join(rows)
        + "</table></html>\n"
    )


def _plot(outcome: Outcome) -> str:
    """A fault's own picture, or torque and velocity around it, as a PNG in base64; empty if nothing was recorded."""
    if outcome.draw is None and len(outcome.steps) < 2:
        return ""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 2.5), dpi=90, layout="constrained")
    (outcome.draw or partial(_draw_motion, outcome))(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def _draw_motion(outcome: Outcome, figure: Any) -> None:
    from aiofranka_ros.model.fr3 import TORQUE_LIMIT

    steps = outcome.steps
    every = max(1, len(steps) // _POINTS)
    steps = steps[::every]
    since = 1e-9 * (steps["stamp"] - outcome.marked)
    torque, velocity = figure.subplots(2, 1, sharex=True)
    torque.plot(since, 100.0 * steps["tau"] / TORQUE_LIMIT, linewidth=0.8)
    torque.set_ylabel("torque [%]", fontsize=8)
    velocity.plot(since, steps["dq"], linewidth=0.8)
    velocity.set_ylabel("velocity [rad/s]", fontsize=8)
    velocity.set_xlabel("time since the fault [s]", fontsize=8)
    for axes in (torque, velocity):
        axes.axvline(0.0, color="black", linewidth=0.8, linestyle="--")
        axes.tick_params(labelsize=7)
        axes.margins(x=0.0)
