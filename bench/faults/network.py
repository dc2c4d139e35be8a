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
    rig.take()
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
    cycles = rig.take()
    findings.check(int(cycles["lost"].sum()) == 0, f"{int(cycles['lost'].sum())} cycles lost by libfranka's count")


def _continues(rig: Rig, findings: Findings, disturb: Callable[[], None], packets: int) -> None:
    rig.ready()
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


_CONTINUES, _ENDS = "the motion continues", "communication_constraints_violation, by name; one call recovers"


def _register(name: str, packets: int, disturb: Callable[[Rig], None], lost: int, description: str) -> None:
    """A fault of ``packets`` packets or milliseconds; the robot tolerates less than twenty."""

    def stage(rig: Rig, findings: Findings) -> None:
        if packets < 20:
            _continues(rig, findings, lambda: disturb(rig), lost)
        else:
            _ends(rig, findings, lambda: disturb(rig))

    stage.__doc__ = description
    fault(_CONTINUES if packets < 20 else _ENDS, name=name)(stage)


for _n in (5, 15, 25):
    _text = f"{_n} commands in a row do not arrive, in the middle of a move."
    _register(f"{_n}_commands_lost", _n, lambda rig, n=_n: rig.proxy.lose(n), _n, _text)
for _n in (2, 10, 50):
    _text = f"Commands arrive {_n} ms of the robot late, all at once, in the middle of a move."
    _register(f"commands_{_n}_ms_late", _n, lambda rig, n=_n: rig.proxy.hold_back(n), 0, _text)


@fault(_CONTINUES)
def states_lost(rig: Rig, findings: Findings) -> None:
    """Fifteen states in a row do not arrive, so the robot gets no answers either."""
    rig.ready()
    rig.take()
    handle = rig.swing()
    rig.mark()
    rig.proxy.lose(15, "states")
    status = rig.outcome(handle).status
    findings.check(status == GoalStatus.STATUS_SUCCEEDED, f"the move ended with status {status}")
    cycles = rig.take()
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
        rig.spin_until(lambda: rig.since_mark() > 5.0, 6.0)
        findings.within(rig.standstill(), STOPPED, "the arm stood still")
        rig.proxy.heal()
        rig.spin_for(0.5)

    _lost_robot(rig, findings, lambda: rig.proxy.cut(), wait_and_heal)


@fault("a named error; once the robot is back, the same node connects again")
def robot_gone(rig: Rig, findings: Findings) -> None:
    """The simulated arm's process is killed, as if the robot had been switched off, and started again."""

    def kill() -> None:
        rig.arm.process.kill()
        rig.arm.process.wait()

    _lost_robot(rig, findings, kill, rig.start_arm)
