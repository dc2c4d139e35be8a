"""One name, one arm: of two nodes of arms that answer to the same names, at most one moves its arm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.ros.conditions import CTL
from aiofranka_ros.testing import Client, NodeProcess, wait_until


def test_a_second_node_of_one_name_stays_inactive_and_one_goal_moves_at_most_one_arm(
    running: tuple[NodeProcess, Client], robot: Client, tmp_path: Path
) -> None:
    process, _ = running
    heard: dict[str, Any] = {}

    def note(message: DiagnosticArray) -> None:
        heard.update((status.name, status) for status in message.status)

    subscription = robot.node.create_subscription(DiagnosticArray, "/diagnostics", note, 20)
    where = robot.q
    with NodeProcess(tmp_path / "second.log", process.namespace, autostart=True, discovery_time=3.5) as second:
        assert second.says("autostart failed"), second.log
        assert f"another node is called {process.name} (process {process.process.pid} on " in second.log
        assert "__ns:=/left" in second.log and "the arm holds" not in second.log
        assert robot.spin_until(lambda: "another node is called" in process.log)
        assert not robot.send_goal(HOME + 0.2).accepted
        # Both report it, under names and hardware that tell them apart.
        name = process.name.lstrip("/")
        titles = f"{name}: targets", f"{name} (process {second.process.pid} on "
        assert robot.spin_until(lambda: all(any(key.startswith(title) for key in heard) for title in titles)), heard
        robot.refresh()
        status = robot.statuses["targets"]
        assert status.level == DiagnosticStatus.ERROR and "goals are refused: another node" in status.message
        assert status.hardware_id.startswith("127.") and status.hardware_id.endswith(process.name)
        assert abs(robot.q - where).max() < 0.01
    assert robot.spin_until(lambda: robot.diagnostics("targets")[0] != DiagnosticStatus.ERROR)
    assert robot.send_goal(robot.q).accepted
    robot.node.destroy_subscription(subscription)


def test_of_two_nodes_that_start_at_once_only_the_older_stays_active(tmp_path: Path) -> None:
    with (
        NodeProcess(tmp_path / "one.log", "twins", autostart=True, discovery_time=0.0) as one,
        NodeProcess(tmp_path / "other.log", "twins", autostart=True, discovery_time=0.0) as other,
    ):
        yielded = f"; then: {CTL} activate --node /twins/aiofranka"
        nodes = (one, other)
        assert wait_until(lambda: all("another node is called" in node.log for node in nodes))
        assert wait_until(lambda: any(yielded in node.log for node in nodes)), one.log + other.log
        # One of them is active, and stays so.
        (stays,) = (node for node in nodes if yielded not in node.log)
        assert stays.says("the arm holds")
        with Client("/twins/aiofranka") as client:
            assert not client.send_goal(HOME + 0.2).accepted
        assert yielded not in stays.log
