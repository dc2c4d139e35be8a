"""Streams of short trajectories, as MoveIt Servo sends them: each is a target, not a motion to plan.

Used by the node, in its process and its one thread: :mod:`aiofranka_ros.node.trajectory_action` finds such trajectories
on its topic, :mod:`aiofranka_ros.node.targets` passes them on like other targets.

The rule: a trajectory on the topic is a step of a stream if it has one point that is due within :data:`LONGEST_STEP`
after its beginning, or several points of which the last one is due within that time from now. Only its last point
counts. Every other trajectory is planned, and must end at rest; steps need not, as the next one follows.

Servo's versions differ. Up to Humble, a step is one point: the *measured* position plus a period's way. So each step
begins again where the arm is, and the arm, which is always some time behind, would be far slower than asked. The
velocities of the steps say how fast it should be; :class:`Steps` adds them up. Since Jazzy, Servo sends the last
points of a path that it continues itself; then the positions are followed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from trajectory_msgs.msg import JointTrajectory

from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.kernels import Array
from aiofranka_ros.ros.cdr import NANOSECONDS, nanoseconds
from aiofranka_ros.ros.messages import by_joint, joint_order

#: Servo's steps are due after its period or a part of its expected latency, 10 to 66 ms by default [s].
LONGEST_STEP = 0.1
#: A stream ends after this silence [s].
_END = 0.5
#: After so many steps it is known whether positions or velocities are followed. If the positions went at least this
#: share of what the velocities say, they are a path; else they begin where the arm is, which has hardly begun to move.
_STEPS, _SHARE = 3, 0.8
#: Velocities are added up as far as this from the position of the newest step [rad]: the reference would not go further
#: from an arm that is blocked.
_FARTHEST = 0.1
#: A step counts for no period, if it follows the one before more closely than this share of a period, up to three, if
#: it is later than the other share: messages may be lost, or come together.
_SOON, _LATE, _MOST_PERIODS = 0.25, 1.75, 3


class Step(NamedTuple):
    """The last point of a step.

    :ivar q: positions [rad] (7,).
    :ivar dq: velocities [rad/s] (7,); ``None``: not given.
    :ivar period: the time for which they are meant [s].
    """

    q: Array
    dq: Array | None
    period: float


def is_step(message: JointTrajectory, now: int) -> bool:
    """Whether ``message`` is a step of a stream.

    :param now: [ns, the node's clock].
    """
    if not message.points:
        return False
    longest, stamp = round(LONGEST_STEP * NANOSECONDS), nanoseconds(message.header.stamp)
    last = nanoseconds(message.points[-1].time_from_start)
    due = stamp + last - now if stamp else last
    if len(message.points) == 1:
        return 0 < last <= longest and due <= longest
    return last <= 2 * longest and 0 < due <= longest


def read_step(message: JointTrajectory, joints: Sequence[str]) -> Step:
    """What a step asks for, in the order of ``joints``.

    :raises InvalidTarget: joints are missing, unknown or named twice, a value is missing or not finite, or the times of
        the points do not increase.
    """
    joint_order(message.joint_names, joints)
    point, names = message.points[-1], tuple(joints)
    before = message.points[-2].time_from_start if len(message.points) > 1 else None
    period = nanoseconds(point.time_from_start) - (0 if before is None else nanoseconds(before))
    if period <= 0:
        raise InvalidTarget("times must increase, but those of its last two points do not", reason="wrong times")
    velocities = by_joint(message.joint_names, point.velocities, "velocities", names) if point.velocities else None
    return Step(
        np.array(by_joint(message.joint_names, point.positions, "positions", names)),
        None if velocities is None else np.array(velocities),
        period / NANOSECONDS,
    )


class Steps:
    """The path of one stream of steps."""

    def __init__(self) -> None:
        self._seen = -math.inf
        self._until = 0.0  # Up to when the path leads [s, monotonic].
        self._path = self._last = np.zeros(7)
        self._count, self._went, self._asked = 0, 0.0, 0.0

    @property
    def stamp(self) -> int:
        """When the newest step is due, for steps without stamps [ns, monotonic].

        Arrivals would not do: a step that was lost, or came late, is no change of speed.
        """
        return int(self._until * NANOSECONDS)

    def forget(self) -> None:
        """Another stream begins."""
        self._seen = -math.inf

    def target(self, step: Step, now: float) -> tuple[float, ...]:
        """Where the joints should be after ``step`` [rad] (7,).

        :param now: [s, monotonic].
        """
        silent, self._seen = now - self._seen > _END, now
        if silent:
            self._count, self._went, self._asked, self._until = 0, 0.0, 0.0, now
        periods = 1 if silent else self._periods(step.period, now)
        went, self._last = step.q - self._last, step.q
        if silent or step.dq is None or (self._count < _STEPS and not step.dq.any()):
            self._path = step.q
        else:
            way = periods * step.period * step.dq
            if self._count < _STEPS:
                self._count += 1
                self._went += float(way @ went)
                self._asked += float(way @ way)
            if self._count == _STEPS and self._went >= _SHARE * self._asked:
                self._path = step.q
            else:
                self._path = np.clip(self._path + way, step.q - _FARTHEST, step.q + _FARTHEST)
        return tuple(self._path.tolist())

    def _periods(self, period: float, now: float) -> int:
        """For how many periods [s] a step counts that comes ``now``."""
        late = (now - self._until) / period
        periods = 0 if late < _SOON else 1 if late < _LATE else min(round(late), _MOST_PERIODS)
        self._until = min(max(self._until + periods * period, now - period), now + period)
        return periods
