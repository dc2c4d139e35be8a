"""The 1 kHz loop: read the state, compute the torque, write it; only then do everything else.

Runs in the control process, in its only thread, so nothing can hold the interpreter's lock while a torque is due. It
is paced by libfranka's ``readOnce`` alone: no timer, no sleep. It never waits for the node: if the commands cannot be
read at the moment, those of the cycle before stay in force.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable

import numpy as np

from aiofranka_ros.control import records
from aiofranka_ros.control.defaults import default_commands
from aiofranka_ros.control.incoming import Incoming, Words
from aiofranka_ros.control.law import cycle as control_cycle
from aiofranka_ros.control.law import report as cycle_report
from aiofranka_ros.control.law.memory import MEMORY, SCRATCH
from aiofranka_ros.control.law.motion import LONGEST_STOP
from aiofranka_ros.control.libfranka import LIBFRANKA_ERRORS, MeasuredViews, RobotConnection, RobotStateCopy, report_to
from aiofranka_ros.control.records import Hold, Mode, MotionStatus, Phase, command_word, new
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.errors import CommandRefused
from aiofranka_ros.kernels import entry_point
from aiofranka_ros.model import dynamics, fr3
from aiofranka_ros.model.kinematics import forward, quaternion_from_matrix

#: If the heartbeat stays away this much longer than ``heartbeat_timeout``, torque control ends [s].
SILENCE_GRACE = 0.5
#: At most this much of a cycle counts as silence of the node [ns]: after that long without a torque, a robot ends
#: torque control by itself.
_LONGEST_CYCLE = 20_000_000
#: How long to wait for commands that can be read [s]; writing them takes some microseconds.
_COMMANDS_TIMEOUT = 0.5
#: Torque control ends once all joints are slower than this [rad/s], but at the latest when the longest stop is over and
#: the arm had this long to follow [s]...
_REST_VELOCITY = 0.02
_FOLLOWING = 0.5
#: ...and never later than this [s], which is less than a node waits.
_REST_TIMEOUT = 4.0
#: A chunk of at most this size [bytes], 80 segments, e.g. 50 points with their seam and end, is read before the torque
#: of the cycle in which it arrives. That takes up to thirty microseconds, and it is in force a cycle earlier.
_READ_AT_ONCE = 28976
#: The reference of streamed targets brakes with a share of its acceleration and then approaches its end.
_REFERENCE_STOP = 2.0
#: Where fields of the commands are, in words.
_ACTIVATION, _MOTION_ID, _CHUNK_ID, _ROBOT_STATE_PERIOD, _HEARTBEAT_TIMEOUT = map(
    command_word, ("activation", "motion_id", "chunk_id", "robot_state_period", "heartbeat_timeout")
)


class End(enum.Enum):
    """Why the loop ended, if the robot did not end it."""

    ASKED = "asked"
    NODE_SILENT = "node_silent"
    NODE_GONE = "node_gone"


class ControlLoop:
    """The loop and its memory; one for each control process, whose node is process ``parent``."""

    def __init__(self, shared: SharedMemory, parent: int) -> None:
        self._shared = shared
        self._parent = parent
        # ``commands`` is the record of ``_current``.
        self._current, self._spare = Words(default_commands()), Words(default_commands())
        self.commands, self.measured = self._current.record, new(records.MEASURED)
        self.memory, self._scratch, self.state = new(MEMORY), new(SCRATCH), new(records.STATE)
        self.motions = Incoming(shared.motion, records.MOTION)
        self.chunks = Incoming(shared.chunk, records.CHUNK)
        self._rest_timeout = _REST_TIMEOUT
        self._views = MeasuredViews(self.measured)
        #: Copies from libfranka's state to ``state``.
        self.report_robot = report_to(self.state)
        self._state_bytes = self.state.view(np.uint8).data
        self._cycle_bytes = self._state_bytes[: records.CYCLE_RECORD.itemsize]
        self._robot_state, self._robot_state_cycle = RobotStateCopy(), 0
        self._copies = False
        self._report_kernel: Callable[..., None]

    def run(self, arm: RobotConnection, activation: int, started: Callable[[], None]) -> End:
        """Control the arm until the node asks to stop, falls silent or dies; then stop the arm and release it.

        :param activation: the node's number of this activation.
        :param started: called once, after the first torque was sent.
        :raises ControlStopped: the robot ended the motion: a reflex, lost packets, the user stop.
        :raises CommandRefused: the robot did not allow torque control.
        """
        shared, memory, measured, state = self._shared, self.memory, self.measured, self.state
        version = self._await_commands()
        # What they name belongs to an earlier activation.
        self.motions.reset(self._current.integers[_MOTION_ID])
        self.chunks.reset(self._current.integers[_CHUNK_ID])
        memory[:] = np.zeros(1, MEMORY)
        state["activation"], state["phase"] = activation, Phase.ACTIVE
        for field in ("cycles", "cycles_lost", "longest_gap", "response_total", "response_longest"):
            state[field] = 0
        state["success_rate_min"] = 1.0
        views, scratch, tau, motions, chunks = self._views, self._scratch, memory["tau"][0], self.motions, self.chunks
        step = entry_point(
            control_cycle.step, self.commands, motions.record, chunks.record, measured, memory, scratch, 0
        )
        self._report_kernel = entry_point(cycle_report.report, self.commands, measured, memory, state, 0, 0.0, 0.0)
        robot = arm.read()
        measured["external_wrench"] = robot.O_F_ext_hat_K
        first, stop = True, 0
        try:
            watch = _Watch(shared, self._parent, activation)
            self._note_commands(watch)
            control = arm.start_torque_control(robot, views)
            while True:
                robot, duration = control.read()
                arrived = time.monotonic_ns()
                control.measure(robot, duration)
                if first:
                    control.model(robot)
                # While the loop is ending, no command may make the arm move again.
                if watch.end is None:
                    if shared.commands.version != version:
                        version = self.read_commands(version)
                        self._note_commands(watch)
                    if motions.due is not None and control.now >= motions.due:
                        motions.switch()
                    if chunks.due is not None and control.now >= chunks.due:
                        chunks.switch()
                step(self.commands, motions.record, chunks.record, measured, memory, scratch, stop)
                if stop and watch.end is not None and self._has_stopped(watch, arrived):
                    control.finish(tau.tolist())
                    return watch.end
                control.write(tau.tolist())
                departed = time.monotonic_ns()

                # The torque was sent; the rest of the millisecond is left for what follows. The next cycle uses the
                # mass matrix of this one: within a millisecond a joint turns by at most a few thousandths of a radian.
                control.model(robot)
                self._report(robot, departed, departed - arrived)
                if motions.reading:
                    motions.read()
                if chunks.reading:
                    chunks.read()
                if watch.end is None:
                    stop = watch.reason(departed)
                    if watch.end is not None:
                        self._rest_timeout = self._longest_stop()
                if first:
                    first = False
                    started()
        except LIBFRANKA_ERRORS as error:
            raise arm.stopped(error) from error

    def _note_commands(self, watch: _Watch) -> None:
        """Note what new commands say about activation, heartbeat and copies, so that no cycle has to look it up."""
        taken = self._current
        watch.wanted, watch.timeout = taken.integers[_ACTIVATION], taken.numbers[_HEARTBEAT_TIMEOUT]
        self._copies = taken.integers[_ROBOT_STATE_PERIOD] > 0

    def _await_commands(self) -> int:
        """Read the commands before the first cycle; return their version."""
        end = time.monotonic() + _COMMANDS_TIMEOUT
        while (version := self.read_commands(0)) == 0:
            if time.monotonic() > end:
                raise CommandRefused("the node's commands could not be read: activate again")
            time.sleep(1e-3)  # Their writer may need this processor.
        return version

    def read_commands(self, version: int) -> int:
        """Use new commands if they can be read, else keep the present ones, which are ``version``.

        The motion or chunk that they name may take longer to read; the kernels wait for it.

        :returns: the version of the commands in force.
        """
        newest = self._shared.commands.version
        fresh = self._spare
        if not self._shared.commands.read(fresh.bytes):
            return version
        self._spare, self._current, self.commands = self._current, fresh, fresh.record
        if fresh.integers[_MOTION_ID] != self.motions.number:
            self.motions.expect(fresh.integers[_MOTION_ID])
        if fresh.integers[_CHUNK_ID] != self.chunks.number:
            self.chunks.expect(fresh.integers[_CHUNK_ID], _READ_AT_ONCE)
        return newest

    def _report(self, robot: object, departed: int, response: int) -> None:
        shared = self._shared
        self.report_robot(robot)
        self._report_kernel(
            self.commands, self.measured, self.memory, self.state,
            departed, response * 1e-9, robot.control_command_success_rate,  # type: ignore[attr-defined]
        )  # fmt: skip
        shared.cycles.append(self._cycle_bytes)
        shared.state.write(self._state_bytes)
        if self._copies:
            self.copy_all(robot, departed)

    def copy_all(self, robot: object, stamp: int) -> None:
        """Copy libfranka's state, measured at ``stamp`` [ns, monotonic], if the node asks for it and it is due."""
        period = self.commands["robot_state_period"][0]
        if period == 0:
            return
        cycle = round(robot.time.to_sec() / fr3.CYCLE)  # type: ignore[attr-defined]
        if 0 <= cycle - self._robot_state_cycle < period:  # The time of another robot may be earlier.
            return
        self._robot_state_cycle = cycle
        self._robot_state.fill(robot, stamp)
        self._shared.robot_states.append(self._robot_state.bytes)

    def _has_stopped(self, watch: _Watch, now: int) -> bool:
        moving = self.memory["motion_status"][0] in (MotionStatus.EXECUTING, MotionStatus.STOPPING)
        slow = np.abs(self.measured["dq"][0]).max() < _REST_VELOCITY
        return (slow and not moving) or now - watch.end_since > self._rest_timeout * 1e9

    def _longest_stop(self) -> float:
        """How long the arm may take to stop [s]: on its motion, or at its speed with the accelerations of targets."""
        commands, memory = self.commands[0], self.memory[0]
        speeds = memory["ref_dq"], memory["ref_linear"], memory["ref_angular"]
        limits = (commands[f"max_{kind}_acceleration"] for kind in ("joint", "linear", "angular"))
        streamed = max(float((np.abs(speed) / limit).max()) for speed, limit in zip(speeds, limits, strict=True))
        return min(max(LONGEST_STOP, _REFERENCE_STOP * streamed) + _FOLLOWING, _REST_TIMEOUT)


