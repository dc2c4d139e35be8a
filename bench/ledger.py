"""The sums of a soak: who was late, and the figures of the control loop; :mod:`bench.soak` explains the method.

Updated every second in the one thread of the soak, from the records of network, witness and control process.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.faults.walk import violations
from bench.witness import Evidence

#: A state this long after the previous one is late, and so is an answer this long after its state [ms].
LATE_STATE, LATE_ANSWER = 1.5, 1.0
#: How many late answers are listed individually.
_LISTED = 100
#: Responses are counted in bins of 5 us up to 2 ms; the last bin includes all longer ones.
BINS = np.arange(0.0, 2005.0, 5.0)


@dataclass
class Ledger:
    """Sums whose size does not depend on the duration of the soak.

    :ivar states: states during a motion.
    :ivar late_states: late states among them; ``late_ms`` is their total delay [ms].
    :ivar late_states_by_stops: late states that only the computer's stops made late.
    :ivar late_answers: answers that would have been late on a computer that neither stops nor slows down.
    :ivar late_answers_by_stops: answers that only the computer's stops made late.
    :ivar late_answers_by_slowness: answers that only these stops and a slow computer made late.
    :ivar listed: the first late answers: when their states passed [ns, monotonic clock], their delay, how long the
        computer was stopped in it [ms], and how many times as long as usual everything took.
    :ivar worst: longest run of late answers of any kind.
    """

    states: int = 0
    late_states: int = 0
    late_ms: float = 0.0
    late_states_by_stops: int = 0
    late_answers: int = 0
    late_answers_by_stops: int = 0
    late_answers_by_slowness: int = 0
    listed: list[tuple[float, float, float, float]] = field(default_factory=list)
    worst: int = 0
    cycles: int = 0
    cycles_lost: int = 0
    unread: int = 0
    success_rate_min: float = 1.0
    response_max: float = 0.0
    responses: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(BINS), np.int64))
    exceeded: list[str] = field(default_factory=list)

    def add_packets(self, passed: npt.NDArray[Any], evidence: Evidence) -> None:
        """Add states and their answers.

        :param passed: see :data:`bench.faults.proxy.CYCLE`; the last three are only context.
        :param evidence: of the witness on this CPU, for at least the same time.
        """
        if len(passed) < 5:
            return
        state = passed["state"].astype(float)
        # A client that never answered a state was busy with it until the next answer.
        answer = np.where(passed["command"] > 0, passed["command"].astype(float), np.inf)
        answer = np.minimum.accumulate(answer[::-1])[::-1]
        interval, delay = 1e-6 * np.diff(state), 1e-6 * (answer - state)
        moving = passed["motion"] > 0
        # From the first states of a motion, libfranka only learns that it has begun.
        for begin in 1 + np.flatnonzero(~moving[:-1] & moving[1:]):
            answered = np.flatnonzero(passed["command"][begin:])
            moving[begin : begin + (answered[0] if len(answered) else len(moving))] = False
        counted = moving[1:-2] & moving[2:-1]
        late_state = (interval[:-2] > LATE_STATE) & counted
        explained = interval - evidence.stopped(state[:-1], state[1:]) <= LATE_STATE
        self.states += int(counted.sum())
        self.late_states += int(late_state.sum())
        self.late_states_by_stops += int((late_state & explained[:-2]).sum())
        self.late_ms += float((interval[:-2] - 1.0)[late_state].sum())
        late = (delay[1:-2] > LATE_ANSWER) & counted
        by_stops = evidence.stopped(state, answer)
        explained = delay - by_stops <= LATE_ANSWER
        self.late_answers_by_stops += int((late & explained[1:-2]).sum())
        for index in 1 + np.flatnonzero(late & ~explained[1:-2]):
            slowness = evidence.slowness(state[index], answer[index])
            if (delay[index] - by_stops[index]) / slowness <= LATE_ANSWER:
                self.late_answers_by_slowness += 1
                continue
            self.late_answers += 1
            if len(self.listed) < _LISTED:
                self.listed.append((float(state[index]), float(delay[index]), float(by_stops[index]), slowness))
        runs = [len(list(group)) for is_late, group in itertools.groupby(late) if is_late]
        self.worst = max([self.worst, *runs])

    def add_cycles(self, cycles: npt.NDArray[Any]) -> None:
        """Add control cycles, see :data:`aiofranka_ros.control.records.CYCLE_RECORD`."""
        if len(cycles) == 0:
            return
        self.cycles += len(cycles)
        self.cycles_lost += int(cycles["lost"].sum())
        rates = cycles["success_rate"][cycles["success_rate"] > 0.0]
        if len(rates):
            self.success_rate_min = min(self.success_rate_min, float(rates.min()))
        self.response_max = max(self.response_max, 1e6 * float(cycles["response"].max()))
        bins = np.minimum(np.digitize(1e6 * cycles["response"], BINS) - 1, len(BINS) - 1)
        self.responses += np.bincount(bins, minlength=len(BINS))
        self.exceeded += violations(cycles)

    def response(self, share: float) -> float:
        """The response that a ``share`` of the cycles do not exceed [us]."""
        total = np.cumsum(self.responses)
        return float(BINS[int(np.searchsorted(total, share * total[-1]))] + 5.0) if total[-1] else 0.0
