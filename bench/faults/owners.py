"""Several clients that want the arm at once: one controls it, the others are refused, ``~/hold`` overrides all."""

from __future__ import annotations

import time

import numpy as np
import rclpy
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration
from control_msgs.action import FollowJointTrajectory
from control_msgs.msg import JointTolerance
from geometry_msgs.msg import PoseStamped
from rclpy.publisher import Publisher
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from aiofranka_ros.model.fr3 import JOINT_NAMES
from aiofranka_ros.testing import NodeProcess
from bench.faults.arm import STANDSTILL
from bench.faults.catalogue import fault
from bench.faults.processes import STOPPED, check_ordinary_move, check_reflex
from bench.faults.rig import SWING, Findings, Rig


def _refused(rig: Rig) -> int:
    rig.refresh()
    return int(rig.value("targets", "refused") or 0)


def _check_owner(rig: Rig, findings: Findings, expected: str) -> None:
    """The owner's name is the value ``owner`` of some status."""
    rig.refresh()
    owner = next((rig.value(status, "owner") for status in rig.statuses if rig.value(status, "owner")), "")
    findings.check(owner and expected in owner, f"owner in the diagnostics: {owner or 'none'}")


@fault(
    "the first publisher controls the arm and is named; the other is refused and learns why, until the first is silent"
)
def two_publishers(rig: Rig, findings: Findings) -> None:
    """Two nodes stream poses 4 cm apart on one topic in turns; then the first one stops."""
    rig.ready()
    second = rclpy.create_node("second_client", context=rig.node.context)
    other = second.create_publisher(PoseStamped, f"{rig.name}/ee_desired", 1)
    target = rig.pose
    y = target.pose.position.y
    rig.wait(lambda: other.get_subscription_count() > 0, "the node does not listen")
    rig.mark()

    def publish(publisher: Publisher, offset: float) -> None:
        target.pose.position.y = y + offset
        target.header.stamp = rig.node.get_clock().now().to_msg()
        publisher.publish(target)
        rig.spin_for(0.01)

    def contend(duration: float) -> None:
        end = time.monotonic() + duration
        while time.monotonic() < end:
            publish(rig.publishers["ee_desired"], 0.02)
            publish(other, -0.02)

    contend(2.0)
    rig.refresh()
    refused = rig.value("targets", "refused: another publisher")
    findings.check(refused and int(refused) > 10, f"{refused or 0} targets of the second publisher refused")
    contend(0.3)
    _check_owner(rig, findings, "ee_desired")
    apart = rig.pose.pose.position.y - y
    findings.check(apart > 0.01, f"the arm is {1e3 * apart:.0f} mm from its start, at the first one's target")
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        publish(other, -0.02)
    apart = rig.pose.pose.position.y - y
    findings.check(apart < -0.01, f"and {1e3 * apart:.0f} mm after the first one is silent")
    second.destroy_node()
    findings.check("has to wait" in rig.log, "the log names the publisher that must wait")
    findings.check(rig.state == "active", f"the node is {rig.state}")
    check_reflex(rig, findings)


@fault("the move controls the arm; targets during it are refused and counted, and accepted afterwards")
def move_during_streaming(rig: Rig, findings: Findings) -> None:
    """``~/move`` while a policy streams poses."""
    rig.ready()
    with rig.streaming():
        rig.spin_for(1.0)
        refused = _refused(rig)
        rig.mark()
        handle = rig.move(SWING[1] if abs(rig.arm_q()[0]) < 0.35 else SWING[0], 0.4)
        rig.spin_for(0.5)
        _check_owner(rig, findings, "move")
        status = rig.outcome(handle).status
        findings.check(status == GoalStatus.STATUS_SUCCEEDED, f"the move ended with status {status}")
        more = _refused(rig) - refused
        findings.check(more > 10, f"{more} targets refused")
        reason = rig.value("targets", "refused: during a move")
        findings.check(reason, f"the reason is in the diagnostics ({reason or 'not there'})")
    check_reflex(rig, findings)


