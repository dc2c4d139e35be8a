"""The topic ``~/refusals``: why a goal or a target was refused, for the client that sent it.

ROS tells the client of a refused goal nothing but that, and the publisher of a refused target nothing at all. The nodes
publish the reason here, in their one thread: for every goal, and for targets rarely. ``RosInterface`` and RViz's tools
read it with :class:`RefusalReader`, and so does ``ctl``. The last ones remain readable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.ros.conditions import WARN, refusal_remedy

TOPIC = "refusals"
#: The last refusals remain readable.
QOS = QoSProfile(depth=20, durability=DurabilityPolicy.TRANSIENT_LOCAL)
#: How often refused targets of one publisher are reported [s].
PERIOD = 0.5
#: How many refusals are remembered, by reporters and by readers.
_REMEMBERED = 100


class Refusal(NamedTuple):
    """Why something was refused."""

    what: str  #: e.g. ``a goal of ~/move``
    message: str
    reason: str  #: the kind of refusal in a word or two
    goal: str = ""  #: id of the goal, in hexadecimal digits; empty: it was a target
    publisher: str = ""  #: full name of the node that sent the target; empty: not known

    def message_of(self, node: str) -> DiagnosticStatus:
        """The refusal as a message of ``node``."""
        values = {"goal": self.goal, "publisher": self.publisher, "reason": self.reason}
        values["what to do"] = refusal_remedy([self.reason], node)
        pairs = [KeyValue(key=key, value=value) for key, value in values.items() if value]
        return DiagnosticStatus(level=WARN, name=self.what, message=self.message, values=pairs)

    @classmethod
    def of(cls, message: DiagnosticStatus) -> Refusal:
        """The refusal in ``message``."""
        values = {pair.key: pair.value for pair in message.values}
        known = {key: values.get(key, "") for key in ("goal", "publisher", "reason")}
        return cls(message.name, message.message, **known)


class RefusalTopic:
    """The publisher of one node's refusals.

    :param clock: for how often targets are reported [s].
    """

    def __init__(self, node: Node, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._name = node.get_fully_qualified_name()
        self._publisher = node.create_publisher(DiagnosticStatus, f"~/{TOPIC}", QOS)
        self._reported: dict[Hashable, float] = {}
        #: Called with every refusal that is reported.
        self.on_refusal: Callable[[Refusal], object] = lambda refusal: None

    def goal(self, what: str, error: InvalidTarget, goal_id: bytes) -> None:
        """Report a refused goal; ``goal_id`` is empty for a request that has none."""
        self._publish(Refusal(what, str(error), error.reason, goal=goal_id.hex()))

    def target(self, what: str, error: InvalidTarget, sender: Hashable, name: Callable[[], str]) -> None:
        """Report a refused target, unless one of the same sender was refused for the same reason a moment ago.

        :param sender: identity of its publisher.
        :param name: returns the full name of the publisher's node; asked only if it is reported.
        """
        now, key = self._clock(), (what, error.reason, sender)
        if now - self._reported.get(key, -PERIOD) < PERIOD:
            return
        if len(self._reported) >= _REMEMBERED:
            self._reported.clear()
        self._reported[key] = now
        self._publish(Refusal(what, str(error), error.reason, publisher=name()))

    def _publish(self, refusal: Refusal) -> None:
        self.on_refusal(refusal)
        self._publisher.publish(refusal.message_of(self._name))


class RefusalReader:
    """What a client knows of the refusals of one node.

    :param on_target: called with each refusal of a target.
    """

    def __init__(self, on_target: Callable[[Refusal], None] = lambda refusal: None) -> None:
        self._on_target = on_target
        self._goals: dict[str, Refusal] = {}

    def receive(self, message: DiagnosticStatus) -> None:
        """Remember a message of the topic."""
        refusal = Refusal.of(message)
        if refusal.goal:
            self._goals[refusal.goal] = refusal
            while len(self._goals) > _REMEMBERED:
                del self._goals[next(iter(self._goals))]
        else:
            self._on_target(refusal)

    def of(self, goal_id: bytes) -> Refusal | None:
        """The refusal of a goal; ``None`` if it has not arrived, at least not yet."""
        return self._goals.get(goal_id.hex())

    def why(self, goal_id: bytes) -> str:
        """Why a goal was refused; empty if that has not arrived, at least not yet."""
        refusal = self.of(goal_id)
        return "" if refusal is None else refusal.message
