"""The page about a recording as HTML, with plots, in one file that needs nothing else.

Called by :mod:`aiofranka_ros.explain.program`, if a file was asked for. matplotlib is imported here, because the import
takes a second and nothing else needs it.
"""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from aiofranka_ros.explain.evidence import Evidence
from aiofranka_ros.explain.report import Report
from aiofranka_ros.model import fr3

#: What is plotted before the end [s].
_SHOWN = 3.0
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em; color: #222; }
h1 { font-size: 1.35em; } h2 { font-size: 1.05em; margin-bottom: 0.3em; } .about { color: #666; }
pre { margin: 0; white-space: pre-wrap; } .important { color: #b04a00; } svg { max-width: 100%; height: auto; }
"""


def write(report: Report, path: Path) -> None:
    """Write the page.

    :raises OSError: the file cannot be written.
    """
    parts = [f"<h1>{html.escape(report.verdict.sentence)}</h1>", f'<p class="about">{html.escape(report.heading)}</p>']
    for index, section in enumerate(report.sections):
        lines = "\n".join(
            f'<span class="important">{html.escape(line)}</span>' if important else html.escape(line)
            for line, important in section.lines
        )
        parts.append(f"<h2>{html.escape(section.title)}</h2>\n<pre>{lines}</pre>")
        if index == 0 and report.evidence:
            parts.append(plots(report.evidence))
    parts.append(f'<p class="about">{html.escape(str(report.evidence.recording.path))}</p>')
    title, body = html.escape(report.verdict.sentence), "\n".join(parts)
    path.write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def plots(evidence: Evidence) -> str:
    """Joint velocities, torques, their changes, positions and responses before the end, as SVG."""
    cycles = evidence.cycles
    times = 1e-9 * (cycles.stamps - evidence.end)
    shown = times >= -_SHOWN
    times = times[shown]
    style = {"axes.grid": True, "axes.axisbelow": True, "grid.color": "#e5e5e5", "svg.fonttype": "none"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10.0, 12.5), layout="constrained")
        axes = figure.subplots(5, 1, sharex=True)
        half = 0.5 * (fr3.POSITION_UPPER - fr3.POSITION_LOWER)
        middle = 0.5 * (fr3.POSITION_UPPER + fr3.POSITION_LOWER)
        rates = np.diff(cycles["tau"], axis=0, prepend=cycles["tau"][:1]) / fr3.CYCLE
        for axis, values, limit, title in (
            (axes[0], cycles["dq"], fr3.VELOCITY_LIMIT, "velocity"),
            (axes[1], cycles["tau"], fr3.TORQUE_LIMIT, "torque"),
            (axes[2], rates, fr3.TORQUE_RATE_LIMIT, "change of the torque"),
            (axes[3], cycles["q"] - middle, half, "position in its range"),
        ):
            _lines(axis, times, 100.0 * (values / limit)[shown], title)
        axes[4].plot(times, 1e6 * cycles["response"][shown], linewidth=0.8, color="#0072b2", label="response")
        lost = cycles["lost"][shown] > 0
        axes[4].plot(
            times[lost], 1e6 * cycles["response"][shown][lost], "x", color="#d55e00", label="after lost cycles"
        )
        axes[4].set(ylabel="response [us]", xlabel="time before the end [s]")
        axes[4].legend(loc="upper left")
        axes[0].legend(loc="upper left", ncols=7, fontsize=8)
        for axis in axes:
            for target in evidence.recording.targets[-1:]:
                if target.stamp > evidence.end - int(1e9 * _SHOWN):
                    axis.axvline(1e-9 * (target.stamp - evidence.end), color="#999999", linewidth=0.8, linestyle=":")
        file = io.StringIO()
        figure.savefig(file, format="svg")
    text = file.getvalue()
    return text[text.index("<svg") :]


def _lines(axis: Any, times: Any, values: Any, title: str) -> None:
    for joint in range(7):
        axis.plot(times, values[:, joint], linewidth=0.9, label=f"joint {joint + 1}")
    for bound in (-100.0, 100.0):
        axis.axhline(bound, color="#d55e00", linewidth=0.8, linestyle="--")
    axis.set(ylabel=f"{title} [%]", ylim=(-120.0, 120.0))
