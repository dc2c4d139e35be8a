"""What was measured in one control cycle, as users of the asyncio API see it.

Made by :mod:`aiofranka_ros.ros.messages` from messages, and by ``RobotInterface`` from shared memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aiofranka_ros.control.records import Approach, Limit
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model.kinematics import pose_matrix, quaternion_from_matrix, rotate, rotation_between


@dataclass(frozen=True)
class Snapshot:
    """What was measured in one control cycle."""

    stamp: int  #: when [ns, system clock, as :func:`time.time_ns`; through a node: its clock]
    q: Array  #: joint positions [rad] (7,)
    dq: Array  #: joint velocities [rad/s] (7,)
    ee: Array  #: pose of the control frame in the base (4, 4)
    jacobian: Array  #: of the control frame in the base, translation then rotation (6, 7)
    mass: Array  #: joint-space mass matrix [kg m²] (7, 7), without the motors' inertia, as libfranka's model has it
    tau: Array  #: torque that was commanded last, gravity excluded [Nm] (7,)
    limited: Array  #: how many targets each :class:`.Limit` has limited since the activation (10,)
    approach: Approach  #: whether the arm follows its stream of targets
    approach_left: Array  #: how far the stream is, unless it is followed [m], [rad] (2,)

    @property
    def limited_targets(self) -> dict[str, int]:
        """How many targets were limited, by the setting that limited them; those that limited none are left out."""
        return {limit.name.lower(): int(self.limited[limit]) for limit in Limit if self.limited[limit] > 0}

    def as_state(self) -> dict[str, Any]:
        """The dictionary that scripts know as ``robot.state``, with copies of the arrays."""
        return {
            "qpos": self.q.copy(),
            "qvel": self.dq.copy(),
            "ee": self.ee.copy(),
            "jac": self.jacobian.copy(),
            "mm": self.mass.copy(),
            "last_torque": self.tau.copy(),
            "approach": self.approach_left.copy(),
            "stamp": self.stamp,
            "limited_targets": self.limited_targets,
        }


def snapshot_of(state: Record, stamp: int) -> Snapshot:
    """The snapshot of a record of :data:`~aiofranka_ros.control.records.STATE`, measured at ``stamp`` [ns]."""
    return Snapshot(
        stamp=stamp,
        q=state["q"].copy(),
        dq=state["dq"].copy(),
        ee=state["tcp"].copy(),
        jacobian=state["jacobian"].copy(),
        mass=state["mass"].copy(),
        tau=state["tau"].copy(),
        limited=state["limited_targets"].copy(),
        approach=Approach(int(state["approach"])),
        approach_left=state["approach_left"].copy(),
    )


def at_cycle(snapshot: Snapshot, cycle: Record, measured: int) -> Snapshot:
    """``snapshot`` with what a record of a cycle has, moved on to ``measured`` [ns, monotonic]."""
    ahead = 1e-9 * (measured - int(cycle["stamp"]))
    twist = snapshot.jacobian @ cycle["dq"]
    orientation = cycle["orientation"].copy()
    rotate(orientation, twist[3:], ahead)
    return replace(
        snapshot,
        q=cycle["q"] + ahead * cycle["dq"],
        dq=cycle["dq"].copy(),
        ee=pose_matrix(np.concatenate((cycle["position"] + ahead * twist[:3], orientation))),
        tau=cycle["tau"].copy(),
    )


def between(before: Snapshot, after: Snapshot, stamp: int) -> Snapshot:
    """What was measured at ``stamp`` [ns], by interpolation; counters are those of ``before``."""
    share = (stamp - before.stamp) / max(after.stamp - before.stamp, 1)

    def mixed(name: str) -> Array:
        first: Array = getattr(before, name)
        return first + share * (getattr(after, name) - first)

    turned, target, way = np.empty(4), np.empty(4), np.empty(3)
    quaternion_from_matrix(np.ascontiguousarray(before.ee), turned)
    quaternion_from_matrix(np.ascontiguousarray(after.ee), target)
    rotation_between(target, turned, way)
    rotate(turned, way, share)
    return replace(
        before,
        stamp=stamp,
        q=mixed("q"),
        dq=mixed("dq"),
        ee=pose_matrix(np.concatenate((mixed("ee")[:3, 3], turned))),
        jacobian=mixed("jacobian"),
        mass=mixed("mass"),
        tau=mixed("tau"),
    )


def distance_text(left: Array) -> str:
    """A distance for people: ``0.35 m``, ``1.20 rad`` or both.

    :param left: [m], [rad] (2,).
    """
    linear, angular = (round(float(value), 2) for value in left)
    parts = [f"{linear:.2f} m"] * (linear > 0.0) + [f"{angular:.2f} rad"] * (angular > 0.0)
    return " and ".join(parts) or "0.00 m"
