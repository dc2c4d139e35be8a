"""The part of the report about chunks: tables and a plot. Called by :mod:`bench.policies.__main__` in its thread."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.policies.mix import OURS, Found, verdicts
from bench.policies.rules import RULES
from bench.policies.seams import derivative

_FORMS = {
    "rms error [mrad]": "{:.1f}", "rms error without lag [mrad]": "{:.1f}", "lag [ms]": "{:.0f}", "ripple": "{:.2f}",
    "reversal [mrad]": "{:.1f}", "acceleration [rad/s²]": "{:.1f}", "jerk [rad/s³]": "{:.0f}",
    "peak jerk [rad/s³]": "{:.0f}", "torque rate [Nm/s]": "{:.0f}", "peak torque rate [Nm/s]": "{:.0f}",
    "reflexes": "{:.0f}",
}  # fmt: skip
#: The part of the example that is drawn [s].
_DRAWN = (3.0, 7.0)


def lines(found: Found) -> list[str]:
    """The tables in Markdown."""
    text = [
        "## Chunks",
        "",
        f"{len(found.common)} cases of {found.cases[0].meant.duration:g} s, each played to the same simulated arm:",
        "",
        "| played by | " + " | ".join(_FORMS) + " |",
        "|---" * (len(_FORMS) + 1) + "|",
    ]
    for player, values in found.table().items():
        cells = [form.format(values[name]) if name in values else "" for name, form in _FORMS.items()]
        text.append(f"| {player} | " + " | ".join(cells) + " |")
    text += ["", *(f"- {remark}" for remark in found.remarks)]
    names = ("rms error [mrad]", "jerk [rad/s³]", "torque rate [Nm/s]")
    text += ["", "| case | " + " | ".join(f"{name}, best rule" for name in names) + " |", "|---" * 4 + "|"]
    others = [found.figures[rule] for rule in RULES]
    for number in found.common:
        ours = found.figures[OURS][number]
        cells = [f"{ours[name]:.1f}, {min(values[number][name] for values in others):.1f}" for name in names]
        text.append(f"| {found.cases[number].name} | " + " | ".join(cells) + " |")
    text += ["", "| required | found | |", "|---|---|---|"]
    text += [f"| {what} | {value} | {'✓' if good else '✗'} |" for what, value, good in verdicts(found)]
    return text


def draw(found: Found, path: Path) -> None:
    """Plot how fast one joint moves in the first case, for each player."""
    from matplotlib.figure import Figure

    case = found.cases[0]
    times = np.arange(*_DRAWN, 1e-3)
    joint = int(np.abs(case.meant.velocity(times)).max(axis=0).argmax())
    figure = Figure(figsize=(8.0, 1.2 * len(found.example)), dpi=72, layout="constrained")
    all_axes = np.atleast_1d(figure.subplots(len(found.example), 1, sharex=True, sharey=True))
    for axes, (player, played) in zip(all_axes, found.example.items(), strict=True):
        for arrival in case.arrivals:
            axes.axvline(arrival, color="0.85", linewidth=0.8)
        axes.plot(times, case.meant.velocity(times)[:, joint], color="black", linewidth=0.6, linestyle="--")
        axes.plot(played.time, derivative(played.q)[:, joint], linewidth=0.9)
        axes.set_title(player, fontsize=7, loc="left", pad=2)
        axes.set_xlim(*_DRAWN)
        axes.set_ylim(-0.8, 0.8)
        axes.tick_params(labelsize=6)
    all_axes[-1].set_xlabel(
        f"time [s]; velocity of joint {joint + 1} [rad/s], dashed: as meant, grey: a chunk arrives; {case.name}",
        fontsize=7,
    )
    figure.savefig(path)
