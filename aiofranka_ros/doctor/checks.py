"""What the doctor looks at: one function for each matter, which returns what it found.

Used by :mod:`aiofranka_ros.doctor`, in its process and thread. Whatever could fail badly, or would change this process
(real-time scheduling, libfranka, compiled code, ROS), is tried in a process of its own: a computer on which that does
not work is the one that needs a doctor. So this module imports nothing but the standard library and this package's
lightest modules.
"""

from __future__ import annotations

import ast
import contextlib
import enum
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiofranka_ros.control import fci, realtime
from aiofranka_ros.doctor import network
from aiofranka_ros.errors import ArmInUse, ConnectionFailed, Problem

PACKAGE = "aiofranka_ros"
#: Longest that a process of a check may take [s]; the slowest needs two.
_TIMEOUT = 60.0
#: Packets that are sent to the robot, and the pause between two of them [s].
_PACKETS, _PAUSE = 200, 0.005
#: Of the millisecond that a robot waits, the computer needs up to 0.3 ms for a torque and the robot as much for itself;
#: Franka's documentation ("Network requirements") asks that the sum with the round trip stays below 1 ms [s].
_SLOW, _TOO_SLOW = 0.3e-3, 1e-3
#: The slowest link that Franka allows (100BASE-TX, "System requirements") [Mbit/s].
_SLOWEST_LINK = 100
#: Where DDS exchanges messages within a computer, and the least that it should have [bytes].
_SHARED_MEMORY, _LITTLE_MEMORY = Path("/dev/shm"), 64 << 20
#: Requirements that nothing but the simulated arm needs.
_OF_SIMULATION = ("franka-sim", "mujoco")


