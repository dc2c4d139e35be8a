"""What calls of the controller do when something goes wrong, or gets unusual values; with no arm."""

from __future__ import annotations

import asyncio
import logging
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_controller_clock import Recorder

from aiofranka_ros import FrankaController, RobotInterface, RosInterface
from aiofranka_ros.api import robot_interface
from aiofranka_ros.control.records import Approach, Hold
from aiofranka_ros.control.shared_memory import Ring
from aiofranka_ros.errors import ConfigurationError, ConnectionFailed, ControlStopped, InvalidTarget
from aiofranka_ros.model.fr3 import HOME

pytestmark = pytest.mark.unit

_RECORD = np.dtype([("response", "f8"), ("lost", "u8"), ("success_rate", "f8"), ("stamp", "i8")])


class Opaque:
    """Something that only advises what to do instead."""

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")


class Tensor(Opaque):
    """Numbers that numpy cannot convert, like those of a tensor that requires grad, or that is on a GPU."""

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Tensor:
        return Tensor(self._values[index])

    def tolist(self) -> Any:
        return self._values.tolist()


async def started(link: Any) -> FrankaController:
    controller = FrankaController(link)
    controller.guard = None
    await controller.start()
    return controller


# Values.


def test_tensors_that_numpy_cannot_convert_are_accepted_everywhere() -> None:
    async def main() -> None:
        controller = await started(Recorder())
        controller.switch("impedance")
        for q in (Tensor(HOME), [Tensor(value) for value in HOME]):
            await controller.set("q_desired", q)
            np.testing.assert_array_equal(controller.q_desired, HOME)
        await controller.set("kp", Tensor(np.full(7, 100.0)))
        await controller.set("torque_diff_limit", Tensor(500.0))
        controller.set_freq(Tensor(1000.0))  # type: ignore[arg-type]
        controller.set_tcp(Tensor([0.0, 0.0, 0.1]))
        controller.set_tcp(Tensor(np.eye(4)))
        controller.switch("osc")
        await controller.set("ee_desired", Tensor(np.eye(4)))
        assert controller.torque_diff_limit == 500.0

    asyncio.run(main())
    assert RobotInterface("sim", kp=Tensor(np.full(7, 100.0))).settings["kp"][0] == 100.0


def test_what_cannot_be_converted_is_refused_with_the_librarys_advice() -> None:
    async def main() -> None:
        controller = await started(Recorder())
        controller.switch("impedance")
        with pytest.raises(InvalidTarget, match=r"q_desired is not an array of numbers.*detach\(\)"):
            controller.q_desired = Opaque()

    asyncio.run(main())


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, True, "1", None, [1.0]])
def test_durations_and_rates_must_be_positive_numbers(value: Any) -> None:
    async def main() -> None:
        controller = await started(Recorder())
        with pytest.raises(ConfigurationError, match=r"the duration is .*, but must be a positive number \[s\]"):
            await controller.test_connection(value)
        with pytest.raises(ConfigurationError, match=r"the frequency is .*, but must be a positive number \[Hz\]"):
            controller.set_freq(value)

    asyncio.run(main())


# The end of the control loop.


class Lost(Recorder):
    """A link that loses its arm during a move."""

    async def start(self, on_state: Any, on_end: Any) -> None:
        self.on_end = on_end

    async def move(self, goal: np.ndarray) -> None:
        asyncio.get_running_loop().call_soon(self.on_end, ControlStopped("a reflex"))
        await asyncio.Event().wait()


def test_an_exception_in_the_error_callback_is_logged_and_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        controller = await started(Lost())
        controller.error_callback = lambda message: 1 / 0
        with pytest.raises(ControlStopped, match="a reflex"):
            await asyncio.wait_for(controller.move(progress=False), 10.0)

    asyncio.run(main())
    assert any(record.exc_info for record in caplog.records if "error_callback" in record.message)


