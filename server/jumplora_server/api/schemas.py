"""What clients send and get: names, types and fixed bounds. Nothing here acts.

Bounds that depend on the settings (token limits, list lengths) are checked where the request is
admitted; here are those that hold for every server.
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from jumplora_adapters import sampling_bounds as bounds
from jumplora_server.api.choice_fields import ChoiceInfo, ChoicesGiven, of_choices
from jumplora_server.api.neutral import Neutral, Temperature


class Received(BaseModel):
    """A part of a request. Unknown fields are refused by name, types are not converted."""

    # A traceback must not show a prompt.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, value: Any) -> Any:
        if isinstance(value, dict):
            unknown = (ascii(str(key)[:64]) for key in value if key not in cls.model_fields)
            if first := list(islice(unknown, 5)):
                # Inherited ones, which come first there, matter less.
                allowed = sorted(cls.model_fields, key=lambda name: name not in cls.__annotations__)
                raise ValueError(
                    f"unknown field {', '.join(first)}; allowed are {', '.join(allowed)}"
                )
        return value


def _prompts(value: object) -> object:
    texts = value if isinstance(value, list) else [value]
    if not texts:
        raise ValueError("the list is empty; give at least one string")
    for index, text in enumerate(texts):
        where = f"item {index} " if isinstance(value, list) else ""
        if not isinstance(text, str):
            raise ValueError(f"{where}must be a string, or the whole a list of strings")
        if not text:
            raise ValueError(f"{where}is empty; give at least one character")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{where}is not valid Unicode: half a surrogate pair") from None
    return value


Prompts = Annotated[
    str | list[str],
    BeforeValidator(_prompts),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
            ]
        }
    ),
]
StopString = Annotated[str, StringConstraints(min_length=1, max_length=bounds.MAX_STOP_CHARS)]


def _early_stopping(value: object) -> object:
    if value is None or isinstance(value, bool) or value == "never":
        return value
    raise ValueError('must be true, false or "never"')


EarlyStopping = Annotated[bool | Literal["never"] | None, BeforeValidator(_early_stopping)]


class Parameters(Neutral, Received):
    """How to generate. What is not given comes from the adapter's manifest, then the server."""

    max_new_tokens: Annotated[int, bounds.MAX_NEW_TOKENS.field()] | None = None
    min_new_tokens: Annotated[int, bounds.MIN_NEW_TOKENS.field()] | None = None
    do_sample: bool | None = Field(
        default=None,
        description="default: true if temperature, top_k or top_p is given; false: these and "
        "typical_p and seed have no effect",
    )
    temperature: Temperature | None = Field(default=None, description="0: do_sample is false")
    top_k: Annotated[int, bounds.TOP_K.field()] | None = None
    top_p: Annotated[float, bounds.TOP_P.field()] | None = None
    repetition_penalty: Annotated[float, bounds.REPETITION_PENALTY.field()] | None = None
    no_repeat_ngram_size: Annotated[int, bounds.NO_REPEAT_NGRAM_SIZE.field()] | None = Field(
        default=None, description="so many tokens in a row come once only; 0: any may come again"
    )
    num_beams: Annotated[int, bounds.NUM_BEAMS.field()] | None = Field(
        default=None, description="over 1: beam search, which draws nothing and has no stop texts"
    )
    length_penalty: Annotated[float, bounds.LENGTH_PENALTY.field()] | None = Field(
        default=None, description="of beams: over 0 prefers longer answers, below 0 shorter ones"
    )
    early_stopping: EarlyStopping = Field(
        default=None, description="of beams: when the search ends, as in transformers"
    )
    n: Annotated[int, bounds.ANSWERS.field()] | None = Field(
        default=None, description="how many answers; the best one and best_of_sequences"
    )
    num_return_sequences: Annotated[int, bounds.ANSWERS.field()] | None = Field(
        default=None, description="another name of n; with beams at most num_beams"
    )
    best_of: Annotated[int, bounds.ANSWERS.field()] | None = Field(
        default=None, description="how many answers are sampled, of which the n best count"
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        le=bounds.MAX_SEED,
        description="of the first sampled answer; the others have the next ones",
    )
    stop: list[StopString] | None = Field(default=None, max_length=bounds.MAX_STOPS)
    choices: ChoicesGiven = Field(
        default=None,
        description="one of these is the answer, and details has the probabilities of all; true: "
        "the options of the adapter's prompt",
    )
    min_probability: float | None = Field(
        default=None, ge=0, le=1, description="of choices: below it, the best one is not given"
    )
    min_mass: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="of choices: nor where all together are less likely than this",
    )
    truncate: int | None = Field(
        default=None, ge=1, le=32768, description="cut the prompt to that many tokens"
    )
    details: bool | None = Field(
        default=None, description="list the tokens with log-probabilities (default: false)"
    )
    timeout_ms: int | None = Field(default=None, ge=1, le=3_600_000)
    adapter_id: str | None = Field(
        default=None, description="alias of task_id; null yields to a task that is named elsewhere"
    )

    @model_validator(mode="after")
    def _need_choices(self) -> Self:
        for name in ("min_probability", "min_mass"):
            if self.choices is None and getattr(self, name) is not None:
                raise ValueError(f"{name} has no effect without choices; leave it out")
        return self


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
    choices: list[ChoiceInfo] | None = of_choices("all options, the likeliest first")
    mass: float | None = of_choices("how likely it is that an answer is one of the options")
    temperature: float | None = of_choices("what log-probabilities were divided by")
    calibrated_by: Literal["manifest", "nothing"] | None = of_choices(
        "where the temperature is from: the adapter's calibration, or nothing and it is 1"
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


class PinRequest(Received):
    """Whether the adapter may leave memory."""

    pinned: Literal["pinned", "unpinned"] = "pinned"
