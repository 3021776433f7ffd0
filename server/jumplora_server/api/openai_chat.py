"""OpenAI's `/v1/chat/completions`: one text for an adapter's template, which it answers."""

from __future__ import annotations

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
    ChatChoice,
    ChatCompletion,
    ChatLogprob,
    ChatLogprobs,
    ChunkChoice,
    Delta,
    Message,
    TopLogprob,
    ranking_info,
)
from jumplora_server.api.openai_schemas import ChatRequest
from jumplora_server.core import Sampling, Token, TokenEvent
from jumplora_server.errors import InvalidInput
from jumplora_server.services import Services

_WHOLE, _CHUNK = "chat.completion", "chat.completion.chunk"


def to_ask(services: Services, caller: Caller, body: ChatRequest, task: str) -> Ask:
    """What a request wants. Raises InvalidInput."""
    top = body.top_logprobs
    if top is not None and top > 1:
        raise InvalidInput(
            f"top_logprobs: {top} was given, but alternatives are not built here; 1 gives the "
            "answer's own tokens"
        )
    if top and not body.logprobs:
        raise InvalidInput("top_logprobs: has no effect without logprobs; set logprobs to true")
    has_logprobs, timeout = body.logprobs is True, body.timeout_ms
    newer, older = body.max_completion_tokens, body.max_tokens
    if newer is not None and older is not None and newer != older:
        raise InvalidInput(f"max_tokens: {older} was given, but {newer} as max_completion_tokens")
    name = "max_tokens" if newer is None else "max_completion_tokens"
    return Ask(
        caller=caller,
        task=task,
        prompts=[body.messages],
        form="texts",
        shape="one",
        wants="tokens" if body.stream or has_logprobs else "end",
        names=field_names("messages", name),
        parameters=parameters_of(body, services, older if newer is None else newer),
        logprobs="chosen" if has_logprobs else "none",
        streamed="several" if body.stream else "no",
        choices=choices_of(body, has_logprobs=has_logprobs),
        truncate=truncate_of(body, services),
        timeout_seconds=None if timeout is None else timeout / 1000,
    )


class ChatWriter(OpenAiWriter):
    """Answers as `/v1/chat/completions` writes them."""

    def __init__(self, ask: Ask, body: ChatRequest, head: Head) -> None:
        super().__init__(ask, body, head)
        self._shows_top = body.top_logprobs == 1

    def piece(self, origin: Origin, index: int, result: Result) -> str:
        """The choices; there is one text."""
        del origin
        choices = []
        for number, each in enumerate(result.answers, start=index * self.answers):
            self.count(each.generated_tokens)
            choice = ChatChoice(
                index=number,
                message=Message(role="assistant", content=each.text, refusal=None),
                logprobs=self._logprobs(each.tokens),
                finish_reason=FINISH_REASONS[each.reason],
            )
            if result.ranking is not None:
                choice.ranking = ranking_info(result.ranking)
            choices.append(choice.model_dump_json(exclude_unset=True))
        return ",".join(choices)

    def whole(self, origin: Origin, pieces: Sequence[str]) -> str:
        """All choices, with the usage."""
        return self.body(self.envelope(origin, _WHOLE), origin, ",".join(pieces))

    def event(
        self, origin: Origin, number: int, sampling: Sampling, index: int, event: TokenEvent
    ) -> bytes:
        """A token; before the first one of an answer an event with its role."""
        del sampling
        token, finish = event.token, event.finish
        if finish is not None:
            self.count(finish.generated_tokens)
        envelope = self.envelope(origin, _CHUNK)
        choice = ChunkChoice(
            index=number,
            delta=Delta(content="" if token is None else token.text),
            logprobs=self._logprobs(() if token is None else (token,)),
            finish_reason=None if finish is None else FINISH_REASONS[finish.reason],
        )
        if index:
            return self.chunk(envelope, choice)
        role = Delta(role="assistant", content="")
        first = ChunkChoice(index=number, delta=role, logprobs=None, finish_reason=None)
        return self.chunk(envelope, first) + self.chunk(envelope, choice)

    def ending(self, origin: Origin) -> bytes:
        """The usage where it was asked for, and the mark of the end."""
        return self.end(self.envelope(origin, _CHUNK), origin)

    def _logprobs(self, tokens: Sequence[Token]) -> ChatLogprobs | None:
        if not self.shows_logprobs:
            return None
        content = []
        for token in tokens:
            spelt = list(token.text.encode()) or None
            top = TopLogprob(token=token.text, logprob=token.logprob, bytes=spelt)
            same = [top] if self._shows_top else []
            content.append(ChatLogprob(**dict(top), top_logprobs=same))
        return ChatLogprobs(content=content, refusal=None)


class ChatRoute(OpenAiRoute):
    """What takes a text for the template."""

    body = ChatRequest


router = APIRouter(tags=["openai"], route_class=ChatRoute)


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=ERRORS)
async def chat(
    request: Request, services: WithServices, body: ChatRequest, x_task_id: TaskHeader = None
) -> Response:
    """Answer the text of one user message; with `stream` as server-sent events."""
    task = named_task(services, body.model, x_task_id)
    ask = to_ask(services, record_of(request.scope).caller, body, task)
    writer = ChatWriter(ask, body, Head.of(request, "chatcmpl", body.model or task))
    work = stream if body.stream else answer
    return await work(request, services, ask, writer)
