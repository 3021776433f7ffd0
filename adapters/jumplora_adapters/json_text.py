"""JSON from outside, read strictly: no key twice, finite numbers, no endless nesting."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from jumplora_adapters.errors import FormatCode, FormatError

MAX_DEPTH = 64  # arrays and objects inside each other
TOO_DEEP = f"arrays and objects are nested deeper than {MAX_DEPTH} levels"


class DuplicateKey(ValueError):
    """A key that appears twice in one object."""


def parse_json(text: str, *, code: FormatCode) -> Any:
    """The value of a JSON document. Raises FormatError (duplicate_key, else `code`)."""
    try:
        return read_json(text)
    except DuplicateKey as error:
        raise FormatError(str(error), code="duplicate_key") from error
    except ValueError as error:
        raise FormatError(f"not JSON that can be read: {error}", code=code) from error


def read_json(text: str) -> Any:
    """The value of a JSON document. Raises ValueError, DuplicateKey where a key comes twice."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    # Readers in other languages, and those that write it again, have other limits.
    if _is_deeper(value, MAX_DEPTH):
        raise ValueError(TOO_DEEP)
    return value


def _is_deeper(value: object, depth: int) -> bool:
    level = [value]
    for _ in range(depth + 1):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise DuplicateKey(f"the key {name[:80]!r} appears twice in one object")
        seen.add(name)
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(number: str) -> float:
    value = float(number)  # 1e999 is JSON, and infinite to Python
    if not math.isfinite(value):
        raise ValueError(f"{number[:40]} is larger than any 64-bit number")
    return value


def _whole(number: str) -> int:
    _finite(number)  # so that a computation in floats need not check it first
    return int(number)
