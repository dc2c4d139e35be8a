"""Faults of the network, caused by the proxy and counted in packets, and of the robot at its other end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from action_msgs.msg import GoalStatus

from bench.faults.catalogue import fault
from bench.faults.processes import STOPPED, check_ordinary_move
from bench.faults.rig import Findings, Rig

#: How soon the node must report a lost robot [s]: libfranka gives up after a second without a state.
_REPORTED = 2.5


@fault("the proxy itself loses nothing, and every state is answered")
def network_without_faults(rig: Rig, findings: Findings) -> None:
    """The control run: the cost of the proxy without any fault."""
    rig.ready()
    assert rig.proxy is not None and rig.observer is not None
    rig.observer.take()
    before, position = rig.proxy.counts, rig.proxy.tape.count
    for _ in range(2):
        findings.check(rig.outcome(rig.swing()).status == GoalStatus.STATUS_SUCCEEDED, "a move succeeds")
    counts = {name: value - before[name] for name, value in rig.proxy.counts.items()}
    for kind in ("states", "commands"):
        lost = counts[f"{kind}_lost"]
        findings.check(lost == 0 and counts[kind] == counts[f"{kind}_passed"], f"{lost} of {counts[kind]} {kind} lost")
    passed, _ = rig.proxy.tape.since(position)
    unanswered = int((passed["command"][:-2] == 0).sum())
    findings.check(unanswered == 0, f"{unanswered} states unanswered")
    answers = 1e-3 * (passed["command"] - passed["state"])[passed["command"] > 0]
    findings.note(f"answered within {np.percentile(answers, 99):.0f} us (99 %)")
    cycles = rig.observer.take()
    findings.check(int(cycles["lost"].sum()) == 0, f"{int(cycles['lost'].sum())} cycles lost by libfranka's count")


def _goes_on(rig: Rig, findings: Findings, disturb: Callable[[], None], packets: int) -> None:
    rig.ready()
    assert rig.proxy is not None and rig.observer is not None
    handle = rig.swing()
    before = rig.proxy.counts["commands_lost"]
    rig.mark()
    disturb()
    status = rig.outcome(handle).status
    findings.check(status == GoalStatus.STATUS_SUCCEEDED, f"the move ended with status {status}")
    lost = rig.proxy.counts["commands_lost"] - before
    findings.check(lost == packets, f"{lost} commands lost")
    rig.observer.fetch()
    rate = float(rig.observer.state()["success_rate_min"])
    findings.note(f"lowest success rate {rate:.2f}")
    findings.check(rig.state == "active", f"the node is {rig.state}")


def _ends(rig: Rig, findings: Findings, disturb: Callable[[], None]) -> None:
    rig.ready()
    handle = rig.swing()
    rig.mark()
    disturb()
    outcome = rig.outcome(handle)
    message = outcome.result.error_message
    named = "communication_constraints_violation" in message
    findings.check(outcome.status == GoalStatus.STATUS_ABORTED and named, f"the move was aborted: {message}")
    findings.within(rig.standstill(), STOPPED, "the arm stood still")
    findings.check(rig.node_alive and rig.state == "inactive", f"the node is {rig.state}")
    findings.check(rig.change("activate"), "activate recovers")
    check_ordinary_move(rig, findings)


def _lose(packets: int) -> Callable[[Rig, Findings], None]:
    def stage(rig: Rig, findings: Findings) -> None:
        def lose() -> None:
            assert rig.proxy is not None
            rig.proxy.lose(packets)

        if packets < 20:
            _goes_on(rig, findings, lose, packets)
        else:
            _ends(rig, findings, lose)

    stage.__doc__ = f"{packets} commands in a row do not arrive, in the middle of a move."
    return stage


def _delay(milliseconds: int) -> Callable[[Rig, Findings], None]:
    def stage(rig: Rig, findings: Findings) -> None:
        def hold_back() -> None:
            assert rig.proxy is not None
            rig.proxy.hold_back(milliseconds)

        if milliseconds < 20:
            _goes_on(rig, findings, hold_back, 0)
        else:
            _ends(rig, findings, hold_back)

    stage.__doc__ = f"Commands arrive {milliseconds} ms of the robot late, all at once, in the middle of a move."
    return stage


_CONTINUES, _ENDS = "the motion continues", "communication_constraints_violation, by name; one call recovers"
for _packets in (5, 15, 25):
    fault(_CONTINUES if _packets < 20 else _ENDS, name=f"{_packets}_commands_lost")(_lose(_packets))
for _duration in (2, 10, 50):
    fault(_CONTINUES if _duration < 20 else _ENDS, name=f"commands_{_duration}_ms_late")(_delay(_duration))


@fault(_CONTINUES)
def states_lost(rig: Rig, findings: Findings) -> None:
    """Fifteen states in a row do not arrive, so the robot gets no answers either."""
    rig.ready()
    assert rig.proxy is not None and rig.observer is not None
    rig.observer.take()
    handle = rig.swing()
    rig.mark()
    rig.proxy.lose(15, "states")
    status = rig.outcome(handle).status
    findings.check(status == GoalStatus.STATUS_SUCCEEDED, f"the move ended with status {status}")
    cycles = rig.observer.take()
    findings.check(int(cycles["lost"].max()) == 15, f"longest gap {int(cycles['lost'].max())} cycles")


def _lost_robot(rig: Rig, findings: Findings, lose: Callable[[], None], find: Callable[[], None]) -> None:
    rig.ready()
    handle = rig.swing()
    node = rig.node_pid
    rig.mark()
    lose()
    reported = rig.delay_of(lambda: rig.value("robot", "last error") != "", 10.0)
    findings.within(reported, _REPORTED, f"the node reported it ({rig.last_error})")
    outcome = rig.outcome(handle)
    findings.check(outcome.status == GoalStatus.STATUS_ABORTED, f"the move was aborted: {outcome.result.error_message}")
    find()
    down = rig.spin_until(lambda: rig.state_or_none() in ("inactive", "unconfigured"), 5.0)
    findings.check(down, f"the node is {rig.state}")
    rig.spin_for(1.5)  # A lost packet is noticed only by waiting for it.
    rig.activate()
    findings.check(rig.node_alive and rig.node_pid == node, "the same node is active again")
    check_ordinary_move(rig, findings)


@fault("a named error; once the network is back, the same node connects again")
def network_gone_for_5_s(rig: Rig, findings: Findings) -> None:
    """No packet passes for five seconds in either direction, and no connection is closed."""

    def wait_and_heal() -> None:
        assert rig.proxy is not None and rig.arm is not None
        rig.spin_until(lambda: rig.since_mark() > 5.0, 6.0)
        findings.within(rig.standstill(), STOPPED, "the arm stood still")
        rig.proxy.heal()
        rig.spin_for(0.5)

    _lost_robot(rig, findings, lambda: rig.proxy.cut() if rig.proxy is not None else None, wait_and_heal)


@fault("a named error; once the robot is back, the same node connects again")
def robot_gone(rig: Rig, findings: Findings) -> None:
    """The simulated arm's process is killed, as if the robot had been switched off, and started again."""

    def kill() -> None:
        assert rig.arm is not None
        rig.arm.process.kill()
        rig.arm.process.wait()

    _lost_robot(rig, findings, kill, rig.start_arm)
