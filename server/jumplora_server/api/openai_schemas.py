"""What clients of OpenAI's and vLLM's APIs send: names, types and bounds. Nothing here acts.

A value that would change an answer, and that is not built here, is refused by the field's name. A
value that asks for nothing is taken.
"""

from __future__ import annotations

import difflib
import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import core_schema

from jumplora_adapters import sampling_bounds as bounds
from jumplora_server.api.openai_messages import MESSAGES, user_text
from jumplora_server.api.schemas import EarlyStopping, Prompts, Received, StopString

_MAX_SHOWN = 60


def _shown(value: object) -> str:
    if not isinstance(value, str | int | float | bool | None) and value not in ([], {}):
        return f"a {type(value).__name__}"
    text = json.dumps(value[: _MAX_SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


class Neutral:
    """Marks a field that may be null or one of some values, which ask for nothing."""

    def __init__(self, *values: object, instead: str = "") -> None:
        self._values = (None, *values)
        give = (f"give {_shown(value)}" for value in values)
        self._instead = instead or " or ".join(["leave it out", *give])

    def check(self, value: object) -> object:
        """`value`, where it asks for nothing. Raises ValueError."""
        for one in self._values:
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
        return {"enum": list(self._values)}


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
    if not isinstance(choice, list) or not choice:
        raise ValueError("choice must be a list of strings, or true for the adapter's own options")
    for index, option in enumerate(choice):
        if not isinstance(option, str) or not option:
            raise ValueError(f"choice[{index}] must be a string of at least one character")
        _check_unicode(f"choice[{index}]", option)
    return choice


def _check_unicode(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not valid Unicode: half a surrogate pair") from None


Ignored = Annotated[Any, WithJsonSchema({"description": "taken, and has no effect"})]
Never = Annotated[Any, Neutral(False)]
NoPenalty = Annotated[Any, Neutral(0, instead="leave it out, or use repetition_penalty")]
Temperature = Annotated[
    float,
    AfterValidator(_temperature),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": bounds.TEMPERATURE.most}),
]
TopK = Annotated[int, bounds.TOP_K.field()]
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
                                    "items": {"type": "string", "minLength": 1},
                                },
                                {"const": True},
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


class Asked(Received):
    """A part of a request. It has many fields, so an unknown one gets the closest name alone."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, value: Any) -> Any:
        for name in value if isinstance(value, dict) else ():
            if name not in cls.model_fields:
                shown = str(name)[:64]
                close = difflib.get_close_matches(shown, cls.model_fields, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ValueError(f"{shown}: is not a field of this route{hint}")
        return value


class StreamOptions(Asked):
    """What a stream says beside its tokens."""

    include_usage: bool | None = Field(default=None, description="a last event with the usage")
    continuous_usage_stats: Never = None
    include_obfuscation: Ignored = None


class OpenAiRequest(Asked):
    """What both routes take. What is not given comes from the adapter's manifest."""

    model: str | None = Field(
        default=None, description='"task" or "task@version"; GET /v1/models lists the tasks'
    )
    max_tokens: int | None = Field(
        default=None, ge=1, description="more than the server's limit means the limit"
    )
    temperature: Temperature | None = Field(
        default=None,
        description="0: nothing is drawn; null: what the adapter says, and where it says nothing 0",
    )
    top_p: Annotated[float, bounds.TOP_P.field()] | None = None
    n: Annotated[int, bounds.ANSWERS.field()] | None = None
    best_of: Annotated[int, bounds.ANSWERS.field()] | None = None
    seed: int | None = Field(default=None, ge=0, le=bounds.MAX_SEED)
    stop: Stop = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: NoPenalty = None
    frequency_penalty: NoPenalty = None
    logit_bias: Annotated[Any, Neutral({})] = None
    response_format: Annotated[
        Any, Neutral({"type": "text"}, instead="leave it out, or use structured_outputs.choice")
    ] = None

    # vLLM's
    structured_outputs: Choice = Field(
        default=None,
        description="choice: the answer is one of these texts, or of the adapter's own (true)",
    )
    top_k: Annotated[
        TopK | None,
        BeforeValidator(_top_k),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": -1}, {"type": "null"}]}),
    ] = None
    min_tokens: Annotated[int, bounds.MIN_NEW_TOKENS.field()] | None = None
    repetition_penalty: Annotated[float, bounds.REPETITION_PENALTY.field()] | None = None
    length_penalty: Annotated[float, bounds.LENGTH_PENALTY.field()] | None = None
    truncate_prompt_tokens: int | None = Field(
        default=None, ge=-1, le=32768, description="-1: to as many as are allowed"
    )
    use_beam_search: Annotated[Any, Neutral(False, instead="leave it out, and give num_beams")] = (
        None
    )
    min_p: Annotated[Any, Neutral(0)] = None
    ignore_eos: Never = None
    include_stop_str_in_output: Never = None
    return_token_ids: Never = None
    return_tokens_as_token_ids: Never = None
    skip_special_tokens: Annotated[Any, Neutral(True)] = None
    add_special_tokens: Annotated[Any, Neutral(True)] = None
    stop_token_ids: Annotated[Any, Neutral([])] = None
    bad_words: Annotated[Any, Neutral([])] = None
    allowed_token_ids: Annotated[Any, Neutral()] = None
    logits_processors: Annotated[Any, Neutral([])] = None
    prompt_logprobs: Annotated[Any, Neutral()] = None

    # ours
    min_probability: Share | None = Field(
        default=None, description="of structured_outputs.choice: abstain where the best has less"
    )
    min_mass: Share | None = Field(
        default=None, description="of structured_outputs.choice: abstain where all have less"
    )
    num_beams: Annotated[int, bounds.NUM_BEAMS.field()] | None = None
    early_stopping: EarlyStopping = None
    no_repeat_ngram_size: Annotated[int, bounds.NO_REPEAT_NGRAM_SIZE.field()] | None = None
    timeout_ms: int | None = Field(default=None, ge=1, le=3_600_000)

    # Who asks, and what else changes no answer
    user: Ignored = None
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    cache_salt: Ignored = None
    request_id: Ignored = None
    priority: Ignored = None
    spaces_between_special_tokens: Ignored = None


class CompletionRequest(OpenAiRequest):
    """Whole prompts for one task."""

    prompt: Annotated[Prompts, BeforeValidator(_no_token_ids)]
    logprobs: int | None = Field(default=None, ge=0, description="0 or 1: those of the answer")
    echo: Never = None
    suffix: Annotated[Any, Neutral("")] = None


class ChatRequest(OpenAiRequest):
    """A text for one task's template. `messages` is read as the text of its one user message."""

    messages: Annotated[str, BeforeValidator(user_text), WithJsonSchema(MESSAGES)]
    max_completion_tokens: int | None = Field(
        default=None, ge=1, description="the newer name of max_tokens"
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0)
    tools: Annotated[Any, Neutral([])] = None
    tool_choice: Annotated[Any, Neutral("none", "auto")] = None
    functions: Annotated[Any, Neutral([])] = None
    function_call: Annotated[Any, Neutral("none", "auto")] = None
    modalities: Annotated[Any, Neutral(["text"])] = None
    audio: Annotated[Any, Neutral()] = None
    moderation: Annotated[Any, Neutral()] = None
    web_search_options: Annotated[Any, Neutral()] = None
    reasoning_effort: Annotated[Any, Neutral("none")] = None
    verbosity: Annotated[Any, Neutral("medium")] = None
    add_generation_prompt: Annotated[Any, Neutral(True)] = None
    continue_final_message: Never = None
    chat_template: Annotated[Any, Neutral()] = None
    chat_template_kwargs: Annotated[Any, Neutral({})] = None
    documents: Annotated[Any, Neutral([])] = None
    parallel_tool_calls: Ignored = None
    prediction: Ignored = None