def test_a_robot_interface_wakes_its_moves_whatever_its_callback_does() -> None:
    async def main() -> None:
        link = RobotInterface("sim")
        link._on_end = lambda error: 1 / 0  # type: ignore[assignment,return-value]
        waiting = asyncio.ensure_future(link.next_tick())
        await asyncio.sleep(0)
        with pytest.raises(ZeroDivisionError):
            link._end(ControlStopped("a reflex"))
        await asyncio.wait_for(waiting, 10.0)

    asyncio.run(main())


def test_an_arm_that_was_pushed_and_targets_that_begin_far_away_are_reported_by_the_next_calls() -> None:
    link = RobotInterface("sim")
    state = {"hold": Hold.NONE, "approach": Approach.REFUSED, "approach_left": np.array([0.3, 0.0])}
    link.check_targets()
    link._driver = SimpleNamespace(active_client=SimpleNamespace(state=lambda: state))  # type: ignore[assignment]
    link.check_targets()  # The newest target may not have been seen yet.
    with pytest.raises(InvalidTarget, match="0.30 m from the arm") as far:
        link.check_targets()
    state["approach"] = Approach.FOLLOWING
    link.check_targets()
    state["hold"] = Hold.PUSHED
    with pytest.raises(InvalidTarget, match=r"max_external_force.*stop\(\), then start") as pushed:
        link.check_targets()
    assert (far.value.reason, pushed.value.reason) == ("begins far away", "held")


# The measurement of the connection.


class Robot(RobotInterface):
    """A link whose control process completes a thousand cycles while the event loop sleeps once."""

    def __init__(self, capacity: int) -> None:
        super().__init__("sim")
        memory = memoryview(bytearray(Ring.size(_RECORD, capacity)))
        self.ring = Ring(memory, _RECORD, capacity)

    @property
    def active_client(self) -> Any:
        return SimpleNamespace(shared=self)

    @property
    def cycles(self) -> Ring:
        return self.ring

    def _require_active(self) -> Any:
        return self.active_client

    def work(self) -> None:
        record = np.zeros(1, _RECORD)
        record["response"], record["success_rate"] = 1e-4, 1.0
        for _ in range(1000):
            self.ring.append(memoryview(record.tobytes()))


@pytest.mark.parametrize("duration", [1e-6, 60.0])
def test_the_connection_is_measured_for_the_whole_duration(monkeypatch: pytest.MonkeyPatch, duration: float) -> None:
    """Longer than the ring, which keeps some seconds, and shorter than a cycle."""

    async def main() -> Any:
        link, now = Robot(4096), 0.0

        async def sleep(delay: float) -> None:
            nonlocal now
            now += delay
            link.work()

        monkeypatch.setattr(robot_interface.asyncio, "sleep", sleep)
        monkeypatch.setattr(robot_interface.time, "monotonic", lambda: now)
        return await link.measure_connection(duration)

    report = asyncio.run(main())
    assert report.cycles == (60_000 if duration > 1.0 else 1000)
    assert report.duration >= duration
    assert report.response_us == pytest.approx({"p50": 100.0, "p99": 100.0, "max": 100.0})


# The stop.


@pytest.mark.parametrize("lost", [False, True])
def test_stopping_does_not_wait_long_for_a_node_that_does_not_answer(
    caplog: pytest.LogCaptureFixture, lost: bool
) -> None:
    class Connection:
        parameters = SimpleNamespace(clear=lambda: None)
        timeout, closed = 0.0, False

        async def deactivate(self, timeout: float) -> None:
            self.timeout = timeout
            raise ConnectionFailed("no answer")

        async def close(self) -> None:
            self.closed = True

    async def main() -> Connection:
        link, connection = RosInterface("arm"), Connection()
        link._connection, link._live, link._activated = connection, None if lost else connection, True  # type: ignore[assignment]
        await link.stop()
        return connection

    caplog.set_level(logging.WARNING)
    connection = asyncio.run(main())
    assert 0.0 < connection.timeout <= 10.0
    assert connection.closed
    assert ("may still be active" in caplog.text) == (not lost)
