"""Fields that requests of several dialects have: what each may hold, and what it is read as."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from jumplora_adapters import sampling_bounds as bounds
from jumplora_server.options import LONGEST_OPTION, MOST_OPTIONS, find_fault


class Received(BaseModel):
    """A part of a request. Unknown fields are refused by name, types are not converted."""

    # A traceback must not show a prompt.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    unlisted: ClassVar[frozenset[str]] = frozenset()
    """Fields that are taken, but that a message does not name as allowed."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, value: Any) -> Any:
        if isinstance(value, dict):
            unknown = (key for key in value if key not in cls.model_fields)
            if first := list(islice(unknown, 5)):
                for name in first:
                    cls._refuse_outside(name)
                # Inherited ones, which come first there, matter less.
                allowed = sorted(
                    (name for name in cls.model_fields if name not in cls.unlisted),
                    key=lambda name: name not in cls.__annotations__,
                )
                raise ValueError(
                    f"unknown field {', '.join(map(cls._shown, first))}; "
                    f"allowed are {', '.join(allowed)}"
                )
        return value

    @classmethod
    def _refuse_outside(cls, name: object) -> None:
        """Say where a field belongs that `parameters` has, and that was given beside it."""
        inner = cls.model_fields.get("parameters")
        of_inner = {} if inner is None else getattr(inner.annotation, "model_fields", {})
        if name in of_inner:
            where = f'{{"parameters": {{"{name}": ...}}}}'
            raise ValueError(f"{name} belongs in parameters: {where}")

    @classmethod
    def _shown(cls, name: object) -> str:
        shown = ascii(str(name)[:64])
        close = difflib.get_close_matches(shown[1:-1], cls.model_fields, n=1)
        return f"{shown} (did you mean {close[0]}?)" if close else shown


def check_unicode(text: str, where: str = "") -> str:
    """Return a text that has characters alone unchanged. Raises ValueError."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where}is not valid Unicode: half a surrogate pair") from None
    return text


def _prompts(value: object) -> object:
    texts = value if isinstance(value, list) else [value]
    if not texts:
        raise ValueError("the list is empty; give at least one string")
    for index, text in enumerate(texts):
        where = f"item {index} " if isinstance(value, list) else ""
        if not isinstance(text, str):
            raise ValueError(f"{where}must be a string, or the whole a list of strings")
        if not text:
            raise ValueError(f"{where}is empty; give at least one character")
        check_unicode(text, where)
    return value


Prompts = Annotated[
    str | list[str],
    BeforeValidator(_prompts),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
            ]
        }
    ),
]
StopString = Annotated[str, StringConstraints(min_length=1, max_length=bounds.MAX_STOP_CHARS)]


def _temperature(value: float) -> float:
    if value and not bounds.TEMPERATURE.allows(value):
        raise ValueError(f"{value:g} was given, but 0 or {bounds.TEMPERATURE} is allowed")
    return value


Temperature = Annotated[
    float,
    AfterValidator(_temperature),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": 0},
                {
                    "type": "number",
                    "minimum": bounds.TEMPERATURE.least,
                    "maximum": bounds.TEMPERATURE.most,
                },
            ]
        }
    ),
]


def _early_stopping(value: object) -> object:
    if value is None or isinstance(value, bool) or value == "never":
        return value
    raise ValueError('must be true, false or "never"')


EarlyStopping = Annotated[bool | Literal["never"] | None, BeforeValidator(_early_stopping)]


OPTIONS: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "maxItems": MOST_OPTIONS,
    "items": {"type": "string", "minLength": 1, "maxLength": LONGEST_OPTION},
}


def check_options(texts: Sequence[object], name: str = "") -> None:
    """Raise ValueError. `name` is what the list is called within its field, if it has a name."""
    if not 1 <= len(texts) <= MOST_OPTIONS:
        given = f"{name}: {len(texts)}" if name else f"{len(texts)}"
        raise ValueError(f"{given} options given; 1 to {MOST_OPTIONS} are allowed")
    if (fault := find_fault(texts)) is not None:
        where = f"{name}[{fault.index}]" if name else f"item {fault.index}"
        raise ValueError(f"{where} {fault.what}")


def _choices(value: object) -> object:
    if value is None or isinstance(value, bool):
        return value or None
    if not isinstance(value, list):
        raise ValueError(
            "must be true, for the options of the adapter's prompt, or a list of texts"
        )
    check_options(value)
    return value


ChoicesGiven = Annotated[
    Literal[True] | list[str] | None,
    BeforeValidator(_choices),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "boolean", "description": "false: no choices"},
                OPTIONS,
                {"type": "null"},
            ]
        }
    ),
]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
