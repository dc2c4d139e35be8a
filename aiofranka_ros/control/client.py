"""The node's interface to its control process: start it, tell it what to do, read what it measured.

Used by the node, and by everything that drives an arm without ROS. Requests that take time block the calling thread and
keep the heartbeat going; everything that concerns the running arm goes through shared memory, returns at once and may
be called from any thread.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiofranka_ros.control.forks import belongs_to_this_process
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.control.process_handle import Message, ProcessHandle, exception_from
from aiofranka_ros.control.realtime import PRIORITY
from aiofranka_ros.control.records import CHUNK, MAX_CHUNK_SEGMENTS, MOTION, STATE, Mode, Phase, new
from aiofranka_ros.control.robot_records import RobotSetting
from aiofranka_ros.control.shared_memory import SharedMemory, fill_path, path_size
from aiofranka_ros.control.targets import TargetCommands
from aiofranka_ros.errors import ConnectionFailed, ControlProcessDied, ControlStopped, FrankaError, Interrupted
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.processes import NEVER, StopRequest

_log = logging.getLogger(__name__)

#: How long the control process may take to end before it is killed: with an active arm, and otherwise [s].
_STOP_PATIENCE, _IDLE_PATIENCE = 5.0, 1.0


@dataclass(frozen=True)
class Ended:
    """The loop ended."""

    reason: str  #: ``asked``, ``node_silent``, ``node_gone``, ``robot`` or ``connection``
    error: FrankaError | None  #: what happened, unless the caller asked for the end


class ControlClient(TargetCommands):
    """A control process and the arm that it drives. Use it in ``with``, or :meth:`start` and :meth:`close` it.

    The commands (:data:`~aiofranka_ros.control.records.COMMANDS`) start as
    :func:`~aiofranka_ros.control.defaults.default_commands`. Each method that changes some of them sends them all, and
    they take effect together at the beginning of the next cycle.

    In a forked child, the client's copy has no control process: the arm belongs to the process that started it.

    :param priority: SCHED_FIFO priority of the control process; 0: none.
    """

    def __init__(self, *, priority: int = PRIORITY) -> None:
        super().__init__()
        self._priority = priority
        self._process: ProcessHandle | None = None
        self._shared: SharedMemory | None = None
        self._motion, self._chunk, self._state = new(MOTION), new(CHUNK), new(STATE)
        self._sent = bytes(self._bytes)  # What was written last; a write that an exception interrupted does not count.
        #: Whether the control process starts, and has to compile its kernels first.
        self.compiling = False
        self._activation = 0
        self._robot_states_seen = 0
        self._why_gone = "the control process is not running"
        belongs_to_this_process(self)

    @property
    def shared(self) -> SharedMemory:
        """The memory shared with the control process; ``ControlProcessDied`` if that is not running."""
        if self._shared is None:
            raise ControlProcessDied(self._why_gone)
        return self._shared

    @property
    def missing(self) -> list[str]:
        """What prevents real-time scheduling of the control process, one sentence each."""
        return [] if self._process is None else self._process.missing

    @property
    def pid(self) -> int | None:
        """Process id of the control process; ``None`` if it is not running."""
        return None if self._process is None else self._process.pid

    def start(
        self, timeout: float = 180.0, *, stop: StopRequest = NEVER, on_compiling: Callable[[], object] = lambda: None
    ) -> None:
        """Start the control process and wait until it is ready, which takes long only if it must compile its kernels.

        After a failure, nothing of it is left.

        :param on_compiling: called if it has to; :attr:`compiling` is true until it is ready.
        :raises Interrupted: ``stop`` was requested.
        :raises ControlProcessDied: it ended while it started.
        :raises TimeoutError: it was not ready in time.
        """
        try:
            self._shared = SharedMemory.create()
            self._activation = self._robot_states_seen = 0
            self._commands["activation"] = 0
            self._send()
            self._process = ProcessHandle(self._shared, self._priority)
            ready = self._process.wait(_compiling_or_ready, timeout, "become ready", stop)
            if ready["event"] == "compiling":
                self.compiling = True
                on_compiling()
                self._process.wait(_compiling_or_ready, timeout, "become ready", stop)
        except BaseException:
            self.close()
            raise
        finally:
            self.compiling = False

    def connect(
        self, address: str, *, cpu: int | None = None, timeout: float = 30.0, stop: StopRequest = NEVER
    ) -> Message:
        """Connect to the robot at ``address``.

        :param cpu: the CPU to drive it on, if real-time scheduling is permitted; ``None``: any.
        :returns: ``library_version``, ``protocol_version``, and ``cpu``, which is ``None`` for any.
        :raises ConnectionFailed: no robot answers, its FCI is not active, or (``IncompatibleRobot``) it speaks
            another protocol version.
        :raises ArmInUse: another process on this machine already drives it.
        :raises ControlProcessDied: the control process is gone.
        :raises Interrupted: ``stop`` was requested; the control process is gone, too.
        """
        try:
            return self._running.request("connect", timeout, stop, address=address, cpu=cpu)
        except Interrupted:
            self.close()
            raise
        except TimeoutError:
            # libfranka waits for a minute if another client holds the robot; killing the process ends that.
            self.close()
            raise ConnectionFailed(
                f"no answer from the robot at {address} within {timeout:.0f} s: is another program connected to it?"
            ) from None

    def activate(self, timeout: float = 10.0, *, stop: StopRequest = NEVER) -> bool:
        """Clear a reflex if there is one, take torque control and hold where the arm is.

        :returns: whether a reflex was cleared.
        :raises CommandRefused: the robot did not allow it.
        :raises ControlStopped: it stopped at once.
        :raises Interrupted: ``stop`` was requested; the control process is gone, and released the arm first.
        """
        with self._lock:
            self._activation += 1
            commands = self._commands
            commands["activation"] = self._activation
            # Earlier targets, chunks and motions do not count any more: the arm must hold, not return to an old target.
            commands["mode_id"] += 1
            commands["motion_stop"] = commands["motion_release"] = commands["motion_id"]
            self.beat()
            self._send()
        try:
            reply = self._running.request("activate", timeout, stop, activation=self._activation)
        except Interrupted:
            self.close()
            raise
        except BaseException:
            # The process may still carry the request out; the arm must then be released at once.
            with contextlib.suppress(ControlProcessDied):
                self.update({"activation": 0})
            raise
        return bool(reply["recovered"])

    def deactivate(self, timeout: float = 5.0) -> None:
        """Stop smoothly and release the arm; does nothing if it is not active.

        :raises ControlStopped: the robot stopped first.
        :raises ControlProcessDied: the control process is gone.
        :raises TimeoutError: the arm was not released in time.
        """
        if self._shared is None:
            return
        active = self.phase is Phase.ACTIVE
        self.update({"activation": 0})  # Also for an activation that was interrupted and is still to begin.
        if not active:
            return
        ended = {"event": "ended", "activation": self._activation}
        message = self._running.wait(lambda message: ended.items() <= message.items(), timeout, "release the arm")
        if (error := _ended(message).error) is not None:
            raise error

    def set_robot(self, setting: RobotSetting, *values: Any, timeout: float = 5.0) -> None:
        """Set something in the robot itself; only while it is not active.

        :param values: what libfranka's command takes: numbers and arrays of numbers.
        :raises CommandRefused: the robot does not accept it.
        :raises ConnectionFailed: there is no robot.
        """
        numbers = [np.asarray(value, dtype=float).tolist() for value in values]
        self._running.request("set", timeout, setting=setting.value, values=numbers)

    def close(self) -> None:
        """End the control process; an active arm stops first. Idempotent, raises nothing but what interrupts it."""
        # Only an active arm needs time, to stop; a process that starts or connects may not hear of the end.
        active = self.activation != 0 or self.phase is Phase.ACTIVE
        try:
            if self._process is not None:
                self.update({"activation": 0})
        finally:  # Without that command, the arm stops because there are no more heartbeats.
            process, self._process = self._process, None
            shared, self._shared = self._shared, None
            try:
                if process is not None and not process.close(_STOP_PATIENCE if active else _IDLE_PATIENCE) and active:
                    _log.warning("the control process did not stop the arm within %g s: killed it", _STOP_PATIENCE)
            finally:
                if shared is not None:
                    shared.close()

    def abandon(self) -> None:
        """In a forked child: forget the control process, so that nothing here stops or moves the parent's arm."""
        self._why_gone = "the arm belongs to the process that started it, and this is a fork of that process"
        self._lock = threading.RLock()  # Another thread of the parent may have held it.
        process, self._process = self._process, None
        if process is not None:
            process.abandon()
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()

    def beat(self) -> None:
        """Send a heartbeat; due several times within ``heartbeat_timeout`` while the arm is active."""
        self.shared.beat()

    @property
    def activation(self) -> int:
        """Number of the newest activation, as the records of cycles have it; 0 if the arm should not be active."""
        return int(self._commands["activation"])

    @property
    def release_id(self) -> int:
        """Counts calls of :meth:`release`; the state has the number that the control process has seen."""
        return int(self._commands["release_id"])

    @property
    def flange_to_tcp(self) -> Array:
        """A copy of the control frame in the flange (4, 4)."""
        frame: Array = self._commands["flange_to_tcp"].copy()
        return frame

    def update(self, fields: Mapping[str, Any], *, mode: Mode | None = None, blend: bool = False) -> None:
        """Change any fields of the commands, all of them at the beginning of the same cycle.

        Nothing is sent if nothing changes, unless an exception interrupted the last write.

        :param fields: values by name, see :data:`~aiofranka_ros.control.records.COMMANDS`.
        :param mode: the control law to switch to, also if it is the present one; targets then start from where the arm
            is.
        :param blend: whether ``fields`` has gains or the control frame, whose change must not be a step in the torque;
            a switch of the mode is blended in anyway.
        :raises ControlProcessDied: the process is not running; it will get the fields when it starts.
        """
        with self._lock:
            commands = self._commands.copy()
            for name, value in fields.items():
                commands[name] = value
            if mode is not None:
                commands["mode"] = mode
                commands["mode_id"] += 1
            if mode is not None or blend:
                commands["law_id"] += 1
            self._bytes[:] = commands.tobytes()  # At once: an exception before changes nothing.
            if self._bytes != self._sent:
                self._send()

    def switch(self, mode: Mode) -> None:
        """Change the control law, without a step in the torque; targets start from where the arm is."""
        self.update({}, mode=mode)

    def hold(self, asked: bool = True) -> None:
        """Stop and hold, ignoring targets and motions; with ``asked=False``, follow them again."""
        self.update({"hold": asked})

    def release(self) -> None:
        """Follow targets and motions again, also if the arm holds because it was pushed."""
        with self._lock:
            self.update({"hold": False, "release_id": self.release_id + 1})

    def copy_robot_states(self, period: int) -> None:
        """Have a full robot state copied every ``period`` cycles, see :meth:`robot_states`; 0: never."""
        self.update({"robot_state_period": period})

    def start_motion(self, motion: Motion, *, start: float = 0.0) -> int:
        """Execute a motion, which replaces a running one; it holds its end until :meth:`release_motion`.

        :param start: robot time at which it begins [s]; in the past: at once.
        :returns: the motion's number, with which :meth:`state` reports it.
        """
        with self._lock:
            number = int(self._commands["motion_id"]) + 1
            fill_path(self._motion, number, start, motion.times, motion.coefficients)
            self.shared.motion.write(self._motion, path_size(self._motion, len(motion.coefficients)))
            try:
                self.update({"motion_id": number})
            except BaseException:
                # The caller does not expect it to run, whether the control process has learned of it or not.
                self._commands["motion_release"] = number
                with contextlib.suppress(ControlProcessDied):
                    self._send()
                raise
            return number

    def stop_motion(self, number: int) -> None:
        """Stop motion ``number`` on its path, and hold."""
        self.update({"motion_stop": number})

    def release_motion(self, number: int) -> None:
        """Give control back to the mode, which continues from where the arm is."""
        self.update({"motion_release": number})

    def start_chunk(self, path: Motion, *, start: float = 0.0) -> int:
        """Follow a path instead of single targets; it replaces a running chunk, and stays at its end point.

        :param path: of what the mode has targets of: joint positions, or in OSC position and the four numbers of a
            quaternion (x, y, z, w), which may have any length but 0. Limits hold as for single targets.
        :param start: robot time at which it begins [s]. If that has passed, it is joined where it should be now; until
            then, what runs before it continues.
        :returns: the chunk's number, with which :meth:`state` reports it.
        :raises ValueError: it has no segments or too many, or ``start`` is not finite.
        """
        if not 1 <= len(path.coefficients) <= MAX_CHUNK_SEGMENTS:
            raise ValueError(f"a chunk has 1 to {MAX_CHUNK_SEGMENTS} segments, not {len(path.coefficients)}")
        if not math.isfinite(start):
            raise ValueError(f"a chunk begins at a finite time, not {start}")
        with self._lock:
            number, chunk = int(self._commands["chunk_id"]) + 1, self._chunk
            fill_path(chunk, number, start, path.times, path.coefficients)
            chunk["mode_id"], chunk["target_id"] = self._commands["mode_id"], self._commands["target_id"]
            self.shared.chunk.write(chunk, path_size(chunk, len(path.coefficients)))
            try:
                self.update({"chunk_id": number})
            except BaseException:
                # As for a motion.
                self._commands["chunk_stop"] = number
                with contextlib.suppress(ControlProcessDied):
                    self._send()
                raise
            return number

    def stop_chunk(self, number: int) -> None:
        """End chunk ``number`` and those before it: the arm slows down within its limits, and holds."""
        with self._lock:
            self.update({"chunk_stop": max(number, int(self._commands["chunk_stop"]))})

    def state(self) -> Record:
        """The newest measured state, a record of :data:`~aiofranka_ros.control.records.STATE` that never changes."""
        fresh = np.empty(1, STATE)
        for _ in range(100):
            if self.shared.state.read(fresh):
                self._state = fresh
                break
            time.sleep(0)  # The control process is writing it, which takes some microseconds.
        return self._state[0]

    def robot_states(self) -> list[Record]:
        """Records of :data:`~aiofranka_ros.control.robot_records.ROBOT_STATE` since the last call, or the newest of
        them, as often as :meth:`copy_robot_states` asked for."""
        states, self._robot_states_seen, _ = self.shared.robot_states.since(self._robot_states_seen)
        return list(states)

    @property
    def phase(self) -> Phase:
        """What the control process is doing."""
        if self._shared is None:
            return Phase.DISCONNECTED
        return Phase(int(self.state()["phase"]))

    def poll(self) -> Ended | None:
        """How the loop ended, if it did since the last call; does not wait.

        :raises ControlProcessDied: the control process is gone, or a signal had stopped it and it is killed.
        """
        message = self._running.poll(lambda message: message.get("event") == "ended")
        return None if message is None else _ended(message)

    @property
    def _running(self) -> ProcessHandle:
        if self._process is None:
            raise ControlProcessDied(self._why_gone)
        return self._process

    def _send(self) -> None:
        self.shared.commands.write(self._bytes)
        self._sent = bytes(self._bytes)

    def __enter__(self) -> ControlClient:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _compiling_or_ready(message: Message) -> bool:
    return message.get("event") in ("compiling", "ready")


def _ended(message: Message) -> Ended:
    if "error" in message:
        return Ended(message["reason"], exception_from(message))
    explanation = {
        "node_silent": "no heartbeat from its owner: the arm stopped and was released",
        "node_gone": "its owner died",
    }.get(message["reason"])
    return Ended(message["reason"], ControlStopped(explanation) if explanation else None)
