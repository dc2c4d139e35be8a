"""An arm that follows the paths of chunks exactly, and records them at 1 kHz: what the tests of chunks share."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiofranka_ros.arm.chunk_paths import evaluate
from aiofranka_ros.arm.chunk_points import Chunk
from aiofranka_ros.arm.chunks import ChunkPlayer, Ticket
from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.control.records import STATE, Approach, Mode, new
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model import fr3
from aiofranka_ros.model.kinematics import control_frame

#: Robot time when this computer's clock is 0, and a cycle [s].
ROBOT_TIME, CYCLE = 1000.0, 1e-3
POSE = np.array([0.4, 0.1, 0.5, 1.0, 0.0, 0.0, 0.0])


class PathArm:
    """Takes the place of the control process."""

    def __init__(self, mode: Mode = Mode.IMPEDANCE, **settings: Any) -> None:
        self.mode, self.now = mode, 0.0
        self.settings = ArmSettings(**settings)
        self.player = ChunkPlayer(self, self.settings.__getitem__)
        self.at = np.array(fr3.HOME if mode is not Mode.OSC else POSE)
        self.path: Motion | None = None
        self.begin, self.number, self.first = 0.0, 0, 0
        #: Position, velocity and acceleration of all cycles so far, in parts (n, 7).
        self.record: list[tuple[Array, Array, Array]] = []
        self.motion_status = self.hold = self.streams = 0
        self.flange_to_tcp = np.eye(4)
        #: How late states are stamped [s].
        self.late = 0.0

    def state(self) -> Record:
        state = new(STATE)[0]
        state["time"], state["stamp"] = self.now + ROBOT_TIME, round(1e9 * (self.now + self.late)) + 1
        state["approach"], state["motion_status"], state["hold"] = Approach.FOLLOWING, self.motion_status, self.hold
        state["ref_q"] = self.at
        state["ref_position"], state["ref_orientation"] = self.at[:3], self.at[3:] / np.linalg.norm(self.at[3:])
        state["law"], state["tcp"] = self.mode, control_frame(state["q"], self.flange_to_tcp)
        if self.path is not None:
            state["chunk_id"] = state["chunk_seen"] = self.number
            state["chunk_first"], state["chunk_time"] = self.first, self.now + ROBOT_TIME - self.begin
        return state

    def begin_stream(self) -> None:
        self.streams += 1

    def start_chunk(self, path: Motion, *, start: float = 0.0) -> int:
        assert len(path.coefficients) <= 256
        assert np.diff(path.times).min() > 0.0
        self.path, self.begin, self.number = path, start, self.number + 1
        self.first = round(1e9 * (self.now + CYCLE))
        return self.number

    def stop_chunk(self, number: int) -> None:
        assert number == self.number
        self.path = None

    def advance(self, until: float) -> None:
        """Run to time ``until`` [s]."""
        cycles = max(round((until - self.now) / CYCLE), 0)
        times = self.now + CYCLE * np.arange(1, cycles + 1) + ROBOT_TIME - self.begin
        still = np.zeros((cycles, 7))
        if self.path is None:
            self.record.append((np.tile(self.at, (cycles, 1)), still, still))
        else:
            assert times[0] >= 0.0
            self.record.append(evaluate(self.path, np.minimum(times, self.path.duration)))
        if cycles:
            self.at, self.now = self.record[-1][0][-1], self.now + CYCLE * cycles
        self.player.observe(self.state())

    def follow(self, values: Any, dt: float = 1 / 30, start: float | None = None, kind: str = "") -> Ticket:
        values = np.asarray(values)
        kind = kind or ("ee" if self.mode is Mode.OSC else "q")
        return self.player.follow(Chunk(kind, dt * np.arange(len(values)), values, start), self.now)

    def columns(self) -> tuple[Array, Array, Array]:
        """Positions, velocities and accelerations of all cycles (n, 7)."""
        return tuple(np.concatenate(parts) for parts in zip(*self.record, strict=True))  # type: ignore[return-value]
