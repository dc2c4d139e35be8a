"""The 1 kHz loop: read the state, compute the torque, write it; then, and only then, everything else.

Runs in the control process, in its only thread, so nothing can hold the interpreter's lock while a torque is due. It
is paced by libfranka's ``readOnce`` and by nothing else: no timer, no sleep. It never waits for the node: commands
that cannot be read just now are those of the cycle before.
"""

from __future__ import annotations

import enum
import gc
import math
import os
import time
from collections.abc import Callable

import numpy as np

from aiofranka_ros import control_cycle, fr3
from aiofranka_ros.arm import Arm, MeasuredViews, RobotStateCopy, TorqueControl
from aiofranka_ros.errors import CommandRefused
from aiofranka_ros.kinematics import forward, quaternion_from_matrix
from aiofranka_ros.records import (
    COMMANDS,
    CYCLE_RECORD,
    MEASURED,
    MEMORY,
    MOTION,
    SCRATCH,
    STATE,
    Hold,
    Mode,
    MotionStatus,
    Phase,
    new,
)
from aiofranka_ros.shared_memory import SharedMemory

#: A node that stays silent this much longer than its heartbeat's timeout has lost the arm: the motion ends [s].
SILENCE_GRACE = 0.5
#: Fastest joint at which torque control may end [rad/s], and how long the arm gets to become that slow [s].
_REST_VELOCITY = 0.02
_REST_TIMEOUT = 1.5


class End(enum.Enum):
    """Why the loop ended without the robot ending it."""

    ASKED = "asked"
    NODE_SILENT = "node_silent"
    NODE_GONE = "node_gone"


class ControlLoop:
    """The loop and its memory; one for each control process.

    :param shared: the memory shared with the node.
    :param parent: process id of the node.
    """

    def __init__(self, shared: SharedMemory, parent: int) -> None:
        self._shared = shared
        self._parent = parent
        self.commands, self.motion, self.measured = new(COMMANDS), new(MOTION), new(MEASURED)
        self.memory, self._scratch, self.state = new(MEMORY), new(SCRATCH), new(STATE)
        self._next_commands = new(COMMANDS)
        # A motion that replaces another waits here until its time, because that one goes on until then.
        self._next_motion, self._due = new(MOTION), math.inf
        self._views = MeasuredViews(self.measured)
        self._robot_state, self._robot_state_cycle = RobotStateCopy(), 0

    def run(self, arm: Arm, activation: int, started: Callable[[], None]) -> End:
        """Control the arm until the node asks to stop, falls silent or dies; then leave the arm at rest and released.

        :param activation: the node's number of this activation.
        :param started: called once, after the first torque was sent.
        :raises ControlStopped: the robot ended the motion: a reflex, lost packets, the user stop.
        :raises CommandRefused: the robot did not allow torque control.
        """
        shared, commands, memory, measured, state = (
            self._shared, self.commands, self.memory, self.measured, self.state,
        )  # fmt: skip
        if not shared.commands.read(commands):
            raise CommandRefused("the node's commands could not be read")
        version = shared.commands.version
        memory[:] = np.zeros(1, MEMORY)
        state["activation"], state["phase"] = activation, Phase.ACTIVE
        for field in ("cycles", "cycles_lost", "longest_gap"):
            state[field] = 0
        state["success_rate_min"] = 1.0
        measured["time"] = arm.read().time.to_sec()
        tau = memory["tau"][0]
        first, stop = True, 0
        self._due = math.inf
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            control = arm.start_torque_control()
            watch = _Watch(shared, self._parent, activation)
            while True:
                robot, duration = control.read()
                arrived = time.perf_counter_ns()
                control.measure(robot, duration, self._views)
                if first:
                    control.model(robot, self._views)
                # Once the end has come, nothing that the node still says may set the arm in motion again.
                if watch.end is None:
                    if shared.commands.version != version:
                        version = self._take_commands(version)
                    if self._views.time[0] >= self._due:
                        self._take_motion()
                control_cycle.step(self.commands, self.motion, measured, memory, self._scratch, stop)
                if stop and watch.end is not None and self._at_rest(watch, arrived):
                    control.finish(tau.tolist())
                    return watch.end
                control.write(tau.tolist())
                departed, written = time.perf_counter_ns(), time.time_ns()

                # The torque is on its way; what follows has the rest of the millisecond. The next cycle uses the mass
                # matrix of this one: within a millisecond the arm turns by a few thousandths of a radian at the most.
                control.model(robot, self._views)
                self._report(robot, written, departed - arrived)
                stop = watch.reason(self.commands, departed)
                if first:
                    first = False
                    started()
        except TorqueControl.Ended as error:
            raise arm.stopped(error) from error
        finally:
            gc.enable()
            gc.unfreeze()

    def _take_commands(self, version: int) -> int:
        """Take new commands whole, with the motion that they speak of; else keep the ones there are.

        :returns: the version of the commands that are in force.
        """
        newest = self._shared.commands.version
        fresh = self._next_commands
        if not self._shared.commands.read(fresh):
            return version
        number = fresh["motion_id"][0]
        if number not in (self.motion["id"][0], self._next_motion["id"][0]):
            whole = self._shared.motion.read(self._next_motion)
            if not whole or self._next_motion["id"][0] != number:
                # Half read, or the node is already writing the next one: its commands will follow.
                self._next_motion["id"] = 0
                return version
            self._due = float(self._next_motion["start"][0])
        self.commands, self._next_commands = fresh, self.commands
        return newest

    def _take_motion(self) -> None:
        self._due = math.inf
        self.motion, self._next_motion = self._next_motion, self.motion

    def _report(self, robot: object, written: int, response: int) -> None:
        shared, state = self._shared, self.state
        record = shared.cycles.next()
        control_cycle.report(
            self.commands, self.measured, self.memory, state, record,
            written, response * 1e-9, robot.control_command_success_rate,  # type: ignore[attr-defined]
        )  # fmt: skip
        shared.cycles.commit()
        copy_robot_state(robot, state)
        self.measured["external_wrench"] = state["external_wrench"]
        shared.state.write(state)
        self.copy_all(robot, written)

    def copy_all(self, robot: object, stamp: int) -> None:
        """Copy all that libfranka says of the robot for the node, where it asks for that and the time has come.

        :param robot: libfranka's state.
        :param stamp: when it was measured [ns, system clock].
        """
        period = self.commands["robot_state_period"][0]
        if period == 0:
            return
        cycle = round(robot.time.to_sec() / fr3.CYCLE)  # type: ignore[attr-defined]
        if 0 <= cycle - self._robot_state_cycle < period:  # Another robot's time may be an earlier one.
            return
        self._robot_state_cycle = cycle
        self._robot_state.take(robot, stamp)
        self._shared.robot_states.next()[:] = self._robot_state.record
        self._shared.robot_states.commit()

    def _at_rest(self, watch: _Watch, now: int) -> bool:
        moving = self.memory["motion_status"][0] in (MotionStatus.EXECUTING, MotionStatus.STOPPING)
        slow = np.abs(self.measured["dq"][0]).max() < _REST_VELOCITY
        return (slow and not moving) or now - watch.end_since > _REST_TIMEOUT * 1e9


