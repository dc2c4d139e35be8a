"""The client of a goal: who it is, and whether it is still there. What a client asked for ends with the client.

The nodes ask :class:`GoalClients`, in their one thread. It knows a client in one of two ways:

- Clients of this package have a :class:`Presence`: a topic on which they say, several times a second, which process
  they are. Their goals carry the same id. On the node's computer, the kernel tells whether that process still exists:
  a killed one is noticed at once, and one that is stopped (Ctrl-Z, a debugger) or busy is not taken for gone. Of a
  client on another computer, a node can only notice that it is silent.
- Any other client is known by what DDS knows. From Kilted on, rclpy's introspection of the action tells which process
  sent a goal, and the goal ends when this process no longer subscribes to the action's feedback; on older
  distributions, when none of the action's clients does that were there when the goal began. DDS notices at once that a
  client leaves the graph. For one that was killed, it waits for the lease of its participant: 20 s with Fast DDS,
  unless its profile gives another.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rclpy.action import ActionClient, ActionServer
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String
from unique_identifier_msgs.msg import UUID

from aiofranka_ros.processes import identity_of, is_running
from aiofranka_ros.ros.cdr import subscribe
from aiofranka_ros.ros.graph import node_of

#: For servers and clients of actions: how many requests or answers DDS keeps until they are taken. By default it is
#: ten, those of other clients included; older ones are lost.
KEPT = {f"{service}_service_qos_profile": QoSProfile(depth=1000) for service in ("goal", "result", "cancel")}
#: How often a client says that it is there [s].
_PERIOD = 0.1
#: A client on another computer that is silent for this long is gone [s].
SILENCE = 0.7
#: How often to check whether the client of a goal is there [s].
_CHECK_PERIOD = 0.1
#: How long DDS may take to discover a client after its goal has arrived [s].
_DISCOVERY = 3.0
#: A goal's id is the id of its client and a number [bytes].
_HALF = 8
#: Identity of a process in DDS: the first part of the identities of all that it has on the graph [bytes].
_PARTICIPANT = 12
#: How many requests may wait for the message that says which process sent them.
_REQUESTS = 1000
#: How many clients are remembered.
_MOST_CLIENTS = 1000
#: A client that was silent for this long has no goals any more [s].
_FORGET = 60.0
#: Late subscribers get the last message, so a goal cannot arrive much before its client's first message.
_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_TOPIC = "client_alive"


def action_client(node: Node, kind: Any, name: str) -> ActionClient:
    """A client of an action that loses no answer, however long its program does something else."""
    return ActionClient(node, kind, name, **KEPT)


class Presence:
    """Tells a node, until ``node`` is destroyed, that this client is there; its goals end when it is gone.

    :param node: the client's node, which must be spun.
    :param server: full name of the node that serves the actions.
    """

    def __init__(self, node: Node, server: str) -> None:
        self._id = secrets.token_bytes(_HALF)
        self._message = String(data=f"{self._id.hex()} {node.get_fully_qualified_name()} {identity_of(os.getpid())}")
        self._publisher = node.create_publisher(String, f"{server}/{_TOPIC}", _QOS)
        # A separate group: in the node's default group it might wait for others, see UrgentFirstExecutor.
        steady, group = Clock(clock_type=ClockType.STEADY_TIME), ReentrantCallbackGroup()
        node.create_timer(_PERIOD, self._publish, clock=steady, callback_group=group)
        self._publish()

    def goal_id(self) -> UUID:
        """The id for the next goal that this client sends."""
        return UUID(uuid=list(self._id + secrets.token_bytes(16 - _HALF)))

    def _publish(self) -> None:
        self._publisher.publish(self._message)


@dataclass
class _Presence:
    """What is known of a client with a :class:`Presence`.

    :ivar process: its :func:`.identity_of`, if it is on this computer; otherwise empty.
    """

    name: str
    process: str
    heard: float

    def why_gone(self, now: float) -> str:
        if self.process:
            return "" if is_running(self.process) else "its process has ended"
        silent = now - self.heard
        return f"nothing was heard of it for {SILENCE:g} s" if silent > SILENCE else ""


@dataclass
class _Goal:
    """What is known of the client of a goal.

    :ivar client: the first half of its id, which is the id of a client that has a :class:`Presence`.
    :ivar participant: what the identities of its subscriptions begin with; empty: not known.
    :ivar seen: the subscribers of the action's feedback when the goal began, and the names of their nodes.
    """

    action: str
    client: bytes
    accepted: float
    participant: bytes = b""
    seen: dict[bytes, str] = field(default_factory=dict)
    due: float = 0.0
    why_gone: str = ""


class GoalClients:
    """The clients of a node's goals.

    :param node: serves the goals.
    :param clock: for the silence of clients [s].
    """

    def __init__(self, node: Node, clock: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._clock = clock
        self._clients: dict[bytes, _Presence] = {}
        self._goals: dict[bytes, _Goal] = {}
        self._seen: dict[str, tuple[float, dict[bytes, str]]] = {}
        self._last: dict[str, bytes] = {}
        # Requests by action: their numbers, which count those of one client, and the ids of their goals.
        self._requests: defaultdict[str, deque[tuple[int, bytes]]] = defaultdict(lambda: deque(maxlen=_REQUESTS))
        # A separate group, because messages of the default group make rclpy check everything that the node has.
        group = ReentrantCallbackGroup()
        subscribe(node, String, f"~/{_TOPIC}", self._on_message, _QOS, group)

    def follow(self, server: ActionServer, kind: Any, action: str) -> None:
        """Find out which process sends each goal of ``server``.

        :param kind: type of the action.
        :param action: its name.
        """
        if hasattr(server, "configure_introspection"):
            from rclpy.service_introspection import ServiceIntrospectionState

            qos, metadata = QoSProfile(depth=_REQUESTS), ServiceIntrospectionState.METADATA
            server.configure_introspection(self._node.get_clock(), qos, metadata)
            topic, event = f"{action}/_action/send_goal/_service_event", kind.Impl.SendGoalService.Event
            subscribe(self._node, event, topic, partial(self._on_request, action), qos)

    def request(self, action: str, number: int, goal_id: bytes) -> None:
        """A goal was requested; called before anything else is done with it.

        :param number: of the request, which counts those of one client.
        """
        self._requests[action].append((number, goal_id))
        self._last[action] = goal_id

    def requested(self, action: str) -> bytes:
        """Id of the goal that was requested last."""
        return self._last[action]

    def client_of(self, goal_id: bytes) -> str:
        """Full name of the node that requested a goal, if it has a :class:`Presence`; otherwise empty."""
        client = self._clients.get(goal_id[:_HALF])
        return "" if client is None else client.name

    def begin(self, goal_id: bytes, action: str) -> None:
        """A goal was accepted.

        :param action: name of its action.
        """
        self._goals[goal_id] = _Goal(action, goal_id[:_HALF], self._clock())
        self.why_gone(goal_id)

    def end(self, goal_id: bytes) -> None:
        """A goal has ended."""
        self._goals.pop(goal_id, None)

    def why_gone(self, goal_id: bytes) -> str:
        """Why the client of an accepted goal is gone, in a sentence; empty while it is there, or if the goal has ended.

        May be called often: it looks several times a second.
        """
        goal, now = self._goals.get(goal_id), self._clock()
        if goal is None:
            return ""
        if not goal.why_gone and now >= goal.due:
            goal.due = now + _CHECK_PERIOD
            client = self._clients.get(goal.client)
            reason = client.why_gone(now) if client is not None else ""
            reason = reason or self._why_left(goal, "" if client is None else client.name, now)
            if reason:
                goal.why_gone = f"the client{' ' + client.name if client is not None else ''} is gone: {reason}"
        return goal.why_gone

    def _why_left(self, goal: _Goal, name: str, now: float) -> str:
        """Why the client of ``goal`` is not on the graph; empty if it is there.

        :param name: of the client's node; empty if it is not known.
        """
        found = self._subscribers(goal.action, now)
        discovering = now < goal.accepted + _DISCOVERY
        if discovering:
            goal.seen |= found
        # Not every middleware's identities begin like this.
        its = {one for one in goal.seen if goal.participant and one.startswith(goal.participant)}
        if not its:
            others = {client.name for client in self._clients.values() if not client.why_gone(now)}
            # One whose node is not known may be its.
            its = {one for one, node in goal.seen.items() if (node in (name, "") if name else node not in others)}
        undiscovered = discovering and not its
        return "" if undiscovered or its & found.keys() else "it has left the ROS graph"

    def _subscribers(self, action: str, now: float) -> dict[bytes, str]:
        """The subscribers of the action's feedback, and the names of their nodes; all its goals share one look."""
        due, found = self._seen.get(action, (0.0, {}))
        if now >= due:
            found = {
                bytes(one.endpoint_gid): node_of(one)
                for one in self._node.get_subscriptions_info_by_topic(f"{action}/_action/feedback")
            }
            self._seen[action] = now + _CHECK_PERIOD, found
        return found

    def _on_request(self, action: str, event: Any) -> None:
        """The action has received a request: these messages arrive in the order of the requests."""
        info, requests = event.info, self._requests[action]
        while info.event_type == info.REQUEST_RECEIVED and requests:
            number, goal_id = requests.popleft()
            if number == info.sequence_number:
                if goal_id in self._goals:
                    self._goals[goal_id].participant = bytes(info.client_gid)[:_PARTICIPANT]
                break

    def _on_message(self, message: String) -> None:
        try:
            number, name, process = message.data.split(" ", 2)
            key = bytes.fromhex(number)
        except ValueError:
            return  # Of another version of this package, which then counts as any other client.
        now = self._clock()
        client = self._clients.get(key)
        if client is None:
            if len(self._clients) >= _MOST_CLIENTS:
                del self._clients[min(self._clients, key=lambda one: self._clients[one].heard)]
            for other in [other for other, one in self._clients.items() if now - one.heard > _FORGET]:
                del self._clients[other]
            self._clients[key] = _Presence(name, process if is_running(process) else "", now)
        else:
            client.heard = now
