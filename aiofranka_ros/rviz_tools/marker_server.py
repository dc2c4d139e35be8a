"""One interactive marker: RViz shows it, lets the user drag it, and opens its menu.

It speaks the protocol of the package ``interactive_markers``, which is not on PyPI, in the process and the one thread
of RViz's tools. A client that starts asks a service for the markers and their sequence number; after that, every change
is an update with the next number. RViz starts over if one is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

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

#: RViz's own depth: nothing of a quick press, drag and release may be lost.
_QOS = QoSProfile(depth=100)
#: If two clients drag the marker, the first one keeps it until it has paused for this long [s]; as interactive_markers
#: does.
_EXCLUSIVE = 1.0


class MarkerServer:
    """Shows one marker, with its topics and service below ``namespace``.

    :param on_feedback: called with everything that a client does to the marker.
    """

    def __init__(self, node: Node, namespace: str, on_feedback: Callable[[InteractiveMarkerFeedback], None]) -> None:
        self._node = node
        self._on_feedback = on_feedback
        self._marker: InteractiveMarker | None = None
        self._sequence = 0
        self._holder, self._held = "", -_EXCLUSIVE
        self._updates = node.create_publisher(InteractiveMarkerUpdate, f"{namespace}/update", _QOS)
        node.create_subscription(InteractiveMarkerFeedback, f"{namespace}/feedback", self._on_message, _QOS)
        node.create_service(GetInteractiveMarkers, f"{namespace}/get_interactive_markers", self._on_request)

    def show(self, marker: InteractiveMarker) -> None:
        """Show a marker, in place of the one before."""
        self._marker = marker
        self._publish(InteractiveMarkerUpdate(markers=[marker]))

    def move(self, pose: Pose) -> None:
        """Move the marker to ``pose``; does nothing before :meth:`show`."""
        if self._marker is not None:
            self._marker.pose = pose
            moved = InteractiveMarkerPose(header=self._marker.header, pose=pose, name=self._marker.name)
            self._publish(InteractiveMarkerUpdate(poses=[moved]))

    def close(self) -> None:
        """Remove the marker from RViz; the node destroys the rest."""
        if self._marker is not None and self._node.context.ok():
            self._publish(InteractiveMarkerUpdate(erases=[self._marker.name]))

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
            self.move(feedback.pose)  # Other clients see it move.
        self._on_feedback(feedback)
