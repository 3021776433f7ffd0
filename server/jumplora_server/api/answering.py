"""An Ask to an HTTP response, whatever the dialect: one body, or a stream of events."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from dataclasses import replace
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from jumplora_server.api.ask import Ask, Origin, RequestRecord, Result, record_of
from jumplora_server.api.dialect import Dialect
from jumplora_server.api.errors import CLIENT_CLOSED_REQUEST
from jumplora_server.api.intake import Admitted, take_in
from jumplora_server.core import Answer, Finish, Sampling, Token, TokenEvent
from jumplora_server.errors import DeadlineExceeded
from jumplora_server.loop.outbox import CancelCause, Collected, failure_of, look_at
from jumplora_server.services import Services

_LAST_RESORT_SECONDS = 2.0
T = TypeVar("T")


class HungUp(Exception):
    """The client closed the connection before the answer."""


async def answer(request: Request, services: Services, ask: Ask, dialect: Dialect) -> Response:
    """All of it in one body. Raises server errors."""
    record = record_of(request.scope)
    admitted = await take_in(services, record, ask)
    cause: CancelCause = "error"  # also of the others when one of a list fails
    try:
        collected = [stream.collected() for streams in admitted.streams for stream in streams]
        if len(collected) > 1:
            work = asyncio.gather(*collected)
            ended = await unless_hung_up(request, work, _patience(services, admitted))
        else:
            (only,) = collected
            ended = [await unless_hung_up(request, only, _patience(services, admitted))]
    except HungUp:
        cause = "client_disconnect"
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except DeadlineExceeded:
        cause = "timeout"
        raise
    finally:
        admitted.cancel(cause)
    finishes = [finish for _, finish in ended]
    record.generated_tokens = sum(finish.generated_tokens for finish in finishes)
    pieces = []
    each = len(admitted.samplings)
    for first in range(0, len(ended), each):
        result = _result(admitted, ended[first : first + each], shows_tokens=ask.wants == "tokens")
        pieces.append(dialect.piece(admitted.origin, result))
        if ask.logprobs != "none":  # half a millisecond each, which others should not wait for
            await asyncio.sleep(0)
    headers = identity_headers(admitted.origin) | timing_headers(finishes)
    content = dialect.whole(ask, pieces)
    return Response(content, media_type="application/json", headers=headers)


def _result(admitted: Admitted, ended: Sequence[Collected], *, shows_tokens: bool) -> Result:
    """Of one prompt, whose sequences these are: the best answers of all."""
    answers: list[Answer] = []
    for (tokens, finish), sampling in zip(ended, admitted.samplings, strict=True):
        answers.extend(finish.answers or [answer_of(finish, sampling, tokens)])
    if len(answers) > 1:
        answers.sort(key=lambda a: -math.inf if a.score is None else a.score, reverse=True)
    best = answers[: admitted.answers]
    if not shows_tokens:
        best = [replace(answer, tokens=()) for answer in best]
    return Result(best, ended[0][1].prompt_tokens)


def answer_of(finish: Finish, sampling: Sampling, tokens: Sequence[Token]) -> Answer:
    """What one sequence that ended well came to."""
    seed = sampling.seed if sampling.mode == "sample" else None
    return Answer(
        tuple(tokens), finish.text, finish.reason, finish.generated_tokens, finish.score, seed
    )


async def stream(request: Request, services: Services, ask: Ask, dialect: Dialect) -> Response:
    """One prompt's events. Raises server errors, also that of a sequence that never began."""
    record = record_of(request.scope)
    admitted = await take_in(services, record, ask)
    ((only,),) = admitted.streams
    events = only.events()
    try:
        # The first event decides the status: a prompt that times out in the queue is still a 504.
        first = await unless_hung_up(request, anext(events), _patience(services, admitted))
        failure = None if first.finish is None else failure_of(first.finish)
        if failure is not None:
            raise failure
        return EventStream(admitted, record, dialect, first, events)
    except HungUp:
        admitted.cancel("client_disconnect")
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except BaseException as error:
        admitted.cancel("timeout" if isinstance(error, DeadlineExceeded) else "error")
        raise


class EventStream(StreamingResponse):
    """`first` and `rest` are the sequence's events; it is cancelled when the client goes away.

    A failure after the first event is a last event of its own, as the dialect writes it.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        admitted: Admitted,
        record: RequestRecord,
        dialect: Dialect,
        first: TokenEvent,
        rest: AsyncIterator[TokenEvent],
    ) -> None:
        headers = identity_headers(admitted.origin)
        # nginx would hold events back otherwise.
        headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
        self._admitted = admitted
        self._lines = _lines(admitted, record, dialect, first, rest)
        super().__init__(self._lines, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, or until the client hangs up."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._admitted.cancel("client_disconnect")
            await self._lines.aclose()


async def _lines(
    admitted: Admitted,
    record: RequestRecord,
    dialect: Dialect,
    first: TokenEvent,
    rest: AsyncIterator[TokenEvent],
) -> AsyncGenerator[bytes]:
    origin, (sampling,) = admitted.origin, admitted.samplings
    yield dialect.event(origin, sampling, 0, first)
    if first.finish is not None:
        return
    index = 0
    async for event in rest:
        index += 1
        record.generated_tokens = index + 1
        failure = None if event.finish is None else failure_of(event.finish)
        if failure is not None:
            yield dialect.broken_off(failure)
            return
        yield dialect.event(origin, sampling, index, event)


async def unless_hung_up(request: Request, work: Awaitable[T], seconds: float) -> T:
    """The result of `work`. The request's body must have been read.

    Raises HungUp, and DeadlineExceeded after `seconds`: a last resort, for the engine ends
    sequences at their deadline itself unless a step hangs. `work` is cancelled then.
    """
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait(
            {working, listening}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if working.done():
            return working.result()
        if listening.done():
            raise HungUp
        raise DeadlineExceeded(f"no answer within {seconds:.1f} s")
    finally:
        # How cancelled work ends is of no interest, and asyncio logs what is never looked at.
        working.add_done_callback(look_at)
        working.cancel()
        listening.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _patience(services: Services, admitted: Admitted) -> float:
    return max(0.0, admitted.deadline - services.clock()) + _LAST_RESORT_SECONDS


def identity_headers(origin: Origin) -> dict[str, str]:
    """Who answers; without an adapter only the number of tokens."""
    headers = {"x-prompt-tokens": str(origin.prompt_tokens)}
    if origin.ref is not None:
        headers["x-task-id"] = headers["x-adapter-id"] = origin.ref.task
        headers["x-adapter-version"] = origin.ref.version
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


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
