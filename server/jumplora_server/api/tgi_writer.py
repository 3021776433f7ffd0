"""How TGI's dialect, and LoRAX's, writes answers and errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jumplora_server.api.answering import answer_of
from jumplora_server.api.ask import Ask, Origin, Ranking, Result
from jumplora_server.api.dialect import Dialect, Fault
from jumplora_server.api.errors import PLAIN, error_body, fault_of
from jumplora_server.api.schemas import (
    Details,
    GenerateResponse,
    StreamDetails,
    StreamEvent,
    TokenInfo,
)
from jumplora_server.core import Answer, Sampling, Timing, Token, TokenEvent
from jumplora_server.errors import ServerError

# The types of errors that TGI's clients know, for the codes that they would not.
_TYPES = {
    "queue_full": "overloaded",
    "task_quota": "overloaded",
    "key_quota": "overloaded",
    "draining": "overloaded",
    "input_too_long": "validation",
}


def _typed_error(fault: Fault) -> dict[str, object]:
    """An error by TGI's type for it. Our own code is then the reason, if it has no other."""
    body = error_body(fault)
    if fault.code not in _TYPES:
        return body
    return body | {"error_type": _TYPES[fault.code], "reason": fault.reason or fault.code}


COMPATIBLE = Dialect(_typed_error)


class TgiWriter:
    """Answers as TGI writes them; at its route for old clients one answer is a list of one."""

    def __init__(self, ask: Ask, dialect: Dialect | None = None) -> None:
        self._dialect = dialect or PLAIN
        self._shows_timing = ask.wants == "tokens"
        self._is_list = ask.shape == "list" or self._dialect is COMPATIBLE

    def piece(self, origin: Origin, index: int, result: Result) -> str:
        """An object with the text and its details."""
        del index
        best, *others = result.answers
        details = _details(origin, best, result.prompt_tokens)
        if others:
            details["best_of_sequences"] = [
                {"generated_text": other.text, **_ending(other)} for other in others
            ]
        if result.ranking is not None:
            details |= _ranking(result.ranking)
        if self._shows_timing:
            details["timing"] = _timing(result.timing)
        return GenerateResponse(
            generated_text=best.text, details=Details.model_validate(details)
        ).model_dump_json()

    def whole(self, origin: Origin, pieces: Sequence[str]) -> str:
        """A list where a list was given."""
        del origin
        return f"[{','.join(pieces)}]" if self._is_list else pieces[0]

    def event(
        self, origin: Origin, number: int, sampling: Sampling, index: int, event: TokenEvent
    ) -> bytes:
        """A token; the last one has the whole text and the details."""
        del number
        finish, details = event.finish, None
        if finish is not None:
            whole = answer_of(finish, sampling, ())  # all tokens were shown before
            fields = _details(origin, whole, finish.prompt_tokens)
            details = StreamDetails.model_validate(
                {
                    **fields,
                    "input_length": finish.prompt_tokens,
                    "timing": _timing(finish.timing),
                }
            )
        told = StreamEvent(
            index=index,
            token=None if event.token is None else _token(event.token),
            generated_text=None if finish is None else finish.text,
            details=details,
        )
        return b"data:" + told.model_dump_json().encode() + b"\n\n"

    def ending(self, origin: Origin) -> bytes:
        """Nothing: the last event says that it is the last."""
        del origin
        return b""

    def broken_off(self, error: ServerError) -> bytes:
        """The error, as an event."""
        body = self._dialect.error(fault_of(error))
        return b"data:" + json.dumps(body).encode() + b"\n\n"


def _details(origin: Origin, answer: Answer, prompt_tokens: int) -> dict[str, Any]:
    return {
        **_ending(answer),
        "prompt_tokens": prompt_tokens,
        "task_id": None if origin.ref is None else origin.ref.task,
        "adapter_version": None if origin.ref is None else origin.ref.version,
    }


def _timing(timing: Timing) -> dict[str, float]:
    return {
        "queue_seconds": timing.queue,
        "encode_seconds": timing.encode,
        "decode_seconds": timing.decode,
        "total_seconds": timing.total,
    }


def _ranking(ranking: Ranking) -> dict[str, Any]:
    return {
        "choices": [option._asdict() for option in ranking.options],
        "mass": ranking.mass,
        "temperature": ranking.temperature,
        "calibrated_by": ranking.calibrated_by,
    }


def _ending(answer: Answer) -> dict[str, Any]:
    return {
        "finish_reason": answer.reason.value,
        "generated_tokens": answer.generated_tokens,
        "seed": answer.seed,
        "score": answer.score,
        "tokens": [_token(token) for token in answer.tokens],
    }


def _token(token: Token) -> TokenInfo:
    return TokenInfo(id=token.id, text=token.text, logprob=token.logprob, special=token.special)
