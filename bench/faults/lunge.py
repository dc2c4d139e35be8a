"""Streams that are far away when a client gains or regains control: the arm approaches them slowly.

Everything is measured from the record of every control cycle.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from franka_msgs.action import ErrorRecovery
from geometry_msgs.msg import PoseStamped

from aiofranka_ros.control.records import Approach, Law
from aiofranka_ros.kernels import Array
from bench.faults.catalogue import fault
from bench.faults.processes import check_reflex
from bench.faults.rig import Findings, Rig
from bench.faults.walk import torque_violations

#: Highest speeds of the hand until it has met its stream [m/s], [rad/s]: a fifth above the settings.
LIMITS = (0.12, 0.36)
#: The stream is this far away [m], and turned by as much [rad].
_OFFSET, _TURN = np.array([0.05, 0.25, -0.2]), 0.6
#: Speeds are measured over this many cycles.
_WINDOW = 20
#: How long an approach may take [s].
_PATIENCE = 30.0


def speeds(cycles: npt.NDArray[Any]) -> tuple[Array, Array]:
    """Linear and angular speed of the hand [m/s], [rad/s] (n,) in recorded cycles, except during motions."""
    begin, end = cycles[:-_WINDOW], cycles[_WINDOW:]
    whole = (begin["activation"] == end["activation"]) & (begin["law"] != Law.MOTION) & (end["law"] != Law.MOTION)
    begin, end = begin[whole], end[whole]
    elapsed = end["time"] - begin["time"]
    linear = np.linalg.norm(end["position"] - begin["position"], axis=1) / elapsed
    cosine = np.abs(np.sum(end["orientation"] * begin["orientation"], axis=1)).clip(max=1.0)
    return linear, 2.0 * np.arccos(cosine) / elapsed


class _Stream:
    """One constant pose at 50 Hz, either where the arm was at the beginning, or far from there."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._poses = [rig.pose, rig.pose]
        far = self._poses[1].pose
        far.position.x += _OFFSET[0]
        far.position.y += _OFFSET[1]
        far.position.z += _OFFSET[2]
        _turn(far.orientation, _TURN)
        self._which, self._silent = 0, False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        timer = self._rig.node.create_timer(0.02, self._publish)
        try:
            yield
        finally:
            self._rig.node.destroy_timer(timer)

    def elsewhere(self) -> None:
        """From now on, stream the other pose."""
        self._which = 1 - self._which

    def pause(self, duration: float) -> None:
        """Be silent for ``duration`` [s]."""
        self._silent = True
        self._rig.spin_for(duration)
        self._silent = False

    def met(self) -> bool:
        """Wait until the arm follows the stream; return whether it does."""
        return self._rig.spin_until(
            lambda: (
                self._rig.observer.state()["approach"] == Approach.FOLLOWING
                and np.linalg.norm(self._rig.observer.state()["ref_position"] - self._position) < 1e-3
            ),
            _PATIENCE,
        )

    @property
    def _position(self) -> Array:
        p = self._poses[self._which].pose.position
        return np.array([p.x, p.y, p.z])

    def _publish(self) -> None:
        if self._silent:
            return
        pose: PoseStamped = self._poses[self._which]
        pose.header.stamp = self._rig.node.get_clock().now().to_msg()
        self._rig.publishers["ee_desired"].publish(pose)


def _turn(orientation: Any, angle: float) -> None:
    """Turn a quaternion in place, about the base's z axis."""
    s, c = math.sin(0.5 * angle), math.cos(0.5 * angle)
    x, y, z, w = orientation.x, orientation.y, orientation.z, orientation.w
    orientation.x, orientation.y, orientation.z, orientation.w = (
        c * x - s * y,
        c * y + s * x,
        c * z + s * w,
        c * w - s * z,
    )


def _activate_again(rig: Rig, stream: _Stream) -> None:
    rig.change("deactivate")
    stream.elsewhere()
    rig.spin_for(0.2)
    rig.activate()


def _recover(rig: Rig, stream: _Stream) -> None:
    rig.arm.touch([0.0, 0.0, 40.0], 0.2)
    rig.wait(lambda: rig.value("robot", "last error") != "", "no reflex")
    stream.elsewhere()
    rig.spin_for(0.2)
    recovery = rig.action(ErrorRecovery, f"{rig.name}/error_recovery")
    rig.wait(recovery.server_is_ready, "no action ~/error_recovery")
    rig.outcome(rig.result(recovery.send_goal_async(ErrorRecovery.Goal())))
    rig.activate()


def _release(rig: Rig, stream: _Stream) -> None:
    rig.trigger("hold")
    stream.elsewhere()
    rig.spin_for(0.2)
    rig.trigger("release")


def _end_of_a_move(rig: Rig, stream: _Stream) -> None:
    # It ends where the stream was, wherever that is.
    handle = rig.move(rig.arm_q() + np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3]))
    stream.elsewhere()
    rig.outcome(handle)


def _resume(rig: Rig, stream: _Stream) -> None:
    stream.pause(1.5)
    stream.elsewhere()


def _switch_back(rig: Rig, stream: _Stream) -> None:
    rig.set(mode="impedance")
    stream.elsewhere()
    rig.spin_for(0.2)
    rig.set(mode="osc")


_WAYS: dict[str, Callable[[Rig, _Stream], None]] = {
    "activation": _activate_again,
    "recovery": _recover,
    "release": _release,
    "end of a move": _end_of_a_move,
    "silence": _resume,
    "mode": _switch_back,
}


@fault("the arm approaches its stream slowly until it has met it, and the log and diagnostics say so; no reflex")
def far_stream(rig: Rig, findings: Findings) -> None:
    """A stream of one pose 0.32 m and 0.6 rad away when the arm is activated, recovers, is released, ends a move, after
    silence, and after another mode."""
    rig.ready()
    stream = _Stream(rig)
    with stream.running():
        findings.check(stream.met(), "a stream that begins where the arm is is followed at once")
        for name, regain in _WAYS.items():
            rig.take()
            said = len(rig.log)
            rig.mark()
            regain(rig, stream)
            says = rig.spin_until(lambda: "approaching" in rig.statuses["targets"].message, 5.0)
            met = stream.met()
            rig.spin_for(0.3)
            cycles = rig.take()
            linear, angular = (float(speed.max()) for speed in speeds(cycles))
            findings.check(
                met and linear <= LIMITS[0] and angular <= LIMITS[1],
                f"{name}: {linear:.3f} m/s, {angular:.2f} rad/s" + ("" if met else ", and its stream is not met"),
            )
            told = "approaching the targets" in rig.log[said:]
            if not (says and told):
                findings.check(False, f"{name}: diagnostics {says}, log {told}")
            for violation in torque_violations(cycles):
                findings.check(False, violation)
    check_reflex(rig, findings)
