"""Trajectories as MoveIt sends them: they are followed at their times, or refused or ended with the reason."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration, Time
from control_msgs.action import FollowJointTrajectory
from control_msgs.msg import JointComponentTolerance, JointTolerance
from rclpy.action import ActionClient
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint, MultiDOFJointTrajectoryPoint

from aiofranka_ros.arm.joint_trajectory import MOST_POINTS
from aiofranka_ros.control.records import MotionStatus
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.control.stamps import offset_to
from aiofranka_ros.model import fr3
from aiofranka_ros.model.fr3 import HOME, JOINT_NAMES
from aiofranka_ros.model.names import CONTROLLER
from aiofranka_ros.testing import Client, NodeProcess

Log = Callable[[str], bool]
Result = FollowJointTrajectory.Result

ALL = ("positions", "velocities", "accelerations")
#: A second away from HOME at moderate speed.
ELSEWHERE = HOME + np.array([0.4, -0.3, 0.2, -0.4, 0.3, 0.3, -0.5])


def duration(seconds: float) -> Duration:
    whole, rest = divmod(round(seconds * 1e9), 1_000_000_000)
    return Duration(sec=whole, nanosec=rest)


def stamp(nanoseconds: float) -> Time:
    whole, rest = divmod(round(nanoseconds), 1_000_000_000)
    return Time(sec=whole, nanosec=rest)


def smooth_step(u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A quintic from 0 to 1, at rest at both ends, and its derivatives."""
    return (
        u**3 * (10.0 - 15.0 * u + 6.0 * u**2),
        30.0 * u**2 * (1.0 - u) ** 2,
        60.0 * u * (1.0 - u) * (1.0 - 2.0 * u),
    )


def line(
    goal: np.ndarray, seconds: float, *, begin: np.ndarray = HOME, count: int = 50, fields: tuple[str, ...] = ALL
) -> JointTrajectory:
    """From rest at ``begin`` to rest at ``goal``, on a straight line."""
    times = np.linspace(0.0, seconds, count)
    message = JointTrajectory(joint_names=list(JOINT_NAMES))
    for at, share, rate, change in zip(times, *smooth_step(times / seconds), strict=True):
        point = JointTrajectoryPoint(time_from_start=duration(at))
        distance = goal - begin
        values = (begin + share * distance, rate / seconds * distance, change / seconds**2 * distance)
        for field, value in zip(ALL, values, strict=True):
            if field in fields:
                setattr(point, field, value.tolist())
        message.points.append(point)
    return message


def shuffled(message: JointTrajectory) -> JointTrajectory:
    """The same trajectory with the joints in another order."""
    order = list(range(7))
    random.Random(1).shuffle(order)
    result = JointTrajectory(joint_names=[message.joint_names[index] for index in order])
    for point in message.points:
        fields = {field: [values[index] for index in order] for field in ALL if (values := getattr(point, field))}
        result.points.append(JointTrajectoryPoint(time_from_start=point.time_from_start, **fields))
    return result


def point_of(message: JointTrajectory, index: int, **fields: Any) -> JointTrajectory:
    """``message`` with other ``fields`` in one of its points."""
    for field, value in fields.items():
        setattr(message.points[index], field, value)
    return message


