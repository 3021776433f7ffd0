"""`parameters` as TGI, LoRAX and KServe's clients send them: what they may hold and ask for."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, Field, model_validator

from jumplora_adapters import sampling_bounds as bounds
from jumplora_server.api.ask import ChoicesAsked
from jumplora_server.api.fields import (
    ChoicesGiven,
    EarlyStopping,
    Received,
    Share,
    StopString,
    Temperature,
)
from jumplora_server.api.neutral import Neutral, NoPenalty
from jumplora_server.errors import InvalidInput

# Of `parameters`, those that choose tokens; the others are fields of an Ask, or change nothing.
_OTHERS = frozenset(
    {
        "truncate", "details", "timeout_ms", "adapter_id", "choices", "min_probability", "min_mass",
        "typical_p", "api_token",
    }
)  # fmt: skip
_SAMPLERS = ("temperature", "top_k", "top_p", "seed")
_NO_GRAMMAR = "an answer is not held to a grammar or a schema here"
_NO_ALTERNATIVES = "only the chosen token of each step is listed here"
_NO_MERGING = "a request is answered by one task, never by a merge made for it"


class NeutralParameters(BaseModel):
    """What clients of TGI and LoRAX send although they ask for nothing by it."""

    typical_p: float | None = Field(
        default=None, gt=0, le=1, description="1; under 1 only where nothing is sampled"
    )
    frequency_penalty: NoPenalty = None
    presence_penalty: NoPenalty = None
    watermark: Annotated[None, Neutral(False, why="answers have no watermark here")] = None
    return_full_text: Annotated[
        None, Neutral(False, why="an answer does not repeat its prompt here")
    ] = None
    decoder_input_details: Annotated[
        None, Neutral(False, why="log-probabilities of the prompt are not computed here")
    ] = None
    top_n_tokens: Annotated[None, Neutral(0, why=_NO_ALTERNATIVES)] = None
    return_k_alternatives: Annotated[None, Neutral(0, why=_NO_ALTERNATIVES)] = None
    grammar: Annotated[None, Neutral(why=_NO_GRAMMAR)] = None
    response_format: Annotated[None, Neutral(why=_NO_GRAMMAR)] = None
    ignore_eos_token: Annotated[
        None, Neutral(False, why="an answer ends at its end token here, after min_new_tokens")
    ] = None
    apply_chat_template: Annotated[
        None,
        Neutral(False, why="inputs are raw prompts here, and text is for the adapter's template"),
    ] = None
    adapter_source: Annotated[
        None, Neutral("local", why="adapters come from this server's store only")
    ] = None
    adapter_parameters: Annotated[None, Neutral(why=_NO_MERGING)] = None
    merged_adapters: Annotated[None, Neutral(why=_NO_MERGING)] = None
    api_token: str | None = Field(
        default=None, repr=False, description="not used: adapters are in this server's store"
    )


class Parameters(NeutralParameters, Received):
    """How to generate. What is not given comes from the adapter's manifest, then the server."""

    unlisted: ClassVar[frozenset[str]] = frozenset(NeutralParameters.model_fields)

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
    min_probability: Share | None = Field(
        default=None, description="of choices: below it, the best one is not given"
    )
    min_mass: Share | None = Field(
        default=None,
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


def choices_asked(parameters: Parameters) -> ChoicesAsked | None:
    """That one of some options is wanted, if it is."""
    given = parameters.choices
    if given is None:
        return None
    options = None if given is True else tuple(given)
    return ChoicesAsked(options, parameters.min_probability, parameters.min_mass)


def asked_parameters(parameters: Parameters) -> dict[str, Any]:
    """The parameters that choose tokens, without those that have no effect beside the others.

    Raises InvalidInput for a typical_p that would have one.
    """
    asked = parameters.model_dump(exclude_none=True, exclude=set(_OTHERS))
    if parameters.temperature == 0:
        asked["do_sample"] = False
    if asked.get("do_sample") is False:
        # Clients of TGI always send do_sample, and some of them the others' defaults with it.
        asked = {name: value for name, value in asked.items() if name not in _SAMPLERS}
    elif parameters.typical_p not in (None, 1):
        raise InvalidInput(
            "parameters.typical_p: typical decoding is not built here; leave it out or send 1 "
            "(top_p drops unlikely tokens too), or set do_sample to false"
        )
    if asked.get("best_of") == 1 == asked.get("n", asked.get("num_return_sequences", 1)):
        del asked["best_of"]
    return asked
