"""Running a node as a process: its exit status, and that it is always closed."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
import rclpy
from rclpy.exceptions import ParameterException

from aiofranka_ros.processes import StopRequest
from aiofranka_ros.ros.running import run, send_last_results

pytestmark = pytest.mark.unit


class FakeNode:
    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restores the handlers of signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_with_exit_status_0(number: signal.Signals) -> None:
    node = FakeNode()

    def spin(node: FakeNode, stop: StopRequest) -> None:
        assert rclpy.ok() and not stop.requested
        signal.raise_signal(number)
        assert rclpy.ok() and stop.requested, "the context must outlive the signal"

    assert run("fake", lambda stop: node, spin, []) == 0
    assert node.closed and not rclpy.ok()


def test_a_node_that_fails_is_closed_and_its_exit_status_is_1(capfd: pytest.CaptureFixture[str]) -> None:
    node = FakeNode()

    def spin(node: FakeNode, stop: StopRequest) -> None:
        raise RuntimeError("broken")

    assert run("fake", lambda stop: node, spin, []) == 1
    assert node.closed and not rclpy.ok()
    assert "the node failed" in (said := capfd.readouterr().err) and "RuntimeError: broken" in said


def test_a_node_with_a_wrong_parameter_does_not_start_and_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    def create(stop: StopRequest) -> FakeNode:
        raise ParameterException("kp is -1", ["kp"])

    assert run("fake", create, lambda node, stop: None, []) == 1
    assert not rclpy.ok()
    assert "cannot start: kp is -1" in capfd.readouterr().err


def test_without_a_goal_the_executor_does_not_run_longer() -> None:
    turns: list[float] = []

    def spin() -> None:
        turns.append(time.monotonic())
        time.sleep(0.01)

    send_last_results(False, spin)
    assert not turns
    send_last_results(True, spin)
    assert turns[-1] - turns[0] > 0.5
