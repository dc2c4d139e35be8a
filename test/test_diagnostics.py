"""The node's /diagnostics: the right level, and what to do if something is wrong."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from common import ROOT, lose_packets
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import JointState

from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.records import Approach, Hold, Limit, Phase
from aiofranka_ros.errors import ControlStopped
from aiofranka_ros.node.diagnostics import Diagnosis, Progress, Trouble
from aiofranka_ros.ros.conditions import CONDITIONS, CTL, LIMITS, OTHER_REFUSALS, Recent, limit_remedy, refusal_remedy
from aiofranka_ros.testing import Client, NodeProcess, descendant

OK, WARN, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE
#: An address that is not the simulated arm's.
REAL = "172.16.0.2"


def becomes(robot: Client, status: str, level: bytes, remedy: str = "") -> bool:
    """Whether a status reaches ``level``, with ``remedy`` in what to do."""

    def reached() -> bool:
        found, values = robot.diagnostics(status)
        return bool(found == level and remedy in values.get("what to do", ""))

    return robot.spin_until(reached)


# --- A running node


def test_without_a_problem_there_is_nothing_to_do(robot: Client) -> None:
    for status in ("control loop", "targets", "robot"):
        assert becomes(robot, status, OK)
        assert "what to do" not in robot.diagnostics(status)[1]


def test_a_refused_target_is_a_warning_for_some_seconds_with_the_reason_and_what_to_do(robot: Client) -> None:
    pose = robot.pose
    pose.header.frame_id = "camera"
    robot.publish("ee_desired", pose)
    assert becomes(robot, "targets", WARN, "fr3_link0")
    assert int(robot.diagnostics("targets")[1]["refused: unknown frame"]) > 0
    assert becomes(robot, "targets", OK)


def test_a_target_that_jumps_is_a_warning(robot: Client) -> None:
    pose = robot.pose
    pose.header.stamp.sec = pose.header.stamp.nanosec = 0
    pose.pose.position.z += 0.3
    robot.publish("ee_desired", pose)
    assert becomes(robot, "targets", WARN, "max_linear_step")


def test_a_rejected_goal_is_a_warning(robot: Client) -> None:
    assert becomes(robot, "targets", OK)
    assert not robot.send_goal(np.full(7, np.nan)).accepted
    assert becomes(robot, "targets", WARN, "NaN or infinity")


def test_an_arm_that_holds_without_torque_targets_is_a_warning(robot: Client) -> None:
    assert robot.set(mode="torque") == ""
    robot.publish("torque_desired", JointState(effort=[0.0] * 7))
    assert becomes(robot, "control loop", WARN, "mode osc")
    assert robot.set(mode="osc") == ""
    assert becomes(robot, "control loop", OK)


def test_without_data_from_the_robot_the_control_loop_is_stale(
    running: tuple[NodeProcess, Client], robot: Client
) -> None:
    assert becomes(robot, "control loop", OK)
    simulator = descendant(running[0].process.pid, "aiofranka_ros.simulation")
    os.kill(simulator, signal.SIGSTOP)
    try:
        assert becomes(robot, "control loop", STALE, "check robot and cable")
    finally:
        os.kill(simulator, signal.SIGCONT)
    # If libfranka has to wait for more than a second, it disconnects from the robot.
    robot.spin_for(1.0)
    assert robot.state == "active" or robot.change("activate")
    assert becomes(robot, "control loop", OK)


def test_a_reflex_is_an_error_with_what_to_do_about_its_cause(robot: Client) -> None:
    lose_packets(int(robot.diagnostics("control loop")[1]["control process"]))
    assert robot.becomes("inactive")
    # First what to do about this error, then how to continue.
    assert becomes(robot, "robot", ERROR, "doctor --robot-ip")
    level, values = robot.diagnostics("robot")
    assert values["libfranka errors"] == "communication_constraints_violation"
    assert f" activate --node {robot.name}" in values["what to do"]
    assert robot.change("activate")
    assert becomes(robot, "robot", OK) and becomes(robot, "control loop", OK)


# --- States that a simulated arm cannot reach: a real control process, with states made up for the test


@pytest.fixture(scope="module")
def client() -> Iterator[ControlClient]:
    """A control process without real-time scheduling: no system has that priority."""
    with ControlClient(priority=100) as client:
        yield client


@pytest.fixture
def state(client: ControlClient) -> Any:
    """A state as it would be while the control process drives a robot."""
    state = client.state().copy()
    state["phase"], state["robot_mode"] = Phase.ACTIVE, 2
    return state


def said(status: DiagnosticStatus) -> tuple[bytes, str, str]:
    """Level, message and what to do."""
    return status.level, status.message, {value.key: value.value for value in status.values}.get("what to do", "")


def test_driving_a_real_robot_without_real_time_scheduling_is_a_warning(client: ControlClient, state: Any) -> None:
    level, message, remedy = said(Diagnosis("/arm").loop(client, state, REAL))
    assert level == WARN and "no real-time scheduling (SCHED_FIFO)" in message
    assert remedy == f"python3 -m aiofranka_ros.doctor --robot-ip {REAL}"
    assert said(Diagnosis("/arm").loop(client, state, "127.0.0.1"))[0] == OK


def test_lost_cycles_are_a_warning(client: ControlClient, state: Any) -> None:
    diagnosis = Diagnosis("/arm")
    assert said(diagnosis.loop(client, state, "127.0.0.1"))[0] == OK
    state["cycles_lost"] += 3
    level, message, remedy = said(diagnosis.loop(client, state, "127.0.0.1"))
    assert (level, message) == (WARN, "robot cycles lost recently: 3")
    assert "doctor" in remedy


def topics(**values: Any) -> Any:
    """The topics of targets, as far as the diagnosis reads them."""
    owners = SimpleNamespace(present=False, waiting="")
    defaults = {"refused": Counter(), "limited": Counter(), "accepted": 1, "blocked": "", "without_priority": False}
    return SimpleNamespace(**(defaults | {"owners": owners} | values))


def test_who_drives_and_who_waits_is_said_with_how_long(state: Any) -> None:
    owners = SimpleNamespace(present=True, in_control=3.21, waiting="/policy on /arm/ee_desired for 3.2 s")
    status = Diagnosis("/arm").targets(state, True, owner="/teleop", targets=topics(owners=owners), rejected=Counter())
    values = {pair.key: pair.value for pair in status.values}
    assert (values["owner"], values["in control for [s]"], values["waiting"]) == ("/teleop", "3.2", owners.waiting)


def test_priority_clients_that_can_have_no_priority_are_a_warning(state: Any) -> None:
    targets = topics(without_priority=True)
    level, message, remedy = said(Diagnosis("/arm").targets(state, True, owner="", targets=targets, rejected=Counter()))
    assert level == WARN and "priority_clients has no effect" in message and "Kilted" in remedy


def test_a_hand_that_joint_limits_keep_from_its_target_is_a_warning_until_that_is_over(state: Any) -> None:
    targets = topics(blocked="the hand is far")
    status = Diagnosis("/arm").targets(state, True, owner="", targets=targets, rejected=Counter())
    assert said(status)[:2] == (WARN, "the hand is far") and "~/move" in said(status)[2]
    targets.blocked = ""
    assert said(Diagnosis("/arm").targets(state, True, owner="", targets=targets, rejected=Counter()))[0] == OK


def test_a_joint_limit_is_named_first_while_the_arm_approaches_its_stream_and_nothing_is_left_out(state: Any) -> None:
    """The limit is why the arm does not get nearer."""
    counts = {"refused": Counter(), "limited": Counter()}
    targets = topics(**counts, blocked="fr3_joint6 is at joint_lower")
    state["approach"], state["approach_left"] = Approach.APPROACHING, [0.08, 0.0]
    diagnosis, rejected = Diagnosis("/arm"), Counter[str]()
    counts["refused"]["old"] += 1
    rejected["held"] += 1
    counts["limited"]["max_linear_step"] += 1
    options = {"owner": "", "targets": targets, "rejected": rejected}
    level, message, remedy = said(diagnosis.targets(state, True, **options))
    assert level == WARN
    assert message.split("; ") == [
        "fr3_joint6 is at joint_lower",
        "approaching its stream: 0.08 m away",
        "targets refused recently: old",
        "goals rejected recently: held",
        "targets limited recently: max_linear_step",
    ]
    for part in ("~/move", "wait", "clocks", "release", "max_linear_step"):
        assert part in remedy
    level, message, _ = said(diagnosis.targets(state, True, conflict="another node", **options))
    assert level == ERROR and message.startswith("goals are refused: another node; fr3_joint6")


def test_everything_that_is_wrong_with_the_loop_is_named_causes_first(client: ControlClient, state: Any) -> None:
    diagnosis = Diagnosis("/arm")
    diagnosis.loop(client, state, REAL)
    state["hold"] = Hold.PUSHED | Hold.TORQUE_STALE
    state["cycles_lost"] += 3
    level, message, _ = said(diagnosis.loop(client, state, REAL))
    held, stale, *missing, lost = message.split("; ")
    assert level == WARN and (held, stale) == ("the arm holds: pushed", "the arm holds: torque stale")
    assert missing and missing[0].startswith("not in real time") and lost == "robot cycles lost recently: 3"


def test_the_user_stop_is_named_next_to_the_error_that_it_caused(state: Any) -> None:
    state["robot_mode"] = 5
    trouble = Trouble("the robot stopped", "remove the cause", "ControlStopped")
    level, message, remedy = said(Diagnosis("/arm").robot(state, address=REAL, versions={}, trouble=trouble))
    assert (level, message) == (ERROR, "the robot stopped; the user stop is pressed")
    assert remedy.startswith("remove the cause; release it")


@pytest.mark.parametrize("hold", [Hold.NODE_SILENT, Hold.NOT_FINITE, Hold.TORQUE_STALE])
def test_an_arm_that_holds_is_a_warning(client: ControlClient, state: Any, hold: Hold) -> None:
    state["hold"] = hold
    level, message, remedy = said(Diagnosis("/arm").loop(client, state, "127.0.0.1"))
    assert level == WARN and message.startswith("the arm holds: ") and remedy


@pytest.mark.parametrize(
    ("mode", "level", "remedy"),
    [
        (1, OK, ""),
        (3, OK, ""),
        (4, ERROR, f"remove the cause, then: {CTL} activate --node /arm"),
        (5, WARN, f"release it, then: {CTL} activate --node /arm"),
    ],
)
def test_the_mode_of_the_robot_can_be_a_warning_or_an_error(state: Any, mode: int, level: bytes, remedy: str) -> None:
    state["robot_mode"] = mode
    status = Diagnosis("/arm").robot(state, address=REAL, versions={}, trouble=None)
    assert (said(status)[0], said(status)[2]) == (level, remedy)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("communication_constraints_violation", f"doctor --robot-ip {REAL}"),
        ("cartesian_reflex", "remove obstacles"),
        ("joint_velocity_violation", "slower targets"),
        ("controller_torque_discontinuity", "lower the gains"),
        ("instability_detected", "remove the cause"),
    ],
)
def test_what_to_do_depends_on_what_stopped_the_robot(name: str, remedy: str) -> None:
    trouble = Trouble.of(ControlStopped("the robot stopped", errors=(name,)), f"{CTL} activate --node /arm", REAL)
    assert remedy in trouble.remedy
    assert trouble.remedy.endswith(f", then: {CTL} activate --node /arm")


def test_for_an_unknown_reason_the_remedy_points_to_the_log() -> None:
    assert refusal_remedy(["a new one"], "/arm") == OTHER_REFUSALS
    assert refusal_remedy(["a new one", "not active"], "/arm") == f"{OTHER_REFUSALS}; {CTL} activate --node /arm"


def test_every_limit_of_a_target_is_a_setting_and_says_what_to_do() -> None:
    assert list(LIMITS) == [limit.name.lower() for limit in Limit]
    assert set(LIMITS) <= {setting.name for setting in SETTINGS}
    assert "raise" not in limit_remedy(["workspace_lower", "workspace_upper"])


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_is_a_problem_and_says_what_to_do(name: str) -> None:
    assert CONDITIONS[name].level != OK
    assert CONDITIONS[name].message and CONDITIONS[name].remedy


def clock(*times: float) -> Callable[[], float]:
    return iter(times).__next__


def test_an_event_is_recent_for_some_seconds() -> None:
    recent = Recent(clock(0.0, 1.0, 2.0, 4.0, 5.0))
    counts: Counter[str] = Counter()
    assert recent.update(counts) == {}
    counts["jump"] += 1
    assert [recent.update(counts) for _ in range(3)] == [{"jump": 1}, {"jump": 1}, {}]


def test_counting_starts_again_when_counts_shrink() -> None:
    recent = Recent(clock(0.0, 1.0, 2.0))
    assert recent.update(Counter(lost=5)) == {"lost": 5}
    assert recent.update(Counter(lost=2)) == {"lost": 2}


def test_an_approach_that_gets_no_nearer_for_some_seconds_is_stalled() -> None:
    far, nearer = np.array([0.3, 1.0]), np.array([0.3, 0.9])
    progress = Progress(clock(0.0, 2.9, 5.0, 5.9, 6.0, 6.1))
    said = [progress.stalled(number, left) for number, left in [(1, far), (1, nearer), (1, far), (1, nearer), (1, far)]]
    assert said == [False, False, False, True, True]
    assert not progress.stalled(2, far), "another approach"


def test_the_layout_for_foxglove_shows_only_values_that_exist(robot: Client) -> None:
    layout = (ROOT / "config" / "foxglove_layout.json").read_text()
    shown = re.findall(r'name==\\"aiofranka: ([^"\\]*)\\"}\.values\[:\]{key==\\"([^"\\]*)\\"', layout)
    assert {"control loop", "targets", "robot"} == {status for status, _ in shown}
    for status, key in shown:
        # Statistics of the loop exist once it has run for a period.
        assert robot.spin_until(lambda status=status, key=key: key in robot.diagnostics(status)[1]), key
