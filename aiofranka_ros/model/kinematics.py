"""Where the control frame is and how it moves: forward kinematics, Jacobian, and rotations.

Compiled kernels, called by the control laws in every cycle, and by the node and the tests now and then. libfranka's
Python bindings have no forward kinematics, and the control frame is the user's, not the one configured in the robot.
Therefore both are computed here, from the geometry of the FR3 URDF.

Orientations are unit quaternions (x, y, z, w), as in ROS messages. Rotation vectors are axis times angle [rad].
"""

from __future__ import annotations

import math

import numpy as np

from aiofranka_ros.kernels import Array, kernel
from aiofranka_ros.model.fr3 import JOINT_ORIGIN, JOINT_ROLL

_COS_ROLL = np.cos(JOINT_ROLL)
_SIN_ROLL = np.sin(JOINT_ROLL)


@kernel
def forward(q: Array, flange_to_tcp: Array, flange: Array, tcp: Array, jacobian: Array) -> None:
    """Poses of the flange and the control frame, and the Jacobian of the control frame.

    :param q: joint positions [rad] (7,).
    :param flange_to_tcp: pose of the control frame in the flange (4, 4).
    :param flange: filled with the pose of the flange in the base (4, 4).
    :param tcp: filled with the pose of the control frame in the base (4, 4).
    :param jacobian: filled with the geometric Jacobian of the control frame in the base (6, 7): translational rows
        [m/rad], then rotational ones.
    """
    r00, r01, r02 = 1.0, 0.0, 0.0
    r10, r11, r12 = 0.0, 1.0, 0.0
    r20, r21, r22 = 0.0, 0.0, 1.0
    px, py, pz = 0.0, 0.0, 0.0
    origin = np.empty((7, 3))
    for i in range(8):
        ox, oy, oz = JOINT_ORIGIN[i, 0], JOINT_ORIGIN[i, 1], JOINT_ORIGIN[i, 2]
        px += r00 * ox + r01 * oy + r02 * oz
        py += r10 * ox + r11 * oy + r12 * oz
        pz += r20 * ox + r21 * oy + r22 * oz
        # Roll about x: columns y and z of the rotation turn into each other.
        c, s = _COS_ROLL[i], _SIN_ROLL[i]
        r01, r02 = c * r01 + s * r02, c * r02 - s * r01
        r11, r12 = c * r11 + s * r12, c * r12 - s * r11
        r21, r22 = c * r21 + s * r22, c * r22 - s * r21
        if i < 7:
            origin[i, 0], origin[i, 1], origin[i, 2] = px, py, pz
            jacobian[3, i], jacobian[4, i], jacobian[5, i] = r02, r12, r22
            c, s = math.cos(q[i]), math.sin(q[i])
            r00, r01 = c * r00 + s * r01, c * r01 - s * r00
            r10, r11 = c * r10 + s * r11, c * r11 - s * r10
            r20, r21 = c * r20 + s * r21, c * r21 - s * r20
    flange[0, 0], flange[0, 1], flange[0, 2], flange[0, 3] = r00, r01, r02, px
    flange[1, 0], flange[1, 1], flange[1, 2], flange[1, 3] = r10, r11, r12, py
    flange[2, 0], flange[2, 1], flange[2, 2], flange[2, 3] = r20, r21, r22, pz
    flange[3, 0], flange[3, 1], flange[3, 2], flange[3, 3] = 0.0, 0.0, 0.0, 1.0
    for i in range(4):
        for j in range(4):
            total = 0.0
            for k in range(4):
                total += flange[i, k] * flange_to_tcp[k, j]
            tcp[i, j] = total
    for i in range(7):
        x = tcp[0, 3] - origin[i, 0]
        y = tcp[1, 3] - origin[i, 1]
        z = tcp[2, 3] - origin[i, 2]
        jacobian[0, i] = jacobian[4, i] * z - jacobian[5, i] * y
        jacobian[1, i] = jacobian[5, i] * x - jacobian[3, i] * z
        jacobian[2, i] = jacobian[3, i] * y - jacobian[4, i] * x