class State(enum.Enum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"  # the arm can be driven nevertheless
    MISSING = "missing"  # the arm cannot be driven


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    :ivar name: what was looked at.
    :ivar found: what it is like.
    :ivar remedy: what to do where that is not well; a command where there is one.
    """

    name: str
    state: State
    found: str
    remedy: str = ""

    @classmethod
    def of(cls, name: str, problem: Problem, state: State = State.WARNING, note: str = "") -> Finding:
        """A problem as a finding."""
        return cls(name, state, f"{problem.what} ({note})" if note else problem.what, problem.remedy)


# The computer.


def kernel() -> Iterator[Finding]:
    """Whether it is a real-time one."""
    release = os.uname().release
    if realtime.realtime_kernel():
        yield Finding("kernel", State.OK, f"{release}, PREEMPT_RT")
    else:
        yield Finding.of("kernel", realtime.NO_REALTIME_KERNEL, note=release)


def limits() -> Iterator[Finding]:
    """Whether this user is granted real-time scheduling and locked memory: tried, not read."""
    ran = _python("-m", f"{PACKAGE}.control.realtime")
    if ran.returncode != 0:
        yield Finding("real time", State.MISSING, _last_line(ran.stderr), "see the message")
        return
    missing = [Problem(**problem) for problem in json.loads(ran.stdout)]
    for name, problem, limit in (
        (f"SCHED_FIFO {realtime.PRIORITY}", realtime.NO_SCHEDULING, resource.RLIMIT_RTPRIO),
        ("locked memory", realtime.NO_LOCKED_MEMORY, resource.RLIMIT_MEMLOCK),
    ):
        soft = resource.getrlimit(limit)[0]
        kind = "rtprio" if limit == resource.RLIMIT_RTPRIO else "memlock"
        note = f"{kind} limit: {'unlimited' if soft == resource.RLIM_INFINITY else soft}"
        if problem in missing:
            yield Finding.of(name, problem, note=note)
        else:
            yield Finding(name, State.OK, f"granted ({note})")


def processors() -> Iterator[Finding]:
    """How many there are, and whether they save power."""
    count, isolated = len(os.sched_getaffinity(0)), realtime.isolated_cpus()
    found = f"{count} usable, isolated: {isolated or 'none'}"
    if count < 2:
        remedy = "the control process wants one for itself: use a computer, or a container, with more"
        yield Finding("processors", State.WARNING, found, remedy)
    elif isolated:
        yield Finding("processors", State.OK, f"{found}; realtime_cpu can be one of these")
    else:
        yield Finding("processors", State.OK, found)
    governors, turbo = realtime.governors(), realtime.turbo()
    if "powersave" in governors:
        yield Finding.of("frequency", realtime.POWER_SAVING, note=f"governor: {' '.join(sorted(governors))}")
    else:
        turbo_text = "" if turbo is None else f", turbo {'on' if turbo else 'off'}"
        known = f"governor: {' '.join(sorted(governors))}" if governors else "the system does not say"
        yield Finding("frequency", State.OK, f"{known}{turbo_text}")
    wake_up = f"up to {realtime.longest_wake_up()} µs to wake up"
    if realtime.can_keep_awake():
        yield Finding("idle states", State.OK, wake_up)
    else:
        yield Finding.of("idle states", realtime.SLOW_WAKE_UP, note=wake_up)


def memory() -> Iterator[Finding]:
    """Whether processes can share some: the node with the control process, and DDS."""
    try:
        os.close(os.memfd_create(PACKAGE))
    except OSError as error:
        remedy = "Linux 3.17 or later, without a filter of system calls that forbids it"
        yield Finding("shared memory", State.MISSING, f"memfd_create: {error.strerror}", remedy)
        return
    free = 0
    with contextlib.suppress(OSError):
        status = os.statvfs(_SHARED_MEMORY)
        free = status.f_bavail * status.f_frsize if os.access(_SHARED_MEMORY, os.W_OK) else 0
    found = f"memfd; {free >> 20} MiB free in {_SHARED_MEMORY}"
    if free < _LITTLE_MEMORY:
        remedy = f"sudo mount -o remount,size=512M {_SHARED_MEMORY}; of a container: docker run --shm-size=512m"
        yield Finding("shared memory", State.WARNING, found, remedy)
    else:
        yield Finding("shared memory", State.OK, found)


# The software.


def libraries(simulated: bool) -> Iterator[Finding]:
    """Versions of Python and of what this package requires, against the bounds that it declares.

    :param simulated: whether the simulated arm is needed as well.
    """
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet
    except ImportError:
        yield Finding("packaging", State.MISSING, "not installed", "pip install packaging")
        return
    declared = declared_requirements()
    python = ".".join(map(str, sys.version_info[:3]))
    fits = python in SpecifierSet(declared.python)
    remedy = "" if fits else f"use a Python {declared.python}"
    yield Finding("Python", State.OK if fits else State.MISSING, f"{python} (wanted: {declared.python})", remedy)
    for text in declared.libraries:
        requirement = Requirement(text)
        if requirement.name in _OF_SIMULATION and not simulated:
            continue
        version = _version_of(requirement.name)
        wanted = f"wanted: {requirement.specifier}"
        if version is None:
            yield Finding(requirement.name, State.MISSING, f"not installed ({wanted})", f"pip install '{text}'")
        elif not requirement.specifier.contains(version, prereleases=True):
            yield Finding(requirement.name, State.MISSING, f"{version} ({wanted})", f"pip install '{text}'")
        else:
            yield Finding(requirement.name, State.OK, f"{version} ({wanted})")


@dataclass(frozen=True)
class Declared:
    """What this package declares that it needs.

    :ivar python: versions of Python, e.g. ``>=3.10``.
    :ivar libraries: requirements, those of the simulated arm included.
    """

    python: str
    libraries: list[str]


def declared_requirements() -> Declared:
    """From ``setup.py`` where the package runs from its sources, else from what was installed with it."""
    source = Path(__file__).resolve().parents[2] / "setup.py"
    if source.exists():
        tree = ast.parse(source.read_text())
        lists = {
            statement.targets[0].id: ast.literal_eval(statement.value)
            for statement in tree.body
            if isinstance(statement, ast.Assign)
            and isinstance(statement.targets[0], ast.Name)
            and statement.targets[0].id in ("INSTALL_REQUIRES", "EXTRAS_REQUIRE")
        }
        keywords = (node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "python_requires")
        return Declared(
            python=ast.literal_eval(next(keywords).value),
            libraries=[*lists["INSTALL_REQUIRES"], *lists["EXTRAS_REQUIRE"]["sim"]],
        )
    wanted = [text.partition(";") for text in importlib.metadata.requires(PACKAGE) or ()]
    return Declared(
        python=importlib.metadata.metadata(PACKAGE)["Requires-Python"],
        libraries=[text.strip() for text, _, marker in wanted if not marker or marker.strip(" '\"").endswith("sim")],
    )


def control_process() -> Iterator[Finding]:
    """Whether everything that drives an arm can be imported, and whether its kernels are compiled."""
    ran = _python("-m", f"{PACKAGE}.control.process", "--help")
    if ran.returncode != 0:
        yield Finding(
            "control process", State.MISSING, _last_line(ran.stderr), "pip install what is missing; see above"
        )
        return
    yield Finding("control process", State.OK, "can be started")
    if _python("-m", f"{PACKAGE}.warm_up", "--check").returncode == 0:
        yield Finding("kernels", State.OK, "compiled")
    else:
        remedy = f"{Path(sys.executable).name} -m {PACKAGE}.warm_up"
        yield Finding("kernels", State.WARNING, "not compiled yet: the first start takes half a minute", remedy)


def simulated_arm() -> Iterator[Finding]:
    """Whether the simulator can be imported."""
    ran = _python("-c", f"import {PACKAGE}.simulation_model")
    if ran.returncode != 0:
        yield Finding("simulated arm", State.MISSING, _last_line(ran.stderr), "pip install franka-sim")
    else:
        yield Finding("simulated arm", State.OK, "can be started")


# The robot.


def no_robot() -> Iterator[Finding]:
    """That none was asked."""
    yield Finding("robot", State.OK, "none was asked; --robot-ip ADDRESS examines one and the way to it")


def robot(address: str) -> Iterator[Finding]:
    """The way to the robot, and whether it lets itself be driven."""
    try:
        resolved = fci.resolve(address)
    except ConnectionFailed as error:
        yield Finding("robot", State.MISSING, str(error), "give the address that Desk is opened with")
        return
    yield link(resolved)
    try:
        lock = fci.claim(address)
    except ArmInUse:
        # Asking would disturb whoever drives it.
        found = f"another process on this computer drives the arm at {address}"
        yield Finding("FCI", State.MISSING, found, "end that node before another one starts")
        return
    with lock:
        yield _round_trip(resolved)
        fault = fci.find_fault(address, _version_of("pylibfranka") or "unknown")
    if fault is not None:
        yield Finding.of("FCI", fault, State.MISSING)
    else:
        yield Finding("FCI", State.OK, f"reachable, protocol version {fci.VERSION}, as libfranka speaks")


def link(address: str) -> Finding:
    """The network interface that leads to the IP ``address``."""
    interface = network.interface_to(address)
    if interface is None:
        remedy = (
            f"sudo ip addr add an address in the network of {address} to the interface that the robot is plugged into"
        )
        return Finding("network", State.MISSING, f"no route to {address}", remedy)
    if interface.kind == "loopback":
        return Finding("network", State.OK, f"{interface.name}: {address} is this computer, a simulated arm")
    speed = "speed unknown" if interface.speed is None else f"{interface.speed} Mbit/s"
    found = f"{interface.name}, {interface.kind}, {speed}"
    direct = "connect the robot's control box to a network card of this computer, without anything between"
    if interface.gateway:
        return Finding("network", State.WARNING, f"{found}, through the router {interface.gateway}", direct)
    if interface.kind != "wired":
        return Finding("network", State.WARNING, found, direct)
    if interface.speed is not None and interface.speed < _SLOWEST_LINK:
        return Finding("network", State.WARNING, found, "a better cable: 100 Mbit/s at the least")
    return Finding("network", State.OK, found)


def _round_trip(address: str) -> Finding:
    """How long packets are under way, measured at the priority at which the arm will be driven, if that is granted."""
    with realtime.real_time(realtime.PRIORITY):
        times = list(network.round_trips(address, _PACKETS, _PAUSE))
    answered = [duration for duration in times if duration is not None]
    remedy = "a direct cable, no switch, no USB adapter; sudo ethtool --set-eee INTERFACE eee off; a real-time kernel"
    if not answered:
        return Finding("round trip", State.WARNING, f"{address} does not answer", "see the line on the FCI")
    median, slowest = statistics.median(answered), max(answered)
    found = f"p50 {1e3 * median:.2f} ms, max {1e3 * slowest:.2f} ms of {len(times)}, {len(times) - len(answered)} lost"
    if median >= _TOO_SLOW:
        return Finding("round trip", State.MISSING, f"{found}: every cycle would be lost", remedy)
    if median > _SLOW:
        return Finding("round trip", State.WARNING, f"{found}: too little is left of a millisecond", remedy)
    if slowest > _TOO_SLOW or len(answered) < len(times):
        return Finding("round trip", State.WARNING, f"{found}: some cycles would be lost", remedy)
    return Finding("round trip", State.OK, found)


# ROS.


def ros() -> Iterator[Finding]:
    """What :mod:`aiofranka_ros.doctor.ros` found, in a process of its own."""
    distribution = os.environ.get("ROS_DISTRO", "from PyPI")
    version = _version_of("rclpy") or _version_of("ros-rclpy")
    ran = _python("-c", "import rclpy")
    if ran.returncode != 0:
        found = f"{_last_line(ran.stderr)}; without ROS, only RobotInterface drives an arm"
        yield Finding("rclpy", State.WARNING, found, "source the distribution's setup.bash, or build/setup.sh")
        return
    yield Finding("rclpy", State.OK, f"{version or 'version unknown'} ({distribution})")
    ran = _python("-m", f"{PACKAGE}.doctor.ros")
    if ran.returncode != 0:
        yield Finding("ROS", State.MISSING, _last_line(ran.stderr), "mend the ROS installation: ros2 doctor")
        return
    for finding in json.loads(ran.stdout):
        yield Finding(**finding | {"state": State(finding["state"])})


Check = Callable[[], Iterator[Finding]]


def checks(address: str) -> dict[str, list[Check]]:
    """All that there is to look at, by group.

    :param address: of the robot; ``sim``: the simulated one.
    """
    simulated = address == "sim"
    return {
        "computer": [kernel, limits, processors, memory],
        "software": [lambda: libraries(simulated), control_process, *([simulated_arm] if simulated else [])],
        "robot": [no_robot if simulated else lambda: robot(address)],
        "ROS": [ros],
    }


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter; one that does not end is one that failed."""
    command = [sys.executable, *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {_TIMEOUT:.0f} s")


def _last_line(text: str) -> str:
    """What an error message comes down to."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it says nothing")


def _version_of(name: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def as_json(address: str, findings: dict[str, list[Finding]]) -> dict[str, Any]:
    """Everything that was found, for programs."""
    return {
        "robot_ip": address,
        "drivable": drivable(findings),
        "checks": [
            {"group": group, "name": finding.name, "state": finding.state.value}
            | {"found": finding.found, "remedy": finding.remedy}
            for group, of_group in findings.items()
            for finding in of_group
        ],
    }


def drivable(findings: dict[str, list[Finding]]) -> bool:
    """Whether nothing is missing that an arm needs."""
    return all(finding.state is not State.MISSING for of_group in findings.values() for finding in of_group)
