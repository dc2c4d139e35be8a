"""The page about a recording: its sections as plain text, for the terminal, for HTML and as JSON.

Used by :mod:`aiofranka_ros.explain.program` and :mod:`aiofranka_ros.explain.page`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from aiofranka_ros.explain.evidence import Evidence
from aiofranka_ros.explain.rules import Verdict
from aiofranka_ros.recording.reader import Entry

#: How much of the log is shown before and after the end [ns], and at most how many lines and refusals.
_BEFORE, _AFTER, _MOST = 5_000_000_000, 2_000_000_000, 12
#: A limit that was this close is worth a warning.
_CLOSE = 0.9


@dataclass(frozen=True)
class Section:
    """A part of the page: a title, and lines of which some are important."""

    title: str
    lines: tuple[tuple[str, bool], ...]


class Report:
    """What there is to say about a recording."""

    def __init__(self, evidence: Evidence, verdict: Verdict) -> None:
        self.evidence, self.verdict = evidence, verdict

    @property
    def heading(self) -> str:
        """When and where it was."""
        e = self.evidence
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1e-9 * e.end))
        length = 1e-9 * float(e.cycles.stamps[-1] - e.cycles.stamps[0]) if len(e.cycles) else 0.0
        return (
            f"{when}, robot at {e.summary.get('address', '?')}, driven by {e.owner}, mode {e.mode}; {len(e.cycles)} "
            f"cycles ({length:.1f} s) before it"
            + (" (the end of the file is missing)" if e.recording.truncated else "")
        )

    @property
    def sections(self) -> list[Section]:
        """Everything below the verdict."""
        tries = tuple((f"{number}. {text}", False) for number, text in enumerate(self.verdict.tries, 1))
        sections = [
            Section("What to try", tries),
            Section("How close to its limits", self._limits()),
            Section("Who was late", self._late()),
            Section("What was asked for", self._asked()),
            Section("What was refused", self._refused()),
            Section("The log around it", self._log()),
        ]
        return [section for section in sections if section.lines]

    def _limits(self) -> tuple[tuple[str, bool], ...]:
        """In the last tenth of a second."""
        return tuple(
            (
                f"{one.percent:4.0f} %  {one.kind:<15} {one.what}: {one.value:.3g} of {one.limit:.3g} {one.unit}",
                one.share >= _CLOSE,
            )
            for one in self.evidence.limits
        )

    def _late(self) -> tuple[tuple[str, bool], ...]:
        e = self.evidence
        if not e:
            return (("the arm was not active, or nothing was recorded", False),)
        p50, p999, longest = e.response
        lines = [
            (
                f"answers in the last second: {p50:.0f} us after their state (median), {p999:.0f} us (99.9 %), "
                f"{longest:.0f} us at most; {e.late_answers} too late",
                e.late_answers > 0,
            ),
            (f"answers that did not reach the robot in time at the end: {e.unanswered}", e.unanswered > 1),
            (f"cycles lost: {e.lost} in this activation, as far as it was recorded", e.lost > 0),
            (f"time without a cycle: {e.gap_ms:.0f} ms", e.gap_ms > 5.0),
            (
                f"the control process waited for a processor during that time: {e.control_waited_ms:.0f} ms",
                e.control_waited_ms > 5.0,
            ),
            (f"longest silence of {e.owner} around it: {e.owner_gap_ms:.0f} ms", e.owner_gap_ms > 60.0),
        ]
        load = "  ".join(f"{value:g}" for value in e.summary.get("load", ()))
        lines.append((f"this computer: load {load}, {e.summary.get('processors', '?')} processors", False))
        if e.busy:
            lines.append((f"busy a moment later: {e.busy}", False))
        if missing := e.summary.get("missing"):
            lines.append((f"missing for real time: {'; '.join(missing)}", True))
        return tuple(lines)

    def _asked(self) -> tuple[tuple[str, bool], ...]:
        e = self.evidence
        lines: list[tuple[str, bool]] = []
        if (request := e.last_request) is not None:
            details = ", ".join(f"{name} {value}" for name, value in request["data"].items() if value)
            state = "it was on its way" if e.moving else "it was over"
            lines.append((f"{request['message']} ({details}), begun {e.before(request.stamp)}; {state}", False))
        if (target := e.last_target) is not None:
            lines.append((f"the last target: {_target(target)}, {e.before(target.stamp)}", False))
        if e.largest_step is not None and e.largest_step[0] > 0.0:
            step, entry = e.largest_step
            lines.append((f"largest step between two targets in the last 0.5 s: {step:.4f} on {entry['topic']}", False))
        for change in e.changes:
            lines.append((f"parameters changed {e.before(change.stamp)}: {change['message']}", False))
        if e.limited:
            counts = ", ".join(f"{name} ({count})" for name, count in e.limited.items())
            lines.append((f"targets limited in the last 3 s by: {counts}", True))
        return tuple(lines) or (("nothing in the time that was recorded", False),)

    def _refused(self) -> tuple[tuple[str, bool], ...]:
        e = self.evidence
        refused = [
            one for one in e.recording.events if one["kind"] == "refusal" and abs(e.end - one.stamp) < 2 * _BEFORE
        ]
        return tuple((f"{e.before(one.stamp)}: {one['message']}", False) for one in refused[-_MOST:])

    def _log(self) -> tuple[tuple[str, bool], ...]:
        e = self.evidence
        near = [line for line in e.recording.log if -_AFTER <= e.end - line.stamp <= _BEFORE]
        return tuple(
            (f"{1e-9 * (line.stamp - e.end):+7.3f} s  {line['message']}", line["level"] >= 3) for line in near[-_MOST:]
        )

    def show(self, console: Console) -> None:
        """Print the page."""
        console.print(self.verdict.sentence, style="bold", markup=False)
        console.print(self.heading, style="dim", markup=False)
        for section in self.sections:
            console.print(f"\n{section.title}", style="bold", markup=False)
            for line, important in section.lines:
                console.print(f"  {line}", style="yellow" if important else "", markup=False)
        console.print(f"\n{self.evidence.recording.path}", style="dim", markup=False)

    def values(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return {
            "verdict": self.verdict.sentence,
            "rule": self.verdict.rule,
            "try": list(self.verdict.tries),
            "file": str(self.evidence.recording.path),
            "about": self.heading,
            "trigger": self.evidence.trigger,
            "errors": list(self.evidence.errors),
            "limits": [
                {
                    "kind": one.kind,
                    "what": one.what,
                    "value": one.value,
                    "limit": one.limit,
                    "share": round(one.share, 3),
                }
                for one in self.evidence.limits
            ],
            **{section.title: [line for line, _ in section.lines] for section in self.sections[2:]},
        }


def _target(target: Entry) -> str:
    """A target for people."""
    values = " ".join(f"{value:.3f}" for value in target["values"])
    sender = f" from {target['sender']}" if target["sender"] else ""
    return f"{target['topic']}{sender}, [{values}]"
