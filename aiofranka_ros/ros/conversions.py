"""ROS messages to the arrays that the control process takes, and what it measured back to messages.

Called by the node, in its process and its one thread. This is the boundary: what comes from the graph is
checked here, completely and once, and whatever is wrong with it raises
:class:`~aiofranka_ros.errors.InvalidTarget` with a sentence for its sender. Behind this module every array
has its shape and is finite.
"""

from __future__ import annotations

import functools
import itertools
import math
import struct
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Pose, PoseStamped, TransformStamped, WrenchStamped
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Header, MultiArrayDimension, MultiArrayLayout

from aiofranka_ros.control.records import new
from aiofranka_ros.control.snapshot import Snapshot
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array, Numbers, Record
from aiofranka_ros.model.kinematics import pose_matrix, quaternion_from_matrix
from aiofranka_ros.model.names import FR3, ArmNames
from aiofranka_ros.ros.serialized import SerializedMessage

#: Largest deviation of a quaternion's norm from 1 that is taken for rounding and normalised away.
QUATERNION_TOLERANCE = 0.01

#: What ``~/state`` consists of, matrices by rows. One message of numbers alone, because what belongs to one instant
#: should arrive together, and because there is no message type for a Jacobian and a mass matrix.
SNAPSHOT_FIELDS = "active sec nanosec q[7] dq[7] tau[7] ee[4,4] jacobian[6,7] mass[7,7]"
_SNAPSHOT_SIZES = (3, 7, 7, 7, 16, 42, 49)
_SNAPSHOT_ENDS = tuple(itertools.accumulate(_SNAPSHOT_SIZES))
_SNAPSHOT_LAYOUT = MultiArrayLayout(
    dim=[MultiArrayDimension(label=SNAPSHOT_FIELDS, size=sum(_SNAPSHOT_SIZES), stride=sum(_SNAPSHOT_SIZES))]
)
#: The numbers as one record; their stamp is among them, the other one is for :class:`SerializedMessage` alone.
_NUMBERS = np.dtype([("stamp", "i8"), ("numbers", "f8", (sum(_SNAPSHOT_SIZES),))])

_NANOSECONDS = 1_000_000_000

#: How serialized messages begin: their encoding, two bytes of options, then the body. OMG RTPS 2.5, 10.2.
_CDR_LITTLE_ENDIAN, _CDR_BODY = b"\x00\x01", 4
#: The body of a message with a header begins with its stamp; behind it, the frame. Strings and sequences begin with
#: their lengths, which stand at multiples of four bytes.
_CDR_TIME, _CDR_FRAME, _CDR_COUNT = struct.Struct("<iI"), 12, struct.Struct("<I")
_CDR_TIME_AND_COUNT, _CDR_POSE = struct.Struct("<iII"), struct.Struct("<7d")

#: Reason of refusals for the joints that a message names.
WRONG_JOINTS = "wrong joints"


def nanoseconds(stamp: Time | Duration) -> int:
    """A time stamp or duration as nanoseconds; 0 where its sender left it empty."""
    return int(stamp.sec) * _NANOSECONDS + int(stamp.nanosec)


def read_pose(data: bytes) -> tuple[int, tuple[str, tuple[float, ...]]]:
    """What stands in a serialized ``PoseStamped``: stamp [ns], and frame with x, y, z [m], qx, qy, qz, qw.

    rclpy makes nine objects of it, which takes fifty times as long, and a target is waiting. Only little-endian CDR is
    read here, in which the middlewares of ROS send on today's processors; the rest is rclpy's.

    :raises InvalidTarget: it is something else.
    """
    try:
        if data[:2] == _CDR_LITTLE_ENDIAN:
            seconds, rest, length = _CDR_TIME_AND_COUNT.unpack_from(data, _CDR_BODY)
            begin = _CDR_FRAME + 4
            frame = data[begin : begin + max(0, length - 1)].decode()  # Without the zero at its end.
            # Numbers of eight bytes begin at multiples of eight from the body's beginning on.
            numbers = _CDR_POSE.unpack_from(data, begin + length + -(4 + length) % 8)
            return seconds * _NANOSECONDS + rest, (frame, numbers)
        message = deserialize_message(data, PoseStamped)
    except (struct.error, RuntimeError, UnicodeDecodeError, MemoryError) as error:
        raise InvalidTarget(f"it cannot be read: {error}", reason="cannot be read") from error
    p, o = message.pose.position, message.pose.orientation
    return nanoseconds(message.header.stamp), (message.header.frame_id, (p.x, p.y, p.z, o.x, o.y, o.z, o.w))


