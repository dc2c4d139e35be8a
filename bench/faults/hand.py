"""The simulated hand without an arm, recorded: every state that it sends and every command that it is sent.

    python -m bench.faults.hand --tape PATH --host 127.0.0.3 --object-width 0.03

:class:`RecordedHand` is the handle of the process that stages faults; this module is also the hand's own process.
"""

from __future__ import annotations

import argparse
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from franka_sim.gripper.backend import GripperStateData

from aiofranka_ros.simulation.hand import HandServer, SimulatedHand
from bench.faults.helper import Helper
from bench.faults.tape import Tape

#: A state that the hand has sent, or a command that it was sent.
HAND = np.dtype(
    [
        ("stamp", "i8"),  # [ns, system clock]
        ("width", "f8"),  # [m]
        ("command", "i8"),  # its number in the protocol; 0: none, a state
    ]
)


class RecordedHand(Helper):
    """A simulated hand, running until it is closed.

    :param host: loopback address to serve at.
    :param folder: for its log.
    :param object_width: width of an object between its fingers [m]; ``None``: no object.
    """

    def __init__(self, host: str, folder: Path, object_width: float | None) -> None:
        self.host = host
        self.tape = Tape(HAND)
        options = ["--tape", str(self.tape.path), "--host", host]
        if object_width is not None:
            options += ["--object-width", str(object_width)]
        super().__init__("bench.faults.hand", options, folder / "hand.log")

    def since(self, stamp: int) -> npt.NDArray[Any]:
        """The records since ``stamp`` [ns, system clock]."""
        records, _ = self.tape.since(0)
        return records[records["stamp"] >= stamp]


class _RecordedServer(HandServer):
    def __init__(self, host: str, hand: SimulatedHand, tape: Tape) -> None:
        super().__init__(host, hand)
        self._tape, self._lock_of_tape = tape, threading.Lock()

    def _dispatch_command(self, sock: socket.socket, header: Any, payload: bytes) -> None:
        self.record(self.backend.get_state(), int(header.command))
        super()._dispatch_command(sock, header, payload)

    def record(self, state: GripperStateData, command: int = 0) -> GripperStateData:
        with self._lock_of_tape:  # States and commands have a thread each.
            fields, index = self._tape.fields, self._tape.next()
            fields["stamp"][index], fields["width"][index] = time.time_ns(), state.width
            fields["command"][index] = command
            self._tape.commit()
        return state


class _RecordedHand(SimulatedHand):
    server: _RecordedServer

    def get_state(self) -> GripperStateData:
        return self.server.record(super().get_state())


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the hand until its standard input ends, or SIGTERM."""
    parser = argparse.ArgumentParser(description="A simulated hand for fault injection; started by bench.faults.")
    parser.add_argument("--tape", type=Path, required=True, help="tape to record on")
    parser.add_argument("--host", required=True, help="loopback address to serve at")
    parser.add_argument("--object-width", type=float, help="width of an object between its fingers [m]")
    options = parser.parse_args(arguments)
    hand = _RecordedHand(options.object_width)
    hand.server = server = _RecordedServer(options.host, hand, Tape(HAND, options.tape))
    threading.Thread(target=server.run_server, daemon=True).start()
    while not server.running:
        time.sleep(0.001)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()  # Until the process that started this one is gone.
    return 0


if __name__ == "__main__":
    sys.exit(main())
