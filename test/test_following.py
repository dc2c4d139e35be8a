"""Chunks at the controller, with either link: which ones are refused there, and what the link gets.

No arm: the calls of the link are recorded.
"""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_policy import DT, Arm, run

from aiofranka_ros import RobotInterface
from aiofranka_ros.control.records import CYCLE_RECORD, Approach, Limit, new
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.control.snapshot import Snapshot
from aiofranka_ros.errors import ConfigurationError, InvalidTarget, NotStarted
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.model.kinematics import control_frame

pytestmark = pytest.mark.unit


class Tensor:
    """An array of another library."""

    def __init__(self, values: Any) -> None:
        self._values = np.array(values)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: slice) -> Tensor:
        return Tensor(self._values[rows])

    def tolist(self) -> Any:
        return self._values.tolist()


@pytest.mark.parametrize("chunk", [np.ones((4, 7)), [[1] * 7] * 4, Tensor(np.ones((4, 7))), [Tensor(np.ones(7))] * 4])
def test_a_chunk_may_be_an_array_a_list_or_a_tensor(chunk: Any) -> None:
    async def work(arm: Arm) -> None:
        await arm.follow(chunk, dt=DT, start=123)
        _, begin, rows = arm.chunks[-1]
        assert begin == pytest.approx(123e-9) and rows.dtype == float
        np.testing.assert_array_equal(rows, np.ones((4, 7)))

    run(work)


def test_poses_may_be_matrices_or_positions_and_quaternions() -> None:
    async def work(arm: Arm) -> None:
        arm.switch("osc")
        pose = control_frame(HOME, np.eye(4))
        await arm.follow([pose] * 3, dt=DT, start=0)
        rows = arm.chunks[-1][2]
        assert rows.shape == (3, 7) and arm.sent[-1][0] == "ee"
        np.testing.assert_allclose(rows[:, :3], [pose[:3, 3]] * 3)
        await arm.follow(rows, dt=DT, start=0)
        np.testing.assert_array_equal(arm.chunks[-1][2], rows)
        with pytest.raises(InvalidTarget, match="row 1 of the chunk is not a pose"):
            await arm.follow([pose, 2.0 * pose], dt=DT)

    run(work)


@pytest.mark.parametrize(
    ("chunk", "reason", "message"),
    [
        (np.zeros((0, 7)), "wrong size", r"has the shape \(0, 7\)"),
        (
            np.zeros(7),
            "wrong size",
            r"has the shape \(7,\), but a chunk of kind 'q' must have \(n, 7\): joint positions",
        ),
        (np.zeros((4, 6)), "wrong size", r"has the shape \(4, 6\)"),
        (np.zeros((4, 4, 4)), "wrong size", r"has the shape \(4, 4, 4\)"),
        ([[0.0] * 7, [0.0] * 6], "wrong type", "is not an array of numbers"),
        ("chunk", "wrong type", "is not an array of numbers"),
        (None, "wrong type", "not an array of numbers"),
        (np.zeros((129, 7)), "too many points", "it has 129 points, but a chunk may have 128"),
        (np.where(np.arange(28).reshape(4, 7) == 15, np.nan, 0.0), "not finite", "row 2 of the chunk is not finite"),
    ],
)
def test_a_chunk_that_is_none_is_refused(chunk: Any, reason: str, message: str) -> None:
    async def work(arm: Arm) -> None:
        with pytest.raises(InvalidTarget, match=message) as refusal:
            await arm.follow(chunk, dt=DT)
        assert refusal.value.reason == reason and not arm.chunks

    run(work)


@pytest.mark.parametrize(("mode", "kind"), [("osc", "q"), ("osc", "dq"), ("impedance", "ee"), ("pid", "twist")])
def test_a_chunk_for_another_mode_is_refused_with_the_remedy(mode: str, kind: str) -> None:
    async def work(arm: Arm) -> None:
        arm.switch(mode)
        chunk = np.zeros((4, 6 if kind == "twist" else 7))
        with pytest.raises(
            InvalidTarget, match=rf"kind '{kind}' is not for mode {mode}: controller.switch\("
        ) as refusal:
            await arm.follow(chunk, dt=DT, kind=kind)
        assert refusal.value.reason == "another mode"

    run(work)


def test_in_torque_mode_there_are_no_chunks() -> None:
    async def work(arm: Arm) -> None:
        arm.switch("torque")
        with pytest.raises(InvalidTarget, match="is not for mode torque"):
            await arm.follow(np.zeros((4, 7)), dt=DT)

    run(work)


def test_arguments_that_cannot_be_used_are_refused() -> None:
    async def work(arm: Arm) -> None:
        for dt in (0.0, -1.0, float("inf"), True, "0.1"):
            with pytest.raises(ConfigurationError, match="dt is"):
                await arm.follow(np.zeros((4, 7)), dt=dt)  # type: ignore[arg-type]
        for start in (10**30, 1.5, True, "now"):
            with pytest.raises(ConfigurationError, match="start is .*, but must be a whole number"):
                await arm.follow(np.zeros((4, 7)), dt=DT, start=start)  # type: ignore[arg-type]
            with pytest.raises(ConfigurationError, match="start is"):
                arm.committed(4, DT, start)  # type: ignore[arg-type]
        for call in (lambda: arm.inference_delay(0.0), lambda: arm.committed(4, 0.0)):
            with pytest.raises(ConfigurationError, match="dt is 0.0, but must be a positive number"):
                call()
        with pytest.raises(ConfigurationError, match="the quantile is 2, but must be a share, 0 to 1"):
            arm.inference_delay(DT, 2)
        with pytest.raises(ConfigurationError, match="did you mean 'dq'"):
            await arm.follow(np.zeros((4, 7)), dt=DT, kind="ddq")
        with pytest.raises(InvalidTarget, match=r"gripper has the shape \(3,\), but must have \(4,\)"):
            await arm.follow(np.zeros((4, 7)), dt=DT, gripper=[0.04] * 3)

    run(work)


