"""What clients of the server's own routes and of TGI's send and get: names, types and fixed bounds.

Nothing here acts. Bounds that depend on the settings (token limits, list lengths) are checked where
the request is admitted; here are those that hold for every server.
"""

from __future__ import annotations

import operator
from functools import partial
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from jumplora_adapters.routing import MAX_SECONDS
from jumplora_server.api.fields import Prompts, Received
from jumplora_server.api.parameters import Parameters


class GenerateRequest(Received):
    """One prompt or a list of them, for one task."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"task_id": "agnews", "text": "Wall St. ends higher as oil prices ease"},
                {
                    "task_id": "dbpedia@9f2c4d1e",
                    "inputs": ["Text: The Aller is a river in Germany.\nAnswer:"],
                    "parameters": {"max_new_tokens": 8, "details": True},
                },
            ]
        }
    )

    task_id: str | None = Field(
        default=None, description='"task" or "task@version"; null: the bare backbone, if allowed'
    )
    adapter_id: str | None = Field(default=None, description="alias of task_id")
    model: str | None = Field(default=None, description="alias of task_id")
    inputs: Prompts | None = Field(default=None, description="raw prompt, or a list of them")
    text: Prompts | None = Field(
        default=None,
        description="text for the adapter's prompt template, or a list of them; control tokens in "
        "it, as </s>, are plain characters unless the server is set to read them",
    )
    parameters: Parameters = Parameters()
    stream: bool | None = Field(
        default=None, description="answer with server-sent events, as /generate_stream"
    )

    @model_validator(mode="after")
    def _one_of_inputs_and_text(self) -> Self:
        if (self.inputs is None) == (self.text is None):
            given = "neither was" if self.inputs is None else "both were"
            raise ValueError(f"give exactly one of inputs and text; {given} given")
        return self

    @property
    def prompts(self) -> list[str]:
        """The prompts or texts, in order; one where a plain string was given."""
        given = self.text if self.inputs is None else self.inputs
        return given if isinstance(given, list) else [given or ""]

    @property
    def shape(self) -> Literal["one", "list"]:
        """Whether the answer is an object or a list."""
        given = self.text if self.inputs is None else self.inputs
        return "list" if isinstance(given, list) else "one"


class TokenInfo(BaseModel):
    """A generated token; `text` is what became printable with it ("" inside a half character)."""

    id: int
    text: str
    logprob: float | None
    special: bool


_SEED = Field(description="repeat a sampled answer with it; null when greedy")
_SCORE = Field(
    default=None,
    description="the sum of its tokens' log-probabilities, divided by their number (with beams: to "
    "the power of length_penalty); null where neither details, several answers nor a stream were "
    "asked for",
)
_PREFILL: list[TokenInfo] = Field(default=[], description="always empty; TGI's clients require it")


class TimingInfo(BaseModel):
    """Where the time went, in seconds by the server's clock: of several sequences of one prompt,
    that of the one that took longest. With choices, decode is their comparison."""

    queue_seconds: float = Field(description="until a row was free")
    encode_seconds: float = Field(description="the prompt")
    decode_seconds: float = Field(description="the answer; other requests share these steps")
    total_seconds: float = Field(description="from arrival to the last token")


class ChoiceInfo(BaseModel):
    """An option and how likely it is: among the options, and as the model has it."""

    text: str
    probability: float
    logprob: float | None = Field(
        description="natural, the end token included; null where it is too small to count"
    )


_IS_NONE = partial(operator.is_, None)  # asked for every answer, so without a frame of Python


def _of_choices(description: str) -> Any:
    """A field of answers with choices, which others do not have."""
    return Field(default=None, exclude_if=_IS_NONE, description=description)


class BestOfSequence(BaseModel):
    """Another answer to the same prompt."""

    generated_text: str
    finish_reason: Literal["eos_token", "length", "stop_sequence"]
    generated_tokens: int
    seed: int | None = _SEED
    score: float | None = _SCORE
    prefill: list[TokenInfo] = _PREFILL
    tokens: list[TokenInfo] = []


class Details(BaseModel):
    """How an answer came about."""

    finish_reason: Literal["eos_token", "length", "stop_sequence", "abstained"]
    prompt_tokens: int
    generated_tokens: int
    seed: int | None = _SEED
    score: float | None = _SCORE
    task_id: str | None
    adapter_version: str | None = Field(description="SHA-256 of the adapter file that answered")
    prefill: list[TokenInfo] = _PREFILL
    tokens: list[TokenInfo] = []
    best_of_sequences: list[BestOfSequence] = Field(
        default=[], description="the other answers that were asked for, the best first"
    )
    choices: list[ChoiceInfo] | None = _of_choices("all options, the likeliest first")
    mass: float | None = _of_choices("how likely it is that an answer is one of the options")
    temperature: float | None = _of_choices("what log-probabilities were divided by")
    calibrated_by: Literal["manifest", "nothing"] | None = _of_choices(
        "where the temperature is from: the adapter's calibration, or nothing and it is 1"
    )
    timing: TimingInfo | None = Field(
        default=None,
        exclude_if=_IS_NONE,
        description="where `details` was true, and in the last event of a stream",
    )


class GenerateResponse(BaseModel):
    """The answer to one prompt."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "generated_text": "Business",
                    "details": {
                        "finish_reason": "eos_token",
                        "prompt_tokens": 41,
                        "generated_tokens": 3,
                        "seed": None,
                        "score": None,
                        "task_id": "agnews",
                        "adapter_version": "9f2c4d1e" * 8,
                        "prefill": [],
                        "tokens": [],
                        "best_of_sequences": [],
                    },
                }
            ]
        }
    )

    generated_text: str
    details: Details


