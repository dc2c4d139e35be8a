"""The demo's figures, from its recorded control cycles: whether they meet the requirements, and the plot.

Called by :mod:`aiofranka_ros.demo.run` after the arm has stopped, in its process and thread. Nothing here needs ROS or
a running arm: the input is one :data:`~aiofranka_ros.control.records.CYCLE_RECORD` per control cycle, in order, and the
stamps of the targets that the policy published.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from aiofranka_ros.kernels import Array, Record

#: Records of control cycles (n,).
Cycles: TypeAlias = npt.NDArray[Any]
#: Stamps [ns, system clock] (n,).
Stamps: TypeAlias = npt.NDArray[np.int64]

#: The robot computes its success rate over this many cycles; at first they include those before the activation.
_SUCCESS_WINDOW = 100
#: A joint slower than this stands still [rad/s].
REST_VELOCITY = 0.01


def response_times(cycles: Cycles) -> dict[str, float]:
    """From a state's arrival to its torque's departure [µs]."""
    response = 1e6 * cycles["response"]
    p50, p99, p999 = np.percentile(response, (50, 99, 99.9))
    values = {"mean": response.mean(), "p50": p50, "p99": p99, "p999": p999, "max": response.max()}
    return {name: round(float(value), 1) for name, value in values.items()}


def percentiles(values: Array, **ranks: float) -> dict[str, float | None]:
    """Percentiles by name, e.g. ``p99=99``; ``None`` without values."""
    return {name: round(float(np.percentile(values, rank)), 3) if len(values) else None for name, rank in ranks.items()}


def success_rate_min(cycles: Cycles) -> float | None:
    """Lowest ``control_command_success_rate``, without the first 100 cycles of each activation.

    ``None`` if no activation lasted longer than that.
    """
    rates = [
        cycles["success_rate"][cycles["activation"] == activation][_SUCCESS_WINDOW:]
        for activation in np.unique(cycles["activation"])
    ]
    rate = np.concatenate(rates)
    return float(rate.min()) if len(rate) else None


def setpoint_latencies(cycles: Cycles, stamps: Stamps) -> Array:
    """Time from the publication of each target to the first torque computed with it [ms].

    :param stamps: when the targets were published.
    :returns: one value for each target that affected a torque, so at most as many as there are ``stamps``.
    """
    seen, first = np.unique(cycles["target_stamp"], return_index=True)
    _, index, published = np.intersect1d(seen, stamps, return_indices=True)
    return 1e-6 * (cycles["stamp"][first[index]] - stamps[published])


class Tracking(NamedTuple):
    """How the control frame followed a path, cycle by cycle; positions in the base frame [m] (n, 3).

    :ivar time: since the first target [s] (n,).
    """

    time: Array
    desired: Array
    measured: Array

    @property
    def error(self) -> Array:
        """Distance between the two [mm] (n,)."""
        return np.asarray(1e3 * np.linalg.norm(self.measured - self.desired, axis=1))

    @property
    def figures(self) -> dict[str, float]:
        """Root mean square and maximum of the distance [mm]."""
        error = self.error
        return {"rms": round(float(np.sqrt(np.mean(error**2))), 3), "max": round(float(error.max()), 3)}


def _between(cycles: Cycles, since: int, until: int) -> Cycles:
    return cycles[(cycles["stamp"] >= since) & (cycles["stamp"] <= until)]


def track(cycles: Cycles, path: Callable[[Stamps], Array], stamps: Stamps) -> Tracking:
    """Compare the measured path with the desired one from the first to the last target.

    The desired path continues during gaps between targets, so the error in a gap counts.

    :param path: position [m] (n, 3) as a function of stamps (n,).
    """
    during = _between(cycles, stamps[0], stamps[-1])
    when = during["stamp"].astype(np.int64)
    return Tracking(1e-9 * (when - stamps[0]), path(when), during["position"])


def joint_error(cycles: Cycles, goal: Array, since: int, until: int) -> float | None:
    """Largest distance of any joint from ``goal`` [rad] (7,) between two times [ns]; ``None`` without cycles."""
    during = _between(cycles, since, until)["q"]
    return round(float(np.abs(during - goal).max()), 6) if len(during) else None


def stop_duration(cycles: Cycles, since: int, until: int) -> float | None:
    """How long after ``since`` all joints stand still and stay so until ``until`` [ns].

    :returns: [s]; 0 if the arm did not move; ``None`` if a joint still moved at the end.
    """
    during = _between(cycles, since, until)
    moving = np.flatnonzero(np.abs(during["dq"]).max(axis=1) >= REST_VELOCITY)
    if len(moving) == 0:
        return 0.0
    if moving[-1] + 1 == len(during):
        return None
    return round(1e-9 * float(during["stamp"][moving[-1] + 1] - since), 4)


def gains(commands: Record) -> dict[str, float]:
    """Largest translational stiffness [1/s²] in use, and the damping ratio furthest from 1."""
    stiffness, damping = commands["ee_kp"][:3], commands["ee_kd"][:3]
    ratio = damping / (2.0 * np.sqrt(stiffness))
    return {
        "translation": float(stiffness.max()),
        "damping_ratio": round(float(ratio[np.abs(ratio - 1.0).argmax()]), 3),
    }


class Requirement(NamedTuple):
    """A requirement for one figure of the report."""

    key: str  #: Its place in the report, e.g. ``response_us.p999``.
    text: str  #: The description of the figure.
    relation: str  #: ``=``, ``<=``, ``>=`` or ``>``.
    limit: float | str
    unit: str = ""

    def value(self, report: Mapping[str, Any]) -> Any:
        """The figure; ``None`` if it could not be measured."""
        value: Any = report
        for name in self.key.split("."):
            value = value[name]
        return value

    def holds(self, report: Mapping[str, Any]) -> bool:
        """Whether the report meets it. A figure that could not be measured does not."""
        value = self.value(report)
        if value is None or isinstance(self.limit, str):
            return bool(value == self.limit)
        return bool(_RELATIONS[self.relation](value, self.limit))


_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "=": functools.partial(math.isclose, rel_tol=0.01), "<=": operator.le, ">=": operator.ge, ">": operator.gt,
}  # fmt: skip


#: The demo passes if it meets all of these.
REQUIREMENTS: tuple[Requirement, ...] = (
    Requirement("cycles", "control cycles", ">", 10_000),
    Requirement("cycles_unread", "cycles that were not recorded", "=", 0),
    Requirement("cycles_lost", "robot cycles lost", "=", 0),
    Requirement("success_rate_min", "lowest command success rate", ">=", 0.99),
    Requirement("response_us.p999", "response of the loop, 99.9 %", "<=", 300, "µs"),
    Requirement("setpoint_latency_ms.p50", "target to torque, median", "<=", 2, "ms"),
    Requirement("tracking_mm.rms", "tracking error, rms", "<=", 5, "mm"),
    Requirement("gains.translation", "stiffness per inertia", "<=", 400, "s⁻²"),
    Requirement("gains.damping_ratio", "damping ratio", "=", 1),
    Requirement("move.status", "move", "=", "TARGET_REACHED"),
    Requirement("move.error_rad_max", "largest joint error after it", "<=", 0.01, "rad"),
    Requirement("cancel.status", "cancelled move", "=", "CANCELED"),
    Requirement("cancel.stop_s", "request to standstill", "<=", 1, "s"),
    Requirement("shutdown_exit_code", "exit code of the node", "=", 0),
)


def plot(
    path: Path, tracking: Tracking, targets: Array, gaps: Sequence[tuple[float, float]], report: Mapping[str, Any],
    cycles: Cycles,
) -> None:  # fmt: skip
    """Draw the paths, the error over time and the response times into the file ``path``.

    :param targets: positions of the targets that were published [m] (m, 3).
    :param gaps: intervals without targets [s], since the first target.
    """
    # Imported here, because the import takes a second and nothing else needs it.
    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e5e5e5", "lines.linewidth": 1.0,
        "legend.framealpha": 1.0, "legend.edgecolor": "none",
    }  # fmt: skip
    desired_color, measured_color, target_color, gap_color = "#555555", "#0072b2", "#d55e00", "#f0e0c0"
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(13.0, 6.5), layout="constrained")
        places = figure.subplot_mosaic([["path", "error"], ["path", "response"]], gridspec_kw={"width_ratios": (4, 5)})

        axes = places["path"]
        _, *desired = 1e3 * tracking.desired.T
        _, *measured = 1e3 * tracking.measured.T
        _, *points = 1e3 * targets.T
        axes.plot(*desired, color=desired_color, label="desired")
        axes.plot(*measured, color=measured_color, label="measured")
        axes.plot(*points, ".", color=target_color, markersize=3.0, label="published targets")
        axes.set(title="Path of the control frame", xlabel="y in the base [mm]", ylabel="z in the base [mm]")
        axes.set_aspect("equal", adjustable="datalim")
        axes.legend(loc="center")

        axes = places["error"]
        for number, (begin, end) in enumerate(gaps):
            axes.axvspan(begin, end, color=gap_color, label="" if number else "policy blocked, no targets")
        axes.plot(tracking.time, tracking.error, color=measured_color)
        rms = report["tracking_mm"]["rms"]
        axes.axhline(rms, color=measured_color, linestyle="--", label=f"rms {rms:.1f} mm")
        axes.set(title="Distance of measured from desired", xlabel="time since the first target [s]")
        axes.set(ylabel="error [mm]", ylim=(0.0, 1.35 * max(1.0, report["tracking_mm"]["max"])))
        axes.legend(loc="upper right", ncols=2)

        axes = places["response"]
        response, p999 = 1e6 * cycles["response"], report["response_us"]["p999"]
        limit = next(float(item.limit) for item in REQUIREMENTS if item.key == "response_us.p999")
        axes.hist(response, bins=np.geomspace(max(1.0, 0.9 * response.min()), 1.1 * max(limit, response.max()), 80))
        axes.axvline(p999, color="black", linestyle="--", label=f"99.9 %: {p999:.0f} µs")
        axes.axvline(limit, color=target_color, label=f"limit of the 99.9 %: {limit:g} µs")
        axes.set(xscale="log", yscale="log", xlabel="state received to torque sent [µs]", ylabel="cycles")
        axes.set_title(f"Response of the 1 kHz loop, {len(cycles)} cycles, {report['cycles_lost']} lost")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.legend(loc="upper right")
        figure.savefig(path, dpi=120)