def test_numbers_of_numpy_are_numbers() -> None:
    async def work(arm: Arm) -> None:
        await arm.follow(np.zeros((128, 7)), dt=np.float32(DT), start=np.uint64(5))
        assert arm.chunks[-1][1] == pytest.approx(5e-9)
        assert arm.inference_delay(np.float32(DT), np.float32(1.0)) == 0

    run(work)


def test_the_state_at_a_time_is_a_state() -> None:
    async def work(arm: Arm) -> None:
        state = await arm.state_at(int(5e9))
        assert state["stamp"] == 5e9 and state["qpos"][0] == 5.0 and set(state) == set(arm.state)

    run(work)


def test_before_the_start_nothing_is_followed() -> None:
    async def work(arm: Arm) -> None:
        await arm.stop()
        with pytest.raises(NotStarted):
            await arm.follow(np.zeros((4, 7)), dt=DT)
        with pytest.raises(NotStarted):
            await arm.state_at(0)
        arm.stop_following()  # Nothing to do.
        assert not arm.stops

    run(work)


# --- The state at an earlier time


def measured(stamp: int) -> Snapshot:
    """A snapshot of an arm whose first joint turns by 1 rad/s."""
    q = HOME + 1e-9 * stamp * np.eye(7)[0]
    arrays = q, np.full(7, 1e-9 * stamp), control_frame(q), np.zeros((6, 7)), np.eye(7), np.zeros(7)
    return Snapshot(stamp, *arrays, np.zeros(len(Limit)), Approach.FOLLOWING, np.zeros(2))


def link_after(*stamps: int) -> RobotInterface:
    """A link that has measured at these times [ns]."""
    link = RobotInterface()
    for stamp in stamps:
        link._newest = measured(stamp)
        link._keep(link._newest)
    return link


def test_the_state_at_an_earlier_time_is_interpolated() -> None:
    link = link_after(*range(0, 2_000_000_000, 10_000_000))
    for stamp in (0, 3, 5_000_000, 1_234_567_890, 1_990_000_000):
        snapshot = link.snapshot_at(stamp)
        assert snapshot.stamp == stamp
        np.testing.assert_allclose(snapshot.q, measured(stamp).q, atol=1e-9)
        np.testing.assert_allclose(snapshot.dq, measured(stamp).dq, atol=1e-9)
        # The hand moves on a circle, of which a chord of 10 mrad is 10 µm away.
        np.testing.assert_allclose(snapshot.ee, measured(stamp).ee, atol=1e-5)


def test_the_newest_state_is_also_the_one_of_the_present() -> None:
    link = link_after(0, 10_000_000)
    assert link.snapshot_at(90_000_000).stamp == 10_000_000


@pytest.mark.parametrize("stamp", [-1, 200_000_000])
def test_there_is_no_state_from_before_the_first_and_none_from_the_future(stamp: int) -> None:
    with pytest.raises(InvalidTarget, match="there is no state of the stamp") as refusal:
        link_after(0, 10_000_000).snapshot_at(stamp)
    assert refusal.value.reason == "no state"


def test_states_are_kept_for_some_seconds() -> None:
    link = link_after(*range(0, 20_000_000_000, 10_000_000))
    assert len(link._recent) == pytest.approx(300, abs=2)
    with pytest.raises(InvalidTarget):
        link.snapshot_at(15_000_000_000)


def test_if_the_clock_is_put_back_what_was_before_is_forgotten() -> None:
    link = link_after(10_000_000_000, 10_010_000_000, 5_000_000_000, 5_010_000_000)
    assert link.snapshot_at(5_005_000_000).stamp == 5_005_000_000
    with pytest.raises(InvalidTarget):
        link.snapshot_at(10_000_000_000)


def test_a_link_that_owns_the_arm_takes_the_state_from_the_record_of_every_cycle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if the event loop was blocked then, as here, for 1 s."""
    now, begin = time.time_ns(), time.monotonic_ns() - 1_000_000_000
    link = link_after(now - 1_000_000_000, now)
    with SharedMemory.create() as memory:
        record = new(CYCLE_RECORD)
        for cycle in range(1000):
            turned = math.sin(0.01 * cycle)
            record["stamp"], record["q"], record["dq"] = (
                begin + cycle * 1_000_000,
                turned,
                10.0 * math.cos(0.01 * cycle),
            )
            record["position"], record["orientation"] = turned, (0.0, 0.0, 0.0, 1.0)
            memory.cycles.append(record.view(np.uint8).data)
        link._driver.client, link._driver.active = SimpleNamespace(shared=memory), True
        monkeypatch.setattr(link, "snapshot", lambda: link._newest)
        snapshot = link.snapshot_at(now - 500_400_000)
    # The two clocks are compared twice.
    assert snapshot.q == pytest.approx(math.sin(10.0 * 0.4996), abs=3e-3)
    assert snapshot.ee[:3, 3] == pytest.approx(math.sin(10.0 * 0.4996), abs=6e-3)
