"""The control process on the simulated arm, driven only by its client, without ROS."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import lose_packets
from scipy.interpolate import CubicSpline

from aiofranka_ros.arm.planning import plan
from aiofranka_ros.control.client import ControlClient, Ended
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.control.records import ChunkEnd, Mode, MotionStatus, Phase
from aiofranka_ros.errors import ArmInUse, CommandRefused, ConnectionFailed, ControlProcessDied
from aiofranka_ros.model import fr3
from aiofranka_ros.simulation.simulated_arm import SimulatedArm, cpu_for
from aiofranka_ros.testing import alive
from bench.faults.interruption import Interruption

#: Generous: a busy machine makes the simulated arm slower than real time.
TIMEOUT = 20.0


@pytest.fixture(scope="module")
def arm() -> Iterator[SimulatedArm]:
    with SimulatedArm() as simulated:
        yield simulated


@contextlib.contextmanager
def connected(arm: SimulatedArm, **options: Any) -> Iterator[ControlClient]:
    with ControlClient(**options) as client:
        # Other processes may keep the test's own waiting; what happens at 0.1 s is tested below.
        client.update({"heartbeat_timeout": 2.0})
        client.connect(arm.host, cpu=cpu_for(arm.host))
        yield client


@pytest.fixture
def client(arm: SimulatedArm) -> Iterator[ControlClient]:
    with connected(arm) as connection:
        yield connection


def wait_for(client: ControlClient, condition: Callable[[], object], *, beat: bool = True) -> None:
    """Send heartbeats until ``condition`` holds; the loop must not end before that."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        if beat:
            client.beat()
        ended = client.poll()
        assert ended is None, ended
        time.sleep(0.005)


def wait_for_end(client: ControlClient, *, beat: bool = True) -> Ended:
    deadline = time.monotonic() + TIMEOUT
    while (ended := client.poll()) is None:
        assert time.monotonic() < deadline, "the loop did not end"
        if beat:
            client.beat()
        time.sleep(0.005)
    return ended


def cycles(client: ControlClient) -> int:
    return int(client.state()["cycles"])


def run_cycles(client: ControlClient, count: int) -> None:
    until = cycles(client) + count
    wait_for(client, lambda: cycles(client) >= until)


def move(client: ControlClient, goal: np.ndarray, velocity: float = 1.0) -> int:
    motion = plan(
        client.state()["q"].copy(),
        goal,
        max_velocity=np.full(7, velocity),
        max_acceleration=np.full(7, 5.0),
        max_jerk=np.full(7, 100.0),
    )
    return client.start_motion(motion)


def status(client: ControlClient, number: int) -> MotionStatus:
    state = client.state()
    return MotionStatus(int(state["motion_status"])) if state["motion_id"] == number else MotionStatus.NONE


def test_a_connected_arm_is_measured_before_it_is_active(client):
    assert client.phase is Phase.CONNECTED
    first = client.state()["stamp"].copy()
    wait_for(client, lambda: client.state()["stamp"] > first)
    state = client.state()
    assert np.all(state["q"] > fr3.POSITION_LOWER) and np.all(state["q"] < fr3.POSITION_UPPER)
    assert np.linalg.norm(state["orientation"]) == pytest.approx(1.0)


def test_an_active_arm_holds_where_it_is_and_has_stopped_when_it_is_released(client):
    client.activate()
    assert client.phase is Phase.ACTIVE
    q = client.state()["q"].copy()
    run_cycles(client, 500)
    np.testing.assert_allclose(client.state()["q"], q, atol=1e-3)
    client.deactivate()
    assert client.phase is Phase.CONNECTED
    client.deactivate()  # Nothing to do, and no error.


def test_the_arm_can_be_activated_any_number_of_times(client):
    for _ in range(3):
        assert client.activate() is False, "there is no reflex to clear"
        run_cycles(client, 50)
        client.deactivate()
    assert client.poll() is None


def test_an_activation_that_is_interrupted_is_undone_and_the_next_one_is_not_mistaken_for_it(client, monkeypatch):
    def interrupt(timeout: float) -> bool:
        raise Interruption

    with monkeypatch.context() as patched:
        patched.setattr(client._process, "_receive", interrupt)
        with pytest.raises(Interruption):
            client.activate()
    ended = wait_for_end(client)
    assert (ended.reason, ended.error) == ("asked", None)
    assert client.phase is Phase.CONNECTED and client.state()["activation"] == 1
    client.activate()
    assert client.phase is Phase.ACTIVE and client.state()["activation"] == client.activation == 2
    client.deactivate()
    assert client.phase is Phase.CONNECTED