class Trajectories:
    """A client of the action and of the topic; it spins in the calling thread.

    :param robot: the client of the node, whose thread and executor it uses.
    """

    def __init__(self, robot: Client, namespace: str) -> None:
        self.robot = robot
        self.feedback: list[Any] = []
        controller = f"/{namespace}/fr3_arm_controller"
        self._client = ActionClient(robot.node, FollowJointTrajectory, f"{controller}/follow_joint_trajectory")
        self._publisher = robot.node.create_publisher(JointTrajectory, f"{controller}/joint_trajectory", 1)

    def close(self) -> None:
        self._client.destroy()
        self.robot.node.destroy_publisher(self._publisher)

    def send(self, trajectory: JointTrajectory, **goal: Any) -> Any:
        """Send a goal; return its handle."""
        assert self.robot.spin_until(self._client.server_is_ready)
        self.feedback.clear()
        request = FollowJointTrajectory.Goal(trajectory=trajectory, **goal)
        return self.robot.result(self._client.send_goal_async(request, feedback_callback=self.feedback.append))

    def follow(self, trajectory: JointTrajectory, **goal: Any) -> tuple[int, int, str]:
        """Status, error code and error string of a trajectory that is accepted."""
        return self.end_of(self.send(trajectory, **goal))

    def end_of(self, handle: Any) -> tuple[int, int, str]:
        """Status, error code and error string."""
        assert handle.accepted
        outcome = self.robot.outcome(handle)
        return outcome.status, outcome.result.error_code, outcome.result.error_string

    def publish(self, trajectory: JointTrajectory) -> None:
        """Publish it on the topic once the node has subscribed."""
        assert self.robot.spin_until(lambda: self._publisher.get_subscription_count() > 0)
        self._publisher.publish(trajectory)


@pytest.fixture(scope="module")
def trajectories(running: tuple[NodeProcess, Client]) -> Iterator[Trajectories]:
    process, client = running
    trajectories = Trajectories(client, process.namespace)
    yield trajectories
    trajectories.close()


@pytest.fixture
def arm(robot: Client, trajectories: Trajectories) -> Trajectories:
    """A client, with the arm at HOME."""
    if np.abs(robot.q - HOME).max() > 0.02:
        assert robot.outcome(robot.send_goal(HOME)).status == GoalStatus.STATUS_SUCCEEDED
    return trajectories


class Recording:
    """The control cycles since its creation, from the node's shared memory; stamps are those of the system's clock."""

    def __init__(self, robot: Client) -> None:
        address = robot.diagnostics("control loop")[1]["shared memory"]
        self._memory = SharedMemory.observe(address)
        self._first = self._memory.cycles.count

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.close()

    def cycles(self) -> Any:
        records, _, missed = self._memory.cycles.since(self._first)
        assert missed == 0
        records["stamp"] += offset_to()
        return records


def highest_acceleration(cycles: Any) -> float:
    """The largest acceleration of any joint's reference [rad/s²], from three consecutive cycles of a motion.

    A step in velocity gives hundreds. Planned accelerations may exceed the limit by a tenth.
    """
    moving = np.isin(cycles["motion_status"], [MotionStatus.EXECUTING, MotionStatus.STOPPING])
    whole = moving[:-2] & moving[1:-1] & moving[2:] & (cycles["lost"][1:-1] == 0) & (cycles["lost"][2:] == 0)
    assert whole.any()
    return float(np.abs(np.diff(cycles["ref_q"], 2, axis=0)[whole]).max()) / fr3.CYCLE**2


def up_to_speed(robot: Client, speed: float = 0.3) -> bool:
    """Whether the arm gets up to speed in time."""
    return robot.spin_until(lambda: robot.speed() > speed)


SUCCEEDED = (GoalStatus.STATUS_SUCCEEDED, Result.SUCCESSFUL, "")


# --- Followed


@pytest.mark.parametrize("count", [2, 3])
def test_a_trajectory_of_moveit_is_followed_within_two_hundredths_of_a_radian(arm: Trajectories, count: int) -> None:
    fields = ALL[:count]
    with Recording(arm.robot) as recording:
        assert arm.follow(shuffled(line(ELSEWHERE, 2.0, count=200, fields=fields))) == SUCCEEDED
        cycles = recording.cycles()
    moving = cycles[cycles["motion_status"] == MotionStatus.EXECUTING]
    since = np.minimum(moving["time"] - moving["time"][0], 2.0)
    share, _, _ = smooth_step(since / 2.0)
    wanted = HOME + share[:, np.newaxis] * (ELSEWHERE - HOME)
    # The reference is the trajectory itself; HOME was reached within 0.01 rad, and that fades out.
    late = since > 0.5
    np.testing.assert_allclose(moving["ref_q"][late], wanted[late], atol=2e-3)
    assert np.abs(moving["q"] - moving["ref_q"]).max() < 0.02
    assert np.abs(moving["q"] - wanted).max() < 0.02
    assert np.abs(arm.robot.q - ELSEWHERE).max() < 0.01


