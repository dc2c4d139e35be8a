"""Random walks of everything that a client may change while the arm moves, and the limits of every cycle."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.control.records import Law
from aiofranka_ros.model.fr3 import POSITION_LOWER, POSITION_UPPER, TORQUE_LIMIT, VELOCITY_LIMIT
from bench.faults.catalogue import fault
from bench.faults.processes import check_reflex
from bench.faults.rig import Findings, Rig

#: What the robot allows a torque to change from one cycle to the next: 1000 Nm/s [Nm].
STEP_LIMIT = 1.0
#: Below this success rate the robot did not use all commanded torques, and compares the next torque with the last one
#: that it used.
_WHOLE = 0.9999
_DEFAULTS = {setting.name: setting.default for setting in SETTINGS}
#: How often the walk takes a step [Hz].
_RATE = 50.0
_MODES = ("osc", "impedance", "pid", "torque", "free")


def torque_violations(cycles: npt.NDArray[Any]) -> list[str]:
    """Which of the robot's limits the torques of recorded control cycles exceed, as sentences."""
    found: list[str] = []
    if len(cycles) == 0:
        return found
    largest = np.abs(cycles["tau"]).max(axis=0)
    if (largest > TORQUE_LIMIT + 1e-9).any():
        found.append(f"a torque of {largest.max():.1f} Nm")
    if not np.isfinite(cycles["tau"]).all():
        found.append("a torque that is not finite")
    same = cycles["activation"][1:] == cycles["activation"][:-1]
    whole = same & (cycles["success_rate"][1:] >= _WHOLE) & (cycles["success_rate"][:-1] >= _WHOLE)
    steps = np.abs(np.diff(cycles["tau"], axis=0)).max(axis=1)[whole]
    if len(steps) and steps.max() > STEP_LIMIT + 1e-9:
        found.append(f"a torque changed by {steps.max():.2f} Nm within a cycle")
    return found


def violations(cycles: npt.NDArray[Any]) -> list[str]:
    """Which of the robot's limits recorded control cycles exceed, as sentences; empty if none."""
    found = torque_violations(cycles)
    if len(cycles) == 0:
        return found
    q = cycles["q"]
    if (q < POSITION_LOWER).any() or (q > POSITION_UPPER).any():
        found.append("a joint was beyond its limit")
    shares = np.abs(cycles["dq"]) / VELOCITY_LIMIT
    at, joint = np.unravel_index(shares.argmax(), shares.shape)
    if shares[at, joint] > 1.0:
        law = Law(int(cycles["law"][at])).name
        found.append(f"joint {joint + 1} at {100 * shares[at, joint]:.0f} % of its velocity limit, under the law {law}")
    return found


