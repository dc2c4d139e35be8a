"""Moves without an arm: when a plan is used as it is, and when it is made again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import numpy as np
import pytest

from aiofranka_ros.arm.joint_trajectory import JointTrajectory
from aiofranka_ros.arm.moves import Mover
from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.arm.tasks import Departure, Goal, ParameterReader, Task, Tolerance, TrajectoryGoal
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.control.records import STATE, Mode, MotionStatus, new
from aiofranka_ros.errors import GoalMissed, InvalidTarget, MoveFailed, PathViolated
from aiofranka_ros.kernels import Record
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.model.kinematics import pose_matrix

pytestmark = pytest.mark.unit

ELSEWHERE = HOME + 0.1
ANYWHERE: Any = {"goal_tolerance": Tolerance.of_position(np.inf), "settle_time": 1.0}


class FakeClient:
    """A control process whose arm is at once where a motion ends."""

    def __init__(self) -> None:
        self.flange_to_tcp = np.eye(4)
        self.now = new(STATE)[0]
        self.now["q"] = self.now["ref_q"] = HOME
        self.now["mode"] = Mode.IMPEDANCE
        self.started: list[Motion] = []
        self.overshoot = np.zeros(7)

    def state(self) -> Record:
        return self.now

    def start_motion(self, motion: Motion, *, start: float) -> int:
        self.started.append(motion)
        self.now["motion_id"] = len(self.started)
        self.now["motion_status"] = MotionStatus.DONE
        self.now["motion_time"] = motion.duration
        self.now["ref_q"] = motion.goal
        self.now["q"] = motion.goal + self.overshoot
        return len(self.started)

    def release_motion(self, number: int) -> None:
        self.now["motion_status"] = MotionStatus.NONE


class FakeOwner:
    """The owner of the fake arm."""

    def __init__(self) -> None:
        self.client = FakeClient()
        self.settings = ArmSettings()
        self.active = True
        self.why_inactive = self.why_held = ""

    @property
    def active_client(self) -> Any:
        return self.client if self.active else None

    def parameter(self, name: str) -> Any:
        return self.settings[name]

    def next_tick(self) -> Awaitable[None]:
        return asyncio.sleep(0.0)

    def aside(self, function: Any, *arguments: Any) -> Any:
        return function(*arguments)


class Counting(Goal):
    """A goal that counts how often it is planned."""

    count = 0

    def plan(self, departure: Departure, parameter: ParameterReader) -> Motion:
        type(self).count += 1
        return super().plan(departure, parameter)


@pytest.fixture
def owner() -> FakeOwner:
    return FakeOwner()


@pytest.fixture
def goal() -> Counting:
    Counting.count = 0
    return Counting(q=ELSEWHERE, velocity=np.ones(7), **ANYWHERE)


def pursue(owner: FakeOwner, task: Task, between: Any = lambda: None) -> None:
    """Plan ``task``, call ``between``, and pursue the plan to its end."""
    mover = Mover(owner)
    plan = mover.plan(task)
    between()
    asyncio.run(mover.move(task, planned=plan))


def test_a_goal_is_planned_once(owner: FakeOwner, goal: Counting) -> None:
    pursue(owner, goal)
    assert goal.count == 1 and len(owner.client.started) == 1


def test_noise_of_the_measured_position_does_not_make_a_plan_useless(owner: FakeOwner, goal: Counting) -> None:
    owner.client.now["mode"] = Mode.OSC  # It departs from the measured position.

    def jitter() -> None:
        owner.client.now["q"] += 2e-5
        owner.client.now["dq"] += 1e-3

    pursue(owner, goal, jitter)
    assert goal.count == 1


@pytest.mark.parametrize(("field", "change"), [("ref_q", 1e-3), ("ref_dq", 0.02), ("ref_ddq", 0.5)])
def test_a_goal_is_planned_again_if_the_arm_has_moved(
    owner: FakeOwner, goal: Counting, field: str, change: float
) -> None:
    def push() -> None:
        owner.client.now[field][2] += change

    pursue(owner, goal, push)
    assert goal.count == 2
    q, dq, _ = owner.client.started[0].at(0.0)
    np.testing.assert_allclose(q, HOME + (np.arange(7) == 2) * (change if field == "ref_q" else 0.0), atol=1e-9)
    np.testing.assert_allclose(dq, (np.arange(7) == 2) * (change if field == "ref_dq" else 0.0), atol=1e-9)


@pytest.mark.parametrize(
    "changes",
    [{"move_acceleration": [4.0] * 7}, {"workspace_lower": [-1.5] * 3}, {"joint_upper": [*(HOME + 0.5)]}],
    ids=str,
)
def test_a_goal_is_planned_again_if_a_limit_has_changed(
    owner: FakeOwner, goal: Counting, changes: dict[str, list[float]]
) -> None:
    pursue(owner, goal, lambda: owner.settings.update(changes))
    assert goal.count == 2


def test_a_plan_that_violates_a_new_limit_is_not_executed(owner: FakeOwner, goal: Counting) -> None:
    limit = {"joint_upper": [*(HOME[:6] + 1.0), HOME[6] + 0.05]}
    with pytest.raises(MoveFailed, match="beyond joint_upper"):
        pursue(owner, goal, lambda: owner.settings.update(limit))
    assert owner.client.started == []


def test_a_goal_is_planned_again_if_the_control_frame_has_changed(owner: FakeOwner, goal: Counting) -> None:
    def change_tool() -> None:
        owner.client.flange_to_tcp = pose_matrix(np.array([0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 1.0]))

    pursue(owner, goal, change_tool)
    assert goal.count == 2


def test_a_goal_that_replaces_a_motion_is_planned_from_where_that_one_will_be(owner: FakeOwner, goal: Counting) -> None:
    client = owner.client

    async def replace() -> None:
        mover = Mover(owner)
        first = asyncio.ensure_future(mover.move(Goal(q=HOME - 0.1, velocity=np.ones(7), **ANYWHERE)))
        await asyncio.sleep(0.0)
        client.now["motion_status"] = MotionStatus.EXECUTING  # It is under way.
        plan = mover.plan(goal)
        client.now["motion_time"] = 0.2
        second = asyncio.ensure_future(mover.move(goal, planned=plan))
        with pytest.raises(MoveFailed, match="replaced by a new goal"):
            await first
        await second

    asyncio.run(replace())
    assert goal.count == 2
    np.testing.assert_allclose(client.started[1].at(0.0)[0], client.started[0].at(0.22)[0], atol=1e-9)


def test_a_trajectory_with_a_stamp_is_planned_for_the_time_at_which_it_begins(owner: FakeOwner) -> None:
    times = iter([0.1, 0.3])
    trajectory = JointTrajectory(np.array([1.0]), ELSEWHERE[np.newaxis])
    task = TrajectoryGoal(trajectory=trajectory, elapsed=lambda: next(times), **ANYWHERE)
    pursue(owner, task)
    assert task.begin == 0.3 and owner.client.started[0].duration == pytest.approx(0.7)


def test_a_trajectory_that_should_have_ended_before_it_begins_is_not_executed(owner: FakeOwner) -> None:
    times = iter([0.1, 1.5])
    trajectory = JointTrajectory(np.array([1.0]), ELSEWHERE[np.newaxis])
    with pytest.raises(MoveFailed, match="by its header.stamp it ended 0.500 s ago") as failure:
        pursue(owner, TrajectoryGoal(trajectory=trajectory, elapsed=lambda: next(times), **ANYWHERE))
    assert isinstance(failure.value.__cause__, InvalidTarget)
    assert owner.client.started == []


@pytest.mark.parametrize("what", ["inactive", "held"])
def test_what_is_refused_when_it_is_planned_is_refused_when_it_begins(
    owner: FakeOwner, goal: Counting, what: str
) -> None:
    def forbid() -> None:
        owner.active, owner.why_held = what != "inactive", "held" if what == "held" else ""

    with pytest.raises(MoveFailed, match="the arm is not active" if what == "inactive" else "held"):
        pursue(owner, goal, forbid)
    assert owner.client.started == []
    with pytest.raises(InvalidTarget, match="the node is not active" if what == "inactive" else "held"):
        Mover(owner).plan(goal)


@pytest.mark.parametrize("what", ["inactive", "held"])
def test_what_is_refused_while_it_is_planned_does_not_begin(
    owner: FakeOwner, goal: Counting, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(function: Any, *arguments: Any) -> Any:
        owner.active, owner.why_held = what != "inactive", "held" if what == "held" else ""
        return function(*arguments)

    monkeypatch.setattr(owner, "aside", forbid)
    with pytest.raises(MoveFailed, match="the arm is not active" if what == "inactive" else "held"):
        asyncio.run(Mover(owner).move(goal))
    assert owner.client.started == []


def test_a_goal_that_is_missed_names_the_joints_with_their_tolerances(owner: FakeOwner) -> None:
    task = Goal(q=ELSEWHERE, velocity=np.ones(7), goal_tolerance=Tolerance.of_position(0.01), settle_time=0.0)
    owner.client.overshoot[3] = 0.02
    with pytest.raises(GoalMissed, match=r"^missed the goal: fr3_joint4 by 0.0200 rad \(tolerance 0.01\)$"):
        pursue(owner, task)


class MovingClient(FakeClient):
    """A control process whose arm has just begun a motion."""

    def start_motion(self, motion: Motion, *, start: float) -> int:
        number = super().start_motion(motion, start=start)
        self.now["motion_time"], self.now["motion_status"] = 0.0, MotionStatus.EXECUTING
        self.now["q"], self.now["dq"], self.now["ref_ddq"] = motion.at(0.0)
        return number

    def stop_motion(self, number: int) -> None:
        self.now["motion_status"] = MotionStatus.STOPPED


@pytest.mark.parametrize(
    ("field", "text"), [("position", "0.0900 rad"), ("velocity", "rad/s"), ("acceleration", "rad/s.2")]
)
def test_a_path_is_violated_if_the_arm_is_not_on_the_trajectory_that_was_given(
    owner: FakeOwner, field: str, text: str
) -> None:
    owner.client = MovingClient()
    # The arm follows the motion exactly, but this one only leads onto the trajectory, which moves already.
    times = np.array([0.0, 2.0])
    trajectory = JointTrajectory(times, np.array([HOME - 0.09, HOME]), np.array([np.full(7, 0.1), np.zeros(7)]))
    tolerance = Tolerance.of_position(np.inf)
    getattr(tolerance, field)[3] = 0.05
    task = TrajectoryGoal(trajectory=trajectory, path_tolerance=tolerance, **ANYWHERE)
    with pytest.raises(PathViolated, match=rf"^left the path: fr3_joint4 by .*{text} \(tolerance 0.05\)$"):
        pursue(owner, task)