def test_positions_alone_are_enough(arm: Trajectories) -> None:
    message = line(ELSEWHERE, 2.0, count=12, fields=("positions",))
    del message.points[0]  # Where the arm is: it begins there in any case.
    with Recording(arm.robot) as recording:
        assert arm.follow(message) == SUCCEEDED
        cycles = recording.cycles()
    reference = cycles["ref_q"][cycles["motion_status"] == MotionStatus.EXECUTING]
    assert np.abs(reference[-1] - ELSEWHERE).max() < 1e-6
    assert highest_acceleration(cycles) < 1.1 * fr3.ACCELERATION_LIMIT[0]


def test_velocities_that_only_one_point_gives_are_used(arm: Trajectories) -> None:
    message = line(ELSEWHERE, 2.0, count=5, fields=("positions",))
    message.points[2].velocities = (0.7 * (ELSEWHERE - HOME)).tolist()
    with Recording(arm.robot) as recording:
        assert arm.follow(message) == SUCCEEDED
        cycles = recording.cycles()
    moving = cycles[cycles["motion_status"] == MotionStatus.EXECUTING]
    middle = np.abs(moving["ref_q"] - 0.5 * (HOME + ELSEWHERE)).max(axis=1).argmin()
    before, after = moving[middle - 3], moving[middle + 3]
    velocity = (after["ref_q"] - before["ref_q"]) / (after["time"] - before["time"])
    # Some milliseconds away, the velocity has changed by a few thousandths. Without it, it would be 0.79.
    np.testing.assert_allclose(velocity, 0.7 * (ELSEWHERE - HOME), atol=0.01)


def test_feedback_has_every_joint_and_the_current_point(arm: Trajectories) -> None:
    begin = time.monotonic()
    assert arm.follow(shuffled(line(ELSEWHERE, 2.0))) == SUCCEEDED
    messages = [message.feedback for message in arm.feedback]
    # 20 Hz for 2 s; a busy machine loses some, and takes longer.
    assert 10 <= len(messages) <= 20.0 * (time.monotonic() - begin) + 1.0
    for message in messages:
        assert tuple(message.joint_names) == JOINT_NAMES
        assert message.header.stamp.sec > 0
        desired, actual, error = message.desired, message.actual, message.error
        assert len(desired.accelerations) == 7 and len(actual.velocities) == 7
        np.testing.assert_allclose(error.positions, np.subtract(desired.positions, actual.positions), atol=1e-12)
        np.testing.assert_allclose(error.velocities, np.subtract(desired.velocities, actual.velocities), atol=1e-12)
        assert np.abs(error.positions).max() < 0.02
    times = [message.desired.time_from_start for message in messages]
    seconds = [value.sec + 1e-9 * value.nanosec for value in times]
    assert seconds == sorted(seconds) and seconds[0] < 0.5 and seconds[-1] > 1.5
    if hasattr(messages[0], "index"):  # From Kilted on.
        indices = [message.index for message in messages]
        assert indices == sorted(indices) and indices[0] < 15 and 45 <= indices[-1] <= 50


def test_a_trajectory_runs_in_every_mode(arm: Trajectories) -> None:
    begin, goal = HOME, HOME + 0.1
    for mode in ("impedance", "pid", "torque"):
        assert arm.robot.set(mode=mode) == ""
        assert arm.follow(line(goal, 0.6, begin=begin, count=5)) == SUCCEEDED
        begin, goal = goal, begin


# --- When


