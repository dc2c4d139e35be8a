"""Which commands the hand gets: a repeated one is one, and nothing lets go of what is held. No arm, no ROS graph."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hands import GRASP, MOVE, STOP, Counting
from test_hand import served

from aiofranka_ros.arm.gripper import commands
from aiofranka_ros.arm.gripper.commands import Command, End, Outcome
from aiofranka_ros.arm.gripper.connection import HandState
from aiofranka_ros.arm.gripper.gripper import Gripper
from aiofranka_ros.arm.gripper.settings import without_node
from aiofranka_ros.arm.gripper.widths import WidthTargets
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.testing import PATIENCE

pytestmark = pytest.mark.light

HOST = "127.0.0.57"
OBJECT = 0.03
SETTINGS = without_node({})


class Driven:
    """A gripper that is ticked only while a test waits."""

    def __init__(self, server: Counting) -> None:
        self.server, self.gripper = server, Gripper(SETTINGS, logging.getLogger(__name__))
        self.failures: list[str] = []
        self.targets = WidthTargets(SETTINGS, self.gripper, self.failures.append)
        self.gripper.use(HOST, "not connected yet")
        self.until(lambda: self.gripper.state is not None)
        server.commands.clear()

    @property
    def state(self) -> HandState:
        assert self.gripper.state is not None
        return self.gripper.state

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            self.gripper.tick()
            time.sleep(0.002)

    def begin(self, command: Command, cancelled: Callable[[], bool] = lambda: False) -> list[Outcome]:
        """Submit a command; its outcome will be in the list."""
        ends: list[Outcome] = []
        self.gripper.submit(command, cancelled, ends.append)
        return ends

    def do(self, command: Command) -> Outcome:
        ends = self.begin(command)
        self.until(lambda: ends)
        return ends[0]

    def set_width(self, width: float) -> None:
        """Set a width, and wait until the gripper does nothing more."""
        self.targets.send(width, lambda: False)
        self.until(lambda: not self.gripper.running)

    def move(self, width: float, speed: float = 0.1) -> Command:
        return commands.move(width, speed, self.state, SETTINGS)

    def grasp(self, width: float = OBJECT, force: float = 20.0, speed: float = 0.1) -> Command:
        return commands.grasp(width, speed, force, (0.005, 0.005), self.state, SETTINGS)


@contextmanager
def driven(object_width: float | None = OBJECT) -> Iterator[Driven]:
    with served(object_width, HOST, Counting) as server:
        assert isinstance(server, Counting)
        hand = Driven(server)
        try:
            yield hand
        finally:
            hand.gripper.disconnect("the test is over")


def test_what_is_held_is_not_grasped_again_however_it_is_asked_for() -> None:
    with driven() as hand:
        assert hand.do(hand.grasp()).failure == ""
        assert hand.state.is_grasped
        for again in (
            hand.grasp(),
            hand.grasp(speed=0.03),  # How fast it was closed does not matter any more.
            hand.grasp(width=OBJECT + 0.004),
            commands.reach(0.0, 0.0, hand.state, hand.gripper.holds, SETTINGS),
            commands.reach(0.0, 20.0, hand.state, hand.gripper.holds, SETTINGS),
        ):
            assert hand.do(again) == Outcome(End.FINISHED, OBJECT, "", 20.0)
        assert hand.server.commands == [GRASP]


def test_another_force_or_another_object_is_another_grasp() -> None:
    with driven() as hand:
        assert hand.do(hand.grasp()).failure == ""
        assert hand.do(hand.grasp(force=40.0)).failure == ""
        assert "nothing was grasped" in hand.do(hand.grasp(width=0.06)).failure
        assert hand.server.commands == [GRASP, GRASP, GRASP]


def test_closing_without_a_force_is_content_with_any_and_with_a_force_with_that() -> None:
    with driven() as hand:
        assert hand.do(hand.grasp(force=60.0)).failure == ""
        hand.set_width(0.0)
        assert hand.do(commands.reach(0.0, 0.0, hand.state, hand.gripper.holds, SETTINGS)).force == 60.0
        assert hand.server.commands == [GRASP]
        assert hand.do(commands.reach(0.0, 30.0, hand.state, hand.gripper.holds, SETTINGS)).force == 30.0
        assert hand.server.commands == [GRASP, GRASP]


def test_closing_that_is_not_exact_joins_the_closing_that_runs() -> None:
    with driven() as hand:
        ends = [hand.begin(commands.reach(width, 0.0, hand.state, False, SETTINGS)) for width in (0.0, 0.0015, 0.0005)]
        hand.until(lambda: all(ends))
        assert {end[0].failure for end in ends} == {""} and hand.server.commands == [GRASP]


def test_how_fast_a_width_was_reached_does_not_matter_any_more() -> None:
    with driven() as hand:
        for speed in (0.1, 0.03, 0.1):
            assert hand.do(hand.move(0.06, speed)).failure == ""
        assert hand.server.commands == [MOVE]


def test_what_the_fingers_are_about_to_let_go_does_not_count_as_held() -> None:
    with driven() as hand:
        assert hand.do(hand.grasp()).failure == ""
        opening = hand.begin(hand.move(0.08))
        assert hand.state.is_grasped, "the state is as old as the grasp"
        assert hand.do(commands.reach(0.0, 0.0, hand.state, hand.gripper.holds, SETTINGS)).failure == ""
        assert opening[0].end is End.REPLACED
        assert hand.server.commands[:2] == [GRASP, MOVE] and hand.server.commands[-1] == GRASP
        assert hand.state.is_grasped


def test_targets_that_are_not_exact_do_not_let_go_of_what_is_held_and_opening_does() -> None:
    with driven() as hand:
        for width in (0.0, 0.0015, 0.004, 0.0, 0.02, OBJECT, OBJECT + 0.0015, 0.01, 0.0):
            hand.set_width(width)
        assert hand.server.commands == [GRASP] and hand.state.is_grasped
        hand.set_width(0.05)
        hand.until(lambda: not hand.state.is_grasped)
        assert hand.server.commands == [GRASP, MOVE] and hand.state.width == pytest.approx(0.05)
        assert not hand.failures


def test_a_thin_object_is_not_let_go_by_closing_again() -> None:
    with driven(0.001) as hand:
        hand.set_width(0.0)
        assert hand.state.is_grasped
        hand.gripper._achieved = None  # As for a node that has just been started.
        hand.set_width(0.0)
        assert hand.do(commands.reach(0.0, 20.0, hand.state, hand.gripper.holds, SETTINGS)).failure == ""
        assert MOVE not in hand.server.commands and hand.state.is_grasped


def test_an_object_that_gives_way_is_held_all_the_same() -> None:
    with driven() as hand:
        assert hand.do(hand.grasp()).failure == ""
        course = hand.server.backend._course
        hand.server.backend._course = dataclasses.replace(course, widths=(*course.widths[:-1], OBJECT - 0.004))
        hand.until(lambda: hand.state.width < OBJECT - 0.003)
        assert hand.do(hand.grasp()).failure == ""
        assert hand.server.commands == [GRASP]


def test_a_connection_that_was_lost_changes_nothing_about_what_is_held() -> None:
    with driven() as hand:
        assert hand.do(hand.grasp()).failure == ""
        hand.server.connection_running = False
        hand.until(lambda: hand.gripper.state is None)
        hand.until(lambda: hand.gripper.state is not None)
        assert hand.do(hand.grasp()).failure == ""
        assert hand.server.commands == [GRASP]


def test_a_command_that_was_done_is_not_done_any_more_once_another_one_has_begun() -> None:
    with driven(None) as hand:
        first, second = hand.move(0.08), hand.move(0.03, speed=0.05)
        hand.begin(first)  # The fingers are there already, so it is answered at once.
        time.sleep(0.1)
        away = hand.begin(second)
        hand.until(lambda: hand.server.commands == [MOVE, MOVE])
        assert hand.do(first).failure == ""
        assert away[0].end is End.REPLACED
        assert hand.state.width == pytest.approx(0.08)


def test_a_grasp_after_a_stop_is_not_taken_for_the_one_before() -> None:
    with driven() as hand:
        assert hand.do(hand.grasp()).failure == ""
        failures: list[str] = []
        hand.gripper.stop("stopped", failures.append)
        hand.until(lambda: failures)
        assert failures == [""]
        # Whether or not the state is newer than the stop by now.
        closing = commands.reach(0.0, 0.0, hand.state, hand.gripper.holds, SETTINGS)
        assert hand.do(closing).failure == ""
        assert hand.server.commands == [GRASP, STOP, GRASP] and hand.state.is_grasped


def test_a_command_that_every_client_has_cancelled_stops_the_fingers() -> None:
    with driven(None) as hand:
        cancelled: list[bool] = []
        ends = hand.begin(hand.move(0.0, speed=0.05), lambda: bool(cancelled))
        hand.until(lambda: hand.state.width < 0.07)
        cancelled.append(True)
        hand.until(lambda: ends)
        assert ends[0].end is End.CANCELLED and hand.server.commands == [MOVE, STOP]
        assert 0.0 < hand.server.backend.get_state().width < 0.07


def test_a_width_is_refused_with_the_reason_until_the_gripper_was_homed() -> None:
    unknown = HandState(0.0, 0.0, False, 30)
    with pytest.raises(InvalidTarget, match="call homing first") as refused:
        commands.move(0.04, 0.0, unknown, SETTINGS)
    assert refused.value.reason == "not homed"


def test_a_width_of_a_policy_may_be_slightly_outside_and_one_of_a_goal_only_above() -> None:
    homed = HandState(0.0, 0.0795, False, 30)
    assert commands.width_of(0.08, homed) == 0.0795
    assert commands.width_of(-0.004, homed, slack=commands.BEYOND) == 0.0
    for width, reason in ((-0.001, "bad width"), (0.09, "bad width"), (float("nan"), "not finite")):
        with pytest.raises(InvalidTarget) as refused:
            commands.width_of(width, homed)
        assert refused.value.reason == reason
