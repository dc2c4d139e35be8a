"""Inverse kinematics of the FR3: the joint positions nearest to the arm's that bring its control frame to a pose.

Used by the node of RViz's tools, in its process and its one thread; a call takes 10 to 20 ms. Deterministic.

The method is damped least squares (Nakamura and Hanafusa, 1986) with the joint limits as an active set, run from
where the arm is and from 300 fixed configurations. A descent first goes to the pose; it then uses the arm's seventh
degree of freedom to slide towards where the arm is. The nearest result wins.

Measured on 1,500 random poses that the arm can have: all are found. The result is the very nearest in 97 % of the cases
if the arm is anywhere, and in all of them if it is near. The package frankik 1.0.1 has narrower limits built in: it
calls every ninth such pose unreachable, and is up to 4 mm off if joint 2 is almost 0, as at home. Pinocchio offers
no inverse kinematics, only the Jacobian that :mod:`aiofranka_ros.model.kinematics` has already.
"""

from __future__ import annotations

import math

import numpy as np

from aiofranka_ros.errors import Unreachable
from aiofranka_ros.kernels import Array, kernel
from aiofranka_ros.model.cholesky import factorize
from aiofranka_ros.model.cholesky import solve as solve_factorized
from aiofranka_ros.model.fr3 import HOME, POSITION_LOWER, POSITION_UPPER, READY
from aiofranka_ros.model.kinematics import control_frame, forward, quaternion_from_matrix, rotation_between

#: Where descents start, besides where the arm is [rad] (300, 7). With 100, six of 1,500 solutions for extreme poses
#: were further away than they had to be; with 300, none.
_STARTS = np.random.default_rng(7).uniform(POSITION_LOWER, POSITION_UPPER, (300, 7))
#: Most steps of a descent to the pose, of a slide towards where the arm is, and of the correction after it.
_APPROACH, _SLIDE, _CORRECTION = 20, 60, 100
#: Errors below this count as arrived [m and rad], steps below this as stopped [rad]; longest step of a joint [rad].
_ARRIVED, _STOPPED, _LONGEST = 1e-9, 1e-6, 0.3
#: A descent that is still this far from the pose after its approach is given up [m and rad].
_ASTRAY = 0.1
#: Distance below which the position counts as reached when it is explained why a pose is not [m].
_THERE = 1e-3
#: Damping, and how much it grows with the squared error.
_DAMPING, _DAMPING_OF_ERROR = 1e-12, 1e-2


def solve(pose: Array, near: Array, flange_to_tcp: Array | None = None) -> Array:
    """The joint positions [rad] (7,) nearest to ``near`` with the control frame at ``pose``, within the joint limits.

    Near means the smallest Euclidean distance of the joint positions.

    :param pose: pose of the control frame in the base (4, 4).
    :param near: joint positions [rad] (7,), usually those of the arm.
    :param flange_to_tcp: pose of the control frame in the flange (4, 4); ``None``: the flange itself.
    :raises Unreachable: there are none; the message says how close the arm can get.
    """
    tool = np.eye(4) if flange_to_tcp is None else np.ascontiguousarray(flange_to_tcp, dtype=float)
    pose, near = np.ascontiguousarray(pose, dtype=float), np.clip(near, POSITION_LOWER, POSITION_UPPER)
    best, distance = near, math.inf
    for start in (near, *_STARTS):
        q = start.copy()
        if _descend(pose, tool, near, q, 0.0, 1.0, _APPROACH) < _ASTRAY:
            _descend(pose, tool, near, q, 1.0, 1.0, _SLIDE)
            arrived = _descend(pose, tool, near, q, 0.0, 1.0, _CORRECTION) < _STOPPED
            if arrived and np.linalg.norm(q - near) < distance:
                best, distance = q, float(np.linalg.norm(q - near))
    if distance == math.inf:
        raise Unreachable(_why(pose, tool, near))
    return best


def warm_up() -> None:
    """Compile what :func:`solve` needs, or load it from the cache, so that the first real call takes no longer."""
    solve(control_frame(HOME), READY)


