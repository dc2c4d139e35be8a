"""What the controller does with either link: the clocks of set(), how late it was, and what it sends together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import pytest
from common import InstantLoop

from aiofranka_ros import FrankaController
from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.control.records import Approach, Limit
from aiofranka_ros.control.snapshot import Snapshot
from aiofranka_ros.errors import NotStarted

pytestmark = [pytest.mark.unit, pytest.mark.timing]


class Recorder:
    """A link that records its calls; no arm, because these tests are only about time and order."""

    name = "recorder"

    def __init__(self) -> None:
        self.settings = ArmSettings()
        self.calls: list[tuple[str, Any]] = []

    async def start(self, on_state: Callable[[], None], on_end: Callable[[Exception], None]) -> None: ...

    async def stop(self) -> None: ...

    def snapshot(self) -> Snapshot:
        arrays = np.zeros(7), np.zeros(7), np.eye(4), np.zeros((6, 7)), np.eye(7), np.zeros(7)
        return Snapshot(0, *arrays, np.zeros(len(Limit)), Approach.FOLLOWING, np.zeros(2))

    def switch(self, mode: str) -> None:
        self.settings.update({"mode": mode})
        self.calls.append(("switch", mode))

    def apply(self, changes: Mapping[str, Any]) -> None:
        self.settings.update(changes)
        self.calls.append(("apply", sorted(changes)))

    def set_target(self, name: str, values: np.ndarray) -> None:
        assert np.shape(values) == (7,)
        self.calls.append(("target", name))

    async def settled(self) -> None: ...

    async def handed_back(self) -> None: ...

    def check_targets(self) -> None: ...

    async def move(self, goal: np.ndarray) -> None:
        await asyncio.sleep(2.0)


def run(work: Callable[[FrankaController, InstantLoop], Awaitable[None]], mode: str = "impedance") -> Recorder:
    """Run ``work`` with a started controller in a separate loop; return the calls of its link."""
    loop, link = InstantLoop(), Recorder()
    link.settings.update({"mode": mode})

    async def main() -> None:
        controller = FrankaController(link)  # type: ignore[arg-type]
        controller.guard = None
        await controller.start()
        link.calls.clear()
        await work(controller, loop)
        await controller.stop()

    try:
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    return link


def test_a_loop_of_set_keeps_the_rate_however_long_its_body_takes():
    async def work(controller: FrankaController, loop: InstantLoop) -> None:
        controller.set_freq(50)
        begin, times = loop.time(), []
        for step in range(1000):
            await asyncio.sleep(0.001 * (step % 15))  # The policy computes, always shorter than a period.
            await controller.set("q_desired", np.zeros(7))
            times.append(loop.time() - begin)
        np.testing.assert_allclose(times, 0.02 * np.arange(1, 1001), atol=1e-6)

    run(work)


def test_a_caller_who_is_late_by_less_than_a_period_catches_up():
    async def work(controller: FrankaController, loop: InstantLoop) -> None:
        controller.set_freq(50)
        await controller.set("q_desired", np.zeros(7))
        begin = loop.time()
        await asyncio.sleep(0.035)
        for _ in range(3):
            await controller.set("q_desired", np.zeros(7))
        assert loop.time() - begin == pytest.approx(0.06)

    run(work)


def test_after_a_long_delay_there_is_no_burst():
    async def work(controller: FrankaController, loop: InstantLoop) -> None:
        controller.set_freq(50)
        await controller.set("q_desired", np.zeros(7))
        await asyncio.sleep(1.0)
        begin = loop.time()
        for _ in range(5):
            await controller.set("q_desired", np.zeros(7))
        assert loop.time() - begin == pytest.approx(0.08)  # The first one returns at once: the policy may be slow.

    run(work)


def test_each_attribute_has_its_own_clock():
    async def work(controller: FrankaController, loop: InstantLoop) -> None:
        controller.set_freq(50)

        async def stream(name: str, value: Any) -> None:
            for _ in range(10):
                await controller.set(name, value)

        begin = loop.time()
        await asyncio.gather(stream("q_desired", np.zeros(7)), stream("kp", np.ones(7)))
        assert loop.time() - begin == pytest.approx(0.2)

    run(work)


def test_a_value_is_sent_before_the_wait():
    async def work(controller: FrankaController, loop: InstantLoop) -> None:
        controller.set_freq(1)
        setting = asyncio.ensure_future(controller.set("q_desired", np.zeros(7)))
        await asyncio.sleep(0.5)
        assert not setting.done()
        setting.cancel()

    assert run(work).calls == [("target", "q_desired")]


def test_assignments_under_the_lock_are_sent_together_at_its_release():
    async def work(controller: FrankaController, loop: InstantLoop) -> None:
        with controller.state_lock:
            controller.kp = np.full(7, 100.0)
            controller.kd = np.full(7, 10.0)
            controller.q_desired = np.zeros(7)
            with controller.state_lock:
                controller.q_desired = np.full(7, 0.1)
            np.testing.assert_array_equal(controller.kp, 100.0)
            await asyncio.sleep(0)

    assert run(work).calls == [("apply", ["kd", "kp"]), ("target", "q_desired")]


def test_switching_first_sends_earlier_assignments():
    async def work(controller: FrankaController, loop: InstantLoop) -> None:
        with controller.state_lock:
            controller.kp = np.full(7, 100.0)
            controller.switch("osc")
            controller.ee_desired = np.eye(4)

    calls = run(work).calls
    assert calls == [("apply", ["kp"]), ("switch", "osc"), ("target", "ee_desired")]


# --- How late a loop was


async def loop_of(controller: FrankaController, thinks: float, turns: int) -> None:
    """A loop of :meth:`set` whose body takes ``thinks`` [s]."""
    for _ in range(turns):
        await asyncio.sleep(thinks)
        await controller.set("q_desired", np.zeros(7))


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "asked" in record.message]


def test_a_loop_that_keeps_its_rate_is_not_late(caplog: pytest.LogCaptureFixture) -> None:
    async def work(controller: FrankaController, loop: InstantLoop) -> None:
        controller.set_freq(20)
        await loop_of(controller, 0.045, 100)
        lateness = controller.lateness()
        assert (lateness.name, lateness.turns, lateness.late) == ("q_desired", 99, 0)
        assert lateness.kept == pytest.approx(lateness.asked) == 20.0
        assert str(lateness) == "q_desired: 20 Hz asked, 20 Hz kept; 0 of 99 values late"

    run(work)
    assert not warnings_in(caplog)


def test_a_policy_that_is_slower_than_its_rate_learns_what_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    async def work(controller: FrankaController, loop: InstantLoop) -> None:
        controller.set_freq(20)
        await loop_of(controller, 0.0613, 100)
        lateness = controller.lateness()
        assert lateness.kept == pytest.approx(1.0 / 0.0613, rel=0.01)
        # It falls behind by 11 ms in each turn, until the clock restarts.
        assert lateness.late > 90 and 0.011 < lateness.late_by_median < lateness.late_by_max < 0.062
        assert "20 Hz asked, 16.3 Hz kept; " in str(lateness)

    run(work)
    (message,) = warnings_in(caplog)  # Once, although it lasts.
    assert (
        message.startswith("20 Hz asked, 16.3 Hz kept") and "takes 61 ms" in message and "controller.policy" in message
    )


def test_each_stretch_of_lateness_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def work(controller: FrankaController, loop: InstantLoop) -> None:
        controller.set_freq(20)
        for _ in range(2):
            await loop_of(controller, 0.08, 50)
            await loop_of(controller, 0.01, 50)

    run(work)
    assert len(warnings_in(caplog)) == 2


def test_a_pause_a_move_and_a_change_of_the_mode_are_not_lateness(caplog: pytest.LogCaptureFixture) -> None:
    async def work(controller: FrankaController, loop: InstantLoop) -> None:
        controller.set_freq(20)
        for _ in range(5):
            await loop_of(controller, 0.01, 15)
            await asyncio.sleep(0.5)
            controller.switch("impedance")
        assert controller.lateness().late == 0
        for _ in range(5):
            await loop_of(controller, 0.01, 15)
            await controller.move(np.zeros(7), progress=False)
        assert controller.lateness().late == 0 and controller.lateness().kept == pytest.approx(20.0)
        await loop_of(controller, 0.01, 40)
        await asyncio.sleep(3.0)
        await loop_of(controller, 0.01, 40)
        assert controller.lateness().late == 1

    run(work)
    assert not warnings_in(caplog)


def test_a_policy_that_takes_seconds_for_each_value_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    async def work(controller: FrankaController, loop: InstantLoop) -> None:
        controller.set_freq(20)
        await loop_of(controller, 1.5, 10)

    run(work)
    assert warnings_in(caplog)[0].startswith("20 Hz asked, 0.667 Hz kept")


def test_figures_are_of_the_present_rate_and_of_one_attribute(caplog: pytest.LogCaptureFixture) -> None:
    async def work(controller: FrankaController, loop: InstantLoop) -> None:
        with pytest.raises(NotStarted, match="no loop has awaited controller.set"):
            controller.lateness()
        await loop_of(controller, 0.1, 20)
        await controller.set("kp", np.ones(7))
        assert controller.lateness().name == "kp" and controller.lateness().kept == 0.0
        assert controller.lateness("q_desired").kept == pytest.approx(10.0)
        controller.set_freq(10)
        with pytest.raises(NotStarted):
            controller.lateness("q_desired")

    run(work)


def test_the_warning_is_in_the_log_of_the_package(caplog: pytest.LogCaptureFixture) -> None:
    async def work(controller: FrankaController, loop: InstantLoop) -> None:
        await loop_of(controller, 0.1, 20)

    run(work)
    records = [record for record in caplog.records if "asked" in record.message]
    assert [(record.name, record.levelno) for record in records] == [("aiofranka_ros.api.controller", logging.WARNING)]
