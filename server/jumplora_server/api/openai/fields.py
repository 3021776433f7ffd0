"""Fields of requests of OpenAI's and vLLM's APIs: what each may hold, and what it is read as."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic_core import core_schema

from jumplora_adapters import sampling_bounds as bounds
from jumplora_server.api.schemas import Prompts, StopString
from jumplora_server.options import LONGEST_OPTION, MOST_OPTIONS, find_fault

_MAX_SHOWN = 60


def _shown(value: object) -> str:
    if not isinstance(value, str | int | float | bool | None) and value not in ([], {}):
        return f"a {type(value).__name__}"
    text = json.dumps(value[: _MAX_SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


class Neutral:
    """Marks a field that may be null or one of some values, which ask for nothing."""

    def __init__(self, *values: object, instead: str = "") -> None:
        self.values = (None, *values)
        give = (f"give {_shown(value)}" for value in values)
        self._instead = instead or " or ".join(["leave it out", *give])

    def check(self, value: object) -> object:
        """`value`, where it asks for nothing. Raises ValueError."""
        for one in self.values:
            if value == one and isinstance(value, bool) == isinstance(one, bool):
                return value
        raise ValueError(f"{_shown(value)} was given, which is not built here: {self._instead}")

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Check before the type is looked at."""
        return core_schema.no_info_before_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """All that is taken."""
        del schema, handler
        return {"enum": list(self.values)}


def _temperature(value: float) -> float:
    if value and not bounds.TEMPERATURE.allows(value):
        raise ValueError(f"{value:g} given; 0 or {bounds.TEMPERATURE} is allowed")
    return value


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
    if choice is None or choice is True:
        return choice
    if not isinstance(choice, list):
        raise ValueError("choice must be a list of texts, or true for the adapter's own options")
    if not 1 <= len(choice) <= MOST_OPTIONS:
        raise ValueError(f"choice has {len(choice)} texts; 1 to {MOST_OPTIONS} are allowed")
    if (fault := find_fault(choice)) is not None:
        raise ValueError(f"choice[{fault.index}] {fault.what}")
    return choice


Ignored = Annotated[Any, WithJsonSchema({"description": "taken, and has no effect"})]
Never = Annotated[Any, Neutral(False)]
NoPenalty = Annotated[Any, Neutral(0, instead="leave it out, or use repetition_penalty")]
Temperature = Annotated[
    float,
    AfterValidator(_temperature),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": bounds.TEMPERATURE.most}),
]
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
                                {
                                    "type": "array",
                                    "minItems": 1,
                                    "maxItems": MOST_OPTIONS,
                                    "items": {
                                        "type": "string",
                                        "minLength": 1,
                                        "maxLength": LONGEST_OPTION,
                                    },
                                },
                                {"const": True, "type": "boolean"},
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
Share = Annotated[float, Field(ge=0.0, le=1.0)]