def test_a_move_arrives_and_the_mode_continues_from_there(client):
    client.activate()
    for goal in (fr3.READY, fr3.HOME):
        number = move(client, goal)
        wait_for(client, lambda number=number: status(client, number) is MotionStatus.DONE)
        run_cycles(client, 300)
        np.testing.assert_allclose(client.state()["q"], goal, atol=0.01)
        client.release_motion(number)
        run_cycles(client, 300)
        np.testing.assert_allclose(client.state()["q"], goal, atol=0.02)
    client.deactivate()


def test_deactivating_during_a_move_first_stops_it(client):
    client.activate()
    number = move(client, fr3.READY)
    wait_for(client, lambda: np.abs(client.state()["dq"]).max() > 0.4)
    first = client.shared.cycles.count
    client.deactivate()
    records, _, missed = client.shared.cycles.since(first)
    assert missed == 0 and records["motion_id"][-1] == number
    assert np.abs(records["dq"][-1]).max() < 0.05, "it was released while it moved"
    assert np.abs(np.diff(records["tau"], axis=0)).max() <= 0.99 + 1e-9


def test_poses_torques_and_modes_can_change_during_motion_without_a_reflex(client):
    client.activate()
    first = client.shared.cycles.count
    state = client.state()
    position, orientation = state["position"].copy(), state["orientation"].copy()
    client.set_pose(position + [0.0, 0.05, 0.0], orientation)
    run_cycles(client, 100)
    for mode in (Mode.IMPEDANCE, Mode.TORQUE, Mode.PID, Mode.OSC):
        client.switch(mode)
        if mode is Mode.TORQUE:
            client.set_torque(np.zeros(7))
        run_cycles(client, 150)
        assert client.state()["mode"] == mode
    records, _, _ = client.shared.cycles.since(first)
    assert np.abs(np.diff(records["tau"], axis=0)).max() <= 0.99 + 1e-9
    client.deactivate()


@pytest.mark.parametrize("direction", [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (-1.0, 0.0, 0.0)])
def test_an_arm_that_is_pulled_beyond_its_reach_stretches_and_stops(client, direction):
    client.activate()
    orientation = client.state()["orientation"].copy()
    beginning = client.state()["position"].copy()

    def pull() -> bool:
        target = client.state()["position"] + 0.08 * np.array(direction)
        client.set_pose(target, orientation)
        return cycles(client) > 4000

    wait_for(client, pull)
    client.deactivate()
    records, _, _ = client.shared.cycles.since(0)
    travelled = (records["position"][-1] - beginning) @ np.array(direction)
    assert travelled > 0.1, "it did not move that way"
    assert np.abs(records["dq"][-500:]).max() < 0.5, "it oscillates"
    client.activate()
    number = move(client, fr3.HOME)
    wait_for(client, lambda: status(client, number) is MotionStatus.DONE)
    client.deactivate()


def test_every_cycle_is_recorded_with_its_response_and_its_target(client):
    client.activate()
    first = client.shared.cycles.count
    state = client.state()
    number = client.set_pose(state["position"], state["orientation"], time.time_ns())
    run_cycles(client, 200)
    records, _, missed = client.shared.cycles.since(first)
    assert missed == 0 and len(records) >= 200
    steps = np.rint(np.diff(records["time"]) * 1e3).astype(int)
    np.testing.assert_array_equal(steps, 1 + records["lost"][1:])
    assert np.all(records["response"] > 0.0) and np.all(np.diff(records["stamp"]) > 0)
    assert number in records["target_id"]
    client.deactivate()


def test_the_arm_stops_and_is_released_if_the_heartbeat_stays_away(client):
    client.update({"heartbeat_timeout": 0.1})
    client.activate()
    move(client, fr3.READY, velocity=0.5)
    ended = wait_for_end(client, beat=False)
    assert ended.reason == "node_silent" and ended.error is not None
    state = client.state()
    assert state["silent_holds"] == 1
    records, _, _ = client.shared.cycles.since(0)
    assert np.abs(records["dq"][-1]).max() < 0.05, "it had to stop first"
    client.activate()
    run_cycles(client, 50)
    client.deactivate()


