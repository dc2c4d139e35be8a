"""Frames of targets, and the control frame on TF, with a running node.

Targets in frames that only TF knows are tested with the real ``tf2_ros`` where it is installed, which comes with a ROS
distribution and not from PyPI; elsewhere these tests are skipped and say so.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped, TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile
from scipy.spatial.transform import Rotation
from tf2_msgs.msg import TFMessage

from aiofranka_ros.model.kinematics import link_pose
from aiofranka_ros.testing import Client

Log = Callable[[str], bool]

#: Largest distance of a compliant arm from its target, because of friction [m].
FRICTION = 0.008
has_tf2 = importlib.util.find_spec("tf2_ros") is not None
needs_tf2 = pytest.mark.skipif(not has_tf2, reason="tf2_ros is not installed: it comes with a ROS distribution")


@pytest.fixture(autouse=True)
def at_rest(robot: Client) -> Iterator[None]:
    """A node that accepts targets as old as these tests need; its arm has stopped, well within its limits."""
    assert robot.set(max_target_age=10.0) == ""
    ready = [0.0, -np.pi / 4, 0.0, -3 * np.pi / 4, 0.0, np.pi / 2, np.pi / 4]
    if np.abs(robot.q - ready).max() > 0.05:
        robot.outcome(robot.send_goal(ready))
    assert robot.rests()
    yield


def pose_in(frame: str, position: Any = (0.0, 0.0, 0.0), *, at: Time | None = None) -> PoseStamped:
    """A pose in ``frame`` with its orientation; ``at``: its stamp."""
    message = PoseStamped()
    message.header.frame_id = frame
    message.header.stamp = at or Time()
    p = message.pose.position
    p.x, p.y, p.z = (float(value) for value in position)
    message.pose.orientation.w = 1.0
    return message


def matrix(message: PoseStamped) -> np.ndarray:
    """The pose as a matrix (4, 4)."""
    p, o = message.pose.position, message.pose.orientation
    result = np.eye(4)
    result[:3, :3] = Rotation.from_quat([o.x, o.y, o.z, o.w]).as_matrix()
    result[:3, 3] = p.x, p.y, p.z
    return result


def in_frame(there: np.ndarray, wanted: np.ndarray, frame: str, at: Time | None = None) -> PoseStamped:
    """The pose ``wanted`` of the base, expressed in ``frame``, which is ``there`` in the base (4, 4)."""
    relative = np.linalg.inv(there) @ wanted
    message = pose_in(frame, relative[:3, 3], at=at)
    o = message.pose.orientation
    o.x, o.y, o.z, o.w = Rotation.from_matrix(relative[:3, :3]).as_quat().tolist()
    return message


def arrives(robot: Client, position: np.ndarray) -> bool:
    """Whether the arm moves to ``position`` [m] (3,) and stops there."""
    return robot.spin_until(lambda: bool(np.linalg.norm(robot.position - position) < FRICTION), 10.0) and robot.rests()


def lowered(robot: Client) -> np.ndarray:
    """The measured pose of the control frame, 5 cm further down (4, 4)."""
    wanted = matrix(robot.pose)
    wanted[2, 3] -= 0.05
    return wanted


# The control frame on TF.


def test_tf_has_the_measured_pose_of_the_control_frame_and_its_time(robot: Client) -> None:
    found: list[TransformStamped] = []
    # Reliable, like tf2's listeners; a best-effort publisher would not match.
    subscription = robot.node.create_subscription(
        TFMessage, "/tf", lambda message: found.extend(message.transforms), QoSProfile(depth=100)
    )
    robot.poses.clear()
    assert robot.spin_until(lambda: len(found) > 30)
    robot.node.destroy_subscription(subscription)
    measured = {(m.header.stamp.sec, m.header.stamp.nanosec): matrix(m) for m in robot.poses}
    compared = 0
    for transform in found:
        assert (transform.header.frame_id, transform.child_frame_id) == ("fr3_link0", "fr3_tcp")
        stamp, t = transform.header.stamp, transform.transform.translation
        if (stamp.sec, stamp.nanosec) in measured:
            compared += 1
            assert measured[stamp.sec, stamp.nanosec][:3, 3].tolist() == [t.x, t.y, t.z]
    assert compared > 10
    stamps = np.array([t.header.stamp.sec + 1e-9 * t.header.stamp.nanosec for t in found])
    assert (np.diff(stamps) > 0.0).all(), "TF's listeners complain of repetitions"


# Frames that the node knows by itself.


@pytest.mark.parametrize("frame", ["", "fr3_link0", "base"])
def test_a_target_in_the_base_is_not_transformed(robot: Client, frame: str) -> None:
    wanted = lowered(robot)
    robot.publish("ee_desired", in_frame(np.eye(4), wanted, frame))
    assert arrives(robot, wanted[:3, 3])


@pytest.mark.parametrize("link", [1, 4, 8])
def test_a_target_in_the_frame_of_a_link_is_relative_to_that_link(robot: Client, link: int) -> None:
    wanted = lowered(robot)
    robot.publish("ee_desired", in_frame(link_pose(robot.q, link), wanted, f"fr3_link{link}"))
    assert arrives(robot, wanted[:3, 3])


@pytest.mark.parametrize("frame", ["fr3_tcp", "fr3_link7"])
def test_a_target_in_a_moving_frame_is_relative_to_the_pose_of_the_frame_at_its_stamp(
    robot: Client, frame: str
) -> None:
    before = robot.pose
    there = matrix(before) if frame == "fr3_tcp" else link_pose(robot.q, 7)
    # The pose of the arm then, as seen by a camera on it...
    seen = in_frame(there, matrix(before), frame, at=before.header.stamp)
    below = lowered(robot)
    robot.publish("ee_desired", in_frame(np.eye(4), below, ""))
    assert arrives(robot, below[:3, 3])
    # ...is where the arm returns to, although the frame has moved since.
    assert robot.set(mode="impedance") == "" and robot.set(mode="osc") == ""
    robot.publish("ee_desired", seen)
    assert arrives(robot, matrix(before)[:3, 3])


def test_a_target_in_the_control_frame_without_a_stamp_is_relative_to_its_present_pose(robot: Client) -> None:
    wanted = matrix(robot.pose)
    wanted[:3, 3] += 0.05 * wanted[:3, 2]
    robot.publish("ee_desired", pose_in("fr3_tcp", (0.0, 0.0, 0.05)))
    assert arrives(robot, wanted[:3, 3])


def refused(robot: Client, message: PoseStamped, reason: str) -> bool:
    """Whether a target is counted as refused for ``reason``, and the arm does not move."""
    where, key = robot.position, f"refused: {reason}"
    before = int(robot.diagnostics("targets")[1].get(key, 0))
    robot.publish("ee_desired", message)
    return (
        robot.spin_until(lambda: int(robot.diagnostics("targets")[1].get(key, 0)) > before)
        and robot.rests()
        and bool(np.abs(robot.position - where).max() < 0.003)
    )


def test_a_stamp_from_before_the_activation_is_refused(robot: Client, log: Log) -> None:
    before = robot.pose.header.stamp
    assert robot.change("deactivate") and robot.change("activate")
    assert refused(robot, pose_in("fr3_tcp", (0.0, 0.0, 0.05), at=before), "frame not known at that time")
    assert log("is unknown: the arm was not active then")


@pytest.mark.skipif(has_tf2, reason="tf2_ros is installed")
def test_without_tf2_a_target_in_another_frame_is_refused_with_the_reason(robot: Client, log: Log) -> None:
    assert refused(robot, pose_in("camera"), "unknown frame")
    assert log("its frame is 'camera', but tf2_ros is not installed: without it, only 'fr3_link0', the arm's links")


# Frames that only TF knows.


def transform(parent: str, child: str, pose: np.ndarray, at: float) -> TFMessage:
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.header.stamp = stamp_of(at)
    t, r = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = pose[:3, 3].tolist()
    r.x, r.y, r.z, r.w = Rotation.from_matrix(pose[:3, :3]).as_quat().tolist()
    return TFMessage(transforms=[message])


def stamp_of(seconds: float) -> Time:
    return Time(sec=int(seconds), nanosec=int(seconds % 1.0 * 1e9))


def table(height: float) -> np.ndarray:
    """A frame next to the arm (4, 4), rotated relative to the base."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("zyx", [0.5, 0.1, -0.3]).as_matrix()
    pose[:3, 3] = 0.3, -0.2, height
    return pose