def test_a_trajectory_with_a_stamp_in_the_future_begins_then(arm: Trajectories) -> None:
    message = line(ELSEWHERE, 1.0, count=10)
    begin = time.time_ns() + 700_000_000
    message.header.stamp = stamp(begin)
    with Recording(arm.robot) as recording:
        assert arm.follow(message) == SUCCEEDED
        cycles = recording.cycles()
    reference = cycles["ref_q"][:, 0]
    # Joint 1 has done a tenth of its way after a quarter of the time, and half of it after half of the time.
    moved = cycles[np.argmax(np.abs(reference - HOME[0]) > 0.02 + 0.01)]
    half = cycles[np.argmax(reference > 0.5 * (HOME[0] + ELSEWHERE[0]))]
    assert moved["stamp"] >= begin
    # In robot time, which stands still while the simulated arm gets no CPU.
    assert 0.1 < half["time"] - moved["time"] < 0.4


def test_a_trajectory_that_should_have_begun_is_entered_where_it_is_now(arm: Trajectories) -> None:
    message = line(ELSEWHERE, 2.0, count=30)
    message.header.stamp = stamp(time.time_ns() - 400_000_000)
    with Recording(arm.robot) as recording:
        sent = time.time_ns()
        assert arm.follow(message) == SUCCEEDED
        cycles = recording.cycles()
    moving = cycles[cycles["motion_status"] == MotionStatus.EXECUTING]
    assert highest_acceleration(cycles) < 1.1 * fr3.ACCELERATION_LIMIT[0]
    # Less than two seconds after it was sent: the missed part is left out.
    middle = moving["stamp"][np.argmax(moving["ref_q"][:, 0] > 0.9 * ELSEWHERE[0])]
    assert middle - sent < 1.4e9


# --- Refused


def named(*names: str) -> JointTrajectory:
    message = line(ELSEWHERE, 2.0)
    message.joint_names = list(names)
    return message


def stamped(message: JointTrajectory, seconds: float) -> JointTrajectory:
    message.header.stamp = stamp(seconds * 1e9)
    return message


