"""The doctor as users and programs run it: what it reports about computers and robots that lack something."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from common import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from aiofranka_ros.control import fci, realtime
from aiofranka_ros.doctor import network
from aiofranka_ros.doctor.checks import State, declared_requirements, robot, route
from aiofranka_ros.simulation.simulated_arm import SimulatedArm

pytestmark = pytest.mark.light

ARM, OLD_ARM, NOBODY = "127.0.0.40", "127.0.0.41", "127.0.0.42"
#: ``<linux/prctl.h>`` and ``<linux/capability.h>``.
PR_CAPBSET_DROP, CAP_IPC_LOCK, CAP_SYS_NICE, CAP_SYS_RESOURCE = 24, 14, 23, 24


class Answer:
    """The doctor's report, as a program reads it."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        ran = run(*arguments, "--json", **options)
        report = json.loads(ran.stdout)
        self.status, self.drivable = ran.returncode, report["drivable"]
        self._checks = {check["name"]: check for check in report["checks"]}

    def __getitem__(self, name: str) -> dict[str, str]:
        return self._checks[name]

    @property
    def missing(self) -> list[str]:
        return [name for name, check in self._checks.items() if check["state"] == "missing"]


def run(
    *arguments: str, limit: Callable[[], None] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.run(
        [sys.executable, "-m", "aiofranka_ros.doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=100.0,
        preexec_fn=limit,
        env=os.environ | {"PYTHONPATH": path} | environment,
    )


@pytest.fixture(scope="module")
def healthy() -> Answer:
    """The report on the computer that runs the tests."""
    return Answer()


def test_a_computer_that_can_run_the_simulated_arm_can_drive_it(healthy: Answer) -> None:
    assert healthy.missing == []
    assert (healthy.status, healthy.drivable) == (0, True)
    assert healthy["simulated arm"]["state"] == healthy["control process"]["state"] == "ok"
    assert "not checked" in healthy["robot"]["found"]


def test_ros_messages_arrive(healthy: Answer) -> None:
    assert healthy["messages"]["state"] == "ok"
    assert "arrive after" in healthy["messages"]["found"]


def test_versions_are_compared_with_what_the_package_declares(healthy: Answer) -> None:
    names = {text.partition(">")[0].partition("~")[0] for text in declared_requirements()[1]}
    assert {"numpy", "pylibfranka", "franka-sim"} <= names
    for name in names:
        assert healthy[name]["state"] == "ok" and "required: " in healthy[name]["found"]


def test_an_installed_package_declares_the_same_as_its_sources(tmp_path: Path) -> None:
    for name in ("setup.py", "aiofranka_ros"):
        (tmp_path / name).symlink_to(ROOT / name)
    egg = ["setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run([sys.executable, *egg], check=True, cwd=tmp_path, capture_output=True, timeout=60.0)
    installed = tmp_path / "installed"
    shutil.copytree(ROOT / "aiofranka_ros", installed / "aiofranka_ros", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(tmp_path / "aiofranka_ros.egg-info", installed / "aiofranka_ros.egg-info")
    code = "from aiofranka_ros.doctor.checks import declared_requirements as d; print(d()[0], *d()[1])"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    python, *libraries = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=installed, capture_output=True, text=True, env=environment
    ).stdout.split()
    declared_python, declared_libraries = declared_requirements()
    assert SpecifierSet(python) == SpecifierSet(declared_python)
    expected, found = ([Requirement(text) for text in texts] for texts in (declared_libraries, libraries))
    assert {(each.name, each.specifier) for each in found} == {(each.name, each.specifier) for each in expected}


def test_everything_that_is_not_ok_comes_with_a_remedy(healthy: Answer) -> None:
    assert [
        check["name"] for check in healthy._checks.values() if (check["state"] == "ok") == bool(check["remedy"])
    ] == []


def drop_limits() -> None:
    """No real-time scheduling and hardly any locked memory, not even for root."""
    prctl = ctypes.CDLL(None).prctl
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
    for capability in (CAP_SYS_NICE, CAP_IPC_LOCK, CAP_SYS_RESOURCE):
        prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # Fails only without the capability.


def test_missing_limits_are_reported_in_the_same_words_as_by_the_control_process() -> None:
    answer = Answer(limit=drop_limits)
    for name, problem in (("SCHED_FIFO 80", realtime.NO_SCHEDULING), ("locked memory", realtime.NO_LOCKED_MEMORY)):
        assert answer[name]["state"] == "warning"
        assert answer[name]["found"].startswith(problem.what)
        assert answer[name]["remedy"] == problem.remedy
    assert "rtprio limit: 0" in answer["SCHED_FIFO 80"]["found"]
    assert (answer.status, answer.drivable) == (0, True), "with a warning, an arm can still be driven"


def test_a_library_that_cannot_be_imported_is_missing(tmp_path: Path) -> None:
    (tmp_path / "pylibfranka.py").write_text("raise ImportError('libfranka.so: cannot open shared object file')\n")
    (tmp_path / "rclpy.py").write_text("raise ImportError('no module named rclpy')\n")
    answer = Answer(PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    assert "control process" in answer.missing and answer.status == 1
    assert "libfranka.so: cannot open" in answer["control process"]["found"]
    # Without ROS, an arm can be driven from Python.
    assert answer["rclpy"]["state"] == "warning" and "RobotInterface" in answer["rclpy"]["found"]


def test_a_robot_that_can_be_driven_is_not_changed(healthy: Answer) -> None:
    with SimulatedArm(ARM):
        answer = Answer("--robot-ip", ARM)
        assert answer.missing == [] and answer.status == 0
        assert "protocol version 10" in answer["FCI"]["found"]
        assert answer["network"]["found"].startswith("lo: ")
        assert "p50" in answer["round trip"]["found"] and " 0 lost" in answer["round trip"]["found"]
        assert fci.protocol_version(ARM) == fci.VERSION  # It still serves the next client.


def test_for_a_robot_with_another_protocol_version_the_right_libfranka_is_named() -> None:
    with SimulatedArm(OLD_ARM, ["--protocol-version", "9"]):
        answer = Answer("--robot-ip", OLD_ARM)
    assert answer.missing == ["FCI"] and answer.status == 1
    assert "speaks FCI protocol version 9" in answer["FCI"]["found"]
    assert "install libfranka 0.15 to 0.17" in answer["FCI"]["remedy"]


def test_for_a_closed_port_the_plain_output_says_what_to_do_in_desk() -> None:
    ran = run("--robot-ip", NOBODY)
    assert ran.returncode == 1 and ran.stderr == ""
    lines = ran.stdout.splitlines()
    number = next(number for number, line in enumerate(lines) if line.startswith("missing"))
    assert lines[number] == f"missing  FCI: {NOBODY} is there, but its port 1337 is closed"
    assert lines[number + 1].strip() == "-> unlock the joints and activate the FCI in Desk"


def test_an_arm_that_another_process_drives_is_not_disturbed() -> None:
    with fci.claim(NOBODY):
        *_, finding = robot(NOBODY)
    assert (finding.name, finding.state) == ("FCI", State.MISSING)
    assert "another process on this computer drives the arm" in finding.found


def test_a_host_name_that_does_not_exist_is_named() -> None:
    (finding,) = robot("no.such.robot.invalid")
    assert finding.state is State.MISSING and "'no.such.robot.invalid'" in finding.found


def test_the_help_explains_the_exit_status() -> None:
    ran = run("--help")
    assert ran.returncode == 0
    assert "Exit status: 0 if the arm can be driven, 1 if" in ran.stdout


# --- Routes to a robot through interfaces that this computer does not have


@pytest.fixture
def interface(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Make the route lead through the given interface."""

    def lead(*, kind: str, speed: int | None = 1000, gateway: str = "") -> None:
        found = network.Interface("enp3s0", kind, speed, gateway)
        monkeypatch.setattr(network, "interface_to", lambda address: found)

    yield lead


@pytest.mark.parametrize(
    ("properties", "state", "word"),
    [
        ({"kind": "wired"}, State.OK, "1000 Mbit/s"),
        ({"kind": "wired", "speed": None}, State.OK, "speed unknown"),
        ({"kind": "wired", "speed": 10}, State.WARNING, "10 Mbit/s"),
        ({"kind": "wired", "gateway": "10.0.0.1"}, State.WARNING, "through the router 10.0.0.1"),
        ({"kind": "usb"}, State.WARNING, "usb"),
        ({"kind": "wifi"}, State.WARNING, "wifi"),
        ({"kind": "virtual"}, State.WARNING, "virtual"),
    ],
)
def test_only_a_direct_cable_is_ok(
    interface: Callable[..., None], properties: dict[str, Any], state: State, word: str
) -> None:
    interface(**properties)
    finding = route("172.16.0.2")
    assert finding.state is state and word in finding.found
    assert bool(finding.remedy) == (state is not State.OK)


def test_the_narrowest_route_decides_which_interface_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.byteorder != "little":
        pytest.skip("the table below was written by a little-endian kernel")
    table = tmp_path / "route"
    table.write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
        "wlan0\t0001A8C0\t00000000\t0001\t0\t0\t600\t00FFFFFF\t0\t0\t0\n"
        "eth1\t000010AC\t00000000\t0001\t0\t0\t200\t0000FFFF\t0\t0\t0\n"
        "eth0\t000010AC\t00000000\t0001\t0\t0\t100\t0000FFFF\t0\t0\t0\n"
    )
    monkeypatch.setattr(network, "ROUTES", table)
    robot, elsewhere = network.interface_to("172.16.0.2"), network.interface_to("8.8.8.8")
    assert robot is not None and (robot.name, robot.gateway) == ("eth0", "")
    assert elsewhere is not None and (elsewhere.name, elsewhere.gateway) == ("wlan0", "192.168.1.1")