@kernel
def quaternion_from_matrix(matrix: Array, quaternion: Array) -> None:
    """Fill ``quaternion`` (x, y, z, w) from the rotation in the upper left of ``matrix``.

    Shepperd's method (J. Guidance and Control 1, 1978): divides by the largest component, so it is accurate for
    every rotation.
    """
    m00, m11, m22 = matrix[0, 0], matrix[1, 1], matrix[2, 2]
    trace = m00 + m11 + m22
    if trace >= m00 and trace >= m11 and trace >= m22:
        w = 0.5 * math.sqrt(max(0.0, 1.0 + trace))
        f = 0.25 / w
        x = (matrix[2, 1] - matrix[1, 2]) * f
        y = (matrix[0, 2] - matrix[2, 0]) * f
        z = (matrix[1, 0] - matrix[0, 1]) * f
    elif m00 >= m11 and m00 >= m22:
        x = 0.5 * math.sqrt(max(0.0, 1.0 + m00 - m11 - m22))
        f = 0.25 / x
        w = (matrix[2, 1] - matrix[1, 2]) * f
        y = (matrix[0, 1] + matrix[1, 0]) * f
        z = (matrix[0, 2] + matrix[2, 0]) * f
    elif m11 >= m22:
        y = 0.5 * math.sqrt(max(0.0, 1.0 + m11 - m00 - m22))
        f = 0.25 / y
        w = (matrix[0, 2] - matrix[2, 0]) * f
        x = (matrix[0, 1] + matrix[1, 0]) * f
        z = (matrix[1, 2] + matrix[2, 1]) * f
    else:
        z = 0.5 * math.sqrt(max(0.0, 1.0 + m22 - m00 - m11))
        f = 0.25 / z
        w = (matrix[1, 0] - matrix[0, 1]) * f
        x = (matrix[0, 2] + matrix[2, 0]) * f
        y = (matrix[1, 2] + matrix[2, 1]) * f
    n = 1.0 / math.sqrt(x * x + y * y + z * z + w * w)
    quaternion[0], quaternion[1], quaternion[2], quaternion[3] = x * n, y * n, z * n, w * n


@kernel
def rotation_between(target: Array, current: Array, vector: Array) -> None:
    """Fill ``vector`` with the rotation vector [rad] (3,), in the base, that turns ``current`` into ``target``.

    Both are unit quaternions (x, y, z, w). Of the two ways round, it is the shorter one.
    """
    x = target[0] * current[3] - target[3] * current[0] - target[1] * current[2] + target[2] * current[1]
    y = target[1] * current[3] - target[3] * current[1] - target[2] * current[0] + target[0] * current[2]
    z = target[2] * current[3] - target[3] * current[2] - target[0] * current[1] + target[1] * current[0]
    w = target[3] * current[3] + target[0] * current[0] + target[1] * current[1] + target[2] * current[2]
    if w < 0.0:
        x, y, z, w = -x, -y, -z, -w
    sine = math.sqrt(x * x + y * y + z * z)
    # angle / sin(angle / 2); its limit is 2 as the angle goes to 0.
    scale = 2.0 * math.atan2(sine, w) / sine if sine > 1e-12 else 2.0
    vector[0], vector[1], vector[2] = x * scale, y * scale, z * scale


@kernel
def rotate(quaternion: Array, vector: Array, factor: float) -> None:
    """Turn ``quaternion`` (x, y, z, w), in place, by ``factor`` times the rotation vector (3,) given in the base."""
    rx, ry, rz = vector[0] * factor, vector[1] * factor, vector[2] * factor
    angle = math.sqrt(rx * rx + ry * ry + rz * rz)
    scale = math.sin(0.5 * angle) / angle if angle > 1e-12 else 0.5
    dx, dy, dz, dw = rx * scale, ry * scale, rz * scale, math.cos(0.5 * angle)
    x, y, z, w = quaternion[0], quaternion[1], quaternion[2], quaternion[3]
    qx = dw * x + dx * w + dy * z - dz * y
    qy = dw * y + dy * w + dz * x - dx * z
    qz = dw * z + dz * w + dx * y - dy * x
    qw = dw * w - dx * x - dy * y - dz * z
    n = 1.0 / math.sqrt(qx * qx + qy * qy + qz * qz + qw * qw)
    quaternion[0], quaternion[1], quaternion[2], quaternion[3] = qx * n, qy * n, qz * n, qw * n


def control_frame(q: Array, flange_to_tcp: Array | None = None) -> Array:
    """Pose of the control frame in the base (4, 4) at joint positions ``q`` [rad] (7,).

    :param flange_to_tcp: pose of the control frame in the flange (4, 4); ``None``: the flange itself.
    """
    tool = np.eye(4) if flange_to_tcp is None else np.ascontiguousarray(flange_to_tcp, dtype=float)
    tcp = np.empty((4, 4))
    forward(np.ascontiguousarray(q, dtype=float), tool, np.empty((4, 4)), tcp, np.empty((6, 7)))
    return tcp


def link_pose(q: Array, link: int) -> Array:
    """Pose of the frame of a link in the base (4, 4) at joint positions ``q`` [rad] (7,).

    :param link: 0 is the base, 1 to 7 follow the joint of that number, 8 is the flange.
    """
    pose = np.eye(4)
    for joint in range(link):
        c, s = _COS_ROLL[joint], _SIN_ROLL[joint]
        cq, sq = (math.cos(q[joint]), math.sin(q[joint])) if joint < 7 else (1.0, 0.0)
        step = np.eye(4)
        # A roll about x, then the joint about z.
        step[:3, :3] = [[cq, -sq, 0.0], [c * sq, c * cq, -s], [s * sq, s * cq, c]]
        step[:3, 3] = JOINT_ORIGIN[joint]
        pose = pose @ step
    return pose


def pose_matrix(pose: Array) -> Array:
    """A pose (4, 4) from position [m] and quaternion, x y z qx qy qz qw (7,), which is normalised."""
    x, y, z, w = pose[3:] / np.linalg.norm(pose[3:])
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = pose[:3]
    return matrix
