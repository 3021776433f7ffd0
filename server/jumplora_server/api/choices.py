"""What a request with choices asks of the engine, and the ranking that it is answered with.

The words of an error are those of the request's dialect; texts become token ids in the lanes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from jumplora_adapters.manifest import Calibration, ChoicesSpec, Manifest
from jumplora_server.api.ask import Ask, RankedOption, Ranking
from jumplora_server.api.prompts import SMALL_BYTES
from jumplora_server.core import (
    Answer,
    Choices,
    EngineLimits,
    Finish,
    FinishReason,
    Lease,
    NoEmbedding,
    Sampling,
)
from jumplora_server.errors import InvalidInput
from jumplora_server.metrics.tasks import AbstentionCause
from jumplora_server.options import (
    MOST_OPTIONS,
    Options,
    calibrations_for,
    find_fault,
    shown,
)
from jumplora_server.services import Services
from jumplora_server.trie import Trie

if TYPE_CHECKING:
    from jumplora_server.residency.residency import Residency

Ids = tuple[int, ...]
NameOf = Callable[[int], str]

# Clients always send some of these, though they ask for nothing by it.
_NEUTRAL: Mapping[str, object] = MappingProxyType(
    {
        "do_sample": False,
        "stop": [],
        "n": 1,
        "num_return_sequences": 1,
        "best_of": 1,
        "num_beams": 1,
        "min_new_tokens": 0,
        "no_repeat_ngram_size": 0,
        "repetition_penalty": 1,
    }
)


def check_choices(ask: Ask, limits: EngineLimits) -> None:
    """Refuse what contradicts choices, or would have no effect. Raises InvalidInput."""
    choices, parameter = ask.choices, ask.names.parameter
    assert choices is not None
    if ask.streamed != "no":
        raise InvalidInput(
            f"{parameter('choices')}: a stream shows tokens as they come, and choices have none; "
            "leave it out, or ask without a stream"
        )
    for name, value in ask.parameters.items():
        if name in _NEUTRAL and value == _NEUTRAL[name]:
            continue
        raise InvalidInput(
            f"{parameter(name)}: has no effect with {ask.names.plain('choices')}, which generate "
            "nothing; leave it out"
        )
    if not limits.end_token_ids:
        raise InvalidInput(
            f"{parameter('choices')}: this backbone has no end token, so no option is ever "
            "complete; its generation_config.json can name one as eos_token_id"
        )
    for name in ("min_probability", "min_mass"):
        least = getattr(choices, name)
        if least is not None and not 0 <= least <= 1:
            raise InvalidInput(f"{parameter(name)}: {least} given; 0 to 1 is allowed")


async def find_options(services: Services, task: str | None, ask: Ask, lease: Lease) -> Options:
    """What the engine is to choose from. Raises InvalidInput."""
    assert ask.choices is not None
    key = (None if lease.ref is None else lease.ref.version, ask.choices.options)
    found = services.options.get(key)
    if found is None:
        texts = _texts(ask, lease)
        read = partial(_read, services, ask, lease.manifest, texts)
        is_small = sum(map(len, texts)) <= SMALL_BYTES
        lane = services.lanes.small if is_small else services.lanes.large
        found = await lane.run(task, read)
        services.options.put(key, found)
    return found


@dataclass(frozen=True, slots=True)
class Offer:
    """What a request's prompts choose from, and when they choose nothing.

    `lease` keeps the version known until it was asked which form of it computed.
    """

    options: Options
    min_probability: float
    min_mass: float
    lease: Lease

    @classmethod
    async def of(cls, services: Services, task: str | None, ask: Ask, lease: Lease) -> Offer:
        """Takes a share of `lease`. Raises InvalidInput."""
        assert ask.choices is not None
        options = await find_options(services, task, ask, lease)
        manifest = None if lease.manifest is None else lease.manifest.choices
        default = ChoicesSpec() if manifest is None else manifest
        asked = ask.choices
        floors = (
            default.min_probability if asked.min_probability is None else asked.min_probability,
            default.min_mass if asked.min_mass is None else asked.min_mass,
        )
        return cls(options, floors[0] or 0.0, floors[1] or 0.0, lease.share())

    def applied_to(self, sampling: Sampling) -> Sampling:
        """For the engine, before it is known which form of the version computes."""
        choices = Choices(self.options.trie, self.options.highest_temperature)
        return replace(sampling, choices=choices)

    def calibration(self, residency: Residency) -> Calibration | None:
        """That of the version as it computes here. To be asked while the lease is held."""
        ref = self.lease.ref
        if ref is None or not self.options.calibrations:
            return None
        return self.options.calibration(is_folded=residency.table.is_folded(ref))


def choose(
    offer: Offer, calibration: Calibration | None, finish: Finish
) -> tuple[Answer, Ranking, AbstentionCause | None]:
    """What one prompt is answered with."""
    ranking, cause = rank(
        offer.options,
        finish.options,
        calibration,
        min_probability=offer.min_probability,
        min_mass=offer.min_mass,
    )
    if ranking.is_abstained:
        return Answer((), "", FinishReason.ABSTAINED, 0, finish.score), ranking, cause
    best = ranking.options[0].text
    return Answer((), best, finish.reason, finish.generated_tokens, finish.score), ranking, cause


def _texts(ask: Ask, lease: Lease) -> tuple[str, ...]:
    """Those that were given or the adapter's, which all may be options."""
    assert ask.choices is not None
    name, texts = ask.names.parameter("choices"), ask.choices.options
    if texts is None:
        prompt = None if lease.manifest is None else lease.manifest.prompt
        texts = () if prompt is None else prompt.options
        if not texts:
            whose = "the bare backbone" if lease.ref is None else f"the adapter of {lease.ref.task}"
            raise InvalidInput(f"{name}: {whose} has no options of its own; give a list of texts")
    if not 1 <= len(texts) <= MOST_OPTIONS:
        raise InvalidInput(
            f"{name}: {len(texts)} options {_whose(ask)}; 1 to {MOST_OPTIONS} are allowed"
            + ("" if ask.choices.options is not None else ": give a list of texts")
        )
    if (fault := find_fault(texts)) is not None:
        raise InvalidInput(f"{_namer(ask)(fault.index)}: {fault.what}")
    return texts


