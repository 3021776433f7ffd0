"""What `/v1/completions` and `/v1/chat/completions` have in common: from a body to an Ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jumplora_server.access.caller import Caller
from jumplora_server.api.answering import EventStream
from jumplora_server.api.ask import Ask, ChoicesAsked, FieldNames
from jumplora_server.api.openai.answers import OpenAiError
from jumplora_server.api.openai.errors import OPENAI
from jumplora_server.api.openai.requests import OpenAiRequest
from jumplora_server.api.route import DialectRoute
from jumplora_server.api.task_names import (
    HEADER,
    NONE_YET,
    agreed_name,
    check_known_spec,
    default_task,
    has_tasks,
)
from jumplora_server.errors import InvalidInput
from jumplora_server.services import Services

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the answer; with `stream` a chunk for each token, then `[DONE]`",
        "content": {EventStream.media_type: {"schema": {"type": "string"}}},
    },
    **{status: {"model": OpenAiError} for status in (400, 401, 403, 404, 415, 429, 500, 503, 504)},
}
_NO_MODEL = 'model: is missing; name a task, as in {"model": "agnews"}. GET /v1/models lists them'


class OpenAiRoute(DialectRoute):
    """What a client of OpenAI's generates with."""

    dialect = OPENAI


def named_task(services: Services, caller: Caller, model: str | None, header: str | None) -> str:
    """The task spec that is asked for. The backbone may be called by the name that it is served by.

    Raises InvalidInput, and UnknownTask for what cannot be a task's name.
    """
    given = {
        place: name for place, name in (("model", model), (HEADER, header)) if name is not None
    }
    is_known = given or has_tasks(services, caller)  # looked up only where it matters
    missing = _NO_MODEL if is_known else f"model: is missing, and {NONE_YET}"
    spec = agreed_name(given, default_task(services, caller), missing)
    return services.settings.base_name if spec == services.served_name else check_known_spec(spec)


@dataclass(frozen=True, slots=True)
class Given:
    """What a route reads in its own way: `max_tokens` has its name in the body beside it."""

    prompts: Sequence[str]
    form: Literal["prompts", "texts"]
    field: str
    max_tokens: int | None
    max_tokens_name: str
    has_logprobs: bool


def make_ask(
    services: Services, caller: Caller, task: str, body: OpenAiRequest, given: Given
) -> Ask:
    """What a request wants. Raises InvalidInput."""
    truncate, timeout = body.truncate_prompt_tokens, body.timeout_ms
    return Ask(
        caller=caller,
        task=task,
        prompts=given.prompts,
        form=given.form,
        shape="list",
        wants="tokens" if body.stream or given.has_logprobs else "end",
        names=_field_names(given),
        parameters=_parameters(body, given.max_tokens, services.limits.max_target_tokens),
        logprobs="chosen" if given.has_logprobs else "none",
        streamed="several" if body.stream else "no",
        choices=_choices(body, has_logprobs=given.has_logprobs),
        truncate=services.limits.max_source_tokens if truncate == -1 else truncate,
        timeout_seconds=None if timeout is None else timeout / 1000,
    )


def _field_names(given: Given) -> FieldNames:
    renamed = {
        "max_new_tokens": given.max_tokens_name,
        "min_new_tokens": "min_tokens",
        "truncate": "truncate_prompt_tokens",
        "choices": "structured_outputs.choice",
    }
    return FieldNames(
        given.field,
        renamed=renamed,
        whole="give the whole prompt to /v1/completions",
        sampled="set temperature over 0",
    )


def _parameters(body: OpenAiRequest, max_tokens: int | None, most: int) -> dict[str, Any]:
    """How to generate, by the names of a manifest. More than `most` tokens mean `most`.

    What cannot have an effect is left out: all where one of some choices is wanted; top_p, top_k
    and seed at temperature 0.
    """
    if body.structured_outputs is not None:
        return {}
    asked = {
        "max_new_tokens": None if max_tokens is None else min(max_tokens, most),
        "min_new_tokens": body.min_tokens,
        "repetition_penalty": body.repetition_penalty,
        "no_repeat_ngram_size": body.no_repeat_ngram_size,
        "num_beams": body.num_beams,
        "length_penalty": body.length_penalty,
        "early_stopping": body.early_stopping,
        "stop": body.stop,
        "n": body.n,
    }
    if body.best_of is not None and body.best_of != (body.n or 1):
        asked |= {"n": body.n or 1, "best_of": body.best_of}
    if body.temperature == 0:
        asked["do_sample"] = False
    else:
        asked |= {"temperature": body.temperature, "top_k": body.top_k, "seed": body.seed}
        if body.temperature is not None or body.top_p != 1:  # alone it asks for nothing
            asked["top_p"] = body.top_p
    return {name: value for name, value in asked.items() if value is not None}


def _choices(body: OpenAiRequest, *, has_logprobs: bool) -> ChoicesAsked | None:
    choice = body.structured_outputs
    if choice is None:
        for name in ("min_probability", "min_mass"):
            if getattr(body, name) is not None:
                raise InvalidInput(f"{name}: has no effect without structured_outputs.choice")
        return None
    counts = {"n": body.n, "best_of": body.best_of, "num_beams": body.num_beams}
    for name, count in counts.items():
        if count is not None and count > 1:
            raise InvalidInput(f"{name}: a choice is one answer; leave it out, or give 1")
    if body.stream:
        raise InvalidInput("stream: a choice comes whole; leave it out, or give false")
    if has_logprobs:
        raise InvalidInput("logprobs: a choice has a ranking instead; leave it out")
    options = None if choice is True else tuple(choice)
    return ChoicesAsked(options, body.min_probability, body.min_mass)
