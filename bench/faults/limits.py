"""Faults at the limits of joints: no spring moves an arm at rest, and none lets a target push it beyond a limit."""

from __future__ import annotations

import numpy as np
from action_msgs.msg import GoalStatus
from geometry_msgs.msg import PoseStamped
from scipy.spatial.transform import Rotation

from aiofranka_ros.kernels import Array
from aiofranka_ros.model.fr3 import JOINT_NAMES, POSITION_LOWER, POSITION_UPPER
from aiofranka_ros.model.kinematics import control_frame
from bench.faults.catalogue import fault
from bench.faults.processes import check_reflex
from bench.faults.rig import SWING, Findings, Rig

#: Joints, from 0, and the side of their limit: 1: upper, -1: lower.
_LIMITS = ((3, -1), (5, -1), (6, 1))
#: How far inside the limit a move ends [rad]: springs that do not begin where the arm is would push it.
_DISTANCE = 0.022
#: How fast a joint of an arm at rest may be [rad/s], and how far its hand may get [m]. The torque of the move before
#: fades out, and friction keeps the arm a little off its goal.
_REST, _STAYS = 0.05, 0.001


def _near(joint: int, side: int, distance: float) -> Array:
    q = SWING[0].copy()
    q[joint] = (POSITION_UPPER if side > 0 else POSITION_LOWER)[joint] - side * distance
    return q


def _check_rest(rig: Rig, findings: Findings, since: int, text: str) -> None:
    """Since then [ns, system clock], the arm has stayed at rest."""
    rig.spin_for(1.0)
    steps = rig.steps(since)
    fastest = float(np.abs(steps["dq"]).max())
    hands = np.array([control_frame(q)[:3, 3] for q in steps["q"][::10]])
    moved = float(np.linalg.norm(hands - hands[0], axis=1).max())
    good = fastest < _REST and moved < _STAYS
    findings.check(good, f"{text}: {fastest:.3f} rad/s, the hand moves by {1e3 * moved:.2f} mm")


@fault("the arm stays at rest whatever begins to control it; a target that pushes it against a limit is reported")
def joint_limits(rig: Rig, findings: Findings) -> None:
    """Moves close to the limits of joints 4, 6 and 7, other modes and a recovery there; then a target beyond one."""
    rig.ready()
    try:
        for joint, side in _LIMITS:
            name = JOINT_NAMES[joint]
            status = rig.outcome(rig.move(_near(joint, side, _DISTANCE), 1.0)).status
            findings.check(status == GoalStatus.STATUS_SUCCEEDED, f"the move to the limit of {name}: status {status}")
            _check_rest(rig, findings, rig.mark(), "after it")
            for mode in ("impedance", "osc"):
                rig.settle()
                since = rig.mark()
                rig.set(mode=mode)
                _check_rest(rig, findings, since, mode)
            rig.arm.stop_by_user()
            rig.wait(lambda: rig.state == "inactive", "the node does not notice the user stop")
            rig.arm.let_go()
            rig.settle()
            since = rig.mark()
            findings.check(rig.change("activate"), "recovers")
            _check_rest(rig, findings, since, "after the recovery")
        _check_blocked(rig, findings)
        check_reflex(rig, findings)
    finally:
        rig.set(mode="osc")
        rig.release()
        rig.activate()
        rig.outcome(rig.move(SWING[0], 1.0))


def _check_blocked(rig: Rig, findings: Findings) -> None:
    """A target that joint 6 cannot reach is reported with the joint, until the next one; the joint stays inside."""
    joint, side = 5, -1
    rig.outcome(rig.move(_near(joint, side, 0.2), 1.0))
    said, since = len(rig.log), rig.mark()
    beyond, back = rig.pose, rig.pose
    pose = control_frame(_near(joint, side, -0.3))
    here = control_frame(rig.arm_q())
    # The pose's frame may differ from the flange: only the difference counts.
    turn = Rotation.from_matrix(pose[:3, :3] @ here[:3, :3].T)
    o, p = beyond.pose.orientation, beyond.pose.position
    o.x, o.y, o.z, o.w = (turn * Rotation.from_quat([o.x, o.y, o.z, o.w])).as_quat().tolist()
    p.x, p.y, p.z = (np.array([p.x, p.y, p.z]) + pose[:3, 3] - here[:3, 3]).tolist()

    def stream(target: PoseStamped, until: float, named: bool) -> bool:
        def reported() -> bool:
            target.header.stamp = rig.node.get_clock().now().to_msg()
            rig.publishers["ee_desired"].publish(target)
            return (JOINT_NAMES[joint] in rig.statuses["targets"].message) == named

        return rig.spin_until(reported, until, period=0.02)

    findings.check(stream(beyond, 10.0, True), f"the diagnostics: {rig.statuses['targets'].message}")
    findings.check(JOINT_NAMES[joint] in rig.log[said:], "the log names the joint")
    rig.spin_for(0.5)
    closest = float((rig.steps(since)["q"][:, joint] - POSITION_LOWER[joint]).min())
    findings.check(closest > 0.0, f"the joint stays {1e3 * closest:.1f} mrad inside its limit")
    findings.check(stream(back, 10.0, False), "it is no longer reported once the target is back")