class StreamDetails(Details):
    """How a streamed answer came about."""

    input_length: int | None = Field(
        default=None, description="the same as prompt_tokens: TGI's name in streams"
    )


class StreamEvent(BaseModel):
    """One server-sent event; the last has `generated_text` and `details`."""

    index: int
    token: TokenInfo | None
    generated_text: str | None = None
    details: StreamDetails | None = None


class Info(BaseModel):
    """What runs here and what it allows; the names of TGI where there is one."""

    version: str
    model_id: str
    model_dtype: str
    model_device_type: str
    backbone_fingerprint: str
    backbone_fingerprints: list[str] = Field(
        description="all that an adapter may name, newest version first"
    )
    max_input_tokens: int
    max_new_tokens: int
    max_client_batch_size: int
    max_concurrent_requests: int
    max_batch_size: int
    base: str | None
    default_task: str | None = Field(
        default=None, description="task of a request that names none; null: that is an error"
    )
    adapters: int


class ErrorBody(BaseModel):
    """Every error. `error_type` is stable; `reason` names the check behind it, if there is one."""

    error: str
    error_type: str
    reason: str | None = None


class RollbackRequest(Received):
    """Where to go back to."""

    version: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{8,64}$", description="default: the one before"
    )


# What names a version: a beginning of its digest, `staged`, `current` or an alias.
_NAMED = r"^([0-9a-f]{8,64}|[A-Za-z][A-Za-z0-9._-]{0,31})$"


class StageRequest(Received):
    """Which version is to get a share of the task's requests."""

    version: str = Field(pattern=_NAMED, description="8 digits or more of its digest, or a name")
    share: float = Field(ge=0, le=1, description="0: only requests that name it")
    promote_after: float | None = Field(
        default=None,
        ge=0,
        le=MAX_SECONDS,
        description="seconds without a fault after which it becomes current by itself; null: only "
        "by command",
    )


class PromoteRequest(Received):
    """Which version is meant, if it matters."""

    version: str | None = Field(
        default=None, pattern=_NAMED, description="must be the staged one, else 412"
    )


class UnstageRequest(PromoteRequest):
    """Why it is taken back."""

    note: str = Field(default="", max_length=400, description="for the task's history")


class AliasRequest(Received):
    """What a version is to be called."""

    name: str = Field(description="1 to 32 letters, digits and . _ - that begin with a letter")
    version: str | None = Field(
        default=None, pattern=_NAMED, description="null: the name means nothing any more"
    )


class PinRequest(Received):
    """Whether the adapter may leave memory."""

    pinned: Literal["pinned", "unpinned"] = "pinned"
