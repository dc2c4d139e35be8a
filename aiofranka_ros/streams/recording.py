"""What was received of a stream of targets: times, stamps and values as arrays.

Made by :mod:`aiofranka_ros.streams.watch`, and by tests; read by everything else in this package. Times are in s since
the beginning of the watch, by this computer's clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from aiofranka_ros.control.law.approach import NEAR_ANGULAR, NEAR_LINEAR
from aiofranka_ros.kernels import Array

#: Indices, or which of several: integers or bool.
Which: TypeAlias = npt.NDArray[Any]
#: Targets that differ by less than this are repetitions, as for the control process [m], [rad].
_SAME = 1e-6


class Quantity(enum.Enum):
    """What the values of targets are."""

    POSE = "pose"  #: x, y, z [m], qx, qy, qz, qw
    JOINTS = "joint positions"  #: [rad] (7,)
    TORQUE = "torques"  #: [Nm] (7,)
    TWIST = "twist"  #: linear [m/s], angular [rad/s]
    JOINT_VELOCITY = "joint velocities"  #: [rad/s] (7,)

    @property
    def is_place(self) -> bool:
        """Whether a target says where the arm should be, so that one that repeats the last one asks for nothing."""
        return self in (Quantity.POSE, Quantity.JOINTS)

    @property
    def units(self) -> tuple[str, ...]:
        """Units of the parts of a difference between two targets: see :func:`parts`."""
        return {
            Quantity.POSE: ("m", "rad"),
            Quantity.JOINTS: ("rad",),
            Quantity.TORQUE: ("Nm",),
            Quantity.TWIST: ("m/s", "rad/s"),
            Quantity.JOINT_VELOCITY: ("rad/s",),
        }[self]

    @property
    def near(self) -> tuple[float, ...]:
        """How large a part of a step may be that is not a jump: for places, where the node begins a stream at once."""
        return {
            Quantity.POSE: (NEAR_LINEAR, NEAR_ANGULAR),
            Quantity.JOINTS: (NEAR_ANGULAR,),
            Quantity.TORQUE: (5.0,),
            Quantity.TWIST: (0.2, 0.5),
            Quantity.JOINT_VELOCITY: (0.5,),
        }[self]


@dataclass(frozen=True)
class Stream:
    """Single targets in the order in which they arrived.

    :ivar arrivals: [s] (n,).
    :ivar stamps: what their headers say [s] (n,); NaN: empty.
    :ivar values: of the targets (n, k).
    """

    quantity: Quantity
    arrivals: Array
    stamps: Array
    values: Array

    def __len__(self) -> int:
        return len(self.arrivals)

    def different(self) -> Which:
        """Indices of the targets that differ from the one before them, the first included; velocities: of all."""
        if len(self) == 0 or not self.quantity.is_place:
            return np.arange(len(self))
        moved = (parts(self.quantity, self.values[:-1], self.values[1:]) > _SAME).any(axis=1)
        return np.flatnonzero(np.concatenate([[True], moved]))


@dataclass(frozen=True)
class Measured:
    """What the arm did, at the rate at which the node publishes it.

    :ivar times: [s] (m,).
    :ivar values: poses (m, 7) or joint positions (m, 7).
    """

    times: Array
    values: Array


def parts(quantity: Quantity, first: Array, second: Array) -> Array:
    """How far targets are apart: translation and rotation, or the distance of all joints together (n, 1 or 2)."""
    if quantity is Quantity.POSE:
        quaternions = first[:, 3:], second[:, 3:]
        chord = np.minimum(*(np.linalg.norm(quaternions[1] + sign * quaternions[0], axis=1) for sign in (-1.0, 1.0)))
        turn = 4.0 * np.arcsin(np.minimum(0.5 * chord, 1.0))
        return np.column_stack([np.linalg.norm(second[:, :3] - first[:, :3], axis=1), turn])
    difference = second - first
    split = (difference[:, :3], difference[:, 3:]) if quantity is Quantity.TWIST else (difference,)
    return np.column_stack([np.linalg.norm(part, axis=1) for part in split])


def continuous(quaternions: Array) -> Array:
    """Quaternions (n, 4) whose signs do not flip from one to the next."""
    dots = np.einsum("ij,ij->i", quaternions[1:], quaternions[:-1])
    signs = np.cumprod(np.where(dots < 0.0, -1.0, 1.0))
    return quaternions * np.concatenate([[1.0], signs])[:, None] if len(quaternions) else quaternions


def coordinates(quantity: Quantity, values: Array) -> tuple[Array, ...]:
    """Values as vectors whose differences have the units of :func:`parts`, for each part (n, 3 or 7).

    Rotations near the first one, as rotation vectors: enough for noise and for how a hand turns within seconds.
    """
    if quantity is Quantity.POSE:
        quaternions = continuous(values[:, 3:])
        if len(quaternions) == 0:
            return values[:, :3], values[:, 3:6]
        return values[:, :3], rotation_vectors(quaternions[0], quaternions)
    return (values[:, :3], values[:, 3:]) if quantity is Quantity.TWIST else (values,)


def rotation_vectors(origin: Array, quaternions: Array) -> Array:
    """Rotations from ``origin`` (4,) to ``quaternions`` (n, 4), as vectors [rad] (n, 3)."""
    x, y, z, w = origin
    # The product with the inverse of the origin: its columns are where the components of a quaternion go.
    left = np.array([[w, z, -y, -x], [-z, w, x, -y], [y, -x, w, -z], [x, y, z, w]])
    turned = quaternions @ left.T
    turned = np.where(turned[:, 3:] < 0.0, -turned, turned)
    sine = np.linalg.norm(turned[:, :3], axis=1)
    angle = 2.0 * np.arctan2(sine, turned[:, 3])
    return turned[:, :3] * np.where(sine > 1e-9, angle / np.maximum(sine, 1e-9), 2.0)[:, None]
