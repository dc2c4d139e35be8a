"""The server of the interactive marker, seen from RViz's client; no arm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import rclpy
from geometry_msgs.msg import Pose
from rclpy.qos import QoSProfile
from std_msgs.msg import Header
from visualization_msgs.msg import InteractiveMarker, InteractiveMarkerFeedback, InteractiveMarkerUpdate
from visualization_msgs.srv import GetInteractiveMarkers

from aiofranka_ros.rviz_tools.marker_server import MarkerServer
from aiofranka_ros.testing import Client

pytestmark = pytest.mark.unit


class Served:
    """A server and a client of it, on two nodes in one thread."""

    def __init__(self) -> None:
        self.rviz = Client("/no_arm")
        node = self.rviz.node
        self._node = rclpy.create_node("served", context=node.context, use_global_arguments=False)
        node.executor.add_node(self._node)
        self.feedback: list[InteractiveMarkerFeedback] = []
        self.server = MarkerServer(self._node, "~/marker", self.feedback.append)
        self.updates: list[InteractiveMarkerUpdate] = []
        updates = node.create_subscription(
            InteractiveMarkerUpdate, "/served/marker/update", self.updates.append, QoSProfile(depth=100)
        )
        self._markers = node.create_client(GetInteractiveMarkers, "/served/marker/get_interactive_markers")
        self._feedback = node.create_publisher(
            InteractiveMarkerFeedback, "/served/marker/feedback", QoSProfile(depth=100)
        )
        assert self.rviz.spin_until(lambda: node.count_publishers(updates.topic_name) > 0)
        assert self.rviz.spin_until(lambda: self._feedback.get_subscription_count() > 0)

    def markers(self) -> GetInteractiveMarkers.Response:
        return self.rviz.call(self._markers, GetInteractiveMarkers.Request())

    def tell(self, **fields: object) -> None:
        self._feedback.publish(InteractiveMarkerFeedback(**{"marker_name": "it", "client_id": "rviz", **fields}))

    def hears(self, count: int) -> bool:
        return self.rviz.spin_until(lambda: len(self.feedback) >= count)

    def gets(self, count: int) -> bool:
        return self.rviz.spin_until(lambda: len(self.updates) >= count)

    def close(self) -> None:
        self._node.destroy_node()
        self.rviz.close()


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    served.server.show(marker())
    assert served.gets(1)
    yield served
    served.close()


def marker(**fields: object) -> InteractiveMarker:
    return InteractiveMarker(header=Header(frame_id="fr3_link0"), name="it", **fields)


def pose(x: float) -> Pose:
    pose = Pose()
    pose.position.x = x
    return pose


def test_a_new_client_gets_the_marker_and_the_number_of_the_last_update(served: Served) -> None:
    served.server.move(pose(0.5))
    assert served.gets(2)
    answer = served.markers()
    assert [found.name for found in answer.markers] == ["it"]
    assert answer.markers[0].pose.position.x == 0.5
    assert answer.sequence_number == served.updates[-1].seq_num


def test_every_change_is_an_update_with_the_next_number(served: Served) -> None:
    served.server.move(pose(0.1))
    served.server.show(marker(description="another"))
    served.server.move(pose(0.2))
    assert served.gets(4)
    numbers = [update.seq_num for update in served.updates]
    assert numbers == list(range(numbers[0], numbers[0] + 4))
    assert {update.type for update in served.updates} == {InteractiveMarkerUpdate.UPDATE}
    first, moved, shown, moved_again = served.updates
    assert [found.name for found in first.markers] == ["it"]
    assert [(found.name, found.header.frame_id, found.pose.position.x) for found in moved.poses] == [
        ("it", "fr3_link0", 0.1)
    ]
    assert shown.markers[0].description == "another" and moved_again.poses[0].pose.position.x == 0.2


def test_feedback_is_passed_on_in_order(served: Served) -> None:
    events = [
        InteractiveMarkerFeedback.MOUSE_DOWN,
        InteractiveMarkerFeedback.POSE_UPDATE,
        InteractiveMarkerFeedback.MOUSE_UP,
        InteractiveMarkerFeedback.MENU_SELECT,
    ]
    for event in events:
        served.tell(event_type=event, pose=pose(0.3))
    assert served.hears(len(events))
    assert [feedback.event_type for feedback in served.feedback] == events


def test_a_drag_moves_the_marker_for_every_client(served: Served) -> None:
    served.tell(event_type=InteractiveMarkerFeedback.POSE_UPDATE, pose=pose(0.3))
    assert served.gets(2)
    assert served.updates[-1].poses[0].pose.position.x == 0.3
    assert served.markers().markers[0].pose.position.x == 0.3


def test_feedback_about_another_marker_is_not_passed_on(served: Served) -> None:
    served.tell(event_type=InteractiveMarkerFeedback.MOUSE_DOWN, marker_name="another")
    served.tell(event_type=InteractiveMarkerFeedback.MOUSE_UP)
    assert served.hears(1)
    assert [feedback.event_type for feedback in served.feedback] == [InteractiveMarkerFeedback.MOUSE_UP]


def test_a_second_client_cannot_drag_at_the_same_time(served: Served) -> None:
    served.tell(event_type=InteractiveMarkerFeedback.MOUSE_DOWN)
    served.tell(event_type=InteractiveMarkerFeedback.MOUSE_DOWN, client_id="another")
    served.tell(event_type=InteractiveMarkerFeedback.MOUSE_UP)
    assert served.hears(2)
    assert {feedback.client_id for feedback in served.feedback} == {"rviz"}


def test_closing_the_server_removes_the_marker(served: Served) -> None:
    served.server.close()
    assert served.gets(2)
    assert list(served.updates[-1].erases) == ["it"]
