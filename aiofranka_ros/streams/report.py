"""The report of a watch: everything about each topic, as text for a terminal and as values for JSON.

Called by :mod:`aiofranka_ros.streams.program`, in its one thread.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from aiofranka_ros.ctl.commands import shown
from aiofranka_ros.errors import listed
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.ros.conditions import CTL
from aiofranka_ros.streams import advice
from aiofranka_ros.streams.advice import Finding, length
from aiofranka_ros.streams.analysis import Analysis, Kind, analyse
from aiofranka_ros.streams.chunks import ChunkFigures, chunk_figures, with_times
from aiofranka_ros.streams.response import Comparison, Response, compare, compare_chunks, respond
from aiofranka_ros.streams.watch import Received, Watch

#: Kinds whose speed is not even.
_UNEVEN = (Kind.THINKING, Kind.RESTING, Kind.SINGLE, Kind.AHEAD)


@dataclass(frozen=True)
class TopicReport:
    """What was found about one topic.

    :ivar received: what came.
    :ivar analysis: of single targets; ``None``: there are none.
    :ivar chunks: the figures of chunks; ``None``: there are none.
    :ivar comparison: the path of the targets and of the arm; ``None``: they cannot be compared.
    :ivar response: its figures.
    :ivar findings: what to know, the serious ones first.
    """

    received: Received
    analysis: Analysis | None
    chunks: ChunkFigures | None
    comparison: Comparison | None
    response: Response | None
    findings: tuple[Finding, ...]

    @property
    def kind(self) -> str:
        """Which kind it is, in a line."""
        if self.analysis is not None:
            form = " (trajectories of one point each, as of MoveIt Servo)" if self.received.topic.chunks else ""
            return advice.describe(self.analysis) + form
        return advice.describe_chunks(self.chunks) if self.chunks is not None else Kind.NOTHING.value

    @property
    def settings(self) -> dict[str, Any]:
        """Parameters that would help, and their values."""
        values: dict[str, Any] = {}
        for finding in self.findings:
            for name, value in finding.settings.items():
                values.setdefault(name, value)
        return values

    def command(self, node: str) -> str:
        """What sets them; empty: nothing needs to be set."""
        words = [f"{name} {shown(value)}" for name, value in self.settings.items()]
        return f"{CTL} set {' '.join(words)} --node {node}" if words else ""

    def values(self, node: str) -> dict[str, Any]:
        """Everything but the arrays, for JSON."""
        received = self.received
        return _plain(
            {
                "topic": received.name,
                "type": received.topic.type_name,
                "publishers": received.publishers,
                "messages": received.messages,
                "messages of other publishers": received.others,
                "unusable": dict(received.unusable),
                "kind": self.analysis.kind.value if self.analysis else "chunks" if self.chunks else Kind.NOTHING.value,
                "description": self.kind,
                "stream": self.analysis,
                "chunks": self.chunks,
                "arm": self.response,
                "findings": self.findings,
                "command": self.command(node),
            }
        )


def examine(
    received: Received, watch: Watch, names: ArmNames, settings: Mapping[str, Any], state: str | None
) -> TopicReport:
    """Everything about the targets of one topic.

    :param settings: parameters of the node.
    :param state: the node's lifecycle state, if it is known.
    """
    findings = advice.node_findings(
        received.topic.modes, settings, state, received.others, received.publishers if received.messages else ()
    )
    if received.unusable:
        reasons = ", ".join(f"{count} {reason}" for reason, count in received.unusable.most_common())
        findings.append(Finding(f"messages that are refused: {reasons}: {received.example}", serious=True))
    analysis = figures = comparison = response = None
    here = set(received.frames) <= {names.base}  # The arm is measured in its base.
    measured = watch.measured(received.quantity, names)
    if received.stream is not None and len(received.stream) > 0:
        analysis = analyse(received.stream)
        comparison = compare(received.stream, analysis, measured) if here else None
        if comparison is not None:
            response = respond(comparison, analysis.rhythm.period, even=analysis.kind not in _UNEVEN)
        findings += advice.stream_findings(analysis, None if findings else response, settings)
    elif received.chunks:
        step = 1.0 / settings.get("chunk_frequency", 15.0)
        figures = chunk_figures(received.quantity, received.chunks, step)
        if here:
            timed = with_times(received.chunks, step)
            comparison = compare_chunks(received.quantity, timed, figures.step, measured)
        if comparison is not None:
            response = respond(comparison, figures.step, even=figures.starved == 0)
        findings += advice.chunk_findings(figures, None if findings else response, settings)
    ordered = tuple(sorted(findings, key=lambda finding: not finding.serious))
    return TopicReport(received, analysis, figures, comparison, response, ordered)


def _plain(value: Any) -> Any:
    """``value`` made of what JSON has; what is not a number is null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def show(console: Console, report: TopicReport, node: str, seconds: float, said: Sequence[str]) -> None:
    """Print the report of a topic on which messages came.

    :param seconds: how long was watched [s].
    :param said: what the node says about its targets, line by line.
    """
    received = report.received
    console.print(f"[bold]{received.name}[/]  {received.topic.type_name}", end="")
    console.print(f", from {listed(received.publishers) or 'a publisher that is gone'}", markup=False)
    _line(console, "kind", report.kind, "bold")
    if report.analysis is not None:
        _line(console, "messages", _messages(report.analysis, seconds))
        _line(console, "targets", _targets(report.analysis))
        _line(console, "stamps", _stamps(report.analysis))
    elif report.chunks is not None:
        for name, text in _chunks(report.chunks, received).items():
            _line(console, name, text)
    if report.response is not None:
        _line(console, "the arm", _arm(report.response))
    for text in said:
        _line(console, "the node", text)
    for finding in report.findings:
        _line(console, "problem" if finding.serious else "note", finding.text, "yellow" if finding.serious else "")
        if finding.remedy:
            _line(console, "", f"-> {finding.remedy}")
    if command := report.command(node):
        _line(console, "set", command, "bold")
    elif not any(finding.serious for finding in report.findings):
        _line(console, "set", "nothing needs to be set", "green")


