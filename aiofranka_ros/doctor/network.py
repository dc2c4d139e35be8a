"""The network to a robot: which interface leads there, what that interface is, and how long a packet takes.

Used by the doctor, in its process and thread; needs no privileges, libfranka or ROS.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from aiofranka_ros.control import fci

#: The kernel's table of IPv4 routes.
ROUTES = Path("/proc/net/route")
#: Payload of a packet, about the size of a robot's state, which Franka uses to test a connection with ``ping`` [bytes].
_PACKET = 1200
#: How long an answer may take before it counts as lost [s].
_PATIENCE = 0.25
#: ICMP types of an echo's request and reply, RFC 792.
_ECHO, _ECHO_REPLY = 8, 0


class Interface(NamedTuple):
    """A network interface."""

    name: str
    kind: str  # wired, usb, wifi, virtual or loopback
    speed: int | None  # of the link [Mbit/s]; None if the system does not say
    gateway: str  # address of the router in between; empty if there is none


def interface_to(address: str) -> Interface | None:
    """The interface that packets to the IPv4 ``address`` leave by; ``None`` if no route leads there."""
    target = IPv4Address(address)
    if target.is_loopback:
        return _describe("lo", "")
    routes = []
    for line in ROUTES.read_text().splitlines()[1:]:
        name, destination, gateway, flags, _, _, metric, mask, *_ = line.split()
        network, router, netmask = map(_address, (destination, gateway, mask))
        if int(flags, 16) & 1 and int(target) & netmask == network:  # RTF_UP
            routes.append((netmask, -int(metric), name, router))
    if not routes:
        return None
    # The narrowest network that contains the address; of several, the one with the lowest metric.
    *_, name, router = max(routes)
    return _describe(name, str(IPv4Address(router)) if router else "")


def _address(field: str) -> int:
    """An address in ``/proc/net/route``: hexadecimal, in this machine's byte order."""
    return int.from_bytes(struct.pack("=I", int(field, 16)), "big")


def _describe(name: str, gateway: str) -> Interface:
    folder = Path("/sys/class/net", name)
    device = folder / "device"
    if name == "lo":
        kind = "loopback"
    elif (folder / "wireless").exists() or (folder / "phy80211").exists():
        kind = "wifi"
    elif not device.exists() or "/virtio" in str(device.resolve()):
        kind = "virtual"
    else:
        kind = "usb" if "/usb" in str(device.resolve()) else "wired"
    speed = 0
    with contextlib.suppress(OSError, ValueError):  # Not every driver knows it.
        speed = int((folder / "speed").read_text())
    return Interface(name, kind, speed if speed > 0 else None, gateway)


def round_trips(address: str, count: int, period: float) -> Iterator[float | None]:
    """Measure how long packets to ``address`` and back take [s]: ``count`` of them, one every ``period`` [s].

    Uses ICMP echoes like ``ping`` if the system permits this user to send them (``ping_group_range``). Otherwise it
    opens a tenth as many connections to the FCI, where a closed port answers as fast; the FCI serves only one client
    and must not be flooded. ``None``: a packet did not come back.
    """
    echo = None
    with contextlib.suppress(PermissionError):
        echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    with echo or contextlib.nullcontext():
        for number in range(count if echo else count // 10):
            begin = time.perf_counter()
            try:
                _ping(echo, address, number) if echo else _connect(address)
            except OSError:
                yield None
            else:
                yield time.perf_counter() - begin
            time.sleep(period)


def _ping(echo: socket.socket, address: str, number: int) -> None:
    """One echo; the kernel adds identifier and checksum."""
    echo.settimeout(_PATIENCE)
    echo.sendto(struct.pack("!BBHHH", _ECHO, 0, 0, 0, number) + b"\0" * _PACKET, (address, 0))
    kind = answered = -1
    while (kind, answered) != (_ECHO_REPLY, number):
        kind, _, _, _, answered = struct.unpack_from("!BBHHH", echo.recv(2 * _PACKET))


def _connect(address: str) -> None:
    """One connection, closed at once."""
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection((address, fci.PORT), _PATIENCE).close()
