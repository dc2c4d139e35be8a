"""The clock of a loop of ``set()``: until when each call waits, and how late the loop's values were.

Used by :class:`~aiofranka_ros.api.controller.FrankaController`, in the policy's process and event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

#: A value counts as late from this share of the period on: timers and the loop itself are never exact.
_TOLERANCE = 0.1
#: How many turns of the loop the figures cover, at most.
_KEPT = 1000
#: The rate is judged every second, from some turns at least [s], and a smaller share of the rate asked is a warning.
_JUDGED, _FEWEST, _ENOUGH = 1.0, 3, 0.95


@dataclass(frozen=True)
class Lateness:
    """How late the values of a loop of ``set()`` were; ``print`` it, or read its figures."""

    #: The attribute that the loop sets.
    name: str
    #: The rate of ``set_freq``, and the one that was kept; 0 before the second call [Hz].
    asked: float
    kept: float
    #: Turns of the loop, at most the last thousand, and how many of them set a value later than it was due.
    turns: int
    late: int
    #: How late these were [s]; 0 if none was.
    late_by_median: float
    late_by_max: float

    def __str__(self) -> str:
        text = (
            f"{self.name}: {self.asked:.3g} Hz asked, {self.kept:.3g} Hz kept; {self.late} of {self.turns} values late"
        )
        if self.late == 0:
            return text
        return f"{text}, by {1e3 * self.late_by_median:.0f} ms (median), {1e3 * self.late_by_max:.0f} ms (longest)"


class Pace:
    """One attribute's clock.

    :param name: the attribute.
    :param frequency: how often it should be set [Hz].
    :param warn: called with a sentence when a stretch begins in which the rate is not kept.
    """

    def __init__(self, name: str, frequency: float, warn: Callable[[str], object]) -> None:
        self._name = name
        self._period = 1.0 / frequency
        self._warn = warn
        #: When the last call returned [s]; ``None``: the next one starts the clock.
        self._returned: float | None = None
        #: Until when it should have waited [s].
        self._due = 0.0
        self._turns: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        # Of the turns that were not judged yet: how many, how long all of them and the longest took [s].
        self._count, self._sum, self._longest = 0, 0.0, 0.0
        self._slow = False

    def interrupt(self) -> None:
        """Restart the clock with the next value: what comes before it, e.g. a move, is not the loop's delay."""
        self._returned = None

    def wait_until(self, now: float) -> float:
        """A value was set at ``now``; returns until when to wait [s]."""
        if self._returned is None:
            self._due = self._returned = now + self._period
            return self._due
        late = now - self._due - self._period
        # Late by up to a period: the loop catches up. After a longer delay the clock restarts now, without a burst; to
        # wait for a period would only make a slow policy slower.
        self._due = self._due + self._period if late <= self._period else now
        turn, self._returned = max(now, self._due) - self._returned, max(now, self._due)
        self._turns.append((turn, late))
        self._judge(turn)
        return self._due

    def lateness(self) -> Lateness:
        """The figures of the last turns."""
        turns, late = np.array(list(self._turns)).reshape(-1, 2).T  # A list first: another thread may add some.
        late = late[late > _TOLERANCE * self._period]
        return Lateness(
            name=self._name,
            asked=1.0 / self._period,
            kept=len(turns) / float(turns.sum()) if turns.any() else 0.0,
            turns=len(turns),
            late=len(late),
            late_by_median=float(np.median(late)) if len(late) else 0.0,
            late_by_max=float(late.max(initial=0.0)),
        )

    def _judge(self, turn: float) -> None:
        """Warn once of each stretch that is too slow; one long turn in a second, a pause, is none.

        :param turn: how long the last turn took [s].
        """
        self._count, self._sum, self._longest = self._count + 1, self._sum + turn, max(self._longest, turn)
        if self._sum < _JUDGED or self._count < _FEWEST:
            return
        usual = (self._sum - self._longest) / (self._count - 1)
        self._count, self._sum, self._longest = 0, 0.0, 0.0
        before, self._slow = self._slow, usual * _ENOUGH > self._period
        if self._slow and not before:
            self._warn(
                f"{1.0 / self._period:.3g} Hz asked, {1.0 / usual:.3g} Hz kept: a turn of the loop that sets "
                f"{self._name} takes {1e3 * usual:.0f} ms. Ask for less with set_freq, move slow work off the event "
                "loop, or let the policy plan in chunks, see controller.policy"
            )
