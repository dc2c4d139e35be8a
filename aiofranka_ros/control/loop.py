"""The 1 kHz loop: read the state, compute the torque, write it; then, and only then, everything else.

Runs in the control process, in its only thread, so nothing can hold the interpreter's lock while a torque is due. It
is paced by libfranka's ``readOnce`` and by nothing else: no timer, no sleep. It never waits for the node: commands
that cannot be read just now are those of the cycle before.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable

import numpy as np

from aiofranka_ros.control.defaults import default_commands
from aiofranka_ros.control.law import cycle as control_cycle
from aiofranka_ros.control.libfranka import Arm, MeasuredViews, RobotReport, RobotStateCopy, TorqueControl
from aiofranka_ros.control.records import (
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
    command_word,
    new,
)
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.errors import CommandRefused
from aiofranka_ros.kernels import entry_point
from aiofranka_ros.model import dynamics, fr3
from aiofranka_ros.model.kinematics import forward, quaternion_from_matrix

#: A node that stays silent this much longer than its heartbeat's timeout has lost the arm: the motion ends [s].
SILENCE_GRACE = 0.5
#: As much of a cycle counts as silence of the node [ns]: so long without a torque, and a robot ends the motion itself.
_LONGEST_CYCLE = 20_000_000
#: Fastest joint at which torque control may end [rad/s], and how long the arm gets to become that slow [s].
_REST_VELOCITY = 0.02
_REST_TIMEOUT = 1.5
#: Where fields of the commands are, in words.
_ACTIVATION, _MOTION_ID, _ROBOT_STATE_PERIOD, _HEARTBEAT_TIMEOUT = map(
    command_word, ("activation", "motion_id", "robot_state_period", "heartbeat_timeout")
)


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
        # ``commands`` is the record of ``_taken``; ``_motion_id`` is the number of ``motion``, or of one that is over.
        self._taken, self._fresh = _Commands(), _Commands()
        self.commands, self.motion, self.measured = self._taken.record, new(MOTION), new(MEASURED)
        self.memory, self._scratch, self.state = new(MEMORY), new(SCRATCH), new(STATE)
        # A motion that replaces another waits here until its time (of the robot, [s]): that one goes on until then.
        self._next_motion = new(MOTION)
        self._due: float | None = None
        self._motion_id = self._next_motion_id = 0
        self._views = MeasuredViews(self.measured)
        #: Fills ``state`` with what comes from the robot alone.
        self.robot_report = RobotReport(self.state)
        self._state_bytes = self.state.view(np.uint8).data
        self._cycle_bytes = self._state_bytes[: CYCLE_RECORD.itemsize]
        self._robot_state, self._robot_state_cycle = RobotStateCopy(), 0
        self._copies = False
        self._report_kernel: Callable[..., None]

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
        version = shared.commands.version
        if not shared.commands.read(commands):
            raise CommandRefused("the node's commands could not be read")
        # The motion that they speak of, if any, was one of before.
        self._motion_id, self._next_motion_id, self._due = self._taken.integers[_MOTION_ID], 0, None
        memory[:] = np.zeros(1, MEMORY)
        state["activation"], state["phase"] = activation, Phase.ACTIVE
        for field in ("cycles", "cycles_lost", "longest_gap"):
            state[field] = 0
        state["success_rate_min"] = 1.0
        views, scratch, tau = self._views, self._scratch, memory["tau"][0]
        step = entry_point(control_cycle.step, commands, self.motion, measured, memory, scratch, 0)
        self._report_kernel = entry_point(control_cycle.report, commands, measured, memory, state, 0, 0.0, 0.0)
        robot = arm.read()
        measured["external_wrench"] = robot.O_F_ext_hat_K
        first, stop = True, 0
        try:
            watch = _Watch(shared, self._parent, activation)
            self._note_wishes(watch)
            control = arm.start_torque_control(robot, views)
            while True:
                robot, duration = control.read()
                arrived = time.perf_counter_ns()
                control.measure(robot, duration)
                if first:
                    control.model(robot)
                # Once the end has come, nothing that the node still says may set the arm in motion again.
                if watch.end is None:
                    if shared.commands.version != version:
                        version = self._take_commands(version)
                        self._note_wishes(watch)
                    if self._due is not None and control.now >= self._due:
                        self._take_motion()
                step(self.commands, self.motion, measured, memory, scratch, stop)
                if stop and watch.end is not None and self._at_rest(watch, arrived):
                    control.finish(tau.tolist())
                    return watch.end
                control.write(tau.tolist())
                departed, written = time.perf_counter_ns(), time.time_ns()

                # The torque is on its way; what follows has the rest of the millisecond. The next cycle uses the mass
                # matrix of this one: within a millisecond the arm turns by a few thousandths of a radian at the most.
                control.model(robot)
                self._report(robot, written, departed - arrived)
                stop = watch.reason(departed)
                if first:
                    first = False
                    started()
        except TorqueControl.Ended as error:
            raise arm.stopped(error) from error

    def _note_wishes(self, watch: _Watch) -> None:
        """Note what new commands say of activation, heartbeat and copies: not to be looked up in every cycle."""
        taken = self._taken
        watch.wish, watch.timeout = taken.integers[_ACTIVATION], taken.numbers[_HEARTBEAT_TIMEOUT]
        self._copies = taken.integers[_ROBOT_STATE_PERIOD] > 0

    def _take_commands(self, version: int) -> int:
        """Take new commands whole, with the motion that they speak of; else keep the ones there are.

        :returns: the version of the commands that are in force.
        """
        newest = self._shared.commands.version
        fresh = self._fresh
        if not self._shared.commands.read(fresh.bytes):
            return version
        number = fresh.integers[_MOTION_ID]
        if number != self._motion_id and number != self._next_motion_id:
            whole = self._shared.motion.read(self._next_motion)
            if not whole or self._next_motion["id"][0] != number:
                # Half read, or the node is already writing the next one: its commands will follow.
                self._next_motion["id"] = self._next_motion_id = 0
                self._due = None
                return version
            self._next_motion_id, self._due = number, float(self._next_motion["start"][0])
        self._fresh, self._taken, self.commands = self._taken, fresh, fresh.record
        return newest

    def _take_motion(self) -> None:
        self._due = None
        self.motion, self._next_motion = self._next_motion, self.motion
        self._motion_id, self._next_motion_id = self._next_motion_id, self._motion_id

    def _report(self, robot: object, written: int, response: int) -> None:
        shared = self._shared
        self.robot_report.take(robot)
        self._report_kernel(
            self.commands, self.measured, self.memory, self.state,
            written, response * 1e-9, robot.control_command_success_rate,  # type: ignore[attr-defined]
        )  # fmt: skip
        shared.cycles.append(self._cycle_bytes)
        shared.state.write(self._state_bytes)
        if self._copies:
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
        self._shared.robot_states.append(self._robot_state.bytes)

    def _at_rest(self, watch: _Watch, now: int) -> bool:
        moving = self.memory["motion_status"][0] in (MotionStatus.EXECUTING, MotionStatus.STOPPING)
        slow = np.abs(self.measured["dq"][0]).max() < _REST_VELOCITY
        return (slow and not moving) or now - watch.end_since > _REST_TIMEOUT * 1e9


def warm_up() -> None:
    """Compile every kernel of the cycle, or load it from the cache: not to happen while a torque is due."""
    commands, measured, motion = default_commands(), new(MEASURED), new(MOTION)
    memory, scratch = new(MEMORY), new(SCRATCH)
    measured["q"], measured["mass"], measured["elapsed"] = fr3.HOME, np.eye(7), fr3.CYCLE
    motion["segments"], motion["id"] = 1, 1
    for mode in Mode:
        commands["mode"] = mode
        commands["mode_id"] += 1
        for _ in range(3):
            commands["target_id"] += 1
            control_cycle.step(commands, motion, measured, memory, scratch, 0)
    commands["motion_id"] = 1
    control_cycle.step(commands, motion, measured, memory, scratch, int(Hold.FINISHING))
    views, bodies = MeasuredViews(measured), np.zeros((dynamics.BODIES, 10))
    dynamics.mass_and_coriolis(views.q, views.dq, bodies, dynamics.working_memory(), views.mass, views.coriolis)
    state = new(STATE)
    control_cycle.report(commands, measured, memory, state, 0, 0.0, 1.0)
    # What the control process reports of an arm that is not active.
    forward(state["q"][0], commands["flange_to_tcp"][0], memory["flange"][0], state["tcp"][0], state["jacobian"][0])
    quaternion_from_matrix(state["tcp"][0], state["orientation"][0])


class _Commands:
    """A record of the node's commands, and quick ways into it: numpy takes some microseconds to look a field up."""

    def __init__(self) -> None:
        self.record = new(COMMANDS)
        self.bytes = self.record.view(np.uint8).data
        self.integers, self.numbers = self.bytes.cast("Q"), self.bytes.cast("d")


