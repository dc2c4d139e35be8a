"""What a recording proves: how close each joint was to each limit, who was late, and what was asked for last.

Used by the rules and the report of :mod:`aiofranka_ros.explain`. Everything is computed from the recording, when it is
first asked for; nothing here judges.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from aiofranka_ros.control.records import Law, Limit, Mode, Phase
from aiofranka_ros.kernels import Array
from aiofranka_ros.model import fr3
from aiofranka_ros.recording.reader import Entry, Recording, Table

#: How long before the end limits are compared [ns], and external forces before and after it.
_BEFORE, _AROUND = 100_000_000, 60_000_000
#: A gap is looked for in this time before the end [ns].
_RECENT = 3_000_000_000
#: How many cycles before a loss the process may have been late, and for how long [ns].
_LATE_BEFORE, _AROUND_LOSS = 5, 15_000_000
#: What passes between a stop and its notice in any case: a tick of the owner, and a few states [s].
_NOTICE = 0.015
#: A torque that leaves later than this after its state is late [s]: the robot's network needs the rest of the cycle.
LATE_ANSWER = 0.9e-3
#: The success rate is the share of the last commands that reached the robot; so many of them.
_WINDOW = 100
#: ``franka::RobotMode``.
GUIDING, USER_STOPPED = 3, 5


@dataclass(frozen=True)
class Closeness:
    """How close something was to its limit."""

    what: str  #: e.g. ``joint 4``
    value: float
    limit: float
    unit: str
    kind: str  #: e.g. ``velocity``

    @property
    def share(self) -> float:
        """Share of the limit: 1 is at the limit."""
        return self.value / self.limit if self.limit > 0.0 else 0.0

    @property
    def percent(self) -> float:
        """The same in percent."""
        return 100.0 * self.share

    def __str__(self) -> str:
        return f"{self.what}: {self.value:.3g} {self.unit}, {self.percent:.0f} % of {self.limit:.3g} {self.unit}"


class Evidence:
    """The facts in one recording. Times are [ns, system clock] or [ms]."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.summary = recording.summary
        self.trigger: str = recording.summary["trigger"]
        self.message: str = recording.summary.get("message", "")
        self.errors: tuple[str, ...] = tuple(recording.summary.get("errors", ()))
        #: When the owner noticed what happened.
        self.noticed = int(recording.summary["stamp"])
        self.cycles = self._cycles()
        #: When the last torque was sent before that; the notice if there was none.
        self.end = int(self.cycles.stamps[-1]) if len(self.cycles) else self.noticed

    def _cycles(self) -> Table:
        """The cycles of the activation in which it happened."""
        cycles = self.recording.cycles
        # What followed a lost cycle or a request is a part of it.
        known = np.arange(len(cycles)) if self.still_active else np.flatnonzero(cycles.stamps <= self.noticed)
        if len(known) == 0:
            return cycles.only(slice(0, 0))
        activation = cycles["activation"][known[-1]]
        return cycles.only(known[cycles["activation"][known] == activation])

    def __bool__(self) -> bool:
        return len(self.cycles) > 0

    @property
    def still_active(self) -> bool:
        """Whether nothing had stopped the arm."""
        return self.trigger in ("cycles lost", "asked")

    @property
    def missing_ms(self) -> float:
        """How long the robot and this computer missed each other: the gap, or all cycles that were lost [ms]."""
        return max(self.gap_ms, float(self.lost) if self.still_active else 0.0)

    @property
    def owner(self) -> str:
        """What owned the arm."""
        return f"the node {self.summary['owner']}" if self.summary.get("node") else "the program"

    # Limits.

    def _last(self, name: str, before: int = _BEFORE) -> Array:
        """A field of the cycles before the end."""
        return self.cycles[name][self.cycles.stamps >= self.end - before]

    def _worst(self, kind: str, values: Array, limits: Array, unit: str) -> Closeness:
        """The joint closest to its limit; arrays (n, 7), and (7,) or (n, 7)."""
        limits = np.broadcast_to(limits, values.shape)
        shares = np.abs(values) / np.maximum(limits, 1e-9)
        row, joint = np.unravel_index(int(np.argmax(shares)), shares.shape)
        return Closeness(f"joint {joint + 1}", float(abs(values[row, joint])), float(limits[row, joint]), unit, kind)

    @cached_property
    def velocity(self) -> Closeness:
        """The fastest joint, compared with the velocities that the robot allows at its position."""
        q, dq = self._last("q"), self._last("dq")
        lower, upper = np.empty(7), np.empty(7)
        limits = np.empty(q.shape)
        for row, (position, velocity) in enumerate(zip(q, dq, strict=True)):
            fr3.velocity_envelope(np.ascontiguousarray(position), lower, upper)
            limits[row] = np.where(velocity < 0.0, -lower, upper)
        return self._worst("velocity", dq, np.maximum(limits, 1e-3), "rad/s")

    @cached_property
    def torque(self) -> Closeness:
        """The joint with the largest commanded torque, compared with its limit."""
        return self._worst("torque", self._last("tau"), fr3.TORQUE_LIMIT, "Nm")

    @cached_property
    def torque_rate(self) -> Closeness:
        """The joint whose commanded torque changed most from one cycle to the next."""
        tau, lost = self._last("tau"), self._last("lost")
        if len(tau) < 2:
            return Closeness("joint 1", 0.0, fr3.TORQUE_RATE_LIMIT, "Nm/s", "torque rate")
        rates = np.diff(tau, axis=0) / (fr3.CYCLE * (1.0 + lost[1:, np.newaxis]))
        return self._worst("torque rate", rates, np.full(7, fr3.TORQUE_RATE_LIMIT), "Nm/s")

    @cached_property
    def position(self) -> Closeness:
        """The joint closest to an end of its range, as a share of the way there from the middle."""
        middle, half = 0.5 * (fr3.POSITION_UPPER + fr3.POSITION_LOWER), 0.5 * (fr3.POSITION_UPPER - fr3.POSITION_LOWER)
        return self._worst("position", self._last("q") - middle, half, "rad from the middle")

    @cached_property
    def room(self) -> float:
        """How far the joint of :attr:`position` was from the end of its range [rad]; negative: beyond."""
        return self.position.limit - self.position.value

    def _external(self, name: str) -> Array:
        """A measured external quantity around the end (n, k); zeros if the owner saw nothing then."""
        ticks = self.recording.ticks
        around = (ticks.stamps >= self.end - _AROUND // 2) & (ticks.stamps <= self.noticed + _AROUND)
        values = ticks[name][around]
        return values if len(values) else np.zeros((1, ticks[name].shape[1] if ticks[name].ndim > 1 else 7))

    @cached_property
    def external_torque(self) -> Closeness:
        """The joint that was pushed most, compared with its threshold."""
        limits = np.array(self.recording.parameters["collision_torque_thresholds"], dtype=float)
        return self._worst("external torque", self._external("tau_external"), limits, "Nm")

    @cached_property
    def external_force(self) -> Closeness:
        """The direction in which the hand was pushed most, compared with its threshold."""
        limits = np.array(self.recording.parameters["collision_force_thresholds"], dtype=float)
        found = self._worst("external force", self._external("external_wrench"), limits, "N")
        axis = int(found.what.split()[1]) - 1
        what = f"{'force along' if axis < 3 else 'torque about'} {'xyz'[axis % 3]}"
        return Closeness(f"{what} of the base", found.value, found.limit, "N" if axis < 3 else "Nm", found.kind)

    @cached_property
    def push(self) -> Closeness:
        """What was pushed most, compared with its threshold: a joint or the hand."""
        return max(self.external_torque, self.external_force, key=lambda one: one.share)

    @cached_property
    def limits(self) -> list[Closeness]:
        """All limits with a figure, the closest first."""
        if not self:
            return []
        found = [self.velocity, self.torque, self.torque_rate, self.position, self.external_torque, self.external_force]
        return sorted(found, key=lambda one: one.share, reverse=True)

    @cached_property
    def asked_velocity(self) -> float:
        """How fast the joint of :attr:`velocity` was asked to be [rad/s]; NaN if there is no joint reference."""
        if not self or self.law not in (Law.IMPEDANCE, Law.PID, Law.MOTION):
            return float("nan")
        reference = self._last("ref_q")
        joint = int(self.velocity.what.split()[1]) - 1
        return float(np.abs(np.diff(reference[:, joint])).max() / fr3.CYCLE) if len(reference) > 1 else 0.0

    @property
    def pushed(self) -> bool:
        """Whether the joint of :attr:`velocity` was much faster than it was asked to be."""
        return self.asked_velocity < 0.5 * self.velocity.value or self.push.share > 0.5

    # Who was late.

    @cached_property
    def lost(self) -> int:
        """Cycles that were lost in this activation, as far as it was recorded."""
        return int(self.cycles["lost"].sum())

    @cached_property
    def gap(self) -> tuple[int, int]:
        """When the longest time without a cycle began and ended: the last one before the end, or the one at the end."""
        stamps = self.cycles.stamps
        if self.still_active:
            lost = self.cycles["lost"]
            if not len(lost) or not lost.any():
                return self.end, self.end
            # A process that was late answers a state that waited for it, and only then misses those after it.
            worst = int(np.argmax(lost))
            first = max(worst - _LATE_BEFORE, 1)
            worst = first + int(np.argmax(np.diff(stamps[first - 1 : worst + 1])))
            return int(stamps[worst - 1]), int(stamps[worst])
        silence = min(self.noticed, self._first_after) - int(1e9 * _NOTICE) - self.end
        # A process that did not run for a while may still answer a state that waited for it.
        steps = np.diff(stamps, prepend=stamps[:1])
        steps[stamps < self.end - _BEFORE // 2] = 0
        if len(steps) and steps.max() > max(silence, 5_000_000):
            worst = int(np.argmax(steps))
            return int(stamps[worst - 1]), int(stamps[worst])
        return self.end, self.end + max(silence, 0)

    @property
    def _first_after(self) -> int:
        """When the first state was measured after torque control had ended; the notice if that was earlier."""
        ticks = self.recording.ticks
        measured = ticks.stamps - (1e9 * ticks["state_age"]).astype(np.int64)
        # Not the last state of torque control, which is published once more.
        after = measured[(ticks["phase"] == Phase.CONNECTED) & (measured > self.end + 1_000_000)]
        return int(after[0]) if len(after) else self.noticed

    @property
    def gap_ms(self) -> float:
        """Its length [ms]."""
        return 1e-6 * (self.gap[1] - self.gap[0])

    @cached_property
    def unanswered(self) -> int:
        """How many of the last commands did not reach the robot in time, although they were sent."""
        rate = self.cycles["success_rate"]
        if len(rate) < 2:
            return 0
        falls = np.flatnonzero(np.diff(rate[-2 * _WINDOW :]) > 0)
        since = int(falls[-1]) + 1 if len(falls) else 0
        recent = rate[-2 * _WINDOW :][since:]
        return round(_WINDOW * float(recent[0] - recent[-1]))

    @cached_property
    def response(self) -> tuple[float, float, float]:
        """Time from a state to its torque: median, 99.9th percentile and longest in the last second [us]."""
        values = 1e6 * self._last("response", 1_000_000_000)
        return (
            (float(np.median(values)), float(np.percentile(values, 99.9)), float(values.max()))
            if len(values)
            else (0.0,) * 3
        )

    @cached_property
    def late_answers(self) -> int:
        """How many torques left late, of those in the last tenth of a second, or around the lost cycles."""
        begin, end = self.gap
        stamps = self.cycles.stamps
        near = stamps >= min(begin, self.end - _BEFORE) if self.trigger != "cycles lost" else stamps >= begin - _BEFORE
        near &= stamps <= end + _BEFORE
        return int((self.cycles["response"][near] > LATE_ANSWER).sum())

    def _grown(self, name: str, begin: int, end: int) -> float:
        """By how much a counter grew between two times, by the ticks around them [ms]."""
        ticks = self.recording.ticks
        if len(ticks) < 2:
            return 0.0
        first = max(int(np.searchsorted(ticks.stamps, begin, side="right")) - 1, 0)
        last = min(int(np.searchsorted(ticks.stamps, end, side="left")), len(ticks) - 1)
        return 1e3 * float(max(ticks[name][last] - ticks[name][first], 0.0))

    @cached_property
    def control_waited_ms(self) -> float:
        """How long the control process waited for a processor during the gap, or around all lost cycles [ms]."""
        if not self.still_active:
            return self._grown("control_waited", *self.gap)
        ticks, losses = self.recording.ticks, self.cycles.stamps[self.cycles["lost"] > 0]
        # Each tick counts once, however many cycles were lost around it.
        after = np.searchsorted(losses, ticks.stamps[:-1] - 2_000_000)
        near = after < np.searchsorted(losses, ticks.stamps[1:] + _AROUND_LOSS)
        return 1e3 * float(np.maximum(np.diff(ticks["control_waited"])[near], 0.0).sum())

    @cached_property
    def control_code(self) -> str:
        """The state of the control process during the gap, as in proc_pid_stat(5); empty: not known."""
        ticks, (begin, end) = self.recording.ticks, self.gap
        codes = ticks["control_code"][(ticks.stamps >= begin) & (ticks.stamps <= end + 20_000_000)]
        codes = codes[codes > 0]
        return "".join(dict.fromkeys(chr(int(code)) for code in codes))

    @cached_property
    def owner_gap(self) -> tuple[int, int]:
        """When the longest silence of the owner during the gap, or around the end, began and ended."""
        stamps = self.recording.ticks.stamps
        begin, end = self.gap[0], self.gap[1] if self.still_active else self.noticed
        # The owner notices what happened at the beginning of a tick, or a moment before it.
        around = np.flatnonzero((stamps[1:] >= begin) & (stamps[:-1] <= end))
        if len(around) == 0:
            return begin, begin
        worst = max(around.tolist(), key=lambda row: int(stamps[row + 1] - stamps[row]))
        return int(stamps[worst]), int(stamps[worst + 1])

    @property
    def owner_gap_ms(self) -> float:
        """Its length [ms]."""
        return 1e-6 * (self.owner_gap[1] - self.owner_gap[0])

    @cached_property
    def owner_waited_ms(self) -> float:
        """How long the owner's thread waited for a processor in it [ms]."""
        return self._grown("owner_waited", *self.owner_gap)

    @cached_property
    def gaps_overlap(self) -> bool:
        """Whether owner and control process were silent at the same time, for most of the gap."""
        (a, b), (c, d) = self.gap, self.owner_gap
        return min(b, d) - max(a, c) > 0.7 * (b - a) > 0

    @cached_property
    def silent_holds(self) -> int:
        """How often the control process held the arm in the last seconds because its owner was silent."""
        ticks = self.recording.ticks
        recent = ticks.stamps >= self.end - _RECENT
        counts = ticks["silent_holds"][recent & (ticks["activation"] == self.activation)]
        return int(counts[-1]) - int(counts[0]) if len(counts) else 0

    @property
    def activation(self) -> int:
        """Its number."""
        return int(self.cycles["activation"][-1]) if self else 0

    @cached_property
    def robot_mode(self) -> int:
        """``franka::RobotMode`` after the stop; -1: not known."""
        ticks = self.recording.ticks
        after = ticks["robot_mode"][(ticks.stamps >= self.noticed) & (ticks["phase"] == Phase.CONNECTED)]
        return int(after[0]) if len(after) else -1

    @property
    def exit_code(self) -> int | None:
        """Of a control process that died: negative if a signal killed it; ``None``: not known."""
        code = self.summary.get("exit_code")
        return None if code is None else int(code)

    @property
    def signal_name(self) -> str:
        """The signal that killed the control process; empty if none did."""
        code = self.exit_code
        if code is None or code >= 0:
            return ""
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"

    @property
    def busy(self) -> str:
        """The processes that used the processors while the recording was written; empty if none did."""
        return ", ".join(
            f"{one['name']} ({one['pid']}) {100 * one['share']:.0f} %" for one in self.summary.get("busy", ())
        )

    # What was asked for.

    @property
    def law(self) -> Law | None:
        """The control law of the last cycle."""
        return Law(int(self.cycles["law"][-1])) if self else None

    @property
    def moving(self) -> bool:
        """Whether a planned motion ran at the end."""
        return self.law is Law.MOTION

    @property
    def mode(self) -> str:
        """The mode of the last cycle."""
        return Mode(int(self.cycles["mode"][-1])).name.lower() if self else "unknown"

    @cached_property
    def last_target(self) -> Entry | None:
        """The last target before the end."""
        return next((one for one in reversed(self.recording.targets) if one.stamp <= self.end + 2_000_000), None)

    @cached_property
    def last_request(self) -> Entry | None:
        """The last move, trajectory or chunk that began before the end."""
        events = self.recording.events
        return next((one for one in reversed(events) if one["kind"] == "request" and one.stamp <= self.end), None)

    @cached_property
    def changes(self) -> list[Entry]:
        """Changes of parameters in the last five seconds."""
        events = self.recording.events
        return [one for one in events if one["kind"] == "parameters" and 0 <= self.end - one.stamp < 5_000_000_000]

    @cached_property
    def largest_step(self) -> tuple[float, Entry] | None:
        """The largest difference between two targets of one topic in the last half second, and the second of them."""
        recent = [one for one in self.recording.targets if self.end - 500_000_000 <= one.stamp <= self.end]
        steps = [
            (float(np.abs(np.subtract(b["values"], a["values"])).max()), b)
            for a, b in zip(recent, recent[1:], strict=False)
            if a["topic"] == b["topic"] and len(a["values"]) == len(b["values"])
        ]
        return max(steps, key=lambda step: step[0]) if steps else None

    @cached_property
    def limited(self) -> dict[str, int]:
        """How many targets each setting has limited in the last three seconds."""
        ticks = self.recording.ticks
        rows = np.flatnonzero((ticks.stamps >= self.end - _RECENT) & (ticks["activation"] == self.activation))
        if len(rows) < 2:
            return {}
        grown = ticks["limited_targets"][rows[-1]] - ticks["limited_targets"][rows[0]]
        return {limit.name.lower(): int(grown[limit]) for limit in Limit if grown[limit] > 0}

    def before(self, stamp: int) -> str:
        """How long before the end something was, in words."""
        seconds = 1e-9 * (self.end - stamp)
        return f"{1e3 * seconds:.0f} ms before" if seconds < 1.0 else f"{seconds:.1f} s before"

    def parameter(self, name: str) -> Any:
        """Value of a parameter."""
        return self.recording.parameters[name]
