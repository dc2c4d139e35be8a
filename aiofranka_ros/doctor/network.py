"""The way to a robot: which network interface it takes, what that interface is, and how long a packet is under way.

Used by the doctor, in its process and thread. What Linux tells is read from ``/proc`` and ``/sys``; nothing here needs
privileges, a robot's libraries or ROS.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from aiofranka_ros.control import fci

#: The kernel's table of IPv4 routes.
ROUTES = Path("/proc/net/route")
#: Size of a packet's content, as Franka measures a connection with ``ping`` [bytes]: about that of a robot's state.
_PACKET = 1200
#: How long an answer may take before it counts as lost [s].
_PATIENCE = 0.25
#: ICMP types of an echo's request and reply, RFC 792.
_ECHO, _ECHO_REPLY = 8, 0


@dataclass(frozen=True)
class Interface:
    """A network interface and what it is.

    :ivar kind: ``wired``, ``usb``, ``wifi``, ``virtual`` or ``loopback``.
    :ivar speed: of the link [Mbit/s]; ``None`` where the system does not say.
    :ivar gateway: address of the router in between; empty where there is none.
    """

    name: str
    kind: str
    speed: int | None
    gateway: str


def interface_to(address: str) -> Interface | None:
    """The interface that packets to the IPv4 ``address`` leave by; ``None`` where no route leads there."""
    wanted = int(IPv4Address(address))
    if IPv4Address(address).is_loopback:
        return _describe("lo", "")
    best: tuple[int, int, str, int] | None = None
    for line in ROUTES.read_text().splitlines()[1:]:
        name, destination, gateway, flags, _, _, metric, mask, *_ = line.split()
        network, router, narrowness = map(_address, (destination, gateway, mask))
        up = int(flags, 16) & 1
        # The narrowest network that contains the address; of several, the one that costs least.
        if up and wanted & narrowness == network and (best is None or (narrowness, -int(metric)) > best[:2]):
            best = (narrowness, -int(metric), name, router)
    if best is None:
        return None
    return _describe(best[2], str(IPv4Address(best[3])) if best[3] else "")


def _address(field: str) -> int:
    """An address in ``/proc/net/route``: hexadecimal, in this machine's order of bytes."""
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
    speed = None
    with contextlib.suppress(OSError, ValueError):  # It says nothing, or that it does not know.
        speed = int((folder / "speed").read_text())
    return Interface(name, kind, speed if speed is not None and speed > 0 else None, gateway)


def round_trips(address: str, count: int, period: float) -> Iterator[float | None]:
    """Measure how long packets to ``address`` and back are under way, ``count`` of them, one every ``period`` [s].

    With ICMP echoes as ``ping`` does, where the system lets this user (``ping_group_range``). Else with a tenth as many
    connections to the FCI, where a closed port answers as fast; the FCI serves one client, and is not to be flooded.

    :returns: each time [s]; ``None`` for a packet that did not come back.
    """
    try:
        echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    except PermissionError:
        for _ in range(count // 10):
            yield _connect(address)
            time.sleep(period)
        return
    with echo:
        echo.settimeout(_PATIENCE)
        for number in range(count):
            yield _ping(echo, address, number)
            time.sleep(period)


def _ping(echo: socket.socket, address: str, number: int) -> float | None:
    """One echo; the kernel adds identifier and checksum."""
    content = b"\0" * _PACKET
    begin = time.perf_counter()
    try:
        echo.sendto(struct.pack("!BBHHH", _ECHO, 0, 0, 0, number) + content, (address, 0))
        while True:
            kind, _, _, _, answered = struct.unpack_from("!BBHHH", echo.recv(2 * _PACKET))
            if (kind, answered) == (_ECHO_REPLY, number):
                return time.perf_counter() - begin
    except OSError:
        return None


def _connect(address: str) -> float | None:
    """One connection, closed at once."""
    begin = time.perf_counter()
    try:
        socket.create_connection((address, fci.PORT), _PATIENCE).close()
    except ConnectionRefusedError:
        pass
    except OSError:
        return None
    return time.perf_counter() - begin
