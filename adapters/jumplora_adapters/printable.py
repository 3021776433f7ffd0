"""Texts of others, made safe to show: bounded, and without characters that act on what shows them.

Names, options and messages in an adapter come from the maker of the file.
"""

from __future__ import annotations

import json
import re

# Characters that move a terminal's cursor, recolour it, reorder what stands there or are not seen:
# the categories Cc, Cf, Zl and Zp of Unicode; and halves of surrogate pairs (Cs), which no terminal
# takes.
_ACTING = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f"
    "\u2028-\u202e\u2060-\u2064\u2066-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd"
    "\U00013430-\U00013438\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)
_MAX_VALUE_CHARS = 60
_KNOWN = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}


def printable(text: str) -> str:
    """`text` with everything that acts on a terminal written as an escape, line ends too."""
    return _ACTING.sub(_escape, text)


def shown(text: str, most: int) -> str:
    """`printable` of the first `most` characters, and how many were left out, if any were."""
    if len(text) <= most:
        return printable(text)
    return f"{printable(text[:most])}... ({len(text) - most} more characters)"


def shown_value(value: object) -> str:
    """A value of JSON: the beginning of a text, a number, or of others what kind of thing it is."""
    if not isinstance(value, str | int | float | bool | None) and value not in ([], {}):
        return f"a {type(value).__name__}"
    text = json.dumps(value[: _MAX_VALUE_CHARS + 1] if isinstance(value, str) else value)
    return text if len(text) <= _MAX_VALUE_CHARS else text[:_MAX_VALUE_CHARS] + "..."


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return _KNOWN.get(match[0], f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 row", "1,920 rows"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
