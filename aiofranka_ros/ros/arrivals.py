"""What a message says about itself at its arrival: how old it is, when it is due, and who sent it.

Used by the nodes for targets and chunks, in their one thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from rclpy.node import Node

from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array
from aiofranka_ros.ros.graph import node_of

#: Larger differences come from another kind of clock, not from a clock that is set wrong [s].
_ANOTHER_CLOCK = 86400.0
#: How often to look whether a sender is there, and how long DDS may take to discover it [s].
_CHECK_PERIOD, _DISCOVERY = 0.25, 3.0


def age_of(stamp: int, now: int, limit: float) -> float:
    """The age of a target [s]; 0 if its stamp is empty.

    :param stamp: when it was made [ns, the node's clock]; 0: unknown.
    :param now: [ns, the node's clock].
    :param limit: largest difference between the two [s].
    :raises InvalidTarget: the difference is larger.
    """
    if stamp == 0:
        return 0.0
    if stamp < 0:
        raise InvalidTarget("its stamp is negative: no clock shows such a time", reason="old")
    age = 1e-9 * (now - stamp)
    if abs(age) <= limit:
        return age
    if abs(age) > _ANOTHER_CLOCK:
        cause = "another kind of clock: is use_sim_time the same for both, and is there a /clock?"
    elif age > 0.0:
        cause = "a sender that hangs, a slow network, or computers whose clocks differ: synchronise them"
    else:
        cause = "computers whose clocks differ: synchronise them"
    what = f"{age:.3f} s old" if age > 0.0 else f"{-age:.3f} s in the future"
    raise InvalidTarget(
        f"it is {what} (max_target_age is {limit:g} s) by the clock of this node, a sign of {cause}; an empty stamp is "
        "always accepted",
        reason="old" if age > 0.0 else "in the future",
    )


def start_of(stamp: int, now: int, arrival: float, future: float) -> float:
    """When the time of a chunk is zero [s, monotonic]: at its stamp, or at its arrival if that is empty.

    A chunk may be old, as long as some of its points are still due.

    :param stamp: when the observation was made that it comes from [ns, the node's clock]; 0: unknown.
    :param now: when it arrived [ns, the node's clock].
    :param arrival: the same [s, monotonic].
    :param future: by how much the stamp may be in the future, because clocks differ [s].
    :raises InvalidTarget: the stamp is from another kind of clock, or in the future.
    """
    age = 1e-9 * (now - stamp) if stamp else 0.0
    if stamp < 0 or not -future <= age <= _ANOTHER_CLOCK:
        age_of(stamp, now, future)
    return arrival - age


def times_of(times: Array, frequency: float) -> Array:
    """When points are due [s] (n,): at ``times``, or ``frequency`` [Hz] if all of them are zero."""
    return times if times.any() else np.arange(len(times)) / frequency


def publisher_of(info: Mapping[str, Any]) -> bytes:
    """Identity of a message's publisher; empty if rclpy does not report it."""
    gid = info.get("publisher_gid") or {}
    return bytes(gid.get("data", b""))


class Sender:
    """The publisher of a message, and whether it is still on the graph.

    :param node: has received the message.
    :param topic: full name of its topic.
    :param identity: of the publisher; empty if rclpy does not report it: then it counts as present.
    """

    def __init__(self, node: Node, topic: str, identity: bytes) -> None:
        self._node, self._topic, self.identity = node, topic, identity
        self._began = time.monotonic()
        self._due, self._seen, self._gone = 0.0, False, False

    def gone(self) -> bool:
        """Whether it has left the graph; may be called often, it looks several times a second.

        DDS notices at once that a program has ended in order. For one that was killed, it waits for its lease.
        """
        now = time.monotonic()
        if self.identity and not self._gone and now >= self._due:
            self._due = now + _CHECK_PERIOD
            there = self._found() is not None
            self._seen |= there
            self._gone = not there and (self._seen or now > self._began + _DISCOVERY)
        return self._gone

    @property
    def name(self) -> str:
        """Full name of its node; empty if it is not on the graph, or its node not discovered yet."""
        return self._found() or ""

    def _found(self) -> str | None:
        for found in self._node.get_publishers_info_by_topic(self._topic):
            if bytes(found.endpoint_gid) == self.identity:
                return node_of(found)
        return None
