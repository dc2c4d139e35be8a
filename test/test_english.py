"""Words that this project's text used to be full of, and that cost every reader a second pass, stay out.

The text of docs, comments, docstrings, messages and test names is searched; code is not. No arm, no ROS graph.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parent.parent
#: What to write instead, by regular expressions of whole words. Spaces match line breaks, too.
INSTEAD = {
    r"signs? of life": "heartbeat",
    r"(has|have|had|having) the arm": "controls the arm",
    r"takes? the arm (away )?from": "takes control from",
    r"(comes?|came|coming|brings?|brought|bringing) (\w+ ){0,3}to rest": "stops",
    r"(go|goes|going|went|gone) on": "continues",
    r"stands? in": "is in",
    r"mend(s|ed|ing)?": "fix",
    r"(tells?|told|telling) of": "report",
    r"beside": "next to, in addition to, compared with",
    r"anew": "again",
    r"shall": "should, must, or the present tense",
    r"at the (most|least)": "at most, at least",
    r"whoever": "the caller, the client that",
    r"nobody": "no client, nothing",
    r"somebody": "a client, a person",
    r"who waits for it": "waiters",
    r"where there (is|are) (none|no)": "if there is none",
    r"of (its|one's|their) own": "its own, separate",
    r"has to come of": "expected outcome",
    r"behind \w+('s)? (\w+'s )?back": "the literal meaning: without notice, while it is there",
    r"nevertheless": "still, anyway",
    r"meanwhile": "during that time, or nothing",
    r"(may|can|to) be had": "available",
    r"such as it is": "nothing",
    r"and no more": "only",
    r"makes? of it": "the literal meaning",
}
#: Files that may say one of these, and why.
EXCEPTIONS = {
    "LICENSE": "a legal text",
    "test/test_english.py": "this file",
}
FOLDERS = ("aiofranka_ros", "bench", "config", "docs", "examples", "launch", "test", "tools", "underlay", ".ci")
#: Endings of files that are text as a whole.
TEXTS = {".md", ".rst", ".yaml", ".toml", ".cfg", ".xml", ".msg", ".srv", ".action", ".cmake", ".txt", ".c", ""}


def files() -> list[Path]:
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    names = {str(path.relative_to(ROOT)): path for path in found if path.suffix in TEXTS | {".py"}}
    return [path for name, path in sorted(names.items()) if name not in EXCEPTIONS]


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Text in a file, with the line on which it starts."""
    text = path.read_text()
    if path.suffix != ".py":
        yield 1, text
        return
    block: list[str] = []
    start = last = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line = token.start[0]
        if token.type == tokenize.COMMENT:
            if line != last + 1:
                yield start, "\n".join(block)
                block, start = [], line
            block.append(token.string.lstrip("#: "))
            last = line
        elif token.type == tokenize.NAME:
            if token.string.startswith("test_"):
                yield line, token.string.replace("_", " ")
        elif token.type != tokenize.OP and token.string.strip() and len(token.string) > 3:
            yield line, re.sub(r"{[^{}]*}", "", token.string)  # A string, or a part of an f-string.
    yield start, "\n".join(block)


def words(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{pattern})\b".replace(" ", r"(?:\s|#)+"), re.IGNORECASE)


PATTERNS = {words(pattern): instead for pattern, instead in INSTEAD.items()}
ANY = words("|".join(INSTEAD))


def found_in(text: str) -> Iterator[tuple[int, str, str]]:
    """Lines after the first, what is there, and what to write instead."""
    for pattern, instead in PATTERNS.items() if ANY.search(text) else ():
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()), " ".join(match[0].split()), instead


def test_the_text_is_plain_english() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{start + lines}: {words!r}; write: {instead}"
        for path in files()
        for start, text in prose_of(path)
        for lines, words, instead in found_in(text)
    ]
    assert not wrong, f"{len(wrong)} places:\n" + "\n".join(wrong)


def test_words_are_found_across_lines_and_in_other_cases() -> None:
    assert [words for _, words, _ in found_in("The arm Comes\n# to rest; nobody\ngoes  on.")] == [
        "Comes # to rest",
        "goes on",
        "nobody",
    ]
    assert not list(found_in("besides, mandatory, commend, Marshall, a gone-on, ongoing"))
