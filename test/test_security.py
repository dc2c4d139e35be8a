"""Permissions of ROS, of files and of memory, and a check that no data from outside is executed."""

from __future__ import annotations

import ast
import fnmatch
import os
import re
import socket
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
from common import ROOT

from aiofranka_ros.control.fci import claim
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.offload.mpify.arrays import new_memory
from aiofranka_ros.testing import Client, NodeProcess

POLICIES = ROOT / "config" / "sros2" / "policies.xml"
#: Topics and services that every ROS node has.
EVERYBODYS = {"/rosout", "/parameter_events", "/clock"}
#: Topics that are in no namespace.
GRAPH_WIDE = {"/diagnostics"}


def rules(node: str, kind: str, qualifier: str) -> set[str]:
    """Full names for which a node has the permission ``qualifier``; ``kind`` is topics, services or actions."""
    profiles = ElementTree.parse(POLICIES).getroot().findall(f".//profile[@node='{node}']")
    assert len(profiles) == 1 and profiles[0].attrib["ns"] == "/"
    names = [
        str(element.text)
        for group in profiles[0].findall(kind)
        if group.attrib.get(qualifier) == "ALLOW"
        for element in group
    ]
    return {re.sub("^~", f"/{node}", name) for name in names}


def names_for_policies(qualifier: str) -> set[str]:
    """The topics of an arm and its gripper that a policy may ``publish`` or ``subscribe`` to."""
    return rules("policy", "topics", qualifier) - EVERYBODYS


@pytest.fixture(scope="module")
def names(idle: tuple[NodeProcess, Client]) -> dict[str, set[str]]:
    """The topics, services and actions of a node, without its namespace."""
    process, client = idle
    namespace = f"/{process.namespace}"
    known = names_for_policies("publish") | names_for_policies("subscribe")
    of_arm = {name for name in known - GRAPH_WIDE if not name.startswith("/franka_gripper/")}
    found = client.offers(*GRAPH_WIDE, *(namespace + name for name in of_arm))
    services = [*found.services, *(f"{action}/_action/send_goal" for action in found.actions)]
    kinds = {"publish": found.publishers, "subscribe": found.subscribers, "reply": services}
    return {qualifier: {full.removeprefix(namespace) for full in kind} for qualifier, kind in kinds.items()}


@pytest.mark.light
def test_the_driver_enclave_permits_everything_that_the_node_does(names: dict[str, set[str]]) -> None:
    for kind, qualifier in (("topics", "publish"), ("topics", "subscribe"), ("services", "reply")):
        allowed = rules("aiofranka", kind, qualifier)
        missing = [name for name in names[qualifier] if not any(fnmatch.fnmatch(name, rule) for rule in allowed)]
        assert not missing, f"config/sros2/policies.xml does not let the node {qualifier} {missing}"


@pytest.mark.light
def test_the_policy_enclave_permits_publishing_targets_and_reading_state_only(names: dict[str, set[str]]) -> None:
    targets = {name for name in names["subscribe"] if re.fullmatch(r"/aiofranka/\w+_(desired|chunk)", name)}
    of_gripper = {"/franka_gripper/gripper_chunk"}
    assert names_for_policies("publish") == targets | of_gripper
    read = names_for_policies("subscribe")
    assert read and read <= names["publish"] | {"/franka_gripper/chunk_status", "/franka_gripper/state"}
    assert not [name for name in read if "*" in name]
    assert rules("policy", "services", "request") == rules("policy", "actions", "call") == set()
    assert rules("policy", "services", "reply") == {"/policy/*"}


def test_every_enclave_is_explained() -> None:
    text = POLICIES.read_text()
    paths = [element.attrib["path"] for element in ElementTree.parse(POLICIES).getroot().iter("enclave")]
    assert len(paths) == len(set(paths)) == 3
    for path in paths:
        assert path in text.partition("-->")[0] and path in (ROOT / "SECURITY.md").read_text()


def test_only_its_owner_can_open_shared_memory() -> None:
    with SharedMemory.create() as memory:
        assert os.fstat(memory.descriptor).st_mode & 0o777 == 0o600
    _, descriptor = new_memory(4096)
    assert os.fstat(descriptor).st_mode & 0o777 == 0o600
    os.close(descriptor)


def calls(path: Path) -> Iterator[str]:
    """Names of all functions that a source calls."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def name_of(path: Path) -> str:
    """Name of a module within the package: ``control.loop``."""
    return ".".join(path.relative_to(ROOT / "aiofranka_ros").with_suffix("").parts)


def test_only_data_between_a_process_and_its_child_is_unpickled_and_nothing_is_evaluated() -> None:
    dangerous = re.compile(
        r"(pickle|marshal|shelve|dill|cloudpickle)\.\w*(load|Unpickler)\w*|eval|exec|yaml\.load|np\.load"
    )
    found = {(name_of(path), call) for path in (ROOT / "aiofranka_ros").rglob("*.py") for call in calls(path)}
    # Both read from a socket pair that only the two ends of an isolated object have.
    assert {(module, call) for module, call in found if dangerous.fullmatch(call)} == {
        ("offload.mpify.arrays", "pickle.loads"),
        ("offload.mpify.protocol", "pickle.loads"),
    }


def test_processes_are_connected_by_sockets_without_names() -> None:
    """Every socket with a name in the file system or on the network is listed here, and in SECURITY.md."""
    named = re.compile(r"(\w+\.)*(bind|create_server|Listener)")
    found = {
        name_of(path)
        for path in (ROOT / "aiofranka_ros").rglob("*.py")
        for call in calls(path)
        if named.fullmatch(call)
    }
    # The arm's lock, the hand's states, and the simulated arm at its loopback address and for rehearsals.
    assert found == {
        "control.fci",
        "processes",
        "arm.gripper.connection",
        "simulation.hand",
        "simulation.simulated_arm",
        "simulation.model",
        "simulation.remote",
    }


def test_the_lock_of_an_arm_accepts_no_connection() -> None:
    lock = claim("127.0.0.98")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other, pytest.raises(ConnectionRefusedError):
            other.connect("\0aiofranka_ros/arm/127.0.0.98")
    finally:
        lock.close()