def test_packets_lost_in_a_row_end_the_loop_with_the_robot_s_own_error_name(client):
    client.activate()
    run_cycles(client, 50)
    assert client.pid is not None
    lose_packets(client.pid)
    ended = wait_for_end(client)
    assert ended.reason == "robot"
    assert ended.error.errors == ("communication_constraints_violation",)
    assert client.activate() is True, "activating clears the reflex"
    run_cycles(client, 50)
    client.deactivate()


def test_a_killed_control_process_is_noticed_and_can_be_replaced(arm):
    with connected(arm) as client:
        client.activate()
        move(client, fr3.HOME)  # It must not run on in the next process.
        run_cycles(client, 50)
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(ControlProcessDied, match="killed by signal 9") as caught:
            wait_for(client, lambda: False)
        assert caught.value.exit_code == -signal.SIGKILL
        client.close()
        client.start()
        client.connect(arm.host)
        client.activate()
        run_cycles(client, 50)
        client.deactivate()


def test_a_stopped_control_process_is_noticed_and_killed(arm):
    with connected(arm) as client:
        client.activate()
        pid = client.pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(ControlProcessDied, match="stopped by a signal"):
            wait_for(client, lambda: False)
    assert not os.path.exists(f"/proc/{pid}")


def test_a_motion_pauses_while_the_heartbeat_is_late_and_then_continues(client):
    client.update({"heartbeat_timeout": 0.1})
    client.activate()
    number = move(client, fr3.READY, velocity=0.5)
    wait_for(client, lambda: np.abs(client.state()["dq"]).max() > 0.2)
    wait_for(client, lambda: status(client, number) is MotionStatus.PAUSED, beat=False)
    wait_for(client, lambda: status(client, number) is MotionStatus.DONE)
    assert client.state()["silent_holds"] == 1
    np.testing.assert_allclose(client.state()["q"], fr3.READY, atol=0.02)
    client.release_motion(number)
    client.deactivate()


def swing(q: np.ndarray, seconds: float) -> Motion:
    """A chunk that swings joint 1 from ``q`` [rad], from rest to rest."""
    times = np.linspace(0.0, seconds, 16)
    points = np.tile(q, (16, 1))
    points[:, 0] += 0.1 * (1.0 - np.cos(2.0 * np.pi * times / seconds))
    spline = CubicSpline(times, points, bc_type="clamped")
    coefficients = np.zeros((15, 7, 6))
    coefficients[:, :, :4] = np.moveaxis(spline.c[::-1], 0, 2)
    return Motion(times, coefficients)


def test_a_chunk_is_in_force_in_the_next_cycle_and_the_arm_follows_it(client):
    client.activate()
    client.switch(Mode.IMPEDANCE)
    run_cycles(client, 100)
    path = swing(client.state()["ref_q"].copy(), 2.0)
    for _ in range(20):
        number, written = client.start_chunk(path), time.monotonic_ns()
        wait_for(client, lambda number=number: client.state()["chunk_id"] == number)
        first = client.state()["chunk_first"]
        records, _, lost = client.shared.cycles.since(max(client.shared.cycles.count - 4000, 0))
        between = np.sum((records["stamp"] > written) & (records["stamp"] <= first))
        # The cycle during which it was written may be finished first.
        assert between <= 2 and lost == 0
    wait_for(client, lambda: client.state()["chunk_time"] > path.duration + 0.5)
    state = client.state()
    records, _, _ = client.shared.cycles.since(max(client.shared.cycles.count - 3000, 0))
    records = records[records["chunk_id"] == number]
    meant = np.array([path.at(t - records["time"][0])[0] for t in records["time"]])
    np.testing.assert_allclose(records["ref_q"], meant, atol=1e-3)
    # Friction keeps the simulated arm from its reference.
    np.testing.assert_allclose(records["q"], meant, atol=0.02)
    assert state["chunk_end"] == ChunkEnd.NONE and np.abs(state["ref_dq"]).max() < 1e-3
    client.deactivate()


