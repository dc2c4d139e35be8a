"""The part of the controller that measures: states, recordings of every cycle, and how well the control loop runs.

Used by policies, in their process and event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from aiofranka_ros.api.arguments import positive
from aiofranka_ros.api.following import Following
from aiofranka_ros.api.link import ConnectionReport
from aiofranka_ros.api.recording import Recording
from aiofranka_ros.control.cycles import DEFAULT_FIELDS


class Measuring(Following):
    """The part of the controller that measures; its coroutines belong to the event loop of the controller."""

    #: Set at every new state; made at the start.
    _measured: asyncio.Event

    async def next_state(self) -> dict[str, Any]:
        """The first state that arrives after this call; states come at the rate of the setting ``state_rate``.

        :raises FrankaError: what ended the control loop.
        """
        self._check()
        await self._measured.wait()
        self._check()
        return self.state

    async def states(self) -> AsyncIterator[dict[str, Any]]:
        """Each newest state; those that arrive while the loop's body runs are skipped.

        :raises FrankaError: what ended the control loop.
        """
        while True:
            yield await self.next_state()

    async def test_connection(self, duration: float = 5.0) -> ConnectionReport:
        """Measure how well the control loop answers the robot; ``print`` the report, or read its figures.

        :param duration: [s].
        :raises ConfigurationError: it is not a positive number.
        :raises FrankaError: what ended the control loop.
        """
        self._check()
        seconds = positive("the duration", duration, "s")
        return await self._unless_ended(self.robot.measure_connection(seconds))

    def record(self, fields: Sequence[str] = DEFAULT_FIELDS, path: str | os.PathLike[str] | None = None) -> Recording:
        """Record every control cycle from now on, in other threads, whatever the event loop does::

            with controller.record(["time", "q", "tau"], path="control.npz") as recording:
                await run_policy(controller)
            print(recording.data()["tau"].shape, recording.dropped)

        :param fields: ``cycle`` its number, ``time`` of the robot [s], ``wall_time`` when its state arrived
            [s, as :func:`time.time`], ``busy`` from then until the torque was sent [s], ``lost`` cycles just before it;
            ``q`` [rad], ``dq`` [rad/s], ``tcp`` (4, 4), also as ``ee``; ``q_desired``, ``ee_desired``: the smooth
            reference that the law follows; ``tau`` the torque that was sent, ``tau_J_d`` what the robot used last,
            ``tau_J`` measured, ``tau_ext_hat_filtered`` [Nm], ``O_F_ext_hat_K`` [N, Nm];
            ``control_command_success_rate``; and the fields of
            :data:`~aiofranka_ros.control.records.CYCLE_RECORD`.
        :param path: where the rows are saved at the end, ``.npz`` or ``.mcap``.
        :raises ConfigurationError: there is no such field, or ``path`` cannot be written.
        :raises FrankaError: what ended the control loop.
        """
        self._check()
        recording = Recording(fields, path)
        self.robot.record(recording)
        return recording

    async def save_recording(self) -> Path:
        """Write what happened in the last 16 s into a file, cycle by cycle, and return where it is.

        The same is written whenever the robot stops by itself; ``python -m aiofranka_ros.explain FILE`` says what
        stopped it. Also possible after that, until :meth:`stop`. If cancelled, the file is written all the same.
        Through a node, the file is on the node's computer.

        :raises RecordingFailed: it could not be written, and why: the arm is not affected.
        :raises NotStarted: the controller was not started.
        :raises ConnectionFailed: the node does not answer.
        """
        return await self.robot.save_recording()

    def loop_stats(self) -> dict[str, float]:
        """How the control loop has run since the arm became active, within the last second.

        ``count`` cycles, ``lost`` cycles that the robot got no answer to, ``longest_gap`` the most of these in a row,
        ``busy_mean`` and ``busy_max`` from the arrival of a state until its torque was sent [s], ``success_min`` the
        lowest ``control_command_success_rate``.

        :raises FrankaError: what ended the control loop.
        """
        self._check()
        return self.robot.loop_stats()
