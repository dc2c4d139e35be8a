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
#: How fast the hand turns about the vertical where a rotation is meant [rad/s]: by 180° altogether. Negative, because
#: that is the way which joint 7 has left.
TURN_SPEED = -math.pi / DURATION
#: Velocity of joint 1 that gives the hand the meant speed, when the arm is at home, 0.5545 m away [rad/s].
JOINT_SPEED = SPEED / 0.5545
#: Noise of a policy that means to hold still: standard deviation in each direction [m].
_NOISE = 1e-3
#: An outlier is this far to the side [m], and every so many targets there is one.
_OUTLIER, _BETWEEN_OUTLIERS = 0.05, 25
#: How long a teleoperator holds the clutch, and how long not [s]; how far away it is pressed again [m], [rad], and how
#: often.
_CLUTCHED, _RELEASED, _RECLUTCHES = 3.5, 0.8, 5
_ELSEWHERE, _ELSEWHERE_TURN = 0.25, 1.0


@dataclass(frozen=True)
class Message:
    """A target."""

    sent: float  #: [s]
    offset: Array  #: from where the stream begins [m] (3,); for other targets than poses: what they amount to
    stamp: float | None = None  #: [s]; ``None``: empty
    turn: float = 0.0  #: about the vertical, from where the stream begins [rad]
    joint: float = 0.0  #: of joint 1, likewise [rad]


@dataclass(frozen=True)
class Kind:
    """A kind of stream.

    :ivar straight: whether the movement is a straight line, on which the arm should never go back.
    :ivar paused: whether it has pauses, so that its speed cannot be even.
    :ivar like: name of the stream that this one should be like, because only the network differs.
    :ivar to: what the targets are: ``pose``, ``twist``, or ``servo``: trajectories of one point, as MoveIt Servo sends
        them, or ``servo+``: with velocities.
    :ivar turning: whether the hand turns; its speed is then that of the turn.
    :ivar near: how far from what was meant the hand may be, at most [m]; its speed is then of no interest.
    """

    name: str
    messages: Callable[[], list[Message]]
    straight: bool = True
    paused: bool = False
    like: str = ""
    to: str = "pose"
    turning: bool = False
    near: float = math.inf
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


def _at_rest() -> list[Message]:
    """50 Hz, nothing but noise."""
    rng = np.random.default_rng(5)
    return [Message(k / 50, rng.normal(0.0, _NOISE, 3)) for k in range(round(DURATION * 50))]


def _outliers() -> list[Message]:
    """50 Hz, and now and then a target to the side."""
    aside = np.array([_OUTLIER, 0.0, 0.0])
    return [
        Message(k / 50, _line(k / 50) + aside * (k % _BETWEEN_OUTLIERS == _BETWEEN_OUTLIERS - 1))
        for k in range(round(DURATION * 50))
    ]


def _reclutched() -> list[Message]:
    """50 Hz; the teleoperator releases the clutch, and presses it again elsewhere."""
    sent = []
    for number in range(_RECLUTCHES + 1):
        begin, away = number * (_CLUTCHED + _RELEASED), number % 2
        start = np.array([0.0, 0.0, _ELSEWHERE * away])
        for k in range(round(50 * _CLUTCHED)):
            sent.append(Message(begin + k / 50, start + 0.2 * _line(k / 50), turn=-_ELSEWHERE_TURN * away))
    return sent


def _turning(rate: float) -> Callable[[], list[Message]]:
    return lambda: [Message(t, np.zeros(3), turn=TURN_SPEED * t) for t in np.arange(0.0, DURATION, 1.0 / rate)]


def _around(rate: float) -> Callable[[], list[Message]]:
    """Joint 1 turns, so that the hand has the meant speed, as do velocities that are sent instead."""
    return lambda: [Message(t, _line(t), joint=JOINT_SPEED * t) for t in np.arange(0.0, DURATION, 1.0 / rate)]


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
    Kind("noise at rest, 50 Hz", _at_rest, straight=False, paused=True, near=8e-3),
    Kind("50 Hz with outliers of 5 cm", _outliers, paused=True, near=0.01),
    Kind("5 times re-clutched 25 cm and 57° away", _reclutched, straight=False, paused=True),
    Kind("180° of rotation, 50 Hz", _turning(50), straight=False, turning=True),
    Kind("180° of rotation, 10 Hz", _turning(10), straight=False, turning=True),
    *(
        Kind(f"MoveIt Servo, {rate} Hz{more}", _around(rate), to=to, straight=False, slowest=0.95, fastest=1.05)
        for rate in (30, 100)
        for to, more in (("servo", ""), ("servo+", ", with velocities"))
    ),
    *(Kind(f"velocities, {rate} Hz", _around(rate), to="twist") for rate in (15, 50)),
)
