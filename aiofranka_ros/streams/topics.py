"""The topics of targets: their names, types, the modes that use them, and how to read their messages.

Used by :mod:`aiofranka_ros.streams.watch`, in its one thread, after the watch. Messages are checked as the node does
it, by the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from geometry_msgs.msg import PoseStamped, TwistStamped
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory

from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.names import CONTROLLER
from aiofranka_ros.ros.cdr import nanoseconds
from aiofranka_ros.ros.messages import by_joint, pose_target
from aiofranka_ros.streams.recording import Quantity


class Point(NamedTuple):
    """One target.

    :ivar time: since the stamp of its message [s]; 0 for a single target.
    """

    quantity: Quantity
    time: float
    values: Sequence[float]


class Topic(NamedTuple):
    """One topic of targets.

    :ivar name: with ``~`` for the node's name, or after its namespace.
    :ivar kind: type of its messages.
    :ivar modes: names of the modes that use it; empty: a trajectory, which every mode executes.
    :ivar read: the targets in a message, given the names of the arm's joints; raises ``InvalidTarget``. A trajectory
        without points ends the one before.
    :ivar chunks: whether a message has several targets, each with its time.
    """

    name: str
    kind: Any
    modes: tuple[str, ...]
    read: Callable[[Any, tuple[str, ...]], list[Point]]
    chunks: bool = False

    def full_name(self, node: str) -> str:
        """Its full name, for a node's full name."""
        namespace, _, _ = node.rpartition("/")
        return self.name.replace("~", node) if self.name.startswith("~") else f"{namespace}/{self.name}"

    @property
    def type_name(self) -> str:
        """The type of its messages as commands write it."""
        return f"{self.kind.__module__.split('.')[0]}/msg/{self.kind.__name__}"


def _pose(message: Any, joints: tuple[str, ...]) -> list[Point]:
    p, o = message.pose.position, message.pose.orientation
    target = pose_target((p.x, p.y, p.z, o.x, o.y, o.z, o.w))
    return [Point(Quantity.POSE, 0.0, (*target.position, *target.orientation))]


def _joints(quantity: Quantity, field: str) -> Callable[[Any, tuple[str, ...]], list[Point]]:
    def read(message: Any, joints: tuple[str, ...]) -> list[Point]:
        return [Point(quantity, 0.0, by_joint(message.name, getattr(message, field), field, joints))]

    return read


def _twist(message: Any, joints: tuple[str, ...]) -> list[Point]:
    return [Point(Quantity.TWIST, 0.0, _finite(_six(message.twist)))]


def _joint_points(message: Any, joints: tuple[str, ...]) -> list[Point]:
    points = []
    for point in message.points:
        given = len(point.positions) > 0
        quantity, field = (Quantity.JOINTS, "positions") if given else (Quantity.JOINT_VELOCITY, "velocities")
        values = by_joint(message.joint_names, getattr(point, field), field, joints)
        points.append(Point(quantity, 1e-9 * nanoseconds(point.time_from_start), values))
    return _checked(points)


def _pose_points(message: Any, joints: tuple[str, ...]) -> list[Point]:
    points = []
    for point in message.points:
        time = 1e-9 * nanoseconds(point.time_from_start)
        if point.transforms:
            p, o = point.transforms[0].translation, point.transforms[0].rotation
            target = pose_target((p.x, p.y, p.z, o.x, o.y, o.z, o.w))
            points.append(Point(Quantity.POSE, time, (*target.position, *target.orientation)))
        elif point.velocities:
            points.append(Point(Quantity.TWIST, time, _finite(_six(point.velocities[0]))))
        else:
            raise InvalidTarget("a point has neither a transform nor a velocity", reason="wrong size")
    return _checked(points)


def _checked(points: list[Point]) -> list[Point]:
    if any(point.quantity is not points[0].quantity for point in points):
        raise InvalidTarget("some of its points have positions, others only velocities", reason="wrong size")
    if any(after.time < before.time for before, after in zip(points[:-1], points[1:], strict=True)):
        raise InvalidTarget("its times do not increase", reason="times")
    return points


def _six(twist: Any) -> tuple[float, ...]:
    linear, angular = twist.linear, twist.angular
    return linear.x, linear.y, linear.z, angular.x, angular.y, angular.z


def _finite(values: tuple[float, ...]) -> tuple[float, ...]:
    if not np.isfinite(values).all():
        raise InvalidTarget(f"it is not finite: {list(values)}", reason="not finite")
    return values


_JOINT_MODES = ("impedance", "pid")
#: All topics of targets. Those to which the node does not subscribe are left out.
TOPICS = (
    Topic("~/ee_desired", PoseStamped, ("osc",), _pose),
    Topic("~/q_desired", JointState, _JOINT_MODES, _joints(Quantity.JOINTS, "position")),
    Topic("~/torque_desired", JointState, ("torque",), _joints(Quantity.TORQUE, "effort")),
    Topic("~/twist_desired", TwistStamped, ("osc",), _twist),
    Topic("~/dq_desired", JointState, _JOINT_MODES, _joints(Quantity.JOINT_VELOCITY, "velocity")),
    Topic("~/ee_chunk", MultiDOFJointTrajectory, ("osc",), _pose_points, chunks=True),
    Topic("~/joint_chunk", JointTrajectory, _JOINT_MODES, _joint_points, chunks=True),
    Topic(f"{CONTROLLER}/joint_trajectory", JointTrajectory, (), _joint_points, chunks=True),
)


def measured_pose(message: Any) -> Array:
    """The pose in a ``PoseStamped`` (7,)."""
    p, o = message.pose.position, message.pose.orientation
    return np.array([p.x, p.y, p.z, o.x, o.y, o.z, o.w])
