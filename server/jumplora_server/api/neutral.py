"""What clients of TGI and LoRAX send although they ask for nothing by it: fields that are taken at
the values that change no answer, and refused by name at all others.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import CoreSchema, core_schema

from jumplora_adapters import sampling_bounds as bounds


class Only:
    """The value of a field that takes null and `values`, all of which mean None."""

    def __init__(self, why: str, *values: object) -> None:
        """`why` tells what the server does instead of what another value would ask for."""
        self._why = why
        self._values = values

    def _check(self, value: object) -> None:
        for allowed in (None, *self._values):
            # False is 0 in Python, and is another value in JSON.
            if value == allowed and isinstance(value, bool) == isinstance(allowed, bool):
                return
        shown = " or ".join(json.dumps(allowed) for allowed in self._values or (None,))
        raise ValueError(f"{self._why}; leave it out, or send {shown}")

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Pydantic asks how to validate."""
        del source, handler
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Pydantic asks what to document."""
        del schema, handler
        return {"enum": [None, *self._values]}


def _zero_or(value: object, otherwise: ValidatorFunctionWrapHandler) -> float:
    is_zero = isinstance(value, int | float) and not isinstance(value, bool) and value == 0
    return 0.0 if is_zero else float(otherwise(value))


Temperature = Annotated[
    float,
    bounds.TEMPERATURE.field(),
    WrapValidator(_zero_or),
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


_NO_GRAMMAR = "an answer is not held to a grammar or a schema here"
_NO_ALTERNATIVES = "only the chosen token of each step is listed here"
_NO_MERGING = "a request is answered by one task, never by a merge made for it"


class Neutral(BaseModel):
    """A part of the parameters. The server's own ones are `schemas.Parameters`."""

    typical_p: float | None = Field(
        default=None, gt=0, le=1, description="1; under 1 only where nothing is sampled"
    )
    frequency_penalty: Annotated[
        None, Only("there is no frequency_penalty here, only repetition_penalty", 0)
    ] = None
    presence_penalty: Annotated[
        None, Only("there is no presence_penalty here, only repetition_penalty", 0)
    ] = None
    watermark: Annotated[None, Only("answers have no watermark here", False)] = None
    return_full_text: Annotated[None, Only("an answer does not repeat its prompt here", False)] = (
        None
    )
    decoder_input_details: Annotated[
        None, Only("log-probabilities of the prompt are not computed here", False)
    ] = None
    top_n_tokens: Annotated[None, Only(_NO_ALTERNATIVES, 0)] = None
    return_k_alternatives: Annotated[None, Only(_NO_ALTERNATIVES, 0)] = None
    grammar: Annotated[None, Only(_NO_GRAMMAR)] = None
    response_format: Annotated[None, Only(_NO_GRAMMAR)] = None
    ignore_eos_token: Annotated[
        None, Only("an answer ends at its end token here, after min_new_tokens", False)
    ] = None
    apply_chat_template: Annotated[
        None, Only("inputs are raw prompts here, and text is for the adapter's template", False)
    ] = None
    adapter_source: Annotated[
        None, Only("adapters come from this server's store only", "local")
    ] = None
    adapter_parameters: Annotated[None, Only(_NO_MERGING)] = None
    merged_adapters: Annotated[None, Only(_NO_MERGING)] = None
    api_token: str | None = Field(
        default=None, repr=False, description="not used: adapters are in this server's store"
    )
