"""What goes back: bodies, headers and events, built from finished sequences. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from jumplora_server.api.admit import Admitted
from jumplora_server.api.errors import shown_message
from jumplora_server.api.schemas import Details, GenerateResponse, StreamEvent, TokenInfo
from jumplora_server.api.stream import shown_seed
from jumplora_server.core import Finish, Token, TokenEvent
from jumplora_server.errors import ServerError


def token_info(token: Token) -> TokenInfo:
    """A token as clients see it."""
    return TokenInfo(id=token.id, text=token.text, logprob=token.logprob, special=token.special)


def details(admitted: Admitted, index: int, finish: Finish, tokens: Sequence[Token]) -> Details:
    """The details of one answer; `finish` ended well."""
    return Details.model_validate(
        {
            "finish_reason": finish.reason.value,
            "prompt_tokens": finish.prompt_tokens,
            "generated_tokens": finish.generated_tokens,
            "seed": shown_seed(admitted.samplings[index]),
            "task_id": None if admitted.ref is None else admitted.ref.task,
            "adapter_version": None if admitted.ref is None else admitted.ref.version,
            "tokens": [token_info(token) for token in tokens],
        }
    )


def response_of(
    admitted: Admitted, index: int, tokens: Sequence[Token], finish: Finish
) -> GenerateResponse:
    """One answer; its tokens are listed if log-probabilities were asked."""
    wanted = tokens if admitted.samplings[index].logprobs == "chosen" else ()
    return GenerateResponse(
        generated_text=finish.text, details=details(admitted, index, finish, wanted)
    )


def identity_headers(admitted: Admitted) -> dict[str, str]:
    """Who answers; without an adapter only the tokens are told."""
    headers = {"x-prompt-tokens": str(admitted.prompt_tokens)}
    if admitted.ref is not None:
        headers["x-task-id"] = headers["x-adapter-id"] = admitted.ref.task
        headers["x-adapter-version"] = admitted.ref.version
    return headers


def timing_headers(finishes: Sequence[Finish]) -> dict[str, str]:
    """Whole milliseconds, as TGI. Of a list the longest times and the sums of tokens."""
    timings = [finish.timing for finish in finishes]
    generated = sum(finish.generated_tokens for finish in finishes)
    headers = {
        "x-queue-time": _milliseconds(max(t.queue for t in timings)),
        "x-inference-time": _milliseconds(max(t.encode + t.decode for t in timings)),
        "x-total-time": _milliseconds(max(t.total for t in timings)),
        "x-time-per-token": _milliseconds(
            max((f.timing.encode + f.timing.decode) / max(1, f.generated_tokens) for f in finishes)
        ),
        "x-generated-tokens": str(generated),
    }
    first = [t.first_token for t in timings if t.first_token is not None]
    if first:
        headers["x-time-to-first-token"] = _milliseconds(max(first))
    return headers


def stream_event(admitted: Admitted, index: int, event: TokenEvent) -> bytes:
    """One server-sent event; the last has the whole text and the details."""
    finish = event.finish
    told = StreamEvent(
        index=index,
        token=None if event.token is None else token_info(event.token),
        generated_text=None if finish is None else finish.text,
        details=None if finish is None else details(admitted, 0, finish, ()),
    )
    return b"data:" + told.model_dump_json().encode() + b"\n\n"


def error_event(error: ServerError) -> bytes:
    """The last event of a stream that broke off after it had begun."""
    body = {"error": shown_message(error.message), "error_type": error.code}
    return b"data:" + json.dumps(body).encode() + b"\n\n"


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
