"""The gripper's node next to an arm's node: neither delays the other."""

from __future__ import annotations

import time
from pathlib import Path

from action_msgs.msg import GoalStatus
from franka_msgs.action import Homing
from test_gripper import Unruly, gripper
from test_hand import served

from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.testing import started

#: Address of a hand that does not answer, and for how long the arm moves next to it [s].
DEAF, BLOCKED = "127.0.0.62", 10.0


def test_a_blocked_gripper_costs_the_arm_no_cycle(tmp_path: Path) -> None:
    with (
        served(host=DEAF, kind=Unruly),
        started(tmp_path, autostart=True) as (process, arm),
        gripper(tmp_path / "gripper.log", robot_ip=DEAF, command_timeout=2.0 * BLOCKED) as (_, hand),
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