@pytest.fixture
def static_tf(robot: Client) -> Iterator[Any]:
    qos = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = robot.node.create_publisher(TFMessage, "/tf_static", qos)
    yield publisher
    robot.node.destroy_publisher(publisher)


@pytest.fixture
def tf(robot: Client) -> Iterator[Any]:
    """A publisher to TF, to which the node already listens."""
    publisher = robot.node.create_publisher(TFMessage, "/tf", QoSProfile(depth=100))
    assert robot.set(max_target_age=0.05) == ""
    assert refused(robot, pose_in("anywhere"), "unknown frame")
    assert robot.spin_until(lambda: publisher.get_subscription_count() > 0)
    assert robot.set(max_target_age=10.0) == ""
    yield publisher
    robot.node.destroy_publisher(publisher)


@needs_tf2
def test_the_first_target_in_another_frame_waits_for_tf(robot: Client, static_tf: Any, log: Log) -> None:
    static_tf.publish(transform("fr3_link0", "table", table(0.1), time.time()))
    wanted = lowered(robot)
    robot.publish("ee_desired", in_frame(table(0.1), wanted, "table", stamp_of(time.time())))
    assert arrives(robot, wanted[:3, 3])
    assert not log("refused")


@needs_tf2
def test_a_target_is_transformed_with_the_tf_of_its_stamp_even_if_that_arrives_later(robot: Client, tf: Any) -> None:
    wanted, now = lowered(robot), time.time()
    tf.publish(transform("fr3_link0", "belt", table(0.0), now - 0.1))
    robot.publish("ee_desired", in_frame(table(0.1), wanted, "belt", stamp_of(now)))
    robot.spin_for(0.3)
    where = robot.position
    # Half way between two transforms: the position of the belt at the time of the stamp.
    tf.publish(transform("fr3_link0", "belt", table(0.2), now + 0.1))
    assert arrives(robot, wanted[:3, 3])
    assert np.linalg.norm(where - wanted[:3, 3]) > 0.03, "it must not have moved before the transform was known"


