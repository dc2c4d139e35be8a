"""Widths as targets: a policy gives one for every step, ten times a second and more, and nearly always the same one.

Used by the gripper's node and by ``RobotInterface``, in the thread that drives the hand. So a width is sent to the
gripper only if it differs by more than ``goal_tolerance`` from the one that was sent last; of several that are due,
only the newest counts. Closing completely grasps whatever is there, everything else is a move:
:func:`.commands.reach`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from aiofranka_ros.arm.gripper.commands import Command, End, Outcome, reach
from aiofranka_ros.arm.gripper.connection import Hand
from aiofranka_ros.arm.gripper.gripper import Gripper
from aiofranka_ros.arm.gripper.settings import Settings
from aiofranka_ros.kernels import Array


class DueWidths:
    """The widths of a chunk that are not due yet.

    :param start: what ``times`` count from [s, monotonic].
    :param times: when they are due [s] (n,).
    :param widths: [m] (n,).
    """

    def __init__(self, start: float, times: Array, widths: Array) -> None:
        #: When each width is due [s, monotonic], and the width [m].
        self.left = deque(zip((start + np.asarray(times)).tolist(), np.asarray(widths).tolist(), strict=True))

    def take(self, now: float) -> float | None:
        """The newest width that is due [m]; ``None`` if none is. Older ones are dropped."""
        width = None
        while self.left and self.left[0][0] <= now:
            _, width = self.left.popleft()
        return width


class WidthTargets:
    """Sends widths to ``gripper``, unless it was told the same last.

    :param on_failure: called with why a width was not reached, unless something newer is the reason.
    """

    def __init__(self, settings: Settings, gripper: Gripper, on_failure: Callable[[str], object]) -> None:
        self._settings, self._gripper, self._on_failure = settings, gripper, on_failure
        # What the gripper was told last: the command, the number of commands up to it, and the connection.
        self._last: tuple[Command, int, Hand | None] | None = None

    def send(self, width: float, gone: Callable[[], bool]) -> None:
        """Tell a connected gripper to open or close to ``width`` [m], unless it was told so.

        :param gone: whether the client is gone; then the gripper stops.
        """
        gripper, state, tolerance = self._gripper, self._gripper.state, self._settings["goal_tolerance"]
        assert state is not None
        command, hand = reach(width, 0.0, state, gripper.holds, self._settings), gripper.hand
        if self._last is not None:
            last, begun, told = self._last
            close = abs(last.width - command.width) <= tolerance
            if begun == gripper.begun and told is hand and last.request is command.request and close:
                return
        gripper.submit(command, gone, self._on_end)
        self._last = command, gripper.begun, hand

    def _on_end(self, outcome: Outcome) -> None:
        if outcome.failure and outcome.end not in (End.CANCELLED, End.REPLACED):
            self._on_failure(outcome.failure)
