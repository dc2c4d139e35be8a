"""Whose targets the arm follows: one client at a time, and priority clients before all others.

Used by :mod:`aiofranka_ros.node.admission` for every target and chunk, in the node's process and its one thread. The
first client controls the arm until it has been silent for a while, so that two policies do not pull it back and forth.
A client that the parameter ``priority_clients`` names, usually a person who teleoperates, takes over at once; when it
is silent, any client may continue. A client is a node: its publishers of several topics are one client.

Up to Jazzy, rclpy does not report the publisher of a message; there, all count as the same, and none has priority.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node

from aiofranka_ros.arm.moves import Mover
from aiofranka_ros.errors import InvalidTarget, Overridden, listed
from aiofranka_ros.node.hold import HOLDER, HoldServices
from aiofranka_ros.ros import ownership
from aiofranka_ros.ros.graph import node_of
from aiofranka_ros.ros.ownership import NO_CLIENT, Ownership

#: How long a client must be silent before another one may control the arm [s]: longer than policies usually pause.
HANDOVER = 0.5
#: A client that has sent nothing for this long does not wait any more [s].
_GIVEN_UP = 2.0
#: Most clients that are remembered.
_MOST = 50
#: Identity of a process in DDS: the first part of the identities of its publishers [bytes].
_PARTICIPANT = 12


class _Waiting(NamedTuple):
    """A client whose targets are refused because another one controls the arm; times are [s]."""

    topic: str
    since: float
    last: float


class Owners:
    """Which client's targets are followed, and which clients wait.

    :param node: the arm's node.
    :param priority: the parameter ``priority_clients``.
    :param clock: for the silence of clients [s].
    """

    def __init__(self, node: Node, priority: Callable[[], Iterable[str]], clock: Callable[[], float]) -> None:
        self._node = node
        self._priority = priority
        self._clock = clock
        self._own_name = node.get_fully_qualified_name()
        self._namespace = self._own_name.rpartition("/")[0]
        #: Identity of the publisher of the last target that was accepted.
        self.publisher = b""
        self._topic = ""
        self._since = self._until = -math.inf
        self._chunk = 0
        self._names: dict[bytes, str] = {}
        self._waiting: dict[bytes, _Waiting] = {}

    def forget(self) -> None:
        """No client's targets are followed: the arm was activated, or the mode was switched."""
        self._until = -math.inf
        self._waiting.clear()

    def check(self, publisher: bytes, topic: str) -> bool:
        """Whether a target comes from another client than the last one that was accepted.

        :param publisher: its identity; empty if it is not known.
        :param topic: its topic.
        :raises Overridden: a priority client controls the arm.
        :raises InvalidTarget: any other client does, with the reason ``another publisher``.
        """
        if publisher == self.publisher:
            return False
        name = self.name_of(publisher, topic)
        if self._is_owner(publisher, name):
            return False
        if not self.present:
            return True
        owner = self.name_of(self.publisher, self._topic)
        overrides = self.has_priority(owner)
        if self.has_priority(name) and not overrides:
            return True
        self._wait(publisher, topic)
        who, until = name or "its publisher", f"until it has been silent for {HANDOVER:g} s"
        if overrides:
            raise Overridden(
                f"{who} is overridden: {self.sender}, one of priority_clients, controls the arm {until}", owner=owner
            )
        raise InvalidTarget(
            f"{who} has to wait: {self.sender} controls the arm {until}",
            reason="another publisher",
        )

    def check_goal(self, client: str) -> None:
        """Check a goal to move the arm.

        :param client: full name of the node that sent it; empty if it is not known.
        :raises Overridden: a priority client, another one, controls the arm.
        """
        if self.overrides and client != self.client:
            raise Overridden(
                f"{self.sender}, one of priority_clients, controls the arm until it has been silent for {HANDOVER:g} s",
                owner=self.client,
            )

    def accepted(self, publisher: bytes, topic: str, lasts: float = 0.0, chunk: int = 0) -> bool:
        """A target, which was checked, is followed.

        :param lasts: how long the arm follows it even if nothing else comes [s]; a chunk takes some time.
        :param chunk: its number, if it is a chunk.
        :returns: whether it is the first one of another client.
        """
        other = publisher != self.publisher and not self._is_owner(publisher, self.name_of(publisher, topic))
        if other:
            self._report(publisher, topic)
        if other or not self.present:
            self._since = self._clock()
        self.publisher, self._topic = publisher, topic
        self._until, self._chunk = self._clock() + lasts + HANDOVER, chunk
        self._waiting.pop(publisher, None)
        return other

    def ended_early(self, chunk: int) -> None:
        """The chunk of this number has ended before its time, so the arm no longer follows it; see :meth:`accepted`.

        If something newer was accepted since, that counts.
        """
        if chunk == self._chunk:
            self._until = min(self._until, self._clock() + HANDOVER)

    @property
    def present(self) -> bool:
        """Whether a client controls the arm."""
        return self._clock() < self._until

    @property
    def sender(self) -> str:
        """The client that controls the arm, and its topic; empty if there is none."""
        if not self.present:
            return ""
        name, topic = self.client, self.full_name(self._topic)
        return f"{name} on {topic}" if name else topic

    @property
    def client(self) -> str:
        """Full name of the node that controls the arm; empty if there is none, or if it is not known."""
        return self.name_of(self.publisher, self._topic) if self.present else ""

    @property
    def overrides(self) -> bool:
        """Whether a priority client controls the arm."""
        return self.has_priority(self.client)

    @property
    def in_control(self) -> float:
        """For how long the present client has controlled the arm [s]; 0 if there is none."""
        return self._clock() - self._since if self.present else 0.0

    @property
    def waiting(self) -> str:
        """The clients that wait, each with its topic and for how long, for people; empty if there are none."""
        now, there = self._clock(), self.present
        self._waiting = {one: found for one, found in self._waiting.items() if there and now - found.last < _GIVEN_UP}
        return listed(
            f"{self.name_of(one, topic) or 'a client'} on {self.full_name(topic)} for {now - since:.1f} s"
            for one, (topic, since, _) in self._waiting.items()
        )

    def has_priority(self, name: str) -> bool:
        """Whether the node with this full name is one of ``priority_clients``."""
        names = self._priority() if name else ()
        return any(name == (one if one.startswith("/") else f"{self._namespace}/{one}") for one in names)

    def full_name(self, topic: str) -> str:
        """The full name of a topic of the node; a name that begins with a slash is one already."""
        return topic if topic.startswith("/") else f"{self._own_name}/{topic}"

    def name_of(self, publisher: bytes, topic: str) -> str:
        """Full name of the node of a publisher; empty if it is unknown or was never known."""
        known = self._names.get(publisher)
        if known is not None or not publisher:
            return known or ""
        for found in self._node.get_publishers_info_by_topic(self.full_name(topic)):
            if bytes(found.endpoint_gid) == publisher and (name := node_of(found)):
                if len(self._names) >= _MOST:
                    self._names.clear()
                return self._names.setdefault(publisher, name)
        return ""

    def _is_owner(self, publisher: bytes, name: str) -> bool:
        """Whether a publisher is another one of the node that sent the last target."""
        same_process = publisher[:_PARTICIPANT] == self.publisher[:_PARTICIPANT] != b""
        return same_process and name != "" and name == self.name_of(self.publisher, self._topic)

    def _wait(self, publisher: bytes, topic: str) -> None:
        now = self._clock()
        before = self._waiting.get(publisher)
        since = before.since if before is not None and now - before.last < _GIVEN_UP else now
        if before is None and len(self._waiting) >= _MOST:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[publisher] = _Waiting(topic, since, now)

    def _report(self, publisher: bytes, topic: str) -> None:
        """Another client than the last one controls the arm from now on; the log says so if one has priority."""
        before, now = self.name_of(self.publisher, self._topic), self.name_of(publisher, topic)
        log = self._node.get_logger().info
        if self.has_priority(now):
            log(f"{now} takes control" + (f" from {before}" if self.present and before else ""))
        elif self.has_priority(before):
            log(f"{now or 'a client'} continues after {before}")


class OwnerTopic:
    """The publisher of ``~/owner``."""

    def __init__(self, node: Node, hold: HoldServices, mover: Mover, owners: Owners) -> None:
        self._hold, self._mover, self._owners = hold, mover, owners
        self._name = node.get_fully_qualified_name()
        self._publisher = node.create_publisher(DiagnosticStatus, f"~/{ownership.TOPIC}", ownership.QOS)
        self._published: Ownership | None = None
        #: Called with whatever controls the arm from now on.
        self.on_change: Callable[[Ownership], object] = lambda owner: None

    @property
    def present(self) -> Ownership:
        """Who controls the arm now."""
        if self._hold.reason:
            return Ownership(HOLDER, overrides=True)
        if self._mover.owner:
            return Ownership(self._mover.owner, overrides=True)
        owners = self._owners
        return Ownership(owners.sender or NO_CLIENT, owners.client, owners.overrides)

    def follow(self) -> None:
        """Publish who controls the arm if that has changed; called at every tick."""
        present = self.present
        if present != self._published:
            self._published = present
            self.on_change(present)
            self._publisher.publish(present.message_of(self._name))
