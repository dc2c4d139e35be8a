"""What to say about a target that the control process has limited: by which limit, its value, and the target's.

Used by :mod:`aiofranka_ros.node.targets`, in the node's process and its one thread. The control process counts which
limit a target met, and nothing more; the values here are those of the newest target, which nearly always is that one.
It also knows which joint limits keep the hand from its target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model.fr3 import JOINT_MARGIN
from aiofranka_ros.model.kinematics import control_frame

_UNITS = {setting.name: setting.unit for setting in SETTINGS}


def describe_limited(
    name: str,
    topic: str,
    target: Any,
    state: Record,
    client: ControlClient,
    parameter: Callable[[str], Any],
    joints: Sequence[str],
) -> str:
    """A sentence about a target that was limited.

    :param name: the limit, a parameter.
    :param topic: of the newest target, after ``~/``, and ``target``, what was passed on from there.
    :param state: the newest one.
    :param parameter: returns the value of a parameter.
    :param joints: names of the joints.
    """
    limit, unit = parameter(name), _UNITS[name]
    if name.endswith("_velocity"):
        text = f"{limit:g}" if np.ndim(limit) == 0 else str(np.round(limit, 3).tolist())
        return f"targets that move faster than {name} ({text} {unit}) are followed at that velocity"
    side = -1.0 if name.endswith("_lower") else 1.0
    if name.startswith("workspace"):
        return _beyond_wall(name, topic, target, client, limit, side)
    if name.startswith("joint"):
        if topic == "dq_desired":
            return f"joint velocities towards {name} were stopped {JOINT_MARGIN} rad inside of it"
        found = _worst(np.asarray(target), limit - side * JOINT_MARGIN, side) if topic == "q_desired" else None
        what = "a target" if found is None else f"a target with {joints[found]} at {target[found]:.3f} rad"
        value = "" if found is None else f" ({limit[found]:.3f} rad)"
        return f"{what} was moved to {JOINT_MARGIN} rad inside {name}{value}"
    distance = _distance(name, topic, target, state, parameter)
    how = f"{distance:.2f} {unit} away" if distance > limit else "too far away"
    return f"a target {how} was limited to {name} ({limit:g} {unit})"


def describe_blocked(state: Record, parameter: Callable[[str], Any], joints: Sequence[str]) -> str:
    """A sentence about a hand that joint limits keep from its target; empty if none do.

    :param state: the newest one.
    :param parameter: returns the value of a parameter.
    :param joints: names of the joints.
    """
    blocked = int(state["blocked"])
    if not blocked:
        return ""
    sides = ("joint_lower", "joint_upper")
    where = [
        f"{joints[joint]} is at {name} ({parameter(name)[joint]:.3f} rad)"
        for side, name in enumerate(sides)
        for joint in range(7)
        if blocked >> (7 * side + joint) & 1
    ]
    linear, angular = float(state["behind_linear"]), float(state["behind_angular"])
    return f"the hand is {1e3 * linear:.0f} mm and {angular:.2f} rad from its target: {' and '.join(where)}"


def _beyond_wall(name: str, topic: str, target: Any, client: ControlClient, limit: Array, side: float) -> str:
    """About a target beyond a wall of the workspace, ``limit`` [m] (3,)."""
    if topic == "twist_desired":
        return f"a twist towards {name} was slowed down: the control frame stays inside, and slides along the wall"
    if topic == "dq_desired":
        return f"joint velocities that lead beyond {name} were slowed down together: the control frame stays inside"
    position = None
    if topic == "ee_desired":
        position, effect = np.array(target.position), f"was moved to {name}"
    else:
        effect = f"was ignored, because that is beyond {name}"
        if topic == "q_desired":
            position = control_frame(np.array(target), client.flange_to_tcp)[:3, 3]
    found = None if position is None else _worst(position, limit, side)
    if position is None or found is None:
        return f"a target outside the workspace {effect}"
    where = f"the control frame at {'xyz'[found]} = {position[found]:.3f} m"
    return f"a target with {where} {effect} ({'xyz'[found]} = {limit[found]:.3f} m)"


def _distance(name: str, topic: str, target: Any, state: Record, parameter: Callable[[str], Any]) -> float:
    """How far the newest target is from the reference, in the unit of the limit ``name``; 0 if that has another one."""
    if topic == "q_desired" and name == "max_joint_step":
        return float(np.abs(np.array(target) - state["ref_q"]).max())
    if topic == "ee_desired" and name == "max_linear_step":
        # The walls come first, so only what is inside of them counts.
        inside = np.clip(target.position, parameter("workspace_lower"), parameter("workspace_upper"))
        return float(np.linalg.norm(inside - state["ref_position"]))
    if topic == "ee_desired" and name == "max_angular_step":
        return float(2.0 * np.arccos(min(1.0, abs(float(np.array(target.orientation) @ state["ref_orientation"])))))
    return 0.0


def _worst(values: Array, limits: Array, side: float) -> int | None:
    """Index of the value that is furthest beyond its limit; ``None`` if none is.

    :param side: 1 for upper limits, -1 for lower ones.
    """
    beyond = side * (values - limits)
    index = int(beyond.argmax())
    return index if beyond[index] > 0.0 else None
