"""Recordings of stories that tests make up: what the rings of an arm and its owner hold, written and read as always.

A quiet story is what a simulated arm records while it holds; each test changes what its fault changes in a real one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.control.records import CYCLE_RECORD, Law, Mode, MotionStatus, Phase
from aiofranka_ros.control.shared_memory import Ring, SharedMemory
from aiofranka_ros.model.fr3 import HOME
from aiofranka_ros.recording.folder import name_of
from aiofranka_ros.recording.notes import TARGET, TARGETS, TICK, TICKS, rings
from aiofranka_ros.recording.reader import Recording, read
from aiofranka_ros.recording.writer import save

MS = 1_000_000
PARAMETERS = {
    setting.name: list(setting.default) if isinstance(setting.default, tuple) else setting.default
    for setting in SETTINGS
}


class Story:
    """Two seconds of an arm that holds, until ``end`` [ns, monotonic]; its owner notices the end 5 ms later."""

    def __init__(self, cycles: int = 2000) -> None:
        self.end = time.monotonic_ns()
        self.noticed = self.end + 5 * MS
        self.cycles = np.zeros(cycles, CYCLE_RECORD)
        ago = np.arange(cycles)[::-1]
        self.cycles["stamp"], self.cycles["time"] = self.end - MS * ago, 100.0 - 1e-3 * ago
        self.cycles["activation"], self.cycles["success_rate"], self.cycles["response"] = 1, 1.0, 25e-6
        self.cycles["mode"], self.cycles["law"] = Mode.OSC, Law.OSC
        self.cycles["q"] = self.cycles["ref_q"] = HOME
        self.ticks = np.zeros(cycles // 10 + 30, TICK)
        self.ticks["stamp"] = self.end + 10 * MS * (np.arange(len(self.ticks)) - cycles // 10 + 1)
        state = self.ticks["state"]
        after = self.ticks["stamp"] > self.noticed
        state["phase"], state["robot_mode"] = np.where(after, Phase.CONNECTED, Phase.ACTIVE), np.where(after, 1, 2)
        state["stamp"], state["activation"] = self.ticks["stamp"] - 2 * MS // 5, 1
        self.targets: list[tuple[int, str, tuple[float, ...]]] = []
        self.events: list[tuple[int, str, str, dict[str, Any]]] = []
        self.lines: list[tuple[int, str, str]] = []
        self.parameters: dict[str, Any] = dict(PARAMETERS)
        self.summary: dict[str, Any] = {"trigger": "asked", "message": "a client asked for it", "errors": []}

    @property
    def after(self) -> Any:
        """Which ticks came after the end was noticed."""
        return self.ticks["stamp"] > self.noticed

    def stopped(self, *errors: str, robot_mode: int = 4) -> Story:
        """The robot stopped by itself, with these of libfranka's errors."""
        message = f"the robot stopped: {', '.join(errors)}" if errors else "the robot ended the motion"
        self.summary |= {"trigger": "robot stopped", "message": message, "error": "ControlStopped", "errors": errors}
        self.ticks["state"]["robot_mode"][self.after] = robot_mode
        return self

    def moving(self) -> Story:
        """A move was on its way."""
        self.cycles["law"], self.cycles["motion_status"] = Law.MOTION, MotionStatus.EXECUTING
        self.events.append((self.end - 800 * MS, "request", "~/move", {"goal": HOME.tolist(), "duration": 2.0}))
        return self

    def silent(self, milliseconds: int) -> Story:
        """No state arrived for so long before the end was noticed."""
        self.noticed = self.end + (milliseconds + 10) * MS
        silent = (self.ticks["stamp"] > self.end) & (self.ticks["stamp"] < self.noticed)
        self.ticks["state"]["phase"][silent] = Phase.ACTIVE
        self.ticks["state"]["stamp"][silent] = self.end
        self.ticks["control_code"][silent] = ord("S")
        return self

    def job(self, folder: Path, **changes: Any) -> dict[str, Any]:
        """What the owner gives to the process that writes."""
        offset = time.time_ns() - time.monotonic_ns()
        stamp = self.noticed + offset
        topics = list(dict.fromkeys(topic for _, topic, _ in self.targets))
        summary = {
            "stamp": stamp, "owner": "/aiofranka", "node": True, "address": "172.16.0.2", "load": [1.0, 1.0, 1.0],
            "processors": 4, "missing": [], "exit_code": None, **self.summary,
        }  # fmt: skip
        job = {
            "folder": str(folder), "name": name_of(stamp, "/aiofranka", str(summary["trigger"])), "offset": offset,
            "most_files": 20, "most_bytes": 200e6, "summary": summary, "parameters": self.parameters,
            "topics": topics, "senders": ["/policy"], "events": self.events, "lines": self.lines,
        }  # fmt: skip
        return job | changes

    def notes(self) -> memoryview:
        """The memory of the notes."""
        memory = memoryview(bytearray(Ring.size(TARGET, TARGETS) + Ring.size(TICK, TICKS)))
        targets, ticks = rings(memory)
        topics = list(dict.fromkeys(topic for _, topic, _ in self.targets))
        for stamp, topic, values in self.targets:
            record = np.zeros(1, TARGET)
            record["stamp"], record["topic"], record["size"] = stamp, topics.index(topic), len(values)
            record["values"][0, : len(values)] = values
            targets.append(record.view(np.uint8).data)
        for row in range(len(self.ticks)):
            ticks.append(self.ticks[row : row + 1].view(np.uint8).data)
        return memory

    def fill(self, shared: SharedMemory) -> SharedMemory:
        """Put the cycles into the ring."""
        for row in range(len(self.cycles)):
            shared.cycles.append(self.cycles[row : row + 1].view(np.uint8).data)
        return shared

    def save(self, folder: Path, **changes: Any) -> Path:
        """Write it."""
        with SharedMemory.create() as shared:
            return save(self.job(folder, **changes), self.fill(shared), self.notes())

    def recording(self, folder: Path) -> Recording:
        """Write it, and read it again."""
        return read(self.save(folder))
