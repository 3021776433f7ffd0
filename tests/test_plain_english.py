"""Documents, messages, docstrings and comments use the usual words.

A word of this list stands for a sentence that a reader takes twice: turned round, or with a
subject that does nothing. Say who does what instead.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

WORDS = {
    "whoever": r"\bwhoever\b",
    "nobody": r"\bnobody\b",
    "meanwhile": r"\bmeanwhile\b",
    "told": r"\btold\b",
    "goes on": r"\b(?:go|goes|going|gone|went)\s+on\b",
    # "There is no room" is the usual way to say it, and so is "is no longer".
    "is no X": r"(?<!\bthere\s)\b(?:is|are|was|were)\s+no\b(?!\s+longer)",
    "it is X that": r"\bit\s+(?:is|was)\s+(?:not\s+)?(?:the|this|its|only)\s+(?:\w+\s+){1,3}that\b",
}
UNUSUAL = re.compile("|".join(WORDS.values()), re.IGNORECASE)

# Reports under benchmarks/results are what a benchmark printed on its day.
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "adapters/*.md", "adapters/demo/*.md", "deploy/*.md", "guides/*.md",
                    "server/*.md", "examples/**/*.md", "benchmarks/results/README.md",
                    "deploy/prometheus/**/*.yml", "examples/**/*.toml")
    for path in ROOT.glob(pattern)
)  # fmt: skip
MODULES = sorted(
    path
    for folder in ("adapters/jumplora_adapters", "server/jumplora_server",
                   "benchmarks/jumplora_bench", "deploy")
    for path in (ROOT / folder).rglob("*.py")
)  # fmt: skip
PAGES = sorted(
    path
    for folder in ("console", "docs")
    for pattern in ("*.js", "*.html", "*.css")
    for path in (ROOT / "server" / "jumplora_server" / folder).glob(pattern)
)


def prose(source: str) -> Iterator[tuple[int, str]]:
    """A module's texts with their first lines: strings of more than one word, and comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):  # whole; its parts come again as constants
            parts = (part.value if isinstance(part, ast.Constant) else "x" for part in node.values)
            yield node.lineno, "".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and " " in str(node.value).strip():
            yield node.lineno, str(node.value)  # one word alone is a key or a name
    comments = [
        (token.start[0], token.string.lstrip("#: "), token.line.lstrip().startswith("#"))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    # Lines of a comment that follow one another are one text; one behind code is its own.
    for _, group in groupby(enumerate(comments), lambda item: (item[1][0] - item[0], item[1][2])):
        lines = [comment for _, comment in group]
        yield lines[0][0], " ".join(text for _, text, _ in lines)


def page_text(source: str) -> str:
    """A page's source with comments of several lines and sums of strings as one text each. The rest
    is code, in which an unusual word is a name that could be another one."""
    joined = re.sub(r"""(["'`])(\s*)\+(\s*)\1""", r"\2\3", source)
    return re.sub(r"(?m)^(\s*)(?:///?|\*) ", r"\1", joined)


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """With their first lines; whole, so that a sentence is found over the end of a line."""
    starts = [0, *(found.end() for found in re.finditer(r"\n\s*\n", text)), len(text)]
    return ((text.count("\n", 0, a) + 1, text[a:b]) for a, b in pairwise(starts))


def unusual(text: str) -> list[str]:
    return [" ".join(found[0].split()) for found in UNUSUAL.finditer(text)]


def excerpts(texts: Iterator[tuple[int, str]]) -> list[str]:
    return sorted({f"line {line}: {word}" for line, text in texts for word in unusual(text)})


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents(path: Path) -> None:
    assert excerpts(paragraphs(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages(path: Path) -> None:
    assert excerpts(paragraphs(page_text(path.read_text(encoding="utf-8")))) == []


def test_messages_docstrings_and_comments() -> None:
    assert len(MODULES) > 200
    found = {
        str(path.relative_to(ROOT)): words
        for path in MODULES
        if (words := excerpts(prose(path.read_text(encoding="utf-8"))))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Whoever asks is told nothing.", ["Whoever", "told"]),
        ("It\n  goes on.", ["goes on"]),
        ("x is no task", ["is no"]),
        ("It is the file that decides.", ["It is the file that"]),
        ("There is no room, and it is no longer served.", []),
        ("It is a store that other servers share.", []),
        ("`self.told` of the untold", ["told"]),
    ],
)
def test_what_is_found(text: str, words: list[str]) -> None:
    assert unusual(text) == words


def test_prose_is_strings_of_several_words_and_whole_comments() -> None:
    source = '"""A doc."""\nkey = "told"\n# one\n# two\nmessage = f"{key} is " "no task"  # three\n'
    assert set(prose(source)) == {
        (1, "A doc."), (3, "one two"), (5, "x is no task"), (5, " is no task"), (5, "three"),
    }  # fmt: skip


def test_a_pages_comments_and_sums_of_strings_are_read_whole() -> None:
    source = """// It is
// no task.
/**
 * It goes
 * on.
 */
const text = "the key is " +
  "no key";
"""
    assert excerpts(paragraphs(page_text(source))) == ["line 1: goes on", "line 1: is no"]