def _why(pose: Array, tool: Array, near: Array) -> str:
    """Why the arm cannot bring its control frame to ``pose``: how close it can get, first with any orientation."""
    q, distance = _closest(pose, tool, near, 0.0)
    if distance > _THERE:
        return f"the arm cannot get closer to it than {distance:.3f} m{_at_limits(q)}"
    q, _ = _closest(pose, tool, near, 1.0)
    reached = control_frame(q, tool)
    distance = float(np.linalg.norm(reached[:3, 3] - pose[:3, 3]))
    cosine = 0.5 * (np.trace(reached[:3, :3].T @ pose[:3, :3]) - 1.0)
    angle = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
    return (
        "the arm cannot have this orientation there: the closest that it can get is "
        f"{distance:.3f} m and {angle:.1f} degrees away{_at_limits(q)}"
    )


def _closest(pose: Array, tool: Array, near: Array, turning: float) -> tuple[Array, float]:
    """The joint positions [rad] (7,) that come closest to a pose out of reach, and their error [m and rad]."""
    ends = [start.copy() for start in (near, *_STARTS[:100])]
    errors = [_descend(pose, tool, near, q, 0.0, turning, _CORRECTION) for q in ends]
    best = int(np.argmin(errors))
    return ends[best], errors[best]


def _at_limits(q: Array) -> str:
    names = [f"joint {index + 1}" for index in np.flatnonzero((q <= POSITION_LOWER) | (q >= POSITION_UPPER))]
    return f"; at the limit: {', '.join(names)}" if names else ""


@kernel
def _descend(pose: Array, tool: Array, near: Array, q: Array, pull: float, turning: float, steps: int) -> float:
    """Move ``q`` within the limits to where the control frame is at ``pose``, or as close as this way leads.

    :param pull: 1: of all steps that lead to the pose, take the one that ends nearest to ``near``; 0: the shortest one.
    :param turning: 1: the orientation counts; 0: only the position does.
    :returns: norm of the error before the last step [m and rad].
    """
    flange, tcp, jacobian = np.empty((4, 4)), np.empty((4, 4)), np.empty((6, 7))
    wanted, orientation, error, size = np.empty(4), np.empty(4), np.empty(6), 0.0
    normal, factor, weights = np.empty((6, 6)), np.empty((6, 6)), np.empty(6)
    step, free = np.empty(7), np.empty(7)
    quaternion_from_matrix(pose, wanted)
    for _ in range(steps):
        forward(q, tool, flange, tcp, jacobian)
        quaternion_from_matrix(tcp, orientation)
        rotation_between(wanted, orientation, error[3:])
        size = 0.0
        for i in range(3):
            error[i] = pose[i, 3] - tcp[i, 3]
            error[i + 3] *= turning
            size += error[i] ** 2 + error[i + 3] ** 2
            for j in range(7):
                jacobian[i + 3, j] *= turning
        size = math.sqrt(size)
        damping = _DAMPING + _DAMPING_OF_ERROR * min(size, 1.0) ** 2
        free[:] = 1.0
        pushes = True
        while pushes:  # Joints that would leave their range do not move; the others must do without them.
            for i in range(6):
                weights[i] = error[i]
                for k in range(6):
                    normal[i, k] = damping if i == k else 0.0
                for j in range(7):
                    if free[j] > 0.0:
                        weights[i] -= jacobian[i, j] * pull * (near[j] - q[j])
                        for k in range(6):
                            normal[i, k] += jacobian[i, j] * jacobian[k, j]
            factorize(normal, 6, factor)
            solve_factorized(factor, 6, weights)
            pushes = False
            longest = 0.0
            for j in range(7):
                step[j] = pull * (near[j] - q[j])
                for i in range(6):
                    step[j] += jacobian[i, j] * weights[i]
                step[j] *= free[j]
                longest = max(longest, abs(step[j]))
                if (step[j] > 0.0 and q[j] >= POSITION_UPPER[j]) or (step[j] < 0.0 and q[j] <= POSITION_LOWER[j]):
                    free[j] = 0.0
                    pushes = True
        if longest < _ARRIVED or (size < _ARRIVED and (pull == 0.0 or longest < _STOPPED)):
            break
        scale = min(1.0, _LONGEST / longest)
        for j in range(7):
            q[j] = min(POSITION_UPPER[j], max(POSITION_LOWER[j], q[j] + scale * step[j]))
    return size
