"""Weighing what the arm carries: the fit, and the program with an arm that carries something."""

from __future__ import annotations

import json
import os
import pty
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiofranka_ros.ctl.client import Failed
from aiofranka_ros.ctl.identify_payload import weighing
from aiofranka_ros.ctl.identify_payload.__main__ import main
from aiofranka_ros.ctl.identify_payload.weighing import Scale, ball
from aiofranka_ros.model import fr3, payload
from aiofranka_ros.simulation import remote
from aiofranka_ros.testing import Child, Client, NodeProcess, started
from bench.payload import LOADS

NOTHING = np.zeros(4)


# --- The fit


def measured(mass: float, center: Any, seed: int, *, error: float = 0.3, noise: float = 0.05) -> tuple[Any, Any]:
    """Poses and external torques of a robot whose joints have constant errors and noise."""
    rng = np.random.default_rng(seed)
    q = payload.poses_around(fr3.READY)
    torques = np.array([payload.weight_torques(each) @ payload.numbers(mass, np.array(center)) for each in q])
    return q, torques + error * rng.standard_normal(7) + noise * rng.standard_normal(torques.shape)


@pytest.mark.unit
def test_the_torques_of_a_weight_are_the_change_of_its_height_with_the_joints() -> None:
    rng = np.random.default_rng(1)
    center, step = np.array([0.03, -0.05, 0.11]), 1e-6

    def height(q: Any) -> float:
        flange = np.empty((4, 4))
        payload.forward(q, np.eye(4), flange, np.empty((4, 4)), np.empty((6, 7)))
        return float((flange[:3, :3] @ center + flange[:3, 3])[2])

    for _ in range(10):
        q = rng.uniform(fr3.POSITION_LOWER, fr3.POSITION_UPPER)
        expected = [-9.81 * 2.0 * (height(q + move) - height(q - move)) / (2 * step) for move in step * np.eye(7)]
        np.testing.assert_allclose(payload.weight_torques(q) @ payload.numbers(2.0, center), expected, atol=1e-6)


@pytest.mark.unit
@pytest.mark.parametrize(("mass", "center"), LOADS)
def test_a_load_is_found_within_its_stated_uncertainty_although_joints_have_errors(mass: float, center: Any) -> None:
    inside = []
    for seed in range(40):
        found = payload.fit(*measured(mass, center, seed), NOTHING)
        assert abs(found.mass - mass) < 4.0 * found.mass_error < 0.15
        inside.append(abs(found.mass - mass) < 2.0 * found.mass_error)
        inside += list(np.abs(found.center - center) < 2.0 * found.center_error)
    assert 0.85 < np.mean(inside) <= 1.0


@pytest.mark.unit
def test_what_the_robot_knew_already_is_added() -> None:
    mass, center = LOADS[1]
    known = payload.numbers(0.8, np.array([0.0, 0.0, 0.05]))
    q, torques = measured(mass, center, 3, error=0.0, noise=0.0)
    unknown = torques - np.array([payload.weight_torques(each) @ known for each in q])
    found = payload.fit(q, unknown, known)
    assert found.mass == pytest.approx(mass, abs=1e-3)
    np.testing.assert_allclose(found.center, center, atol=1e-3)


@pytest.mark.unit
def test_an_arm_that_carries_nothing_is_recognised() -> None:
    found = payload.fit(*measured(0.0, (0.0, 0.0, 0.0), 5), NOTHING)
    assert abs(found.mass) <= 2.5 * found.mass_error and np.isnan(found.center).all() == (
        found.mass <= 2.0 * found.mass_error
    )


@pytest.mark.unit
def test_poses_that_are_all_alike_are_refused() -> None:
    with pytest.raises(ValueError, match="too much alike"):
        payload.fit(np.tile(fr3.READY, (10, 1)), np.zeros((10, 7)), NOTHING)


@pytest.mark.unit
@pytest.mark.parametrize("q", [fr3.HOME, fr3.READY, fr3.POSITION_LOWER, fr3.POSITION_UPPER])
def test_poses_keep_away_from_the_limits_and_come_back_from_the_other_side(q: Any) -> None:
    poses = payload.poses_around(q)
    np.testing.assert_array_equal(poses, poses[::-1])
    np.testing.assert_array_equal(poses[0], q)
    for pose in poses[1:-1]:
        moved = pose != q
        assert (pose[moved] >= fr3.POSITION_LOWER[moved] + 0.1 - 1e-9).all()
        assert (pose[moved] <= fr3.POSITION_UPPER[moved] - 0.1 + 1e-9).all()
    assert 0.0 < payload.reach(poses) < 0.3


# --- The command line


