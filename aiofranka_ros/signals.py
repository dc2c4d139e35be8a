"""Ctrl-C and SIGTERM: when they may become an exception, and when they have to wait.

Used in the main threads of both nodes, of the demo and of what measures; Python handles signals nowhere else.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

#: When a signal is raised again that came in the middle of a finalizer [s].
_AGAIN = 0.01


class StopRequest:
    """Ctrl-C or SIGTERM: noted for the main loop, and raised only where something takes long.

    rclpy's own handlers would shut the context down under the node, before it could bring the arm to rest.
    """

    def __init__(self) -> None:
        self.requested = False
        self._raise = False

    def install(self) -> None:
        """Handle the signals from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """Inside of this context, a signal raises ``KeyboardInterrupt``."""
        if self.requested:
            raise KeyboardInterrupt
        self._raise = True
        try:
            yield
        except Exception:
            if self.requested:  # What a library made of the interruption, such as a compiler that was in the middle.
                raise KeyboardInterrupt from None
            raise
        finally:
            self._raise = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if self._raise and not postponed(number, frame):
            self._raise = False  # A second signal must not interrupt the cleaning up.
            raise KeyboardInterrupt


def postponed(number: int, frame: FrameType | None) -> bool:
    """Whether a signal came where its exception would be lost; it comes again in a moment then.

    What is raised in a finalizer, Python prints, and goes on.

    :param number: of the signal, as its handler gets it.
    :param frame: that it interrupted.
    """
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    main = threading.main_thread().ident
    if frame is None or main is None:
        return False
    again = threading.Timer(_AGAIN, signal.pthread_kill, (main, number))
    again.daemon = True
    again.start()
    return True
