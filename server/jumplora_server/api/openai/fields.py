"""Fields of requests of OpenAI's and vLLM's APIs: what each may hold, and what it is read as."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from jumplora_adapters import sampling_bounds as bounds
from jumplora_server.api.fields import OPTIONS, Prompts, StopString, check_options
from jumplora_server.api.neutral import Neutral


def _top_k(value: object) -> object:
    return None if value in (0, -1) and not isinstance(value, bool) else value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _no_token_ids(value: object) -> object:
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise ValueError("token ids are not taken; give a string, or a list of strings")
    return value


def _choice(value: object) -> object:
    """The options of `{"choice": [...]}`. Of others, only null and false are taken."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError('must be an object, as {"choice": ["World", "Sports"]}')
    for name, given in value.items():
        if name != "choice" and given not in (None, False):
            raise ValueError(f"{str(name)[:64]!a} is not built here, only choice is")
    choice = value.get("choice")
    if choice is None or isinstance(choice, bool):
        return choice or None
    if not isinstance(choice, list):
        raise ValueError("choice must be a list of texts, or true for the adapter's own options")
    check_options(choice, "choice")
    return choice


Ignored = Annotated[Any, WithJsonSchema({"description": "taken, and has no effect"})]
Never = Annotated[None, Neutral(False)]
TopK = Annotated[
    Annotated[int, bounds.TOP_K.field()] | None,
    BeforeValidator(_top_k),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": -1}, {"type": "null"}]}),
]
TextPrompts = Annotated[Prompts, BeforeValidator(_no_token_ids)]
Stop = Annotated[
    Annotated[list[StopString], Field(max_length=bounds.MAX_STOPS)] | None,
    BeforeValidator(_listed),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": bounds.MAX_STOP_CHARS},
                {
                    "type": "array",
                    "maxItems": bounds.MAX_STOPS,
                    "items": {"type": "string", "minLength": 1, "maxLength": bounds.MAX_STOP_CHARS},
                },
                {"type": "null"},
            ]
        }
    ),
]
Choice = Annotated[
    list[str] | Literal[True] | None,
    BeforeValidator(_choice),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        "choice": {
                            "anyOf": [
                                OPTIONS,
                                {"type": "boolean"},
                            ]
                        }
                    },
                    "additionalProperties": False,
                },
                {"type": "null"},
            ]
        }
    ),
]