@pytest.mark.unit
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "this is no terminal: add --yes"),
        (["--yes", "--range", "5"], "not between 0.2 and 2"),
        (["--yes", "--velocity", "0"], "not a positive number"),
    ],
)
def test_a_wrong_command_line_exits_with_2(words: list[str], message: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


# --- With an arm


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, Client]]:
    """An active node whose arm moves fast, and whose states come often."""
    folder, fast = tmp_path_factory.mktemp("node"), "[1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5]"
    with started(folder, autostart=True, robot_state_rate=100.0, move_velocity=fast) as (process, client):
        assert client.becomes("active"), process.log
        yield process, client


@pytest.fixture
def carry(robot: Client) -> Iterator[Callable[..., None]]:
    """Releases the arm, which then carries something that the robot does not know."""
    address = robot.address

    def carry(mass: float, center: Any = (0.0, 0.0, 0.05)) -> None:
        assert robot.change("deactivate")
        remote.ask(address, "load", mass=mass, center=list(center))

    yield carry
    if robot.state == "active":
        assert robot.change("deactivate")
    remote.ask(address, "load", mass=0.0, center=[0.0] * 3)
    Scale(robot).tell(weighing.NOTHING)
    assert robot.change("activate")


def identify(robot: Client, capsys: Any, *options: str) -> tuple[int, dict[str, Any], str]:
    """Run the program; exit status, result and what it said."""
    capsys.readouterr()
    status = main(["--node", robot.name, "--yes", "--json", *options])
    out, err = capsys.readouterr()
    return status, json.loads(out) if out else {}, err


def test_a_heavy_load_is_weighed_from_an_arm_that_does_not_know_it_and_then_carried(
    robot: Client, carry: Callable[..., None], capsys: Any
) -> None:
    mass, center = LOADS[2]
    carry(mass, center)
    status, found, said = identify(robot, capsys, "--range", "0.5")
    assert status == 0, said
    assert found["mass"] == pytest.approx(mass, abs=0.05)
    np.testing.assert_allclose(found["center_of_mass"], center, atol=0.01)
    assert robot.state == "inactive"  # As it was.
    told = Scale(robot).load()
    assert told.mass == pytest.approx(mass, abs=0.05)
    np.testing.assert_allclose(told.center, center, atol=0.01)
    assert robot.change("activate")
    q = robot.q
    assert robot.rests() and np.abs(robot.q - q).max() < 0.01  # It does not sink.
    # Nothing external is left.
    assert np.abs(Scale(robot).read()[1]).max() < 0.5


def test_after_a_move_that_fails_the_robot_knows_the_same_load_as_before_and_holds(
    robot: Client, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert robot.trigger("hold").success
    before = Scale(robot).load()
    try:
        status, found, said = identify(robot, capsys)
    finally:
        assert robot.trigger("release").success
    assert (status, found) == (1, {}) and "failed:" in said
    assert robot.state == "active"
    assert Scale(robot).load().mass == before.mass


def test_ctrl_c_stops_the_arm_and_the_robot_knows_the_same_load_as_before(robot: Client, tmp_path: Path) -> None:
    before = Scale(robot).load()
    words = ["-m", "aiofranka_ros.ctl.identify_payload", "--node", robot.name, "--yes", "--velocity", "0.3"]
    with Child(words, log=tmp_path / "log") as program:
        assert robot.spin_until(lambda: robot.speed() > 0.1), program.log
        assert program.end(signal.SIGINT) == 130, program.log
        assert "Traceback" not in program.log
    assert robot.rests() and robot.state == "active"
    assert Scale(robot).load().mass == before.mass


def test_ctrl_c_at_the_last_question_leaves_the_load_as_it_was(
    robot: Client, carry: Callable[..., None], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry(0.6)
    before = Scale(robot).load()
    terminal, theirs = pty.openpty()
    os.write(terminal, b"yes\n")  # To the first question.

    def weigh(scale: Scale, *arguments: Any) -> payload.Payload:
        assert scale.load().mass != before.mass  # A first estimate.
        os.kill(os.getpid(), signal.SIGINT)  # It comes while the second question is asked.
        return payload.Payload(1.0, np.zeros(3), 0.01, np.full(3, 0.001), 0.0)

    monkeypatch.setattr(Scale, "weigh", weigh)
    with open(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["--node", robot.name]) == 130
    os.close(terminal)
    said = capsys.readouterr()
    assert "Tell the robot" in said.err and "interrupted" in said.err
    assert robot.state == "inactive"  # As it was.
    assert Scale(robot).load().mass == before.mass


def test_an_arm_whose_torques_do_not_follow_its_load_is_not_weighed(
    robot: Client, carry: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    carry(0.0)
    scale = Scale(robot)
    told = scale.tell
    monkeypatch.setattr(scale, "tell", lambda load: told(ball(0.0, load.center)))
    with pytest.raises(Failed, match="do not follow the load"):
        scale.prepare()


@pytest.mark.light
def test_a_node_without_an_arm_is_told_apart(idle: tuple[NodeProcess, Client], tmp_path: Path, capsys: Any) -> None:
    _, client = idle
    assert main(["--node", client.name, "--yes"]) == 1
    assert "is unconfigured: activate it first" in capsys.readouterr().err
