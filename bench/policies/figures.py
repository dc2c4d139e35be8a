"""What the arm did with a stream, computed from its recorded control cycles; and the report.

Called by :mod:`bench.policies.__main__` in its thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter1d
from scipy.spatial.transform import Rotation

from aiofranka_ros.kernels import Array
from bench.policies.streams import SPEED, TURN_SPEED, Kind, Message

#: Velocities and accelerations are of the measured position, smoothed over this many cycles of 1 ms.
_WINDOW = 21
#: The first second of a stream does not count for the speed: the arm must start.
_START = 1.0
#: Requirements: reversal [m], fastest speed at any time, and distance [m] and acceleration [m/s²] from an even stream.
REVERSAL, FASTEST, APART, APART_ACCELERATION = 1e-3, 1.3, 2e-3, 2.0


@dataclass(frozen=True)
class Result:
    """What the arm did with one stream; the arrays have a row for each cycle."""

    kind: Kind
    time: Array  #: since the first message [s] (n,)
    position: Array  #: of the hand, from where the stream began [m] (n, 3)
    reference: Array  #: of the smooth reference, likewise
    turn: Array  #: of the hand about the vertical, likewise [rad] (n,)
    lost: int  #: cycles

    @property
    def velocity(self) -> Array:
        """Of the hand [m/s] (n, 3)."""
        return np.asarray(np.gradient(_smooth(self.position), self.time, axis=0))

    @property
    def acceleration(self) -> Array:
        """Of the hand [m/s²] (n, 3)."""
        return np.asarray(np.gradient(_smooth(self.velocity), self.time, axis=0))

    @property
    def speed(self) -> Array:
        """Of what the stream moves, as a share of the speed that is meant (n,)."""
        if self.kind.turning:
            return np.asarray(np.gradient(_smooth(self.turn), self.time)) / TURN_SPEED
        return np.asarray(np.linalg.norm(self.velocity, axis=1)) / SPEED


def result(kind: Kind, cycles: npt.NDArray[Any], begin: float, origin: Array) -> Result:
    """Make a result of recorded cycles.

    :param begin: when the first message was sent [s, the cycles' clock].
    :param origin: where the stream began, in the base [m] (3,).
    """
    # The robot's time is even; the clock, at which a busy computer records it, is not.
    time = cycles["time"] - np.median(cycles["time"] - 1e-9 * cycles["stamp"]) - begin
    turned = Rotation.from_quat(cycles["orientation"])
    turn = np.unwrap((turned * turned[0].inv()).as_rotvec()[:, 2])
    position, reference = (cycles[name] - origin for name in ("position", "ref_position"))
    return Result(kind, time, position, reference, turn, int(cycles["lost"].sum()))


def figures(found: Result, sent: Sequence[Message], others: Mapping[str, Result]) -> tuple[dict[str, float], list[str]]:
    """The figures of a result, and which requirements it does not meet.

    :param others: results so far, by the name of their kind.
    """
    kind, end = found.kind, sent[-1].sent
    speed = found.speed
    moving = (found.time > 0.0) & (found.time < end)
    settled = moving & (found.time > _START + 0.5)
    values = {
        "slowest": float(speed[settled].min()),
        "fastest": float(speed[settled].max()),
        "fastest ever": float(speed[moving].max()),
        "acceleration [m/s²]": float(np.linalg.norm(found.acceleration, axis=1)[settled].max()),
        "lost": float(found.lost),
    }
    if kind.straight or not kind.paused:
        values["lag [ms]"] = _lag(found, sent, settled)
    wrong = []
    if not kind.paused and not kind.slowest <= values["slowest"] <= values["fastest"] <= kind.fastest:
        wrong.append(f"speed not within {kind.slowest:g} to {kind.fastest:g}")
    if values["fastest ever"] > FASTEST and kind.near == np.inf:
        wrong.append(f"faster than {FASTEST:g} times the meant speed")
    if kind.straight:
        along = found.position[moving, 1]
        values["reversal [mm]"] = 1e3 * float((np.maximum.accumulate(along) - along).max())
        if values["reversal [mm]"] > 1e3 * REVERSAL:
            wrong.append(f"goes back by more than {1e3 * REVERSAL:g} mm")
    if kind.near < np.inf:
        line = np.array([0.0, 1.0, 0.0]) if kind.straight else np.zeros(3)
        away = found.position[moving] - np.outer(found.position[moving] @ line, line)
        values["off [mm]"] = 1e3 * float(np.linalg.norm(away, axis=1).max())
        if values["off [mm]"] > 1e3 * kind.near:
            wrong.append(f"more than {1e3 * kind.near:g} mm from what is meant")
    if kind.like in others:
        other = others[kind.like]
        times = found.time[settled]
        apart = found.position[settled] - _at(other, other.position, times)
        values["apart [mm]"] = 1e3 * float(np.linalg.norm(apart, axis=1).max())
        rough = found.acceleration[settled] - _at(other, other.acceleration, times)
        values["apart [m/s²]"] = float(np.linalg.norm(rough, axis=1).max())
        if values["apart [mm]"] > 1e3 * APART or values["apart [m/s²]"] > APART_ACCELERATION:
            wrong.append(f"not like {kind.like}: within {1e3 * APART:g} mm and {APART_ACCELERATION:g} m/s²")
    if found.lost:
        wrong.append(f"{found.lost} cycles lost")
    return values, wrong


def table(rows: Sequence[tuple[str, Mapping[str, float], Sequence[str]]]) -> list[str]:
    """The figures in Markdown."""
    columns = {
        "slowest": "{:.2f}", "fastest": "{:.2f}", "fastest ever": "{:.2f}", "reversal [mm]": "{:.1f}",
        "acceleration [m/s²]": "{:.1f}", "lag [ms]": "{:.0f}", "off [mm]": "{:.1f}", "apart [mm]": "{:.1f}",
        "apart [m/s²]": "{:.1f}",
    }  # fmt: skip
    lines = ["| stream | " + " | ".join(columns) + " | |", "|---" * (len(columns) + 2) + "|"]
    for name, values, wrong in rows:
        cells = [form.format(values[column]) if column in values else "" for column, form in columns.items()]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {'; '.join(wrong) or '✓'} |")
    return lines


def draw(results: Sequence[Result], path: Path) -> None:
    """Plot the speed of every stream."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 0.85 * len(results)), dpi=72, layout="constrained")
    for axes, found in zip(np.atleast_1d(figure.subplots(len(results), 1, sharex=True)), results, strict=True):
        axes.plot(found.time, found.speed, linewidth=0.8)
        axes.axhline(1.0, color="black", linewidth=0.5, linestyle="--")
        axes.set_title(found.kind.name, fontsize=7, loc="left", pad=2)
        axes.set_ylim(0.0, 2.0)
        axes.set_xlim(0.0, 5.0)
        axes.tick_params(labelsize=6)
    axes.set_xlabel("time [s]; speed of the hand, as a share of the speed that is meant", fontsize=7)
    figure.savefig(path)


def _smooth(values: Array) -> Array:
    return np.asarray(uniform_filter1d(values, _WINDOW, axis=0))


def _at(found: Result, values: Array, times: Array) -> Array:
    return np.column_stack([np.interp(times, found.time, column) for column in values.T])


def _lag(found: Result, sent: Sequence[Message], settled: Array) -> float:
    """How long after a target was sent, or was due, the hand is at it: the mean over the path [ms]."""
    # By the way that was covered, which the sent targets have as the hand does, whatever the path.
    turning = found.kind.turning
    offsets = np.array([[message.turn] if turning else message.offset for message in sent])
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(offsets, axis=0), axis=1))])
    due = np.array([message.sent if message.stamp is None else message.stamp for message in sent])
    first = np.concatenate([[True], np.diff(way) > 0.0])
    moved = found.turn[:, None] if turning else found.position
    covered = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(_smooth(moved), axis=0), axis=1))])
    begin = np.searchsorted(found.time, 0.0)
    reached = np.interp(way[first], covered - covered[begin], found.time)
    late = (reached - due[first])[(due[first] > _START + 0.5) & (due[first] < due[-1] - 0.5)]
    return 1e3 * float(np.mean(late)) if len(late) else float("nan")