def _whose(ask: Ask) -> str:
    assert ask.choices is not None
    return "given" if ask.choices.options is not None else "in the adapter's prompt"


def _namer(ask: Ask) -> NameOf:
    """How a message calls the option at an index."""
    assert ask.choices is not None
    name = ask.names.parameter("choices")
    if ask.choices.options is None:
        return lambda index: f"{name}: option {index} of the adapter's prompt"
    return lambda index: f"{name}[{index}]"


def _read(
    services: Services, ask: Ask, manifest: Manifest | None, texts: tuple[str, ...]
) -> Options:
    """Token ids as training makes them of a target. Of texts that a client gave, control tokens
    are characters where they are so in prompts."""
    own = () if manifest is None or manifest.prompt is None else manifest.prompt.options
    name_of, limits = _namer(ask), services.limits
    found = dict[Ids, int]()
    for index, text in enumerate(texts):
        tokenizer = services.tokenizer if text in own else services.templates.tokenizer
        try:
            ids = tokenizer.encode(text)
        except NoEmbedding as error:
            raise InvalidInput(
                f"{name_of(index)}: {shown(text)} needs the token {error.token!r} (id "
                f"{error.token_id}), which the backbone does not know: its embedding has "
                f"{error.rows} rows; leave it out"
            ) from error
        what = _fault_of(ids, limits)
        if what is None and (first := found.setdefault(ids, index)) != index:
            what = (
                f"has the same tokens as the option at {first}, {shown(texts[first])}, so the "
                "backbone cannot tell them apart; leave one out"
            )
        if what is not None:
            raise InvalidInput(f"{name_of(index)}: {shown(text)} {what}")
    dtype = services.settings.dtype
    return Options(texts, Trie.of([*found]), calibrations_for(manifest, texts, dtype))


def _fault_of(ids: Ids, limits: EngineLimits) -> str | None:
    """Why these cannot be an option's tokens."""
    most = min(limits.max_nodes, limits.max_target_tokens)
    if len(ids) == 1:
        return "has no tokens but the end token; give a text that the backbone can read"
    if not {*limits.end_token_ids, ids[-1]}.isdisjoint(ids[:-1]):
        return "has an end token inside, which would end the answer there; leave that out"
    if len(ids) > most:
        return f"has {len(ids)} tokens with its end token; at most {most} are allowed: shorten it"
    return None


def rank(
    options: Options,
    logprobs: Sequence[float | None],
    calibration: Calibration | None,
    *,
    min_probability: float,
    min_mass: float,
) -> tuple[Ranking, AbstentionCause | None]:
    """The ranking of one prompt's options, and why none is the answer if none is.

    `logprobs` are natural ones, None of an option that is too unlikely to have been looked at.
    """
    temperature = 1.0 if calibration is None else calibration.temperature
    known = [value for value in logprobs if value is not None]
    highest = max(known)
    weights = [
        0.0 if value is None else math.exp((value - highest) / temperature) for value in logprobs
    ]
    total = math.fsum(weights)
    found = map(RankedOption, options.texts, (weight / total for weight in weights), logprobs)
    # Sorting keeps the order of equals.
    ranked = sorted(
        found, key=lambda o: -math.inf if o.logprob is None else o.logprob, reverse=True
    )
    mass = min(1.0, math.fsum(map(math.exp, known)))  # rounding may take it over 1
    cause: AbstentionCause | None = None
    if mass < min_mass:
        cause = "mass"
    elif ranked[0].probability < min_probability:
        cause = "probability"
    ranking = Ranking(
        tuple(ranked),
        mass,
        temperature,
        "nothing" if calibration is None else "manifest",
        is_abstained=cause is not None,
    )
    return ranking, cause