@fault(
    "the second node stays inactive and says why; a move that runs continues, and no goal is accepted until it is gone"
)
def two_nodes_of_one_name(rig: Rig, findings: Findings) -> None:
    """A second node with the same name is started in the middle of a move; then one goal is sent."""
    rig.ready()
    result = rig.swing(0.2).get_result_async()
    rig.mark()
    with NodeProcess(rig.folder / "second.log", "", autostart=True) as second:
        ended = rig.spin_until(lambda: "autostart failed" in second.log)
        named = f"another node is called {rig.name} (process {rig.node_pid} on " in second.log
        findings.check(ended and named, "the second node names the first one" if named else second.end_of_log)
        findings.check("the arm holds" not in second.log, "it stays inactive")
        status = rig.result(result, "the move has no result").status
        findings.check(status == GoalStatus.STATUS_SUCCEEDED, f"the move of before ended with status {status}")
        rig.settle()
        noticed = rig.spin_until(lambda: "another node is called" in rig.log, 10.0)
        findings.check(noticed, "so does the first one" if noticed else "the first one does not notice the second")
        where = rig.arm_q()
        handle = rig.move(SWING[0], 0.4)
        findings.check(not handle.accepted, "a goal is refused" if not handle.accepted else "a goal was accepted")
        rig.spin_for(1.0)
        moved = float(abs(rig.arm_q() - where).max())
        findings.check(moved < 0.01, f"then the arm moves by {moved:.3f} rad")
        rig.refresh("targets")
        message = rig.statuses["targets"].message
        findings.check("another node is called" in message, f"diagnostics: {message}")
        said = len(rig.log)
    alone = rig.spin_until(lambda: "no other node has" in rig.log[said:], 10.0)
    findings.check(alone, "the first node notices that it is alone" if alone else "the first node is never alone again")
    check_ordinary_move(rig, findings)
    check_reflex(rig, findings)


@fault("the trajectory controls the arm, and the move ends ABORTED with the cause")
def moveit_during_a_move(rig: Rig, findings: Findings) -> None:
    """A trajectory like MoveIt's, in the middle of a move."""
    rig.ready()
    handle = rig.swing(0.3)
    result = handle.get_result_async()
    where = rig.arm_q()
    goal = min(SWING, key=lambda end: float(abs(end - where).max()))
    points = [
        JointTrajectoryPoint(positions=goal.tolist(), velocities=[0.0] * 7, time_from_start=Duration(sec=3)),
    ]
    rig.mark()
    trajectory = rig.send_trajectory(JointTrajectory(joint_names=list(JOINT_NAMES), points=points))
    findings.check(trajectory.accepted, "the trajectory was accepted")
    outcome = rig.result(result, "the move has no result")
    message = outcome.result.error_message
    findings.check(outcome.status == GoalStatus.STATUS_ABORTED, f"the move ended with {outcome.status}: {message}")
    _check_owner(rig, findings, "trajectory")
    status = rig.outcome(trajectory).status
    findings.check(status == GoalStatus.STATUS_SUCCEEDED, f"the trajectory ended with status {status}")
    check_reflex(rig, findings)


