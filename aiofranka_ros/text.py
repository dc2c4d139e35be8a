"""Text for messages: quotes only as long as a reader needs, and what a misspelt name was meant to be.

Called wherever a message quotes what a client or user wrote, in every process. A log line stays short, whatever a
message holds.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable

#: What a start reports that takes long because :func:`.kernels.compiled` is false; clients look for it in diagnostics.
COMPILING = "compiling the control kernels, once after an installation or a change: this takes about 20 s"
#: Characters of one text, and number of texts, that a message quotes.
_LONGEST, _MOST = 60, 5


def brief(text: str, longest: int = _LONGEST) -> str:
    """``text``, or its beginning and its length if it has more than ``longest`` characters."""
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"


def listed(texts: Iterable[str], most: int = _MOST) -> str:
    """``texts``, brief and with commas between them: the first ``most``, and how many more there are."""
    rest = iter(texts)
    shown = ", ".join(brief(text) for text in itertools.islice(rest, most))
    more = sum(1 for _ in rest)
    return f"{shown} and {more} more" if more else shown


def nearest(name: str, known: Iterable[str], similarity: float = 0.6) -> str | None:
    """The one of ``known`` that is most similar to ``name``, at least by ``similarity`` (0 to 1); ``None``: none is."""
    if len(name) > _LONGEST:  # Finding out takes the longer, the longer it is.
        return None
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=similarity)), None)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """A message about a name that does not exist: the nearest one first, then all that do."""
    names = list(known)
    near = nearest(name, names)
    suggestion = f"did you mean {near!r}? There are" if near else "there are"
    return f"there is no {kind} {brief(name)!r}; {suggestion}: {', '.join(names)}"