def test_an_arm_whose_node_dies_in_the_middle_of_a_chunk_stops_smoothly(client):
    client.update({"heartbeat_timeout": 0.1})
    client.activate()
    client.switch(Mode.IMPEDANCE)
    run_cycles(client, 50)
    number = client.start_chunk(swing(client.state()["ref_q"].copy(), 2.0))
    wait_for(client, lambda: client.state()["chunk_time"] > 0.5)
    ended = wait_for_end(client, beat=False)
    assert ended.reason == "node_silent"
    state = client.state()
    assert (state["chunk_id"], state["chunk_seen"], state["chunk_end"]) == (0, number, ChunkEnd.HELD)
    assert np.abs(state["dq"]).max() < 0.05
    client.activate()
    run_cycles(client, 50)
    assert client.state()["chunk_id"] == 0, "the next activation does not continue it"
    client.deactivate()


def test_the_control_process_does_not_outlive_a_killed_parent(arm):
    script = (
        "import sys, time\n"
        f"sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "from test_control import connected\n"
        "from types import SimpleNamespace\n"
        f"with connected(SimpleNamespace(host={arm.host!r})) as client:\n"
        "    client.activate()\n"
        "    print(client.pid, flush=True)\n"
        "    while True:\n"
        "        client.beat()\n"
        "        time.sleep(0.005)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    deadline = time.monotonic() + TIMEOUT
    while alive(pid):
        assert time.monotonic() < deadline, "the control process still runs"
        time.sleep(0.01)
    with connected(arm) as client:  # It ended torque control properly, so the next process can use the arm.
        assert client.activate() is False
        client.deactivate()


def test_a_second_process_is_refused_because_the_arm_is_in_use(arm, client):
    with ControlClient() as other, pytest.raises(ArmInUse, match="already drives the arm"):
        other.connect(arm.host)
    client.activate()
    client.deactivate()


def test_an_arm_that_disappears_ends_the_loop_but_not_the_process(arm):
    with SimulatedArm() as fragile, connected(fragile) as client:
        client.activate()
        run_cycles(client, 50)
        fragile.process.kill()
        ended = wait_for_end(client)
        assert ended.reason == "robot" and "lost the robot" in str(ended.error)
        with pytest.raises((ConnectionFailed, CommandRefused)):
            client.activate()


@pytest.mark.light
def test_what_prevents_real_time_scheduling_is_logged_once(caplog):
    with caplog.at_level("WARNING", "aiofranka_ros"):
        for _ in range(2):
            with ControlClient(priority=100) as client:  # No system grants that.
                assert any("SCHED_FIFO" in message for message in client.missing)
    assert caplog.text.count("SCHED_FIFO") == 1


@pytest.mark.parametrize("priority", [0, 42])
def test_only_the_loop_runs_at_the_requested_priority(arm, priority):
    with connected(arm, priority=priority) as client:
        if client.missing:
            pytest.skip("needs SCHED_FIFO")
        assert client.pid is not None
        # Whatever libfranka sets: connecting and disconnecting would keep other processes from a processor for too
        # long.
        assert os.sched_getscheduler(client.pid) == os.SCHED_OTHER
        client.activate()
        assert os.sched_getscheduler(client.pid) == (os.SCHED_FIFO if priority else os.SCHED_OTHER)
        assert os.sched_getparam(client.pid).sched_priority == priority
        client.deactivate()
        assert os.sched_getscheduler(client.pid) == os.SCHED_OTHER


@pytest.mark.light
def test_nothing_is_possible_without_a_connection():
    with ControlClient() as client, pytest.raises(ConnectionFailed, match="not connected"):
        client.activate()


@pytest.mark.light
def test_use_before_start_and_after_close_raises():
    client = ControlClient()
    with pytest.raises(ControlProcessDied, match="not running"):
        client.beat()
    client.start()
    client.close()
    client.close()
    with pytest.raises(ControlProcessDied, match="not running"):
        client.connect("127.0.0.1")


@pytest.mark.light
def test_the_end_of_the_control_process_costs_little_because_its_client_waits_for_it():
    with ControlClient(priority=0) as client:
        fields = Path(f"/proc/{client.pid}/stat").read_text().rpartition(")")[2].split()
        until_now = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    in_all = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # Of the computing of its start: 0.04 in 0.7 s. The interpreter's own end would take 0.3 s.
    assert in_all - until_now < 0.15 * until_now
