"""What an arm can be asked to do: reach a goal as fast as allowed, or follow a trajectory at its times.

Used by :mod:`aiofranka_ros.arm.moves`, which plans and pursues tasks, in the process and thread that own the arm. The
node and :class:`~aiofranka_ros.api.robot_interface.RobotInterface` make the tasks.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from aiofranka_ros.arm.joint_trajectory import ArmState, JointTrajectory, join
from aiofranka_ros.arm.planning import plan
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model.fr3 import JOINT_NAMES, POSITION_LOWER, POSITION_UPPER

#: An arm has stopped if no joint is faster than this [rad/s].
REST_VELOCITY = 0.02
#: Reason of the refusal of a trajectory that should have ended already.
ENDED = "ended in the past"
#: Returns the value of a setting by its name.
ParameterReader: TypeAlias = Callable[[str], Any]


@dataclass(frozen=True)
class Departure:
    """The state in which a new motion begins."""

    state: ArmState  #: how the joints move there
    running: Motion | None = None  #: what is left of the running motion from there on; ``None`` if no motion runs
    start: float = 0.0  #: robot time [s]; 0: at once
    lead: float = 0.0  #: how much later than now [s]


@dataclass(frozen=True)
class Tolerance:
    """How far joints may be from what they were asked to do; infinite: any distance."""

    position: Array  #: [rad] (7,)
    velocity: Array  #: [rad/s] (7,)
    acceleration: Array  #: [rad/s²] (7,), of the reference, because nothing measures accelerations
    joints: Sequence[str] = JOINT_NAMES  #: names of the joints, for messages

    @classmethod
    def of_position(cls, position: float, joints: Sequence[str] = JOINT_NAMES) -> Tolerance:
        """The same position tolerance [rad] for all joints, at any velocity."""
        return cls(np.full(7, position), np.full(7, np.inf), np.full(7, np.inf), joints)

    def violations(self, asked: Sequence[Array], state: Record) -> str:
        """The joints that are further than this from what was ``asked``, and by how much.

        :param asked: positions [rad], velocities [rad/s] and accelerations [rad/s²] (7,).
        """
        limits = (self.position, self.velocity, self.acceleration)
        return ", ".join(
            f"{name} by {error:.4f} {unit} (tolerance {limit:g})"
            for field, unit, desired, allowed in zip(
                ("q", "dq", "ref_ddq"), ("rad", "rad/s", "rad/s^2"), asked, limits, strict=True
            )
            for name, error, limit in zip(self.joints, np.abs(desired - state[field]), allowed, strict=True)
            if not error <= limit  # True for NaN, too.
        )


@dataclass(kw_only=True)
class Task(abc.ABC):
    """Which motion the arm makes, and how far it may be from it."""

    goal_tolerance: Tolerance  #: at the end
    #: How long the arm may take to come within ``goal_tolerance`` after the end of the motion [s]; infinite: no limit
    settle_time: float
    path_tolerance: Tolerance | None = None  #: during the motion; ``None``: any distance

    @property
    def timed(self) -> bool:
        """Whether the motion depends on the time at which it is planned."""
        return False

    @abc.abstractmethod
    def plan(self, departure: Departure, parameter: ParameterReader) -> Motion:
        """The motion from ``departure`` on.

        :raises InvalidTarget: no motion keeps within the limits.
        """


@dataclass(kw_only=True)
class Goal(Task):
    """A configuration to reach as fast as allowed."""

    q: Array  #: joint positions [rad] (7,)
    velocity: Array  #: largest joint velocities [rad/s] (7,)

    def plan(self, departure: Departure, parameter: ParameterReader) -> Motion:
        """See :meth:`Task.plan`."""
        joints = self.goal_tolerance.joints
        return _plan(departure.state, self.q, parameter, max_velocity=self.velocity, joints=joints)


@dataclass(kw_only=True)
class TrajectoryGoal(Task):
    """A trajectory to follow at its times."""

    trajectory: JointTrajectory  #: the points, checked
    #: How long ago the trajectory began [s], negative if it has not begun; ``None``: it begins as soon as the arm can
    elapsed: Callable[[], float] | None = None
    #: How much later than the trajectory the arm may arrive [s]; ``None``: whenever the motion that leads it onto the
    #: trajectory ends, and ``settle_time`` counts from then
    goal_time: float | None = None
    begin: float = 0.0  #: time in the trajectory at which the motion begins [s]; set when it is planned

    @property
    def timed(self) -> bool:
        """See :attr:`Task.timed`."""
        return self.elapsed is not None

    def plan(self, departure: Departure, parameter: ParameterReader) -> Motion:
        """See :meth:`Task.plan`."""
        elapsed = 0.0 if self.elapsed is None else self.elapsed()
        over = elapsed - float(self.trajectory.times[-1])
        if self.elapsed is not None and over > 0.0:
            raise InvalidTarget(f"by its header.stamp it ended {over:.3f} s ago", reason=ENDED)
        self.begin = 0.0 if self.elapsed is None else elapsed + departure.lead
        before: ArmState | Motion = departure.state
        start_tolerance = parameter("start_tolerance") or np.inf
        if departure.running is not None:
            # What a stream of trajectories does: each continues from wherever the one before is.
            before, start_tolerance = departure.running, np.inf
        if self.begin < 0.0 and isinstance(before, ArmState) and np.abs(before.dq).max() > REST_VELOCITY:
            # The arm stops until the trajectory begins, near where it would have braked.
            ahead = 0.5 * before.dq * np.abs(before.dq) / parameter("move_acceleration")
            before = _plan(before, np.clip(before.q + ahead, POSITION_LOWER, POSITION_UPPER), parameter)
        motion = join(self.trajectory, before, self.begin, start_tolerance=start_tolerance)
        if self.goal_time is not None:
            self.settle_time = self.goal_time - motion.overrun
            if self.settle_time < 0.0:
                raise InvalidTarget(
                    f"from where the arm is, it would end {motion.overrun:.3f} s late, but goal_time_tolerance is "
                    f"{self.goal_time:g} s",
                    reason="too far away",
                )
        return motion


def _plan(state: ArmState, goal: Array, parameter: ParameterReader, **options: Any) -> Motion:
    return plan(
        state.q, goal, dq=state.dq, ddq=state.ddq,
        max_acceleration=parameter("move_acceleration"), max_jerk=parameter("move_jerk"), **options,
    )  # fmt: skip
