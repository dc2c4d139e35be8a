"""How well chunks were played: figures from what the joints did, and from what was meant.

Pure functions of records with one row per millisecond. Called by :mod:`bench.policies.mix` and
:mod:`bench.policies.report`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

from aiofranka_ros.kernels import Array
from bench.policies.chunks import Case

#: One cycle [s].
CYCLE = 1e-3
#: Derivatives are smoothed over this many cycles, each of them.
_WINDOW = 21
#: How long after an arrival what happens is due to the seam [s].
SEAM = 0.4
#: Longest lag that is looked for, largest lead, and the steps between [cycles].
_LONGEST_LAG, _LARGEST_LEAD, _LAG_STEP = 800, 100, 4
#: Slower than this, the movement has no direction [rad/s].
_STANDSTILL = 0.03


@dataclass(frozen=True)
class Played:
    """What the joints did in one case; a row for each cycle.

    :ivar time: from the case's beginning [s] (n,), evenly spaced.
    :ivar q: [rad] (n, 7).
    :ivar tau: commanded torques [Nm] (n, 7); ``None`` if there is no arm.
    :ivar waited: how long after the torque before it each of them arrived at the arm [cycles] (n,); ``None``: always 1.
    :ivar reflexes: how often the robot stopped by itself.
    """

    time: Array
    q: Array
    tau: Array | None = None
    waited: Array | None = None
    reflexes: int = 0


def derivative(values: Array, order: int = 1) -> Array:
    """Of ``values`` (n, 7), smoothed before each differentiation."""
    for _ in range(order):
        values = np.gradient(uniform_filter1d(values, _WINDOW, axis=0), CYCLE, axis=0)
    return np.asarray(values)


def lag(played: Played, case: Case) -> float:
    """How much later than meant the joints move [s]: where the distance to what was meant is smallest."""
    q = played.q[::_LAG_STEP]
    earlier, later = _LARGEST_LEAD // _LAG_STEP, _LONGEST_LAG // _LAG_STEP
    # What was meant, from the longest lag before the record to the largest lead after it.
    steps = np.arange(-later, len(q) + earlier)
    meant = case.meant.at(played.time[0] + steps * _LAG_STEP * CYCLE)
    lags = np.arange(-earlier, later + 1)
    errors = [_rms(q - meant[later - late : later - late + len(q)]) for late in lags]
    return float(lags[np.argmin(errors)]) * _LAG_STEP * CYCLE


def reversal(played: Played, case: Case, late: float) -> float:
    """How far the joints went back, at most [rad]: along the movement that was meant ``late`` [s] before."""
    meant = case.meant.velocity(played.time - late)
    speed = np.linalg.norm(meant, axis=1)
    along = np.sum(derivative(played.q) * meant, axis=1) / np.maximum(speed, _STANDSTILL)
    along[speed < _STANDSTILL] = 0.0
    way = np.cumsum(along) * CYCLE
    return float((np.maximum.accumulate(way) - way).max())


def figures(played: Played, case: Case) -> dict[str, float]:
    """Figures of one case.

    ``ripple``: the velocity's deviation from the meant one, as a share of it (both rms, after the lag). ``jerk`` and
    ``torque rate``: the mean over the seams of the largest in each, and ``peak ...``: the largest of all.
    """
    late = lag(played, case)
    moving = (played.time > case.sent[0].arrives + 1.0) & (played.time < case.meant.duration - 1.0)
    # Where derivatives are not affected by the ends of the record.
    inside = (played.time > 0.1) & (played.time < played.time[-1] - 0.1)
    velocity, meant = derivative(played.q), case.meant.velocity(played.time - late)
    jerks = at_seams(played.time[inside], np.abs(derivative(played.q, 3)).max(axis=1)[inside], case.arrivals)
    found = {
        "rms error [mrad]": 1e3 * _rms(played.q - case.meant.at(played.time)),
        "rms error without lag [mrad]": 1e3 * _rms(played.q - case.meant.at(played.time - late)),
        "lag [ms]": 1e3 * late,
        "ripple": _rms((velocity - meant)[moving]) / _rms(meant[moving]),
        "reversal [mrad]": 1e3 * reversal(played, case, late),
        "acceleration [rad/s²]": float(np.abs(derivative(played.q, 2))[inside].max()),
        "jerk [rad/s³]": float(np.mean(jerks)),
        "peak jerk [rad/s³]": float(np.max(jerks)),
        "reflexes": float(played.reflexes),
    }
    if played.tau is not None:
        # A computer that stops for some cycles makes no seam steeper.
        elapsed = CYCLE * (np.ones(len(played.time)) if played.waited is None else played.waited)
        steps = np.abs(np.diff(played.tau, axis=0, prepend=played.tau[:1])).max(axis=1)
        rates = at_seams(played.time, steps / elapsed, case.arrivals)
        found |= {"torque rate [Nm/s]": float(np.mean(rates)), "peak torque rate [Nm/s]": float(np.max(rates))}
    return found


def at_seams(time: Array, values: Array, arrivals: Array) -> Array:
    """The largest of ``values`` (n,) within :data:`SEAM` after each of ``arrivals``."""
    found = [values[(time >= arrival) & (time < arrival + SEAM)] for arrival in arrivals]
    return np.array([part.max() for part in found if len(part)] or [0.0])


def combined(figures_of_cases: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Figures over all cases: root mean squares of errors, the largest peaks, sums of reflexes, otherwise means."""
    found = {}
    for name in figures_of_cases[0]:
        values = np.array([figures_of_case[name] for figures_of_case in figures_of_cases])
        if name.startswith("rms"):
            found[name] = float(np.sqrt(np.mean(values**2)))
        elif name == "reflexes":
            found[name] = float(values.sum())
        else:
            largest = name.startswith(("peak", "reversal", "acceleration"))
            found[name] = float(values.max() if largest else values.mean())
    return found


def _rms(differences: Array) -> float:
    """Root mean square of the distances in joint space."""
    return float(np.sqrt(np.mean(np.sum(differences**2, axis=1))))
