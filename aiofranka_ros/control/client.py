"""The node's handle on its control process: start it, tell it what to do, read what it measured.

Used by the node (and by whoever drives an arm without ROS). Requests that take time block the calling thread and keep
the heartbeat going meanwhile; everything that concerns the running arm goes through shared memory, returns at once and
may be called from any thread.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from aiofranka_ros import errors
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.control.realtime import PRIORITY
from aiofranka_ros.control.records import (
    COMMANDS,
    MESSAGE_SIZE,
    MOTION,
    STATE,
    Mode,
    Phase,
    RobotSetting,
    command_word,
    new,
)
from aiofranka_ros.control.shared_memory import SharedMemory, fill_motion, motion_size
from aiofranka_ros.errors import ConnectionFailed, ControlProcessDied, ControlStopped, FrankaError
from aiofranka_ros.kernels import Numbers, Record
from aiofranka_ros.model.fr3 import POSITION_LOWER, POSITION_UPPER
from aiofranka_ros.processes import start_child

_log = logging.getLogger(__name__)

#: Fields of the commands that a target consists of: how they are packed, and where.
_TARGET_FIELDS = {
    name: (struct.Struct(f"{size}d"), 8 * command_word(name))
    for name, size in (("target_q", 7), ("target_position", 3), ("target_orientation", 4), ("target_torque", 7))
}
#: Places of the numbers that go with it.
_STAMP, _TARGET, _TARGET_MODE, _MODE = map(command_word, ("target_stamp", "target_id", "target_mode_id", "mode_id"))
#: What was said already about what this computer misses for real time.
_warned: set[str] = set()
#: How often a waiting request gives a sign of life [s].
_BEAT_PERIOD = 0.01
#: A control process that reported nothing for this long is looked at more closely [s].
_SUSPICIOUS_SILENCE = 0.06


@dataclass(frozen=True)
class Ended:
    """The loop ended.

    :ivar reason: ``asked``, ``node_silent``, ``node_gone``, ``robot`` or ``connection``.
    :ivar error: what happened, unless it was asked for.
    """

    reason: str
    error: FrankaError | None


class ControlClient:
    """A control process and the arm that it drives.

    Use it as a context manager, or :meth:`start` and :meth:`close` it.

    Fields of :attr:`commands` (see :data:`~aiofranka_ros.control.records.COMMANDS`) may be set at any time; they reach
    the control process together, with the next :meth:`send` or any of the methods below that call it. Where there are
    several threads, whoever sets fields holds :attr:`lock` until they are sent.

    :param priority: SCHED_FIFO priority of the control process; 0: none.
    """

    def __init__(self, *, priority: int = PRIORITY) -> None:
        self._priority = priority
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._shared: SharedMemory | None = None
        self._inbox: list[dict[str, Any]] = []
        self._motion = new(MOTION)
        self._state = new(STATE)
        self._commands = new(COMMANDS)
        #: Held while commands are composed and sent; never for longer than a moment.
        self.lock = threading.RLock()
        # A target is written past numpy, whose machinery takes long where it was not used for a while.
        self._commands_bytes = self._commands.view(np.uint8).data
        self._commands_words = self._commands.view(np.int64).data
        self._activation = 0
        self._reported = (0, 0.0)  # version of the state that was seen last, and when it was new
        self._robot_states_seen = 0
        #: What the control process misses for real time, in sentences; known once it is started.
        self.missing: list[str] = []
        commands = self.commands
        commands["flange_to_tcp"] = np.eye(4)
        commands["joint_lower"], commands["joint_upper"] = POSITION_LOWER, POSITION_UPPER
        commands["workspace_lower"], commands["workspace_upper"] = -np.inf, np.inf

    @property
    def commands(self) -> Record:
        """What the control process shall do, with the next :meth:`send`."""
        return self._commands[0]

    @property
    def mode_id(self) -> int:
        """Counts switches of the mode and activations; faster than its field of :attr:`commands`."""
        return self._commands_words[_MODE]

    @property
    def shared(self) -> SharedMemory:
        """The memory shared with the control process.

        :raises ControlProcessDied: it was not started, or was closed.
        """
        if self._shared is None:
            raise ControlProcessDied("the control process is not running")
        return self._shared

    def start(self, timeout: float = 180.0) -> None:
        """Start the control process and wait until it is ready, which takes long only where it compiles its kernels.

        :raises ControlProcessDied: it did not come up.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel = ours
        self._shared = SharedMemory.create()
        self._activation = self._robot_states_seen = 0
        self.commands["activation"] = 0
        self.send()
        command = [sys.executable, "-m", "aiofranka_ros.control.process"]
        command += ["--shared-memory", str(self._shared.descriptor), "--channel", str(theirs.fileno())]
        command += ["--parent", str(os.getpid()), "--priority", str(self._priority)]
        # One thread for linear algebra: starting others would stall a cycle.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with theirs:
            self._process = start_child(
                command,
                pass_fds=(self._shared.descriptor, theirs.fileno()),
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        try:
            self._wait(lambda message: message.get("event") == "ready", timeout, "become ready")
        except BaseException:
            self.close()
            raise

    def connect(self, address: str, *, cpu: int | None = None, timeout: float = 30.0) -> dict[str, Any]:
        """Connect to the robot at ``address``.

        :param cpu: the CPU to drive it on, where real-time scheduling is permitted; ``None``: any.
        :returns: ``library_version``, ``protocol_version``, and ``cpu``, ``None`` where it may be any.
        :raises ConnectionFailed: no robot answers, its FCI is not active, or (``IncompatibleRobot``) it speaks
            another protocol version.
        :raises ArmInUse: another process on this machine already drives it.
        :raises ControlProcessDied: the control process is gone.
        """
        try:
            return self._request("connect", timeout, address=address, cpu=cpu)
        except TimeoutError:
            # libfranka waits for a minute where somebody else holds the robot; a killed process waits no longer.
            self.close()
            raise ConnectionFailed(
                f"no answer from the robot at {address} within {timeout:.0f} s: is another program connected to it?"
            ) from None

    def activate(self, timeout: float = 10.0) -> bool:
        """Clear a reflex if there is one, take torque control and hold where the arm is.

        :returns: whether a reflex was cleared.
        :raises CommandRefused: the robot did not allow it.
        :raises ControlStopped: it stopped at once.
        """
        with self.lock:
            self._activation += 1
            commands = self.commands
            commands["activation"] = self._activation
            # What was asked for before does not count any more: the arm shall hold, not return to an old target.
            commands["mode_id"] += 1
            commands["motion_stop"] = commands["motion_release"] = commands["motion_id"]
            self.shared.beat()
            self.send()
        reply = self._request("activate", timeout, activation=self._activation)
        return bool(reply["recovered"])

    def deactivate(self, timeout: float = 5.0) -> None:
        """Stop smoothly and release the arm; nothing happens where it is not active.

        :raises ControlStopped: the robot stopped before it came to that.
        :raises ControlProcessDied: the control process is gone.
        :raises TimeoutError: the arm was not released in time.
        """
        if self.phase is not Phase.ACTIVE:
            return
        with self.lock:
            self.commands["activation"] = 0
            self.send()
        message = self._wait(
            lambda message: message.get("event") == "ended" and message["activation"] == self._activation,
            timeout,
            "release the arm",
        )
        error = self._ended(message).error
        if error is not None:
            raise error

    def set_robot(self, setting: RobotSetting, *values: Any, timeout: float = 5.0) -> None:
        """Set something in the robot itself; only while it is not active.

        :param values: what libfranka's command takes: numbers and arrays of numbers.
        :raises CommandRefused: the robot does not accept it.
        :raises ConnectionFailed: there is no robot.
        """
        numbers = [np.asarray(value, dtype=float).tolist() for value in values]
        self._request("set", timeout, setting=setting.value, values=numbers)

    def disconnect(self, timeout: float = 5.0) -> None:
        """Let go of the robot.

        :raises ControlProcessDied: the control process is gone.
        """
        self._request("disconnect", timeout)

    def close(self) -> None:
        """End the control process, the arm first coming to rest where it is active; idempotent, never raises."""
        if self._channel is not None:
            if self._shared is not None:
                self.commands["activation"] = 0
                self.send()
            self._channel.close()
            self._channel = None
        if self._process is not None:
            try:
                self._process.wait(5.0)
            except subprocess.TimeoutExpired:
                _log.warning("the control process does not end by itself; it is killed")
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._shared is not None:
            self._shared.close()
            self._shared = None
        self._inbox.clear()

    def beat(self) -> None:
        """Give a sign of life; due several times within ``heartbeat_timeout`` while the arm is active."""
        self.shared.beat()

    def send(self) -> None:
        """Let :attr:`commands` take effect, all of them together, at the beginning of the next cycle."""
        with self.lock:
            self.shared.commands.write(self._commands_bytes)

    def switch(self, mode: Mode) -> None:
        """Change the control law, without a step in the torque; targets begin where the arm is."""
        with self.lock:
            commands = self.commands
            commands["mode"] = mode
            commands["mode_id"] += 1
            commands["law_id"] += 1
            self.send()

    def change_law(self) -> None:
        """Let changed gains or a changed control frame take effect, without a step in the torque."""
        with self.lock:
            self.commands["law_id"] += 1
            self.send()

    def set_target(self, stamp: int, **fields: Numbers) -> int:
        """Give the mode a new target.

        :param stamp: when its sender made it [ns, system clock]; 0: unknown.
        :param fields: ``target_q`` [rad] (7,) for impedance and PID; ``target_position`` [m] (3,) and
            ``target_orientation`` (x, y, z, w) for OSC; ``target_torque`` [Nm] (7,) for torque mode.
        :returns: the target's number.
        """
        words = self._commands_words
        with self.lock:
            for name, value in fields.items():
                packer, offset = _TARGET_FIELDS[name]
                packer.pack_into(self._commands_bytes, offset, *value)
            words[_STAMP] = stamp
            words[_TARGET_MODE] = words[_MODE]
            words[_TARGET] += 1
            self.send()
            return int(words[_TARGET])

    def start_motion(self, motion: Motion, *, start: float = 0.0) -> int:
        """Execute a motion, instead of one that runs.

        It goes on until :meth:`release_motion`, holding its end.

        :param start: robot time at which it begins [s]; in the past: at once.
        :returns: the motion's number, with which :meth:`state` tells of it.
        """
        with self.lock:
            number = int(self.commands["motion_id"]) + 1
            fill_motion(self._motion, number, start, motion.times, motion.coefficients)
            self.shared.motion.write(self._motion, motion_size(len(motion.coefficients)))
            self.commands["motion_id"] = number
            self.send()
            return number

    def stop_motion(self, number: int) -> None:
        """Let motion ``number`` come to a stop on its path, and hold."""
        with self.lock:
            self.commands["motion_stop"] = number
            self.send()

    def release_motion(self, number: int) -> None:
        """Give the arm back to the mode, which continues from where the arm is."""
        with self.lock:
            self.commands["motion_release"] = number
            self.send()

    def state(self) -> Record:
        """The newest measured state, a record of :data:`~aiofranka_ros.control.records.STATE` that nobody else
        changes."""
        fresh = np.empty(1, STATE)
        for _ in range(100):
            if self.shared.state.read(fresh):
                self._state = fresh
                break
            time.sleep(0)  # The writer was just at it; it needs some microseconds.
        return self._state[0]

    def robot_states(self) -> list[Record]:
        """All that libfranka said of the robot, as often as the commands' ``robot_state_period`` asks for it.

        :returns: the records of :data:`~aiofranka_ros.control.records.ROBOT_STATE` since the last call, or the newest
            of them.
        """
        states, self._robot_states_seen, _ = self.shared.robot_states.since(self._robot_states_seen)
        return list(states)

    @property
    def phase(self) -> Phase:
        """What the control process does at the moment."""
        if self._shared is None:
            return Phase.DISCONNECTED
        return Phase(int(self.state()["phase"]))

    @property
    def pid(self) -> int | None:
        """Process id of the control process; ``None`` while there is none."""
        return None if self._process is None else self._process.pid

    def poll(self, on_stopped: Callable[[ControlProcessDied], object] | None = None) -> Ended | None:
        """Whether the loop ended since the last call, without waiting.

        :param on_stopped: called with what is raised a moment later, once a control process that was stopped by a
            signal has ended: its locked memory takes the kernel tens of milliseconds to free.
        :raises ControlProcessDied: the control process is gone, or was stopped by a signal and is ended therefore.
        """
        self._receive(0.0)
        for index, message in enumerate(self._inbox):
            if message.get("event") == "ended":
                del self._inbox[index]
                return self._ended(message)
        self._check_alive()
        self._check_running(on_stopped)
        return None

    def _ended(self, message: dict[str, Any]) -> Ended:
        if "error" in message:
            return Ended(message["reason"], _exception(message))
        explanation = {
            "node_silent": "its owner gave no sign of life: the arm came to rest and was released",
            "node_gone": "its owner died",
        }.get(message["reason"])
        return Ended(message["reason"], ControlStopped(explanation) if explanation else None)

    def _request(self, name: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        self._send_message({"do": name, **arguments})
        reply = self._wait(lambda message: name in (message.get("done"), message.get("failed")), timeout, name)
        if "failed" in reply:
            raise _exception(reply)
        return reply

    def _send_message(self, message: dict[str, Any]) -> None:
        if self._channel is None:
            raise ControlProcessDied("the control process is not running")
        try:
            self._channel.send(json.dumps(message).encode())
        except OSError:
            self._check_alive()
            raise ControlProcessDied("the control process does not listen any more") from None

    def _wait(self, wanted: Any, timeout: float, what: str) -> dict[str, Any]:
        """The first message that is ``wanted``; beats meanwhile."""
        deadline = time.monotonic() + timeout
        while True:
            for index, message in enumerate(self._inbox):
                if wanted(message):
                    return self._inbox.pop(index)
            if time.monotonic() > deadline:
                raise TimeoutError(f"the control process did not {what} within {timeout:.0f} s")
            self.shared.beat()
            if not self._receive(_BEAT_PERIOD):
                self._check_alive()

    def _receive(self, timeout: float) -> bool:
        """Take messages from the channel; return whether there were any."""
        if self._channel is None:
            raise ControlProcessDied("the control process is not running")
        received = False
        while select.select([self._channel], [], [], 0.0 if received else timeout)[0]:
            try:
                data = self._channel.recv(MESSAGE_SIZE)
            except ConnectionResetError:
                data = b""
            if not data:
                self._check_alive(gone=True)
                return received
            message = json.loads(data)
            received = True
            if message.get("event") == "warning":
                self.missing.append(message["message"])
                if message["message"] not in _warned:  # Once is enough, however often an arm is started.
                    _warned.add(message["message"])
                    _log.warning("%s", message["message"])
            else:
                self._inbox.append(message)
        return received

    def _check_alive(self, gone: bool = False) -> None:
        if self._process is None:
            raise ControlProcessDied("the control process is not running")
        if gone:
            try:
                self._process.wait(1.0)
            except subprocess.TimeoutExpired:
                raise ControlProcessDied("the control process closed its channel") from None
        code = self._process.poll()
        if code is not None:
            how = f"was killed by signal {-code}" if code < 0 else f"exited with status {code}"
            raise ControlProcessDied(f"the control process {how}", exit_code=code)

    def _check_running(self, on_stopped: Callable[[ControlProcessDied], object] | None) -> None:
        """Notice a control process that somebody has stopped: it looks alive, but the arm gets no torques from it.

        One that merely waits for the robot is another matter: libfranka notices by itself that the robot is gone.
        """
        version, now = self.shared.state.version, time.monotonic()
        if version != self._reported[0]:
            self._reported = version, now
        elif now - self._reported[1] > _SUSPICIOUS_SILENCE and self._is_stopped():
            assert self._process is not None
            self._process.kill()  # When it went on, it would do so with commands of long ago.
            error = ControlProcessDied("the control process was stopped by a signal and is ended")
            if on_stopped is not None:
                on_stopped(error)
            self._process.wait()
            raise error

    def _is_stopped(self) -> bool:
        """Whether the control process does not run because of SIGSTOP, a debugger or the like, see proc(5)."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False  # It is gone, which others notice.
        return state in ("T", "t")

    def __enter__(self) -> ControlClient:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _exception(message: dict[str, Any]) -> FrankaError:
    """The exception that the control process described."""
    kind: type[FrankaError] = getattr(errors, message["error"])
    data = {key: tuple(value) if isinstance(value, list) else value for key, value in message["data"].items()}
    return kind(message["message"], **data)
