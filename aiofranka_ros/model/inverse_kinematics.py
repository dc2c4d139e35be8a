"""Inverse kinematics of the FR3: the joint positions nearest to the arm's that bring its control frame to a pose.

Used by the node of RViz's tools, in its process and its one thread; a call takes 10 to 20 ms. Deterministic.

Seven joints leave one degree of freedom: if joint 7 is given, the others follow in closed form (after He and Liu,
"Analytical Inverse Kinematics for Franka Emika Panda", 2021). Unlike there, both elbows count: near the upper limit of
joint 4, the elbow bends past the line from shoulder to wrist. So there are up to eight configurations. Joint 7 is swept
through its range and the best places are refined, which also shows what keeps a pose out of reach. The sweep is denser
near the present position of joint 7, and where the axes of joints 1 and 3 almost coincide, as at home: the nearest
configurations fill only a tiny interval there. A descent from the arm's position finds the few that the sweep misses.
"""

from __future__ import annotations

import math

import numpy as np

from aiofranka_ros.errors import Unreachable
from aiofranka_ros.kernels import Array, kernel
from aiofranka_ros.model.fr3 import HOME, JOINT_ORIGIN, POSITION_LOWER, POSITION_UPPER, READY
from aiofranka_ros.model.kinematics import control_frame, forward, quaternion_from_matrix, rotation_between

#: The dimensions that the closed form is written in [m]: heights of shoulder and flange, lengths along the links, and
#: the offsets of elbow and wrist.
_SHOULDER = JOINT_ORIGIN[0, 2]
_UPPER_ARM, _FOREARM, _FLANGE = -JOINT_ORIGIN[2, 1], JOINT_ORIGIN[4, 1], JOINT_ORIGIN[7, 2]
_ELBOW, _WRIST = JOINT_ORIGIN[3, 0], JOINT_ORIGIN[6, 0]
#: From the shoulder to the elbow's axis, and from there to the wrist's [m].
_TO_ELBOW, _TO_WRIST = math.hypot(_UPPER_ARM, _ELBOW), math.hypot(_FOREARM, _ELBOW)
#: Angle between those two if joint 4 is 0 [rad].
_BEND = math.atan2(_FOREARM, _ELBOW) + math.atan2(_UPPER_ARM, _ELBOW)

_MIDDLE = 0.5 * (POSITION_LOWER + POSITION_UPPER)
_BRANCHES = 8
#: Step of the sweep of joint 7 [rad], and its smallest step where it is dense.
_STEP, _FINEST = math.radians(0.5), 1e-9
_SAMPLES = round((POSITION_UPPER[6] - POSITION_LOWER[6]) / _STEP)
#: Costs that outweigh any distance: of a gap [1/m], and less, of a violated limit [1/rad].
_GAP_COST, _LIMIT_COST = 1e18, 1e9
#: Gaps [m] and violations [rad] below these are rounding.
_NO_GAP, _NO_VIOLATION = 1e-9, 1e-9
#: Joint 2 counts as 0 below this [rad]: then only the sum of joints 1 and 3 matters.
_ALIGNED = 1e-8
#: If it is closer to 0 than this [rad], joints 1 and 3 turn so fast along the sweep that it may miss solutions.
_NEEDLE = 0.1
#: Descent: most steps, longest step of a joint [rad], errors that count as arrived [m and rad], steps that count as
#: stopped [rad].
_DESCENTS, _LONGEST, _ARRIVED, _RESTING = 100, 0.3, 1e-12, 1e-9
#: Number of places of the sweep that are refined, how often, and into how many parts their interval is divided.
_REFINED, _REFINEMENTS, _PARTS = 24, 9, 16


def solve(pose: Array, near: Array, flange_to_tcp: Array | None = None) -> Array:
    """The joint positions [rad] (7,) nearest to ``near`` with the control frame at ``pose``, within the joint limits.

    Near means the smallest Euclidean distance of the joint positions. In about one case of a thousand, if limits cut
    through the arm's self-motion, the result is not the very nearest.

    :param pose: pose of the control frame in the base (4, 4).
    :param near: joint positions [rad] (7,), usually those of the arm.
    :param flange_to_tcp: pose of the control frame in the flange (4, 4); ``None``: the flange itself.
    :raises Unreachable: there are none; the message says why.
    """
    tool = np.eye(4) if flange_to_tcp is None else np.ascontiguousarray(flange_to_tcp, dtype=float)
    pose, near = np.ascontiguousarray(pose, dtype=float), np.clip(near, POSITION_LOWER, POSITION_UPPER)
    flange = pose @ _inverse(tool)
    configurations, gaps, costs = np.empty((_BRANCHES, 7)), np.empty(_BRANCHES), np.empty(_BRANCHES)
    best, gap = np.empty(7), np.empty(2)
    even = np.linspace(POSITION_LOWER[6], POSITION_UPPER[6], _SAMPLES)
    needles = _alignments(flange, near, even, configurations, gaps)
    cost = _sweep(flange, near, _samples(even, [near[6], *needles]), configurations, gaps, costs, best, gap)
    descended = near.copy()
    if _descend(pose, tool, near, descended) and np.linalg.norm(descended - near) < cost:
        return descended
    if gap[0] > _NO_GAP:
        raise Unreachable(_why(flange, float(gap[0]), float(gap[1])))
    outside = np.maximum(POSITION_LOWER - best, best - POSITION_UPPER)
    if outside.max() > _NO_VIOLATION:
        joints = ", ".join(
            f"joint {number} by at least {beyond:.2g} rad"
            for number, beyond in enumerate(outside, start=1)
            if beyond > _NO_VIOLATION
        )
        raise Unreachable(f"it can be reached only outside the joint limits: {joints}")
    return np.clip(best, POSITION_LOWER, POSITION_UPPER)


