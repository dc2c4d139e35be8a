"""Times of measurements for everything outside this computer: from the monotonic clock to another one.

Used by the nodes, by both links of the API and by :mod:`aiofranka_ros.testing`, in their processes. Node and control
process measure time with the monotonic clock, which no one can set, and which all processes of a computer share. Only
at the boundary is it converted, so that a step of another clock, or a simulated clock that stands still, has no
consequence inside.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

#: Reading two clocks should take no longer than this [ns]; else the process was interrupted, and reads them again.
_TOGETHER, _ATTEMPTS = 50_000, 3
#: So many of the newest stamps show another computer's clock: within seconds, it is known again after it was set.
_HEARD = 100


def offset_to(now: Callable[[], int] = time.time_ns) -> int:
    """What to add to a time of the monotonic clock for the same time by the clock ``now`` [ns]."""
    readings = []
    for _ in range(_ATTEMPTS):
        before, there, after = time.monotonic_ns(), now(), time.monotonic_ns()
        readings.append((after - before, there - before))
        if after - before < _TOGETHER:
            break
    return min(readings)[1]


class Stamps:
    """The stamps of one sequence of measurements, by the clock ``now`` [ns].

    The stamp of a measurement does not change. Stamps do not decrease, unless that clock was put back, and none is in
    the future.
    """

    def __init__(self, now: Callable[[], int] = time.time_ns) -> None:
        self._now = now
        self._measured = self._stamp = self._read = 0

    def of(self, measured: int) -> int:
        """The stamp of a measurement [ns]; 0 if there is none.

        :param measured: its time [ns, monotonic]; 0: nothing was measured yet.
        """
        if measured == self._measured or measured == 0:
            return self._stamp if measured else 0
        now = self._now()
        stamp = min(now, max(0, measured + offset_to(self._now)))
        if now >= self._read:
            stamp = max(stamp, self._stamp)
        self._measured, self._stamp, self._read = measured, stamp, now
        return stamp


class HeardClock:
    """A clock that may be another computer's, known by the stamps of messages that have just been made.

    Messages come late, some later than others, and none early: the one that came soonest shows the clock best.

    :param monotonic: the monotonic clock of this computer [ns].
    """

    def __init__(self, monotonic: Callable[[], int] = time.monotonic_ns) -> None:
        self._monotonic = monotonic
        self._offsets: deque[int] = deque(maxlen=_HEARD)
        self._offset = offset_to()  # Until a message is heard.

    def hear(self, stamp: int) -> None:
        """A message with this stamp [ns] has arrived; from one thread."""
        self._offsets.append(stamp - self._monotonic())
        self._offset = max(self._offsets)

    def now(self) -> int:
        """What that clock shows [ns]; from any thread."""
        return self._monotonic() + self._offset