class JointValues(NamedTuple):
    """What stands in a ``JointState`` that asks for something.

    :ivar name: of the joints; none: they are in order.
    :ivar position: [rad], one a joint.
    :ivar effort: [Nm], one a joint.
    """

    name: tuple[str, ...]
    position: tuple[float, ...]
    effort: tuple[float, ...]


class JointReader:
    """Reads serialized ``JointState`` messages, as :func:`read_pose` does those of poses.

    It remembers how the last one began, because from one message of a sender to the next its names stay the same.
    """

    def __init__(self) -> None:
        self._beginning: tuple[bytes, tuple[str, ...]] | None = None

    def read(self, data: bytes) -> tuple[int, JointValues]:
        """The stamp [ns], and what stands in the message.

        :raises InvalidTarget: it is something else.
        """
        try:
            if data[:2] == _CDR_LITTLE_ENDIAN:
                seconds, rest = _CDR_TIME.unpack_from(data, _CDR_BODY)
                known = self._beginning
                if known is None or not data.startswith(known[0], _CDR_FRAME):
                    self._beginning = known = _read_names(data)
                beginning, names = known
                position, at = _read_doubles(data, _CDR_FRAME + len(beginning))
                _, at = _read_doubles(data, at)
                effort, _ = _read_doubles(data, at)
                return seconds * _NANOSECONDS + rest, JointValues(names, position, effort)
            message = deserialize_message(data, JointState)
        except (struct.error, RuntimeError, UnicodeDecodeError, MemoryError) as error:
            raise InvalidTarget(f"it cannot be read: {error}", reason="cannot be read") from error
        values = JointValues(tuple(message.name), tuple(message.position), tuple(message.effort))
        return nanoseconds(message.header.stamp), values


def pose_target(numbers: tuple[float, ...]) -> dict[str, Numbers]:
    """The pose of the control frame that x, y, z [m], qx, qy, qz, qw ask for.

    :returns: ``target_position`` [m] (3,) and ``target_orientation``, a unit quaternion (x, y, z, w).
    :raises InvalidTarget: it is not finite, or its quaternion is not a unit one.
    """
    # Without numpy, whose machinery takes long where it was not used for a while, and a target is waiting.
    position, orientation = numbers[:3], numbers[3:]
    _require_finite("position", position)
    _require_finite("orientation", orientation)
    return {"target_position": position, "target_orientation": unit_quaternion(orientation)}


def pose_of(message: PoseStamped) -> Array:
    """The pose in ``message`` (4, 4).

    :raises InvalidTarget: as :func:`pose_target`.
    """
    p, o = message.pose.position, message.pose.orientation
    target = pose_target((p.x, p.y, p.z, o.x, o.y, o.z, o.w))
    return pose_matrix(np.concatenate((target["target_position"], target["target_orientation"])))


def unit_quaternion(quaternion: Sequence[float]) -> tuple[float, ...]:
    """``quaternion`` (x, y, z, w) with a norm of exactly 1.

    :raises InvalidTarget: its norm is further from 1 than rounding explains.
    """
    norm = math.hypot(*quaternion)
    if abs(norm - 1.0) > QUATERNION_TOLERANCE:
        raise InvalidTarget(
            f"its quaternion has a norm of {norm:.3f}: only {1 - QUATERNION_TOLERANCE:.2f} to "
            f"{1 + QUATERNION_TOLERANCE:.2f} is taken for a unit quaternion (x, y, z, w)",
            reason="not a unit quaternion",
        )
    x, y, z, w = quaternion
    return x / norm, y / norm, z / norm, w / norm


def position_target(message: JointState | JointValues, names: ArmNames = FR3) -> dict[str, Numbers]:
    """The joint positions that ``message`` asks for.

    :returns: ``target_q`` [rad] (7,).
    :raises InvalidTarget: joints are missing, unknown or named twice, or a position is not finite.
    """
    return {"target_q": _by_joint(message.name, message.position, "position", names.joints)}


def torque_target(message: JointState | JointValues, names: ArmNames = FR3) -> dict[str, Numbers]:
    """The joint torques that ``message`` asks for, gravity and coriolis excluded as in libfranka.

    :returns: ``target_torque`` [Nm] (7,).
    :raises InvalidTarget: joints are missing, unknown or named twice, or a torque is not finite.
    """
    return {"target_torque": _by_joint(message.name, message.effort, "effort", names.joints)}


