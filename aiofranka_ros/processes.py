"""Child processes and signals: start a process that no exception can make forgotten, and when Ctrl-C may interrupt.

Used by everything that starts the control process or the simulated arm, and in the main threads of both nodes, of the
demo and of what measures; Python handles signals nowhere else.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from types import FrameType
from typing import Any

#: When a signal is raised again that came in the middle of a finalizer [s].
_AGAIN = 0.01


def start_child(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a process as :class:`subprocess.Popen` does, wholly or not at all.

    A signal handler's exception, such as ``KeyboardInterrupt``, may come when the process is there already and its
    handle is not; it would live on then. In a thread, where signals are not handled, that cannot be.

    :param options: those of :class:`subprocess.Popen`.
    :raises OSError: it could not be started.
    """
    started: Future[subprocess.Popen[bytes]] = Future()

    def start() -> None:
        try:
            process = subprocess.Popen(command, **options)
        except OSError as error:
            started.set_exception(error)
            return
        try:
            started.set_result(process)
        except InvalidStateError:  # Nobody waits for it any more.
            _end(process)

    try:
        threading.Thread(target=start, name="start").start()
        return started.result()
    except BaseException:
        if not started.cancel() and started.exception() is None:
            _end(started.result())
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


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
