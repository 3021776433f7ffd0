"""Values of a stranger's adapter_config.json: of the type they should have, or a ConvertError."""

from __future__ import annotations

import math
from collections.abc import Mapping

from jumplora_adapters.errors import ConvertError
from jumplora_adapters.printable import shown

MAX_NAMES = 8192
MAX_SHOWN = 80


def said(value: object) -> str:
    """A value of the file as a message shows it."""
    return shown(repr(value), MAX_SHOWN)


def names_of(config: Mapping[str, object], field: str) -> str | tuple[str, ...] | None:
    """An expression, or a list of names."""
    value = config.get(field)
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ConvertError(f"{field} is {said(value)}, expected an expression or a list of names")
    if len(value) > MAX_NAMES:
        raise ConvertError(f"{field} has {len(value)} names, at most {MAX_NAMES} are read")
    return tuple(value)


def pattern_of(config: Mapping[str, object], field: str) -> dict[str, object]:
    """An object by module names; empty if the field is."""
    value = config.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConvertError(f"{field} is {said(value)}, expected an object of module names")
    if len(value) > MAX_NAMES:
        raise ConvertError(f"{field} has {len(value)} names, at most {MAX_NAMES} are read")
    return value


def text_of(config: Mapping[str, object], field: str) -> str | None:
    """A text; None if it is empty."""
    value = config.get(field)
    if value is not None and not isinstance(value, str):
        raise ConvertError(f"{field} is {said(value)}, expected a text")
    return value or None


def flag_of(config: Mapping[str, object], field: str, default: bool = False) -> bool:
    """True or false; null is false."""
    value = config.get(field, default)
    if value is not None and not isinstance(value, bool):
        raise ConvertError(f"{field} is {said(value)}, expected true or false")
    return bool(value)


def rank_of(field: str, value: object) -> int:
    """A rank of a field's value."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConvertError(f"{field} is {said(value)}, expected a whole number from 1")
    return value


def alpha_of(field: str, value: object) -> float:
    """What is divided by a rank, of a field's value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConvertError(f"{field} is {said(value)}, expected a number")
    try:
        alpha = float(value)
    except OverflowError:
        alpha = math.inf
    if not math.isfinite(alpha) or alpha == 0:
        raise ConvertError(f"{field} is {said(value)}, expected a finite number that is not zero")
    return alpha
