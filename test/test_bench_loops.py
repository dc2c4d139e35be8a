"""How the benchmark of the loops evaluates its measurements."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.loops import figures
from bench.loops.__main__ import turns
from bench.loops.loads import LOADS, load
from bench.loops.subject import write

pytestmark = pytest.mark.unit


def measurement(folder: Path, steps: list[int], *, response: float = 50e-6, ended: str = "", **more: Any) -> dict:
    """The figures of a subject that received states ``steps`` milliseconds apart."""
    time = 1e-3 * np.cumsum([0, *steps])
    cycles = {"time": time, "written": 1.7e9 + time, "response": np.full(len(time), response)}
    write(folder / "found.npz", cycles | {"success_rate": np.ones(len(time))} | more, {"cpu": 0.1}, ended)
    return figures.measure(folder / "found.npz")


def subjects(**entries: dict) -> dict[str, Any]:
    return {name: {"osc": {"idle": figures.combine([entry])}} for name, entry in entries.items()}


def failures(found: dict[str, Any]) -> list[str]:
    return [what for what, _, good in figures.judge(found) if not good]


def test_every_load_is_measured_once_per_round_and_the_idle_computer_several_times() -> None:
    order = turns(tuple(LOADS))
    assert order.count("idle") == 3 and order[0] == "idle"
    assert [load for load in order if load != "idle"] == [load for load in LOADS if load != "idle"]
    assert turns(["idle", "blocked"]) == ["idle", "blocked"]
    assert turns(["idle"]) == ["idle"]
    assert turns(["cores", "blas"]) == ["cores", "blas"]


def test_states_that_the_loop_did_not_receive_are_lost(tmp_path: Path) -> None:
    entry = measurement(tmp_path, [1, 1, 4, 1, 2, 1])
    assert (entry["cycles"], entry["cycles_lost"], entry["longest_gap"]) == (7, 4, 4)
    assert entry["longest_gap_ms"] == pytest.approx(4.0, abs=1e-3)
    assert entry["response_us"]["mean"] == pytest.approx(50.0)


def test_losses_add_up_over_the_rounds_and_times_are_medians(tmp_path: Path) -> None:
    rounds = [measurement(tmp_path, [1, step], response=1e-6 * time) for step, time in ((1, 40), (3, 50), (2, 90))]
    entry = figures.combine(rounds)
    assert (entry["cycles_lost"], entry["longest_gap"]) == (3, 3)
    assert entry["response_us"]["mean"] == 50.0 and entry["spread_us"]["mean"] == [40.0, 90.0]
    assert entry["response_us"]["max"] == 90.0


def test_a_loop_as_fast_as_the_cpp_one_and_without_losses_meets_the_requirements(tmp_path: Path) -> None:
    own, reference = measurement(tmp_path, [1] * 5, response=50e-6), measurement(tmp_path, [1] * 5, response=45e-6)
    assert failures(subjects(aiofranka_ros_direct=own, aiofranka_native=reference)) == []


def test_more_than_a_quarter_slower_does_not_meet_the_requirements(tmp_path: Path) -> None:
    own, reference = measurement(tmp_path, [1] * 5, response=60e-6), measurement(tmp_path, [1] * 5, response=45e-6)
    assert len(failures(subjects(aiofranka_ros_direct=own, aiofranka_native=reference))) == 2


def test_neither_a_lost_cycle_nor_an_early_end_meets_the_requirements(tmp_path: Path) -> None:
    lost = measurement(tmp_path, [1, 2, 1])
    assert "cycles lost" in failures(subjects(aiofranka_ros_direct=lost))[0]
    ended = measurement(tmp_path, [1, 1], ended="communication_constraints_violation")
    assert "keeps running" in failures(subjects(aiofranka_ros_direct=ended))[0]


def test_the_latency_of_a_target_through_the_node_is_judged(tmp_path: Path) -> None:
    slow = measurement(tmp_path, [1, 1], latency=np.array([2e-3, 2e-3]))
    assert any("target to torque" in what for what in failures(subjects(aiofranka_ros_node=slow)))


def test_a_slow_start_does_not_meet_the_requirements(tmp_path: Path) -> None:
    def found(start: float) -> dict[str, Any]:
        return subjects(aiofranka_ros_direct=measurement(tmp_path, [1, 1], start=start))

    assert failures(found(4.9)) == []
    assert "to torque control" in failures(found(5.1))[0]


def test_every_subject_and_load_is_in_the_tables(tmp_path: Path) -> None:
    found = subjects(aiofranka_ros_direct=measurement(tmp_path, [1, 1]), aiofranka_native={"ended": "it is gone"})
    text = "\n".join(figures.table(found))
    assert "`aiofranka_ros_direct` | 50" in text and "it is gone" in text
    text = "\n".join(figures.summary(found))
    assert "| 50 / 50, 0 lost, gap 1 | stopped in" in text
    figures.plot(tmp_path / "plot.png", found, "mean", "mean response [us]")
    assert (tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.parametrize("name", [name for name in LOADS if name not in ("garbage", "fork", "topics", "blas")])
def test_a_load_ends_with_its_context(name: str) -> None:
    async def be_busy() -> None:
        async with load(name):
            await asyncio.sleep(0.05)

    asyncio.run(be_busy())
