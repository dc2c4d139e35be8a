"""Simulated hands for tests: one that remembers its commands."""

from __future__ import annotations

import socket
from typing import Any

from franka_sim.gripper.protocol import GripperCommand, GripperCommandHeader

from aiofranka_ros.simulation.hand import HandServer

HOMING, MOVE, GRASP, STOP = (
    GripperCommand.kHoming,
    GripperCommand.kMove,
    GripperCommand.kGrasp,
    GripperCommand.kStop,
)


class Counting(HandServer):
    """A hand that remembers the commands it was sent."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.commands: list[GripperCommand] = []

    def _dispatch_command(self, sock: socket.socket, header: GripperCommandHeader, payload: bytes) -> None:
        self.commands.append(header.command)
        super()._dispatch_command(sock, header, payload)
