"""What clients of OpenAI's and vLLM's APIs send: names, types and bounds. Nothing here acts.

A value that would change an answer, and that is not built here, is refused by the field's name. A
value that asks for nothing is taken.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from jumplora_adapters import sampling_bounds as bounds
from jumplora_server.api.fields import EarlyStopping, Received, Share, Temperature
from jumplora_server.api.neutral import Neutral, NoPenalty
from jumplora_server.api.openai.fields import Choice, Ignored, Never, Stop, TextPrompts, TopK
from jumplora_server.api.openai.messages import MESSAGES, user_text


class Asked(Received):
    """A part of a request. It has many fields, so an unknown one gets the closest name alone."""

    hints: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """What to do instead of giving a field that other routes or servers have."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, value: Any) -> Any:
        for name in value if isinstance(value, dict) else ():
            if name not in cls.model_fields:
                shown = ascii(str(name)[:64])[1:-1]
                hint = cls.hints.get(shown)
                if hint is None and (
                    close := difflib.get_close_matches(shown, cls.model_fields, n=1)
                ):
                    hint = f"did you mean {close[0]}?"
                raise ValueError(
                    f"{shown}: is not a field of this route" + (f"; {hint}" if hint else "")
                )
        return value


class StreamOptions(Asked):
    """What a stream says beside its tokens."""

    include_usage: bool | None = Field(default=None, description="a last event with the usage")
    continuous_usage_stats: Never = None
    include_obfuscation: Ignored = None


_OF_CHOICE = "did you mean structured_outputs.choice?"
_HINTS = {"choice": _OF_CHOICE, "choices": _OF_CHOICE, "guided_choice": _OF_CHOICE}


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
    logit_bias: Annotated[None, Neutral({})] = None
    response_format: Annotated[
        None, Neutral({"type": "text"}, why="only structured_outputs.choice is built here")
    ] = None

    # vLLM's
    structured_outputs: Choice = Field(
        default=None,
        description="choice: the answer is one of these texts, or of the adapter's own (true)",
    )
    top_k: TopK = Field(default=None, description="0, -1: no limit")
    min_tokens: Annotated[int, bounds.MIN_NEW_TOKENS.field()] | None = None
    repetition_penalty: Annotated[float, bounds.REPETITION_PENALTY.field()] | None = None
    length_penalty: Annotated[float, bounds.LENGTH_PENALTY.field()] | None = None
    truncate_prompt_tokens: int | None = Field(
        default=None, ge=-1, le=32768, description="-1: to as many as are allowed"
    )
    use_beam_search: Annotated[None, Neutral(False, why="num_beams asks for beams here")] = None
    min_p: Annotated[None, Neutral(0)] = None
    ignore_eos: Never = None
    include_stop_str_in_output: Never = None
    return_token_ids: Never = None
    return_tokens_as_token_ids: Never = None
    skip_special_tokens: Annotated[None, Neutral(True)] = None
    add_special_tokens: Annotated[None, Neutral(True)] = None
    stop_token_ids: Annotated[None, Neutral([])] = None
    bad_words: Annotated[None, Neutral([])] = None
    allowed_token_ids: Annotated[None, Neutral()] = None
    logits_processors: Annotated[None, Neutral([])] = None
    prompt_logprobs: Annotated[None, Neutral()] = None

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

    hints: ClassVar[Mapping[str, str]] = MappingProxyType(
        _HINTS | {"messages": "give prompt; /v1/chat/completions takes messages"}
    )

    prompt: TextPrompts
    logprobs: int | None = Field(default=None, ge=0, description="0 or 1: those of the answer")
    echo: Never = None
    suffix: Annotated[None, Neutral("")] = None


class ChatRequest(OpenAiRequest):
    """A text for one task's template. `messages` is read as the text of its one user message."""

    hints: ClassVar[Mapping[str, str]] = MappingProxyType(
        _HINTS | {"prompt": "give messages; /v1/completions takes prompt"}
    )

    messages: Annotated[str, BeforeValidator(user_text), WithJsonSchema(MESSAGES)]
    max_completion_tokens: int | None = Field(
        default=None, ge=1, description="the newer name of max_tokens"
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0)
    tools: Annotated[None, Neutral([])] = None
    tool_choice: Annotated[None, Neutral("none", "auto")] = None
    functions: Annotated[None, Neutral([])] = None
    function_call: Annotated[None, Neutral("none", "auto")] = None
    modalities: Annotated[None, Neutral(["text"])] = None
    audio: Annotated[None, Neutral()] = None
    moderation: Annotated[None, Neutral()] = None
    web_search_options: Annotated[None, Neutral()] = None
    reasoning_effort: Annotated[None, Neutral("none")] = None
    verbosity: Annotated[None, Neutral("medium")] = None
    add_generation_prompt: Annotated[None, Neutral(True)] = None
    continue_final_message: Never = None
    chat_template: Annotated[None, Neutral()] = None
    chat_template_kwargs: Annotated[None, Neutral({})] = None
    documents: Annotated[None, Neutral([])] = None
    parallel_tool_calls: Ignored = None
    prediction: Ignored = None
