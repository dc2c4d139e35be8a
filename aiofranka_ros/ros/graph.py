"""Which node an endpoint on the ROS graph belongs to.

Used by nodes and clients, in their one thread. Participants, endpoints and nodes are discovered separately: on a busy
computer, the name of a node can arrive seconds after its first message.
"""

from __future__ import annotations

from rclpy.topic_endpoint_info import TopicEndpointInfo

#: How the names of nodes begin that are not discovered yet; no valid name does.
_UNKNOWN = "_NODE_"


def node_of(endpoint: TopicEndpointInfo) -> str:
    """Full name of the node of a publisher or a subscription; empty until it is discovered."""
    if endpoint.node_name.startswith(_UNKNOWN):
        return ""
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"
