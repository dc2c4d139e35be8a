"""Faults of the processes: node, control process and policies, killed, stopped, hung or silent."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticStatus

from aiofranka_ros.control.records import Hold, Phase
from aiofranka_ros.testing import Failed, alive
from bench.faults.catalogue import fault
from bench.faults.rig import Findings, Rig

#: How soon a process must notice that another one is gone [s]; up to 20 ms of it are the delay of this test.
NOTICED = 0.12
#: How soon the arm must then stand still [s]: it brakes at a few rad/s² from 0.5 rad/s.
STOPPED = 1.5
_LEFT_ALONE = int(Hold.NODE_SILENT | Hold.FINISHING)


def check_reflex(rig: Rig, findings: Findings) -> None:
    """The arm itself must not have had to end the motion."""
    findings.check(not rig.arm.in_reflex, "a reflex" if rig.arm.in_reflex else "no reflex")


def check_next_node(rig: Rig, findings: Findings) -> None:
    """A node must be able to take over without a manual cleanup."""
    try:
        rig.ready()
    except Failed as error:
        findings.check(False, f"no node can take over: {error}")
    else:
        findings.check(True, "the next node is active")


def check_ordinary_move(rig: Rig, findings: Findings, text: str = "a move succeeds") -> None:
    """The arm must be able to move."""
    status = rig.outcome(rig.swing(1.0)).status
    findings.check(status == GoalStatus.STATUS_SUCCEEDED, text if status == 4 else f"a move ends with status {status}")


def _check_hold(rig: Rig, findings: Findings) -> None:
    observer = rig.observer
    noticed = rig.delay_of(lambda: int(observer.state()["hold"]) & _LEFT_ALONE)
    findings.within(noticed, NOTICED, "the control process noticed")
    findings.within(rig.standstill(), STOPPED, "the arm stood still")


@fault("within 100 ms the control process holds, ends the motion cleanly and exits; the next node starts")
def node_killed(rig: Rig, findings: Findings) -> None:
    """SIGKILL, in the middle of a move."""
    rig.ready()
    rig.swing()
    control = rig.control_pid
    rig.mark()
    rig.kill_node()
    _check_hold(rig, findings)
    check_reflex(rig, findings)
    gone = rig.spin_until(lambda: not alive(control), 5.0)
    findings.check(gone, "the control process exited" if gone else "the control process is still running")
    check_next_node(rig, findings)


def _silent_node(rig: Rig, findings: Findings, silence: Callable[[], None], end: Callable[[], None]) -> None:
    observer = rig.observer
    rig.swing()
    control = rig.control_pid
    rig.mark()
    silence()
    _check_hold(rig, findings)
    released = rig.spin_until(lambda: observer.state()["phase"] != Phase.ACTIVE or not alive(control), 3.0)
    findings.check(released, "the motion was ended" if released else "the motion was never ended")
    check_reflex(rig, findings)
    end()
    reported = rig.spin_until(lambda: rig.state_or_none() in ("inactive", "unconfigured"))
    findings.check(reported, f"then the node is {rig.state} ({rig.last_error})")
    rig.activate()
    check_ordinary_move(rig, findings, "it can be activated again, and the arm moves")


@fault("within 100 ms the control process holds, then ends the motion cleanly; the node becomes INACTIVE")
def node_stopped(rig: Rig, findings: Findings) -> None:
    """SIGSTOP for three seconds."""
    rig.ready()
    node = rig.node_pid
    _silent_node(
        rig, findings, lambda: os.kill(node, signal.SIGSTOP), lambda: os.kill(node, signal.SIGCONT)
    )  # fmt: skip


@fault("within 100 ms the control process holds; if the node is back in time, the arm continues without a reflex")
def node_stopped_briefly(rig: Rig, findings: Findings) -> None:
    """SIGSTOP for 0.35 s, while a policy streams."""
    rig.ready()
    observer, node = rig.observer, rig.node_pid
    with rig.streaming():
        rig.spin_for(1.0)
        rig.mark()
        os.kill(node, signal.SIGSTOP)
        noticed = rig.delay_of(lambda: int(observer.state()["hold"]) & _LEFT_ALONE, 0.35)
        findings.within(noticed, NOTICED, "the control process noticed")
        rig.spin_until(lambda: rig.since_mark() > 0.35, 1.0)
        os.kill(node, signal.SIGCONT)
        rig.spin_for(1.0)
        hold = int(observer.state()["hold"]) & _LEFT_ALONE
        findings.check(not hold, "the arm still holds" if hold else "the arm follows again")
        findings.check(rig.arm_speed() > 0.01, f"fastest joint {rig.arm_speed():.2f} rad/s")
    findings.check(rig.state == "active", f"the node is {rig.state}")
    check_reflex(rig, findings)


@fault("the same as for a stopped node")
def node_hung(rig: Rig, findings: Findings) -> None:
    """The node's one thread sleeps for three seconds, like a callback that hangs."""
    rig.ready(burdened=True)
    node = rig.node_pid
    _silent_node(rig, findings, lambda: os.kill(node, signal.SIGUSR1), lambda: rig.spin_for(1.0))


