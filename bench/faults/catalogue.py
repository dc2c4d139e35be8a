"""The list of faults, and what each of them says about itself.

Modules with faults register them with the decorator :func:`fault`, in the order in which they are to be staged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.faults.rig import Findings, Rig

Stage = Callable[[Rig, Findings], None]


@dataclass(frozen=True)
class Fault:
    """One fault.

    :ivar name: of it, in reports and on the command line.
    :ivar expected: what has to come of it, in a sentence.
    :ivar stage: makes it and finds out what comes of it.
    """

    name: str
    expected: str
    stage: Stage


#: All of them, by name.
FAULTS: dict[str, Fault] = {}


def fault(expected: str, *, name: str = "") -> Callable[[Stage], Stage]:
    """Register a function that stages a fault; its name is the fault's, unless another one is given."""

    def register(stage: Stage) -> Stage:
        title = name or stage.__name__
        FAULTS[title] = Fault(title, expected, stage)
        return stage

    return register