ARM = list(JOINT_NAMES)
BAD_GOALS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "no points": (lambda: {"trajectory": JointTrajectory(joint_names=ARM)}, "it has no points"),
    "a joint missing": (lambda: {"trajectory": named(*ARM[:6])}, "missing joint fr3_joint7 (INVALID_JOINTS)"),
    "an unknown joint": (
        lambda: {"trajectory": named(*ARM[:6], "panda_joint7")},
        "unknown joint panda_joint7; missing joint fr3_joint7 (INVALID_JOINTS)",
    ),
    "a joint twice": (lambda: {"trajectory": named(*ARM, ARM[0])}, "named twice: fr3_joint1 (INVALID_JOINTS)"),
    "no names": (lambda: {"trajectory": named()}, "missing joint fr3_joint1, fr3_joint2"),
    "times that do not increase": (
        lambda: {"trajectory": point_of(line(ELSEWHERE, 2.0), 7, time_from_start=duration(0.2))},
        "times must increase, but point 6 is at",
    ),
    "too few positions": (
        lambda: {"trajectory": point_of(line(ELSEWHERE, 2.0), 3, positions=[0.0] * 6)},
        "point 3 has 6 positions for 7 joints",
    ),
    "no positions": (
        lambda: {"trajectory": line(ELSEWHERE, 2.0, fields=("velocities",))},
        "point 0 has 0 positions for 7 joints",
    ),
    "too many velocities": (
        lambda: {"trajectory": point_of(line(ELSEWHERE, 2.0), 3, velocities=[0.0] * 8)},
        "point 3 has 8 velocities for 7 joints",
    ),
    "not finite": (
        lambda: {"trajectory": point_of(line(ELSEWHERE, 2.0), 3, accelerations=[float("inf")] * 7)},
        "accelerations of point 3 are not finite",
    ),
    "outside the limits": (
        lambda: {"trajectory": line(np.array([*HOME[:6], 3.5]), 20.0)},
        "is outside [-3.0159, 3.0159]",
    ),
    "too fast": (lambda: {"trajectory": line(HOME + np.array([1.5, 0, 0, 0, 0, 0, 0]), 0.9)}, "fr3_joint1 would move"),
    "too much acceleration": (
        lambda: {"trajectory": line(HOME + np.array([0.5, 0, 0, 0, 0, 0, 0]), 0.45)},
        "fr3_joint1 would have to accelerate with",
    ),
    "too far from the first point": (
        lambda: {"trajectory": point_of(line(HOME, 1.0, begin=ELSEWHERE), 0, time_from_start=duration(0.01))},
        "rad from where the trajectory begins (start_tolerance is 0.1 rad)",
    ),
    "beginning elsewhere": (
        lambda: {
            "trajectory": line(HOME, 2.0, begin=HOME + 0.2 * np.eye(7)[3]),
            "path_tolerance": [JointTolerance(name=ARM[3], position=0.5)],
        },
        "fr3_joint4 is 0.",
    ),
    "efforts": (
        lambda: {"trajectory": point_of(line(ELSEWHERE, 2.0), 3, effort=[1.0] * 7)},
        "point 3 has efforts, but the arm follows positions: leave them out",
    ),
    "velocities of NaN": (
        lambda: {"trajectory": point_of(line(ELSEWHERE, 2.0), 3, velocities=[float("nan")] * 7)},
        "velocities of point 3 are not finite",
    ),
    "too many points": (
        lambda: {"trajectory": line(ELSEWHERE, 2.0, count=MOST_POINTS + 1)},
        f"it has {MOST_POINTS + 1} points; at most {MOST_POINTS} are planned at once",
    ),
    "too many tolerances": (
        lambda: {"trajectory": line(ELSEWHERE, 2.0), "goal_tolerance": [JointTolerance(name=ARM[0])] * 8},
        "goal_tolerance has 8 tolerances for 7 joints",
    ),
    "moving at the end": (
        lambda: {"trajectory": point_of(line(ELSEWHERE, 2.0), 49, velocities=[0.1] * 7)},
        "it must end at rest, but fr3_joint1 ends at 0.100 rad/s",
    ),
    "over": (
        lambda: {"trajectory": stamped(line(ELSEWHERE, 2.0), time.time() - 10.0)},
        "s ago (OLD_HEADER_TIMESTAMP)",
    ),
    "joints with several degrees of freedom": (
        lambda: {
            "trajectory": line(ELSEWHERE, 2.0),
            "component_path_tolerance": [JointComponentTolerance(joint_name="base")],
        },
        "the arm has no joints with several degrees of freedom",
    ),
    "a tolerance of an unknown joint": (
        lambda: {"trajectory": line(ELSEWHERE, 2.0), "path_tolerance": [JointTolerance(name="elbow", position=0.1)]},
        "path_tolerance names the unknown joint 'elbow' (INVALID_JOINTS)",
    ),
    "a negative tolerance": (
        lambda: {"trajectory": line(ELSEWHERE, 2.0), "goal_tolerance": [JointTolerance(name=ARM[1], velocity=-0.5)]},
        "goal_tolerance of fr3_joint2, velocity, is -0.5",
    ),
    "a negative goal time": (
        lambda: {"trajectory": line(ELSEWHERE, 2.0), "goal_time_tolerance": duration(-0.5)},
        "goal_time_tolerance is -0.5",
    ),
}


@pytest.mark.parametrize("what", BAD_GOALS)
def test_a_bad_goal_is_rejected_with_the_reason(arm: Trajectories, log: Log, what: str) -> None:
    goal, text = BAD_GOALS[what]
    assert not arm.send(**goal()).accepted
    assert arm.robot.spin_until(lambda: log(text))


def test_a_multi_dof_trajectory_is_rejected(arm: Trajectories, log: Log) -> None:
    request = FollowJointTrajectory.Goal()
    request.multi_dof_trajectory.points.append(MultiDOFJointTrajectoryPoint())
    handle = arm.send(line(ELSEWHERE, 2.0), multi_dof_trajectory=request.multi_dof_trajectory)
    assert not handle.accepted
    assert arm.robot.spin_until(lambda: log("no joints with several degrees of freedom"))