def joint_order(names: Sequence[str], joints: Sequence[str]) -> list[int]:
    """Where each of ``joints`` stands in ``names``.

    :raises InvalidTarget: joints are missing, unknown or named twice.
    """
    names = list(names)
    problems = [
        f"{problem} {', '.join(which)}"
        for problem, which in (
            ("unknown joint", sorted(set(names) - set(joints))),
            ("named twice:", sorted({name for name in names if names.count(name) > 1})),
            ("missing joint", [name for name in joints if name not in names]),
        )
        if which
    ]
    if problems:
        raise InvalidTarget("; ".join(problems), reason=WRONG_JOINTS)
    return [names.index(name) for name in joints]


def joint_values(values: Sequence[float], what: str) -> Array:
    """``values`` as an array (7,), from joint 1 on.

    :param what: what they are, for the message of the exception.
    :raises InvalidTarget: they are not seven, or not finite.
    """
    return np.array(_seven(values, what), dtype=float)


def joint_state(state: Record, names: ArmNames = FR3) -> JointState:
    """Measured positions [rad], velocities [rad/s] and torques [Nm] of ``state``."""
    return JointState(
        header=header_of(state, names),
        name=list(names.joints),
        position=state["q"].tolist(),
        velocity=state["dq"].tolist(),
        effort=state["tau_measured"].tolist(),
    )


def measured_pose(state: Record, names: ArmNames = FR3) -> PoseStamped:
    """Measured pose of the control frame in the base."""
    message = PoseStamped(header=header_of(state, names))
    position, orientation = message.pose.position, message.pose.orientation
    position.x, position.y, position.z = state["position"].tolist()
    orientation.x, orientation.y, orientation.z, orientation.w = state["orientation"].tolist()
    return message


def control_frame(state: Record, names: ArmNames = FR3) -> TransformStamped:
    """Where the control frame was measured in the base, as TF has it."""
    message = TransformStamped(header=header_of(state, names), child_frame_id=names.tcp)
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = state["position"].tolist()
    rotation.x, rotation.y, rotation.z, rotation.w = state["orientation"].tolist()
    return message


def pose_message(pose: Array) -> Pose:
    """A pose (4, 4) as a message."""
    message, quaternion = Pose(), np.empty(4)
    quaternion_from_matrix(pose, quaternion)
    position, orientation = message.position, message.orientation
    position.x, position.y, position.z = pose[:3, 3].tolist()
    orientation.x, orientation.y, orientation.z, orientation.w = quaternion.tolist()
    return message


def pose_stamped(pose: Array, stamp: Time, frame: str) -> PoseStamped:
    """A pose (4, 4) in ``frame`` as a message."""
    return PoseStamped(header=Header(stamp=stamp, frame_id=frame), pose=pose_message(pose))


def external_wrench(state: Record, names: ArmNames = FR3) -> WrenchStamped:
    """Estimated external wrench on the stiffness frame, expressed in the base (``O_F_ext_hat_K``)."""
    message = WrenchStamped(header=header_of(state, names))
    force, torque = message.wrench.force, message.wrench.torque
    force.x, force.y, force.z, torque.x, torque.y, torque.z = state["external_wrench"].tolist()
    return message


class SnapshotMessage:
    """All that a policy needs of one instant, in one message: see :data:`SNAPSHOT_FIELDS`."""

    def __init__(self) -> None:
        self._content = new(_NUMBERS)
        self._serialized = SerializedMessage(_snapshot_message, _NUMBERS)

    def of(self, state: Record, active: bool) -> bytes:
        """The message of ``state``, as a publisher takes it.

        :param active: whether the arm is under torque control.
        """
        seconds, rest = divmod(int(state["stamp"]), _NANOSECONDS)
        ee = pose_matrix(np.concatenate((state["position"], state["orientation"])))
        parts = (state["q"], state["dq"], state["tau"], ee.ravel(), state["jacobian"].ravel(), state["mass"].ravel())
        np.concatenate(((active, seconds, rest), *parts), out=self._content["numbers"][0])
        return self._serialized.of(self._content[0])


