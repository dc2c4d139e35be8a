"""Chunks on a simulated arm, without ROS: from the call to the torque, and how the arm follows late and noisy ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from aiofranka_ros import FrankaController, RobotInterface
from aiofranka_ros.arm.chunks import Outcome
from aiofranka_ros.control.stamps import offset_to
from aiofranka_ros.kernels import Array

DT = 1 / 30


def swing(times: Array, home: Array) -> Array:
    """Joint positions (n, 7), from rest at 0.3 s; at most 0.3 rad/s."""
    t = np.maximum(np.asarray(times) - 0.3, 0.0)[:, np.newaxis]
    return home + 0.1 * (1.0 - np.cos(t * np.linspace(1.0, 3.0, 7)))


def run(work: Callable[[FrankaController, RobotInterface], Awaitable[None]]) -> None:
    async def main() -> None:
        robot = RobotInterface(mode="impedance")
        async with FrankaController(robot) as controller:
            await controller.move(progress=False)
            await work(controller, robot)

    asyncio.run(main())


def cycles(robot: RobotInterface, position: int) -> np.ndarray:
    """The records of all cycles since ``position``."""
    client = robot.active_client
    assert client is not None
    return client.shared.cycles.since(position)[0]


def test_late_and_noisy_chunks_are_followed_and_their_delays_are_those_on_the_wire() -> None:
    rng = np.random.default_rng(2)

    async def work(controller: FrankaController, robot: RobotInterface) -> None:
        client = robot.active_client
        assert client is not None
        position, begin = client.shared.cycles.count, time.monotonic_ns()
        home, tickets, calls, stamps = controller.state["qpos"], [], [], []
        while time.monotonic_ns() - begin < 4_000_000_000:
            obs = await controller.state_at(controller.state["stamp"])
            observed = obs["stamp"] - offset_to()
            await asyncio.sleep(rng.uniform(0.08, 0.2))
            rows = swing(1e-9 * (observed - begin) + DT * np.arange(20), home)
            rows += rng.normal(0.0, 0.004, 7) + rng.normal(0.0, 3e-4, rows.shape)
            called = time.monotonic_ns()
            tickets.append(await controller.follow(rows, dt=DT, start=obs["stamp"]))
            calls.append(called)
            stamps.append(observed)
            assert tickets[-1].dropped >= 2
            prefix, certain = controller.committed(50, DT)
            assert prefix.shape[1] == 7 and certain <= len(prefix) <= 18
        assert await tickets[-1].done is Outcome.FINISHED
        assert {ticket.outcome for ticket in tickets[:-1]} == {Outcome.REPLACED}
        record = cycles(robot, position)
        for ticket, called, observed in zip(tickets, calls, stamps, strict=True):
            first = record[record["chunk_id"] == ticket.number][0]
            late = 1e-9 * (int(first["stamp"]) - called)
            # The two clocks are compared at each end.
            assert ticket.latency is not None
            assert late > 0.0
            assert ticket.latency == pytest.approx(1e-9 * (int(first["stamp"]) - observed), abs=1e-3)
        times = 1e-9 * (record["stamp"].astype(float) - begin)
        error = record["ref_q"] - swing(times, home)
        moving = (times > 0.5) & (times < 4.0)
        assert np.sqrt(np.mean(np.sum(error[moving] ** 2, axis=1))) < 0.015
        acceleration = np.gradient(np.gradient(record["ref_q"], 1e-3, axis=0), 1e-3, axis=0)
        assert np.abs(acceleration).max() < 8.5
        assert 2 <= controller.inference_delay(DT) <= 8
        assert controller.state["limited_targets"] == {}

    run(work)