def test_rejected_goals_are_counted_by_reason(arm: Trajectories) -> None:
    def count() -> int:
        return int(arm.robot.diagnostics("targets")[1].get("goal rejected: wrong joints", 0))

    before = count()
    assert not arm.send(named(*ARM[:6])).accepted
    arm.publish(named(*ARM[:5]))
    assert arm.robot.spin_until(lambda: count() == before + 2)


# --- Tolerances


def test_a_violated_path_tolerance_ends_the_trajectory_and_names_the_joint(arm: Trajectories) -> None:
    status, code, text = arm.follow(
        line(ELSEWHERE, 2.0), path_tolerance=[JointTolerance(name="fr3_joint4", position=1e-5)]
    )
    assert (status, code) == (GoalStatus.STATUS_ABORTED, Result.PATH_TOLERANCE_VIOLATED)
    assert text.startswith("left the path: fr3_joint4 by 0.0") and text.endswith("rad (tolerance 1e-05)")
    assert arm.robot.rests() and np.abs(arm.robot.q - ELSEWHERE).max() > 0.1
    assert arm.robot.state == "active"


def test_an_arm_next_to_a_trajectory_is_compared_with_the_trajectory(arm: Trajectories) -> None:
    aside = HOME + 0.09 * np.eye(7)[3]
    tolerance = [JointTolerance(name="fr3_joint4", position=0.05)]
    status, code, text = arm.follow(line(HOME, 1.0, begin=aside), path_tolerance=tolerance)
    assert (status, code) == (GoalStatus.STATUS_ABORTED, Result.PATH_TOLERANCE_VIOLATED)
    assert text.startswith("left the path: fr3_joint4 by 0.0")
    assert arm.robot.rests() and np.abs(arm.robot.q - aside).max() > 0.01, "it stops on the way"
    assert arm.follow(line(HOME, 0.5, begin=arm.robot.q)) == SUCCEEDED
    assert arm.follow(line(HOME, 1.0, begin=aside)) == SUCCEEDED
    # It was led there within a quarter of a second, and feedback comes at 20 Hz.
    first = arm.feedback[0].feedback
    since = 1e-9 * first.desired.time_from_start.nanosec
    share, _, _ = smooth_step(np.array(since))
    np.testing.assert_allclose(first.desired.positions, aside + share * (HOME - aside), atol=1e-3)
    assert 0.03 < first.error.positions[3] < 0.1


def test_a_violated_velocity_tolerance_ends_the_trajectory_too(arm: Trajectories) -> None:
    tolerance = [JointTolerance(name="fr3_joint1", velocity=1e-5)]
    status, code, text = arm.follow(line(ELSEWHERE, 2.0), path_tolerance=tolerance)
    assert (status, code) == (GoalStatus.STATUS_ABORTED, Result.PATH_TOLERANCE_VIOLATED)
    assert "fr3_joint1 by" in text and "rad/s (tolerance 1e-05)" in text


def test_zero_means_the_default_tolerance_and_minus_one_no_limit(arm: Trajectories) -> None:
    assert arm.robot.set(path_tolerance=1e-5) == ""
    try:
        zero = [JointTolerance(name=name, position=0.0) for name in ARM]
        assert arm.follow(line(ELSEWHERE, 2.0), path_tolerance=zero)[1] == Result.PATH_TOLERANCE_VIOLATED
        begin = arm.robot.q
        none = [JointTolerance(name=name, position=-1.0) for name in ARM]
        assert arm.follow(line(HOME, 1.0, begin=begin), path_tolerance=none) == SUCCEEDED
    finally:
        assert arm.robot.set(path_tolerance=0.0) == ""


def test_a_missed_goal_ends_with_its_code_and_the_joints(arm: Trajectories) -> None:
    status, code, text = arm.follow(
        line(ELSEWHERE, 1.5),
        goal_tolerance=[JointTolerance(name="fr3_joint6", position=1e-9)],
        goal_time_tolerance=duration(0.05),
    )
    assert (status, code) == (GoalStatus.STATUS_ABORTED, Result.GOAL_TOLERANCE_VIOLATED)
    assert text.startswith("missed the goal: fr3_joint6 by ") and "(tolerance 1e-09)" in text


