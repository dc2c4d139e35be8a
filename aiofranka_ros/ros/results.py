"""The answers to clients that ask for the results of their goals: sent no faster than the clients surely take them.

Used by :mod:`aiofranka_ros.ros.actions`, in the node's one thread. By default, a client's DDS keeps ten answers until
its program takes them. All clients of an action get all of its answers, also those to others, and an answer is lost
once ten more have come. Nothing tells the node that an answer was taken, or lost. So few are on their way at once, and
each makes way for another one when

- a client asks for the result of a goal that was accepted after the answer was sent: its program has run since then,
  and rclpy takes an answer whenever it takes the acceptance of a goal. So a stream of goals is answered as it comes;
- or enough time has passed. So many goals that end at once are answered slowly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

#: How many answers may be on their way. Two fewer than clients keep, because a client that takes goals and results in
#: different turns, as rclcpp's do, may ask before it has taken one.
MOST = 8
#: How often :meth:`Results.tick` is called [s].
TICK = 0.05
#: After so many ticks an answer has been taken: clients may do something else for a second, and need up to ten
#: milliseconds for each answer, because it comes with a list of all goals. Ticks, not seconds: a computer that stops
#: must not count as time in which clients run.
LONGEST = 25
#: For so many goals it is remembered when they were accepted: few clients never ask for results.
_REMEMBERED = 1000


class Results:
    """The answers of one action.

    :param wake: called when answers begin to need :meth:`tick`, or need it still.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._now = self._count = 0
        # How many answers had been sent when each goal was accepted.
        self._accepted: dict[bytes, int] = {}
        # The answers that clients may not have taken yet: how many were sent before each, and when [ticks].
        self._sent: list[tuple[int, int]] = []
        self._waiting: deque[Callable[[], None]] = deque()

    @property
    def waiting(self) -> bool:
        """Whether there are answers that were not sent yet."""
        return bool(self._waiting)

    def accepted(self, goal_id: bytes) -> None:
        """A client was told that its goal is accepted."""
        self._accepted[goal_id] = self._count
        if len(self._accepted) > _REMEMBERED:
            del self._accepted[next(iter(self._accepted))]

    def asked(self, goal_id: bytes) -> None:
        """A client has asked for the result of a goal."""
        accepted = self._accepted.pop(goal_id, 0)
        taken = [sent for sent in self._sent if sent[0] < accepted]
        if taken:
            # The newest one, so that time makes way for more than the stream needs: for goals that ended at once.
            self._sent.remove(taken[-1])
        self._proceed()

    def send(self, answer: Callable[[], None]) -> None:
        """Send an answer, which ``answer`` does, now or later."""
        self._waiting.append(answer)
        self._proceed()
        self._wake()

    def tick(self) -> bool:
        """Note that time has passed; returns whether there is anything that time would change."""
        self._now += 1
        self._sent = [sent for sent in self._sent if self._now - sent[1] < LONGEST]
        self._proceed()
        return bool(self._sent)

    def flush(self) -> None:
        """Send all answers now: there is no later."""
        while self._waiting:
            self._waiting.popleft()()

    def _proceed(self) -> None:
        while self._waiting and len(self._sent) < MOST:
            self._sent.append((self._count, self._now))
            self._count += 1
            self._waiting.popleft()()
