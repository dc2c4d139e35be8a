"""The node's executor: targets are waited for almost alone, everything else has its turn between them.

Used by the node, in its process and its one thread. Before every wait, rclpy builds a wait set of all that a callback
group lets through, and afterwards asks every one of it whether it is ready. For this node's thirty services and five
action servers that takes longer than all that is done with a target. So they belong to a group that is let through for
a moment every few milliseconds, without waiting; a target meets a wait set of its own kind.
"""

from __future__ import annotations

import time
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor, TimeoutException

#: How often everything that can wait has its turn [s]: that much later than it could, a service may be answered.
TURN_PERIOD = 0.01
#: How long a turn may take that has more and more to do [s]; meanwhile targets have to wait as long as the rest.
_LONGEST_TURN = 0.005


class PatientGroup(ReentrantCallbackGroup):
    """Callbacks that can wait for their turn; without a :class:`TargetsFirstExecutor` it is always theirs.

    Like its base it lets a callback begin while another one awaits something, or nothing could end that wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.open = True
        #: How many callbacks have begun.
        self.begun = 0

    def can_execute(self, entity: Any) -> bool:  # type: ignore[override]
        """Whether it is their turn."""
        return self.open

    def beginning_execution(self, entity: Any) -> Any:
        """Count the callback."""
        self.begun += 1
        return super().beginning_execution(entity)


class TargetsFirstExecutor(SingleThreadedExecutor):
    """An executor of one thread for a node most of whose callbacks can wait.

    :param patient: their group.
    """

    def __init__(self, patient: PatientGroup) -> None:
        super().__init__()
        self._patient = patient
        self._patient.open = False
        self._due = 0.0

    def spin_turn(self, timeout: float | None = None) -> None:
        """Wait until something is ready that cannot wait, and run it; then what can, if its turn has come.

        :param timeout: how long to wait [s]; ``None``: until then.
        :raises Exception: that of a callback.
        """
        self.spin_once(timeout_sec=timeout)
        now = time.monotonic()
        if now >= self._due:
            self._due = now + TURN_PERIOD
            self._patient.open = True
            try:
                before = -1
                # A round takes one message of each kind.
                while self._patient.begun != before and time.monotonic() < now + _LONGEST_TURN:
                    before = self._patient.begun
                    self._run_what_is_ready()
            finally:
                self._patient.open = False

    def _run_what_is_ready(self) -> None:
        """Run each callback once that is ready, patient or not, and what awaited something."""
        while True:
            try:
                handler, _, _ = self.wait_for_ready_callbacks(0.0)
            except TimeoutException:
                return
            handler()
            error = handler.exception()
            if error is not None:
                raise error