def test_without_a_goal_time_limit_the_goal_waits_until_it_is_cancelled(arm: Trajectories) -> None:
    assert arm.robot.set(move_settle_time=0.01) == ""
    try:
        handle = arm.send(
            line(HOME + 0.1, 0.6),
            goal_tolerance=[JointTolerance(name="fr3_joint6", position=1e-9)],
            goal_time_tolerance=duration(-1.0),
        )
        result = handle.get_result_async()
        # Several feedback messages at the end of the trajectory: the goal still waits.
        assert arm.robot.spin_until(
            lambda: sum(message.feedback.desired.velocities[0] == 0.0 for message in arm.feedback) > 5
        )
        assert not result.done()
        arm.robot.cancel(handle)
        assert arm.robot.result(result).status == GoalStatus.STATUS_CANCELED
    finally:
        assert arm.robot.set(move_settle_time=1.0) == ""


# --- Ended early


@pytest.mark.parametrize(("joint", "distance", "seconds", "speed"), [(0, 2.2, 2.0, 1.3), (6, 3.0, 1.5, 2.3)])
def test_cancelling_at_speed_stops_on_the_path_within_the_limits(
    arm: Trajectories, joint: int, distance: float, seconds: float, speed: float
) -> None:
    far = HOME.copy()
    far[joint] += distance
    with Recording(arm.robot) as recording:
        handle = arm.send(line(far, seconds))  # Its peak speed is 1.875 times the average.
        assert up_to_speed(arm.robot, speed)
        assert len(arm.robot.cancel(handle).goals_canceling) == 1
        status, code, _ = arm.end_of(handle)
        cycles = recording.cycles()
    assert (status, code) == (GoalStatus.STATUS_CANCELED, Result.SUCCESSFUL)
    assert arm.robot.rests() and arm.robot.state == "active"
    moving = np.isin(cycles["motion_status"], [MotionStatus.EXECUTING, MotionStatus.STOPPING])
    reference = cycles["ref_q"][moving]
    assert highest_acceleration(cycles) < 1.1 * fr3.ACCELERATION_LIMIT[0]
    others = np.arange(7) != joint
    np.testing.assert_allclose(reference[:, others], np.tile(HOME[others], (len(reference), 1)), atol=0.02)
    assert reference[-1, joint] < far[joint] - 0.1


def test_a_new_trajectory_replaces_the_running_one_without_a_jolt(arm: Trajectories) -> None:
    with Recording(arm.robot) as recording:
        first = arm.send(line(ELSEWHERE, 1.5))
        assert up_to_speed(arm.robot)
        back = line(HOME, 1.5, count=2, fields=("positions", "velocities"))
        back.points = back.points[1:]
        assert arm.follow(back) == SUCCEEDED
        cycles = recording.cycles()
    status, code, text = arm.end_of(first)
    assert (status, code) == (GoalStatus.STATUS_ABORTED, Result.INVALID_GOAL)
    assert text == f"replaced by a new goal of {CONTROLLER}/follow_joint_trajectory"
    moving = cycles[cycles["motion_status"] == MotionStatus.EXECUTING]
    assert len(set(moving["motion_id"])) == 2
    assert highest_acceleration(cycles) < 1.1 * fr3.ACCELERATION_LIMIT[0]
    assert np.abs(arm.robot.q - HOME).max() < 0.01


def test_a_move_replaces_a_trajectory_and_the_other_way_round(arm: Trajectories) -> None:
    trajectory = arm.send(line(ELSEWHERE, 2.0))
    assert up_to_speed(arm.robot)
    move = arm.robot.send_goal(HOME)
    status, code, text = arm.end_of(trajectory)
    assert (status, code, text) == (GoalStatus.STATUS_ABORTED, Result.INVALID_GOAL, "replaced by a new goal of ~/move")
    assert arm.robot.outcome(move).status == GoalStatus.STATUS_SUCCEEDED

    move = arm.robot.send_goal(ELSEWHERE)
    assert up_to_speed(arm.robot)
    back = line(HOME, 2.0, count=2, fields=("positions", "velocities"))
    back.points = back.points[1:]
    assert arm.follow(back) == SUCCEEDED
    outcome = arm.robot.outcome(move)
    assert outcome.status == GoalStatus.STATUS_ABORTED
    assert outcome.result.error_message == f"replaced by a new goal of {CONTROLLER}/follow_joint_trajectory"


