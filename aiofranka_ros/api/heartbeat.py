"""The heartbeat of an arm that this process owns, in a separate thread: the event loop may be blocked for a while.

Used by :class:`~aiofranka_ros.api.robot_interface.RobotInterface` while the arm is active.
"""

from __future__ import annotations

import threading

from aiofranka_ros.control.client import ControlClient

#: How often it is sent [s].
PERIOD = 0.02


class Heartbeat:
    """Sends the heartbeat from :meth:`start` to :meth:`stop`."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._silence = threading.Event()

    def start(self, client: ControlClient) -> None:
        """Begin."""
        self._silence.clear()
        self._thread = threading.Thread(target=self._beat, args=(client,), name="aiofranka_ros-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; afterwards it does not touch the client any more. Idempotent."""
        self._silence.set()
        if self._thread is not None:
            self._thread.join()

    def _beat(self, client: ControlClient) -> None:
        while not self._silence.wait(PERIOD):
            client.beat()
