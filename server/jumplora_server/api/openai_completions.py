"""OpenAI's `/v1/completions`: whole prompts, each with one answer or several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from jumplora_server.api.answering import answer, stream
from jumplora_server.api.ask import Ask, Caller, Origin, Result, record_of
from jumplora_server.api.health import WithServices
from jumplora_server.api.openai import (
    ERRORS,
    FINISH_REASONS,
    Head,
    OpenAiRoute,
    OpenAiWriter,
    TaskHeader,
    choices_of,
    field_names,
    named_task,
    parameters_of,
    truncate_of,
)
from jumplora_server.api.openai_answers import (
    Completion,
    CompletionChoice,
    Logprobs,
    ranking_info,
)
from jumplora_server.api.openai_schemas import CompletionRequest
from jumplora_server.core import Sampling, Token, TokenEvent
from jumplora_server.errors import InvalidInput
from jumplora_server.services import Services

_KIND = "text_completion"


def to_ask(services: Services, caller: Caller, body: CompletionRequest, task: str) -> Ask:
    """What a request wants. Raises InvalidInput."""
    if body.logprobs is not None and body.logprobs > 1:
        raise InvalidInput(
            f"logprobs: {body.logprobs} was given, but alternatives are not built here; 1 gives "
            "those of the answer's own tokens"
        )
    has_logprobs = body.logprobs is not None
    timeout = body.timeout_ms
    return Ask(
        caller=caller,
        task=task,
        prompts=body.prompt if isinstance(body.prompt, list) else [body.prompt],
        form="prompts",
        shape="list",
        wants="tokens" if body.stream or has_logprobs else "end",
        names=field_names("prompt"),
        parameters=parameters_of(body, services, body.max_tokens),
        logprobs="chosen" if has_logprobs else "none",
        streamed="several" if body.stream else "no",
        choices=choices_of(body, has_logprobs=has_logprobs),
        truncate=truncate_of(body, services),
        timeout_seconds=None if timeout is None else timeout / 1000,
    )


class CompletionWriter(OpenAiWriter):
    """Answers as `/v1/completions` writes them."""

    def __init__(self, ask: Ask, body: CompletionRequest, head: Head) -> None:
        super().__init__(ask, body, head)
        self._shows_top = body.logprobs == 1
        self._offsets = Counter[int]()

    def piece(self, origin: Origin, index: int, result: Result) -> str:
        """The choices of one prompt."""
        del origin
        choices = []
        for number, each in enumerate(result.answers, start=index * self.answers):
            self.count(each.generated_tokens)
            choice = CompletionChoice(
                index=number,
                text=each.text,
                logprobs=self._logprobs(number, each.tokens),
                finish_reason=FINISH_REASONS[each.reason],
            )
            if result.ranking is not None:
                choice.ranking = ranking_info(result.ranking)
            choices.append(choice.model_dump_json(exclude_unset=True))
        return ",".join(choices)

    def whole(self, origin: Origin, pieces: Sequence[str]) -> str:
        """All choices, with the usage."""
        return self.body(self.envelope(origin, _KIND), origin, ",".join(pieces))

    def event(
        self, origin: Origin, number: int, sampling: Sampling, index: int, event: TokenEvent
    ) -> bytes:
        """A token."""
        del sampling, index
        token, finish = event.token, event.finish
        if finish is not None:
            self.count(finish.generated_tokens)
        choice = CompletionChoice(
            index=number,
            text="" if token is None else token.text,
            logprobs=self._logprobs(number, () if token is None else (token,)),
            finish_reason=None if finish is None else FINISH_REASONS[finish.reason],
        )
        return self.chunk(self.envelope(origin, _KIND), choice)

    def ending(self, origin: Origin) -> bytes:
        """The usage where it was asked for, and the mark of the end."""
        return self.end(self.envelope(origin, _KIND), origin)

    def _logprobs(self, number: int, tokens: Sequence[Token]) -> Logprobs | None:
        """Of the next tokens of an answer; what it has of them so far is counted."""
        if not self.shows_logprobs:
            return None
        offsets = []
        for token in tokens:
            offsets.append(self._offsets[number])
            self._offsets[number] += len(token.text)
        return Logprobs(
            tokens=[token.text for token in tokens],
            token_logprobs=[token.logprob for token in tokens],
            top_logprobs=[{t.text: t.logprob} for t in tokens] if self._shows_top else None,
            text_offset=offsets,
        )


class CompletionRoute(OpenAiRoute):
    """What takes whole prompts."""

    body = CompletionRequest


router = APIRouter(tags=["openai"], route_class=CompletionRoute)


@router.post("/v1/completions", response_model=Completion, responses=ERRORS)
async def completions(
    request: Request, services: WithServices, body: CompletionRequest, x_task_id: TaskHeader = None
) -> Response:
    """Answer whole prompts; with `stream` as server-sent events, whose last one is `[DONE]`."""
    task = named_task(services, body.model, x_task_id)
    ask = to_ask(services, record_of(request.scope).caller, body, task)
    writer = CompletionWriter(ask, body, Head.of(request, "cmpl", body.model or task))
    work = stream if body.stream else answer
    return await work(request, services, ask, writer)
