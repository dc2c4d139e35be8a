"""A reflex can be rehearsed: a running simulated arm is pushed and stopped from a terminal, and the node recovers."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiofranka_ros.ctl.__main__ import main as ctl
from aiofranka_ros.errors import SimulationError
from aiofranka_ros.simulation import remote
from aiofranka_ros.simulation.__main__ import main as simulation
from aiofranka_ros.testing import Client, NodeProcess, descendant


def host_of(process: NodeProcess) -> str:
    """Address of the simulated arm that the node has started."""
    words = Path(f"/proc/{descendant(process.process.pid, 'aiofranka_ros.simulation')}/cmdline").read_text().split("\0")
    return words[words.index("--host") + 1]


def error_of(robot: Client) -> str:
    """libfranka's names of what stopped the robot."""
    robot.wait(lambda: robot.value("robot", "libfranka errors"), "no error is reported")
    return robot.value("robot", "libfranka errors")


@pytest.mark.unit
def test_requests_are_answered_and_wrong_ones_refused_with_the_reason():
    pushes = []

    def push(force: list[float], duration: float) -> None:
        if duration <= 0.0:
            raise SimulationError("a push takes time")
        pushes.append((force, duration))

    with remote.Requests("127.9.9.9", {"push": push, "status": lambda: {"errors": []}}):
        assert "127.9.9.9" in remote.running()
        assert remote.ask("127.9.9.9", "push", force=[0, 0, 1], duration=0.1) == {}
        assert remote.ask("127.9.9.9", "status") == {"errors": []}
        assert pushes == [([0, 0, 1], 0.1)]
        with pytest.raises(SimulationError, match="a push takes time"):
            remote.ask("127.9.9.9", "push", force=[], duration=0.0)
        for request, arguments in (("fly", {}), ("push", {"hard": True})):
            with pytest.raises(SimulationError, match="not a request"):
                remote.ask("127.9.9.9", request, **arguments)
        with pytest.raises(SimulationError, match=r"no answer from a simulated arm at 127.8.8.8 .*127\.9\.9\.9"):
            remote.ask("127.8.8.8", "status")
    assert "127.9.9.9" not in remote.running()


@pytest.mark.unit
@pytest.mark.parametrize("words", [["push", "--force", "1", "2"], ["push", "--host", "10.0.0.1"], ["fly"]])
def test_a_wrong_request_exits_with_2(words: list[str]):
    with pytest.raises(SystemExit) as exit_:
        simulation(words)
    assert exit_.value.code == 2


def test_a_push_stops_the_robot_with_a_reflex_and_one_command_recovers(
    running: tuple[NodeProcess, Client], robot: Client, caplog: pytest.LogCaptureFixture
):
    process, _ = running
    where = ["--host", host_of(process)]
    assert simulation(["push", *where, "--force", "0", "0", "-5"]) == 0
    robot.spin_for(0.5)
    assert robot.state == "active", "a push below the thresholds"
    assert simulation(["push", *where, "--force", "0", "0", "nan"]) == 1
    assert "nan" in caplog.text
    assert simulation(["push", *where, "--force", "0", "0", "-40", "--duration", "0.1"]) == 0
    assert robot.becomes("inactive"), process.log
    assert "cartesian_reflex" in error_of(robot)
    assert ctl(["recover", "--node", robot.name]) == 0
    assert robot.state == "active"


def test_while_the_user_stop_is_pressed_the_arm_is_not_activated_and_the_reason_is_printed(
    running: tuple[NodeProcess, Client], robot: Client, capsys: pytest.CaptureFixture[str]
):
    process, _ = running
    where = ["--host", host_of(process)]
    try:
        assert simulation(["stop", *where]) == 0
        assert robot.becomes("inactive"), process.log
        assert ctl(["activate", "--node", robot.name]) == 1
        assert "the user stop is pressed" in capsys.readouterr().err
    finally:
        assert simulation(["release", *where]) == 0
    robot.spin_for(0.2)
    assert ctl(["activate", "--node", robot.name]) == 0
