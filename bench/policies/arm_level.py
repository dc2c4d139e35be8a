"""Plays chunks to a simulated arm whose every step is recorded: by this project, or single targets through it.

Called by :mod:`bench.policies.mix` in its one thread and event loop; the arm and its control process are separate
processes. The clock is the system's, as for stamps of observations.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aiofranka_ros import FrankaController, RobotInterface
from aiofranka_ros.control.records import CYCLE_RECORD
from aiofranka_ros.control.stamps import offset_to
from aiofranka_ros.errors import FrankaError
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.processes import WAIT_STEP, StopRequest
from bench.faults.arm import FaultyArm
from bench.faults.walk import violations
from bench.policies.chunks import Case
from bench.policies.rules import Targets
from bench.policies.seams import CYCLE, Played

#: How long before a case's beginning everything is ready [s].
_LEAD = 0.3


@dataclass
class Reports:
    """What the project says about its chunks, and what its cycles say about them.

    :ivar to_torque: from the call of ``follow`` to the arrival of the first torque at the arm [s].
    :ivar wrong: what it reports as delay, minus the delay on the wire [s].
    :ivar response: of each cycle [s], by what was played: ``chunks`` or ``targets``.
    :ivar violations: sentences.
    """

    to_torque: list[float] = field(default_factory=list)
    wrong: list[float] = field(default_factory=list)
    response: dict[str, list[Array]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class ArmPlayer:
    """One simulated arm, and this project's controller of it. An asynchronous context manager.

    :param host: loopback address of the arm.
    :param folder: for its log.
    :param stop: ends it.
    """

    def __init__(self, host: str, folder: Path, stop: StopRequest) -> None:
        self._stop = stop
        self.arm = FaultyArm(host, folder)
        self.controller = FrankaController(RobotInterface(host, mode="impedance", heartbeat_timeout=2.0))
        self.controller.guard = None  # On a busy computer, it would report what does not matter here.
        self.reports = Reports()
        self._position = 0

    async def __aenter__(self) -> ArmPlayer:
        try:
            await self.controller.start()
        except BaseException:
            self.arm.close()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        with contextlib.suppress(FrankaError):
            await self.controller.stop()
        self.arm.close()

    async def chunks(self, case: Case) -> Played:
        """Play a case's chunks with ``controller.follow``."""
        begin = await self._ready()
        tickets = []
        for chunk in case.sent:
            await self._until(begin + chunk.arrives)
            called = time.monotonic()
            try:
                ticket = await self.controller.follow(
                    chunk.rows, dt=case.dt, start=int(1e9 * (begin + chunk.observed)), kind="q"
                )
            except FrankaError as error:
                self.reports.refused.append(f"{case.name}: {error}")
                continue
            tickets.append((called, begin + chunk.observed, ticket))
        await self._until(begin + case.meant.duration)
        cycles = self._cycles()
        self._compare(cycles, tickets)
        return await self._played(case, begin, cycles, "chunks")

    async def targets(self, targets: Targets, case: Case) -> Played:
        """Play single targets through ``q_desired``; of several that are due, only the last one."""
        begin = await self._ready()
        sent = 0
        while sent < len(targets.times):
            await self._until(begin + targets.times[sent])
            due = int(np.searchsorted(targets.times, time.time() - begin, side="right"))
            sent = max(sent + 1, due)
            with contextlib.suppress(FrankaError):
                self.controller.robot.set_target("q_desired", targets.values[sent - 1])
        await self._until(begin + case.meant.duration)
        return await self._played(case, begin, self._cycles(), "targets")

    async def _ready(self) -> float:
        """Bring the arm home; return when a case begins [s, system clock]."""
        await self.controller.start()
        await self.controller.move(HOME)
        self._cycles()
        return time.time() + _LEAD

    async def _until(self, due: float) -> None:
        """Wait until ``due`` [s, system clock].

        :raises Interrupted: a stop was requested.
        """
        while (left := due - time.time()) > 0.0:
            self._stop.check()
            await asyncio.sleep(min(left, WAIT_STEP))

    def _cycles(self) -> npt.NDArray[Any]:
        """The control cycles since the last call."""
        client = self.controller.robot.active_client  # type: ignore[attr-defined]
        if client is None:
            return np.zeros(0, CYCLE_RECORD)
        records, self._position, _ = client.shared.cycles.since(self._position)
        return np.asarray(records)

    async def _played(self, case: Case, begin: float, cycles: npt.NDArray[Any], kind: str) -> Played:
        """What the arm did; after a reflex, it is recovered."""
        reflexes = int(self.arm.in_reflex)
        if reflexes:
            await self.controller.recover()
        self.reports.response.setdefault(kind, []).append(np.asarray(cycles["response"]))
        if kind == "chunks":
            self.reports.violations += [f"{case.name}: {what}" for what in violations(cycles)]
        return recorded(self.arm, case, begin, reflexes)

    def _compare(self, cycles: npt.NDArray[Any], tickets: Sequence[tuple[float, float, Any]]) -> None:
        """Compare what was reported about chunks with what arrived at the arm."""
        to_system = 1e-9 * offset_to()
        steps = self.arm.since(0)
        arrived = {
            tau.tobytes(): 1e-9 * received for tau, received in zip(steps["tau"], steps["received"], strict=True)
        }
        numbers, first = np.unique(cycles["chunk_id"], return_index=True)
        torques = dict(zip(numbers.tolist(), cycles["tau"][first], strict=True))
        for called, observed, ticket in tickets:
            if ticket.number not in torques or ticket.latency is None:
                continue  # Replaced before a cycle saw it.
            received = arrived.get(torques[ticket.number].tobytes())
            if received is None:
                continue  # The arm did not get it in time.
            self.reports.to_torque.append(received - called)
            self.reports.wrong.append(ticket.latency - (received + to_system - observed))


def recorded(arm: FaultyArm, case: Case, begin: float, reflexes: int) -> Played:
    """What an arm did in a case that began at ``begin`` [s, system clock]."""
    steps = arm.since(int(1e9 * begin))
    steps = steps[steps["stamp"] < int(1e9 * (begin + case.meant.duration))]
    # The arm's steps are even; the clock, at which a busy computer records them, is not.
    even = CYCLE * np.arange(len(steps))
    times = even + np.median(1e-9 * (steps["stamp"] - int(1e9 * begin)) - even)
    index = np.arange(len(steps))
    arrival = np.maximum.accumulate(np.where(np.diff(steps["received"], prepend=0) != 0, index, 0))
    waited = np.maximum(index - np.concatenate([[0], arrival[:-1]]), 1)
    return Played(times, steps["q"], steps["tau"], waited, reflexes)
