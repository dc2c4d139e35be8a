"""Joint trajectories from ROS: the action and the topic of joint_trajectory_controller, for MoveIt and other clients.

Used by the node, in its process and its one thread. They have the names that franka_ros2's MoveIt configuration uses,
so that MoveIt works unchanged: ``fr3_arm_controller/follow_joint_trajectory``, with a result, and
``fr3_arm_controller/joint_trajectory``, without one: its clients may leave at once, as ``ros2 topic pub --once`` does,
and the trajectory continues. A stream of short trajectories on the topic, as from MoveIt Servo, is one of targets, see
:mod:`aiofranka_ros.node.servo`. Any other trajectory is a coroutine of the executor, see
:mod:`aiofranka_ros.arm.moves`; :mod:`aiofranka_ros.arm.joint_trajectory` describes the motion between its points.

Differences from joint_trajectory_controller: what the arm cannot do is refused before it moves, and so is a trajectory
that begins elsewhere; a wrong tolerance is refused instead of ignored; a trajectory that is cancelled or left its path
slows down on its path instead of stopping within a cycle; without a goal time, the arm gets ``move_settle_time``
instead of unlimited time. Feedback and tolerances compare with the trajectory that was given, also while the arm is led
onto it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from builtin_interfaces.msg import Duration
from control_msgs.action import FollowJointTrajectory
from control_msgs.msg import JointTolerance
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import QoSProfile
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory as TrajectoryMessage
from trajectory_msgs.msg import JointTrajectoryPoint

from aiofranka_ros.arm.joint_trajectory import MOST_POINTS, JointTrajectory
from aiofranka_ros.arm.moves import Asked, MoveCancelled, Mover, OnTick, Plan
from aiofranka_ros.arm.tasks import ENDED, REST_VELOCITY, Tolerance, TrajectoryGoal
from aiofranka_ros.errors import GoalMissed, InvalidTarget, MoveFailed, MoveReplaced, PathViolated, brief
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model.names import CONTROLLER, ArmNames
from aiofranka_ros.node.servo import is_step
from aiofranka_ros.node.targets import TargetTopics
from aiofranka_ros.ros.actions import Actions, Ending, at_intervals
from aiofranka_ros.ros.arrivals import publisher_of
from aiofranka_ros.ros.bounded import bounded
from aiofranka_ros.ros.cdr import NANOSECONDS, nanoseconds, read_message
from aiofranka_ros.ros.executor import with_info
from aiofranka_ros.ros.messages import WRONG_JOINTS, joint_order

if TYPE_CHECKING:
    from aiofranka_ros.node.lifecycle import FrankaNode

_Result = FollowJointTrajectory.Result
_ACTION = f"{CONTROLLER}/follow_joint_trajectory"
_TOPIC = f"{CONTROLLER}/joint_trajectory"
#: Error codes of refusals, by their reason, and of all other failures.
_CODE_NAMES = {WRONG_JOINTS: "INVALID_JOINTS", ENDED: "OLD_HEADER_TIMESTAMP"}
_OTHER = "INVALID_GOAL"
_FEEDBACK_PERIOD = 0.05
#: Most bytes of a trajectory from the topic: 1000 points have 264,000 with all that a point may give.
LARGEST = 300 * MOST_POINTS
#: Most bytes of a step of a stream: three points with all that they may give.
_LARGEST_STEP = 2048
#: A tolerance or goal time of this value means no limit.
_UNLIMITED = -1.0


class TrajectoryAction:
    """The action ``follow_joint_trajectory`` and the topic ``joint_trajectory``."""

    def __init__(
        self, node: FrankaNode, actions: Actions, mover: Mover, names: ArmNames, targets: TargetTopics
    ) -> None:
        self._node = node
        self._actions = actions
        self._mover = mover
        self._names = names
        self._targets = targets
        actions.serve(
            FollowJointTrajectory, [_ACTION], self._check, self._pursue,
            title="follow_joint_trajectory", moves=True, longest_list=MOST_POINTS,
        )  # fmt: skip
        # Reliable, because a trajectory is sent once. Depth 1: only the newest one counts.
        self._message = bounded(TrajectoryMessage, MOST_POINTS)
        self._waiting: tuple[bytes, Mapping[str, Any]] | None = None
        callback, group = with_info(self._on_message), ReentrantCallbackGroup()  # Not the node's: steps are urgent.
        node.create_subscription(
            TrajectoryMessage, _TOPIC, callback, QoSProfile(depth=1), callback_group=group, raw=True
        )

    def _check(self, goal: FollowJointTrajectory.Goal) -> Plan[TrajectoryGoal]:
        """:raises InvalidTarget: the goal is refused."""
        try:
            return self._mover.plan(self._node.aside(self._parse, goal))
        except InvalidTarget as error:
            code = _CODE_NAMES.get(error.reason)
            if code is None:
                raise
            raise InvalidTarget(f"{error} ({code})", reason=error.reason) from error

    # The action.

    async def _pursue(self, handle: ServerGoalHandle, plan: Plan[TrajectoryGoal]) -> Ending:
        """Follow one trajectory to its end. However it ends, the arm then holds and the mode controls it again."""
        try:
            await self._mover.move(
                plan.task, planned=plan, owner=_ACTION,
                cancelled=lambda: handle.is_cancel_requested,
                why_abandoned=lambda: self._actions.why_abandoned(handle), on_tick=self._feedback(handle, plan.task),
            )  # fmt: skip
        except MoveFailed as failure:
            return Ending(_Result(error_code=_code(failure), error_string=str(failure)), failure=str(failure))
        except MoveCancelled:
            return Ending(_Result(error_code=_Result.SUCCESSFUL, error_string="cancelled"), cancelled=True)
        return Ending(_Result(error_code=_Result.SUCCESSFUL))

    def _feedback(self, handle: ServerGoalHandle, task: TrajectoryGoal) -> OnTick:
        """Publishes feedback from each state it is called with, at intervals."""

        def publish(state: Record, asked: Asked) -> None:
            q, dq, ddq = asked
            since = task.begin + float(state["motion_time"])
            message = FollowJointTrajectory.Feedback(
                header=Header(stamp=self._node.get_clock().now().to_msg()),
                joint_names=list(self._names.joints),
                desired=_point(since, q, dq, ddq),
                actual=_point(since, state["q"], state["dq"]),
                error=_point(since, q - state["q"], dq - state["dq"]),
            )
            if hasattr(message, "index"):  # From Kilted on.
                message.index = int(np.searchsorted(task.trajectory.times, since, side="right"))
            handle.publish_feedback(message)

        return at_intervals(_FEEDBACK_PERIOD, publish)

    # The topic.

    def _on_message(self, data: bytes, info: Mapping[str, Any]) -> None:
        """Pass a step of a stream on at once; everything else waits for its turn, and only the newest one counts."""
        if len(data) <= _LARGEST_STEP and self._pass_step_on(data, info):
            return
        idle, self._waiting = self._waiting is None, (data, info)
        if idle:
            self._node.executor.create_task(self._begin)

    def _pass_step_on(self, data: bytes, info: Mapping[str, Any]) -> bool:
        """Whether the message is a step of a stream."""
        try:
            self._actions.require_alone()
            message = read_message(data, self._message, LARGEST)
        except InvalidTarget:
            return False  # Refused in its turn.
        if not is_step(message, self._node.get_clock().now().nanoseconds):
            return False
        self._targets.servo(message, info)
        return True

    def _begin(self) -> None:
        """Plan the newest trajectory, and follow it."""
        assert self._waiting is not None
        (data, info), self._waiting = self._waiting, None
        try:
            self._actions.require_alone()
            message = self._node.aside(read_message, data, self._message, LARGEST)
            publisher, topic = publisher_of(info), self._node.resolve_topic_name(_TOPIC)
            self._actions.require_free(self._targets.owners.name_of(publisher, topic))
            plan = self._check(FollowJointTrajectory.Goal(trajectory=message))
        except InvalidTarget as error:
            self._actions.refuse("a trajectory", error)
            return
        self._node.executor.create_task(self._follow, plan)

    async def _follow(self, plan: Plan[TrajectoryGoal]) -> None:
        try:
            await self._mover.move(plan.task, planned=plan, owner=_TOPIC)
        except MoveReplaced:
            pass  # The newest one counts; a client that streams trajectories replaces all but the last.
        except MoveFailed as failure:
            self._actions.warnings.warn(_TOPIC, f"a trajectory failed: {failure}")

    # Both.

    def _parse(self, goal: FollowJointTrajectory.Goal) -> TrajectoryGoal:
        """The goal with its defaults filled in.

        :raises InvalidTarget: a value cannot be used.
        """
        for field in ("component_path_tolerance", "component_goal_tolerance", "multi_dof_trajectory"):
            given = getattr(goal, field)
            if getattr(given, "points", given):
                raise InvalidTarget(
                    f"it has a {field}, but the arm has no joints with several degrees of freedom", reason=WRONG_JOINTS
                )
        joints = self._names.joints
        trajectory = _trajectory(goal.trajectory, joints)
        stamp = nanoseconds(goal.trajectory.header.stamp)

        def elapsed() -> float:
            return float(self._node.get_clock().now().nanoseconds - stamp) / NANOSECONDS

        path = self._node.parameter("path_tolerance")
        goal_time = nanoseconds(goal.goal_time_tolerance) / NANOSECONDS
        settle_time = _limit(goal_time, "goal_time_tolerance", self._node.parameter("move_settle_time"))
        return TrajectoryGoal(
            trajectory=trajectory,
            elapsed=elapsed if stamp else None,
            path_tolerance=_tolerance(
                goal.path_tolerance, "path_tolerance", joints, position=path or np.inf, velocity=np.inf
            ),
            goal_tolerance=_tolerance(
                goal.goal_tolerance, "goal_tolerance", joints,
                position=self._node.parameter("move_tolerance"), velocity=REST_VELOCITY,
            ),
            settle_time=settle_time,
            goal_time=settle_time if goal_time else None,
        )  # fmt: skip


def _code(failure: MoveFailed) -> int:
    """The error code of a goal that was aborted because of ``failure``."""
    if isinstance(failure, PathViolated):
        return int(_Result.PATH_TOLERANCE_VIOLATED)
    if isinstance(failure, GoalMissed):
        return int(_Result.GOAL_TOLERANCE_VIOLATED)
    cause = failure.__cause__  # Why it could not be planned when it was due.
    return int(getattr(_Result, _CODE_NAMES.get(cause.reason if isinstance(cause, InvalidTarget) else "", _OTHER)))


def _trajectory(message: TrajectoryMessage, joints: Sequence[str]) -> JointTrajectory:
    """The points of ``message`` for ``joints``, joint 1 first, whatever its order.

    Each point may give velocities and accelerations or not.

    :raises InvalidTarget: joints are missing, unknown or named twice, there are too many points, the number of values
        of a point is not the number of joints, or what :meth:`.JointTrajectory.check` refuses.
    """
    order = joint_order(message.joint_names, joints)
    count = len(message.points)
    if count > MOST_POINTS:
        raise InvalidTarget(
            f"it has {count} points; at most {MOST_POINTS} are planned at once: use fewer, or send it in parts",
            reason="too many points",
        )
    for index in (index for index, point in enumerate(message.points) if point.effort):
        raise InvalidTarget(
            f"point {index} has efforts, but the arm follows positions: leave them out", reason="efforts given"
        )
    positions = _rows(message, "positions", order)
    times = np.array([nanoseconds(point.time_from_start) / NANOSECONDS for point in message.points])
    trajectory = JointTrajectory(
        times,
        np.empty((0, len(order))) if positions is None else positions,
        _rows(message, "velocities", order),
        _rows(message, "accelerations", order),
        joints,
    )
    trajectory.check()
    return trajectory


def _rows(message: TrajectoryMessage, field: str, order: Sequence[int]) -> Array | None:
    """What the points of ``message`` give as ``field`` (n, 7), in ``order``; NaN in points that do not give it.

    :returns: ``None`` if no point gives it.
    :raises InvalidTarget: the number of values of a point is not the number of joints, or one is NaN.
    """
    values = [getattr(point, field) for point in message.points]
    sizes = np.array([len(row) for row in values], dtype=int)
    for index in np.flatnonzero((sizes != len(order)) & ((sizes > 0) | (field == "positions")))[:1]:
        raise InvalidTarget(f"point {index} has {sizes[index]} {field} for {len(order)} joints", reason="wrong size")
    given = sizes > 0
    if not given.any():
        return None
    rows = np.full((len(values), len(order)), np.nan)
    rows[given] = np.frombuffer(b"".join(row for row in values if len(row))).reshape(-1, len(order))[:, order]
    for index in np.flatnonzero(given & np.isnan(rows).any(axis=1))[:1]:
        raise InvalidTarget(f"{field} of point {index} are not finite: {list(values[index])}", reason="not finite")
    return rows


def _tolerance(
    given: Sequence[JointTolerance], field: str, joints: Sequence[str], *, position: float, velocity: float
) -> Tolerance:
    """The tolerances that a goal gives, and the node's for joints without.

    :raises InvalidTarget: a tolerance is not allowed, or names an unknown joint or too many.
    """
    if len(given) > len(joints):
        raise InvalidTarget(f"{field} has {len(given)} tolerances for {len(joints)} joints", reason="wrong size")
    tolerance = Tolerance(np.full(7, position), np.full(7, velocity), np.full(7, np.inf), joints)
    for joint in given:
        if joint.name not in joints:
            raise InvalidTarget(f"{field} names the unknown joint {brief(joint.name)!r}", reason=WRONG_JOINTS)
        index = joints.index(joint.name)
        what = f"{field} of {joint.name}"
        tolerance.position[index] = _limit(joint.position, f"{what}, position,", position)
        tolerance.velocity[index] = _limit(joint.velocity, f"{what}, velocity,", velocity)
        tolerance.acceleration[index] = _limit(joint.acceleration, f"{what}, acceleration,", np.inf)
    return tolerance


def _limit(value: float, what: str, default: float) -> float:
    """``value``; 0 means ``default``, -1 means no limit.

    :raises InvalidTarget: it is not allowed.
    """
    if value == 0.0:
        return default
    if value == _UNLIMITED:
        return np.inf
    if not 0.0 < value < np.inf:
        raise InvalidTarget(
            f"{what} is {value:g}, but must be positive, 0 for the default, or -1 for no limit", reason="bad tolerance"
        )
    return value


def _point(since: float, q: Array, dq: Array, ddq: Array | None = None) -> JointTrajectoryPoint:
    seconds, rest = divmod(int(since * NANOSECONDS), NANOSECONDS)
    return JointTrajectoryPoint(
        positions=q.tolist(),
        velocities=dq.tolist(),
        accelerations=[] if ddq is None else ddq.tolist(),
        time_from_start=Duration(sec=seconds, nanosec=rest),
    )
