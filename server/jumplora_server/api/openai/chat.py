"""OpenAI's `/v1/chat/completions`: one text for an adapter's template, and its answers."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from jumplora_server.access.caller import Caller
from jumplora_server.api.answering import answer, stream
from jumplora_server.api.ask import Ask, Origin, record_of
from jumplora_server.api.health import WithServices
from jumplora_server.api.openai.answers import (
    ChatChoice,
    ChatCompletion,
    ChatLogprob,
    ChatLogprobs,
    ChunkChoice,
    Delta,
    Message,
    TopLogprob,
)
from jumplora_server.api.openai.generation import ANSWERS, Given, OpenAiRoute, make_ask, named_task
from jumplora_server.api.openai.requests import ChatRequest
from jumplora_server.api.openai.writer import Head, OpenAiWriter, finish_reason
from jumplora_server.api.task_names import TaskHeader
from jumplora_server.core import Answer, Sampling, Token, TokenEvent
from jumplora_server.errors import InvalidInput
from jumplora_server.services import Services


def to_ask(services: Services, caller: Caller, task: str, body: ChatRequest) -> Ask:
    """What a request wants. Raises InvalidInput."""
    top = body.top_logprobs
    if top is not None and top > 1:
        raise InvalidInput(
            f"top_logprobs: {top} was given, but alternatives are not built here; 1 gives the "
            "answer's own tokens"
        )
    if top and not body.logprobs:
        raise InvalidInput("top_logprobs: has no effect without logprobs; set logprobs to true")
    newer, older = body.max_completion_tokens, body.max_tokens
    if newer is not None and older is not None and newer != older:
        raise InvalidInput(
            f"max_tokens: {older} was given, but {newer} as max_completion_tokens; give one of them"
        )
    given = Given(
        prompts=[body.messages],
        form="texts",
        field="messages",
        max_tokens=older if newer is None else newer,
        max_tokens_name="max_tokens" if newer is None else "max_completion_tokens",
        has_logprobs=body.logprobs is True,
    )
    return make_ask(services, caller, task, body, given)


class ChatWriter(OpenAiWriter):
    """Answers as `/v1/chat/completions` writes them."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def __init__(self, body: ChatRequest, head: Head) -> None:
        super().__init__(body, head)
        self._has_logprobs = body.logprobs is True
        self._has_top = body.top_logprobs == 1

    def choice(self, number: int, answer: Answer) -> ChatChoice:
        """A whole answer."""
        return ChatChoice(
            index=number,
            message=Message(role="assistant", content=answer.text, refusal=None),
            logprobs=self._logprobs_of(answer.tokens),
            finish_reason=finish_reason(answer),
        )

    def event(
        self, origin: Origin, number: int, sampling: Sampling, index: int, event: TokenEvent
    ) -> bytes:
        """A token; before the first one of an answer an event with its role."""
        del sampling
        token, finish = event.token, event.finish
        choice = ChunkChoice(
            index=number,
            delta=Delta(content="" if token is None else token.text),
            logprobs=self._logprobs_of(() if token is None else (token,)),
            finish_reason=None if finish is None else finish_reason(finish),
        )
        told = self.chunk(origin, choice, finish)
        if index:
            return told
        role = Delta(role="assistant", content="")
        first = ChunkChoice(index=number, delta=role, logprobs=None, finish_reason=None)
        return self.chunk(origin, first, None) + told

    def _logprobs_of(self, tokens: Sequence[Token]) -> ChatLogprobs | None:
        if not self._has_logprobs:
            return None
        content = []
        for token in tokens:
            spelt = list(token.text.encode()) or None
            top = TopLogprob(token=token.text, logprob=token.logprob, bytes=spelt)
            same = [top] if self._has_top else []
            content.append(ChatLogprob(**dict(top), top_logprobs=same))
        return ChatLogprobs(content=content, refusal=None)


class ChatRoute(OpenAiRoute):
    """What takes a text for the template."""

    body = ChatRequest


router = APIRouter(tags=["openai"], route_class=ChatRoute)


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=ANSWERS)
async def create_chat_completion(
    request: Request, services: WithServices, body: ChatRequest, x_task_id: TaskHeader = None
) -> Response:
    """Answer the text of one user message. With `stream` server-sent events, and `[DONE]`."""
    caller = record_of(request.scope).caller
    task = named_task(services, caller, body.model, x_task_id)
    ask = to_ask(services, caller, task, body)
    writer = ChatWriter(body, Head.of(request, "chatcmpl", body.model or task))
    return await (stream if body.stream else answer)(request, services, ask, writer)