def _lost_policy(rig: Rig, findings: Findings, number: signal.Signals, *options: str) -> None:
    policy = rig.start_policy(*options)
    rig.wait(lambda: rig.arm_speed() > 0.1, "the policy does not move the arm")
    rig.mark()
    policy.process.send_signal(number)
    findings.within(rig.standstill(), 1.0, "the arm stood still")
    rig.refresh()
    check_reflex(rig, findings)
    findings.check(rig.state == "active", f"the node is {rig.state}")
    policy.kill()


def _check_age(rig: Rig, findings: Findings) -> None:
    age = rig.value("targets", "age of the newest [s]")
    findings.check(age and float(age) > 0.2, f"diagnostics: age of the newest target {age or '?'} s")


@fault("the last target is held, and its age is in the diagnostics")
def policy_killed(rig: Rig, findings: Findings) -> None:
    """SIGKILL while it streams poses."""
    rig.ready()
    _lost_policy(rig, findings, signal.SIGKILL)
    _check_age(rig, findings)


@fault("the last target is held, and its age is in the diagnostics")
def policy_silent(rig: Rig, findings: Findings) -> None:
    """SIGSTOP while it streams poses: its connection stays open."""
    rig.ready()
    _lost_policy(rig, findings, signal.SIGSTOP)
    _check_age(rig, findings)


@fault("within torque_timeout the arm falls back to a damped hold, and the diagnostics report it")
def torque_policy_killed(rig: Rig, findings: Findings) -> None:
    """SIGKILL while it streams torques."""
    rig.ready()
    # A constant torque turns the last joint for several seconds, from the middle of its range.
    try:
        findings.check(not rig.set(mode="torque"), "mode torque")
        _lost_policy(rig, findings, signal.SIGKILL, "--kind", "torque")
        findings.check("torque stale" in rig.value("control loop", "hold"), rig.statuses["control loop"].message)
    finally:
        rig.set(mode="osc")


def _lost_client(rig: Rig, findings: Findings, kind: str) -> None:
    rig.ready()
    velocity = rig.get("move_velocity")
    try:
        findings.check(not rig.set(move_velocity=[0.2] * 7), "move_velocity 0.2 rad/s")
        client = rig.start_policy("--kind", kind, module="bench.faults.requester", begun="accepted")
        rig.wait(lambda: rig.arm_speed() > 0.03, "the client does not move the arm")
        said = len(rig.log)
        rig.mark()
        client.kill()
        findings.within(rig.standstill(), 1.0, "the arm stood still")
        reason = "its process has ended"
        findings.check(reason in rig.log[said:], f"the node's log says that {reason}")
        findings.check(rig.state == "active", f"the node is {rig.state}")
        check_reflex(rig, findings)
    finally:
        rig.set(move_velocity=list(velocity))
    check_ordinary_move(rig, findings, "the next client's move succeeds")


@fault("within a second the arm slows down on its path and holds, and the node says why; the next move succeeds")
def client_of_a_move_killed(rig: Rig, findings: Findings) -> None:
    """SIGKILL of a ``RosInterface`` that waits for its move."""
    _lost_client(rig, findings, "move")


@fault("within a second the arm slows down on its path and holds, and the node says why; the next move succeeds")
def client_of_a_trajectory_killed(rig: Rig, findings: Findings) -> None:
    """SIGKILL of a client with a presence that waits for a trajectory of 20 s."""
    _lost_client(rig, findings, "trajectory")


def _lost_control(rig: Rig, findings: Findings, number: signal.Signals) -> None:
    rig.ready()
    result = rig.swing().get_result_async()
    control = rig.control_pid
    rig.mark()
    os.kill(control, number)
    try:
        reported = rig.delay_of(lambda: rig.statuses["robot"].level == DiagnosticStatus.ERROR)
        findings.within(reported, NOTICED, "the node reported it")
        outcome = rig.result(result, "the current move has no result")
        message = outcome.result.error_message
        aborted = outcome.status == GoalStatus.STATUS_ABORTED and "control process" in message
        findings.check(aborted, f"the move ended with status {outcome.status}: {message}")
        state = rig.state
        findings.check(state in ("inactive", "unconfigured"), f"the node is {state}")
    finally:
        if alive(control):
            findings.check(False, "the stopped control process was left behind")
            os.kill(control, signal.SIGKILL)
    findings.within(rig.standstill(), STOPPED, "the arm stood still")
    rig.activate()
    check_ordinary_move(rig, findings, "it can be activated again, and the arm moves")


@fault("the node reports it within 100 ms, goals fail with the cause, and it can be activated again")
def control_process_killed(rig: Rig, findings: Findings) -> None:
    """SIGKILL, in the middle of a move."""
    _lost_control(rig, findings, signal.SIGKILL)


@fault("the node reports it within 100 ms, goals fail with the cause, and it can be activated again")
def control_process_stopped(rig: Rig, findings: Findings) -> None:
    """SIGSTOP, in the middle of a move."""
    _lost_control(rig, findings, signal.SIGSTOP)
