"""What clients of OpenAI's API get: the shapes of its `openai` package, and `ranking`.

Fields that have a default are sent only where they were set.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from jumplora_server.api.ask import Ranking

FinishReason = Literal["stop", "length"]


class ErrorObject(BaseModel):
    """What is wrong. `param` is the field that it is about, if it is about one."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAiError(BaseModel):
    """Every error below /v1, the routes of adapters and tasks apart."""

    error: ErrorObject


class ModelCard(BaseModel):
    """A task, or the backbone, which has no parent."""

    id: str
    object: Literal["model"]
    created: int = Field(description="seconds since 1970; 0: the adapter does not say")
    owned_by: Literal["jumplora"]
    root: str
    parent: str | None


class ModelList(BaseModel):
    """The backbone, then all tasks that the caller may see."""

    object: Literal["list"]
    data: list[ModelCard]


class Usage(BaseModel):
    """Tokens of all prompts, each counted once, and of all answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class OptionInfo(BaseModel):
    """An option of structured_outputs.choice."""

    text: str
    probability: float
    logprob: float | None


class RankingInfo(BaseModel):
    """All options, the likeliest first; `mass` is their share of all possible answers."""

    choices: list[OptionInfo]
    mass: float
    temperature: float
    calibrated_by: Literal["manifest", "nothing"]
    abstained: bool


def ranking_info(ranking: Ranking) -> RankingInfo:
    """A ranking as clients see it."""
    return RankingInfo(
        choices=[OptionInfo(**option._asdict()) for option in ranking.options],
        mass=ranking.mass,
        temperature=ranking.temperature,
        calibrated_by=ranking.calibrated_by,
        abstained=ranking.is_abstained,
    )


class Logprobs(BaseModel):
    """Of each token of the answer, the end token too, whose text is empty."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None]] | None = Field(
        description="with logprobs 1 the chosen token alone"
    )
    text_offset: list[int] = Field(description="where in the answer's text it begins")


class CompletionChoice(BaseModel):
    """An answer, or of a stream the next piece of it."""

    index: int = Field(description="prompt * n + answer")
    text: str
    logprobs: Logprobs | None
    finish_reason: FinishReason | None
    ranking: RankingInfo | None = None


class Completion(BaseModel):
    """All answers, or of a stream one event; its last one may have the usage alone."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str | None = Field(description="the beginning of the adapter's version")
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogprob(BaseModel):
    """A token; `bytes` is null where it completes no character."""

    token: str
    logprob: float | None
    bytes: list[int] | None


class ChatLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Of each token of the answer, the end token too, whose text is empty."""

    content: list[ChatLogprob]
    refusal: None


class Message(BaseModel):
    """The answer's text."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    """An answer."""

    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    ranking: RankingInfo | None = None


class ChatCompletion(BaseModel):
    """All answers."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str | None = Field(description="the beginning of the adapter's version")
    choices: list[ChatChoice]
    usage: Usage


class Delta(BaseModel):
    """What is new of an answer: first its role, then its text."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """The next piece of an answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
