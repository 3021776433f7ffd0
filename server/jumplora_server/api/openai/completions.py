"""OpenAI's `/v1/completions`: whole prompts, each with one answer or several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from jumplora_server.access.caller import Caller
from jumplora_server.api.answering import answer, stream
from jumplora_server.api.ask import Ask, Origin, record_of
from jumplora_server.api.health import WithServices
from jumplora_server.api.openai.answers import Completion, CompletionChoice, Logprobs
from jumplora_server.api.openai.generation import ANSWERS, Given, OpenAiRoute, make_ask, named_task
from jumplora_server.api.openai.requests import CompletionRequest
from jumplora_server.api.openai.writer import Head, OpenAiWriter, finish_reason
from jumplora_server.api.task_names import TaskHeader
from jumplora_server.core import Answer, Sampling, Token, TokenEvent
from jumplora_server.errors import InvalidInput
from jumplora_server.services import Services


def to_ask(services: Services, caller: Caller, task: str, body: CompletionRequest) -> Ask:
    """What a request wants. Raises InvalidInput."""
    if body.logprobs is not None and body.logprobs > 1:
        raise InvalidInput(
            f"logprobs: {body.logprobs} was given, but alternatives are not built here; 1 gives "
            "those of the answer's own tokens"
        )
    given = Given(
        prompts=body.prompt if isinstance(body.prompt, list) else [body.prompt],
        form="prompts",
        field="prompt",
        max_tokens=body.max_tokens,
        max_tokens_name="max_tokens",
        has_logprobs=body.logprobs is not None,
    )
    return make_ask(services, caller, task, body, given)


class CompletionWriter(OpenAiWriter):
    """Answers as `/v1/completions` writes them."""

    kind = chunk_kind = "text_completion"

    def __init__(self, body: CompletionRequest, head: Head) -> None:
        super().__init__(body, head)
        self._logprobs = body.logprobs
        self._offsets = Counter[int]()

    def choice(self, number: int, answer: Answer) -> CompletionChoice:
        """A whole answer."""
        return CompletionChoice(
            index=number,
            text=answer.text,
            logprobs=self._logprobs_of(number, answer.tokens),
            finish_reason=finish_reason(answer),
        )

    def event(
        self, origin: Origin, number: int, sampling: Sampling, index: int, event: TokenEvent
    ) -> bytes:
        """A token."""
        del sampling, index
        token, finish = event.token, event.finish
        choice = CompletionChoice(
            index=number,
            text="" if token is None else token.text,
            logprobs=self._logprobs_of(number, () if token is None else (token,)),
            finish_reason=None if finish is None else finish_reason(finish),
        )
        return self.chunk(origin, choice, finish)

    def _logprobs_of(self, number: int, tokens: Sequence[Token]) -> Logprobs | None:
        """Of an answer's next tokens; the length of its text so far is kept."""
        if self._logprobs is None:
            return None
        offsets = []
        for token in tokens:
            offsets.append(self._offsets[number])
            self._offsets[number] += len(token.text)
        return Logprobs(
            tokens=[token.text for token in tokens],
            token_logprobs=[token.logprob for token in tokens],
            top_logprobs=[{t.text: t.logprob} for t in tokens] if self._logprobs else None,
            text_offset=offsets,
        )


class CompletionRoute(OpenAiRoute):
    """What takes whole prompts."""

    body = CompletionRequest


router = APIRouter(tags=["openai"], route_class=CompletionRoute)


@router.post("/v1/completions", response_model=Completion, responses=ANSWERS)
async def create_completion(
    request: Request, services: WithServices, body: CompletionRequest, x_task_id: TaskHeader = None
) -> Response:
    """Answer whole prompts. With `stream` server-sent events, and `[DONE]` behind the last one."""
    caller = record_of(request.scope).caller
    task = named_task(services, caller, body.model, x_task_id)
    ask = to_ask(services, caller, task, body)
    writer = CompletionWriter(body, Head.of(request, "cmpl", body.model or task))
    return await (stream if body.stream else answer)(request, services, ask, writer)
