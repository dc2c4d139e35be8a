"""The plot of a watch: for each topic, when its messages came, and the path of its targets and of the arm.

Called by :mod:`aiofranka_ros.streams.program`, if a file was asked for. matplotlib is imported here, because the import
takes a second and nothing else needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from aiofranka_ros.streams.recording import coordinates
from aiofranka_ros.streams.report import TopicReport

_TARGETS, _ARM, _MEANT = "#d55e00", "#0072b2", "#aaaaaa"


def draw(reports: Sequence[TopicReport], path: Path) -> None:
    """Plot ``reports`` into a PNG file; topics without messages are left out.

    :raises OSError: the file cannot be written.
    """
    drawn = [report for report in reports if report.received.messages]
    style = {"axes.grid": True, "axes.axisbelow": True, "grid.color": "#e5e5e5", "legend.edgecolor": "none"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(12.0, 5.0 * len(drawn)), layout="constrained")
        for part, report in zip(np.atleast_1d(figure.subfigures(len(drawn), 1)), drawn, strict=True):
            part.suptitle(f"{report.received.name}   {report.kind}", fontsize=10)
            above, below = part.subplots(2, 1, sharex=True)
            _draw_rhythm(above, report)
            _draw_path(below, report)
        figure.savefig(path, dpi=100, format="png")


def _draw_rhythm(axes: Any, report: TopicReport) -> None:
    stream = report.received.stream
    arrivals = np.array([chunk.arrival for chunk in report.received.chunks]) if stream is None else stream.arrivals
    axes.plot(arrivals[1:], 1e3 * np.diff(arrivals), ".", color=_ARM, markersize=3.0, label="since the last message")
    if stream is not None and stream.quantity.is_place:
        times = stream.arrivals[stream.different()]
        axes.plot(
            times[1:], 1e3 * np.diff(times), "x", color=_TARGETS, markersize=4.0, label="since the last other target"
        )
    axes.set(ylabel="time [ms]", yscale="log")
    axes.legend(loc="upper right")


def _draw_path(axes: Any, report: TopicReport) -> None:
    """The coordinate that moves most."""
    found, received = report.comparison, report.received
    axes.set(xlabel="time [s]")
    if found is not None:
        widest = int(np.argmax(np.ptp(found.meant, axis=0)))
        scale, unit = (1e3, "mm") if found.unit == "m" else (1.0, found.unit)
        first = found.meant[0, widest]
        axes.plot(found.times, scale * (found.meant[:, widest] - first), "-", color=_MEANT, linewidth=0.8)
        axes.plot(
            found.times, scale * (found.meant[:, widest] - first), ".", color=_TARGETS, markersize=3.0, label="targets"
        )
        axes.plot(
            found.measured_at,
            scale * (found.measured[:, widest] - first),
            "-",
            color=_ARM,
            linewidth=1.0,
            label="the arm",
        )
        axes.set_ylabel(f"way [{unit}]")
    elif received.stream is not None and len(received.stream):
        vectors = coordinates(received.quantity, received.stream.values)[0]
        for column in vectors.T:
            axes.plot(received.stream.arrivals, column, ".-", linewidth=0.6, markersize=3.0)
        axes.set_ylabel(f"targets [{received.quantity.units[0]}]")
        return
    else:
        for chunk in received.chunks:
            axes.plot(chunk.due, coordinates(received.quantity, chunk.values)[0], linewidth=0.8)
        axes.set_ylabel(f"points of chunks [{received.quantity.units[0]}]")
        return
    axes.legend(loc="upper right")
