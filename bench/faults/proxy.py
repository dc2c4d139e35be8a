"""A network between libfranka and the arm that loses, delays and corrupts packets on request.

:class:`Proxy` is the handle of the process that stages faults; :func:`main` runs in the proxy's process:

    python -m bench.faults.proxy --host 127.0.0.3 --robot 127.0.0.2 --tape FILE

libfranka connects to it as to a robot. It forwards the TCP channel of commands and the UDP packets: states to the
client, commands to the robot. In the first TCP message it replaces the UDP port with its own (``Connect::Request``,
libfranka ``research_interface/robot/service_types.h``: a header of 12 bytes, then version and UDP port, ``uint16``
each). Faults are counted in packets. It records when every state and the command that answered it passed, which shows
who was late: the robot, whose states are due every millisecond, or its client.

One process and one thread, at a real-time priority on the arm's CPU, because it must not lose packets itself.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import math
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aiofranka_ros.simulation.simulated_arm import cpu_for
from bench.faults.helper import Helper, answer, prefer_this_process
from bench.faults.tape import Tape

#: One state of the robot and its answer.
CYCLE = np.dtype(
    [
        ("id", "u8"),  # message_id of the state
        ("state", "i8"),  # when it passed [ns, monotonic clock]
        ("command", "i8"),  # when the kernel had the command that answers it; 0: never
        ("motion", "i8"),  # whether a motion ran
    ]
)
_FCI_PORT = 1337
#: Above the priority of the simulated arm, below that of its client.
_PRIORITY = 20
#: Where libfranka's ``RobotCommand`` has its torques, and its size; where ``RobotState`` has the controller's mode:
#: ``research_interface/robot/rbk_types.h`` of FCI version 10.
_TORQUES, _COMMAND_SIZE = 314, 371
_CONTROLLER_MODE, _OTHER_CONTROLLER = 1289, 3
_CONNECT = struct.Struct("<IIIHH")
#: ``<asm-generic/socket.h>``, and what the kernel then adds to a datagram: its time of arrival on the system clock.
_SO_TIMESTAMPNS, _TIMESPEC = 35, struct.Struct("@ll")


class Proxy(Helper):
    """The network in front of an arm; it runs until it is closed.

    :param host: loopback address at which libfranka finds the arm.
    :param robot: address of the arm.
    :param folder: for its log.
    """

    def __init__(self, host: str, robot: str, folder: Path) -> None:
        self.host = host
        self.tape = Tape(CYCLE)
        options = ["--host", host, "--robot", robot, "--tape", str(self.tape.path)]
        super().__init__("bench.faults.proxy", options, folder / "proxy.log")

    def lose(self, packets: int, direction: str = "commands") -> None:
        """Lose the next ``packets`` packets: ``commands`` to the robot, or ``states`` from it."""
        self.ask("lose", direction=direction, packets=packets)

    def hold_back(self, states: int) -> None:
        """Hold commands back until ``states`` states have passed, then deliver them all at once.

        A state is a millisecond of the robot's time, however slow the simulated robot is.
        """
        self.ask("hold_back", states=states)

    def spoil(self, joint: int, torque: float) -> None:
        """Add ``torque`` [Nm] to that of ``joint`` (0 to 6) in the next command."""
        self.ask("spoil", joint=joint, torque=torque)

    def cut(self) -> None:
        """Lose all packets from now on, as if the cable were unplugged."""
        self.ask("cut")

    def heal(self) -> None:
        """Forward everything again."""
        self.ask("heal")

    @property
    def counts(self) -> dict[str, int]:
        """Packets since the start: ``states`` and ``commands``, each also as ``..._passed`` and ``..._lost``."""
        return {name: int(value) for name, value in self.ask("counts").items()}


class Relay:
    """Forwards packets between one client and one robot.

    :param host: address to serve at.
    :param robot: address of the robot.
    """

    def __init__(self, host: str, robot: str, tape: Tape) -> None:
        self._host, self._robot, self._tape = host, robot, tape
        self._listener = socket.create_server((host, _FCI_PORT), backlog=1)
        self._to_robot, self._to_client = _datagrams(host), _datagrams(host)
        self._to_client.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._client_tcp: socket.socket | None = None
        self._robot_tcp: socket.socket | None = None
        self._client_udp: tuple[str, int] | None = None
        self._robot_udp: tuple[str, int] | None = None
        self._greeting: bytes | None = b""
        self._cut = False
        self._to_lose = {"states": 0, "commands": 0}
        self._spoilt: tuple[int, float] | None = None
        self._held: collections.deque[bytes] = collections.deque()
        self._states_to_hold = 0
        self._counts = collections.Counter(
            {f"{kind}{what}": 0 for kind in ("states", "commands") for what in ("", "_passed", "_lost")}
        )
        self.handlers: dict[str, Callable[..., Any]] = {
            "lose": self._lose,
            "hold_back": self._hold_back,
            "spoil": self._spoil,
            "cut": lambda: setattr(self, "_cut", True),
            "heal": lambda: setattr(self, "_cut", False),
            "counts": lambda: dict(self._counts),
        }

    def run(self) -> None:
        """Forward everything until the standard input ends."""
        while True:
            ready = select.select(self._sources(), [], [])[0]
            if self._to_robot in ready:
                self._on_state()
            if self._to_client in ready:
                self._on_command()
            if sys.stdin in ready:
                line = sys.stdin.buffer.raw.readline()  # type: ignore[attr-defined]  # Unbuffered: select sees it all.
                if not line:
                    return
                answer(line, self.handlers)
            if self._listener in ready:
                self._accept()
            for source, drain in ((self._client_tcp, self._from_client), (self._robot_tcp, self._from_robot)):
                if source is not None and source in ready:
                    self._read(source, drain)

    def _sources(self) -> list[Any]:
        sources: list[Any] = [self._to_robot, self._to_client, sys.stdin]
        if not self._cut:
            sources += [tcp for tcp in (self._client_tcp, self._robot_tcp) if tcp is not None]
            if self._client_tcp is None:
                sources.append(self._listener)
        return sources

    # The channel of commands.

    def _accept(self) -> None:
        client, (address, _) = self._listener.accept()
        try:
            robot = socket.create_connection((self._robot, _FCI_PORT), 2.0, source_address=(self._host, 0))
        except OSError:  # There is no robot: the client gets the same error.
            client.close()
            return
        for connection in (client, robot):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        robot.settimeout(None)
        self._client_tcp, self._robot_tcp = client, robot
        self._client_udp, self._robot_udp, self._greeting = (address, 0), None, b""
        self._held.clear()
        self._states_to_hold = 0

    def _read(self, source: socket.socket, drain: Callable[[bytes], None]) -> None:
        try:
            data = source.recv(65536)
            if data:
                drain(data)
        except OSError:
            data = b""
        if not data:
            self._hang_up()

    def _from_client(self, data: bytes) -> None:
        assert self._robot_tcp is not None and self._client_udp is not None
        if self._greeting is not None:  # The first message is not complete yet.
            self._greeting += data
            if len(self._greeting) < _CONNECT.size:
                return
            *header, version, port = _CONNECT.unpack_from(self._greeting)
            self._client_udp = (self._client_udp[0], port)
            ours = self._to_robot.getsockname()[1]
            data = _CONNECT.pack(*header, version, ours) + self._greeting[_CONNECT.size :]
            self._greeting = None
        self._robot_tcp.sendall(data)

    def _from_robot(self, data: bytes) -> None:
        assert self._client_tcp is not None
        self._client_tcp.sendall(data)

    def _hang_up(self) -> None:
        for connection in (self._client_tcp, self._robot_tcp):
            if connection is not None:
                connection.close()
        self._client_tcp = self._robot_tcp = None

    # States and commands.

    def _on_state(self) -> None:
        data, self._robot_udp = self._to_robot.recvfrom(4096)
        fields, index = self._tape.fields, self._tape.next()
        fields["id"][index] = int.from_bytes(data[:8], "little")
        fields["state"][index] = time.monotonic_ns()
        fields["command"][index] = 0
        fields["motion"][index] = data[_CONTROLLER_MODE] != _OTHER_CONTROLLER
        self._tape.commit()
        self._pass_on("states", data)
        if self._states_to_hold > 0:
            self._states_to_hold -= 1
            if self._states_to_hold == 0:
                while self._held:
                    self._pass_on("commands", self._held.popleft())

    def _on_command(self) -> None:
        data, extra, _, _ = self._to_client.recvmsg(4096, 64)
        # The kernel's stamp, from the moment the client sent it: by the time this process runs, the client may already
        # be busy with the next cycle, and that time is not a delay of its answer.
        seconds, nanoseconds = _TIMESPEC.unpack(extra[0][2])
        arrived = time.monotonic_ns() - (time.time_ns() - (1_000_000_000 * seconds + nanoseconds))
        fields, count = self._tape.fields, self._tape.count
        number = int.from_bytes(data[:8], "little")
        for back in range(1, min(count, 64) + 1):  # It is nearly always the newest.
            index = (count - back) % len(fields["id"])
            if fields["id"][index] == number:
                fields["command"][index] = arrived
                break
        if self._spoilt is not None and len(data) == _COMMAND_SIZE:
            (joint, torque), self._spoilt = self._spoilt, None
            place = _TORQUES + 8 * joint
            (wanted,) = struct.unpack_from("<d", data, place)
            data = data[:place] + struct.pack("<d", wanted + torque) + data[place + 8 :]
        if self._states_to_hold > 0:
            self._held.append(data)
        else:
            self._pass_on("commands", data)

    def _pass_on(self, kind: str, data: bytes) -> None:
        self._counts[kind] += 1
        to = self._client_udp if kind == "states" else self._robot_udp
        if self._to_lose[kind] > 0:
            self._to_lose[kind] -= 1
        elif not self._cut and to is not None:
            with contextlib.suppress(OSError):  # The receiver is gone; UDP ignores that.
                (self._to_client if kind == "states" else self._to_robot).sendto(data, to)
            self._counts[f"{kind}_passed"] += 1
            return
        self._counts[f"{kind}_lost"] += 1

    # Requests.

    def _lose(self, direction: str, packets: int) -> None:
        self._to_lose[direction] = packets

    def _hold_back(self, states: int) -> None:
        self._states_to_hold = states

    def _spoil(self, joint: int, torque: float) -> None:
        if not math.isfinite(torque):
            raise ValueError(f"{torque} is not a finite torque")
        self._spoilt = (joint, torque)


def _datagrams(host: str) -> socket.socket:
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((host, 0))
    return datagrams


def main(arguments: Sequence[str] | None = None) -> int:
    """Forward packets until the standard input ends or SIGTERM arrives."""
    parser = argparse.ArgumentParser(description="A network with faults; started by bench.faults.")
    parser.add_argument("--host", required=True, help="loopback address to serve at")
    parser.add_argument("--robot", required=True, help="address of the arm")
    parser.add_argument("--tape", type=Path, required=True, help="tape to record every cycle on")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    relay = Relay(options.host, options.robot, Tape(CYCLE, options.tape))
    prefer_this_process(_PRIORITY, cpu_for(options.robot))
    sys.stdout.write(f"ready at {options.host}\n")
    sys.stdout.flush()
    relay.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
