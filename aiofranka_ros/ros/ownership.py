"""The topic ``~/owner``: who controls the arm now, latched, so that clients that must wait know when they may continue.

The arm's node publishes it in its one thread whenever it changes; ``RosInterface`` reads it in the policy's process.
"""

from __future__ import annotations

from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.qos import DurabilityPolicy, QoSProfile

from aiofranka_ros.ros.conditions import OK

TOPIC = "owner"
QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
#: What controls an arm that nothing else does.
NO_CLIENT = "no client"


class Ownership(NamedTuple):
    """Who controls the arm."""

    owner: str = NO_CLIENT  #: for people: a node and its topic, an interface such as ``~/move``, or :data:`NO_CLIENT`
    client: str = ""  #: full name of the node whose targets are followed; empty: none are, or it is not known
    #: Whether it takes precedence over targets: a priority client, a move or trajectory, or ``~/hold``.
    overrides: bool = False

    def message_of(self, node: str) -> DiagnosticStatus:
        """It as a message of ``node``."""
        values = {"client": self.client, "overrides": str(self.overrides).lower()}
        pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
        return DiagnosticStatus(level=OK, name="owner", hardware_id=node, message=self.owner, values=pairs)

    @classmethod
    def of(cls, message: DiagnosticStatus) -> Ownership:
        """What ``message`` says."""
        values = {pair.key: pair.value for pair in message.values}
        return cls(message.message, values.get("client", ""), values.get("overrides") == "true")
