"""Whether a target is accepted: the arm must be free for it, and the target in order, recent and from one sender.

Used by :mod:`aiofranka_ros.node.targets` for every message, in the node's process and its one thread.

A stamp says when its sender made the target. It is compared with the node's clock, which is the system's, or with
``use_sim_time`` the simulated one, because that is the clock that senders use. A sender without a clock leaves the
stamp empty.

One client at a time controls the arm, see :mod:`aiofranka_ros.node.owners`. The targets of others are refused, and the
refusal names the one in control.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.node import Node

from aiofranka_ros.arm.moves import ArmOwner, Mover
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.node.owners import Owners
from aiofranka_ros.ros.arrivals import age_of, publisher_of
from aiofranka_ros.ros.conditions import CTL

#: How long a message may be on its way [ns].
_UNDERWAY = 1_000_000_000


class Overtaken(InvalidTarget):
    """A target is refused because of a change of the arm's state that its sender could not know of yet.

    For example the last target before a switch of the mode: DDS keeps no order between messages and services.
    """


class Admission:
    """The checks of one node's targets, and the history that they need.

    :param clock: for the silence of clients [s].
    """

    def __init__(self, node: Node, owner: ArmOwner, mover: Mover, clock: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._owner = owner
        self._mover = mover
        self._node_clock = node.get_clock()
        self._name = node.get_fully_qualified_name()
        #: Whether the node's clock is simulated; true until :meth:`follow` finds out, so that the clock is asked.
        self.simulated_time = True
        #: Whether a target has come whose publisher rclpy does not report: then no client can have priority.
        self.anonymous = False
        #: The clients that send targets.
        self.owners = Owners(node, lambda: owner.parameter("priority_clients"), clock)
        self._period: tuple[ControlClient, int] | None = None
        #: Stamp of the newest accepted target of each topic [ns].
        self._newest: dict[str, int] = {}
        #: What decides for which targets the arm is free, and since when it is so [ns, the system's clock].
        self._state: tuple[Any, ...] = ()
        self._since = 0

    def follow(self) -> None:
        """Note whether the node's clock is simulated, and the arm's state; called at every tick, active or not."""
        self.simulated_time = self._node_clock.ros_time_is_active
        client = self._owner.active_client
        state = client, client and client.mode_id, self._owner.why_held, self._mover.owner
        if state != self._state:
            self._state, self._since = state, time.time_ns()

    def check(
        self, topic: str, modes: tuple[str, ...], stamp: int, info: Mapping[str, Any], *, waited: bool = False
    ) -> ControlClient:
        """Check everything but the content of a target.

        :param topic: its topic, after ``~/``, or its full name.
        :param modes: names of the modes that use the topic.
        :param stamp: when it was made [ns, the node's clock]; 0: unknown, or its age and order are not checked here.
        :param info: rclpy's info about the message.
        :param waited: whether it was checked before: then its age does not count again.
        :returns: the control process to pass it on to.
        :raises Overtaken: it is refused because of what happened while it was on its way.
        :raises InvalidTarget: it is refused.
        """
        try:
            client = self.free_client(modes)
        except InvalidTarget as error:
            self.follow()
            if time.time_ns() - _UNDERWAY < self._since > info.get("source_timestamp", self._since):
                raise Overtaken(str(error), reason=error.reason) from None
            raise
        if self._period is None or (client, client.mode_id) != self._period:
            # Targets from before an activation or a switch of the mode do not count.
            self._period = client, client.mode_id
            self._newest.clear()
            self.owners.forget()
        publisher = publisher_of(info)
        self.anonymous = not publisher
        if self.owners.check(publisher, topic):  # Its clock may be another one, too.
            newest = 0
        else:
            newest = self._newest.get(topic, 0)
        if not waited:
            limit = self._owner.parameter("max_target_age")
            now = self._now()
            age_of(stamp, now, limit)
            if newest > now + int(1e9 * limit):  # The clock was put back.
                newest = self._newest[topic] = 0
        if 0 < stamp < newest:
            raise InvalidTarget(
                f"a target was accepted that is {1e-9 * (newest - stamp):.3f} s newer: are there two senders?",
                reason="out of order",
            )
        return client

    def accepted(self, client: ControlClient, topic: str, stamp: int, info: Mapping[str, Any]) -> bool:
        """Note that a target, which was checked, is passed on to ``client``.

        :returns: whether it begins the stream of another client than the one before.
        """
        publisher = publisher_of(info)
        if publisher != self.owners.publisher:  # Also of the same client: each stream has its own period.
            client.begin_stream()
        other = self.owners.accepted(publisher, topic)
        if other:
            self._newest.clear()
        if stamp > self._newest.get(topic, 0):
            self._newest[topic] = stamp
        return other

    def is_other(self, topic: str, info: Mapping[str, Any]) -> bool:
        """Whether a message, which was checked, comes from another client than the last target; changes nothing.

        For chunks: it must be known before a chunk begins. Once that has begun, call :meth:`accepted_chunk`.
        """
        return self.owners.check(publisher_of(info), topic)

    def accepted_chunk(self, topic: str, info: Mapping[str, Any], lasts: float, number: int) -> None:
        """Note that a chunk, which was checked, is followed; parameters as of :meth:`.Owners.accepted`."""
        if self.owners.accepted(publisher_of(info), topic, lasts, number):
            self._newest.clear()

    def lead(self, stamp: int) -> int:
        """How long from now a target is due [ns]; 0: now, or it is unknown."""
        return 0 if stamp == 0 or self.simulated_time else max(stamp - self._now(), 0)

    def time_left(self, stamp: int) -> float:
        """How long a target that has just arrived may wait for a transform [s]."""
        limit = self._owner.parameter("max_target_age")
        return limit - max(0.0, age_of(stamp, self._now(), math.inf))

    def _now(self) -> int:
        # Without rclpy if possible, because its clock takes longer than all other checks together.
        return self._node_clock.now().nanoseconds if self.simulated_time else time.time_ns()

    def free_client(self, modes: tuple[str, ...]) -> ControlClient:
        """The control process, if targets for one of ``modes`` may be passed on to it now.

        :raises InvalidTarget: they may not.
        """
        client = self._owner.active_client
        if client is None:
            raise InvalidTarget("the node is not active", reason="not active")
        mode = self._owner.parameter("mode")
        if mode not in modes:
            raise InvalidTarget(
                f"the mode is {mode}; to use this topic: {CTL} set mode {modes[0]} --node {self._name}",
                reason="another mode",
            )
        if self._owner.why_held:
            raise InvalidTarget(self._owner.why_held, reason="held")
        if self._mover.owner:
            raise InvalidTarget(f"{self._mover.owner} controls the arm", reason="during a move")
        return client
