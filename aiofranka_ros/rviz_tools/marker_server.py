"""One interactive marker: what RViz shows, lets people drag, and opens the menu of.

Used by the node of RViz's tools, in its process and its one thread. Where the package ``interactive_markers`` is
installed, as with a ROS distribution, its server does the work. PyPI has none; there a small one for a single marker
speaks the same protocol, so that an RViz on another computer can be used.

The protocol: whoever comes asks a service for the markers and their sequence number; after that, every change is an
update with the next number. RViz starts anew where one is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from geometry_msgs.msg import Pose
from rclpy.node import Node
from rclpy.qos import QoSProfile
from visualization_msgs.msg import (
    InteractiveMarker,
    InteractiveMarkerFeedback,
    InteractiveMarkerPose,
    InteractiveMarkerUpdate,
)
from visualization_msgs.srv import GetInteractiveMarkers

try:
    from interactive_markers import InteractiveMarkerServer
except ImportError:
    InteractiveMarkerServer = None

OnFeedback = Callable[[InteractiveMarkerFeedback], None]
#: RViz's own depth: of a quick press, drag and release nothing may be lost.
_QOS = QoSProfile(depth=100)
#: Where two people pull at the marker, it is his who began until he pauses for so long [s]; as in the library.
_EXCLUSIVE = 1.0


class MarkerServer(Protocol):
    """Shows one marker and passes on what people do with it."""

    def show(self, marker: InteractiveMarker) -> None:
        """Show it, or another one of its name in its place."""

    def move(self, pose: Pose) -> None:
        """Let it be elsewhere."""

    def close(self) -> None:
        """Take it away."""


def serve_marker(node: Node, namespace: str, on_feedback: OnFeedback) -> MarkerServer:
    """A server below ``namespace``, with the library where it is installed."""
    kind = SingleMarkerServer if InteractiveMarkerServer is None else LibraryMarkerServer
    return kind(node, namespace, on_feedback)


class LibraryMarkerServer:
    """:class:`MarkerServer` by the package ``interactive_markers``."""

    def __init__(self, node: Node, namespace: str, on_feedback: OnFeedback) -> None:
        self._on_feedback = on_feedback
        self._name = ""
        self._server = InteractiveMarkerServer(node, namespace, feedback_sub_qos=_QOS)

    def show(self, marker: InteractiveMarker) -> None:
        """See :meth:`MarkerServer.show`."""
        self._name = marker.name
        self._server.insert(marker, feedback_callback=self._on_feedback)
        self._server.applyChanges()

    def move(self, pose: Pose) -> None:
        """See :meth:`MarkerServer.move`."""
        self._server.setPose(self._name, pose)
        self._server.applyChanges()

    def close(self) -> None:
        """See :meth:`MarkerServer.close`."""
        self._server.shutdown()


class SingleMarkerServer:
    """:class:`MarkerServer` without the package."""

    def __init__(self, node: Node, namespace: str, on_feedback: OnFeedback) -> None:
        self._node = node
        self._on_feedback = on_feedback
        self._marker: InteractiveMarker | None = None
        self._sequence = 0
        self._holder, self._held = "", -_EXCLUSIVE
        self._updates = node.create_publisher(InteractiveMarkerUpdate, f"{namespace}/update", _QOS)
        self._feedback = node.create_subscription(
            InteractiveMarkerFeedback, f"{namespace}/feedback", self._on_message, _QOS
        )
        self._service = node.create_service(
            GetInteractiveMarkers, f"{namespace}/get_interactive_markers", self._on_request
        )

    def show(self, marker: InteractiveMarker) -> None:
        """See :meth:`MarkerServer.show`."""
        self._marker = marker
        self._publish(InteractiveMarkerUpdate(markers=[marker]))

    def move(self, pose: Pose) -> None:
        """See :meth:`MarkerServer.move`."""
        if self._marker is not None:
            self._marker.pose = pose
            moved = InteractiveMarkerPose(header=self._marker.header, pose=pose, name=self._marker.name)
            self._publish(InteractiveMarkerUpdate(poses=[moved]))

    def close(self) -> None:
        """See :meth:`MarkerServer.close`."""
        if self._marker is not None and self._node.context.ok():
            self._publish(InteractiveMarkerUpdate(erases=[self._marker.name]))
        self._node.destroy_service(self._service)
        self._node.destroy_subscription(self._feedback)
        self._node.destroy_publisher(self._updates)

    def _publish(self, update: InteractiveMarkerUpdate) -> None:
        self._sequence += 1
        update.type = InteractiveMarkerUpdate.UPDATE
        update.seq_num = self._sequence
        self._updates.publish(update)

    def _on_request(
        self, request: GetInteractiveMarkers.Request, response: GetInteractiveMarkers.Response
    ) -> GetInteractiveMarkers.Response:
        response.sequence_number = self._sequence
        response.markers = [] if self._marker is None else [self._marker]
        return response

    def _on_message(self, feedback: InteractiveMarkerFeedback) -> None:
        if self._marker is None or feedback.marker_name != self._marker.name:
            return
        now = time.monotonic()
        if feedback.client_id != self._holder and now - self._held < _EXCLUSIVE:
            return
        self._holder, self._held = feedback.client_id, now
        if feedback.event_type == InteractiveMarkerFeedback.POSE_UPDATE:
            self.move(feedback.pose)  # Who else looks at it sees it move.
        self._on_feedback(feedback)
