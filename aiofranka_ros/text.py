"""Text of unknown length, for messages: quoted only as far as a reader needs.

Called wherever a message quotes what a client sent, in every process. A log line stays short, whatever a message holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

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
