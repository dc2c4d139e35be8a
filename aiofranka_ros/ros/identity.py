"""One name, one arm: notice other nodes that answer to the same names, and refuse goals while there are any.

Used by the arm's node, the gripper's node and RViz's tools, in their processes and their one thread.

ROS lets two nodes have one name, and delivers a goal to both. So each node announces itself on the topic ``presence``
of its namespace, twice a second, with the actions that it serves. The graph alone would not do: it does not tell which
node is active, and lists a node that was killed for up to 20 s. But it reveals other programs, which announce nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

from aiofranka_ros.errors import NameTaken
from aiofranka_ros.ros.cdr import subscribe
from aiofranka_ros.ros.graph import node_of

#: What to do about two nodes of one name.
REMEDY = (
    "stop one of the two nodes, or start one in another namespace: --ros-args -r __ns:=/left, or with the launch file "
    "namespace:=left"
)
#: How often a node announces itself, and how long another one counts after its last announcement [s].
_PERIOD, _SILENCE = 0.5, 2.0
#: How long a node is remembered after its last announcement [s]: longer than a transition, during which it announces
#: nothing, and than the graph lists a node that was killed.
_MEMORY = 240.0
#: How much later than the node itself its first announcement may arrive [s].
_DISCOVERY = 2.0
#: Larger announcements [bytes], and more announcers, are not from nodes of this package.
_LARGEST, _MOST = 4096, 50


class _Other(NamedTuple):
    """Another node of the namespace, as it announced itself.

    :ivar born: when it started [ns, system clock], and its identity, for nodes that started at once.
    :ivar busy: whether it may announce nothing for a while.
    :ivar serves: full names of its actions.
    :ivar heard: [s, monotonic].
    """

    node: str
    born: tuple[int, str]
    active: bool
    busy: bool
    serves: frozenset[str]
    place: str
    heard: float


class Identity:
    """One node's announcements, and what it knows of others with its names.

    :param serves: names of the actions that the node serves.
    :param active: whether it moves something now.
    :param hardware: what it drives, for the messages of the other nodes.
    :param discovery_time: how long the node listens before it may become active [s].
    :param on_change: called when another node with these names has appeared, changed or left.
    """

    def __init__(
        self,
        node: Node,
        serves: Sequence[str] = (),
        *,
        active: Callable[[], bool] = lambda: False,
        hardware: Callable[[], str] = lambda: "",
        discovery_time: float = 0.0,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._node, self._active, self._hardware, self._on_change = node, active, hardware, on_change
        self._name = node.get_fully_qualified_name()
        suffix = "/_action/send_goal"  # Only services can be resolved.
        self._serves = {node.resolve_service_name(name + suffix).removesuffix(suffix) for name in serves}
        self._born = time.time_ns(), uuid.uuid4().hex
        self._began = self._alone = self._uncontested = time.monotonic()
        self._discovery_time = discovery_time
        self._others: dict[str, _Other] = {}
        self._busy = False
        #: Why goals are refused; empty while no other node has one of this node's names.
        self.conflict = ""
        #: Whether this node and an older one of its names are active: this one must become inactive.
        self.must_yield = False
        #: Whether this node and a younger one of its names are active, and the younger does not yield.
        self.contested = False
        #: Distinguishes the younger of two nodes with the same full name; empty for all others.
        self.suffix = ""
        # A node that starts later gets the last announcement at once.
        qos = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._publisher = node.create_publisher(String, "presence", qos)
        # All that the others announce while a transition blocks this node's thread.
        kept = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._subscription = subscribe(node, String, "presence", self._on_message, kept, largest=_LARGEST)
        # Not the node's clock: simulated time may stop.
        node.create_timer(_PERIOD, self.refresh, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.announce()  # Now, because a transition may block the timer.

    @contextlib.contextmanager
    def transition(self) -> Iterator[None]:
        """During this context, in which this node may announce nothing, it counts as long as the graph lists it."""
        self._busy = True
        self.announce()
        try:
            yield
        finally:
            self._busy = False
            self.announce()

    def require_alone(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Check that this node may become active: no other one with its names is active, older, or of another program.

        :param sleep: waits [s]; may raise to give up.
        :raises NameTaken: there is one.
        """
        while (left := self._began + self._discovery_time - time.monotonic()) > 0.0:
            sleep(min(left, _PERIOD))
            self.announce()
        # The node may not have received anything for a while, because a transition blocks its thread.
        while (taken := self._subscription.handle.take_message(String, True)) is not None:
            self._subscription.callback(taken[0])
        self.refresh()
        rivals = self._rivals()
        if self.conflict and (not rivals or any(other.active or other.born < self._born for other in rivals)):
            raise NameTaken(self.conflict)

    def refresh(self) -> None:
        """Announce this node, and find out whether others have its names."""
        announcement, now = self.announce(), time.monotonic()
        rivals = self._rivals()
        before = self.conflict, self.must_yield, self.contested
        strangers = self._strangers()
        messages = [*map(self._describe, rivals), *strangers]
        self.conflict = f"{'; '.join(messages)}: a goal would reach both" if messages else ""
        active = [other.born < self._born for other in rivals if other.active and self._active()]
        self.must_yield = any(active)
        if not active:
            self._uncontested = now
        self.contested = now - self._uncontested > _SILENCE
        younger = any(other.node == self._name and other.born < self._born for other in rivals)
        self.suffix = f" ({_place(announcement)})" if younger else ""
        if (self.conflict, self.must_yield, self.contested) != before:
            if self.conflict and not before[0]:
                self._node.get_logger().error(f"{self.conflict} (what to do: {REMEDY})")
            elif not self.conflict:
                self._node.get_logger().info("no other node has this node's names any more")
            self._on_change()

    def announce(self) -> dict[str, Any]:
        """Tell the others now, for example that this node has become active; returns what they are told."""
        started, identity = self._born
        announcement = {
            "id": identity, "node": self._name, "started": started, "active": self._active(),
            "busy": self._busy, "serves": sorted(self._serves), "host": socket.gethostname(), "pid": os.getpid(),
            "hardware": self._hardware(),
        }  # fmt: skip
        self._publisher.publish(String(data=json.dumps(announcement)))
        return announcement

    def _on_message(self, message: String) -> None:
        """Note another node; anything else that arrives is ignored."""
        try:
            found: dict[str, Any] = json.loads(message.data)
            identity = str(found["id"])
            other = _Other(
                str(found["node"]), (int(found["started"]), identity), bool(found["active"]), bool(found["busy"]),
                frozenset(map(str, found["serves"])), _place(found), time.monotonic(),
            )  # fmt: skip
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return
        if identity != self._born[1] and (identity in self._others or len(self._others) < _MOST):
            self._others[identity] = other

    def _rivals(self) -> list[_Other]:
        """The nodes of this package that run now and have names in common with this one."""
        now = time.monotonic()
        self._others = {key: other for key, other in self._others.items() if now - other.heard < _MEMORY}
        rivals = [other for other in self._others.values() if other.node == self._name or other.serves & self._serves]
        there = self._nodes() if rivals else []
        return [
            other
            for other in rivals
            if now - other.heard < _SILENCE or (other.busy and there.count(other.node) > (other.node == self._name))
        ]

    def _strangers(self) -> list[str]:
        """Descriptions of nodes of the graph that have this node's names and announce nothing."""
        announced = {(other.node, action) for other in self._others.values() for action in other.serves}
        found = {
            (name, action)
            for action in self._serves
            # Every server of an action publishes its status.
            if self._node.count_publishers(topic := f"{action}/_action/status") > 1
            for info in self._node.get_publishers_info_by_topic(topic)
            if (name := node_of(info))
        }
        messages = [
            f"the node {name} serves {action}, too" for name, action in sorted(found - announced) if name != self._name
        ]
        now, twins = time.monotonic(), sum(other.node == self._name for other in self._others.values())
        if self._nodes().count(self._name) <= 1 + twins:
            self._alone = now
        elif now - self._alone > _DISCOVERY:
            messages.append(f"another node is called {self._name}, and is not one of aiofranka_ros")
        return messages

    def _nodes(self) -> list[str]:
        """Full names of all nodes on the graph."""
        return [f"{where.rstrip('/')}/{name}" for name, where in self._node.get_node_names_and_namespaces()]

    def _describe(self, other: _Other) -> str:
        if other.node == self._name:
            return f"another node is called {self._name} ({other.place})"
        return f"{other.node} ({other.place}) serves {', '.join(sorted(other.serves & self._serves))}, too"


def _place(announcement: dict[str, Any]) -> str:
    """Where a node runs, and what it drives."""
    hardware = announcement["hardware"]
    return f"process {announcement['pid']} on {announcement['host']}" + (f", {hardware}" if hardware else "")
