"""The node as its users see it: targets that move the arm, and everything that can be wrong with a target."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from geometry_msgs.msg import PoseStamped
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from sensor_msgs.msg import JointState

from aiofranka_ros.model.fr3 import HOME, JOINT_NAMES
from aiofranka_ros.ros.conditions import CTL
from aiofranka_ros.testing import PATIENCE, Client, NodeProcess, alive, wait_until

Log = Callable[[str], bool]


def pose(robot: Client, *, dx: float = 0.0, dy: float = 0.0, dz: float = 0.0) -> PoseStamped:
    """A pose next to the measured one."""
    message = robot.pose
    message.header.stamp.sec = message.header.stamp.nanosec = 0
    message.pose.position.x += dx
    message.pose.position.y += dy
    message.pose.position.z += dz
    return message


def joints(q: Any, names: Any = JOINT_NAMES, field: str = "position") -> JointState:
    return JointState(**{"name": list(names), field: [float(value) for value in q]})


def stays(robot: Client, where: np.ndarray, tolerance: float = 0.003) -> bool:
    """Whether the control frame remains within ``tolerance`` [m], the effect of friction and noise."""
    return all(np.abs(robot.position - where).max() < tolerance for _ in range(20))


def explains(robot: Client, log: Log, text: str, topic: str, message: Any) -> bool:
    """Whether the node logs ``text`` because of ``message``, which is repeated, because the log is throttled."""

    def said() -> bool:
        robot.publish(topic, message)
        robot.spin_for(0.1)
        return log(text)

    return robot.spin_until(said, PATIENCE)


def test_the_measured_state_is_published(robot: Client) -> None:
    robot.spin_until(lambda: robot.joint_states)
    message = robot.joint_states[-1]
    assert tuple(message.name) == JOINT_NAMES
    assert len(message.position) == len(message.velocity) == len(message.effort) == 7
    assert robot.pose.header.frame_id == "fr3_link0"
    # The stamp is the system's clock at the measurement; discovery and a busy machine may take a second.
    assert abs(message.header.stamp.sec - time.time()) < 2.0


def test_streamed_poses_move_the_arm_to_the_last_of_them(robot: Client) -> None:
    assert robot.rests()
    target = pose(robot, dx=0.04, dz=-0.05)
    wanted = np.array([target.pose.position.x, target.pose.position.y, target.pose.position.z])

    def arrived() -> bool:
        robot.publish("ee_desired", target)
        # Friction keeps a compliant arm a few millimetres away.
        return bool(np.linalg.norm(robot.position - wanted) < 0.008)

    assert robot.spin_until(arrived)


@pytest.mark.parametrize("mode", ["impedance", "pid"])
def test_joint_targets_move_the_arm_in_the_joint_modes(robot: Client, mode: str) -> None:
    assert robot.set(mode=mode) == ""
    q = robot.q
    q[6] += 0.1

    def arrived() -> bool:
        robot.publish("q_desired", joints(q[::-1], JOINT_NAMES[::-1]))
        return bool(np.abs(robot.q - q).max() < 0.03)

    assert robot.spin_until(arrived)


def test_torques_move_the_arm_and_it_holds_when_they_stop(robot: Client) -> None:
    assert robot.set(mode="torque") == ""
    assert robot.rests()
    before = robot.q[6]

    def moved() -> bool:
        robot.publish("torque_desired", joints([0, 0, 0, 0, 0, 0, 1.5], field="effort"))
        return abs(robot.q[6] - before) > 0.05

    assert robot.spin_until(moved)
    assert robot.rests()
    _, values = robot.diagnostics("control loop")
    assert values["hold"] == "torque stale"


BAD_POSES: dict[str, tuple[Callable[[PoseStamped], None], str]] = {
    "nan": (lambda m: setattr(m.pose.position, "x", math.nan), "position is not finite"),
    "infinite": (lambda m: setattr(m.pose.orientation, "w", math.inf), "orientation is not finite"),
    "quaternion": (lambda m: setattr(m.pose.orientation, "w", 3.0), "quaternion has a norm of"),
    "frame": (lambda m: setattr(m.header, "frame_id", "camera"), "its frame is 'camera'"),
}


@pytest.mark.parametrize("what", BAD_POSES)
def test_a_bad_pose_is_explained_and_the_arm_keeps_holding(robot: Client, log: Log, what: str) -> None:
    assert robot.rests()
    where = robot.position
    spoil, message = BAD_POSES[what]
    target = pose(robot, dz=0.05)
    spoil(target)
    assert explains(robot, log, message, "ee_desired", target)
    assert stays(robot, where)
    _, values = robot.diagnostics("targets")
    assert int(values["refused"]) > 0


BAD_JOINTS: dict[str, tuple[JointState, str]] = {
    "missing": (joints(np.zeros(6), JOINT_NAMES[:6]), "missing joint fr3_joint7"),
    "unknown": (joints(np.zeros(8), (*JOINT_NAMES, "elbow")), "unknown joint elbow"),
    "twice": (joints(np.zeros(8), (*JOINT_NAMES, JOINT_NAMES[2])), "named twice: fr3_joint3"),
    "sizes": (joints(np.zeros(6), JOINT_NAMES), "it names 7 joints, but position has 6 values"),
    "unnamed": (joints(np.zeros(3), ()), "position has 3 values, but the arm has 7 joints"),
    "nan": (joints([math.nan] * 7), "position is not finite"),
}


@pytest.mark.parametrize("what", BAD_JOINTS)
def test_bad_joints_are_explained_and_the_arm_keeps_holding(robot: Client, log: Log, what: str) -> None:
    assert robot.set(mode="impedance") == ""
    assert robot.rests()
    where = robot.position
    message, text = BAD_JOINTS[what]
    assert explains(robot, log, text, "q_desired", message)
    assert stays(robot, where)


def test_a_target_of_another_mode_is_refused_with_the_command_to_switch(
    running: tuple[NodeProcess, Client], robot: Client, log: Log
) -> None:
    text = f"{CTL} set mode impedance --node {running[0].name}"
    assert explains(robot, log, text, "q_desired", joints(robot.q))


@pytest.mark.parametrize("offset", [{"dz": 0.5}, {"turn": 1.0}])
def test_a_target_far_away_is_limited_and_reported(robot: Client, log: Log, offset: dict[str, float]) -> None:
    assert robot.rests()
    where = robot.position
    if "turn" in offset:
        target = pose(robot)
        o = target.pose.orientation
        half = 0.5 * offset["turn"]
        # Rotated about the base's z axis.
        x, y, z, w = o.x, o.y, o.z, o.w
        s, c = math.sin(half), math.cos(half)
        o.x, o.y, o.z, o.w = c * x - s * y, c * y + s * x, c * z + s * w, c * w - s * z
        text = "1.00 rad away was limited to max_angular_step (0.5 rad)"
    else:
        target = pose(robot, dz=-offset["dz"])
        text = "0.50 m away was limited to max_linear_step (0.15 m)"
    robot.publish("ee_desired", target)
    assert robot.spin_until(lambda: log(text))
    assert robot.rests()
    # The arm goes to the limit, and a compliant one up to 3 cm beyond.
    assert np.linalg.norm(robot.position - where) < 0.15 + 0.03


def test_a_target_beyond_a_wall_is_reported_with_the_wall_and_not_as_a_jump(robot: Client, log: Log) -> None:
    assert robot.rests()
    lower = [-2.0, -2.0, float(robot.position[2]) - 0.02]
    assert robot.set(workspace_lower=lower) == ""
    try:
        robot.publish("ee_desired", pose(robot, dz=-0.6))
        assert robot.spin_until(lambda: log(f"was moved to workspace_lower (z = {lower[2]:.3f} m)"))
        assert not log("max_linear_step")
        robot.wait(lambda: "limited: workspace_lower" in robot.diagnostics("targets")[1], "no diagnostics of it")
    finally:
        assert robot.set(workspace_lower=[-2.0] * 3) == ""
    assert robot.rests()


def test_if_one_parameter_is_refused_all_of_the_request_keep_their_values(robot: Client) -> None:
    before = robot.get("kp")
    reason = robot.set(kd=[40.0] * 7, kp=[-1.0] * 7)
    assert "kp is -1 Nm/rad at index 0; allowed: 7 values, each in [0, 3000] Nm/rad" in reason
    assert list(robot.get("kp")) == list(before)
    assert list(robot.get("kd")) != [40.0] * 7
    assert "has 6 values" in robot.set(kp=[600.0] * 6)
    assert "nan" in robot.set(max_linear_step=math.nan).lower() or robot.get("max_linear_step") == 0.15
    assert "one of osc, impedance, pid, torque" in robot.set(mode="gravity")
    assert "clean it up first" in robot.set(robot_ip="172.16.0.2")
    assert "deactivate it first" in robot.set(collision_torque_thresholds=[30.0] * 7)


def test_integers_are_accepted_as_floats(robot: Client) -> None:
    assert robot.set(ee_kp=[400, 400, 400, 1000, 1000, 1000]) == ""


def test_gains_and_control_frame_change_while_the_arm_holds(robot: Client) -> None:
    assert robot.rests()
    where = robot.position
    assert robot.set(ee_kp=[300.0] * 3 + [800.0] * 3, null_kp=[5.0] * 7) == ""
    assert stays(robot, where, tolerance=0.006)
    assert robot.set(tcp_from_robot=False, tcp_in_flange=[0.0, 0.0, 0.1034, 0.0, 0.0, 0.0, 1.0]) == ""
    # The measured pose is that of the new control frame, 10 cm further out; the arm does not move.
    assert wait_until(lambda: abs(np.linalg.norm(robot.position - where) - 0.1034) < 0.006)
    assert robot.set(tcp_from_robot=True, ee_kp=[400.0] * 3 + [1000.0] * 3, null_kp=[10.0] * 7) == ""
    assert wait_until(lambda: np.linalg.norm(robot.position - where) < 0.006)


def test_transitions_follow_the_lifecycle(robot: Client, log: Log) -> None:
    assert not robot.change("configure")
    assert robot.change("deactivate")
    assert explains(robot, log, "the node is not active", "ee_desired", pose(robot, dz=0.1))
    assert not robot.change("deactivate")
    assert robot.state == "inactive"
    assert robot.change("activate")
    assert robot.change("deactivate")
    assert robot.change("cleanup")
    assert not robot.change("activate")
    assert robot.set(robot_ip="sim") == ""
    assert robot.change("configure")
    assert robot.change("activate")
    assert robot.state == "active"


def test_an_activated_arm_holds_its_position_whatever_its_last_target_was(robot: Client) -> None:
    assert robot.rests()
    for _ in range(5):
        robot.publish("ee_desired", pose(robot, dz=0.08))
        robot.spin_for(0.02)
    assert robot.change("deactivate")
    assert robot.rests()
    where = robot.position
    assert robot.change("activate")
    assert stays(robot, where, tolerance=0.005)
    assert robot.rests()
    assert np.abs(robot.position - where).max() < 0.005


def test_after_the_control_process_has_died_the_arm_can_be_activated_again(robot: Client, log: Log) -> None:
    _, values = robot.diagnostics("control loop")
    os.kill(int(values["control process"]), signal.SIGKILL)
    assert robot.spin_until(lambda: log("the control process was killed by signal 9"))
    assert robot.becomes("inactive")
    level, values = robot.diagnostics("robot")
    assert level == b"\x02" and "activate" in values["what to do"]
    assert robot.change("activate")


def test_a_stopped_control_process_is_noticed_and_replaced(robot: Client, log: Log) -> None:
    _, values = robot.diagnostics("control loop")
    control = int(values["control process"])
    handle = robot.send_goal(HOME - 0.1)
    os.kill(control, signal.SIGSTOP)
    outcome = robot.outcome(handle)
    assert outcome.status == GoalStatus.STATUS_ABORTED
    assert "was stopped by a signal" in outcome.result.error_message
    assert not alive(control)
    assert robot.becomes("inactive")
    assert robot.change("activate")
    assert robot.state == "active"


def test_a_control_process_that_does_not_answer_is_ended_and_the_node_continues(robot: Client, log: Log) -> None:
    _, values = robot.diagnostics("control loop")
    assert robot.change("deactivate")
    os.kill(int(values["control process"]), signal.SIGSTOP)
    # The node sends it a request before it can notice that it was stopped.
    robot.set(collision_force_thresholds=[21.0] * 6)
    assert robot.spin_until(lambda: log("did not set within 5 s") or log("was stopped by a signal"))
    assert robot.state == "inactive" and not alive(int(values["control process"]))
    assert robot.change("activate")


def test_a_parameter_of_an_unknown_type_is_refused_and_the_node_continues(robot: Client, log: Log) -> None:
    odd = ParameterMessage(name="mode", value=ParameterValue(type=255))
    for kind, name in ((SetParameters, "set_parameters"), (SetParametersAtomically, "set_parameters_atomically")):
        client = robot.node.create_client(kind, f"{robot.name}/{name}")
        answer = robot.call(client, kind.Request(parameters=[odd]))
        (result,) = answer.results if kind is SetParameters else [answer.result]
        assert not result.successful and "255 is not a valid Parameter.Type" in result.reason
    assert robot.spin_until(lambda: log("255 is not a valid Parameter.Type"))
    assert robot.state == "active"
