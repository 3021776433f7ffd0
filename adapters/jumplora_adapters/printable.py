"""Texts of others, made safe to show: bounded, and without characters that act on what shows them.

Names, options and messages of an adapter come from whoever made the file.
"""

from __future__ import annotations

import re

# Characters that move a terminal's cursor, recolour it or reorder what stands there: C0 and C1
# controls, line and paragraph separators, bidirectional marks; and halves of surrogate pairs,
# which no terminal takes.
_ACTING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_KNOWN = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}


def printable(text: str) -> str:
    """`text` with everything that acts on a terminal written as an escape, line ends too."""
    return _ACTING.sub(_escape, text)


def shown(text: str, most: int) -> str:
    """`printable` of the first `most` characters, and how many were left out, if any were."""
    if len(text) <= most:
        return printable(text)
    return f"{printable(text[:most])}... ({len(text) - most} more characters)"


def _escape(match: re.Match[str]) -> str:
    return _KNOWN.get(match[0], f"\\u{ord(match[0]):04x}")
