"""How long it takes from the start of a chunk to its first torque, for policies that plan ahead by that time.

Used where an arm is owned, and by clients of a node, in their thread.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

#: So many of the last delays count, and so many of the first ones do not: programs compile, caches fill.
_KEPT, _WARM_UP = 50, 2


class Delays:
    """The delays of the last chunks."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=_KEPT)
        self._number = 0

    def add(self, delay: float) -> None:
        """The next one [s]."""
        self._number += 1
        if self._number == _WARM_UP + 1:
            self._last.clear()
        self._last.append(delay)

    def steps(self, dt: float, quantile: float) -> int:
        """How many steps of ``dt`` [s] are as long as this share of the delays; 0 if there are none."""
        if not self._last:
            return 0
        delay = float(np.quantile(self._last, quantile, method="higher"))
        return max(0, math.ceil(delay / dt - 1e-6))
