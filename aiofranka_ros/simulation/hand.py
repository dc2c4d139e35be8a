"""The simulated Franka Hand: two fingers that need time to move, can be stopped, and may meet an object.

Used by the simulated arm's process (:mod:`aiofranka_ros.simulation.model`), which serves it on the gripper's port. The
hand of ``franka_sim`` moves instantly, opens when it is stopped, and reads a stop only after the command is over:
nothing that makes a real gripper hard to drive is in it.

There is no physics: the width is a function of time, and the result of a command is known when it starts. An idle hand
costs nothing, and nothing waits except for the timer that sends the answer.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass

import numpy as np
from franka_sim.gripper.backend import GripperStateData
from franka_sim.gripper.protocol import (
    GraspRequest,
    GripperCommand,
    GripperCommandHeader,
    GripperStatus,
    MoveRequest,
    build_command_response,
)
from franka_sim.gripper.server import FrankaGripperServer

from aiofranka_ros.processes import readable

#: Largest distance of the fingers [m], and its largest speed [m/s].
MAX_WIDTH, MAX_SPEED = 0.08, 0.1
#: How long the hand tries to move against an object [s], about as long as the real one.
_GIVES_UP = 100.0
_TEMPERATURE = 30  # [°C]
#: How soon a server notices that it must end while its client says nothing [s].
_POLL_PERIOD = 0.5


@dataclass(frozen=True)
class Course:
    """The motion of the fingers under one command, unless another one replaces it.

    They are at ``widths`` [m] at ``times`` [s, monotonic], with constant speeds in between. The command is over at
    ``answered`` with ``status``, and holds something from then on if ``holds`` is true.
    """

    times: tuple[float, ...]
    widths: tuple[float, ...]
    answered: float
    status: GripperStatus = GripperStatus.kSuccess
    holds: bool = False


#: The answer to an impossible command, at once; the hand continues with the one before.
_REFUSED = Course((), (), 0.0, GripperStatus.kFail)


class SimulatedHand:
    """The fingers. A command takes effect at once and replaces the one before.

    :param object_width: width of an object between the fingers [m]; ``None``: no object.
    """

    def __init__(self, object_width: float | None = None) -> None:
        self._object_width = object_width
        self._course = Course((0.0,), (MAX_WIDTH,), 0.0)

    def homing(self) -> Course:
        """Close and open completely; it fails if an object is in the way."""
        closed = self._reachable(0.0)
        return self._follow((closed, MAX_WIDTH), MAX_SPEED, succeeds=closed == 0.0)

    def move(self, width: float, speed: float) -> Course:
        """Move the fingers to ``width`` [m] at ``speed`` [m/s]; if an object is in the way, keep trying for long."""
        if not 0.0 <= width <= MAX_WIDTH:
            return _REFUSED
        end = self._reachable(width)
        blocked = end != width
        return self._follow((end,), speed, succeeds=not blocked, patience=_GIVES_UP if blocked else 0.0)

    def grasp(self, width: float, inner: float, outer: float, speed: float) -> Course:
        """Close at ``speed`` [m/s] until the fingers meet an object or each other.

        It succeeds if the fingers end between ``width - inner`` and ``width + outer`` [m].
        """
        if not 0.0 <= width <= MAX_WIDTH:
            return _REFUSED
        end = self._reachable(0.0)
        holds = width - inner < end < width + outer
        return self._follow((end,), speed, succeeds=holds, holds=holds)

    def stop(self) -> Course:
        """Stop where the fingers are, and let go of what they hold."""
        return self._follow((), MAX_SPEED)

    def get_state(self) -> GripperStateData:
        """The state that the hand reports; ``franka_sim`` calls it on the thread that sends it."""
        course, now = self._course, time.monotonic()
        return GripperStateData(_width(course, now), MAX_WIDTH, course.holds and now >= course.answered, _TEMPERATURE)

    def _reachable(self, width: float) -> float:
        """The width at which fingers that move to ``width`` end."""
        if self._object_width is None or self._object_width > _width(self._course, time.monotonic()):
            return width
        return max(width, self._object_width)

    def _follow(
        self, widths: tuple[float, ...], speed: float, succeeds: bool = True, patience: float = 0.0, holds: bool = False
    ) -> Course:
        now = time.monotonic()
        path = (_width(self._course, now), *widths)
        durations = np.abs(np.diff(path)) / min(max(speed, 1e-4), MAX_SPEED)
        times = (now, *(now + float(passed) for passed in np.cumsum(durations)))
        status = GripperStatus.kSuccess if succeeds else GripperStatus.kUnsuccessful
        self._course = Course(times, path, times[-1] + patience, status, holds)
        return self._course


def _width(course: Course, now: float) -> float:
    return float(np.interp(now, course.times, course.widths))


class HandServer(FrankaGripperServer):
    """Serves the hand to one client at a time, and reads a stop while a command runs."""

    backend: SimulatedHand
    broadcast_thread: threading.Thread | None
    udp_socket: socket.socket | None

    def __init__(self, host: str, hand: SimulatedHand) -> None:
        """Serve ``hand`` at the loopback address ``host``."""
        super().__init__(host=host, backend=hand)
        self._lock = threading.Lock()
        self._running: tuple[threading.Timer, socket.socket, GripperCommandHeader] | None = None

    def handle_client(self, sock: socket.socket) -> None:
        """Serve one client until it is gone; its command stops then, but an object that is held stays held.

        ``franka_sim`` would wait with ``select``, which cannot handle descriptors from 1024 on.
        """
        self.connection_running = True
        with contextlib.closing(sock), contextlib.suppress(OSError, struct.error):  # The latter: it is no client.
            while self.running and self.connection_running:
                if not readable(sock, _POLL_PERIOD):
                    continue
                header, payload = self.receive_message(sock)
                if header is None:
                    break
                connects = header.command == GripperCommand.kConnect
                (self._handle_connect if connects else self._dispatch_command)(sock, header, payload)
        self.connection_running = False
        if self.broadcast_thread is not None:
            self.broadcast_thread.join()
        if self.udp_socket is not None:
            self.udp_socket.close()
        self.broadcast_thread = self.udp_socket = self.client_address = self.client_udp_port = None
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running[0].cancel()
            self.backend.stop()

    def _broadcast_state(self) -> None:
        """Send the state from this address; unbound, the socket would have another one."""
        assert self.udp_socket is not None
        self.udp_socket.bind((self.host, 0))
        super()._broadcast_state()

    def _dispatch_command(self, sock: socket.socket, header: GripperCommandHeader, payload: bytes) -> None:
        """Start a command, which is answered when it is over, and end the one before."""
        course = self._begin(header.command, payload)
        if course.status is not GripperStatus.kFail:
            self._end_running(GripperStatus.kAborted)
        duration = course.answered - time.monotonic()
        if duration <= 0.0:
            self._answer(sock, header, course.status)
            return
        timer = threading.Timer(duration, self._end_running, (course.status, header))
        timer.daemon = True
        with self._lock:
            self._running = timer, sock, header
        timer.start()

    def _begin(self, command: GripperCommand, payload: bytes) -> Course:
        if command == GripperCommand.kHoming:
            return self.backend.homing()
        if command == GripperCommand.kMove:
            move = MoveRequest.from_bytes(payload)
            return self.backend.move(move.width, move.speed)
        if command == GripperCommand.kGrasp:
            grasp = GraspRequest.from_bytes(payload)
            return self.backend.grasp(grasp.width, grasp.epsilon_inner, grasp.epsilon_outer, grasp.speed)
        return self.backend.stop() if command == GripperCommand.kStop else _REFUSED

    def _end_running(self, status: GripperStatus, header: GripperCommandHeader | None = None) -> None:
        """Answer the running command.

        :param header: answer only this command: a timer may fire while the next command starts.
        """
        with self._lock:
            running = self._running
            if running is None or (header is not None and running[2] is not header):
                return
            self._running = None
        timer, sock, running_header = running
        timer.cancel()
        self._answer(sock, running_header, status)

    def _answer(self, sock: socket.socket, header: GripperCommandHeader, status: GripperStatus) -> None:
        with contextlib.suppress(OSError), self._lock:  # The client may be gone.
            sock.sendall(build_command_response(header.command, header.command_id, status))
