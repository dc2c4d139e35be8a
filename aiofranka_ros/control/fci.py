"""Questions to a robot that need no libfranka: whether its FCI is active, and which protocol it speaks.

Used by :mod:`aiofranka_ros.control.libfranka` in the control process, to explain why libfranka could not connect and
to prevent that two processes drive one arm, and by the doctor. Plain sockets, in the caller's thread; a question takes
at most two seconds.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from aiofranka_ros.errors import ArmInUse, ConnectionFailed, Problem
from aiofranka_ros.processes import ARM_LOCK, lock

#: TCP port of the FCI: ``kCommandPort``, libfranka ``research_interface/robot/service_types.h``.
PORT = 1337
#: Version of the FCI protocol that the installed libfranka speaks (0.18 and later): ``kVersion``, same file.
VERSION = 10
#: Releases of libfranka for each version of the protocol: ``compatibility_matrix.rst`` of libfranka 0.21.
_LIBFRANKA_FOR_PROTOCOL = {
    3: "0.7.1", 4: "0.8", 5: "0.9", 6: "0.10 to 0.13.2", 7: "0.13.3 to 0.14.0", 8: "0.14.1", 9: "0.15 to 0.17",
    10: "0.18 or later",
}  # fmt: skip
#: How long a question to the robot may take [s].
_TIMEOUT = 2.0


@dataclass(frozen=True)
class Fault(Problem):
    """Why a robot cannot be driven."""

    robot_version: int | None = None  #: FCI protocol version of the robot, if that is the problem


def resolve(address: str) -> str:
    """The IP address of the robot at ``address``; ``ConnectionFailed`` if there is no such host."""
    try:
        return socket.gethostbyname(address)
    except (OSError, ValueError) as error:  # ValueError: it cannot be a host name.
        raise ConnectionFailed(f"no robot at {address!r}: {getattr(error, 'strerror', None) or error}") from error


def claim(address: str) -> socket.socket:
    """Make sure that no other process on this machine drives the arm at ``address`` until the socket is closed.

    :raises ArmInUse: another process drives it.
    :raises ConnectionFailed: there is no such host.
    """
    name = ARM_LOCK + resolve(address)
    try:
        return lock(name)
    except OSError as error:
        raise ArmInUse(
            f"another process on this machine already drives the arm at {address}: "
            "stop that node, or give this one another robot_ip"
        ) from error


def find_fault(address: str, library: str) -> Fault | None:
    """Why the robot at ``address`` cannot be driven; ``None`` if nothing is wrong.

    :param library: version of the installed libfranka, for the message.
    """
    try:
        version = protocol_version(address)
    except ConnectionRefusedError:
        return Fault(
            f"{address} is there, but its port {PORT} is closed", "unlock the joints and activate the FCI in Desk"
        )
    except TimeoutError:
        return Fault(
            f"no answer from {address}:{PORT}",
            "is the robot on, is this its address, is this computer's network set up for it, and is no other program "
            "connected to it?",
        )
    except ConnectionAbortedError:
        return Fault(f"the robot at {address} closed the connection", "end the other program that is connected to it")
    except OSError as reason:
        return Fault(
            f"no robot at {address} ({reason.strerror or reason})",
            "is the robot on, is this its address, and is this computer's network set up for it?",
        )
    if version == VERSION:
        return None
    needed = _LIBFRANKA_FOR_PROTOCOL.get(version, "another release")
    return Fault(
        f"the robot at {address} speaks FCI protocol version {version}, but libfranka {library} speaks {VERSION}",
        f"install libfranka {needed} (pylibfranka), or update the robot's system image",
        robot_version=version,
    )


def protocol_version(address: str) -> int:
    """Ask the robot for its FCI protocol version, without becoming its client.

    The ``Connect`` request and its reply as in libfranka's ``research_interface/robot/service_types.h``: a header of
    command, command number and size (three ``uint32``), then version and UDP port (``uint16`` each); the reply carries
    a status (``uint8``) and the robot's version (``uint16``). The version in the request is one that no robot speaks:
    the robot refuses it, and no connection begins that would have to be ended.

    :raises OSError: it does not answer; ``ConnectionAbortedError``: it closes the connection instead.
    """
    with (
        # A port that exists, in case the robot sends its state anyway.
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as states,
        socket.create_connection((address, PORT), timeout=_TIMEOUT) as connection,
    ):
        states.bind(("", 0))
        connection.sendall(struct.pack("<IIIHH", 0, 0, 16, 0, states.getsockname()[1]))
        reply = b""
        while len(reply) < 15:
            part = connection.recv(15 - len(reply))
            if not part:
                raise ConnectionAbortedError("the robot closed the connection")
            reply += part
    _, version = struct.unpack_from("<BH", reply, 12)
    return int(version)
