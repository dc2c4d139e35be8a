"""Figures, a table and plots from the files of the subjects.

Called by :mod:`bench.loops.__main__` in its one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.loops.loads import LOADS

#: The subject that the others are compared with, and the two subjects of this project.
REFERENCE, OWN = "aiofranka_native", ("aiofranka_ros_direct", "aiofranka_ros_node")
#: Largest ratio of our loop's response to that of the reference, and largest share of a processor.
LARGEST_RATIO = 1.25
LARGEST_SHARE = 0.15
#: From the start of a process to torque control, with compiled kernels.
LONGEST_START_S = 5.0
#: From publishing a target to the first torque computed with it, through the node.
LARGEST_LATENCY_MS = {"p50": 1.2, "p99": 3.0}
HEAD = (
    "| subject | mean [µs] | p50 | p99 | p99.9 | max | lost | longest gap | success | CPU | target to torque [ms] "
    "| age of the state [ms] | start [s] | robot time | |"
)
_PERCENTILES = {"p50": 50.0, "p99": 99.0, "p999": 99.9}
_MILLISECOND = 1e-3


def measure(path: Path) -> dict[str, Any]:
    """The figures of one measurement."""
    with np.load(path) as found:
        time, response, success = found["time"], 1e6 * found["response"], found["success_rate"]
        written, cpu, ended = found["written"], float(found["cpu"]), str(found["ended"])
        times = {name: 1e3 * found[name] if name in found else np.empty(0) for name in ("latency", "state_age")}
        cpu_node, start_s = (float(found[name]) if name in found else None for name in ("cpu_node", "start"))
    if len(time) < 2:
        return {"ended": ended or "no cycle was recorded", "cycles": len(time)}
    steps = np.rint(np.diff(time) / _MILLISECOND).astype(int)
    return {
        "cycles": len(time),
        "response_us": {
            "mean": float(response.mean()),
            **{name: float(np.percentile(response, share)) for name, share in _PERCENTILES.items()},
            "max": float(response.max()),
        },
        "cycles_lost": int(np.maximum(steps - 1, 0).sum()),
        "longest_gap": int(steps.max()),
        "longest_gap_ms": float(1e3 * np.diff(written).max()),
        "success_rate_min": float(success.min()),
        "cpu": cpu,
        "cpu_node": cpu_node,
        "start_s": start_s,
        "speed": float(np.ptp(time) / np.ptp(written)),
        "ended": ended,
        **{
            f"{name}_ms": {share: float(np.percentile(values, _PERCENTILES[share])) for share in ("p50", "p99")}
            if len(values)
            else None
            for name, values in times.items()
        },
    }


def combine(rounds: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One entry of the report from the entries of all rounds: medians, and the worst case for lost cycles and gaps."""
    rounds = list(rounds)
    measured = [entry for entry in rounds if "response_us" in entry]
    result: dict[str, Any] = {"rounds": len(rounds), "ended": [entry["ended"] for entry in rounds if entry["ended"]]}
    if not measured:
        return result
    result["response_us"] = {
        name: round(float(np.median([entry["response_us"][name] for entry in measured])), 1)
        for name in measured[0]["response_us"]
    }
    result["response_us"]["max"] = round(max(entry["response_us"]["max"] for entry in measured), 1)
    result["spread_us"] = {
        name: [round(float(edge), 1) for edge in np.percentile([e["response_us"][name] for e in measured], (0, 100))]
        for name in measured[0]["response_us"]
    }
    result["cycles"] = sum(entry["cycles"] for entry in measured)
    result["cycles_lost"] = sum(entry["cycles_lost"] for entry in measured)
    result["longest_gap"] = max(entry["longest_gap"] for entry in measured)
    result["longest_gap_ms"] = round(max(entry["longest_gap_ms"] for entry in measured), 2)
    result["success_rate_min"] = round(min(entry["success_rate_min"] for entry in measured), 3)
    for name in ("latency_ms", "state_age_ms"):
        times = [entry[name] for entry in measured if entry[name]]
        if times:
            result[name] = {share: round(float(np.median([one[share] for one in times])), 3) for share in times[0]}
    for name in ("cpu", "cpu_node", "start_s", "speed"):
        values = [entry[name] for entry in measured if entry[name] is not None and np.isfinite(entry[name])]
        result[name] = round(float(np.median(values)), 4) if values else None
    return result