@needs_tf2
def test_a_target_is_refused_with_the_error_of_tf_if_tf_does_not_know_its_frame_in_time(
    robot: Client, tf: Any, log: Log
) -> None:
    assert robot.set(max_target_age=0.2) == ""
    assert refused(robot, pose_in("nowhere", at=stamp_of(time.time())), "unknown frame")
    assert log("TF does not connect its frame 'nowhere' with 'fr3_link0'")
    tf.publish(transform("fr3_link0", "drone", table(0.0), time.time() - 1.0))
    assert refused(robot, pose_in("drone", at=stamp_of(time.time())), "frame not known at that time")
    assert log("TF does not know the pose of its frame 'drone' at its stamp")
    assert refused(robot, pose_in("/drone"), "unknown frame")


@needs_tf2
def test_a_waiting_target_is_dropped_when_the_arm_is_activated_again(robot: Client, tf: Any) -> None:
    now = time.time()
    robot.publish("ee_desired", in_frame(table(0.0), lowered(robot), "parcel", stamp_of(now)))
    robot.spin_for(0.1)
    assert robot.change("deactivate") and robot.change("activate")
    where = robot.position
    for at in (now - 0.1, now + 0.1):
        tf.publish(transform("fr3_link0", "parcel", table(0.0), at))
    robot.spin_for(0.5)
    assert robot.rests() and np.abs(robot.position - where).max() < 0.005
