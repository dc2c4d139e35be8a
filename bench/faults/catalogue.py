"""The list of faults.

Modules register their faults with the decorator :func:`fault`, in the order in which the faults run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.faults.rig import Findings, Rig

Stage = Callable[[Rig, Findings], None]


@dataclass(frozen=True)
class Fault:
    """One fault.

    :ivar name: its name in reports and on the command line.
    :ivar expected: the expected outcome, in one sentence.
    :ivar stage: causes the fault and checks the outcome.
    """

    name: str
    expected: str
    stage: Stage


#: All faults, by name.
FAULTS: dict[str, Fault] = {}


def fault(expected: str, *, name: str = "") -> Callable[[Stage], Stage]:
    """Register a function that stages a fault; the fault has the function's name unless ``name`` is given."""

    def register(stage: Stage) -> Stage:
        title = name or stage.__name__
        FAULTS[title] = Fault(title, expected, stage)
        return stage

    return register
