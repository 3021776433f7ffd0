"""JSON from outside, read strictly: no key twice, finite numbers, no endless nesting."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from jumplora_adapters.errors import FormatCode, FormatError


def parse_json(text: str, *, code: FormatCode) -> Any:
    """The value of a JSON document. Raises FormatError (duplicate_key, else `code`)."""
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON that can be read: {error}", code=code) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise FormatError(
                f"the key {name[:80]!r} appears twice in one object", code="duplicate_key"
            )
        seen.add(name)
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(number: str) -> float:
    value = float(number)  # 1e999 is JSON, and infinite to Python
    if not math.isfinite(value):
        raise ValueError(f"{number[:40]} is larger than any 64-bit number")
    return value
