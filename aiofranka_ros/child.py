"""Starting a process that an exception cannot make forgotten.

Used by whoever starts the control process or the simulated arm, in any process and thread.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any


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
