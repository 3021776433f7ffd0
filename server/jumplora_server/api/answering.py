"""An Ask to an HTTP response, whatever the dialect: one body, or a stream of events."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from jumplora_adapters.manifest import Calibration
from jumplora_server.api.ask import Ask, Origin, RequestRecord, Result, record_of
from jumplora_server.api.choices import Offer, choose
from jumplora_server.api.dialect import BodyWriter, Writer
from jumplora_server.api.errors import CLIENT_CLOSED_REQUEST
from jumplora_server.api.intake import Admitted, take_in
from jumplora_server.api.sight import error_for
from jumplora_server.core import Answer, Finish, Sampling, Token
from jumplora_server.errors import DeadlineExceeded
from jumplora_server.loop.outbox import (
    CancelCause,
    Collected,
    Numbered,
    failure_of,
    look_at,
    merged,
)
from jumplora_server.services import Services

_LAST_RESORT_SECONDS = 2.0
T = TypeVar("T")


class HungUp(Exception):
    """The client closed the connection before the answer."""


async def answer(request: Request, services: Services, ask: Ask, writer: BodyWriter) -> Response:
    """All of it in one body. Raises server errors."""

    def wait(work: Awaitable[T], seconds: float) -> Awaitable[T]:
        return unless_hung_up(request, work, seconds)

    try:
        whole = await answered(services, record_of(request.scope), ask, writer, wait)
    except HungUp:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return Response(whole.content, media_type="application/json", headers=whole.headers)


class Wait(Protocol):
    """Waits for a request's work, at most some seconds, while its client waits."""

    def __call__(self, work: Awaitable[T], seconds: float, /) -> Awaitable[T]:
        """The result of `work`. Raises HungUp, DeadlineExceeded."""


class Whole(NamedTuple):
    """An answer in one body."""

    content: str
    headers: dict[str, str]


async def answered(
    services: Services, record: RequestRecord, ask: Ask, writer: BodyWriter, wait: Wait
) -> Whole:
    """The answer to an Ask, wherever it is from. Raises server errors, and what `wait` raises."""
    admitted = await take_in(services, record, ask)
    cause: CancelCause = "error"  # also of the others when one of a list fails
    try:
        collected = [stream.collected() for streams in admitted.streams for stream in streams]
        if len(collected) > 1:
            ended = await wait(asyncio.gather(*collected), _patience(services, admitted))
        else:
            (only,) = collected
            ended = [await wait(only, _patience(services, admitted))]
        calibration = None
        if admitted.offer is not None:
            calibration = admitted.offer.calibration(services.residency)
    except HungUp:
        cause = "client_disconnect"
        raise
    except DeadlineExceeded:
        cause = admitted.late
        raise
    finally:
        admitted.cancel(cause)
    finishes = [finish for _, finish in ended]
    pieces: list[str] = []
    each = len(admitted.samplings)
    for first in range(0, len(ended), each):
        if admitted.offer is not None:
            result = _chosen(services, record, admitted.offer, calibration, finishes[first])
            (chosen,) = result.answers
            finishes[first] = replace(finishes[first], generated_tokens=chosen.generated_tokens)
        else:
            tokens = ask.wants == "tokens"
            result = _result(admitted, ended[first : first + each], shows_tokens=tokens)
        pieces.append(writer.piece(admitted.origin, len(pieces), result))
        if ask.logprobs != "none":  # half a millisecond each, which others should not wait for
            await asyncio.sleep(0)
    record.generated_tokens = sum(finish.generated_tokens for finish in finishes)
    headers = identity_headers(admitted.origin) | timing_headers(finishes) | admitted.headers
    return Whole(writer.whole(admitted.origin, pieces), headers)


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
    longest = max((finish.timing for _, finish in ended), key=lambda timing: timing.total)
    return Result(best, ended[0][1].prompt_tokens, longest)


def _chosen(
    services: Services,
    record: RequestRecord,
    offer: Offer,
    calibration: Calibration | None,
    finish: Finish,
) -> Result:
    """Of one prompt with choices."""
    chosen, ranking, cause = choose(offer, calibration, finish)
    services.metrics.chosen(record.task, ranking.mass, cause)
    return Result([chosen], finish.prompt_tokens, finish.timing, ranking)


def answer_of(finish: Finish, sampling: Sampling, tokens: Sequence[Token]) -> Answer:
    """What one sequence that ended well came to."""
    seed = sampling.seed if sampling.mode == "sample" else None
    return Answer(
        tuple(tokens), finish.text, finish.reason, finish.generated_tokens, finish.score, seed
    )


async def stream(request: Request, services: Services, ask: Ask, writer: Writer) -> Response:
    """The events of all sequences as they come. Raises server errors, also that of a sequence that
    never began."""
    record = record_of(request.scope)
    admitted = await take_in(services, record, ask)
    opened = [one for streams in admitted.streams for one in streams]
    events = opened[0].numbered(0) if len(opened) == 1 else merged(opened)
    try:
        # The first event decides the status: a prompt that times out in the queue is still a 504.
        first = await unless_hung_up(request, anext(events), _patience(services, admitted))
        finish = first.event.finish
        failure = None if finish is None else failure_of(finish)
        if failure is not None:
            raise failure
        return EventStream(admitted, record, writer, first, events)
    except HungUp:
        admitted.cancel("client_disconnect")
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except BaseException as error:
        admitted.cancel(_cause_of(error, admitted))
        raise


class EventStream(StreamingResponse):
    """`first` and `rest` are the sequences' events; all are cancelled when the client goes away.

    A failure after the first event is a last event of its own, as the dialect writes it; what the
    other sequences still do is then cancelled.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        admitted: Admitted,
        record: RequestRecord,
        writer: Writer,
        first: Numbered,
        rest: AsyncIterator[Numbered],
    ) -> None:
        headers = identity_headers(admitted.origin) | admitted.headers
        # nginx would hold events back otherwise.
        headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
        self._admitted = admitted
        self._lines = _lines(admitted, record, writer, first, rest)
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
    writer: Writer,
    first: Numbered,
    rest: AsyncIterator[Numbered],
) -> AsyncGenerator[bytes]:
    origin, samplings = admitted.origin, admitted.samplings
    indices = Counter[int]()
    yield writer.event(
        origin, first.number, samplings[first.number % len(samplings)], 0, first.event
    )
    indices[first.number] = 1
    async for number, event in rest:
        failure = None if event.finish is None else failure_of(event.finish)
        if failure is not None:
            admitted.cancel(_cause_of(failure, admitted))
            record.went_wrong(failure.code, failure.status)
            yield writer.broken_off(error_for(record.caller, failure))
            return
        sampling = samplings[number % len(samplings)]
        yield writer.event(origin, number, sampling, indices[number], event)
        indices[number] += 1
        record.generated_tokens = indices.total()
    if ending := writer.ending(origin):
        yield ending


def _cause_of(error: BaseException, admitted: Admitted) -> CancelCause:
    """How the other sequences of a request end when one of them ended so."""
    return admitted.late if isinstance(error, DeadlineExceeded) else "error"


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
    if origin.role == "staged":
        headers["x-adapter-stage"] = "staged"
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
