"""Trajectories in their serialized form: read into arrays at a bounded cost, and made from arrays.

Called by the nodes, which receive chunks as trajectories, and by ``RosInterface``, in the thread of their executor. A
chunk comes from a policy that waits for it, so reading one must not delay the first torque: of 50 points, rclpy makes
objects in 0.9 ms, and :func:`read_joint_trajectory` arrays in 0.3 ms. The number of points is known before
anything else is read, so ten thousand of them cost no more than the copy that DDS makes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Quaternion, Transform, Twist, Vector3
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header
from trajectory_msgs.msg import (
    JointTrajectory,
    JointTrajectoryPoint,
    MultiDOFJointTrajectory,
    MultiDOFJointTrajectoryPoint,
)

from aiofranka_ros.control.chunk_size import MOST_POINTS, check_size
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array
from aiofranka_ros.ros.bounded import bounded
from aiofranka_ros.ros.cdr import BODY, LITTLE_ENDIAN, NANOSECONDS, UNREADABLE, read_names, unreadable

#: Most names in a message.
_MOST_NAMES = 20
#: Most bytes of a frame's name; most bytes of a message: ten times what one with ``MOST_POINTS`` full points has.
_LONGEST_NAME, _LARGEST = 1000, 3000 * MOST_POINTS
_HEAD, _COUNT, _DURATION = struct.Struct("<iII"), struct.Struct("<I"), struct.Struct("<iI")
#: Numbers in a pose, and in the velocity or acceleration of one.
_POSE, _TWIST = 7, 6
#: Lists of numbers in a point: their names, and how many numbers an element of them has.
_JOINT_LISTS = (("positions", 1), ("velocities", 1), ("accelerations", 1), ("effort", 1))
_POSE_LISTS = (("transforms", _POSE), ("velocities", _TWIST), ("accelerations", _TWIST))
#: Reason of refusals.
WRONG_SIZE = "wrong size"


class Trajectory(NamedTuple):
    """The content of a ``JointTrajectory`` or ``MultiDOFJointTrajectory``.

    :ivar stamp: [ns]; 0: empty.
    :ivar frame: name of the frame in which it is given; may be empty.
    :ivar names: of what moves; may be empty.
    :ivar times: of the points, counted from the stamp [s] (n,); empty if it has no points.
    :ivar positions: joint positions (n, k), or x, y, z [m], qx, qy, qz, qw (n, 7); ``None``: velocities only.
    :ivar velocities: joint velocities (n, k), or linear [m/s] and angular [rad/s] ones (n, 6); ``None`` if there are
        positions, or no points.
    """

    stamp: int
    frame: str
    names: tuple[str, ...]
    times: Array
    positions: Array | None
    velocities: Array | None


def read_joint_trajectory(data: bytes) -> Trajectory:
    """Read a serialized ``JointTrajectory`` whose points have positions, or velocities only.

    Velocities and accelerations next to positions are not used.

    :raises InvalidTarget: it is something else, it has too many points, or its points differ in what they give.
    """
    return _read(data, JointTrajectory, _JOINT_LISTS)


def read_pose_trajectory(data: bytes) -> Trajectory:
    """Read a serialized ``MultiDOFJointTrajectory`` whose points have one transform each, or one velocity only.

    :raises InvalidTarget: as :func:`read_joint_trajectory`.
    """
    trajectory = _read(data, MultiDOFJointTrajectory, _POSE_LISTS)
    for values, size, what in (
        (trajectory.positions, _POSE, "transforms"),
        (trajectory.velocities, _TWIST, "velocities"),
    ):
        if values is not None and values.shape[1] != size:
            raise InvalidTarget(
                f"its points have {values.shape[1] // size} {what} each; allowed: one", reason=WRONG_SIZE
            )
    return trajectory


def _read(data: bytes, kind: Any, lists: Sequence[tuple[str, int]]) -> Trajectory:
    try:
        if data[:2] != LITTLE_ENDIAN and len(data) <= _LARGEST:
            # Of another encoding: rclpy makes a message of it, and then one in the encoding of this computer.
            data = serialize_message(deserialize_message(data, bounded(kind, MOST_POINTS)))
        seconds, rest, length = _HEAD.unpack_from(data, BODY)
        if length > _LONGEST_NAME:
            raise InvalidTarget(f"its frame has a name of {length} characters", reason="too large")
        at = BODY + _HEAD.size
        frame = data[at : at + max(0, length - 1)].decode()
        names, at = read_names(data, at + length, _MOST_NAMES)
        count, at = _count(data, at)
        check_size(count)
        if len(data) > _LARGEST:
            raise InvalidTarget(f"it has {len(data)} bytes; at most {_LARGEST} are read", reason="too large")
        points = _points(data, at, count, lists) if count else (np.empty(0), None, None)
        return Trajectory(seconds * NANOSECONDS + rest, frame, names, *points)
    except UNREADABLE as error:
        raise unreadable(error) from error


def _points(
    data: bytes, at: int, count: int, lists: Sequence[tuple[str, int]]
) -> tuple[Array, Array | None, Array | None]:
    """Times, positions and velocities of the points that begin at or after ``at``."""
    times = np.empty(count)
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name, _ in lists}
    for index in range(count):
        for name, size in lists:
            number, at = _count(data, at)
            if number:
                at += (BODY - at) % 8  # Numbers of eight bytes are aligned to eight bytes.
                found[name].append(struct.unpack_from(f"<{number * size}d", data, at))
                at += 8 * number * size
        at += -at % 4
        seconds, rest = _DURATION.unpack_from(data, at)
        times[index] = seconds + rest / NANOSECONDS
        at += _DURATION.size
    if found.get("effort"):
        raise InvalidTarget("its points have efforts: leave them out", reason="efforts given")
    (first, _), (second, _) = lists[:2]
    return (
        times,
        _rows(found[first], count, first),
        None if found[first] else _rows(found[second], count, second, first),
    )


def _rows(found: list[tuple[float, ...]], count: int, name: str, instead: str = "") -> Array | None:
    """What all points give as ``name``, one row each; ``None`` if none does, unless it is needed ``instead``.

    :raises InvalidTarget: some points do not give it, or not as much as others.
    """
    if not found and not instead:
        return None
    if len(found) != count:
        what = f"{instead} or {name}" if instead else name
        raise InvalidTarget(f"{count - len(found)} of its {count} points have no {what}", reason=WRONG_SIZE)
    if len({len(row) for row in found}) > 1:
        raise InvalidTarget(f"its points differ in how many {name} they have", reason=WRONG_SIZE)
    return np.array(found, dtype=float)


def _count(data: bytes, at: int) -> tuple[int, int]:
    """The length of a sequence that begins at or after ``at``, and where its elements begin."""
    at += -at % 4
    (count,) = _COUNT.unpack_from(data, at)
    return int(count), at + 4


def joint_trajectory(
    stamp: int, names: Sequence[str], rows: Array, dt: float, frame: str = "", *, velocities: bool = False
) -> JointTrajectory:
    """A message with one point for each of ``rows``, the first one due at ``stamp``.

    :param stamp: [ns]; 0: empty.
    :param rows: positions of ``names`` (n, k), or their velocities if ``velocities``.
    :param dt: time between two rows [s].
    """
    field = "velocities" if velocities else "positions"
    points = [
        JointTrajectoryPoint(time_from_start=_duration(index * dt), **{field: row})
        for index, row in enumerate(rows.tolist())
    ]
    return JointTrajectory(header=_header(stamp, frame), joint_names=list(names), points=points)


def pose_trajectory(
    stamp: int, names: Sequence[str], rows: Array, dt: float, frame: str = ""
) -> MultiDOFJointTrajectory:
    """As :func:`joint_trajectory`, of poses: x, y, z [m], qx, qy, qz, qw (n, 7)."""
    points = []
    for index, (x, y, z, qx, qy, qz, qw) in enumerate(rows.tolist()):
        transform = Transform(translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw))
        points.append(MultiDOFJointTrajectoryPoint(transforms=[transform], time_from_start=_duration(index * dt)))
    return MultiDOFJointTrajectory(header=_header(stamp, frame), joint_names=list(names), points=points)


def twist_trajectory(
    stamp: int, names: Sequence[str], rows: Array, dt: float, frame: str = ""
) -> MultiDOFJointTrajectory:
    """As :func:`joint_trajectory`, of velocities: linear [m/s] and angular [rad/s] ones (n, 6)."""
    points = []
    for index, (x, y, z, wx, wy, wz) in enumerate(rows.tolist()):
        twist = Twist(linear=Vector3(x=x, y=y, z=z), angular=Vector3(x=wx, y=wy, z=wz))
        points.append(MultiDOFJointTrajectoryPoint(velocities=[twist], time_from_start=_duration(index * dt)))
    return MultiDOFJointTrajectory(header=_header(stamp, frame), joint_names=list(names), points=points)


def _header(stamp: int, frame: str) -> Header:
    seconds, rest = divmod(stamp, NANOSECONDS)
    return Header(stamp=Time(sec=seconds, nanosec=rest), frame_id=frame)


def _duration(time: float) -> Duration:
    seconds, rest = divmod(round(time * NANOSECONDS), NANOSECONDS)
    return Duration(sec=seconds, nanosec=rest)
