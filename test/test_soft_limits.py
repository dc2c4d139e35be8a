"""Soft limits move no arm at rest when a law begins, and no law can push an arm beyond a limit.

The compiled control cycle drives the arm's own dynamics, as in :mod:`test_velocity_limits`.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_velocity_limits import Arm

from aiofranka_ros.arm.planning import plan
from aiofranka_ros.control.law import report as cycle_report
from aiofranka_ros.control.records import STATE, Law, Mode, MotionStatus, new
from aiofranka_ros.control.shared_memory import fill_path
from aiofranka_ros.model import fr3
from aiofranka_ros.model.kinematics import control_frame

pytestmark = pytest.mark.unit

READY = fr3.READY.copy()
#: Joints and the side of their limit: 1: upper, -1: lower.
LIMITS = [(3, -1), (5, -1), (6, 1), (0, 1), (1, -1)]
#: An arm within 12 mrad of a limit is led inwards at 0.01 rad/s; joint 7 is so light that it overshoots a little
#: [rad/s]. Its hand then moves by at most 12 mrad times its distance from the joint of half a metre [m].
SLOW, LED = 0.03, 0.007


def near(joint: int, side: int, distance: float) -> np.ndarray:
    """READY with a joint at a distance from its limit [rad]; negative: beyond it."""
    q = READY.copy()
    q[joint] = (fr3.POSITION_UPPER if side > 0 else fr3.POSITION_LOWER)[joint] - side * distance
    return q


def inside(arm: Arm, joint: int, side: int) -> float:
    """How far inside its limit a joint is [rad]."""
    limit = (fr3.POSITION_UPPER if side > 0 else fr3.POSITION_LOWER)[joint]
    return float(side * (limit - arm.measured["q"][0, joint]))


def watched(arm: Arm, cycles: int) -> tuple[float, float]:
    """The largest joint velocity [rad/s] and distance of the hand from where it is now [m] in the next cycles."""
    arm.run(1)
    start, fastest, furthest = arm.memory["position"][0].copy(), 0.0, 0.0
    for _ in range(cycles // 10):
        arm.run(10)
        fastest = max(fastest, float(np.abs(arm.measured["dq"][0]).max()))
        furthest = max(furthest, float(np.linalg.norm(arm.memory["position"][0] - start)))
    return fastest, furthest


def check_rest(arm: Arm, distance: float) -> None:
    fastest, furthest = watched(arm, 1000)
    if distance >= 0.012:
        assert fastest < 1e-3 and furthest < 1e-4
    else:
        assert fastest < SLOW and furthest < LED


@pytest.mark.parametrize(("joint", "side"), LIMITS)
@pytest.mark.parametrize("mode", [Mode.OSC, Mode.IMPEDANCE, Mode.TORQUE])
@pytest.mark.parametrize("distance", [0.05, 0.022, 0.0])
def test_an_arm_at_rest_near_a_limit_stays_at_rest_when_a_law_begins(joint, side, mode, distance):
    arm = Arm(q=near(joint, side, distance))
    arm.commands["mode"] = mode
    check_rest(arm, distance)


@pytest.mark.parametrize(("joint", "side"), LIMITS[:3])
@pytest.mark.parametrize("mode", [Mode.OSC, Mode.IMPEDANCE, Mode.TORQUE])
def test_an_arm_stays_where_a_motion_near_a_limit_ends(joint, side, mode):
    arm = Arm(q=near(joint, side, 0.2))
    arm.commands["mode"] = mode
    arm.run(10)
    goal = near(joint, side, 0.022)
    motion = plan(
        arm.measured["q"][0].copy(), goal, max_acceleration=np.full(7, 5.0), max_jerk=np.full(7, 100.0)
    )  # fmt: skip
    fill_path(arm._motion, 1, 0.0, motion.times, motion.coefficients)
    arm.commands["motion_id"] = 1
    arm.run(int(1e3 * motion.duration) + 1000)
    assert arm.memory["motion_status"][0] == MotionStatus.DONE
    arm.commands["motion_release"] = 1
    check_rest(arm, 0.022)
    assert arm.memory["law"][0] == (Law.HOLD if mode is Mode.TORQUE else mode)
    arm.switch(Mode.IMPEDANCE if mode is Mode.OSC else Mode.OSC)
    check_rest(arm, 0.022)


@pytest.mark.parametrize(("joint", "side"), LIMITS)
@pytest.mark.parametrize("distance", [0.3, 0.03])
@pytest.mark.parametrize("mode", [Mode.OSC, Mode.IMPEDANCE, Mode.TORQUE])
def test_an_arm_that_a_target_pushes_against_a_limit_rests_inside_and_never_passes_it(joint, side, distance, mode):
    arm = Arm(q=near(joint, side, distance))
    arm.commands["mode"], arm.commands["torque_timeout"] = mode, 10.0
    arm.run(1)
    torque, goal = np.zeros(7), near(joint, side, -0.15)
    torque[joint] = side * fr3.TORQUE_LIMIT[joint]
    pose = control_frame(goal)
    turn = Rotation.from_matrix(pose[:3, :3]).as_quat()
    least = np.inf
    for _ in range(150):
        arm.target(target_position=pose[:3, 3], target_orientation=turn, target_q=goal, target_torque=torque)
        assert arm.run(10) < 1.0
        least = min(least, inside(arm, joint, side))
    assert least > 0.0015  # Springs push with the largest torque 2 mrad inside.
    if mode is Mode.TORQUE:
        assert inside(arm, joint, side) < 0.01, "it was not pushed against its limit"


@pytest.mark.parametrize(("payload", "delay"), [(3.0, 0), (0.0, 2), (3.0, 2)])
@pytest.mark.parametrize(("joint", "side"), LIMITS[:3])
def test_springs_do_not_oscillate_where_they_are_stiffest(joint, side, payload, delay):
    arm = Arm(q=near(joint, side, 0.005), payload=payload, delay=delay)
    arm.commands["mode"], arm.commands["torque_timeout"] = Mode.TORQUE, 10.0
    arm.run(1)
    torque = np.zeros(7)
    torque[joint] = side * fr3.TORQUE_LIMIT[joint]
    arm.target(target_torque=torque)
    arm.run(500)
    fastest = 0.0
    for _ in range(30):
        arm.run(10)
        fastest = max(fastest, abs(float(arm.measured["dq"][0, joint])))
    assert fastest < 0.02 and inside(arm, joint, side) > 0.0


@pytest.mark.parametrize("mode", [Mode.TORQUE, Mode.OSC])
def test_a_joint_of_a_soft_arm_rests_inside_a_limit_that_was_set(mode):
    upper = fr3.POSITION_UPPER.copy()
    upper[6] = 1.2
    arm = Arm(q=READY)
    arm.commands["joint_upper"], arm.commands["mode"], arm.commands["torque_timeout"] = upper, mode, 10.0
    arm.run(1)
    goal = READY.copy()
    goal[6] = 1.5
    turn = Rotation.from_matrix(control_frame(goal)[:3, :3]).as_quat()
    arm.target(
        target_position=arm.memory["position"][0].copy(), target_orientation=turn, target_torque=[0] * 6 + [12.0]
    )
    for _ in range(150):
        arm.run(10)
        assert arm.measured["q"][0, 6] < 1.2


@pytest.mark.parametrize("mode", [Mode.OSC, Mode.IMPEDANCE])
def test_an_arm_beyond_a_limit_that_was_set_stays_where_it_is_although_its_measured_positions_are_noisy(mode):
    rng = np.random.default_rng(0)
    upper = fr3.POSITION_UPPER.copy()
    upper[6] = 0.5
    arm = Arm(q=READY)
    arm.commands["joint_upper"], arm.commands["mode"] = upper, mode
    for _ in range(3000):
        arm._data.qpos[6] += (noise := rng.normal(0.0, 1e-4))
        arm.run(1)
        arm._data.qpos[6] -= noise
    assert arm._data.qpos[6] == pytest.approx(READY[6], abs=2e-3)


@pytest.mark.parametrize("change", ["gains", "mode"])
def test_the_torque_continues_when_a_law_begins_while_springs_push(change):
    arm = Arm(q=near(6, 1, 0.3))
    arm.commands["torque_timeout"] = 10.0
    arm.run(1)
    goal = near(6, 1, -0.15)
    turn = Rotation.from_matrix(control_frame(goal)[:3, :3]).as_quat()
    for _ in range(100):
        arm.target(target_position=control_frame(goal)[:3, 3], target_orientation=turn)
        arm.run(10)
    assert arm._scratch["wall"][0, 6] < -1.5, "the springs do not push"
    before = arm.memory["tau"][0].copy()
    arm.held = True
    if change == "gains":
        arm.commands["law_id"] += 1
    else:
        arm.switch(Mode.IMPEDANCE)
    arm.run(1)
    np.testing.assert_allclose(arm.memory["tau"][0], before, atol=0.05)


def test_a_new_control_frame_that_is_outside_of_the_workspace_is_not_pushed():
    arm = Arm(q=READY)
    arm.commands["workspace_lower"][0, 2] = control_frame(READY)[2, 3] - 0.05
    arm.run(10)
    frame = np.eye(4)
    frame[2, 3] = 0.2  # Down to 0.15 m below the workspace.
    arm.commands["flange_to_tcp"], arm.commands["law_id"] = frame, arm.commands["law_id"] + 1
    fastest, furthest = watched(arm, 1000)
    assert fastest < 1e-3 and furthest < 1e-4


def at_the_limit_of_joint_6() -> tuple[Arm, np.ndarray, np.ndarray]:
    """An arm whose hand should turn beyond its reach; the target's position and orientation."""
    arm = Arm(q=near(5, -1, 0.2))
    arm.run(1)
    pose = control_frame(near(5, -1, -0.4))
    return arm, pose[:3, 3], Rotation.from_matrix(pose[:3, :3]).as_quat()