class Walk:
    """Random changes of targets, modes, gains and control frame, one per call."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self._rig = rig
        self._random = random.Random(seed)
        self._mode = "osc"
        self._pose = rig.pose
        self._q = rig.arm_q()
        self._centre = rig.arm_q()
        self._seen = time.monotonic()
        #: How many of each there have been.
        self.targets = self.switches = self.changes = 0

    def step(self) -> None:
        """One target, and sometimes another change."""
        draw = self._random.random()
        if draw < 0.01:
            self._switch()
        elif draw < 0.03:
            self._change_gains()
        elif draw < 0.04:
            self._change_frame()
        self._publish()

    def reset(self) -> None:
        """Restore all parameters."""
        names = ("kp", "kd", "ki", "ee_kp", "ee_kd", "null_kp", "null_kd", "motion_kp", "motion_kd", "free_axes")
        self._rig.set(mode="osc", tcp_from_robot=True, **{name: list(_DEFAULTS[name]) for name in names})

    def _switch(self) -> None:
        self._mode = self._random.choice(_MODES)
        self._rig.set(mode=self._mode)
        self._restart()
        self.switches += 1

    def _restart(self) -> None:
        self._pose = self._rig.pose
        self._q = self._rig.arm_q()

    def _change_gains(self) -> None:
        """Set all gains to 1/3 to 3/2 of their defaults, with matching damping."""
        stiffness = [self._random.uniform(0.33, 1.5) for _ in range(4)]
        values: dict[str, list[float]] = {}
        for (spring, damper), scale in zip(
            (("kp", "kd"), ("ee_kp", "ee_kd"), ("null_kp", "null_kd"), ("motion_kp", "motion_kd")),
            stiffness,
            strict=True,
        ):
            values[spring] = [scale * value for value in _DEFAULTS[spring]]
            values[damper] = [scale**0.5 * value for value in _DEFAULTS[damper]]
        values["ki"] = [self._random.uniform(0.0, 1.0) * value for value in _DEFAULTS["ki"]]
        axes: list[str] = [axis for axis in _DEFAULTS["free_axes"] if self._random.random() < 0.5]
        self._rig.set(free_axes=axes, **values)
        self.changes += 1

    def _change_frame(self) -> None:
        """Move the control frame up to 15 cm from the flange, in any orientation."""
        position = [self._random.uniform(-0.15, 0.15) for _ in range(3)]
        turn = np.array([self._random.gauss(0.0, 1.0) for _ in range(4)])
        turn /= np.linalg.norm(turn)
        self._rig.set(tcp_from_robot=False, tcp_in_flange=position + turn.tolist())
        self._restart()
        self.changes += 1

    def _publish(self) -> None:
        rig = self._rig
        if time.monotonic() - self._seen > 0.5:  # Stay near the arm.
            self._seen = time.monotonic()
            self._q = 0.5 * self._q + 0.5 * rig.arm_q()
        if self._mode == "osc":
            if self._random.random() < 0.02:
                self._pose = rig.pose
            position, turn = self._pose.pose.position, self._pose.pose.orientation
            position.x += self._random.gauss(0.0, 0.004)
            position.y += self._random.gauss(0.0, 0.004)
            position.z += self._random.gauss(0.0, 0.004)
            quaternion = np.array([turn.x, turn.y, turn.z, turn.w])
            quaternion += [self._random.gauss(0.0, 0.01) for _ in range(4)]
            quaternion /= np.linalg.norm(quaternion)
            turn.x, turn.y, turn.z, turn.w = quaternion.tolist()
            self._pose.header.stamp = rig.node.get_clock().now().to_msg()
            rig.publishers["ee_desired"].publish(self._pose)
        elif self._mode == "torque":
            # Small, and towards the start of the walk, so that it stays away from the limits.
            back = np.clip(20.0 * (self._centre - rig.arm_q()), -4.0, 4.0)
            message = rig.joints(rig.arm_q())
            message.position = []
            message.effort = [float(x) + self._random.gauss(0.0, 1.0) for x in back]
            rig.publishers["torque_desired"].publish(message)
        elif self._mode == "free":
            return  # It takes no targets.
        else:
            self._q = self._q + np.array([self._random.gauss(0.0, 0.012) for _ in range(7)])
            self._q += 0.01 * (self._centre - self._q)
            rig.publishers["q_desired"].publish(rig.joints(self._q))
        self.targets += 1


@fault("no reflex; torques, their rate and the joints within limits in every cycle")
def random_walk(rig: Rig, findings: Findings) -> None:
    """Two minutes of random walks of targets, modes, gains and control frame at once."""
    rig.ready()
    walk = Walk(rig, rig.options.seed)
    rig.take()
    rig.mark()
    duration = 60.0 * rig.options.minutes
    begin = time.monotonic()
    cycles = []
    tick = 0
    while (elapsed := time.monotonic() - begin) < duration:
        walk.step()
        tick += 1
        rig.progress(elapsed / duration)
        rig.spin_until(lambda: time.monotonic() >= begin + tick / _RATE, 1.0, period=0.005)  # noqa: B023
        if tick % 250 == 0:
            cycles.append(rig.take())
            if rig.value("robot", "last error"):
                break
    walk.reset()
    cycles.append(rig.take())
    recorded = np.concatenate(cycles)
    findings.note(f"{walk.targets} targets, {walk.switches} switches, {walk.changes} changes, seed {rig.options.seed}")
    findings.check(rig.value("robot", "last error") == "", f"last error: {rig.last_error}")
    check_reflex(rig, findings)
    findings.check(rig.observer.unread == 0, f"{len(recorded)} cycles recorded, {rig.observer.unread} not")
    exceeded = violations(recorded)
    share = np.abs(recorded["tau"]).max(axis=0) / TORQUE_LIMIT
    text = f"largest torque {100 * share.max():.0f} % of its limit, all within limits"
    findings.check(not exceeded, ", ".join(exceeded) or text)
    findings.check(rig.state == "active", f"the node is {rig.state}")
