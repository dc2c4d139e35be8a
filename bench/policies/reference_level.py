"""Plays chunks without an arm: what the reference that the laws follow would do. Deterministic, and fast.

Called by :mod:`bench.policies.mix` and by tests, in their thread.
"""

from __future__ import annotations

import math

import numpy as np

from aiofranka_ros.arm.chunk_paths import evaluate
from aiofranka_ros.arm.chunk_points import Chunk
from aiofranka_ros.arm.chunks import ChunkPlayer
from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.control.defaults import default_commands
from aiofranka_ros.control.law import reference
from aiofranka_ros.control.law.memory import MEMORY, SCRATCH
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.control.records import STATE, Mode, new
from aiofranka_ros.kernels import Array, Record, kernel
from aiofranka_ros.model import fr3
from bench.policies.chunks import Case
from bench.policies.rules import Targets
from bench.policies.seams import CYCLE, Played

#: Stamps must not be 0, which is unknown [ns]; neither must times be [s].
_FIRST_STAMP, _FIRST = 10**18, 1000.0


@kernel
def _play(memory: Record, commands: Record, scratch: Record, times: Array, values: Array, q: Array) -> None:
    """Send every target in its cycle, and record the reference in ``q`` (n, 7)."""
    sent = 0
    for cycle in range(len(q)):
        now = cycle * CYCLE
        while sent < len(times) and times[sent] <= now + 1e-9:
            for j in range(7):
                commands.target_q[j] = values[sent, j]
            commands.target_stamp = _FIRST_STAMP + int(times[sent] * 1e9)
            reference.accept_joints(memory, commands, scratch, now)
            sent += 1
        reference.advance_joints(memory, commands, True, CYCLE)
        for j in range(7):
            q[cycle, j] = memory.ref_q[j]


def play(targets: Targets, case: Case) -> Played:
    """Play single targets, with the defaults of all parameters."""
    commands, memory, scratch = default_commands(), new(MEMORY), new(SCRATCH)
    memory["workspace_lower"], memory["workspace_upper"] = -10.0, 10.0
    memory["spring_lower"] = fr3.POSITION_LOWER + fr3.JOINT_MARGIN
    memory["spring_upper"] = fr3.POSITION_UPPER - fr3.JOINT_MARGIN
    start = case.meant.at(np.zeros(1))[0]
    reference.seed(memory[0], commands[0], start, np.zeros(7))
    times = np.arange(0.0, case.meant.duration, CYCLE)
    q = np.empty((len(times), 7))
    _play(memory[0], commands[0], scratch[0], targets.times, targets.values, q)
    return Played(times, q)


class _Reference:
    """Follows the paths of chunks exactly; takes the place of a control client."""

    mode = Mode.IMPEDANCE

    def __init__(self, q: Array) -> None:
        self.now = 0.0
        self._state = new(STATE)[0]
        self._state["ref_q"] = q
        self._path: Motion | None = None
        self._begin = 0.0

    def at(self, times: Array) -> tuple[Array, Array, Array]:
        """Positions, velocities and accelerations (n, 7) of the reference at ``times`` [s] (n,)."""
        if self._path is None:
            return np.tile(self._state["ref_q"], (len(times), 1)), np.zeros((1, 7)), np.zeros((1, 7))
        return evaluate(self._path, np.minimum(times - self._begin, self._path.duration))

    def state(self) -> Record:
        """The reference, now."""
        state = self._state
        state["time"], state["stamp"] = self.now, int(1e9 * (_FIRST + self.now))
        state["chunk_time"] = self.now - self._begin
        for name, values in zip(("ref_q", "ref_dq", "ref_ddq"), self.at(np.array([self.now])), strict=True):
            state[name] = values[0]
        return state

    def begin_stream(self) -> None:
        """Whatever the arm has to approach slowly counts as it is here."""

    def start_chunk(self, path: Motion, *, start: float = 0.0) -> int:
        """Follow ``path`` from ``start`` [s, robot time] on."""
        self._path, self._begin = path, start
        self._state["chunk_id"] += 1
        self._state["chunk_seen"] = self._state["chunk_id"]
        return int(self._state["chunk_id"])

    def stop_chunk(self, number: int) -> None:
        """Never called here."""


def follow(case: Case) -> Played:
    """Play a case's chunks as this project does, with the defaults of all parameters."""
    settings = ArmSettings(mode="impedance")
    reference_ = _Reference(case.meant.at(np.zeros(1))[0])
    player = ChunkPlayer(reference_, lambda name: settings[name])
    times = np.arange(0.0, case.meant.duration, CYCLE)
    q, done = np.empty((len(times), 7)), 0
    for chunk in case.sent:
        reference_.now = now = math.ceil(chunk.arrives / CYCLE) * CYCLE
        if now >= case.meant.duration:
            break
        cycle = int(np.searchsorted(times, now + 1e-9))
        q[done:cycle] = reference_.at(times[done:cycle])[0]
        due = case.dt * np.arange(len(chunk.rows))
        player.follow(Chunk("q", due, chunk.rows, _FIRST + chunk.observed), _FIRST + now)
        done = cycle
    q[done:] = reference_.at(times[done:])[0]
    return Played(times, q)
