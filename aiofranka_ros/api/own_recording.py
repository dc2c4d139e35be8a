"""The flight recorder of an arm that this process owns, without ROS; the node's is :mod:`aiofranka_ros.node.recording`.

Used by :class:`~aiofranka_ros.api.robot_interface.RobotInterface`, from its start to its stop. The notes come from the
event loop and, as targets do, from any other thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any

from aiofranka_ros.arm.driver import Driver
from aiofranka_ros.arm.settings import SETTING_NAMES, ArmSettings
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.errors import FrankaError, RecordingFailed
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.recording.notes import Notes
from aiofranka_ros.recording.recorder import OFF, Recorder, Trigger

_log = logging.getLogger(__name__)


class _NotedLog(logging.Handler):
    """Notes the lines that this package logs."""

    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        self._notes.line(record.levelname.lower(), record.getMessage())


class OwnRecording:
    """The notes and the recorder of one arm; :meth:`close` it."""

    def __init__(self, driver: Driver, settings: ArmSettings) -> None:
        self._driver, self._settings = driver, settings
        self.notes = Notes()
        self._recorder = Recorder(
            settings["robot_ip"], self.notes, self._values, lambda: {"node": False, **driver.details}, self._say
        )
        self._handler = _NotedLog(self.notes)
        logging.getLogger("aiofranka_ros").addHandler(self._handler)

    def tick(self, state: Record, client: ControlClient) -> None:
        """Note that the owner runs, and what it sees; record if cycles were lost."""
        self._recorder.tick(state, client)

    def target(self, name: str, values: Array, made: int) -> None:
        """Note a target; from any thread."""
        self.notes.target(name, values.tolist(), made, "")

    def stopped(self, error: FrankaError) -> None:
        """Record that the arm was stopped or lost, and log where; in the event loop."""
        result = self._recorder.save(Trigger.of(error), self._driver.client)
        if result is not None:
            loop = asyncio.get_running_loop()

            def report(_: Any) -> None:
                with contextlib.suppress(RuntimeError):  # The event loop is closed.
                    loop.call_soon_threadsafe(self._recorder.report)

            result.add_done_callback(report)

    async def save(self) -> Path:
        """See :meth:`.Link.save_recording`."""
        result = self._recorder.save(Trigger("asked", "the script asked for it"), self._driver.client)
        if result is None:
            raise RecordingFailed(OFF)
        return await asyncio.shield(asyncio.wrap_future(result))

    def close(self) -> None:
        """Let recordings that have begun finish by themselves; idempotent."""
        logging.getLogger("aiofranka_ros").removeHandler(self._handler)
        self._recorder.close()
        self.notes.close()

    def _values(self) -> dict[str, Any]:
        return {name: self._settings[name] for name in SETTING_NAMES}

    def _say(self, level: str, message: str) -> None:
        _log.log(logging.WARNING if level == "warning" else logging.INFO, "%s", message)