class _Watch:
    """Whether the node is still to be followed: its heartbeat, its wish, its life."""

    def __init__(self, shared: SharedMemory, parent: int, activation: int) -> None:
        self._shared, self._parent, self._activation = shared, parent, activation
        self._beat, self._silence, self._seen = shared.heartbeat, 0, time.perf_counter_ns()
        #: The activation that the node wishes, and how long it may be silent [s].
        self.wish, self.timeout = activation, 0.0
        self.end: End | None = None
        self.end_since = 0

    def reason(self, now: int) -> int:
        """The reason not to follow the node in the next cycle, as a Hold flag; 0: there is none."""
        if self.end is not None:
            return int(Hold.FINISHING)
        beat = self._shared.heartbeat
        # While this process stood still, so did the node perhaps, with the whole computer. That is nothing to release
        # the arm for when both go on; a robot that has waited for too long has stopped by itself.
        self._silence = 0 if beat != self._beat else self._silence + min(now - self._seen, _LONGEST_CYCLE)
        self._beat, self._seen = beat, now
        silence = 1e-9 * self._silence
        if self.wish != self._activation:
            self.end = End.ASKED
        elif os.getppid() != self._parent:
            self.end = End.NODE_GONE
        elif silence > self.timeout + SILENCE_GRACE:
            self.end = End.NODE_SILENT
        if self.end is not None:
            self.end_since = now
            return int(Hold.FINISHING)
        return int(Hold.NODE_SILENT) if silence > self.timeout else 0
