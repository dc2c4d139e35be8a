"""Streams of trajectories with one point each, as MoveIt Servo sends them: each is a target, not a motion to plan.

Used by the node, in its process and its one thread: :mod:`aiofranka_ros.node.trajectory_action` finds such trajectories
on its topic, :mod:`aiofranka_ros.node.targets` passes them on like other targets.

The rule: a trajectory on the topic that has exactly one point, due within :data:`LONGEST_STEP` after its beginning, is
a step of a stream. Everything else is planned: several points, a point that is due later, or one without a time. A
planned trajectory of one point leads there as fast as its time says, and must end at rest; steps need not, as the next
one follows. In modes that do not follow joints, the arm follows such a stream with the gains of motions, and the mode
continues from where the arm is when it ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from trajectory_msgs.msg import JointTrajectory

from aiofranka_ros.ros.cdr import NANOSECONDS, nanoseconds
from aiofranka_ros.ros.messages import by_joint, joint_order

#: MoveIt Servo's steps are a period of its publications long, 10 to 34 ms by default [s].
LONGEST_STEP = 0.1


def is_step(message: JointTrajectory) -> bool:
    """Whether ``message`` is a step of a stream."""
    if len(message.points) != 1:
        return False
    return 0 < nanoseconds(message.points[0].time_from_start) <= LONGEST_STEP * NANOSECONDS


def step_positions(message: JointTrajectory, joints: Sequence[str]) -> tuple[float, ...]:
    """The positions of a step [rad] (7,) in the order of ``joints``.

    Its velocities are checked, but the positions of the stream say how fast it moves.

    :raises InvalidTarget: joints are missing, unknown or named twice, or a value is missing or not finite.
    """
    joint_order(message.joint_names, joints)
    (point,), names = message.points, tuple(joints)
    if point.velocities:
        by_joint(message.joint_names, point.velocities, "velocities", names)
    return by_joint(message.joint_names, point.positions, "positions", names)