def read_snapshot(data: bytes) -> tuple[Snapshot, bool]:
    """What a :class:`SnapshotMessage` was made of, and whether the arm is active.

    :param data: the message as it travels. Where it begins as those of this computer do, its numbers are taken straight
        from it, because rclpy needs many times as long; else it is rclpy's.
    :raises InvalidTarget: the message is of another kind.
    """
    beginning, length = _snapshot_form()
    if len(data) == length and data.startswith(beginning):
        numbers = np.frombuffer(data, offset=length - _NUMBERS["numbers"].itemsize).copy()
    else:
        try:
            numbers = np.array(deserialize_message(data, Float64MultiArray).data, dtype=float)
        except (RuntimeError, MemoryError) as error:
            raise InvalidTarget(f"it cannot be read: {error}", reason="cannot be read") from error
        if len(numbers) != _SNAPSHOT_ENDS[-1]:
            raise InvalidTarget(f"it has {len(numbers)} numbers instead of {_SNAPSHOT_ENDS[-1]}", reason="wrong size")
    _require_finite("its time", numbers[:3].tolist())
    _, q, dq, tau, ee, jacobian, mass = (
        numbers[begin:end] for begin, end in zip((0, *_SNAPSHOT_ENDS), _SNAPSHOT_ENDS, strict=False)
    )
    return (
        Snapshot(
            stamp=int(numbers[1]) * _NANOSECONDS + int(numbers[2]),
            q=q,
            dq=dq,
            ee=ee.reshape(4, 4),
            jacobian=jacobian.reshape(6, 7),
            mass=mass.reshape(7, 7),
            tau=tau,
        ),
        bool(numbers[0]),
    )


def _snapshot_message(content: Record) -> Float64MultiArray:
    return Float64MultiArray(layout=_SNAPSHOT_LAYOUT, data=array("d", content["numbers"].tobytes()))


@functools.cache
def _snapshot_form() -> tuple[bytes, int]:
    """How a snapshot's message begins on this computer, and how long it is; its numbers are the last in it."""
    data = bytes(serialize_message(_snapshot_message(new(_NUMBERS)[0])))
    label = SNAPSHOT_FIELDS.encode()
    # Not the bytes that follow the label: those that only align what comes next may be anything.
    return data[: data.index(label) + len(label)], len(data)


def header_of(state: Record, names: ArmNames) -> Header:
    """The header of what is in the base, at the ``stamp`` [ns] of ``state``."""
    seconds, rest = divmod(int(state["stamp"]), _NANOSECONDS)
    return Header(stamp=Time(sec=seconds, nanosec=rest), frame_id=names.base)


def _by_joint(names: Sequence[str], values: Sequence[float], field: str, joints: tuple[str, ...]) -> Numbers:
    """``values`` (7,) of ``joints``, in whatever order they are named; without names, they are in order."""
    if names:
        if len(values) != len(names):
            raise InvalidTarget(
                f"it names {len(names)} joints, but {field} has {len(values)} values", reason="wrong size"
            )
        if tuple(names) != joints:
            values = [values[index] for index in joint_order(names, joints)]
    return _seven(values, field)


def _seven(values: Sequence[float], what: str) -> tuple[float, ...]:
    if len(values) != 7:
        raise InvalidTarget(f"{what} has {len(values)} values, but the arm has 7 joints", reason="wrong size")
    _require_finite(what, values)
    return tuple(values)


def _read_names(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The bytes of a serialized ``JointState`` from its frame to its names, and the names."""
    (length,) = _CDR_COUNT.unpack_from(data, _CDR_FRAME)
    at = _CDR_FRAME + 4 + length
    at += -at % 4
    (count,) = _CDR_COUNT.unpack_from(data, at)
    names = []
    for _ in range(count):
        at += 4 + -at % 4
        (length,) = _CDR_COUNT.unpack_from(data, at)
        names.append(data[at + 4 : at + 4 + max(0, length - 1)].decode())
        at += length
    if at + 4 > len(data):
        raise struct.error("it ends within the names of its joints")
    return data[_CDR_FRAME : at + 4], tuple(names)


def _read_doubles(data: bytes, at: int) -> tuple[tuple[float, ...], int]:
    """A sequence of doubles in a serialized message that begins after ``at``, and where it ends."""
    at += -at % 4
    (count,) = _CDR_COUNT.unpack_from(data, at)
    at += 4
    if count == 0:
        return (), at
    at += (_CDR_BODY - at) % 8
    return _doubles(count).unpack_from(data, at), at + 8 * count


@functools.lru_cache(maxsize=32)
def _doubles(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}d")


def _require_finite(what: str, values: Sequence[float]) -> None:
    # One call for what nearly always holds; of finite values that are very large, the norm is not finite.
    if not math.isfinite(math.hypot(*values)) and not all(map(math.isfinite, values)):
        raise InvalidTarget(f"{what} is not finite: {list(values)}", reason="not finite")
