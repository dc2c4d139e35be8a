"""Streams of targets as policies send them, each made from a movement that is meant.

Called by :mod:`bench.policies.__main__`; nothing here needs ROS. Times are in s from the beginning of a stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aiofranka_ros.kernels import Array

#: The speed that is meant [m/s].
SPEED = 0.1
#: How long a stream lasts [s].
DURATION = 4.0
#: The circle's radius [m].
_RADIUS = 0.05


@dataclass(frozen=True)
class Message:
    """A target."""

    sent: float  #: [s]
    offset: Array  #: from where the stream begins [m] (3,)
    stamp: float | None = None  #: [s]; ``None``: empty


@dataclass(frozen=True)
class Kind:
    """A kind of stream.

    :ivar straight: whether the movement is a straight line, on which the arm should never go back.
    :ivar paused: whether it has pauses, so that its speed cannot be even.
    :ivar like: name of the stream that this one should be like, because only the network differs.
    """

    name: str
    messages: Callable[[], list[Message]]
    straight: bool = True
    paused: bool = False
    like: str = ""
    slowest: float = 0.85
    fastest: float = 1.15


def _line(t: float) -> Array:
    return np.array([0.0, SPEED * t, 0.0])


def _circle(t: float) -> Array:
    angle = SPEED / _RADIUS * t
    return _RADIUS * np.array([math.cos(angle) - 1.0, math.sin(angle), 0.0])


def _steady(
    path: Callable[[float], Array], rate: float, publish_rate: float = 0.0, *, stamped: bool = False
) -> Callable[[], list[Message]]:
    """A policy of ``rate`` [Hz] whose newest target is published at ``publish_rate``; 0: each target once."""

    def messages() -> list[Message]:
        published = publish_rate or rate
        times = [k / published for k in range(round(DURATION * published))]
        return [Message(t, path(math.floor(t * rate + 1e-6) / rate), t if stamped else None) for t in times]

    return messages


def _thinking(rate: float, pause: float, actions: int = 8) -> Callable[[], list[Message]]:
    """A policy that plays some actions, computes the next ones for a while, and continues from the last."""

    def messages() -> list[Message]:
        sent, t, k = [], 0.0, 0
        while t < 2.0 * DURATION and k / rate < DURATION:
            sent.append(Message(t, _line(k / rate)))
            k += 1
            t += 1.0 / rate + (pause if k % actions == 0 else 0.0)
        return sent

    return messages


def _held_back(*, stamped: bool) -> Callable[[], list[Message]]:
    """90 Hz; in each second, the network holds the messages back for 150 ms, then delivers them 2 ms apart."""

    def messages() -> list[Message]:
        sent, last = [], 0.0
        for k in range(round(DURATION * 90)):
            t = k / 90
            arrival = max(t if t % 1.0 < 0.85 else math.floor(t) + 1.0, last + 0.002)
            sent.append(Message(arrival, _line(t), t if stamped else None))
            last = arrival
        return sent

    return messages


def _ahead() -> list[Message]:
    """Eight poses at once, each due 66 ms after the one before, and the next eight when these are due."""
    chunk = 8 * 0.066
    return [
        Message(j * chunk, _line(j * chunk + 0.066 * i), j * chunk + 0.066 * i)
        for j in range(round(DURATION / chunk))
        for i in range(8)
    ]


KINDS: tuple[Kind, ...] = (
    *(
        Kind(f"{rate} Hz", _steady(_line, rate), slowest=0.7 if rate < 5 else 0.85, fastest=1.3 if rate < 5 else 1.15)
        for rate in (100, 50, 25, 15, 10, 5, 3)
    ),
    Kind("50 Hz, stamped", _steady(_line, 50, stamped=True)),
    Kind("10 Hz, stamped", _steady(_line, 10, stamped=True)),
    Kind("25 Hz, repeated at 50 Hz", _steady(_line, 25, 50)),
    Kind("15 Hz, repeated at 50 Hz", _steady(_line, 15, 50)),
    Kind("10 Hz, repeated at 50 Hz", _steady(_line, 10, 50)),
    Kind("10 Hz, repeated at 50 Hz, stamped", _steady(_line, 10, 50, stamped=True)),
    Kind("circle, 100 Hz", _steady(_circle, 100), straight=False),
    Kind("circle, 10 Hz", _steady(_circle, 10), straight=False),
    Kind("circle, 10 Hz, repeated at 50 Hz", _steady(_circle, 10, 50), straight=False),
    Kind("8 actions at 15 Hz, then 0.3 s of thought", _thinking(15, 0.3), paused=True),
    Kind("8 actions at 15 Hz, then 0.6 s of thought", _thinking(15, 0.6), paused=True),
    Kind("8 actions at 30 Hz, then 0.3 s of thought", _thinking(30, 0.3), paused=True),
    Kind("90 Hz", _steady(_line, 90)),
    Kind("90 Hz, held back for 150 ms, then all at once", _held_back(stamped=False), paused=True, like="90 Hz"),
    # The next eight come when the first of them is due, one period after the last: there the arm has stopped.
    Kind("8 poses at once, stamped 66 ms apart", _ahead, paused=True),
)
