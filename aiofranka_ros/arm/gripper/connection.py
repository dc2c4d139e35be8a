"""The connection to a Franka Hand: commands that it answers later, and the state that it sends. Nothing here waits.

Used by :mod:`aiofranka_ros.arm.gripper.gripper`, in the one thread that drives the hand, which calls :meth:`Hand.poll`
at every tick.

It speaks the gripper's network protocol itself (``research_interface/gripper/types.h`` of libfranka, version 3) instead
of calling ``pylibfranka.Gripper``, for three reasons, measured with pylibfranka 0.21:

- a call keeps the GIL until the gripper answers: nothing else in the process would run for seconds;
- a command can be stopped only by a second thread on the same connection, which the first reason rules out;
- if the connection is closed during a command, the call never returns and keeps a CPU busy.

The protocol has five requests of a few numbers each. A test compares them with libfranka's, byte by byte.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import socket
import struct
import time
from dataclasses import dataclass
from typing import NamedTuple

from aiofranka_ros.errors import ConnectionFailed, IncompatibleRobot

#: TCP port of the gripper, ``kCommandPort``, and the version of its protocol, ``kVersion``.
PORT, VERSION = 1338, 3

#: Command, number, and size of the whole message; every message begins with it.
_HEADER = struct.Struct("<HII")
#: Size of the largest message that a gripper sends [bytes].
_MAX_SIZE = 64
#: How many packets of each kind are read at a time: far more than a gripper sends between two ticks.
_MOST_PACKETS = 256
#: A state, by UDP: its number, width and largest width [m], whether something is grasped, temperature [°C].
_STATE = struct.Struct("<Idd?H")

#: How long the gripper may take to accept the connection and send its first state [s].
_CONNECT_TIMEOUT = 2.0
#: How long the gripper may be silent [s]; libfranka's own limit.
_SILENCE = 1.0


class Request(enum.IntEnum):
    """A request to the gripper, with the numbers that it needs."""

    CONNECT = 0
    HOMING = 1
    """Close and open completely, to find the largest width."""
    GRASP = 2
    """Width, inner and outer tolerance [m], speed [m/s], force [N]; closes until the fingers meet something.

    It succeeds if the fingers end between ``width - inner`` and ``width + outer``.
    """
    MOVE = 3
    """Width [m], speed [m/s]."""
    STOP = 4
    """Ends the running command, whose status becomes ABORTED, and releases what is held."""


class Status(enum.IntEnum):
    """How a command ended, as the gripper reports it."""

    SUCCESS = 0
    FAILED = 1
    """The gripper could not carry it out at all."""
    UNSUCCESSFUL = 2
    """The gripper carried it out without success: nothing was grasped."""
    ABORTED = 3
    """It was stopped, or another command came."""


class HandState(NamedTuple):
    """What the gripper measures: distance between the fingers and its maximum, which homing finds [m], and [°C]."""

    width: float
    max_width: float
    is_grasped: bool
    temperature: int


@dataclass
class SentCommand:
    """A command that was sent; its status is ``None`` until the gripper has answered."""

    status: Status | None = None


class Hand:
    """One connection to a gripper; :meth:`poll` connects, which is complete once :attr:`state` is not ``None``.

    :param address: IP address or host name of the robot.
    :raises ConnectionFailed: the name cannot be resolved.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        #: The newest state; ``None`` until the gripper is connected.
        self.state: HandState | None = None
        #: Number of states received, which tells a new one.
        self.states = 0
        #: When the newest state arrived [s, monotonic].
        self.heard = time.monotonic()
        self._began = self.heard
        self._commands: dict[int, SentCommand] = {}
        self._sent = 0
        self._received = bytearray()
        self._accepted = False
        self._stranger = ""
        self._udp: socket.socket | None = None
        self._tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._tcp.setblocking(False)
        try:
            # A host name may take a while to resolve; an address, the usual case, does not.
            self._server = socket.gethostbyname(address), PORT
        except (OSError, ValueError) as error:  # ValueError: it cannot even be a host name.
            self.close()
            raise self._explain(error) from error

    @property
    def busy(self) -> bool:
        """Whether the gripper has not answered a command yet."""
        return bool(self._commands)

    def send(self, request: Request, *numbers: float) -> SentCommand:
        """Send a command with its numbers, see :class:`Request`; :meth:`poll` reads the answer.

        :raises ConnectionFailed: the connection was lost.
        """
        return self._send(request, struct.pack(f"<{len(numbers)}d", *numbers))

    def poll(self) -> None:
        """Read everything that the gripper has sent: its state and its answers to commands.

        :raises ConnectionFailed: there is no gripper, or the connection was lost; then only :meth:`close` is useful.
        :raises IncompatibleRobot: the gripper speaks another version of the protocol.
        """
        try:
            if self._udp is None:
                error = self._tcp.connect_ex(self._server)
                if error in (0, errno.EISCONN):
                    self._greet()
                elif error not in (errno.EINPROGRESS, errno.EALREADY):
                    raise OSError(error, os.strerror(error))
            if self._udp is not None:
                self._read_answers()
                self._read_states(self._udp)
        except ConnectionFailed:  # ConnectionFailed is an OSError, too.
            raise
        except OSError as error:
            raise self._explain(error) from error
        now = time.monotonic()
        if self.state is None and now - self._began > _CONNECT_TIMEOUT:
            raise ConnectionFailed(self._what_is_missing())
        if self.state is not None and now - self.heard > _SILENCE:
            raise ConnectionFailed(f"lost the gripper at {self.address}: it has been silent for {_SILENCE:g} s")

    def close(self) -> None:
        """Disconnect; idempotent. Unanswered commands stay unanswered."""
        self._tcp.close()
        if self._udp is not None:
            self._udp.close()

    def _greet(self) -> None:
        """Open the socket for the states and send its port to the gripper."""
        self._tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.setblocking(False)
        # Reachable only from the robot's network.
        self._udp.bind((self._tcp.getsockname()[0], 0))
        self._send(Request.CONNECT, struct.pack("<HH", VERSION, self._udp.getsockname()[1]))

    def _send(self, request: Request, payload: bytes = b"") -> SentCommand:
        number, self._sent = self._sent, self._sent + 1
        message = _HEADER.pack(request, number, _HEADER.size + len(payload)) + payload
        try:
            # So few bytes always fit, unless the gripper does not read any more.
            self._tcp.sendall(message)
        except OSError as error:
            raise self._explain(error) from error
        command = self._commands[number] = SentCommand()
        return command

    def _read_answers(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(_MOST_PACKETS):
                part = self._tcp.recv(4096)
                if not part:
                    raise ConnectionResetError(errno.ECONNRESET, "it closed the connection")
                self._received += part
        while len(self._received) >= _HEADER.size:
            request, number, size = _HEADER.unpack_from(self._received)
            if not _HEADER.size + 2 <= size <= _MAX_SIZE:
                raise ConnectionFailed(f"the server at {self.address}:{PORT} is not a gripper")
            if len(self._received) < size:
                break
            (status,) = struct.unpack_from("<H", self._received, _HEADER.size)
            command = self._commands.pop(number, None)
            if request == Request.CONNECT:
                if status != Status.SUCCESS:
                    version = int.from_bytes(self._received[_HEADER.size + 2 : size][:2], "little")
                    raise IncompatibleRobot(
                        f"the gripper at {self.address} speaks version {version} of its protocol, but this package "
                        f"speaks {VERSION}",
                        robot_version=version,
                        library_version=VERSION,
                    )
                self._accepted = True
            elif command is not None:
                command.status = Status(status) if status in tuple(Status) else Status.FAILED
            del self._received[:size]

    def _read_states(self, udp: socket.socket) -> None:
        """Keep the newest state; states before the gripper has accepted the connection do not count."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_MOST_PACKETS):
                packet, sender = udp.recvfrom(256)
                if sender[0] != self._server[0]:
                    self._stranger = sender[0]
                elif self._accepted and len(packet) == _STATE.size:
                    if self.state is None:
                        udp.connect(sender)  # From now on, the system drops what others send.
                    self.state = HandState(*_STATE.unpack(packet)[1:])
                    self.states += 1
                    self.heard = time.monotonic()

    def _what_is_missing(self) -> str:
        """Which step of connecting took too long."""
        if self._udp is None:
            return (
                f"no answer from {self.address}:{PORT}: is the robot on, is this its address, and is this computer's "
                "network set up for it?"
            )
        if not self._accepted:
            return f"the gripper at {self.address} does not answer: is another program connected to it?"
        if self._stranger:
            return f"the gripper at {self.address} sends no state, but {self._stranger} sends something instead"
        return f"the gripper at {self.address} sends no state: does a firewall of this computer block UDP?"

    def _explain(self, error: BaseException) -> ConnectionFailed:
        if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
            return ConnectionFailed(
                f"{self.address} is there, but its port {PORT} is closed: is a gripper mounted and chosen in Desk "
                "(Settings, End Effector), and is the FCI active?"
            )
        reason = getattr(error, "strerror", None) or error
        what = f"no gripper at {self.address!r}" if self.state is None else f"lost the gripper at {self.address}"
        return ConnectionFailed(f"{what}: {reason}")
