"""The gripper's node next to an arm's node: it finds the hand of a simulated arm, and neither delays the other."""

from __future__ import annotations

import time
from pathlib import Path

from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticStatus
from franka_msgs.action import Homing, Move
from sensor_msgs.msg import JointState
from test_gripper import SUCCEEDED, Unruly, gripper
from test_hand import served

from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.testing import Client, NodeProcess, started

#: Address of a hand that does not answer, and for how long the arm moves next to it [s].
DEAF, BLOCKED = "127.0.0.62", 4.0


def test_a_blocked_gripper_costs_the_arm_no_cycle(tmp_path: Path) -> None:
    with (
        served(host=DEAF, kind=Unruly),
        started(tmp_path, autostart=True) as (process, arm),
        gripper(tmp_path / "gripper.log", robot_ip=DEAF, command_timeout=20.0) as (_, hand),
    ):
        assert arm.becomes("active"), process.log
        homing = hand.send("franka_gripper/homing", Homing.Goal())
        assert homing.accepted
        _, values = arm.diagnostics("control loop")
        with SharedMemory.observe(values["shared memory"]) as memory:
            first, until = memory.cycles.count, time.monotonic() + BLOCKED
            goals = (HOME + 0.2, HOME)
            while time.monotonic() < until:
                assert arm.outcome(arm.send_goal(goals[0])).status == GoalStatus.STATUS_SUCCEEDED
                goals = goals[::-1]
            cycles, _, unread = memory.cycles.since(first)
        assert unread == 0 and cycles["lost"].sum() == 0
        assert cycles["time"][-1] - cycles["time"][0] > 0.5 * BLOCKED, "the arm was not driven all the time"
        hand.feedback.clear()
        assert hand.spin_until(lambda: hand.feedback), "homing is over"
        hand.cancel(homing)
        hand.outcome(homing)


def test_the_arms_node_tells_the_address_of_a_simulated_arms_hand(tmp_path: Path) -> None:
    arm = NodeProcess(tmp_path / "arm.log")
    arm_client = None
    try:
        with gripper(tmp_path / "log", arm.namespace) as (process, client):
            assert not client.send("franka_gripper/move", Move.Goal(width=0.04)).accepted
            assert process.says("there is no simulated arm: aiofranka does not run, or is not configured")
            arm_client = Client(arm.name)
            assert arm_client.change("configure"), arm.log
            assert process.says("connected to the gripper at 127."), process.log
            assert client.do("franka_gripper/move", Move.Goal(width=0.04))[0] == SUCCEEDED
            # Both publish on one topic.
            heard: list[JointState] = []
            client.node.create_subscription(JointState, f"/{arm.namespace}/joint_states", heard.append, 10)
            assert client.spin_until(lambda: {len(message.name) for message in heard} == {2, 7})
            assert all(len(arm_client.q) == 7 for _ in range(20))
            assert arm_client.change("cleanup")
            assert client.says(DiagnosticStatus.WARN, "the arm's node has ended the simulated arm")
            assert process.end() == 0
    finally:
        if arm_client is not None:
            arm_client.close()
        arm.close()