def test_targets_are_refused_during_a_trajectory(arm: Trajectories, log: Log) -> None:
    handle = arm.send(line(ELSEWHERE, 1.5))
    assert up_to_speed(arm.robot)
    arm.robot.publish("ee_desired", arm.robot.pose)
    assert arm.robot.spin_until(lambda: log("fr3_arm_controller/follow_joint_trajectory controls the arm"))
    assert arm.end_of(handle) == SUCCEEDED


def test_an_inactive_arm_rejects_trajectories_and_deactivating_aborts_them(arm: Trajectories, log: Log) -> None:
    handle = arm.send(line(ELSEWHERE, 2.0))
    assert up_to_speed(arm.robot)
    assert arm.robot.change("deactivate")
    status, code, text = arm.end_of(handle)
    assert (status, code) == (GoalStatus.STATUS_ABORTED, Result.INVALID_GOAL)
    assert "not active" in text
    assert not arm.send(line(ELSEWHERE, 2.0)).accepted
    assert arm.robot.spin_until(lambda: log("rejected a goal of follow_joint_trajectory: the node is not active"))
    arm.publish(line(ELSEWHERE, 2.0))
    assert arm.robot.spin_until(lambda: log("rejected a trajectory: the node is not active"))
    assert arm.robot.change("activate")


# --- The topic


def test_a_trajectory_on_the_topic_is_followed_and_replaces_a_running_one(arm: Trajectories) -> None:
    handle = arm.send(line(ELSEWHERE, 2.0))
    assert up_to_speed(arm.robot)
    goal = HOME - 0.1
    message = line(goal, 1.5, count=2, fields=("positions",))
    message.points = message.points[1:]
    arm.publish(message)
    assert arm.end_of(handle)[2] == f"replaced by a new goal of {CONTROLLER}/joint_trajectory"
    assert arm.robot.spin_until(lambda: np.abs(arm.robot.q - goal).max() < 0.01)
    assert arm.robot.rests()


def test_streamed_trajectories_replace_each_other_without_log_messages(arm: Trajectories, log: Log) -> None:
    with Recording(arm.robot) as recording:
        for share in np.linspace(0.1, 1.0, 10):
            message = line(HOME + share * 0.2, 0.3, count=2, fields=("positions",))
            message.points = message.points[1:]
            arm.publish(message)
            arm.robot.spin_for(0.1)
        assert arm.robot.spin_until(lambda: np.abs(arm.robot.q - HOME - 0.2).max() < 0.01)
        cycles = recording.cycles()
    assert not log("rejected") and not log("a trajectory failed")
    moving = cycles[cycles["motion_status"] == MotionStatus.EXECUTING]
    assert len(set(moving["motion_id"])) >= 5  # A busy node uses only the newest.
    assert highest_acceleration(cycles) < 1.1 * fr3.ACCELERATION_LIMIT[0]


def test_a_trajectory_on_the_topic_begins_where_the_arm_is(arm: Trajectories, log: Log) -> None:
    arm.publish(line(HOME, 2.0, begin=HOME + 0.3))
    assert arm.robot.spin_until(lambda: log("rejected a trajectory: fr3_joint"))
    assert arm.robot.rests() and np.abs(arm.robot.q - HOME).max() < 0.02


def test_a_bad_message_on_the_topic_is_logged(arm: Trajectories, log: Log) -> None:
    arm.publish(JointTrajectory(joint_names=ARM))
    assert arm.robot.spin_until(lambda: log("rejected a trajectory: it has no points"))
