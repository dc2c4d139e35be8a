"""Warnings that a client can cause at any rate: each is logged at once, but rarely again, with a count.

Used by the nodes, in their process and thread, for refused targets and goals and for goals that fail.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Hashable

from aiofranka_ros.errors import brief

#: Shortest time between two log messages that say the same [s].
LOG_PERIOD = 2.0
#: Most different messages of one kind within that time; further ones count as the same.
_MOST_DIFFERENT = 10
#: Characters of a message that are logged; one that quotes what a client sent could have any number.
_LONGEST = 1000
#: Messages that differ only in such numbers, which are measured, say the same.
_MEASURED = re.compile(r"\d+(\.\d+)?e[+-]?\d+|\d+\.\d+")


class Warnings:
    """Logs warnings, but rarely the same one.

    :param log: logs a message.
    :param clock: [s].
    """

    def __init__(self, log: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        #: By kind: when each message was logged [s], and how often it was left out since.
        self._recent: dict[Hashable, dict[str, tuple[float, int]]] = {}

    def warn(self, kind: Hashable, message: str) -> None:
        """Log ``message``, unless the same one was logged within :data:`LOG_PERIOD`.

        :param kind: what it is about. One kind of message never hides another; there are few kinds.
        """
        message = brief(message, _LONGEST)
        now, recent = self._clock(), self._recent.setdefault(kind, {})
        text = _MEASURED.sub("#", message)
        if text not in recent and len(recent) >= _MOST_DIFFERENT:
            for old in [old for old, (logged, _) in recent.items() if now - logged >= LOG_PERIOD]:
                del recent[old]
            if len(recent) >= _MOST_DIFFERENT:
                text = min(recent, key=lambda old: recent[old][0])
        logged, left_out = recent.get(text, (-LOG_PERIOD, 0))
        if now - logged < LOG_PERIOD:
            recent[text] = logged, left_out + 1
            return
        recent[text] = now, 0
        self._log(f"{message} ({left_out} more like this were not logged)" if left_out else message)
