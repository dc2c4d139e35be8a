"""Two senders of targets: another client of the node, or another task of the same program."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_controller_clock import Recorder

from aiofranka_ros import FrankaController
from aiofranka_ros.api.competition import PAUSE, Competition, Setters
from aiofranka_ros.control.records import Limit
from aiofranka_ros.errors import InvalidTarget, Overridden
from aiofranka_ros.model.fr3 import HOME

pytestmark = pytest.mark.unit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


# Another client.


def competing(clock: Clock) -> Competition:
    return Competition("/arm", "/policy", clock)


def contend(competition: Competition, clock: Clock, seconds: float, period: float = 0.5) -> None:
    """Set targets for ``seconds``, of which the node refuses one in each ``period``."""
    end = clock.now + seconds
    due = clock.now
    while clock.now < end:
        competition.begun = True
        if clock.now >= due:
            due += period
            competition.refused("/other controls the arm", "another publisher")
        competition.check()
        clock.now += 0.02


def test_a_client_that_only_waits_for_its_turn_is_not_told(clock: Clock) -> None:
    competition = competing(clock)
    contend(competition, clock, 0.4)
    clock.now += 10.0
    contend(competition, clock, 0.4)


def test_a_client_whose_targets_are_refused_all_the_time_is_told_by_whom(clock: Clock) -> None:
    with pytest.raises(InvalidTarget, match="/other controls the arm") as caught:
        contend(competing(clock), clock, 2.0)
    assert caught.value.reason == "another publisher"


def test_a_client_may_continue_once_the_other_is_silent(clock: Clock) -> None:
    competition = competing(clock)
    with pytest.raises(InvalidTarget):
        contend(competition, clock, 2.0)
    clock.now += 1.0
    competition.begun = True
    competition.check()


def test_a_client_that_sets_only_gains_is_not_told(clock: Clock) -> None:
    competition = competing(clock)
    for _ in range(5):
        competition.refused("/other controls the arm", "another publisher")
        clock.now += 0.5
        competition.check()


def overrides(competition: Competition, clock: Clock, owner: str, client: str = "", reason: str = "held") -> None:
    """From now on, something controls the arm, so that the node refuses a target."""
    competition.owned(owner, client, True)
    competition.refused(f"{owner} controls the arm", reason)
    competition.begun = True
    clock.now += 0.01


@pytest.mark.parametrize(
    ("owner", "client", "reason"),
    [
        ("/teleop on /arm/ee_desired", "/teleop", "overridden"),
        ("~/hold", "", "held"),
        ("~/move", "", "during a move"),
    ],
)
def test_a_client_that_is_overridden_is_told_at_once_by_whom_and_only_as_long_as_that_lasts(
    clock: Clock, owner: str, client: str, reason: str
) -> None:
    competition = competing(clock)
    overrides(competition, clock, owner, client, reason)
    with pytest.raises(Overridden, match="await controller.handed_back") as caught:
        competition.check()
    assert (caught.value.owner, caught.value.reason) == (client or owner, reason)
    competition.owned("no client", "", False)
    competition.begun = True
    competition.check()


def test_a_client_with_priority_is_not_told_that_it_overrides_itself(clock: Clock) -> None:
    competition = competing(clock)
    overrides(competition, clock, "/policy on /arm/ee_desired", "/policy", "overridden")
    competition.check()
    assert not competition.taken


def test_a_client_is_not_told_about_its_move_that_has_just_ended(clock: Clock) -> None:
    competition = competing(clock)
    competition.owned("~/move", "", True)
    competition.begun = True
    competition.check()


def test_targets_that_are_refused_now_and_then_are_no_error_but_those_that_always_are(clock: Clock) -> None:
    competition = competing(clock)
    for _ in range(5):
        competition.begun = True
        competition.refused("it is 0.6 s old", "old")
        competition.check()
        clock.now += 1.0
    for _ in range(2):
        competition.refused("it is 0.6 s old", "old")
        clock.now += 0.5
    competition.begun = True
    with pytest.raises(InvalidTarget, match="0.6 s old"):
        competition.check()
    competition.begun = True
    competition.check()


def test_a_policy_can_wait_until_the_arm_is_handed_back(clock: Clock) -> None:
    async def main() -> None:
        competition = competing(clock)
        await competition.handed_back()
        overrides(competition, clock, "/teleop on /arm/ee_desired", "/teleop", "overridden")
        waiting = asyncio.create_task(competition.handed_back())
        for owner, client, precedence in (("~/hold", "", True), ("/other on /arm/ee_desired", "/other", False)):
            await asyncio.sleep(0)
            competition.owned(owner, client, precedence)
            await asyncio.sleep(0)
            assert not waiting.done()
        competition.owned("no client", "", False)
        await asyncio.wait_for(waiting, 10.0)
        competition.begun = True
        competition.check()

    asyncio.run(main())


# Another task.


def drive(work: Callable[[FrankaController], Any], mode: str = "impedance") -> None:
    async def main() -> None:
        controller = FrankaController(Recorder())  # type: ignore[arg-type]
        controller.guard = None
        await controller.start()
        controller.switch(mode)
        controller.set_freq(500)
        await work(controller)

    asyncio.run(main())


async def swing(controller: FrankaController, offset: float, count: int = 50) -> None:
    for _ in range(count):
        await controller.set("q_desired", HOME + offset)


def test_of_two_tasks_that_set_a_target_in_turns_the_second_one_is_told() -> None:
    async def work(controller: FrankaController) -> None:
        first = asyncio.create_task(swing(controller, 0.0), name="policy")
        second = asyncio.create_task(swing(controller, 0.02), name="teleop")
        with pytest.raises(InvalidTarget, match="task 'policy' does, so task 'teleop' must not") as caught:
            await second
        assert caught.value.reason == "another task"
        await first
        np.testing.assert_array_equal(controller.q_desired, HOME)

    drive(work)


def test_assigning_in_turns_with_another_task_is_refused_too() -> None:
    async def work(controller: FrankaController) -> None:
        policy = asyncio.create_task(swing(controller, 0.0))
        await asyncio.sleep(0.01)
        with pytest.raises(InvalidTarget, match="by two tasks"):
            for _ in range(50):
                controller.q_desired = HOME + 0.02
                await asyncio.sleep(0.005)
        await policy

    drive(work)


def test_assigning_in_turns_with_another_thread_is_refused_too() -> None:
    async def work(controller: FrankaController) -> None:
        refused: list[InvalidTarget] = []
        stop = threading.Event()

        def assign() -> None:
            try:
                while not stop.wait(0.002):
                    controller.q_desired = HOME + 0.02
            except InvalidTarget as error:
                refused.append(error)

        await controller.set("q_desired", HOME)
        thread = threading.Thread(target=assign, name="joystick")
        thread.start()
        while not refused:
            await controller.set("q_desired", HOME)
        stop.set()
        thread.join()
        assert "thread 'joystick' must not" in str(refused[0])

    drive(work)


def test_tasks_that_take_turns_one_after_the_other_are_not_refused() -> None:
    async def work(controller: FrankaController) -> None:
        await swing(controller, 0.0, 3)
        await asyncio.create_task(swing(controller, 0.01, 3))
        await swing(controller, 0.02, 3)
        for _ in range(10):  # Up to Python 3.11, wait_for makes a task of each call.
            await asyncio.wait_for(controller.set("q_desired", HOME), 10.0)

    drive(work)


def test_tasks_may_set_a_target_and_gains_at_the_same_time() -> None:
    async def work(controller: FrankaController) -> None:
        async def soften() -> None:
            for gain in range(100, 150):
                await controller.set("kp", np.full(7, float(gain)))

        await asyncio.gather(swing(controller, 0.0), soften())

    drive(work)


def test_a_task_that_pauses_is_no_longer_in_charge(clock: Clock) -> None:
    setters = Setters(clock)
    done: list[str] = []

    async def main() -> None:
        async def task(name: str) -> None:
            for _ in range(3):
                setters.check("q_desired")
                done.append(name)
                clock.now += 1.1 * PAUSE
                await asyncio.sleep(0)

        await asyncio.gather(task("a"), task("b"))

    asyncio.run(main())
    assert done == ["a", "b"] * 3


# Targets that are limited.


class Limiting(Recorder):
    """A link whose targets are limited from the second one on."""

    def __init__(self) -> None:
        super().__init__()
        self.limited = np.zeros(len(Limit))

    async def start(self, on_state: Any, on_end: Any) -> None:
        self.on_state = on_state

    def snapshot(self) -> Any:
        return super().snapshot().__class__(**{**vars(super().snapshot()), "limited": self.limited})

    def set_target(self, name: str, values: np.ndarray) -> None:
        super().set_target(name, values)
        self.limited = self.limited.copy()
        self.limited[Limit.WORKSPACE_UPPER] += len(self.calls) > 2


def test_targets_that_are_limited_are_counted_in_the_state_and_reported_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiofranka_ros.api.controller._LIMITS_PERIOD", 0.0)
    link = Limiting()

    async def main() -> None:
        controller = FrankaController(link)  # type: ignore[arg-type]
        controller.guard = None
        await controller.start()
        controller.switch("impedance")
        controller.set_freq(1000)
        assert await controller.set("q_desired", HOME) == ()
        assert await controller.set("q_desired", HOME) == ("workspace_upper",)
        for _ in range(3):
            controller.q_desired = HOME
            link.on_state()
        assert await controller.set("kp", np.full(7, 100.0)) == ()
        assert await controller.set("q_desired", HOME) == ("workspace_upper",)
        assert controller.state["limited_targets"] == {"workspace_upper": 5}

    caplog.set_level(logging.WARNING)
    asyncio.run(main())
    said = [record.getMessage().split(",")[0] for record in caplog.records]
    assert [text for text in said if "targets are limited" in text] == ["targets are limited by workspace_upper"]