def judge(subjects: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """The requirements for this project's loops: a sentence, the value found, and whether it is good enough."""
    verdicts = []
    reference = subjects.get(REFERENCE, {})
    for name in OWN:
        for mode, loads in subjects.get(name, {}).items():
            theirs = reference.get(mode, {})
            for load, entry in loads.items():
                where = f"{name}, {mode}, {load}"
                if "response_us" not in entry or entry["ended"]:
                    verdicts.append((f"{where}: keeps running", "; ".join(entry["ended"]), False))
                    continue
                other = theirs.get(load, {})
                if mode == "osc" and load == "idle" and "response_us" in other:
                    for figure in ("mean", "p999"):
                        ratio = entry["response_us"][figure] / other["response_us"][figure]
                        verdicts.append(
                            (f"{where}: {figure} relative to the C++ loop", f"{ratio:.2f}", ratio <= LARGEST_RATIO)
                        )
                allowed = other.get("cycles_lost", 0) if load == "cores" else 0
                lost = entry["cycles_lost"]
                verdicts.append((f"{where}: cycles lost, at most {allowed}", f"{lost}", lost <= allowed))
                if "longest_gap" in other and not other["ended"]:
                    gap = entry["longest_gap"]
                    verdicts.append(
                        (f"{where}: longest gap, at most {other['longest_gap']}", f"{gap}", gap <= other["longest_gap"])
                    )
                if load == "idle" and name == "aiofranka_ros_node":
                    for figure, most in LARGEST_LATENCY_MS.items():
                        found = entry["latency_ms"][figure]
                        verdicts.append(
                            (f"{where}: target to torque, {figure}, at most {most} ms", f"{found} ms", found <= most)
                        )
                if load == "idle":
                    share = entry["cpu"]
                    verdicts.append(
                        (f"{where}: CPU, at most {LARGEST_SHARE:.0%}", f"{share:.1%}", share <= LARGEST_SHARE)
                    )
                if load == "idle" and entry["start_s"] is not None:
                    start = entry["start_s"]
                    verdicts.append(
                        (
                            f"{where}: from its start to torque control, at most {LONGEST_START_S:g} s",
                            f"{start:.1f} s",
                            start <= LONGEST_START_S,
                        )
                    )
    return verdicts


def summary(subjects: Mapping[str, Any]) -> list[str]:
    """One table for each mode, in Markdown: response, cycles lost and longest gap, by load and subject."""
    lines: list[str] = []
    for mode in sorted({mode for modes in subjects.values() for mode in modes}):
        names = [name for name in subjects if mode in subjects[name]]
        lines += ["", f"| {mode} | {' | '.join(f'`{name}`' for name in names)} |", "|---" * (len(names) + 1) + "|"]
        for load, what in LOADS.items():
            entries = [subjects[name][mode].get(load) for name in names]
            if any(entries):
                lines.append(f"| {what} | {' | '.join(map(_cell, entries))} |")
    return lines


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    ended = f"stopped in {len(entry['ended'])} of {entry['rounds']}" if entry["ended"] else ""
    if "response_us" not in entry:
        return ended
    times = "{mean:.0f} / {p999:.0f}".format(**entry["response_us"])
    lost = f"{entry['cycles_lost']} lost, gap {entry['longest_gap']}"
    return ", ".join(part for part in (times, lost, ended) if part)


def table(subjects: Mapping[str, Any]) -> list[str]:
    """The report's tables, in Markdown."""
    lines: list[str] = []
    for mode in sorted({mode for modes in subjects.values() for mode in modes}):
        for load, what in LOADS.items():
            rows = [(name, modes[mode][load]) for name, modes in subjects.items() if load in modes.get(mode, {})]
            if not rows:
                continue
            lines += [
                "",
                f"### {mode}, {load}: {what}",
                "",
                HEAD,
                "|---" * (HEAD.count("|") - 1) + "|",
            ]
            for name, entry in rows:
                if "response_us" not in entry:
                    lines.append(f"| `{name}` {'| ' * (HEAD.count('|') - 2)}{'; '.join(entry['ended'])} |")
                    continue
                r = entry["response_us"]
                low, high = entry["spread_us"]["mean"]
                latency, age = (
                    "{p50:.2f}, p99 {p99:.2f}".format(**entry[figure]) if figure in entry else ""
                    for figure in ("latency_ms", "state_age_ms")
                )
                cpu = "" if entry["cpu"] is None else f"{entry['cpu']:.1%}"
                if entry["cpu_node"] is not None:
                    cpu += f", node {entry['cpu_node']:.1%}"
                start = "" if entry["start_s"] is None else f"{entry['start_s']:.1f}"
                ended = ""
                if entry["ended"]:
                    ended = f"stopped in {len(entry['ended'])} of {entry['rounds']} rounds: {entry['ended'][0]}"
                lines.append(
                    f"| `{name}` | {r['mean']:.0f} ({low:.0f} to {high:.0f}) | {r['p50']:.0f} | {r['p99']:.0f} "
                    f"| {r['p999']:.0f} | {r['max']:.0f} | {entry['cycles_lost']} | {entry['longest_gap']} "
                    f"| {entry['success_rate_min']:.2f} | {cpu} | {latency} | {age} | {start} "
                    f"| {entry['speed']:.2f}x | {ended} |"
                )
    return lines


def plot(path: Path, subjects: Mapping[str, Any], figure_name: str, title: str) -> None:
    """A group of bars for each load, a bar for each subject; one row for each mode."""
    from matplotlib.figure import Figure

    modes = sorted({mode for found in subjects.values() for mode in found})
    loads = [
        load for load in LOADS if any(load in found.get(mode, {}) for found in subjects.values() for mode in modes)
    ]
    figure = Figure(figsize=(max(6.0, 1.5 * len(loads)), 2.8 * len(modes)), dpi=100, layout="constrained")
    rows = figure.subplots(len(modes), squeeze=False)[:, 0]
    width = 0.8 / max(1, len(subjects))
    for axes, mode in zip(rows, modes, strict=True):
        for index, (name, found) in enumerate(subjects.items()):
            values = []
            for load in loads:
                entry = found.get(mode, {}).get(load, {})
                value = entry.get("response_us", {}).get(figure_name, entry.get(figure_name, np.nan))
                values.append(value)
            axes.bar(np.arange(len(loads)) + (index - 0.5 * (len(subjects) - 1)) * width, values, width, label=name)
        axes.set_xticks(range(len(loads)), loads)
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_title(f"{title}, {mode}", fontsize=9)
    rows[0].legend(fontsize=7)
    figure.savefig(path)
