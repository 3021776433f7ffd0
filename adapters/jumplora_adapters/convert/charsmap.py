"""SentencePiece's normalisation, for a library that has it letter by letter only.

SentencePiece replaces the longest entry of its table (`precompiled_charsmap`) at each place. The
library takes a letter with its marks as one, looks for the shortest entry and loses the rest. So
all marks are set apart here, and those that the table joins are joined again afterwards.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
from tokenizers import Regex, normalizers

from jumplora_adapters.errors import ConvertError

JOINED, APART = "\ufff0", "\ufff1"  # no characters; each ends a grapheme
# What may belong to the grapheme of a character before it.
_MARKS = (
    r"\p{M}\n"
    + "\u200c\u200d\u0e33\u0eb3\uff9e\uff9f\u1160-\u11ff\ud7b0-\ud7fb\U0001f3fb-\U0001f3ff"
)
BEFORE_MARKS = f"(?=[{_MARKS}])"
_BYTES = np.arange(1, 256)
_NODES = 4096  # looked at together
# What is read of a stranger's table. Ends of entries share nodes, so some nodes are visited often:
# SentencePiece's own four tables take at most 5.9 visits for a node and 12 bytes for an entry.
_MAX_VISITS = 16
_MAX_KEY_BYTES = 64
_MARK = re.compile(
    "[\u0300-\u036f\u0591-\u05c7\u0610-\u1cff\u1dc0-\u1dff\u20d0-\u20ff\u3099\u309a\uff9e\uff9f"
    "\U00010000-\U0001ffff]"
)


def steps(charsmap: bytes) -> list[Any]:
    """Normalizers that do what the table does."""
    joined = _joints(entries(charsmap))
    parts: list[Any] = [normalizers.Replace(Regex(joined), JOINED)] if joined else []
    return [
        *parts,
        normalizers.Replace(Regex(rf"{BEFORE_MARKS}(?<![{JOINED}])(?<=.)"), APART),
        normalizers.Precompiled(charsmap),
        normalizers.Replace(JOINED, ""),
        normalizers.NFC(),
        normalizers.Replace(APART, ""),
    ]


def entries(charsmap: bytes) -> list[str]:
    """All that the table replaces: a double array of bytes (Darts), behind its size.

    Raises ConvertError for a table that is broken. The libraries trust what they read of it: one
    panics where it points outside of itself, the other reads what lies there.
    """
    units, replacements = _parts(charsmap)
    found: list[str] = []
    visited = 0
    waiting = [(_children(units, 0), b"")]
    while waiting:
        nodes, waiting = waiting[-_NODES:], waiting[:-_NODES]
        at = np.array([place for place, _ in nodes])[:, None] ^ _BYTES
        labels = units[at] & 0x800000FF
        for node, column in zip(*map(np.ndarray.tolist, np.nonzero(labels == _BYTES)), strict=True):
            child, key = int(at[node, column]), nodes[node][1] + bytes([column + 1])
            visited += 1
            if visited > _MAX_VISITS * len(units) or len(key) > _MAX_KEY_BYTES:
                raise _broken("its entries do not end")
            place = _children(units, child)
            if units[child] >> 8 & 1:
                _check_entry(key, int(units[place]) & 0x7FFFFFFF, replacements)
                found.append(key.decode())
            waiting.append((place, key))
    return found


def _parts(charsmap: bytes) -> tuple[np.ndarray[Any, np.dtype[np.int64]], bytes]:
    """The double array, and behind it what entries are replaced with, each ended by a zero."""
    size, rest = int.from_bytes(charsmap[:4], "little"), charsmap[4:]
    if not 4 <= size <= len(rest) or size % 4:
        raise _broken(f"it states a size of {size} bytes and has {len(rest)}")
    replacements = rest[size:]
    try:
        replacements.decode()
    except UnicodeDecodeError as error:
        raise _broken("its replacements are not UTF-8") from error
    return np.frombuffer(rest, "<u4", size // 4).astype(np.int64), replacements


def _children(units: np.ndarray[Any, np.dtype[np.int64]], node: int) -> int:
    """Where the children of a node lie: 256 places, one for each byte, by exclusive or."""
    unit = int(units[node])
    place = node ^ (unit >> 10 << ((unit & 1 << 9) >> 6))
    if place | 0xFF >= len(units):
        raise _broken(f"it points to {place}, behind its {len(units)} units")
    return place


def _check_entry(key: bytes, replaced_at: int, replacements: bytes) -> None:
    try:
        key.decode()
    except UnicodeDecodeError as error:
        raise _broken(f"the entry {key!r} is not UTF-8") from error
    # 10xxxxxx: within a character
    if replaced_at >= len(replacements) or replacements[replaced_at] & 0xC0 == 0x80:
        raise _broken(f"the entry {key!r} has no replacement at {replaced_at}")


def _broken(why: str) -> ConvertError:
    return ConvertError(
        f"the normalisation table (precompiled_charsmap) of spiece.model is broken: {why}. Put the"
        " tokenizer.json of the model's publisher beside spiece.model"
    )


def _joints(keys: Iterable[str]) -> str:
    """A pattern of the places in a text before marks that the table joins to what is before."""
    firsts: dict[tuple[str, str], set[str]] = defaultdict(set)
    for key in keys:
        if len(key) > 1 and _MARK.match(key[-1]):
            firsts[key[1:-1], key[-1]].add(key[0])
    # Fewer alternatives: marks after the same letters together, then what is between likewise.
    marks: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (between, mark), letters in firsts.items():
        marks[_class(letters), between].add(mark)
    betweens: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    for (letters_class, between), found in marks.items():
        betweens[letters_class, _class(found), len(between)].add(between)
    alternatives = []
    for (letters_class, marks_class, length), between_set in sorted(betweens.items()):
        middle = ""
        if length == 1:
            middle = _class(between_set)
        elif length:
            middle = f"(?:{'|'.join(sorted(between_set))})"
        alternatives.append(f"(?<={letters_class}{middle})(?={marks_class})")
    # Marks are looked for first, since most places have none.
    return f"{BEFORE_MARKS}(?:{'|'.join(alternatives)})" if alternatives else ""


def _class(characters: Iterable[str]) -> str:
    codes = sorted(map(ord, characters))
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "[" + "".join(rf"\x{{{a:x}}}-\x{{{b:x}}}" for a, b in ranges) + "]"
