"""What the controller does with either link: the clocks of set(), and what it sends together."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import pytest

from aiofranka_ros import FrankaController
from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.control.records import Approach, Limit
from aiofranka_ros.control.snapshot import Snapshot

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


class InstantLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer instead of passing, so that clocks are exact."""

    def __init__(self) -> None:
        super().__init__(selectors.SelectSelector())
        self.now = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None) -> Any:
            events = select(0.0 if timeout is None or timeout >= 0.0 else timeout)
            if not events and timeout is not None and timeout > 0.0:
                self.now += timeout
            return events or select(0.0 if timeout is not None else 1.0)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now


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
        assert loop.time() - begin == pytest.approx(0.1)

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
