"""Times of measurements by another clock than the monotonic one, and poses of the arm at the stamp of a target."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aiofranka_ros.control.records import CYCLE_RECORD, new
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.control.stamps import HeardClock, Stamps, offset_to
from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.model.names import FR3
from aiofranka_ros.node.frames import Frames
from aiofranka_ros.ros.messages import PoseTarget

pytestmark = pytest.mark.unit

SECOND, MS = 1_000_000_000, 1_000_000
#: Interruptions of this process by others [ns].
SLACK = 200 * MS


class SimulatedClock:
    """A clock that shows what it is set to."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def test_the_stamp_of_a_measurement_is_its_time_by_the_other_clock() -> None:
    measured = time.monotonic_ns() - 3 * SECOND
    assert abs(Stamps().of(measured) - (time.time_ns() - 3 * SECOND)) < SLACK
    assert abs(Stamps(SimulatedClock(100 * SECOND)).of(measured) - 97 * SECOND) < SLACK
    assert abs(offset_to() - (time.time_ns() - time.monotonic_ns())) < SLACK


def test_a_measurement_keeps_its_stamp() -> None:
    stamps, measured = Stamps(), time.monotonic_ns()
    first = stamps.of(measured)
    time.sleep(0.002)
    assert stamps.of(measured) == first


def test_while_the_clock_stands_still_no_stamp_is_in_the_future_or_goes_back() -> None:
    clock = SimulatedClock(100 * SECOND)
    stamps, now = Stamps(clock), time.monotonic_ns()
    # Some measurements are older than others when they are stamped.
    found = [stamps.of(now + k * MS) for k in range(-50, 0)]
    assert found == sorted(found) and found[-1] <= clock.now


def test_stamps_follow_a_clock_that_is_put_back() -> None:
    clock = SimulatedClock(100 * SECOND)
    stamps = Stamps(clock)
    assert stamps.of(time.monotonic_ns() - MS) > 99 * SECOND
    clock.now = 5 * SECOND
    assert 4 * SECOND < stamps.of(time.monotonic_ns()) <= 5 * SECOND


def test_without_a_measurement_or_before_the_beginning_of_time_the_stamp_is_empty() -> None:
    assert Stamps().of(0) == 0
    assert Stamps(SimulatedClock(0)).of(time.monotonic_ns() - SECOND) == 0


# Targets in frames of the arm.


class RecordedArm:
    """The control process of an arm that moves along x at 1 m/s, and a node with the system's clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.memory = SharedMemory.create()
        self.shared, self.activation = self.memory, 1
        self._time_ns, self._step = time.time_ns, 0
        self._begin = time.monotonic_ns() - SECOND
        monkeypatch.setattr(time, "time_ns", lambda: self._time_ns() + self._step)
        node: Any = SimpleNamespace(get_clock=lambda: SimpleNamespace(ros_time_is_active=False))
        self.frames = Frames(node, FR3)
        self.recorded = 0

    def record_until_now(self) -> None:
        """Append the cycles that have passed since the last call."""
        record = new(CYCLE_RECORD)
        record["activation"], record["orientation"] = 1, (0, 0, 0, 1)
        while (stamp := self._begin + self.recorded * MS) < time.monotonic_ns():
            record["stamp"], record["position"] = stamp, (1e-3 * self.recorded, 0.0, 0.0)
            self.memory.cycles.append(record.view(np.uint8).data)
            self.recorded += 1

    def step_clock(self, step: int) -> None:
        self._step = step

    def x_at(self, stamp: int) -> float:
        """Where the control frame was at ``stamp`` [m]."""
        target = PoseTarget(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))
        return float(self.frames.to_base(target, FR3.tcp, stamp, self).position[0])  # type: ignore[arg-type]


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Any:
    arm = RecordedArm(monkeypatch)
    yield arm
    arm.memory.close()


@pytest.mark.parametrize("step", [-3600 * SECOND, -SECOND // 2, 0, 3600 * SECOND])
def test_a_step_of_the_system_clock_does_not_change_where_the_control_frame_was(arm: RecordedArm, step: int) -> None:
    arm.record_until_now()
    arm.step_clock(step)
    arm.record_until_now()
    newest = 1e-3 * arm.recorded
    assert abs(arm.x_at(time.time_ns()) - newest) < 0.2
    assert abs(arm.x_at(time.time_ns() - 400 * MS) - (newest - 0.4)) < 0.2
    assert abs(arm.x_at(0) - newest) < 0.2


def test_a_stamp_from_before_the_first_cycle_is_refused(arm: RecordedArm) -> None:
    arm.record_until_now()
    with pytest.raises(InvalidTarget, match="the arm was not active then"):
        arm.x_at(time.time_ns() - 2 * SECOND)


def test_the_clock_of_another_computer_is_known_by_the_message_that_came_soonest() -> None:
    here, ahead = 5_000_000_000, 700_000_000_000
    clock = HeardClock(lambda: here)
    for late in (3_000_000, 1_000_000, 90_000_000):
        here += 30_000_000
        clock.hear(here + ahead - late)
    here += 400_000_000
    assert clock.now() == here + ahead - 1_000_000


def test_a_clock_that_was_put_back_is_known_again_after_some_messages() -> None:
    here = 5_000_000_000
    clock = HeardClock(lambda: here)
    clock.hear(here + 700_000_000)
    for _ in range(100):
        here += 30_000_000
        clock.hear(here - 1_000_000)
    assert clock.now() == here - 1_000_000


def test_a_clock_of_which_nothing_was_heard_is_the_systems() -> None:
    assert HeardClock().now() == pytest.approx(time.time_ns(), abs=30_000_000_000)
