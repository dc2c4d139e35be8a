"""What the doctor checks: one function per subject, each yielding what it found.

Anything that could crash this process or change it (real-time scheduling, libfranka, compiled code, ROS) is tried in a
separate process: a computer on which it fails is exactly the one that needs a doctor. For the same reason, this module
imports only the standard library and the lightest modules of this package.
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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aiofranka_ros.control import fci, realtime
from aiofranka_ros.doctor import network
from aiofranka_ros.errors import ArmInUse, ConnectionFailed, Problem

PACKAGE = "aiofranka_ros"
#: Longest that the process of a check may take [s]; the slowest needs two.
_TIMEOUT = 60.0
#: Packets to send to the robot, and the pause between two of them [s].
_PACKETS, _PAUSE = 200, 0.005
#: Of each millisecond, the computer needs up to 0.3 ms to compute a torque, and the robot as much for itself. Franka's
#: documentation ("Network requirements") demands that the sum with the round trip stays below 1 ms [s].
_SLOW, _TOO_SLOW = 0.3e-3, 1e-3
#: The slowest link that Franka allows (100BASE-TX, "System requirements") [Mbit/s].
_SLOWEST_LINK = 100
#: Where DDS exchanges messages within a computer, and the least that should be free there [bytes].
_SHARED_MEMORY, _LITTLE_MEMORY = Path("/dev/shm"), 64 << 20
#: Requirements of the simulated arm only.
_SIMULATION_ONLY = ("franka-sim", "mujoco")


class State(str, enum.Enum):
    """The result of a check; a string, so that JSON can hold it."""

    OK = "ok"
    WARNING = "warning"  # the arm can be driven, but not as well as it could
    MISSING = "missing"  # the arm cannot be driven


@dataclass(frozen=True)
class Finding:
    """The subject of a check, its condition, and how to fix it: a command if there is one, or empty if it is ok."""

    name: str
    state: State
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Finding:
    """Nothing to fix."""
    return Finding(name, State.OK, found)


def warning(name: str, found: str, remedy: str, *, unless: bool = False) -> Finding:
    """The arm can be driven, but not as well as it could; ``unless`` true: nothing to fix."""
    return ok(name, found) if unless else Finding(name, State.WARNING, found, remedy)


def missing(name: str, found: str, remedy: str, *, unless: bool = False) -> Finding:
    """The arm cannot be driven; ``unless`` true: nothing to fix."""
    return ok(name, found) if unless else Finding(name, State.MISSING, found, remedy)


def _problem(name: str, problem: Problem, note: str, fine: str, *, unless: bool) -> Finding:
    """A warning with the words of ``problem``; ``unless`` true: ``fine`` was found instead."""
    return ok(name, fine) if unless else warning(name, f"{problem.what} ({note})", problem.remedy)


# The computer.


def kernel() -> Iterator[Finding]:
    """Whether the kernel is a real-time one."""
    release, good = os.uname().release, realtime.realtime_kernel()
    yield _problem("kernel", realtime.NO_REALTIME_KERNEL, release, f"{release}, PREEMPT_RT", unless=good)


def limits() -> Iterator[Finding]:
    """Whether this user gets real-time scheduling and locked memory: by trying, not by reading the limits."""
    ran = _python("-m", f"{PACKAGE}.control.realtime")
    if ran.returncode != 0:
        yield missing("real time", _last_line(ran.stderr), "see the message")
        return
    refused = [Problem(**problem) for problem in json.loads(ran.stdout)]
    for name, problem, kind, limit in (
        (f"SCHED_FIFO {realtime.PRIORITY}", realtime.NO_SCHEDULING, "rtprio", resource.RLIMIT_RTPRIO),
        ("locked memory", realtime.NO_LOCKED_MEMORY, "memlock", resource.RLIMIT_MEMLOCK),
    ):
        soft = resource.getrlimit(limit)[0]
        note = f"{kind} limit: {'unlimited' if soft == resource.RLIM_INFINITY else soft}"
        yield _problem(name, problem, note, f"granted ({note})", unless=problem not in refused)


def processors() -> Iterator[Finding]:
    """How many there are, and whether they save power."""
    count, isolated = len(os.sched_getaffinity(0)), realtime.isolated_cpus()
    found = f"{count} usable, isolated: {isolated or 'none'}"
    if isolated and count >= 2:
        found += "; realtime_cpu can be one of these"
    remedy = "use a computer or container with more: the control process needs one for itself"
    yield warning("processors", found, remedy, unless=count >= 2)
    governors, turbo = realtime.governors(), realtime.turbo()
    governor = f"governor: {' '.join(sorted(governors)) or 'unknown'}"
    fine = governor if turbo is None else f"{governor}, turbo {'on' if turbo else 'off'}"
    yield _problem("frequency", realtime.POWER_SAVING, governor, fine, unless="powersave" not in governors)
    wake_up = f"up to {realtime.longest_wake_up()} µs to wake up"
    yield _problem("idle states", realtime.SLOW_WAKE_UP, wake_up, wake_up, unless=realtime.can_keep_awake())


def memory() -> Iterator[Finding]:
    """Whether processes can share memory: the node with the control process, and DDS."""
    try:
        os.close(os.memfd_create(PACKAGE))
    except OSError as error:
        remedy = "use Linux 3.17 or later, and no system-call filter that forbids memfd_create"
        yield missing("shared memory", f"memfd_create: {error.strerror}", remedy)
        return
    free = 0
    with contextlib.suppress(OSError):
        status = os.statvfs(_SHARED_MEMORY)
        free = status.f_bavail * status.f_frsize if os.access(_SHARED_MEMORY, os.W_OK) else 0
    found = f"memfd; {free >> 20} MiB free in {_SHARED_MEMORY}"
    remedy = f"sudo mount -o remount,size=512M {_SHARED_MEMORY}; in a container: docker run --shm-size=512m"
    yield warning("shared memory", found, remedy, unless=free >= _LITTLE_MEMORY)


# The software.


def libraries(simulated: bool) -> Iterator[Finding]:
    """Versions of Python and of this package's requirements, against the bounds that it declares.

    :param simulated: whether to check the requirements of the simulated arm too.
    """
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet
    except ImportError:
        yield missing("packaging", "not installed", "pip install packaging")
        return
    python, required = declared_requirements()
    version = ".".join(map(str, sys.version_info[:3]))
    found = f"{version} (required: {python})"
    yield missing("Python", found, f"use Python {python}", unless=version in SpecifierSet(python))
    for text in required:
        requirement = Requirement(text)
        if requirement.name in _SIMULATION_ONLY and not simulated:
            continue
        installed = _version_of(requirement.name)
        found = f"{installed or 'not installed'} (required: {requirement.specifier})"
        good = installed is not None and requirement.specifier.contains(installed, prereleases=True)
        yield missing(requirement.name, found, f"pip install '{text}'", unless=good)


def declared_requirements() -> tuple[str, list[str]]:
    """Supported versions of Python, and the required libraries with those of the simulated arm.

    From ``setup.py`` if the package runs from its sources, otherwise from the metadata installed with it.
    """
    source = Path(__file__).resolve().parents[2] / "setup.py"
    if not source.exists():
        required = [text.partition(";") for text in importlib.metadata.requires(PACKAGE) or ()]
        libraries = [text.strip() for text, _, marker in required if not marker or marker.strip(" '\"").endswith("sim")]
        return importlib.metadata.metadata(PACKAGE)["Requires-Python"], libraries
    literals = {
        ast.unparse(statement.targets[0]): statement.value
        for statement in ast.parse(source.read_text()).body
        if isinstance(statement, ast.Assign)
    }
    python, needed, extras = (
        ast.literal_eval(literals[name]) for name in ("PYTHON_REQUIRES", "INSTALL_REQUIRES", "EXTRAS_REQUIRE")
    )
    return python, [*needed, *extras["sim"]]


def control_process() -> Iterator[Finding]:
    """Whether everything that drives an arm can be imported, and whether its kernels are compiled."""
    ran = _python("-m", f"{PACKAGE}.control.process", "--help")
    if ran.returncode != 0:
        yield missing("control process", _last_line(ran.stderr), "pip install what is missing; see above")
        return
    yield ok("control process", "can be started")
    compiled = _python("-m", f"{PACKAGE}.warm_up", "--check").returncode == 0
    found = "compiled" if compiled else "not compiled yet: the first start takes half a minute"
    yield warning("kernels", found, f"{Path(sys.executable).name} -m {PACKAGE}.warm_up", unless=compiled)


def simulated_arm() -> Iterator[Finding]:
    """Whether the simulator can be imported."""
    ran = _python("-c", f"import {PACKAGE}.simulation.model")
    good = ran.returncode == 0
    found = "can be started" if good else _last_line(ran.stderr)
    yield missing("simulated arm", found, "pip install franka-sim", unless=good)


# The robot.


def robot(address: str) -> Iterator[Finding]:
    """The network to the robot, and whether the robot can be driven."""
    try:
        resolved = fci.resolve(address)
    except ConnectionFailed as error:
        yield missing("robot", str(error), "give the address that opens Desk in a browser")
        return
    yield route(resolved)
    try:
        lock = fci.claim(address)
    except ArmInUse:
        # A request would disturb the process that drives it.
        found = f"another process on this computer drives the arm at {address}"
        yield missing("FCI", found, "stop that node before you start another one")
        return
    with lock:
        yield _round_trip(resolved)
        fault = fci.find_fault(address, _version_of("pylibfranka") or "unknown")
    good = ok("FCI", f"reachable, protocol version {fci.VERSION}, the same as libfranka's")
    yield good if fault is None else missing("FCI", fault.what, fault.remedy)


def route(address: str) -> Finding:
    """The network interface that leads to the IP ``address``."""
    interface = network.interface_to(address)
    if interface is None:
        remedy = f"sudo ip addr add ADDRESS dev INTERFACE, with an address in the same network as {address}"
        return missing("network", f"no route to {address}", remedy)
    if interface.kind == "loopback":
        return ok("network", f"{interface.name}: {address} is this computer, a simulated arm")
    speed = "speed unknown" if interface.speed is None else f"{interface.speed} Mbit/s"
    found = f"{interface.name}, {interface.kind}, {speed}"
    if interface.gateway:
        found += f", through the router {interface.gateway}"
    if interface.gateway or interface.kind != "wired":
        return warning("network", found, "connect the robot's control box directly to a network card of this computer")
    slow = interface.speed is not None and interface.speed < _SLOWEST_LINK
    return warning("network", found, f"use a better cable: at least {_SLOWEST_LINK} Mbit/s", unless=not slow)


def _round_trip(address: str) -> Finding:
    """How long packets take, measured at the priority at which the arm will be driven if the system grants it."""
    with realtime.real_time(realtime.PRIORITY):
        times = list(network.round_trips(address, _PACKETS, _PAUSE))
    answered = [duration for duration in times if duration is not None]
    if not answered:
        return warning("round trip", f"{address} does not answer", "see the line on the FCI")
    median, slowest = statistics.median(answered), max(answered)
    found = f"p50 {1e3 * median:.2f} ms, max {1e3 * slowest:.2f} ms of {len(times)}, {len(times) - len(answered)} lost"
    remedy = "a direct cable, no switch, no USB adapter; sudo ethtool --set-eee INTERFACE eee off; a real-time kernel"
    if median >= _TOO_SLOW:
        return missing("round trip", f"{found}: every cycle would be lost", remedy)
    if median > _SLOW:
        return warning("round trip", f"{found}: this leaves too little of each millisecond", remedy)
    if slowest > _TOO_SLOW or len(answered) < len(times):
        return warning("round trip", f"{found}: some cycles would be lost", remedy)
    return ok("round trip", found)


# ROS.


def ros() -> Iterator[Finding]:
    """Whether rclpy can be imported, and what :mod:`aiofranka_ros.doctor.ros` found in a separate process."""
    ran = _python("-c", "import rclpy")
    if ran.returncode != 0:
        found = f"{_last_line(ran.stderr)}; without ROS, only RobotInterface drives an arm"
        yield warning("rclpy", found, "source the distribution's setup.bash, or build/setup.sh")
        return
    version = _version_of("rclpy") or _version_of("ros-rclpy") or "version unknown"
    yield ok("rclpy", f"{version} ({os.environ.get('ROS_DISTRO', 'from PyPI')})")
    ran = _python("-m", f"{PACKAGE}.doctor.ros")
    if ran.returncode != 0:
        yield missing(
            "ROS",
            _last_line(ran.stderr),
            "install ROS again, or run `make setup`; the whole error: python3 -m aiofranka_ros.doctor.ros",
        )
        return
    for finding in json.loads(ran.stdout):
        yield Finding(**finding | {"state": State(finding["state"])})


def checks(address: str) -> dict[str, list[Callable[[], Iterable[Finding]]]]:
    """All checks, by group.

    :param address: of the robot; ``sim``: the simulated one.
    """
    simulated = address == "sim"
    no_robot = ok("robot", "not checked; --robot-ip ADDRESS checks a robot and the network to it")
    return {
        "computer": [kernel, limits, processors, memory],
        "software": [lambda: libraries(simulated), control_process, *([simulated_arm] if simulated else [])],
        "robot": [lambda: [no_robot] if simulated else robot(address)],
        "ROS": [ros],
    }


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter; a run that takes too long counts as failed."""
    command = [sys.executable, *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {_TIMEOUT:.0f} s")


def _last_line(text: str) -> str:
    """The line of a traceback that names the error."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it failed without a message")


def _version_of(name: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
