"""Clients that repeat themselves, or change their mind all the time, at the gripper's node."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from action_msgs.msg import GoalStatus
from control_msgs.action import GripperCommand
from rclpy.action import ActionClient

from aiofranka_ros.arm.gripper.connection import Request
from aiofranka_ros.testing import Child, ros_arguments
from bench.faults.catalogue import fault
from bench.faults.hand import RecordedHand
from bench.faults.rig import Findings, Rig

#: Goals per second, and for how long they are sent [s].
_RATE, _DURATION = 30.0, 4.0
#: The fingers need 0.8 s from one end to the other; they may need that much longer to begin, on a busy computer [s].
_TRAVEL, _LATENCY = 0.8, 0.4
_OBJECT = 0.03


class _Gripper:
    """The gripper's node on a recorded hand, and a client of MoveIt's action."""

    def __init__(self, rig: Rig, hand: RecordedHand, action: ActionClient) -> None:
        self._rig, self._action = rig, action
        self.hand, self.marked = hand, 0

    def mark(self) -> None:
        """Record that the fault happens now."""
        self.marked = self._rig.mark()

    def send(self, width: float, force: float, ends: list[Any]) -> None:
        """Send a goal, and put the future of its end into ``ends`` once it is accepted."""
        goal = GripperCommand.Goal()
        goal.command.position, goal.command.max_effort = width / 2.0, force
        self._action.send_goal_async(goal).add_done_callback(
            lambda answer: ends.append(answer.result().get_result_async())
        )

    def stream(self, goals: Sequence[tuple[float, float]]) -> list[Any]:
        """Send pairs of width [m] and force [N], in turns; return the ends of all goals, as far as they have any."""
        ends: list[Any] = []
        count = int(_RATE * _DURATION)
        for goal in itertools.islice(itertools.cycle(goals), count):
            self.send(*goal, ends)
            # Like a timer of rclpy, which does not catch up: goals that are sent at once may lose their acceptance.
            self._rig.spin_for(1.0 / _RATE)
        self._rig.spin_until(lambda: len(ends) == count and all(end.done() for end in ends))
        return [end.result() for end in ends if end.done()]

    def draw(self, figure: Any) -> None:
        """Draw the width of the fingers, and what was sent to them, since the fault."""
        records = self.hand.since(self.marked - int(2e8))
        since = 1e-9 * (records["stamp"] - self.marked)
        width, wire = figure.subplots(2, 1, sharex=True)
        states = records["command"] == 0
        width.plot(since[states], 1e3 * records["width"][states], linewidth=0.8)
        width.set_ylabel("width [mm]", fontsize=8)
        wire.plot(since[~states], records["command"][~states], "|", markersize=9)
        wire.set_yticks(range(1, 5), [Request(number).name.lower() for number in range(1, 5)])
        wire.set_ylim(0.5, 4.5)
        wire.set_xlabel("time since the first goal [s]; below: commands to the gripper", fontsize=8)
        for axes in (width, wire):
            axes.axvline(0.0, color="black", linewidth=0.8, linestyle="--")
            axes.tick_params(labelsize=7)


@contextlib.contextmanager
def _gripper(rig: Rig, object_width: float | None = None) -> Iterator[_Gripper]:
    arguments = ["-m", "aiofranka_ros.gripper_node", *ros_arguments(robot_ip=rig.hand_host)]
    action = ActionClient(rig.node, GripperCommand, "/franka_gripper/gripper_action")
    try:
        with (
            RecordedHand(rig.hand_host, rig.folder, object_width) as hand,
            Child(arguments, log=rig.folder / "gripper.log", label="gripper's node") as node,
        ):
            rig.wait(action.server_is_ready, "the gripper's node does not answer")
            rig.wait(lambda: "connected to the gripper" in node.log, "the gripper's node does not connect")
            gripper = _Gripper(rig, hand, action)
            rig.draw = gripper.draw
            yield gripper
    finally:
        action.destroy()


def _sent(records: npt.NDArray[Any]) -> Counter[str]:
    return Counter(Request(number).name for number in records["command"] if number)


def _check_results(findings: Findings, ends: Sequence[Any], *allowed: int) -> None:
    count = int(_RATE * _DURATION)
    statuses = Counter(end.status for end in ends)
    findings.check(len(ends) == count, f"{len(ends)} of {count} goals have a result")
    findings.check(statuses.keys() <= set(allowed), f"statuses {dict(statuses)}")


@fault("the fingers close as fast as for one goal, which is the only command; each goal has its result")
def gripper_goals_repeated(rig: Rig, findings: Findings) -> None:
    """MoveIt's gripper action, to close with 20 N, 30 times a second."""
    with _gripper(rig) as gripper:
        gripper.mark()
        ends = gripper.stream([(0.0, 20.0)])
        records = gripper.hand.since(gripper.marked)
        closed = records["stamp"][(records["command"] == 0) & (records["width"] < 1e-3)]
        after = 1e-9 * (closed[0] - gripper.marked) if len(closed) else None
        findings.within(after, _TRAVEL + _LATENCY, "the fingers had closed")
        sent = _sent(records)
        findings.check(sent == {"GRASP": 1}, f"sent to the gripper: {dict(sent)}")
        _check_results(findings, ends, GoalStatus.STATUS_SUCCEEDED)


@fault("nothing is sent to the gripper, which holds the object all the time; each goal succeeds")
def gripper_goals_repeated_while_holding(rig: Rig, findings: Findings) -> None:
    """The same, with an object between the fingers that they hold already."""
    with _gripper(rig, _OBJECT) as gripper:
        first: list[Any] = []
        gripper.send(0.0, 20.0, first)
        rig.wait(lambda: first and first[0].done(), "the first goal has no result")
        gripper.mark()
        ends = gripper.stream([(0.0, 20.0)])
        records = gripper.hand.since(gripper.marked)
        sent = _sent(records)
        findings.check(not sent, f"sent to the gripper: {dict(sent) or 'nothing'}")
        moved = float(np.ptp(records["width"])) if len(records) else float("nan")
        findings.check(moved < 1e-6, f"the fingers moved by {1e3 * moved:.1f} mm")
        _check_results(findings, ends, GoalStatus.STATUS_SUCCEEDED)


@fault("the fingers keep moving; each goal has its result, and the last one succeeds")
def gripper_goals_alternating(rig: Rig, findings: Findings) -> None:
    """Goals for three widths in turns, 30 times a second."""
    with _gripper(rig) as gripper:
        gripper.mark()
        ends = gripper.stream([(0.01, 20.0), (0.07, 0.0), (0.04, 0.0)])
        records = gripper.hand.since(gripper.marked)
        travelled = float(np.abs(np.diff(records["width"][records["command"] == 0])).sum())
        share = travelled / (_DURATION * 0.1)
        findings.check(share > 0.3, f"the fingers travelled {1e3 * travelled:.0f} mm, {share:.0%} of what they could")
        findings.note(f"sent to the gripper: {dict(_sent(records))}")
        _check_results(findings, ends, GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_ABORTED)
        last = ends[-1].status if ends else None
        findings.check(last == GoalStatus.STATUS_SUCCEEDED, f"the last one ended with status {last}")