def blocked(arm: Arm) -> tuple[int, float, float]:
    """What the report of a cycle says: the joint limits as bits, and how far the hand is from its target [m, rad]."""
    state = new(STATE)
    cycle_report.report(arm.commands, arm.measured, arm.memory, state, 0, 0.0, 1.0)
    return int(state["blocked"][0]), float(state["behind_linear"][0]), float(state["behind_angular"][0])


def test_a_hand_that_a_joint_limit_keeps_from_its_target_is_reported_with_the_joint_until_it_can_move_again():
    arm, position, turn = at_the_limit_of_joint_6()
    reports = []
    for _ in range(3000):
        arm.target(target_position=position, target_orientation=turn)
        arm.run(1)
        reports.append(blocked(arm))
    bits, linear, angular = reports[-1]
    assert bits == 1 << 5 and (linear > 0.02 or angular > 0.1)
    assert not any(report[0] for report in reports[:500]), "it may still be on its way"
    pose = control_frame(near(5, -1, 0.2))
    back = Rotation.from_matrix(pose[:3, :3]).as_quat()
    for _ in range(2000):
        arm.target(target_position=pose[:3, 3], target_orientation=back)
        arm.run(1)
        bits, _, _ = blocked(arm)
        if not bits:
            break
    assert not bits


def test_a_hand_on_its_way_through_the_range_of_springs_is_not_reported():
    arm = Arm(q=near(5, -1, 0.09))
    arm.run(1)
    pose = control_frame(near(5, -1, 0.3))
    turn = Rotation.from_matrix(pose[:3, :3]).as_quat()
    for _ in range(1500):
        arm.target(target_position=pose[:3, 3], target_orientation=turn)
        arm.run(1)
        assert not blocked(arm)[0]
