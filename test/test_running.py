"""Running a node as a process: its exit status, and that it is always closed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
import rclpy
from rclpy.exceptions import ParameterException

from aiofranka_ros.processes import LAUNCH, StopRequest
from aiofranka_ros.ros.running import run, send_last_results
from aiofranka_ros.testing import wait_until

pytestmark = pytest.mark.unit

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class FakeNode:
    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restores the handlers of signals."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def stop() -> StopRequest:
    stop = StopRequest()
    stop.install()
    return stop


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_node_with_exit_status_0(stop: StopRequest, number: signal.Signals) -> None:
    node = FakeNode()

    def spin(node: FakeNode, stop: StopRequest) -> None:
        assert rclpy.ok() and not stop.requested
        signal.raise_signal(number)
        assert rclpy.ok() and stop.requested, "the context must outlive the signal"

    assert run("fake", stop, lambda stop: node, spin, []) == 0
    assert node.closed and not rclpy.ok()


def test_a_node_that_fails_is_closed_and_its_exit_status_is_1(
    stop: StopRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    node = FakeNode()

    def spin(node: FakeNode, stop: StopRequest) -> None:
        raise RuntimeError("broken")

    assert run("fake", stop, lambda stop: node, spin, []) == 1
    assert node.closed and not rclpy.ok()
    assert "the node failed" in (said := capfd.readouterr().err) and "RuntimeError: broken" in said


def test_a_node_with_a_wrong_parameter_does_not_start_and_says_why(
    stop: StopRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    def create(stop: StopRequest) -> FakeNode:
        raise ParameterException("kp is -1", ["kp"])

    assert run("fake", stop, create, lambda node, stop: None, []) == 1
    assert not rclpy.ok()
    assert "cannot start: kp is -1" in capfd.readouterr().err


def test_a_signal_during_the_imports_ends_the_node_before_it_exists(stop: StopRequest) -> None:
    signal.raise_signal(signal.SIGTERM)
    assert run("fake", stop, lambda stop: pytest.fail("created"), lambda node, stop: None, []) == 0
    assert not rclpy.ok()


def test_a_start_that_is_interrupted_is_no_failure(stop: StopRequest, capfd: pytest.CaptureFixture[str]) -> None:
    def create(stop: StopRequest) -> FakeNode:
        signal.raise_signal(signal.SIGTERM)
        stop.check()
        return FakeNode()

    assert run("fake", stop, create, lambda node, stop: None, []) == 0
    assert not rclpy.ok()
    assert "interrupted by SIGTERM" in (said := capfd.readouterr().err) and "Traceback" not in said


@pytest.mark.parametrize("gone", [True, False])
def test_a_node_that_a_launch_file_has_started_ends_with_the_launch(
    monkeypatch: pytest.MonkeyPatch, stop: StopRequest, gone: bool
) -> None:
    launch = subprocess.Popen(["sleep", "60"])
    monkeypatch.setenv(LAUNCH, str(launch.pid))

    def kill() -> None:
        launch.kill()
        launch.wait()

    def spin(node: FakeNode, stop: StopRequest) -> None:
        if not gone:
            assert not stop.requested
            kill()
        assert wait_until(lambda: stop.requested)

    if gone:  # Before the node has started.
        kill()
    nodes: list[FakeNode] = []

    def create(stop: StopRequest) -> FakeNode:
        nodes.append(FakeNode())
        return nodes[-1]

    assert run("fake", stop, create, spin, []) == 0
    assert LAUNCH not in os.environ and stop.requested
    # If the launch is already gone, the node may end before it is created.
    assert (gone or nodes) and all(node.closed for node in nodes)


def test_without_a_goal_the_executor_does_not_run_longer() -> None:
    turns: list[float] = []

    def spin() -> None:
        turns.append(time.monotonic())
        time.sleep(0.01)

    send_last_results(False, spin)
    assert not turns
    send_last_results(True, spin)
    assert turns[-1] - turns[0] > 0.5