def load_kernels() -> None:
    """Compile what :func:`solve` needs, or load it from the cache, so that the first real call takes no longer."""
    solve(control_frame(HOME), READY)


def _inverse(pose: Array) -> Array:
    inverse = np.eye(4)
    inverse[:3, :3] = pose[:3, :3].T
    inverse[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return inverse


def _samples(even: Array, dense: list[float]) -> Array:
    """Positions of joint 7 to try [rad], in order: ``even`` ones, and others ever closer to those in ``dense``."""
    steps = np.geomspace(_FINEST, _STEP, 30)
    steps = np.concatenate((-steps, [0.0], steps))
    return np.unique(np.clip(np.concatenate([even, *(place + steps for place in dense)]), even[0], even[-1]))


def _why(flange: Array, gap: float, reach: float) -> str:
    """Why there is no configuration at all that leads to ``flange``.

    :param gap: smallest distance by which the links fail to meet [m].
    :param reach: distance from the shoulder to the wrist there [m].
    """
    if reach > _TO_ELBOW + _TO_WRIST:
        return f"it is too far away, by at least {gap:.3f} m"
    if reach < abs(_TO_ELBOW - _TO_WRIST):
        return f"it is too close to the shoulder, by at least {gap:.3f} m"
    return f"the wrist cannot have this orientation there; it is at least {gap:.3f} m too far away for that"


@kernel
def _configurations(flange: Array, q7: float, near: Array, found: Array, gaps: Array) -> float:
    """All configurations that bring the flange to a pose, for a given position of joint 7.

    The axes of joints 5 and 6 meet in the wrist W, those of joints 1, 2 and 3 in the shoulder S. Their distance gives
    joint 4. Joint 4 determines how far S is from W along the axis of joint 5, which gives joint 6. Then the orientation
    of the forearm is known, and with it joint 5 and the three joints of the shoulder.

    :param flange: pose of the flange in the base (4, 4).
    :param q7: position of joint 7 [rad].
    :param near: joint positions [rad] (7,), which decide how joints 1 and 3 share their angle if only the sum matters.
    :param found: filled with joint positions [rad] (8, 7), turned by full turns to be closest to the middle of the
        limits: elbows, wrists, shoulders.
    :param gaps: filled with the distance by which each of them misses the pose [m] (8,); 0: it reaches it.
    :returns: distance from S to W [m].
    """
    c7, s7 = math.cos(q7), math.sin(q7)
    # Frame 6: x towards the flange's axis, z along the axis of joint 6, y = -z of the flange.
    x6, y6, z6 = np.empty(3), np.empty(3), np.empty(3)
    to_shoulder = np.empty(3)
    for i in range(3):
        x6[i] = c7 * flange[i, 0] - s7 * flange[i, 1]
        z6[i] = s7 * flange[i, 0] + c7 * flange[i, 1]
        y6[i] = -flange[i, 2]
        to_shoulder[i] = -(flange[i, 3] - _FLANGE * flange[i, 2] - _WRIST * x6[i])
    to_shoulder[2] += _SHOULDER
    reach = math.sqrt(to_shoulder[0] ** 2 + to_shoulder[1] ** 2 + to_shoulder[2] ** 2)
    cosine = (_TO_ELBOW**2 + _TO_WRIST**2 - reach**2) / (2.0 * _TO_ELBOW * _TO_WRIST)
    missing = max(0.0, reach - _TO_ELBOW - _TO_WRIST, abs(_TO_ELBOW - _TO_WRIST) - reach)
    angle = math.acos(min(1.0, max(-1.0, cosine)))
    # The shoulder in frame 6.
    wx = to_shoulder[0] * x6[0] + to_shoulder[1] * x6[1] + to_shoulder[2] * x6[2]
    wy = to_shoulder[0] * y6[0] + to_shoulder[1] * y6[1] + to_shoulder[2] * y6[2]
    radius = math.sqrt(wx * wx + wy * wy)
    x4, y4, z4 = np.empty(3), np.empty(3), np.empty(3)
    for branch in range(8):
        q = found[branch]
        elbow = angle if branch < 4 else -angle
        q[3] = _turned(_BEND + elbow, _MIDDLE[3])
        c4, s4 = math.cos(q[3]), math.sin(q[3])
        # The shoulder in the plane of the arm, seen from the wrist: across and along the axis of joint 5.
        across = _ELBOW * (1.0 - c4) - _UPPER_ARM * s4
        along = _ELBOW * s4 - _UPPER_ARM * c4 - _FOREARM
        swing = math.acos(min(1.0, max(-1.0, along / radius))) if radius > 0.0 else 0.0
        gaps[branch] = missing + max(0.0, abs(along) - radius)
        q[5] = _turned(math.atan2(wx, wy) + (swing if branch % 4 < 2 else -swing), _MIDDLE[5])
        c6, s6 = math.cos(q[5]), math.sin(q[5])
        q[6] = q7
        length = 0.0
        for i in range(3):
            y4[i] = s6 * x6[i] + c6 * y6[i]
            x4[i] = (to_shoulder[i] - along * y4[i]) / across
            length += x4[i] * y4[i]
        norm = 0.0
        for i in range(3):
            x4[i] -= length * y4[i]
            norm += x4[i] ** 2
        norm = math.sqrt(norm)
        for i in range(3):
            x4[i] /= norm
        z4[0] = x4[1] * y4[2] - x4[2] * y4[1]
        z4[1] = x4[2] * y4[0] - x4[0] * y4[2]
        z4[2] = x4[0] * y4[1] - x4[1] * y4[0]
        # x of frame 5 before joint 6 turns it.
        sine = cosine = 0.0
        for i in range(3):
            x5 = c6 * x6[i] - s6 * y6[i]
            cosine += x5 * x4[i]
            sine -= x5 * z4[i]
        q[4] = _turned(math.atan2(sine, cosine), _MIDDLE[4])
        # Frame 3 is turned about z, y and z by the shoulder's joints.
        sign = 1.0 if branch % 2 == 0 else -1.0
        zx, zy, zz = s4 * x4[0] + c4 * y4[0], s4 * x4[1] + c4 * y4[1], s4 * x4[2] + c4 * y4[2]
        xz, yz = c4 * x4[2] - s4 * y4[2], -z4[2]
        tilt = math.sqrt(zx * zx + zy * zy)
        q[1] = sign * math.atan2(tilt, zz)
        if tilt > _ALIGNED:
            q[0] = math.atan2(sign * zy, sign * zx)
            q[2] = math.atan2(sign * yz, -sign * xz)
        else:
            # Both take half of the difference, as far as their limits allow.
            sum_now = near[0] + near[2]
            total = _turned(math.atan2(c4 * x4[1] - s4 * y4[1], c4 * x4[0] - s4 * y4[0]), sum_now)
            if total > POSITION_UPPER[0] + POSITION_UPPER[2]:
                total -= 2.0 * math.pi
            elif total < POSITION_LOWER[0] + POSITION_LOWER[2]:
                total += 2.0 * math.pi
            low = max(POSITION_LOWER[0], total - POSITION_UPPER[2])
            high = min(POSITION_UPPER[0], total - POSITION_LOWER[2])
            q[0] = max(low, min(high, near[0] + 0.5 * (total - sum_now)))
            q[2] = total - q[0]
    return reach


@kernel
def _turned(angle: float, middle: float) -> float:
    """``angle`` [rad], by full turns as close to ``middle`` as possible."""
    return angle - 2.0 * math.pi * math.floor((angle - middle) / (2.0 * math.pi) + 0.5)


@kernel
def _evaluate(flange: Array, near: Array, q7: float, found: Array, gaps: Array, costs: Array) -> float:
    """Costs of the configurations with joint 7 at ``q7`` (8,): distance [rad], far more for gaps and violated limits.

    :returns: as :func:`_configurations`, which fills ``found`` and ``gaps``.
    """
    reach = _configurations(flange, q7, near, found, gaps)
    for branch in range(8):
        beyond = distance = 0.0
        for i in range(7):
            value = found[branch, i]
            beyond = max(beyond, POSITION_LOWER[i] - value, value - POSITION_UPPER[i])
            distance += (value - near[i]) ** 2
        if beyond <= _NO_VIOLATION:
            beyond = 0.0
        gap = gaps[branch] if gaps[branch] > _NO_GAP else 0.0
        costs[branch] = math.sqrt(distance) + _LIMIT_COST * beyond + _GAP_COST * gap
    return reach


@kernel
def _refined(
    flange: Array,
    near: Array,
    best: float,
    low: float,
    high: float,
    branch: int,
    aligning: bool,
    found: Array,
    gaps: Array,
) -> float:
    """Position of joint 7 [rad] in an interval where a branch costs least or, if ``aligning``, joint 2 is nearest to 0.

    The interval is divided, and the parts next to the best place are the next interval: the cost may be rough and may
    have several minima.
    """
    costs = np.empty(8)
    _evaluate(flange, near, best, found, gaps, costs)
    least = abs(found[branch, 1]) if aligning else costs[branch]
    for _ in range(_REFINEMENTS):
        part = (high - low) / _PARTS
        for k in range(1, _PARTS):
            q7 = low + k * part
            _evaluate(flange, near, q7, found, gaps, costs)
            cost = abs(found[branch, 1]) if aligning else costs[branch]
            if cost < least:
                best, least = q7, cost
        low, high = max(low, best - part), min(high, best + part)
    return best


@kernel
def _alignments(flange: Array, near: Array, samples: Array, found: Array, gaps: Array) -> list[float]:
    """Positions of joint 7 [rad] at which joint 2 comes closest to 0, between two of ``samples``, in order."""
    count = len(samples)
    table = np.empty((count, 8))
    for k in range(count):
        _configurations(flange, samples[k], near, found, gaps)
        table[k] = np.where(gaps > 0.0, np.inf, np.abs(found[:, 1]))
    places = [samples[0]]
    for branch in range(0, 8, 2):  # The others differ in the sign of joint 2.
        for k in range(1, count - 1):
            here = table[k, branch]
            if here < _NEEDLE and here <= table[k - 1, branch] and here <= table[k + 1, branch]:
                places.append(
                    _refined(flange, near, samples[k], samples[k - 1], samples[k + 1], branch, True, found, gaps)
                )
    return places


@kernel
def _sweep(
    flange: Array, near: Array, samples: Array, found: Array, gaps: Array, costs: Array, best: Array, best_gap: Array
) -> float:
    """The cheapest configuration over the range of joint 7, see :func:`_evaluate`.

    :param samples: positions of joint 7 to try [rad], in order.
    :param best: filled with that configuration [rad] (7,).
    :param best_gap: filled with its gap [m], and with the distance from shoulder to wrist there [m].
    :returns: its cost.
    """
    count = len(samples)
    table = np.empty((count, 8))
    for k in range(count):
        _evaluate(flange, near, samples[k], found, gaps, costs)
        table[k] = costs
    # Places cheaper than their neighbours; found once, because a refined place must not promote its neighbours.
    minima = np.full((count, 8), np.inf)
    for k in range(count):
        for branch in range(8):
            cost = table[k, branch]
            if (k == 0 or cost <= table[k - 1, branch]) and (k == count - 1 or cost <= table[k + 1, branch]):
                minima[k, branch] = cost
    least = np.inf
    for _ in range(_REFINED):
        at, of = divmod(int(minima.argmin()), 8)
        if minima[at, of] == np.inf:
            break
        minima[at, of] = np.inf
        before, after = samples[max(at - 1, 0)], samples[min(at + 1, count - 1)]
        q7 = _refined(flange, near, samples[at], before, after, of, False, found, gaps)
        reach = _evaluate(flange, near, q7, found, gaps, costs)
        if costs[of] < least:
            least = costs[of]
            best_gap[0], best_gap[1] = gaps[of], reach
            best[:] = found[of]
    return least


def _descend(pose: Array, tool: Array, near: Array, q: Array) -> bool:
    """Move from ``near`` to ``pose`` along the Jacobian, and back towards ``near`` as far as the pose permits.

    :param q: start [rad] (7,); filled with the end.
    :returns: whether the end is at the pose, within the limits.
    """
    flange, tcp, jacobian = np.empty((4, 4)), np.empty((4, 4)), np.empty((6, 7))
    wanted, orientation, error = np.empty(4), np.empty(4), np.empty(6)
    quaternion_from_matrix(pose, wanted)
    for _ in range(_DESCENTS):
        forward(q, tool, flange, tcp, jacobian)
        quaternion_from_matrix(tcp, orientation)
        error[:3] = pose[:3, 3] - tcp[:3, 3]
        rotation_between(wanted, orientation, error[3:])
        # Of all steps to the pose, the one that ends nearest to ``near``.
        back = near - q
        step = back + np.linalg.pinv(jacobian, rcond=1e-6) @ (error - jacobian @ back)
        arrived = np.abs(error).max() < _ARRIVED
        longest = np.abs(step).max()
        if arrived and longest < _RESTING:
            return True
        q += step * min(1.0, _LONGEST / longest)
        np.clip(q, POSITION_LOWER, POSITION_UPPER, out=q)
    return False
