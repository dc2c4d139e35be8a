"""Every way in which the node can end: in any state, by a signal or killed, it leaves nothing behind."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import pytest

from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.processes import LAUNCH
from aiofranka_ros.simulation.simulated_arm import is_taken
from aiofranka_ros.testing import Child, Client, CycleRecorder, NodeProcess, alive, descendants, started, wait_until


def address_is_free(process: NodeProcess) -> bool:
    """Whether the node's simulated arm has left its address; a light test may have taken it for a moment."""
    address = process.log.partition("connected to the robot at ")[2].partition(",")[0]
    return bool(address) and wait_until(lambda: not is_taken(address))


def check_end(tmp_path: Path, state: str, number: signal.Signals) -> None:
    """End a node in ``state`` with signal ``number``, and with others after it."""
    autostart = state in ("configuring", "active", "moving")
    with started(tmp_path, autostart=autostart) as (process, client):
        if state == "configuring":
            assert process.says("connecting to a simulated arm")
            assert wait_until(lambda: descendants(process.process.pid))
        elif state == "inactive":
            assert client.change("configure")
        else:
            assert client.becomes("active" if autostart else "unconfigured")
        if state == "moving":
            assert client.send_goal(HOME + 0.3).accepted
            assert client.spin_until(lambda: client.speed() > 0.3)
        children = descendants(process.process.pid)
        process.process.send_signal(number)
        for other in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.process.send_signal(other)
        assert process.end(number) == 0, process.log
        assert not [pid for pid in children if alive(pid)]
        assert "Traceback" not in process.log
        assert "is killed" not in process.log
        if state in ("inactive", "active", "moving"):
            assert address_is_free(process)


@pytest.mark.light
@pytest.mark.parametrize(
    ("state", "number"),
    [
        *itertools.product(("unconfigured", "configuring", "inactive"), (signal.SIGINT, signal.SIGTERM)),
        ("configuring", signal.SIGHUP),
    ],
)
def test_a_signal_ends_a_node_that_is_not_active_and_others_change_nothing(
    tmp_path: Path, state: str, number: signal.Signals
) -> None:
    check_end(tmp_path, state, number)


@pytest.mark.parametrize(
    ("state", "number"),
    [*itertools.product(("active", "moving"), (signal.SIGINT, signal.SIGTERM)), ("moving", signal.SIGHUP)],
)
def test_a_signal_ends_an_active_node_and_others_change_nothing(
    tmp_path: Path, state: str, number: signal.Signals
) -> None:
    check_end(tmp_path, state, number)


def test_the_other_processes_of_a_killed_node_end_too(tmp_path: Path) -> None:
    process = NodeProcess(tmp_path / "node.log", autostart=True, discovery_time=0.0)
    try:
        assert process.says("the arm holds"), process.log
        children = descendants(process.process.pid)
        assert len(children) >= 2
    finally:
        process.process.kill()
        process.process.wait()
    assert wait_until(lambda: not [pid for pid in children if alive(pid)])
    assert address_is_free(process)


#: Starts the nodes of arm and gripper as a launch file does, with their output in pipes that nothing reads any more
#: once this process is gone.
LAUNCHER = """
import os, subprocess, sys, threading
environment = {**os.environ, sys.argv[1]: str(os.getpid())}
words = ["--ros-args", "-r", "__ns:=/launched", "-p"]
nodes = [
    subprocess.Popen(
        [sys.executable, "-m", f"aiofranka_ros.{name}", *words, setting],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )
    for name, setting in (("node", "autostart:=true"), ("gripper_node", "robot_ip:=sim"))
]
def relay(node):
    for line in node.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
    print(node.args[2], "ended with", node.wait(), flush=True)
for node in nodes:
    threading.Thread(target=relay, args=[node]).start()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nodes_of_a_launch_that_is_gone_end_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with Child(["-c", LAUNCHER, LAUNCH], log=tmp_path / "launch.log") as launch:
        assert launch.says("the arm holds"), launch.log
        children = descendants(launch.process.pid)
        assert len(children) == 4, launch.log
        with Client("/launched/aiofranka") as client:
            client.refresh()  # Before the move, which is shorter than the period of the diagnostics.
            memory = CycleRecorder(client.value("control loop", "shared memory"))
            assert client.send_goal(HOME + 0.3).accepted
            assert client.spin_until(lambda: client.speed() > 0.3)
            launch.end(number)
            assert wait_until(lambda: not [pid for pid in children if alive(pid)])
        cycles = memory.take()
        memory.close()
        # The arm was stopped, not dropped in the middle of its move.
        assert abs(cycles["dq"][-1]).max() < 0.05 < abs(cycles["dq"]).max()


#: A test, or a benchmark, that has started a node.
TESTER = """
import pathlib, sys, time
from aiofranka_ros.testing import NodeProcess
node = NodeProcess(pathlib.Path(sys.argv[1]))
print("started", node.process.pid, flush=True)
time.sleep(120.0)
"""


@pytest.mark.light
def test_the_node_of_a_test_that_is_killed_ends(tmp_path: Path) -> None:
    with Child(["-c", TESTER, str(tmp_path / "node.log")], log=tmp_path / "log") as tester:
        assert wait_until(lambda: tester.log.endswith("\n")), tester.log
        node = int(tester.log.split()[-1])
        tester.kill()
    assert wait_until(lambda: not alive(node))


@pytest.mark.light
def test_the_node_does_not_start_with_a_parameter_that_cannot_be_used_and_says_why(tmp_path: Path) -> None:
    process = NodeProcess(tmp_path / "node.log", kp="[600.0]")
    try:
        assert process.process.wait(40.0) == 1
    finally:
        process.close()
    assert "kp has 1 values; allowed: 7 values" in process.log
    assert "Traceback" not in process.log


def test_the_result_of_an_aborted_goal_reaches_the_client_when_the_node_ends(tmp_path: Path) -> None:
    with started(tmp_path, autostart=True) as (process, client):
        assert client.becomes("active"), process.log
        handle = client.send_goal(HOME + 0.3)
        assert client.spin_until(lambda: client.speed() > 0.3)
        result = handle.get_result_async()
        client.spin_for(0.1)
        os.kill(process.process.pid, signal.SIGINT)
        assert "not active any more" in client.result(result).result.error_message
        assert process.process.wait(40.0) == 0
