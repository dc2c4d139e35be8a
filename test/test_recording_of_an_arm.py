"""The node's flight recorder: it records when its arm stops by itself, and on request, and delays nothing."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from common import lose_packets
from std_srvs.srv import Trigger

from aiofranka_ros.explain.evidence import Evidence
from aiofranka_ros.explain.rules import judge
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.recording.folder import recordings
from aiofranka_ros.recording.reader import read
from aiofranka_ros.testing import Client, NodeProcess, descendant, started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recorded") / "recordings"


@pytest.fixture(scope="module")
def running(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, Client]]:
    log = tmp_path_factory.mktemp("node")
    with started(log, autostart=True, diagnostics_rate=10.0, recording_folder=str(folder)) as (process, client):
        assert client.becomes("active"), process.log
        yield process, client


def save(robot: Client) -> Trigger.Response:
    client = robot.node.create_client(Trigger, f"{robot.name}/save_recording")
    try:
        assert client.wait_for_service(30.0)
        return robot.call(client, Trigger.Request())
    finally:
        robot.node.destroy_client(client)


def test_a_request_is_answered_with_a_file_that_has_every_cycle(robot: Client, folder: Path) -> None:
    robot.outcome(robot.send_goal(HOME + np.array([0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])))
    answer = save(robot)
    assert answer.success, answer.message
    recording = read(answer.message)
    assert Path(answer.message).parent == folder
    cycles = recording.cycles
    steps = np.round(1e3 * np.diff(cycles["time"][cycles["activation"] == cycles["activation"][-1]]))
    np.testing.assert_array_equal(steps, 1 + cycles["lost"][-len(steps) :])
    assert len(cycles) > 1000 and len(recording.ticks) > 100
    assert any(event["message"] == "~/move" for event in recording.events)
    assert any("active, the arm holds" in line["message"] for line in recording.log)
    assert recording.parameters["mode"] == "osc" and recording.summary["node"]


def test_saving_again_and_again_delays_no_heartbeat(robot: Client) -> None:
    for _ in range(3):
        assert save(robot).success
    _, values = robot.diagnostics("control loop")
    assert int(values["holds for lack of heartbeats"]) == 0


def test_a_stop_is_recorded_and_the_log_names_the_command_that_explains_it(
    running: tuple[NodeProcess, Client], robot: Client, folder: Path
) -> None:
    process, _ = running
    before = set(recordings(folder))
    lose_packets(descendant(process.process.pid, "control.process"))
    assert robot.becomes("inactive")
    said = re.compile(r"recorded \(robot stopped\); what happened: python3 -m aiofranka_ros.explain (\S+\.mcap)")
    assert robot.spin_until(lambda: said.search(process.log), 60.0), process.log
    (path,) = {Path(name) for name in said.findall(process.log)} - before
    evidence = Evidence(read(path))
    assert evidence.errors == ("communication_constraints_violation",)
    assert judge(evidence).sentence.startswith("The robot got no answers for too long, because ")
    assert evidence.gap_ms > 20.0, "it was stopped for 40 ms"
    assert robot.change("activate")


def test_a_control_process_that_is_killed_leaves_its_last_cycles(
    running: tuple[NodeProcess, Client], robot: Client, folder: Path
) -> None:

    process, _ = running
    assert robot.state == "active"
    before = set(recordings(folder))
    os.kill(descendant(process.process.pid, "control.process"), signal.SIGKILL)
    assert robot.spin_until(lambda: set(recordings(folder)) - before, 60.0), process.log
    evidence = Evidence(read(recordings(folder)[-1]))
    assert judge(evidence).sentence.startswith("The control process was killed (SIGKILL)")
    assert len(evidence.cycles) > 0 and len(evidence.recording.cycles) > 1000, "of this activation, and of those before"
    assert robot.change("activate")


def test_switched_off_it_says_so(robot: Client) -> None:
    folder = robot.get("recording_folder")
    assert robot.set(recording_folder="") == ""
    try:
        answer = save(robot)
        assert not answer.success and answer.message == "recording is switched off: recording_folder is empty"
    finally:
        robot.set(recording_folder=folder)
