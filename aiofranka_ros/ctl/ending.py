"""How command lines that are clients of a node end early, and what they say then.

Used by :mod:`aiofranka_ros.ctl`, its ``identify_payload`` and :mod:`aiofranka_ros.streams`, in the main threads of
their processes.
"""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from aiofranka_ros.ctl.client import Failed
from aiofranka_ros.errors import Interrupted
from aiofranka_ros.processes import StopRequest


def interrupted_once(stop: StopRequest) -> Callable[[], None]:
    """A function that raises ``Interrupted`` once ``stop`` was requested, and never again.

    What is interrupted may have to wait for the arm to stop, and to undo something.
    """
    raised = False

    def check() -> None:
        nonlocal raised
        if stop.requested and not raised:
            raised = True
            stop.check()

    return check


def ended_by(error: Failed | Interrupted, stop: StopRequest, errors: Console) -> int:
    """Say why the program ends; returns its exit status."""
    if isinstance(error, Interrupted):
        errors.print("interrupted")
        return stop.exit_status
    errors.print("[bold red]failed:[/] ", end="")
    errors.print(str(error), markup=False)
    return 1