def _line(console: Console, name: str, text: str, style: str = "") -> None:
    console.print(f"  {name:<9} ", end="", markup=False)
    console.print(text, markup=False, style=style)


def _ms(seconds: float) -> str:
    return f"{round(1e3 * seconds, 1):.3g} ms" if seconds < 1.0 else f"{seconds:.3g} s"


def _messages(found: Analysis, seconds: float) -> str:
    rhythm = found.rhythm
    text = f"{rhythm.messages} in {seconds:.1f} s"
    if math.isnan(rhythm.rate):
        return text
    return (
        f"{text}: {rhythm.rate:.3g} Hz, {_ms(rhythm.interval)} apart, 95 % within {_ms(rhythm.jitter)}, at most "
        f"{_ms(rhythm.longest)}"
    )


def _targets(found: Analysis) -> str:
    rhythm, movement = found.rhythm, found.movement
    text = f"{rhythm.targets} different ones" if found.quantity.is_place else f"{rhythm.targets}"
    if rhythm.period > 0.0:
        text += f", {_ms(rhythm.period)} apart"
    if found.quantity.is_place:
        for speed, fastest, unit in zip(movement.speed, movement.fastest, found.quantity.units, strict=True):
            if fastest > 1e-4:
                text += f"; {length(speed, f'{unit}/s')}, at most {length(fastest, f'{unit}/s')}"
    noises = [
        length(each, unit) for each, unit in zip(movement.noise, found.quantity.units, strict=True) if each > 1e-6
    ]
    return text + (f"; noise {' and '.join(noises)}" if noises else "; no noise")


def _stamps(found: Analysis) -> str:
    stamps = found.stamps
    if stamps.given == 0.0:
        return "none"
    if abs(stamps.age) > 1e5:
        return "from another clock"
    text = f"{_ms(abs(stamps.age))} {'old' if stamps.age >= 0.0 else 'in the future'} on arrival"
    text += f", {1e3 * stamps.youngest:.3g} to {1e3 * stamps.oldest:.3g} ms, 95 % within {_ms(stamps.jitter)}"
    return "all the same" if stamps.constant else text


def _chunks(found: ChunkFigures, received: Received) -> dict[str, str]:
    units = received.quantity.units
    lines = {"length": f"{_ms(found.length)} from the first point to the last"}
    if found.stamped:
        lines["stamps"] = (
            f"{_ms(abs(found.age))} {'old' if found.age >= 0.0 else 'in the future'} on arrival, the oldest "
        )
        lines["stamps"] += f"{_ms(found.oldest)}; {100 * found.past:.0f} % of the points are past then"
    else:
        lines["stamps"] = "none"
    if found.seam:
        usual, largest = (
            " and ".join(length(each, unit) for each, unit in zip(seam, units, strict=True))
            for seam in (found.seam, found.largest_seam)
        )
        lines["seams"] = f"{usual} between a chunk and the one before, at most {largest}"
    return lines


def _arm(found: Response) -> str:
    if not found.follows:
        return "does not follow"
    text = f"{1e3 * abs(found.lag):.0f} ms {'behind' if found.lag >= 0.0 else 'ahead'}"
    if not math.isnan(found.slowest):
        text += f", {found.slowest:.2f} to {found.fastest:.2f} of the meant speed"
    text += f", back by at most {length(found.reversal, found.unit)}"
    return f"{text}, {length(found.apart, found.unit)} from the path (rms)"