def load_kernels() -> None:
    """Compile every kernel of the cycle or load it from the cache, so that it does not delay a torque later."""
    commands, measured = default_commands(), new(records.MEASURED)
    motion, chunk = new(records.MOTION), new(records.CHUNK)
    memory, scratch = new(MEMORY), new(SCRATCH)
    measured["q"], measured["mass"], measured["elapsed"] = fr3.HOME, np.eye(7), fr3.CYCLE
    motion["segments"], motion["id"] = 1, 1
    for mode in Mode:
        commands["mode"] = mode
        commands["mode_id"] += 1
        for _ in range(3):
            commands["target_id"] += 1
            control_cycle.step(commands, motion, chunk, measured, memory, scratch, 0)
    commands["motion_id"] = 1
    control_cycle.step(commands, motion, chunk, measured, memory, scratch, int(Hold.FINISHING))
    views, bodies = MeasuredViews(measured), np.zeros((dynamics.BODIES, 10))
    dynamics.mass_and_coriolis(views.q, views.dq, bodies, dynamics.working_memory(), views.mass, views.coriolis)
    state = new(records.STATE)
    cycle_report.report(commands, measured, memory, state, 0, 0.0, 1.0)
    # For the state of an arm that is not active.
    forward(state["q"][0], commands["flange_to_tcp"][0], memory["flange"][0], state["tcp"][0], state["jacobian"][0])
    quaternion_from_matrix(state["tcp"][0], state["orientation"][0])