@fault("refused, and the arm does not move; without start_tolerance, feedback and path tolerance count the distance")
def trajectory_from_elsewhere(rig: Rig, findings: Findings) -> None:
    """A trajectory that begins 0.2 rad from where the arm is, as if planned for another state."""
    rig.ready()
    start, goal = rig.arm_q(), SWING[0]
    start[3] += 0.2
    points = [
        JointTrajectoryPoint(positions=q.tolist(), velocities=[0.0] * 7, time_from_start=Duration(sec=seconds))
        for q, seconds in ((start, 0), (goal, 4))
    ]
    trajectory = JointTrajectory(joint_names=list(JOINT_NAMES), points=points)
    tolerance = [JointTolerance(name=JOINT_NAMES[3], position=0.1)]
    rig.mark()
    handle = rig.send_trajectory(trajectory)
    findings.check(not handle.accepted, "accepted" if handle.accepted else "refused")
    rig.spin_for(1.0)
    fastest = np.abs(rig.steps(rig.marked)["dq"]).max()
    findings.check(fastest < STANDSTILL, f"the arm moves at up to {fastest:.3f} rad/s")
    findings.check("fr3_joint4 is 0.2" in rig.log, "the log names joint and distance")
    findings.check(not (reason := rig.set(start_tolerance=0.0)), f"start_tolerance 0 {reason}")
    try:
        handle = rig.send_trajectory(trajectory, path_tolerance=tolerance)
        outcome = rig.outcome(handle)
        code, text = outcome.result.error_code, outcome.result.error_string
        findings.check(code == FollowJointTrajectory.Result.PATH_TOLERANCE_VIOLATED, f"ended with {code}: {text}")
        rig.settle()
        trajectory.points[0].positions = (rig.arm_q() + 0.2 * np.eye(7)[3]).tolist()
        rig.mark()
        status = rig.outcome(rig.send_trajectory(trajectory)).status
        largest = max(message.feedback.error.positions[3] for message in rig.feedback)
        findings.check(
            0.1 < largest < 0.21, f"without a tolerance, the largest error in its feedback is {largest:.2f} rad"
        )
        findings.check(status == GoalStatus.STATUS_SUCCEEDED, f"it ended with status {status}")
        fastest = np.abs(rig.steps(rig.marked)["dq"]).max()
        findings.check(fastest < 1.0, f"the arm moved at up to {fastest:.2f} rad/s")
    finally:
        rig.set(start_tolerance=0.1)
    check_reflex(rig, findings)


@fault("~/hold takes control from every client at once, ~/release gives it back; refused clients learn why")
def hold_and_release(rig: Rig, findings: Findings) -> None:
    """``~/hold`` in the middle of a move, while a policy keeps streaming."""
    rig.ready()
    result = rig.swing(0.4).get_result_async()
    with rig.streaming():
        rig.mark()
        answer = rig.trigger("hold")
        findings.check(answer.success, f"hold: {answer.message or answer.success}")
        findings.within(rig.standstill(), STOPPED, "the arm stood still")
        outcome = rig.result(result, "the move has no result")
        findings.check(outcome.status == GoalStatus.STATUS_ABORTED, f"the move ended with status {outcome.status}")
        _check_owner(rig, findings, "hold")
        refused = _refused(rig)
        rig.spin_for(0.5)
        findings.check(_refused(rig) > refused, "targets are refused and counted")
        handle = rig.move(SWING[0], 0.4)
        findings.check(not handle.accepted, "a move is refused" if not handle.accepted else "a move was accepted")
        findings.check(rig.trigger("release").success, "released")
        moves = rig.spin_until(lambda: rig.arm_speed() > 0.02, 3.0)
        findings.check(moves, "then targets move the arm again" if moves else "then targets do not move the arm")
    check_reflex(rig, findings)


@fault("the arm stops smoothly and holds until ~/release; no reflex")
def pushed_too_hard(rig: Rig, findings: Findings) -> None:
    """A push on the hand with 15 N, less than the robot allows, but more than ``max_external_force``."""
    rig.ready()
    if not findings.check(not (reason := rig.set(max_external_force=10.0)), f"max_external_force 10 N {reason}"):
        return
    try:
        result = rig.swing(0.4).get_result_async()
        rig.mark()
        rig.arm.touch([0.0, 15.0, 0.0], 0.3)
        findings.within(rig.standstill(), STOPPED, "the arm stood still")
        outcome = rig.result(result, "the move has no result")
        message = outcome.result.error_message
        findings.check(outcome.status == GoalStatus.STATUS_ABORTED, f"the move ended with {outcome.status}: {message}")
        findings.check(rig.state == "active", f"the node is {rig.state}")
        check_reflex(rig, findings)
        handle = rig.move(SWING[0], 0.4)
        findings.check(not handle.accepted, "a move is refused" if not handle.accepted else "a move was accepted")
        rig.release()
        status = rig.outcome(rig.swing(0.4)).status
        findings.check(status == GoalStatus.STATUS_SUCCEEDED, f"after ~/release, a move ended with status {status}")
    finally:
        rig.set(max_external_force=0.0)
