"""What other projects do with chunks, re-implemented from their published behaviour: each makes single targets of them.

A rule sees only the chunks, their times of arrival, and, where that project's interface has it, when the observation
was made. Its targets then go to the arm through the interface for single targets. Called by
:mod:`bench.policies.mix`; nothing here needs ROS or an arm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from aiofranka_ros.kernels import Array
from bench.policies.chunks import Case

#: How often a controller that interpolates commands its joints [s].
_CYCLE = 1e-3
#: Weights of the older and of the newer of two actions for the same step.
_OLDER, _NEWER = 0.3, 0.7


@dataclass(frozen=True)
class Targets:
    """Single targets.

    :ivar times: when each is sent [s] (n,).
    :ivar values: joint positions [rad] (n, 7).
    """

    times: Array
    values: Array


def _stepped(case: Case, *, merge: bool) -> Targets:
    """A policy's loop: at each of its steps, it sends the action that is queued for that step, if there is one.

    A chunk's row ``i`` belongs to the ``i``-th step after the one in which its observation was made.
    """
    queued: dict[int, Array] = {}
    times, values = [], []
    waiting = list(case.sent)
    for step in range(math.ceil(case.meant.duration / case.dt)):
        now = step * case.dt
        while waiting and waiting[0].arrives <= now:
            chunk = waiting.pop(0)
            first = round(chunk.observed / case.dt)
            fresh = {first + i: row for i, row in enumerate(chunk.rows) if first + i >= step}
            if merge:
                for index in fresh.keys() & queued.keys():
                    fresh[index] = _OLDER * queued[index] + _NEWER * fresh[index]
            queued = fresh
        if step in queued:
            times.append(now)
            values.append(queued[step])
    return Targets(np.array(times), np.array(values))


def by_index(case: Case) -> Targets:
    """Play as it comes: a new chunk replaces the queue, and the row of the present step is sent."""
    return _stepped(case, merge=False)


def merged(case: Case) -> Targets:
    """Merge by index: where the queue and the new chunk have an action for the same step, send the weighted mean."""
    return _stepped(case, merge=True)


def spline(case: Case) -> Targets:
    """A joint trajectory controller: at each arrival, a C2 spline from the last command, with its velocity, through the
    points that are still to come, ending at rest; evaluated every millisecond."""
    times = np.arange(case.sent[0].arrives, case.meant.duration, _CYCLE)
    values = np.empty((len(times), 7))
    q, dq = case.meant.at(np.zeros(1))[0], np.zeros(7)
    for number, chunk in enumerate(case.sent):
        until = case.sent[number + 1].arrives if number + 1 < len(case.sent) else math.inf
        here = np.flatnonzero((times >= chunk.arrives) & (times < until))
        due = chunk.observed + case.dt * np.arange(len(chunk.rows))
        left = due > chunk.arrives + _CYCLE
        if not left.any():  # It came too late.
            values[here] = q
            continue
        knots, points = np.concatenate([[chunk.arrives], due[left]]), np.vstack([q, chunk.rows[left]])
        curve = CubicSpline(knots, points, bc_type=((1, dq), (1, np.zeros(7))))
        # The first command is a cycle after the last one of the chunk before.
        values[here] = curve(np.minimum(times[here] + _CYCLE, knots[-1]))
        end = min(times[here[-1]] + _CYCLE, knots[-1]) if len(here) else chunk.arrives
        q, dq = curve(end), curve(end, 1)
    return Targets(times, values)


def timed(case: Case) -> Targets:
    """A timer: row ``i`` is sent ``i * dt`` after the arrival, until the next chunk arrives."""
    times, values = [], []
    for number, chunk in enumerate(case.sent):
        until = case.sent[number + 1].arrives if number + 1 < len(case.sent) else case.meant.duration
        for i, row in enumerate(chunk.rows):
            if (due := chunk.arrives + i * case.dt) < until:
                times.append(due)
                values.append(row)
    return Targets(np.array(times), np.array(values))


#: The rules by their names in the report.
RULES: Mapping[str, Callable[[Case], Targets]] = {
    "row by index": by_index, "merged 0.3/0.7": merged, "C2 spline": spline, "timer": timed,
}  # fmt: skip
