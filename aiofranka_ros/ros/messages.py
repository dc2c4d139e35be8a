"""ROS messages to the values that the control process takes, and measurements back to messages.

Called by the node, RViz's tools and ``RosInterface``, in the thread of their executor. This is the boundary: whatever
arrives from the graph is checked here, completely and once, and anything wrong with it raises
:class:`~aiofranka_ros.errors.InvalidTarget` with a sentence for its sender. Past this module every array has its shape
and is finite.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseStamped, TransformStamped, WrenchStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Header, MultiArrayDimension, MultiArrayLayout
from tf2_msgs.msg import TFMessage

from aiofranka_ros.control.records import Approach, Limit
from aiofranka_ros.control.snapshot import Snapshot
from aiofranka_ros.errors import InvalidTarget, listed
from aiofranka_ros.kernels import Array, Numbers, Record
from aiofranka_ros.model.kinematics import pose_matrix, quaternion_from_matrix
from aiofranka_ros.model.names import FR3, ArmNames
from aiofranka_ros.ros.cdr import NANOSECONDS, read_numbers

#: Largest deviation of a quaternion's norm from 1 that counts as rounding and is normalised away.
QUATERNION_TOLERANCE = 0.01

#: The content of ``~/state``, matrices by rows. It is one message of numbers, because everything measured at one
#: instant should arrive together, and because there is no message type for a Jacobian and a mass matrix.
SNAPSHOT_FIELDS = (
    "active sec nanosec q[7] dq[7] tau[7] ee[4,4] jacobian[6,7] mass[7,7] limited[10] approach approach_left[2]"
)
_SNAPSHOT_PARTS = "q dq tau tcp jacobian mass limited_targets approach approach_left".split()
_SNAPSHOT_ENDS = tuple(itertools.accumulate((3, 7, 7, 7, 16, 42, 49, len(Limit), 1, 2)))

#: Reason of refusals because of the joints that a message names.
WRONG_JOINTS = "wrong joints"


class PoseTarget(NamedTuple):
    """A pose of the control frame.

    :ivar position: [m] (3,).
    :ivar orientation: unit quaternion (x, y, z, w).
    """

    position: Numbers
    orientation: Numbers


class TwistTarget(NamedTuple):
    """A velocity of the control frame's origin.

    :ivar twist: linear [m/s], then angular [rad/s] (6,).
    :ivar in_tool: whether it is given along the axes of the control frame, and turns with it; else of the base.
    """

    twist: Numbers
    in_tool: bool = False


def twist_target(numbers: tuple[float, ...]) -> TwistTarget:
    """The twist given by ``numbers`` (6,), along the axes of the base.

    :raises InvalidTarget: it is not finite.
    """
    _require_finite("the twist", numbers)
    return TwistTarget(numbers)


def pose_target(numbers: tuple[float, ...]) -> PoseTarget:
    """The pose given by ``numbers``: x, y, z [m], qx, qy, qz, qw.

    :raises InvalidTarget: it is not finite, or its quaternion is not a unit one.
    """
    # Without numpy, which takes long if it has not been used for a while, and a target is waiting.
    position, orientation = numbers[:3], numbers[3:]
    _require_finite("position", position)
    _require_finite("orientation", orientation)
    return PoseTarget(position, unit_quaternion(orientation))


def pose_of(message: PoseStamped) -> Array:
    """The pose in ``message`` (4, 4).

    :raises InvalidTarget: as :func:`pose_target`.
    """
    p, o = message.pose.position, message.pose.orientation
    return pose_matrix(np.concatenate(pose_target((p.x, p.y, p.z, o.x, o.y, o.z, o.w))))


def unit_quaternion(quaternion: Sequence[float]) -> tuple[float, ...]:
    """``quaternion`` (x, y, z, w) with a norm of exactly 1.

    :raises InvalidTarget: its norm differs from 1 by more than rounding explains.
    """
    norm = math.hypot(*quaternion)
    if abs(norm - 1.0) > QUATERNION_TOLERANCE:
        raise InvalidTarget(
            f"its quaternion has a norm of {norm:.3f}; a unit quaternion (x, y, z, w) is required, "
            f"{1 - QUATERNION_TOLERANCE:.2f} to {1 + QUATERNION_TOLERANCE:.2f} is accepted",
            reason="not a unit quaternion",
        )
    x, y, z, w = quaternion
    return x / norm, y / norm, z / norm, w / norm


def unit_quaternions(poses: Array) -> Array:
    """A copy of ``poses``, x, y, z [m], qx, qy, qz, qw (n, 7), whose quaternions have a norm of exactly 1.

    :raises InvalidTarget: one of them is not finite, or its norm differs from 1 by more than rounding explains.
    """
    poses, norms = poses.copy(), np.linalg.norm(poses[:, 3:], axis=1)
    for index in np.flatnonzero(~(np.abs(norms - 1.0) <= QUATERNION_TOLERANCE) | ~np.isfinite(poses).all(axis=1))[:1]:
        _require_finite(f"point {index}", poses[index].tolist())
        unit_quaternion(poses[index, 3:].tolist())
    poses[:, 3:] /= norms[:, np.newaxis]
    return poses


def by_joint(names: Sequence[str], values: Sequence[float], field: str, joints: tuple[str, ...]) -> tuple[float, ...]:
    """``values`` of a ``JointState`` (7,) in the order of ``joints``.

    :param names: of the joints of ``values``; empty: they are in order.
    :param field: what ``values`` are, for the message of the exception.
    :param joints: names of the arm's joints.
    :raises InvalidTarget: joints are missing, unknown or named twice, or a value is not finite.
    """
    if names:
        if len(values) != len(names):
            raise InvalidTarget(
                f"it names {len(names)} joints, but {field} has {len(values)} values", reason="wrong size"
            )
        if tuple(names) != joints:
            values = [values[index] for index in joint_order(names, joints)]
    return _seven(values, field)


def joint_order(names: Sequence[str], joints: Sequence[str]) -> list[int]:
    """The position in ``names`` of each of ``joints``.

    :raises InvalidTarget: joints are missing, unknown or named twice.
    """
    places = {name: index for index, name in enumerate(names)}
    if len(names) != len(joints) or places.keys() != set(joints):
        problems = (
            ("unknown joint", sorted(places.keys() - set(joints))),
            ("named twice:", sorted(name for name, count in Counter(names).items() if count > 1)),
            ("missing joint", [name for name in joints if name not in places]),
        )
        text = "; ".join(f"{problem} {listed(which, len(joints))}" for problem, which in problems if which)
        raise InvalidTarget(text, reason=WRONG_JOINTS)
    return [places[name] for name in joints]


def joint_values(values: Sequence[float], what: str) -> Array:
    """``values`` as an array (7,), from joint 1 to joint 7.

    :param what: what they are, for the message of the exception.
    :raises InvalidTarget: they are not seven, or not finite.
    """
    return np.array(_seven(values, what), dtype=float)


def _seven(values: Sequence[float], what: str) -> tuple[float, ...]:
    if len(values) != 7:
        raise InvalidTarget(f"{what} has {len(values)} values, but the arm has 7 joints", reason="wrong size")
    _require_finite(what, values)
    return tuple(values)


def _require_finite(what: str, values: Sequence[float]) -> None:
    # One call for the usual case; the norm of very large finite values may be infinite.
    if not math.isfinite(math.hypot(*values)) and not all(map(math.isfinite, values)):
        raise InvalidTarget(f"{what} is not finite: {list(values)}", reason="not finite")


# Measurements.


def header_of(state: Record, names: ArmNames) -> Header:
    """The header of a message in the base frame, with the ``stamp`` [ns] of ``state``."""
    seconds, rest = divmod(int(state["stamp"]), NANOSECONDS)
    return Header(stamp=Time(sec=seconds, nanosec=rest), frame_id=names.base)


def joint_state(state: Record, names: ArmNames = FR3) -> JointState:
    """Measured positions [rad], velocities [rad/s] and torques [Nm]."""
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


def control_frame(state: Record, names: ArmNames = FR3) -> TFMessage:
    """Measured pose of the control frame in the base, for TF."""
    message = TransformStamped(header=header_of(state, names), child_frame_id=names.tcp)
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = state["position"].tolist()
    rotation.x, rotation.y, rotation.z, rotation.w = state["orientation"].tolist()
    return TFMessage(transforms=[message])


def external_wrench(state: Record, names: ArmNames = FR3) -> WrenchStamped:
    """Estimated external wrench on the stiffness frame, expressed in the base (``O_F_ext_hat_K``)."""
    message = WrenchStamped(header=header_of(state, names))
    force, torque = message.wrench.force, message.wrench.torque
    force.x, force.y, force.z, torque.x, torque.y, torque.z = state["external_wrench"].tolist()
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


def snapshot_message(state: Record, active: bool) -> Float64MultiArray:
    """Everything that a policy needs from one instant, in one message: see :data:`SNAPSHOT_FIELDS`.

    :param active: whether the arm is under torque control.
    """
    time = divmod(int(state["stamp"]), NANOSECONDS)
    numbers = np.concatenate(((active, *time), *(state[name].ravel() for name in _SNAPSHOT_PARTS)))
    dimension = MultiArrayDimension(label=SNAPSHOT_FIELDS, size=len(numbers), stride=len(numbers))
    return Float64MultiArray(layout=MultiArrayLayout(dim=[dimension]), data=array("d", numbers.tobytes()))


def read_snapshot(data: bytes) -> tuple[Snapshot, bool]:
    """The content of a serialized :func:`snapshot_message`: the snapshot, and whether the arm is active.

    :raises InvalidTarget: the message is of another kind.
    """
    numbers = read_numbers(data, _SNAPSHOT_ENDS[-1])
    _require_finite("its time", numbers[:3].tolist())
    head, q, dq, tau, ee, jacobian, mass, limited, approach, left = np.split(numbers, _SNAPSHOT_ENDS[:-1])
    active, seconds, rest = head
    if approach[0] not in tuple(Approach):
        raise InvalidTarget(f"its approach is {approach[0]:g}", reason="unknown number")
    snapshot = Snapshot(
        stamp=int(seconds) * NANOSECONDS + int(rest),
        q=q,
        dq=dq,
        ee=ee.reshape(4, 4),
        jacobian=jacobian.reshape(6, 7),
        mass=mass.reshape(7, 7),
        tau=tau,
        limited=limited,
        approach=Approach(int(approach[0])),
        approach_left=left,
    )
    return snapshot, bool(active)