class _Watch:
    """Decides whether to follow the node: its heartbeat, the activation that it wants, whether it lives."""

    def __init__(self, shared: SharedMemory, parent: int, activation: int) -> None:
        self._shared, self._parent, self._activation = shared, parent, activation
        self._beat, self._silence, self._seen = shared.heartbeat, 0, time.monotonic_ns()
        #: The activation that the node wants, and how long it may be silent [s].
        self.wanted, self.timeout = activation, 0.0
        self.end: End | None = None
        self.end_since = 0

    def reason(self, now: int) -> int:
        """The reason not to follow the node in the next cycle, as a Hold flag; 0: follow it."""
        if self.end is not None:
            return int(Hold.FINISHING)
        beat = self._shared.heartbeat
        # While this process did not run, perhaps the node did not either, because the whole computer stood still. That
        # is no reason to release the arm when both continue; a robot that waited too long has stopped by itself.
        self._silence = 0 if beat != self._beat else self._silence + min(now - self._seen, _LONGEST_CYCLE)
        self._beat, self._seen = beat, now
        silence = 1e-9 * self._silence
        if self.wanted != self._activation:
            self.end = End.ASKED
        elif os.getppid() != self._parent:
            self.end = End.NODE_GONE
        elif silence > self.timeout + SILENCE_GRACE:
            self.end = End.NODE_SILENT
        if self.end is not None:
            self.end_since = now
            return int(Hold.FINISHING)
        return int(Hold.NODE_SILENT) if silence > self.timeout else 0
