"""Something that is wrong, and what to do about it.

The two belong together wherever people are told: in the log, on ``/diagnostics`` and by the doctor, in every process.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    :ivar what: what it is, as the beginning of a sentence.
    :ivar remedy: what to do about it; a command where there is one.
    """

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"