def warm_up() -> None:
    """Compile every kernel of the cycle, or load it from the cache: not to happen while a torque is due."""
    commands, measured, motion = new(COMMANDS), new(MEASURED), new(MOTION)
    memory, scratch = new(MEMORY), new(SCRATCH)
    measured["q"], measured["mass"], measured["elapsed"] = fr3.HOME, np.eye(7), fr3.CYCLE
    commands["flange_to_tcp"], commands["reference_bandwidth"] = np.eye(4), 1.0
    commands["max_joint_acceleration"] = commands["max_linear_acceleration"] = 1.0
    commands["max_angular_acceleration"] = commands["extrapolation_time"] = 1.0
    commands["target_orientation"][0, 3] = 1.0
    commands["joint_lower"], commands["joint_upper"] = fr3.POSITION_LOWER, fr3.POSITION_UPPER
    motion["segments"], motion["id"] = 1, 1
    for mode in Mode:
        commands["mode"] = mode
        commands["mode_id"] += 1
        for _ in range(3):
            commands["target_id"] += 1
            control_cycle.step(commands, motion, measured, memory, scratch, 0)
    commands["motion_id"] = 1
    control_cycle.step(commands, motion, measured, memory, scratch, int(Hold.FINISHING))
    state = new(STATE)
    control_cycle.report(commands, measured, memory, state, new(CYCLE_RECORD), 0, 0.0, 1.0)
    # What the control process reports of an arm that is not active.
    forward(state["q"][0], commands["flange_to_tcp"][0], memory["flange"][0], memory["tcp"][0], state["jacobian"][0])
    quaternion_from_matrix(memory["tcp"][0], state["orientation"][0])


class _Watch:
    """Whether the node is still to be followed: its heartbeat, its wish, its life."""

    def __init__(self, shared: SharedMemory, parent: int, activation: int) -> None:
        self._shared, self._parent, self._activation = shared, parent, activation
        self._beat, self._beaten = shared.heartbeat, time.perf_counter_ns()
        self.end: End | None = None
        self.end_since = 0

    def reason(self, commands: np.ndarray, now: int) -> int:
        """The reason not to follow the node in the next cycle, as a Hold flag; 0: there is none."""
        if self.end is not None:
            return int(Hold.FINISHING)
        beat = self._shared.heartbeat
        if beat != self._beat:
            self._beat, self._beaten = beat, now
        silence = 1e-9 * (now - self._beaten)
        timeout = commands["heartbeat_timeout"][0]
        if commands["activation"][0] != self._activation:
            self.end = End.ASKED
        elif os.getppid() != self._parent:
            self.end = End.NODE_GONE
        elif silence > timeout + SILENCE_GRACE:
            self.end = End.NODE_SILENT
        if self.end is not None:
            self.end_since = now
            return int(Hold.FINISHING)
        return int(Hold.NODE_SILENT) if silence > timeout else 0


def copy_robot_state(robot: object, state: np.ndarray) -> None:
    """Copy from libfranka's state what is reported but not computed with."""
    state["robot_mode"] = robot.robot_mode.value  # type: ignore[attr-defined]
    state["tau_measured"][0] = robot.tau_J  # type: ignore[attr-defined]
    state["tau_external"][0] = robot.tau_ext_hat_filtered  # type: ignore[attr-defined]
    state["external_wrench"][0] = robot.O_F_ext_hat_K  # type: ignore[attr-defined]
