"""Who streams targets: one publisher at a time, so that two policies do not tear the arm to and fro.

Used by the topics of targets, in the node's process and its one thread. The first publisher has the arm, on whichever
topic, until it has sent nothing for a while; what others send meanwhile is refused, and they are named. Up to Jazzy,
rclpy does not tell who published a message: there, everybody is taken for the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.node import Node
from rclpy.subscription import Subscription

from aiofranka_ros.errors import InvalidTarget

#: How long a publisher may be silent before another one may have the arm [s]: longer than policies hiccup.
HANDOVER = 0.5


def told(callback: Callable[[Any, Mapping[str, Any]], None]) -> Callable[..., None]:
    """``callback`` as rclpy takes it, called with a message and what is known of it; on Humble, nothing is."""
    return callback if hasattr(Subscription, "CallbackType") else lambda message: callback(message, {})


class Senders:
    """Lets one publisher at a time have the arm.

    :param node: knows the publishers of a topic by name.
    :param clock: the time [s].
    """

    def __init__(self, node: Node, clock: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._clock = clock
        self._owner = b""
        self._heard = -math.inf
        self._topic = ""

    def check(self, topic: str, info: Mapping[str, Any]) -> None:
        """Refuse a message whose publisher does not have the arm.

        :param topic: its full name.
        :param info: what rclpy knows of it.
        :raises InvalidTarget: another one has the arm.
        """
        gid = _gid(info)
        if gid != self._owner and self._clock() - self._heard < HANDOVER:
            raise InvalidTarget(
                f"{self._name(gid, topic) or 'its publisher'} has to wait: {self.owner} has the arm until it is silent "
                f"for {HANDOVER:g} s",
                reason="another publisher",
            )

    def took(self, topic: str, info: Mapping[str, Any]) -> None:
        """A message was passed on.

        :param topic: its full name.
        """
        self._owner, self._heard, self._topic = _gid(info), self._clock(), topic

    def forget(self) -> None:
        """Let anybody be the next one."""
        self._heard = -math.inf

    @property
    def owner(self) -> str:
        """Who streams targets at the moment, and where; empty where nobody does."""
        if self._clock() - self._heard >= HANDOVER:
            return ""
        name = self._name(self._owner, self._topic)
        return f"{name} on {self._topic}" if name else self._topic

    def _name(self, gid: bytes, topic: str) -> str:
        """Name of the node that publishes on ``topic`` with ``gid``; empty where it is not known, or gone."""
        for publisher in self._node.get_publishers_info_by_topic(topic) if gid else ():
            if bytes(publisher.endpoint_gid) == gid:
                return f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"
        return ""


def _gid(info: Mapping[str, Any]) -> bytes:
    gid = info.get("publisher_gid") or {}
    return bytes(gid.get("data", b""))
