"""The command line that looks after a node: what it prints, what it refuses, and its exit status."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aiofranka_ros.ctl import commands
from aiofranka_ros.ctl.__main__ import main
from aiofranka_ros.model.fr3 import HOME, READY
from aiofranka_ros.testing import PATIENCE, Client, Failed, NodeClient, NodeProcess, environment


class Terminal:
    """Runs commands for one node, in this process."""

    def __init__(self, node: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._node = node
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str]:
        """Exit status and everything that the command printed."""
        status = main([words[0], "--node", self._node, *words[1:]])
        printed = self._capsys.readouterr()
        return status, printed.out + printed.err


@pytest.fixture
def ctl(robot: Client, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(robot.name, capsys)


# --- Without a node


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.3", 0.3), ("7", 7), ("true", True), ("osc", "osc"), ("", ""), ("[1, 2.5]", [1.0, 2.5]),
        ("[a, b]", ["a", "b"]), ("'7'", "7"),
    ],
)  # fmt: skip
def test_values_are_read_as_in_a_parameter_file_and_shown_so_that_they_can_be_read_again(text, value):
    assert commands.parsed(text) == value
    assert type(commands.parsed(text)) is type(value)
    assert commands.parsed(commands.shown(value)) == value


@pytest.mark.light
def test_a_node_that_the_graph_does_not_know_offers_nothing() -> None:
    with NodeClient("/nowhere/nothing") as client:
        assert not any(client.offered())
        with pytest.raises(Failed, match="the graph does not know any publishers, .*, /a/topic of /nowhere/nothing"):
            client.offers("/a/topic", timeout=0.1)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["set", "mode"], "mode has no value"),
        (["set", "kp", "[1, a]"], "not a list of values of one type"),
        (["set", "kp", "{a: 1}"], "not a value"),
        (["set", "kp", "[1"], "not a value"),
        (["move", "1", "2"], "seven joint positions"),
        (["move", "hme"], "seven joint positions in rad, or home or ready; got: hme"),
        (["move", "home", "--velocity", "-1"], "not a positive number"),
        (["activate", "now"], "unrecognized arguments: now"),
        (["activate", "--node", "/left/aiofranka", "--namespace", "left"], "full name already"),
        (["fly"], "invalid choice: 'fly'"),
        ([], "required: COMMAND"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_says_what_is_wrong(words, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.unit
@pytest.mark.parametrize("command", ["", "status", "set", "get", "move", "hold", "recover", *commands.TRANSITIONS])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*filter(None, [command]), "--help"])
    assert exit_.value.code == 0
    assert "usage: ctl" in capsys.readouterr().out


# --- With one


@pytest.mark.light
def test_a_node_that_does_not_exist_is_reported_with_the_nodes_that_do(idle, capsys):
    process, _ = idle
    status, printed = Terminal("/left/aiofranka", capsys)("activate")
    assert status == 1
    assert "there is no node /left/aiofranka" in printed and process.name in printed


@pytest.mark.light
@pytest.mark.parametrize(
    ("module", "misspelt"), [("node", "move_velocty"), ("gripper_node", "default_sped"), ("rviz_tools", "arm_nod")]
)
def test_a_node_does_not_start_with_a_misspelt_parameter(tmp_path: Path, module: str, misspelt: str) -> None:
    with NodeProcess(tmp_path / "log", module=f"aiofranka_ros.{module}", **{misspelt: "[0.3]"}) as process:
        assert process.says("did you mean"), process.log
        assert process.process.wait(PATIENCE) == 1
    assert "cannot start: there is no parameter" in process.log and "Traceback" not in process.log


def test_the_lifecycle_is_driven_and_a_transition_that_is_not_possible_is_explained(ctl, robot):
    assert ctl("activate") == (0, f"{robot.name} is already active\n")
    assert ctl("cleanup") == (1, f"failed: {robot.name} is active, but must be inactive: deactivate it first\n")
    for transition, state in (
        ("deactivate", "inactive"), ("cleanup", "unconfigured"), ("configure", "inactive"), ("activate", "active"),
    ):  # fmt: skip
        assert ctl(transition) == (0, f"{robot.name} is {state}\n")
        assert robot.state == state


@pytest.mark.light
def test_parameters_are_set_together_and_shown_and_a_refusal_has_the_nodes_reason(idle, capsys):
    process, client = idle
    ctl = Terminal(process.name, capsys)
    assert ctl("set", "move_velocity", "[1, 1, 1, 1, 1, 1, 0.5]", "move_tolerance", "0.02")[0] == 0
    assert ctl("get", "move_tolerance") == (0, "move_tolerance: 0.02\n")
    status, printed = ctl("get", "--json", "move_velocity", "mode")
    assert status == 0 and json.loads(printed) == {"move_velocity": [1.0] * 6 + [0.5], "mode": "osc"}
    assert len(ctl("get")[1].splitlines()) > 50
    status, printed = ctl("set", "move_tolerance", "0.03", "move_jerk", "-1")
    assert status == 1 and "move_jerk is -1; allowed: 7 values" in printed
    assert client.get("move_tolerance") == 0.02
    status, printed = ctl("set", "move_velocty", "[0.3]")
    assert status == 1 and "did you mean 'move_velocity'?" in printed
    status, printed = ctl("set", "state_rate", "50")
    assert status == 1 and "state_rate can be set only at the start" in printed
    status, printed = ctl("get", "move_velocty")
    assert status == 1 and "did you mean 'move_velocity'?" in printed


def test_an_arm_that_is_held_refuses_a_move_until_it_is_released_and_then_arrives(ctl, robot):
    status, printed = ctl("hold")
    assert status == 0 and "held" in printed
    status, printed = ctl("move", "home")
    assert status == 1 and "refused it: the arm is held" in printed and "ctl release" in printed
    status, printed = ctl("status")
    assert status == 0 and "the arm holds: asked" in printed and "ctl release" in printed
    assert ctl("release")[0] == 0
    assert ctl("move", "home", "--velocity", "1.5") == (0, "arrived\n")
    assert abs(robot.q - HOME).max() < 0.02
    assert ctl("recover") == (0, f"{robot.name} is active and holds\n")


def test_the_status_is_available_as_json(ctl, robot):
    status, printed = ctl("status", "--json")
    found = json.loads(printed)
    assert status == 0
    assert (found["node"], found["state"], found["mode"]) == (robot.name, "active", "osc")
    assert found["owner"] == "no client"
    assert {"robot", "control loop", "targets"} <= set(found["diagnostics"])
    assert found["diagnostics"]["robot"]["level"] == "OK"


def test_ctrl_c_during_a_move_stops_the_arm(running: tuple[NodeProcess, Client], robot: Client):
    command = [sys.executable, "-m", "aiofranka_ros.ctl", "move", "--node", robot.name, "--velocity", "0.1"]
    goal = [str(value) for value in READY + [0.8, 0, 0, 0, 0, 0, 0]]
    with subprocess.Popen(
        [*command, *goal], env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as ran:
        assert robot.spin_until(lambda: robot.value("targets", "owner") == "~/move"), running[0].log
        ran.send_signal(signal.SIGINT)
        _, printed = ran.communicate(timeout=40)
    assert ran.returncode == 130
    assert printed == "interrupted\n"
    assert robot.rests()
    robot.refresh("targets")
    assert robot.value("targets", "owner") == "no client"
