"""What `/v1/completions` and `/v1/chat/completions` have in common: from a body to an Ask, and the
parts of answers that are the same.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fastapi import Request
from pydantic import BaseModel

from jumplora_server.api.answering import EventStream
from jumplora_server.api.ask import Ask, Caller, ChoicesAsked, FieldNames, Origin, Result, record_of
from jumplora_server.api.errors import fault_of
from jumplora_server.api.openai.answers import (
    ChatChoice,
    CompletionChoice,
    FinishReason,
    OpenAiError,
    Usage,
    ranking_info,
)
from jumplora_server.api.openai.errors import OPENAI, error_object
from jumplora_server.api.openai.requests import OpenAiRequest
from jumplora_server.api.route import DialectRoute
from jumplora_server.api.task_names import HEADER, agreed_name, check_known_spec, is_backbone
from jumplora_server.core import Answer, Finish
from jumplora_server.core import FinishReason as Reason
from jumplora_server.errors import InvalidInput, ServerError
from jumplora_server.services import Services

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the answer; with `stream` a chunk for each token, then `[DONE]`",
        "content": {EventStream.media_type: {"schema": {"type": "string"}}},
    },
    **{status: {"model": OpenAiError} for status in (400, 401, 403, 404, 415, 429, 500, 503, 504)},
}
_NO_MODEL = 'model: is missing; name a task, as in {"model": "agnews"}. GET /v1/models lists them'
_FINISH_REASONS: Mapping[Reason, FinishReason] = {
    Reason.EOS_TOKEN: "stop",
    Reason.STOP_SEQUENCE: "stop",
    Reason.LENGTH: "length",
    Reason.ABSTAINED: "stop",
}


def finish_reason(ended: Answer | Finish) -> FinishReason:
    """Why an answer ends where it does."""
    return _FINISH_REASONS[ended.reason]


class OpenAiRoute(DialectRoute):
    """What a client of OpenAI's generates with."""

    dialect = OPENAI


def named_task(services: Services, model: str | None, header: str | None) -> str:
    """The task spec that is asked for. The backbone may be called by the name that it is served by.

    Raises InvalidInput, and UnknownTask for what cannot be a task's name.
    """
    given = {
        place: name for place, name in (("model", model), (HEADER, header)) if name is not None
    }
    spec = agreed_name(given, services.settings.default_task, _NO_MODEL)
    return services.settings.base_name if is_backbone(services, spec) else check_known_spec(spec)


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


@dataclass(frozen=True, slots=True)
class Head:
    """What all events of an answer have in common."""

    id: str
    created: int
    model: str

    @classmethod
    def of(cls, request: Request, prefix: str, model: str) -> Head:
        """Of a request that is answered now; its id is also in `x-request-id`."""
        return cls(f"{prefix}-{record_of(request.scope).request_id}", int(time.time()), model)


class OpenAiWriter(ABC):
    """An answer of either route: its head, its choices, the usage, its end and its errors."""

    kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    def __init__(self, body: OpenAiRequest, head: Head) -> None:
        options = body.stream_options
        self._answers = body.n or 1
        self._head = head
        self._has_usage = options is not None and options.include_usage is True
        self._completion_tokens = 0

    @abstractmethod
    def choice(self, number: int, answer: Answer) -> CompletionChoice | ChatChoice:
        """An answer; of the first prompt they are numbered from 0, then those of the second."""

    def piece(self, origin: Origin, index: int, result: Result) -> str:
        """The choices of one prompt."""
        del origin
        choices = []
        for number, answer in enumerate(result.answers, start=index * self._answers):
            self._completion_tokens += answer.generated_tokens
            choice = self.choice(number, answer)
            if result.ranking is not None:
                choice.ranking = ranking_info(result.ranking)
            choices.append(choice.model_dump_json(exclude_unset=True))
        return ",".join(choices)

    def whole(self, origin: Origin, pieces: Sequence[str]) -> str:
        """All choices, with the usage."""
        envelope, usage = self._envelope(origin, self.kind), self._usage(origin)
        choices = ",".join(pieces)
        return f'{_json(envelope)[:-1]},"choices":[{choices}],"usage":{usage.model_dump_json()}}}'

    def chunk(self, origin: Origin, choice: BaseModel, finish: Finish | None) -> bytes:
        """The event of one choice. Where the last event has the usage, the others have null."""
        if finish is not None:
            self._completion_tokens += finish.generated_tokens
        told = self._envelope(origin, self.chunk_kind)
        told["choices"] = [choice.model_dump(exclude_unset=True)]
        if self._has_usage:
            told["usage"] = None
        return _event(told)

    def ending(self, origin: Origin) -> bytes:
        """The usage where it was asked for, and the mark of the end."""
        done = b"data: [DONE]\n\n"
        if not self._has_usage:
            return done
        usage = {"choices": [], "usage": self._usage(origin).model_dump()}
        return _event(self._envelope(origin, self.chunk_kind) | usage) + done

    def broken_off(self, error: ServerError) -> bytes:
        """The error, as an event."""
        return _event(error_object(fault_of(error, OPENAI.statuses)))

    def _envelope(self, origin: Origin, kind: str) -> dict[str, Any]:
        ref, head = origin.ref, self._head
        return {
            "id": head.id,
            "object": kind,
            "created": head.created,
            "model": head.model,
            "system_fingerprint": None if ref is None else ref.version[:12],
        }

    def _usage(self, origin: Origin) -> Usage:
        prompt, completion = origin.prompt_tokens, self._completion_tokens
        return Usage(
            prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
        )


def _event(told: Mapping[str, object]) -> bytes:
    return b"data: " + _json(told).encode() + b"\n\n"


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, separators=(",", ":"))
