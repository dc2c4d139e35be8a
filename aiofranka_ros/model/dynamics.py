"""Mass matrix and coriolis torques of the arm with its load: the same as libfranka's model, at a quarter of its cost.

Called in the control process: a compiled kernel in every cycle, after the torque was sent. The links' inertial
parameters are identified from libfranka's model, which has them from the robot, when
:mod:`aiofranka_ros.control.libfranka` connects. So nothing here is specific to one arm, except the geometry.

A body is ten numbers in its own frame, in which mass matrix and torques are linear: its mass [kg], its first moment
(mass times center of mass) [kg m] (3,), and its inertia about the frame's origin [kg m²], xx, xy, xz, yy, yz, zz (6,).
A link's frame is the frame of its joint, the load's is the flange.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from aiofranka_ros.kernels import Array, kernel
from aiofranka_ros.model.fr3 import JOINT_ORIGIN, JOINT_ROLL, POSITION_LOWER, POSITION_UPPER

_COS_ROLL = np.cos(JOINT_ROLL)
_SIN_ROLL = np.sin(JOINT_ROLL)
#: Seven links and the load.
BODIES = 8
#: Number of poses used for identification: twelve mass matrices with 28 different entries each, for 70 parameters.
_POSES = 12
#: Singular values below this share of the largest belong to parameters that affect no motion, e.g. the first link's
#: mass.
_SMALLEST_SINGULAR_VALUE = 1e-9


def body(mass: float, center: Array, inertia: Array) -> Array:
    """A body (10,), from the usual parameters of robots and their descriptions.

    :param mass: [kg].
    :param center: center of mass [m] (3,).
    :param inertia: about the center of mass [kg m²] (9,).
    """
    center = np.asarray(center, dtype=float)
    about_origin = np.reshape(inertia, (3, 3)) + mass * (center @ center * np.eye(3) - np.outer(center, center))
    return np.array([mass, *(mass * center), *about_origin[np.triu_indices(3)]])


def identify(mass_matrix: Callable[[Array], Array]) -> Array:
    """Inertial parameters of the links with which :func:`mass_and_coriolis` computes the given mass matrices: bodies
    (7, 10).

    Mass matrices do not determine all parameters. Of all solutions this is the smallest one, which may be impossible
    for real links but moves like them: coriolis torques depend only on the mass matrix and its derivatives.

    :param mass_matrix: of the arm without a load, at joint positions [rad] (7,); returned as (49,).
    """
    poses = np.random.default_rng(0).uniform(POSITION_LOWER, POSITION_UPPER, (_POSES, 7))
    work, mass, coriolis, still = working_memory(), np.empty(49), np.empty(7), np.zeros(7)
    rows = []
    for q in poses:
        columns = []
        for number in range(7 * 10):
            bodies = np.zeros((BODIES, 10))
            bodies.flat[number] = 1.0
            mass_and_coriolis(q, still, bodies, work, mass, coriolis)
            columns.append(mass.copy())
        rows.append(np.transpose(columns))
    given = np.concatenate([mass_matrix(q) for q in poses])
    return np.linalg.lstsq(np.concatenate(rows), given, rcond=_SMALLEST_SINGULAR_VALUE)[0].reshape(7, 10)


def working_memory() -> Array:
    """Scratch memory for :func:`mass_and_coriolis`."""
    return np.zeros((BODIES, 22))


@kernel
def mass_and_coriolis(q: Array, dq: Array, bodies: Array, work: Array, mass: Array, coriolis: Array) -> None:
    """Compute the mass matrix, and the coriolis and centrifugal torques.

    Composite rigid bodies and recursive Newton-Euler (R. Featherstone, "Rigid Body Dynamics Algorithms", 2008, chapters
    5 and 6), all in the base frame and about its origin, where bodies can simply be added.

    :param q: joint positions [rad] (7,).
    :param dq: joint velocities [rad/s] (7,).
    :param bodies: the links and the load (8, 10), see above.
    :param work: from :func:`working_memory`.
    :param mass: filled with the mass matrix, without the rotors' inertia [kg m²] (49,).
    :param coriolis: filled with coriolis and centrifugal torques [Nm] (7,).
    """
    # A row of ``work``: the body in the base frame: 0 mass, 1 first moment (3), 4 inertia (6); its joint: 10 axis (3)
    # and 13 velocity that it gives to the point at the origin (3); 16 the force that its motion takes, moment (3)
    # first.
    r00, r01, r02 = 1.0, 0.0, 0.0
    r10, r11, r12 = 0.0, 1.0, 0.0
    r20, r21, r22 = 0.0, 0.0, 1.0
    px, py, pz = 0.0, 0.0, 0.0
    wx, wy, wz, vx, vy, vz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0  # velocity
    ax, ay, az, bx, by, bz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0  # acceleration if the joint velocities do not change
    for i in range(BODIES):
        ox, oy, oz = JOINT_ORIGIN[i, 0], JOINT_ORIGIN[i, 1], JOINT_ORIGIN[i, 2]
        px += r00 * ox + r01 * oy + r02 * oz
        py += r10 * ox + r11 * oy + r12 * oz
        pz += r20 * ox + r21 * oy + r22 * oz
        c, s = _COS_ROLL[i], _SIN_ROLL[i]
        r01, r02 = c * r01 + s * r02, c * r02 - s * r01
        r11, r12 = c * r11 + s * r12, c * r12 - s * r11
        r21, r22 = c * r21 + s * r22, c * r22 - s * r21
        row = work[i]
        if i < 7:  # The flange has no joint.
            sx, sy, sz = r02, r12, r22
            tx, ty, tz = py * sz - pz * sy, pz * sx - px * sz, px * sy - py * sx
            row[10], row[11], row[12], row[13], row[14], row[15] = sx, sy, sz, tx, ty, tz
            c, s = math.cos(q[i]), math.sin(q[i])
            r00, r01 = c * r00 + s * r01, c * r01 - s * r00
            r10, r11 = c * r10 + s * r11, c * r11 - s * r10
            r20, r21 = c * r20 + s * r21, c * r21 - s * r20
            # The joint's axis moves with the link before it.
            speed = dq[i]
            ax += speed * (wy * sz - wz * sy)
            ay += speed * (wz * sx - wx * sz)
            az += speed * (wx * sy - wy * sx)
            bx += speed * (wy * tz - wz * ty + vy * sz - vz * sy)
            by += speed * (wz * tx - wx * tz + vz * sx - vx * sz)
            bz += speed * (wx * ty - wy * tx + vx * sy - vy * sx)
            wx, wy, wz = wx + speed * sx, wy + speed * sy, wz + speed * sz
            vx, vy, vz = vx + speed * tx, vy + speed * ty, vz + speed * tz
        m = bodies[i, 0]
        fx, fy, fz = bodies[i, 1], bodies[i, 2], bodies[i, 3]
        ixx, ixy, ixz = bodies[i, 4], bodies[i, 5], bodies[i, 6]
        iyy, iyz, izz = bodies[i, 7], bodies[i, 8], bodies[i, 9]
        # Turn the first moment and the inertia (R I Rᵀ) into the base's axes, ...
        gx = r00 * fx + r01 * fy + r02 * fz
        gy = r10 * fx + r11 * fy + r12 * fz
        gz = r20 * fx + r21 * fy + r22 * fz
        k00 = r00 * ixx + r01 * ixy + r02 * ixz
        k01 = r00 * ixy + r01 * iyy + r02 * iyz
        k02 = r00 * ixz + r01 * iyz + r02 * izz
        k10 = r10 * ixx + r11 * ixy + r12 * ixz
        k11 = r10 * ixy + r11 * iyy + r12 * iyz
        k12 = r10 * ixz + r11 * iyz + r12 * izz
        k20 = r20 * ixx + r21 * ixy + r22 * ixz
        k21 = r20 * ixy + r21 * iyy + r22 * iyz
        k22 = r20 * ixz + r21 * iyz + r22 * izz
        # ... and move them by p, to the origin.
        jxx = k00 * r00 + k01 * r01 + k02 * r02 + 2.0 * (py * gy + pz * gz) + m * (py * py + pz * pz)
        jyy = k10 * r10 + k11 * r11 + k12 * r12 + 2.0 * (px * gx + pz * gz) + m * (px * px + pz * pz)
        jzz = k20 * r20 + k21 * r21 + k22 * r22 + 2.0 * (px * gx + py * gy) + m * (px * px + py * py)
        jxy = k00 * r10 + k01 * r11 + k02 * r12 - px * gy - py * gx - m * px * py
        jxz = k00 * r20 + k01 * r21 + k02 * r22 - px * gz - pz * gx - m * px * pz
        jyz = k10 * r20 + k11 * r21 + k12 * r22 - py * gz - pz * gy - m * py * pz
        hx, hy, hz = gx + m * px, gy + m * py, gz + m * pz
        row[0], row[1], row[2], row[3] = m, hx, hy, hz
        row[4], row[5], row[6], row[7], row[8], row[9] = jxx, jxy, jxz, jyy, jyz, jzz
        # Momentum (angular k, linear l). The force is its change, due to the acceleration and to the motion itself.
        kx = jxx * wx + jxy * wy + jxz * wz + hy * vz - hz * vy
        ky = jxy * wx + jyy * wy + jyz * wz + hz * vx - hx * vz
        kz = jxz * wx + jyz * wy + jzz * wz + hx * vy - hy * vx
        lx = m * vx + wy * hz - wz * hy
        ly = m * vy + wz * hx - wx * hz
        lz = m * vz + wx * hy - wy * hx
        row[16] = jxx * ax + jxy * ay + jxz * az + hy * bz - hz * by + wy * kz - wz * ky + vy * lz - vz * ly
        row[17] = jxy * ax + jyy * ay + jyz * az + hz * bx - hx * bz + wz * kx - wx * kz + vz * lx - vx * lz
        row[18] = jxz * ax + jyz * ay + jzz * az + hx * by - hy * bx + wx * ky - wy * kx + vx * ly - vy * lx
        row[19] = m * bx + ay * hz - az * hy + wy * lz - wz * ly
        row[20] = m * by + az * hx - ax * hz + wz * lx - wx * lz
        row[21] = m * bz + ax * hy - ay * hx + wx * ly - wy * lx
    # From the load inwards, each link carries everything after it.
    for i in range(6, -1, -1):
        row, after = work[i], work[i + 1]
        for k in range(10):
            row[k] += after[k]
        for k in range(16, 22):
            row[k] += after[k]
        sx, sy, sz, tx, ty, tz = row[10], row[11], row[12], row[13], row[14], row[15]
        coriolis[i] = sx * row[16] + sy * row[17] + sz * row[18] + tx * row[19] + ty * row[20] + tz * row[21]
        # The momentum that a unit velocity of this joint gives to all of them, along this joint and the joints before
        # it.
        m, hx, hy, hz = row[0], row[1], row[2], row[3]
        kx = row[4] * sx + row[5] * sy + row[6] * sz + hy * tz - hz * ty
        ky = row[5] * sx + row[7] * sy + row[8] * sz + hz * tx - hx * tz
        kz = row[6] * sx + row[8] * sy + row[9] * sz + hx * ty - hy * tx
        lx = m * tx + sy * hz - sz * hy
        ly = m * ty + sz * hx - sx * hz
        lz = m * tz + sx * hy - sy * hx
        for j in range(i + 1):
            s6 = work[j]
            entry = s6[10] * kx + s6[11] * ky + s6[12] * kz + s6[13] * lx + s6[14] * ly + s6[15] * lz
            mass[7 * i + j] = entry
            mass[7 * j + i] = entry
