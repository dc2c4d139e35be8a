"""Faults that the robot itself detects: real reflexes, the user stop and guiding.

Each fault names its detector: mostly ``franka-sim``, which enforces the robot's limits on motions and commands. It
computes no external forces, so a collision is detected by :mod:`aiofranka_ros.simulation.touched`, which
knows how it pushes, with the thresholds that the node has set. User stop and guiding are buttons of the arm's process.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.faults.catalogue import fault
from bench.faults.processes import STOPPED, check_ordinary_move
from bench.faults.rig import SWING, Findings, Rig

#: Folded until the hand is nearer to the shoulder than the robot's safety distance [rad] (7,).
FOLDED = np.array([0.0, -0.09, 0.0, -2.96, 0.29, 0.8, 0.785])
#: Largest distance of a joint from its position before the arm was activated again [rad].
_STAYS = 0.02
_REFLEX = "the node survives, INACTIVE, and reports libfranka's name; one call recovers, and the arm stays where it is"


def _check_reflex(rig: Rig, findings: Findings, provoke: Callable[[], object], *names: str) -> None:
    said = len(rig.log)
    rig.mark()
    provoke()
    stopped = rig.spin_until(lambda: rig.value("robot", "last error") != "", 10.0)
    findings.check(stopped, f"the node reports: {rig.last_error}")
    findings.within(rig.standstill(), STOPPED + 2.0 * (provoke == _nothing), "the arm stood still")
    state = rig.state
    findings.check(rig.node_alive and state == "inactive", f"the node is {state}")
    for name in names:
        found = rig.value("robot", "libfranka errors").split()
        findings.check(name in found, f"{name} {'' if name in found else 'not '}in the diagnostics")
        findings.check(name in rig.log[said:], f"{name} {'' if name in rig.log[said:] else 'not '}in the log")


def _nothing() -> None:
    """The current move causes the reflex."""


def check_recovery(rig: Rig, findings: Findings) -> None:
    """One call recovers, and the arm stays where it is."""
    where = rig.arm_q()
    findings.check(rig.change("activate"), "activate recovers")
    furthest = 0.0

    def look() -> bool:
        nonlocal furthest
        furthest = max(furthest, float(np.abs(rig.arm_q() - where).max()))
        return False

    rig.spin_until(look, 0.6, period=0.002)
    findings.check(furthest < _STAYS, f"the arm stays within {furthest:.4f} rad")


@fault(_REFLEX)
def collision(rig: Rig, findings: Findings) -> None:
    """A push on the hand with 40 N, twice the threshold; the arm's process detects it."""
    rig.ready()
    rig.swing()
    arm = rig.arm
    _check_reflex(rig, findings, lambda: arm.touch([0.0, 40.0, 0.0], 0.2), "cartesian_reflex")
    check_recovery(rig, findings)
    check_ordinary_move(rig, findings)


@fault(_REFLEX)
def joint_velocity(rig: Rig, findings: Findings) -> None:
    """A blow of 80 Nm at joint 7, below the thresholds; franka-sim detects the joint's velocity."""
    rig.ready(
        collision_torque_thresholds=str([100.0] * 7), collision_force_thresholds=str([100.0] * 6)
    )  # fmt: skip
    rig.swing()
    arm = rig.arm
    _check_reflex(rig, findings, lambda: arm.push([0.0] * 6 + [80.0], 0.1), "joint_velocity_violation")
    check_recovery(rig, findings)


@fault(_REFLEX)
def discontinuity(rig: Rig, findings: Findings) -> None:
    """The network adds 40 Nm to the torque of joint 4 in one command; franka-sim detects the step."""
    rig.ready()
    rig.swing()
    proxy = rig.proxy
    _check_reflex(rig, findings, lambda: proxy.spoil(3, 40.0), "controller_torque_discontinuity")
    check_recovery(rig, findings)


@fault(_REFLEX)
def self_collision(rig: Rig, findings: Findings) -> None:
    """A move folds the arm until franka-sim detects the hand too close to the shoulder."""
    rig.ready()
    q = rig.arm_q()
    try:
        handle = rig.move(FOLDED)
        findings.check(handle.accepted, "the move was accepted" if handle.accepted else "the move was rejected")
        if handle.accepted:
            _check_reflex(rig, findings, _nothing, "self_collision_avoidance_violation")
            check_recovery(rig, findings)
    finally:
        _unfold(rig, q)


def _unfold(rig: Rig, q: np.ndarray) -> None:
    """Move back; the robot may have to recover once more if the arm is still too close."""
    for _ in range(5):
        rig.activate()
        rig.outcome(rig.move(SWING[0], 0.3))
        if np.abs(rig.arm_q() - SWING[0]).max() < 0.05:
            return


@fault("the node is INACTIVE and reports it; not activated while it is pressed; one call recovers without a motion")
def user_stop(rig: Rig, findings: Findings) -> None:
    """The user stop is pressed in the middle of a move."""
    rig.ready()
    rig.swing()
    _check_reflex(rig, findings, rig.arm.stop_by_user)
    findings.check("user stop" in rig.last_error, "its name is in the diagnostics")
    findings.check(not rig.change("activate"), "activate is refused while it is pressed")
    rig.arm.let_go()
    rig.spin_for(0.1)
    check_recovery(rig, findings)
    check_ordinary_move(rig, findings)


@fault("the node is INACTIVE and reports it; not activated during guiding; one call recovers without a motion")
def guiding(rig: Rig, findings: Findings) -> None:
    """The guiding buttons are pressed in the middle of a move."""
    rig.ready()
    rig.swing()
    _check_reflex(rig, findings, rig.arm.guide)
    findings.check("guid" in rig.last_error, "its name is in the diagnostics")
    findings.check(not rig.change("activate"), "activate is refused during guiding")
    findings.check(rig.state == "inactive", f"the node is {rig.state}")
    rig.arm.let_go()
    rig.spin_for(0.1)
    check_recovery(rig, findings)
