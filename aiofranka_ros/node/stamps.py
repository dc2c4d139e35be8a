"""What the time stamps of targets say: which are too old to follow, of a wrong clock, or overtaken by a newer one.

Used by the node for every topic of targets, in its process and its one thread. A stamp says when its sender made the
target. It is compared with the node's clock, which is the system's, or the simulated one with ``use_sim_time``, because
that is the clock that senders stamp with. A sender that has no clock leaves the stamp empty.
"""

from __future__ import annotations

from aiofranka_ros.errors import InvalidTarget

#: Differences beyond this come from another kind of clock, not from one that is set wrongly [s].
_ANOTHER_CLOCK = 86400.0


def age_of(stamp: int, now: int, limit: float) -> float:
    """How old a target is [s]; 0 where it does not say.

    :param stamp: when it was made [ns, the node's clock]; 0: unknown.
    :param now: [ns, the node's clock].
    :param limit: how far the two may be apart [s].
    :raises InvalidTarget: they are further apart.
    """
    if stamp == 0:
        return 0.0
    if stamp < 0:
        raise InvalidTarget("its stamp is negative: no clock shows such a time", reason="old")
    age = 1e-9 * (now - stamp)
    if abs(age) <= limit:
        return age
    if abs(age) > _ANOTHER_CLOCK:
        hint = "of another kind of clock: is use_sim_time the same for both, and is there a /clock?"
    elif age > 0.0:
        hint = "of a sender that hangs, a network that is slow, or computers whose clocks differ: synchronise them"
    else:
        hint = "of computers whose clocks differ: synchronise them"
    what = f"{age:.3f} s old" if age > 0.0 else f"{-age:.3f} s in the future"
    raise InvalidTarget(
        f"it is {what} (max_target_age is {limit:g} s) by the clock of this node, a sign {hint}; an empty stamp is "
        "always taken",
        reason="old" if age > 0.0 else "in the future",
    )


class Order:
    """The order of the targets of one topic."""

    def __init__(self) -> None:
        self._newest = 0

    def check(self, stamp: int) -> None:
        """Refuse a target that was made before one that was taken already; the same stamp again is fine.

        :raises InvalidTarget: it was overtaken.
        """
        if 0 < stamp < self._newest:
            raise InvalidTarget(
                f"a target was taken that is {1e-9 * (self._newest - stamp):.3f} s newer: are there two senders?",
                reason="out of order",
            )

    def took(self, stamp: int) -> None:
        """A target with this stamp was taken."""
        self._newest = max(self._newest, stamp)

    def forget(self, beyond: int = 0) -> None:
        """Let any target be the first one again, if one with a stamp beyond ``beyond`` was taken."""
        if self._newest > beyond:
            self._newest = 0
