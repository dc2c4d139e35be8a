"""The progress of a move, reported to a function or as a bar on a terminal.

Used by :class:`~aiofranka_ros.api.controller.FrankaController`, in the policy's process and event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import numpy as np

from aiofranka_ros.api.link import Link
from aiofranka_ros.kernels import Array

_log = logging.getLogger(__name__)
#: How often progress is reported [s], and a distance that counts as none [rad].
_PERIOD, _NO_DISTANCE = 0.1, 1e-3

_Report = Callable[[float], object]


@contextlib.asynccontextmanager
async def reported_progress(link: Link, goal: Array, progress: _Report | bool | None) -> AsyncIterator[None]:
    """Report progress while the body moves the arm to ``goal`` [rad] (7,), and 1.0 if it succeeds.

    :param progress: as in :meth:`.FrankaController.move`.
    """
    if not callable(progress) and not (sys.stderr.isatty() if progress is None else progress):
        yield
        return
    with contextlib.nullcontext(progress) if callable(progress) else _bar() as report:
        task = asyncio.ensure_future(_follow(link, goal, report))
        try:
            yield
            report(1.0)
        finally:
            task.cancel()


async def _follow(link: Link, goal: Array, report: _Report) -> None:
    """Report the covered share of the distance to ``goal``, until cancelled."""

    def distance() -> float:
        return float(np.abs(goal - link.snapshot().q).max())

    total, covered = max(distance(), _NO_DISTANCE), 0.0
    try:
        while True:
            covered = max(covered, 1.0 - distance() / total)
            report(covered)
            await asyncio.sleep(_PERIOD)
    except Exception:
        _log.exception("the progress of the move is no longer reported")


@contextlib.contextmanager
def _bar() -> Iterator[_Report]:
    """A progress bar on standard error; yields the function that updates it."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("moving", total=1.0)
        yield lambda covered: bar.update(task, completed=covered)
