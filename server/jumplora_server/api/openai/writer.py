"""What the answers of `/v1/completions` and `/v1/chat/completions` have in common, as written."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fastapi import Request
from pydantic import BaseModel

from jumplora_server.api.ask import Origin, Result, record_of
from jumplora_server.api.errors import fault_of
from jumplora_server.api.openai.answers import (
    ChatChoice,
    CompletionChoice,
    FinishReason,
    Usage,
    ranking_info,
)
from jumplora_server.api.openai.errors import OPENAI, error_object
from jumplora_server.api.openai.requests import OpenAiRequest
from jumplora_server.core import Answer, Finish
from jumplora_server.core import FinishReason as Reason
from jumplora_server.errors import ServerError

_FINISH_REASONS: Mapping[Reason, FinishReason] = {
    Reason.EOS_TOKEN: "stop",
    Reason.STOP_SEQUENCE: "stop",
    Reason.LENGTH: "length",
    Reason.ABSTAINED: "stop",
}


def finish_reason(ended: Answer | Finish) -> FinishReason:
    """Why an answer ends where it does."""
    return _FINISH_REASONS[ended.reason]


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
