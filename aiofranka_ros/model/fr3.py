"""The Franka Research 3: names, limits and geometry, and where each number comes from.

Imported by every module that needs a constant of the arm, in every process. Units are SI: rad, rad/s, Nm, m.

Sources: "Limits for Franka Research 3" in the page "Robot and interface specifications" of Franka's FCI documentation
(August 2025), franka_description's ``fr3`` URDF (the robot serves the same one through ``GetRobotModel``), and
libfranka 0.21, ``rate_limiting.h`` and ``joint_velocity_limits.cpp``.
"""

from __future__ import annotations

import math

import numpy as np

from aiofranka_ros.kernels import Array, kernel
from aiofranka_ros.model.names import FR3

#: Names of the joints of an arm without a prefix; for other arms see :class:`~aiofranka_ros.model.names.ArmNames`.
JOINT_NAMES: tuple[str, ...] = FR3.joints

#: Joint position limits [rad] (7,): FCI documentation. About 0.006 rad inside the limits of the URDF, where
#: the velocity that the robot allows becomes 0.
POSITION_LOWER = np.array([-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159])
POSITION_UPPER = np.array([2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159])
#: Streamed joint targets are kept this far inside the position limits [rad]: the velocity that the robot allows
#: falls to 0 there, so a reference that comes closer could not be followed.
JOINT_MARGIN = 0.02
#: Joint velocity limits [rad/s] (7,): ``limit`` of the FR3 URDF. Near a position limit the robot allows
#: less, see :func:`velocity_envelope`.
VELOCITY_LIMIT = np.array([2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26])
#: Joint acceleration limits [rad/s²] (7,): ``kMaxJointAcceleration``, libfranka ``rate_limiting.h``.
ACCELERATION_LIMIT = np.full(7, 10.0)
#: Torque limits [Nm] (7,): ``limit effort`` of the FR3 URDF.
TORQUE_LIMIT = np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0])
#: Largest change of the commanded torque [Nm/s]: ``kMaxTorqueRate``, libfranka ``rate_limiting.h``.
TORQUE_RATE_LIMIT = 1000.0
#: Consecutive lost packets after which the robot stops: FCI documentation, "Network requirements".
LOST_PACKETS_LIMIT = 20
#: Length of a control cycle [s].
CYCLE = 1e-3

#: ``limit`` [rad] and ``position_based_velocity_limits``, offset [rad/s] and deceleration [rad/s²], of the FR3 URDF,
#: (7,) each: the robot computes the velocity limits at a position from these.
_ENVELOPE_LOWER = np.array([-2.7501, -1.7918, -2.9065, -3.0481, -2.8101, 0.54092, -3.0196])
_ENVELOPE_UPPER = np.array([2.7501, 1.7918, 2.9065, -0.1458, 2.8101, 4.5205, 3.0196])
_ENVELOPE_OFFSET = np.array([0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35])
_ENVELOPE_DECELERATION = np.array([6.0, 2.585, 3.5, 4.0, 17.0, 5.5, 17.0])

#: Joint origins in the parent link: position [m] (8, 3) and rotation about x [rad] (8,). Every joint turns about its
#: own z axis; the eighth row is the fixed flange. FR3 URDF, ``origin`` of ``joint1`` to ``joint8``.
JOINT_ORIGIN = np.array(
    [
        [0.0, 0.0, 0.333], [0.0, 0.0, 0.0], [0.0, -0.316, 0.0], [0.0825, 0.0, 0.0],
        [-0.0825, 0.384, 0.0], [0.0, 0.0, 0.0], [0.088, 0.0, 0.0], [0.0, 0.0, 0.107],
    ]
)  # fmt: skip
JOINT_ROLL = np.array([0.0, -math.pi / 2, math.pi / 2, math.pi / 2, -math.pi / 2, math.pi / 2, math.pi / 2, 0.0])

#: aiofranka's home configuration [rad] (7,).
HOME = np.array([0.0, 0.0, 0.0, -math.pi / 2, 0.0, math.pi / 2, -math.pi / 4])
#: The pose ``ready`` of the SRDF [rad] (7,), which MoveIt users know.
READY = np.array([0.0, -math.pi / 4, 0.0, -3 * math.pi / 4, 0.0, math.pi / 2, math.pi / 4])


@kernel
def velocity_envelope(q: Array, lower: Array, upper: Array) -> None:
    """Velocities that leave each joint room to brake before its position limit.

    Outside of them the robot stops with ``joint_velocity_violation``. Formula: libfranka
    ``JointVelocityLimitsConfig::getUpperJointVelocityLimits`` and its mirror image.

    :param q: joint positions [rad] (7,).
    :param lower: filled with the most negative velocity [rad/s] (7,), at most 0.
    :param upper: filled with the most positive velocity [rad/s] (7,), at least 0.
    """
    for i in range(7):
        to_upper = max(0.0, _ENVELOPE_UPPER[i] - q[i])
        to_lower = max(0.0, q[i] - _ENVELOPE_LOWER[i])
        braking = 2.0 * _ENVELOPE_DECELERATION[i]
        up = math.sqrt(braking * to_upper) - _ENVELOPE_OFFSET[i]
        down = math.sqrt(braking * to_lower) - _ENVELOPE_OFFSET[i]
        upper[i] = min(VELOCITY_LIMIT[i], max(0.0, up))
        lower[i] = -min(VELOCITY_LIMIT[i], max(0.0, down))
