"""What clients send and get about choices; `schemas` has the rest."""

from __future__ import annotations

import operator
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from jumplora_server.options import LONGEST_OPTION, MOST_OPTIONS, find_fault


def _choices(value: object) -> object:
    if value is None or value is True:
        return value
    if not isinstance(value, list):
        raise ValueError(
            "must be true, for the options of the adapter's prompt, or a list of texts"
        )
    if not 1 <= len(value) <= MOST_OPTIONS:
        raise ValueError(f"{len(value)} options given; 1 to {MOST_OPTIONS} are allowed")
    if (fault := find_fault(value)) is not None:
        raise ValueError(f"item {fault.index} {fault.what}")
    return value


ChoicesGiven = Annotated[
    Literal[True] | list[str] | None,
    BeforeValidator(_choices),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": True, "type": "boolean"},
                {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MOST_OPTIONS,
                    "items": {"type": "string", "minLength": 1, "maxLength": LONGEST_OPTION},
                },
                {"type": "null"},
            ]
        }
    ),
]


class ChoiceInfo(BaseModel):
    """An option and how likely it is: among the options, and as the model has it."""

    text: str
    probability: float
    logprob: float | None = Field(
        description="natural, the end token included; null where it is too small to count"
    )


_IS_NONE = partial(operator.is_, None)  # asked for every answer, so without a frame of Python


def of_choices(description: str) -> Any:
    """A field of answers with choices, which others do not have."""
    return Field(default=None, exclude_if=_IS_NONE, description=description)
