"""Failures between the node and a robot: the node reports them, survives them and recovers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from common import lose_packets, many_descriptors

from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.simulation.simulated_arm import SimulatedArm
from aiofranka_ros.testing import Client, NodeProcess, started, wait_until

ARM, OLD_ARM, CLOSED, MANY = "127.0.0.30", "127.0.0.31", "127.0.0.32", "127.0.0.33"
#: Reserved for documentation (RFC 5737): nothing answers there.
NOWHERE = "192.0.2.1"


@pytest.fixture(scope="module")
def arm() -> Iterator[SimulatedArm]:
    with SimulatedArm(ARM) as arm:
        yield arm


@pytest.fixture(scope="module")
def node(arm: SimulatedArm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, Client]]:
    """An active node on the simulated arm; shared by the tests of this module."""
    parameters = {"robot_ip": arm.host, "autostart": True, "diagnostics_rate": 10.0}
    with started(tmp_path_factory.mktemp("node"), **parameters) as (process, client):
        assert client.becomes("active"), process.log
        yield process, client


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, Client]]:
    """An unconfigured node."""
    with started(tmp_path_factory.mktemp("node")) as (process, client):
        yield process, client


def test_a_second_node_on_the_same_arm_is_refused_and_the_first_continues(
    node: tuple[NodeProcess, Client], other: tuple[NodeProcess, Client]
) -> None:
    process, client = other
    assert client.set(robot_ip=ARM) == ""
    assert not client.change("configure")
    assert process.says(f"another process on this machine already drives the arm at {ARM}")
    assert client.state == "unconfigured"
    assert node[1].state == "active"


@pytest.mark.light
def test_a_closed_port_says_what_to_do_in_desk(other: tuple[NodeProcess, Client]) -> None:
    process, client = other
    assert client.set(robot_ip=CLOSED) == ""
    assert not client.change("configure")
    assert process.says(f"{CLOSED} is there, but its port 1337 is closed")
    assert client.state == "unconfigured"
    level, values = client.diagnostics("robot")
    assert level == b"\x02" and "configure" in values["what to do"]


@pytest.mark.light
def test_a_host_name_that_does_not_exist_is_reported(other: tuple[NodeProcess, Client]) -> None:
    process, client = other
    assert client.set(robot_ip="no.such.robot.invalid") == ""
    assert not client.change("configure")
    assert process.says("no robot at 'no.such.robot.invalid'")


@pytest.mark.light
def test_an_address_without_a_robot_is_reported(other: tuple[NodeProcess, Client]) -> None:
    process, client = other
    assert client.set(robot_ip=NOWHERE) == ""
    after = len(process.log)
    assert not client.change("configure")
    # The message depends on the network: most are silent, some answer that the host is unreachable.
    answers = ("no answer from", "no robot at", "its port 1337 is closed")
    assert wait_until(lambda: any(text in process.log[after:] for text in answers))


@pytest.mark.light
def test_a_robot_with_another_protocol_is_reported_with_the_libfranka_that_it_needs(
    other: tuple[NodeProcess, Client],
) -> None:
    process, client = other
    with SimulatedArm(OLD_ARM, ["--protocol-version", "9"]):
        assert client.set(robot_ip=OLD_ARM) == ""
        assert not client.change("configure")
        assert process.says("speaks FCI protocol version 9")
        assert "install libfranka 0.15 to 0.17" in process.log
    assert client.state == "unconfigured"


def test_a_robot_that_stops_makes_the_node_inactive_with_its_reasons_and_activation_recovers(
    node: tuple[NodeProcess, Client],
) -> None:
    process, client = node
    handle = client.send_goal(HOME + 0.2)
    assert client.spin_until(lambda: client.speed() > 0.1)
    _, values = client.diagnostics("control loop")
    control = int(values["control process"])
    lose_packets(control)
    assert process.says("communication_constraints_violation")
    assert client.becomes("inactive")
    assert "communication_constraints_violation" in client.outcome(handle).result.error_message
    level, values = client.diagnostics("robot")
    assert level == b"\x02"
    assert "communication_constraints_violation" in values["last error"]
    assert "activate" in values["what to do"]
    after = len(process.log)
    assert client.change("activate")
    assert process.says("after clearing a reflex", after=after)
    assert client.diagnostics("robot")[0] == b"\x00"
    q = client.q
    client.spin_for(0.3)
    # It holds where it is and does not continue what was interrupted.
    assert np.abs(client.q - q).max() < 0.01


def test_an_arm_that_vanishes_leaves_a_node_that_can_connect_again(
    node: tuple[NodeProcess, Client], arm: SimulatedArm
) -> None:
    process, client = node
    assert client.becomes("active")
    arm.close()
    assert client.becomes("inactive")
    assert "lost the robot" in process.log
    assert not client.change("activate")
    assert client.state == "inactive"
    with SimulatedArm(ARM):
        assert client.change("activate")
        assert client.change("deactivate")
        assert client.change("cleanup")


def test_an_arm_starts_and_connects_in_a_process_with_more_than_a_thousand_open_files() -> None:
    """``select`` fails from descriptor 1024 on."""
    with many_descriptors(1100), SimulatedArm(MANY) as arm, ControlClient() as client:
        client.connect(arm.host)
        client.activate()
        client.deactivate()
