"""What a client asked for ends with the client, however it ended."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from action_msgs.msg import GoalStatus

from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.testing import Child, Client, NodeProcess
from bench.faults.requester import GOAL

Log = Callable[[str], bool]


@pytest.fixture(scope="module", autouse=True)
def without_shared_memory() -> Iterator[None]:
    """A client that is killed can leave Fast DDS's shared memory unusable for the next one.

    See https://github.com/eProsima/Fast-DDS/issues/5469, and the page about troubleshooting.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
        yield


@pytest.fixture(autouse=True)
def at_home(robot: Client) -> Iterator[None]:
    """Start at HOME, with moves that would take far longer than a test."""
    assert robot.set(move_velocity=[1.0] * 7, goals_outlive_clients=False) == ""
    assert robot.outcome(robot.send_goal(HOME)).status == GoalStatus.STATUS_SUCCEEDED
    assert robot.set(move_velocity=[0.1] * 7) == ""
    yield


@pytest.fixture
def request_goal(robot: Client, running: tuple[NodeProcess, Client], tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Starts a client whose goal moves the arm."""
    started: list[Child] = []
    node, _ = running

    def start(kind: str, *options: str) -> Child:
        arguments = ["-m", "bench.faults.requester", "--robot", robot.name, "--kind", kind, *options]
        started.append(Child(arguments, log=tmp_path / "requester.log"))
        assert robot.spin_until(lambda: "accepted" in started[-1].log), started[-1].log + node.log
        assert robot.spin_until(lambda: robot.speed() > 0.03), started[-1].log + node.log
        return started[-1]

    yield start
    for child in started:
        child.kill()


def stopped_on_the_way(robot: Client) -> bool:
    """Whether the arm stops before the goal, which is ten seconds or more away."""
    return robot.rests() and 0.2 < np.abs(robot.q - GOAL).max()


@pytest.mark.parametrize("kind", ["move", "trajectory"])
def test_the_goal_of_a_killed_client_ends_and_the_arm_holds(
    robot: Client, log: Log, request_goal: Callable[..., Child], kind: str
) -> None:
    request_goal(kind).kill()
    assert robot.spin_until(lambda: log("is gone: its process has ended"))
    assert stopped_on_the_way(robot)
    assert robot.state == "active"


@pytest.mark.parametrize("kind", ["move", "plain"])
def test_the_goal_of_a_client_that_exits_without_cancelling_ends(
    robot: Client, log: Log, request_goal: Callable[..., Child], kind: str
) -> None:
    request_goal(kind).end(signal.SIGTERM)
    assert robot.spin_until(lambda: robot.speed() < 0.005)
    assert stopped_on_the_way(robot)


def test_the_goal_of_a_stopped_client_continues(robot: Client, log: Log, request_goal: Callable[..., Child]) -> None:
    assert robot.set(move_velocity=[0.4] * 7) == ""
    request_goal("move").process.send_signal(signal.SIGSTOP)
    assert robot.spin_until(lambda: np.abs(robot.q - GOAL).max() < 0.01)
    assert not log("is gone")


def test_the_goal_of_a_silent_client_on_another_computer_ends(
    robot: Client, log: Log, request_goal: Callable[..., Child]
) -> None:
    request_goal("move", "--elsewhere").process.send_signal(signal.SIGSTOP)
    assert robot.spin_until(lambda: log("nothing was heard of it"))
    assert stopped_on_the_way(robot)


def test_a_goal_may_outlive_its_client_if_the_node_says_so(
    robot: Client, log: Log, request_goal: Callable[..., Child]
) -> None:
    assert robot.set(goals_outlive_clients=True, move_velocity=[0.4] * 7) == ""
    request_goal("move").kill()
    assert robot.spin_until(lambda: np.abs(robot.q - GOAL).max() < 0.01)
    assert not log("is gone")
