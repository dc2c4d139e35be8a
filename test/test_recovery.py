"""The action ``~/error_recovery``: from which states it activates the arm, and what it reports if it cannot."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from common import lose_packets
from franka_msgs.action import ErrorRecovery
from franka_msgs.srv import SetLoad
from rclpy.action import ActionClient

from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.node.recovery_action import NAMES
from aiofranka_ros.simulation.simulated_arm import SimulatedArm
from aiofranka_ros.testing import Child, Client, NodeProcess, started, wait_until

ARM = "127.0.0.29"
#: A simulated arm whose user stop is pressed by one signal and released by another: franka_sim has none.
SIMULATION = """
import signal, sys
from aiofranka_ros.simulation import __main__ as simulation
from aiofranka_ros.simulation import model as simulation_model

class Server(simulation_model.ArmServer):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        signal.signal(signal.SIGUSR1, lambda *_: self.robot_state.state.update(robot_mode=5))
        signal.signal(signal.SIGUSR2, lambda *_: self.robot_state.state.update(robot_mode=1))

simulation_model.ArmServer = Server
sys.exit(simulation.main(["--host", sys.argv[1]]))
"""


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    with Child(["-c", SIMULATION, ARM], log=tmp_path_factory.mktemp("arm") / "log") as arm:
        assert arm.says("ready"), arm.log
        yield arm.process


class Recovery:
    """A client of the action, under both of its names."""

    def __init__(self, process: NodeProcess, client: Client) -> None:
        self.process, self.client = process, client
        self._actions = [ActionClient(client.node, ErrorRecovery, process.name_of(name)) for name in NAMES]

    def close(self) -> None:
        for action in self._actions:
            action.destroy()

    def goal(self, which: int = 0) -> Any:
        """The handle of a new goal."""
        action = self._actions[which]
        assert self.client.spin_until(action.server_is_ready)
        return self.client.result(action.send_goal_async(ErrorRecovery.Goal()))

    def __call__(self, which: int = 0) -> bool:
        """Send a goal; return whether it succeeded, as opposed to aborted."""
        handle = self.goal(which)
        assert handle.accepted
        status = self.client.outcome(handle).status
        assert status in (GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_ABORTED)
        return bool(status == GoalStatus.STATUS_SUCCEEDED)


@pytest.fixture(scope="module")
def recover(arm: subprocess.Popen[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recovery]:
    """An active node; shared by the tests of this module."""
    parameters: dict[str, Any] = {"robot_ip": ARM, "autostart": True, "diagnostics_rate": 10.0}
    with started(tmp_path_factory.mktemp("node"), **parameters) as (process, client):
        assert client.becomes("active"), process.log
        recovery = Recovery(process, client)
        yield recovery
        recovery.close()


def provoke_reflex(client: Client) -> None:
    """Lose torque commands for more than the twenty cycles that the robot tolerates."""
    control = int(client.diagnostics("control loop")[1]["control process"])
    lose_packets(control)


def holds(client: Client) -> bool:
    """Whether the arm stays where it is."""
    q = client.q
    client.spin_for(0.3)
    return bool(np.abs(client.q - q).max() < 0.01)


@pytest.mark.parametrize("which", range(len(NAMES)), ids=NAMES)
def test_after_a_reflex_during_a_move_one_call_makes_the_arm_hold_where_it_is(recover: Recovery, which: int) -> None:
    client = recover.client
    goal = HOME + (0.3 if which == 0 else -0.3)
    client.send_goal(goal)
    assert client.spin_until(lambda: client.speed() > 0.1)
    provoke_reflex(client)
    assert client.becomes("inactive")
    after = len(recover.process.log)
    assert recover(which)
    assert client.state == "active"
    assert "after clearing a reflex" in recover.process.log[after:]
    assert client.diagnostics("robot")[0] == b"\x00"
    assert client.rests()
    assert np.abs(client.q - goal).max() > 0.05, "it continued to its goal"
    assert holds(client)


def test_an_active_arm_is_left_alone(recover: Recovery) -> None:
    client = recover.client
    handle = client.send_goal(HOME, velocities=[0.5] * 7)
    assert client.spin_until(lambda: client.speed() > 0.1)
    before = int(client.diagnostics("control loop")[1]["cycles"])
    assert recover()
    # Activating would reset the count and end the move.
    assert int(client.diagnostics("control loop")[1]["cycles"]) > before
    assert client.outcome(handle).status == GoalStatus.STATUS_SUCCEEDED


def test_an_arm_deactivated_without_an_error_is_activated(recover: Recovery) -> None:
    client = recover.client
    assert client.change("deactivate")
    assert recover()
    assert client.state == "active"
    assert holds(client)


def test_while_the_user_stop_is_pressed_recovery_is_aborted_with_the_reason(
    recover: Recovery, arm: subprocess.Popen[bytes]
) -> None:
    client = recover.client
    assert client.change("deactivate")
    arm.send_signal(signal.SIGUSR1)
    assert client.spin_until(lambda: client.diagnostics("robot")[1]["robot mode"] == "user stopped")
    after = len(recover.process.log)
    assert not recover()
    assert client.state == "inactive"
    assert "~/error_recovery was aborted: " in recover.process.log[after:]
    level, values = client.diagnostics("robot")
    assert level == b"\x02" and "the user stop is pressed" in values["last error"]
    arm.send_signal(signal.SIGUSR2)
    assert client.spin_until(lambda: client.diagnostics("robot")[1]["robot mode"] == "idle")
    assert recover()
    assert client.state == "active"


def test_without_an_arm_recovery_is_rejected_with_the_reason(recover: Recovery) -> None:
    client = recover.client
    assert client.change("deactivate") and client.change("cleanup")
    assert not recover.goal().accepted
    assert recover.process.says("rejected a goal of ~/error_recovery: the node is not configured")
    # An earlier message may still be on its way.
    assert wait_until(lambda: client.diagnostics("targets")[1].get("goal rejected: not configured") == "1")
    assert client.change("configure")
    assert recover()
    assert client.state == "active"


def test_an_arm_that_was_lost_is_connected_again_once_it_is_back(
    recover: Recovery, arm: subprocess.Popen[bytes]
) -> None:
    client = recover.client
    arm.terminate()
    assert client.becomes("inactive")
    set_load = client.node.create_client(SetLoad, recover.process.name_of("~/set_load"))
    # The arm stops first; a moment later the node finds that it is lost.
    assert wait_until(lambda: "activate the node to connect again" in client.call(set_load, SetLoad.Request()).error)
    arm.wait(40.0)  # Its address is in use until then.
    with SimulatedArm(ARM):
        assert recover()
        assert holds(client)
        assert client.change("deactivate") and client.change("cleanup")
