"""Checks of the arrays that users pass to the controller, in the thread that passes them.

Everything behind the controller can rely on shape and finiteness.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.kinematics import quaternion_from_matrix

#: Largest deviation of a rotation matrix from an orthonormal one that counts as rounding.
_ROTATION_TOLERANCE = 0.01


def array(name: str, value: Any, shape: tuple[int, ...] = (7,)) -> Array:
    """``value`` as a new array, in row order: for another order numba would compile kernels again, which takes seconds
    without a heartbeat.

    :param name: for messages.
    :raises InvalidTarget: it has another shape, or is not finite.
    """
    try:
        numbers = np.array(value, dtype=float, order="C")
    except (TypeError, ValueError) as error:
        raise InvalidTarget(f"{name} is not an array of numbers: {error}", reason="wrong type") from error
    if numbers.shape != shape:
        raise InvalidTarget(f"{name} has the shape {numbers.shape}, but must have {shape}", reason="wrong size")
    if not np.isfinite(numbers).all():
        raise InvalidTarget(f"{name} is not finite: {numbers.tolist()}", reason="not finite")
    return numbers


def position_and_quaternion(name: str, pose: Array) -> Array:
    """Position [m] and unit quaternion x, y, z, w (7,) of a pose (4, 4).

    :param name: for messages.
    :raises InvalidTarget: the matrix is not a pose.
    """
    rotation, tolerance = pose[:3, :3], _ROTATION_TOLERANCE
    proper = np.allclose(rotation.T @ rotation, np.eye(3), atol=tolerance) and np.linalg.det(rotation) > 0.0
    if not proper or not np.allclose(pose[3], (0.0, 0.0, 0.0, 1.0), atol=tolerance):
        raise InvalidTarget(
            f"{name} is not a pose: its rotation must be orthonormal and right-handed, and its last row 0 0 0 1",
            reason="not a pose",
        )
    quaternion = np.empty(4)
    quaternion_from_matrix(pose, quaternion)
    return np.concatenate((pose[:3, 3], quaternion / np.linalg.norm(quaternion)))


def frozen(array: Array) -> Array:
    """A read-only copy: a change of one of its elements would not reach the arm."""
    copy = array.copy()
    copy.flags.writeable = False
    return copy
