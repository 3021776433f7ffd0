"""How to answer each prompt: what was asked and the adapter's defaults, checked and merged."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from jumplora_adapters.manifest import Manifest
from jumplora_adapters.sampling_bounds import MAX_SEED, find_out_of_bounds
from jumplora_server.api.ask import Ask, FieldNames
from jumplora_server.api.choices import check_choices
from jumplora_server.core import DEFAULT_NEW_TOKENS, Beams, EngineLimits, Sampling
from jumplora_server.errors import InvalidInput

_SAMPLERS = ("temperature", "top_k", "top_p")
_OF_BEAMS = ("num_beams", "length_penalty", "early_stopping")
# JavaScript and other JSON readers keep integers up to 2**53 exactly.
_RANDOM_SEEDS = 2**53


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is wanted of each prompt: the sequences to compute, and how many of them to answer with.

    A beam search is one sequence, which has as many answers itself. So are choices; what they are
    is not known yet.
    """

    samplings: tuple[Sampling, ...]
    answers: int = 1


def make_wishes(
    ask: Ask, manifest: Manifest | None, limits: EngineLimits, *, max_beams: int
) -> Wishes:
    """Merge what was asked with the defaults; a random seed is chosen where none was given.

    Raises InvalidInput for contradictions, for more tokens than the server generates, and for a
    default that would count and that no request may ask for. A manifest's max_new_tokens over the
    server's limit means the limit: no request asked for it.
    """
    if ask.choices is not None:
        check_choices(ask, limits)
        return Wishes((Sampling(max_new_tokens=1, logprobs=ask.logprobs),))
    defaults: Mapping[str, Any] = {} if manifest is None else manifest.generation
    asked = ask.parameters
    merged = {**defaults, **asked}
    has_beams = merged.get("num_beams", 1) > 1
    drawn = asked if has_beams else merged
    samples = asked.get("do_sample", any(name in drawn for name in _SAMPLERS))
    ignored = () if samples else _SAMPLERS
    if not has_beams:
        ignored = (*ignored, *_OF_BEAMS)
    _check_asked(ask, limits)
    counting = {n: v for n, v in defaults.items() if n not in asked and n not in ignored}
    _check_defaults(ask.names, counting)
    best_of, answers = _check_answers(ask, merged, has_beams=has_beams, samples=samples)
    max_new_tokens = min(merged.get("max_new_tokens", DEFAULT_NEW_TOKENS), limits.max_target_tokens)
    min_new_tokens = merged.get("min_new_tokens", 0)
    if "min_new_tokens" not in asked:
        min_new_tokens = min(min_new_tokens, max_new_tokens)
    if min_new_tokens > max_new_tokens:
        raise InvalidInput(
            f"{ask.names.parameter('min_new_tokens')}: {min_new_tokens} is more than "
            f"{ask.names.plain('max_new_tokens')}, {max_new_tokens}"
        )
    sampling = Sampling(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        mode="sample" if samples else "greedy",
        temperature=merged.get("temperature", 1.0) if samples else 1.0,
        top_k=merged.get("top_k") if samples else None,
        top_p=merged.get("top_p") if samples else None,
        repetition_penalty=merged.get("repetition_penalty", 1.0),
        no_repeat_ngram_size=merged.get("no_repeat_ngram_size", 0),
        beams=_beams(ask, merged, answers, max_beams) if has_beams else None,
        seed=_seed(asked) if samples else 0,
        stop=tuple(merged.get("stop", ())),
        logprobs="chosen" if best_of > 1 else ask.logprobs,  # the best are found by them
    )
    # Each answer can be asked for again by its own seed.
    seeds = ((sampling.seed + number) % (MAX_SEED + 1) for number in range(best_of))
    return Wishes(tuple(replace(sampling, seed=seed) for seed in seeds), answers)


def _beams(ask: Ask, merged: Mapping[str, Any], answers: int, max_beams: int) -> Beams:
    width, plain = merged["num_beams"], ask.names.plain
    if width > max_beams:
        whose = "" if "num_beams" in ask.parameters else ", the adapter's own default,"
        why = f"{width}{whose} is more than this server has rows for, {max_beams}"
        _refuse(ask, "num_beams", why)
    if merged.get("stop"):
        off = f"set it to [], or {plain('num_beams')} to 1"
        _refuse(ask, "stop", f"a beam search cannot end at a text; {off}")
    return Beams(
        width,
        float(merged.get("length_penalty", 1.0)),
        merged.get("early_stopping", False),
        answers,
    )


def _check_answers(
    ask: Ask, merged: Mapping[str, Any], *, has_beams: bool, samples: bool
) -> tuple[int, int]:
    """How many sequences are computed for each prompt, and with how many it is answered."""
    asked, plain = ask.parameters, ask.names.plain
    width = merged.get("num_beams", 1)
    count = "n" if "n" in asked else "num_return_sequences"  # two names of one number
    best_of = asked.get("best_of", asked.get(count, 1))
    answers = asked.get(count, best_of)
    if asked.get("num_return_sequences", answers) != answers:
        _refuse(ask, "n", f"{plain('num_return_sequences')} is another name of it, and differs")
    several = "num_beams" if has_beams else "best_of" if "best_of" in asked else count
    if ask.streamed == "one" and (has_beams or best_of > 1):
        _refuse(ask, several, "a stream shows the tokens of one answer as they come; set it to 1")
    if ask.streamed == "several" and (has_beams or best_of > answers):
        _refuse(ask, several, "a stream shows tokens as they come, before the best are known")
    if has_beams:
        if samples:
            name = next((n for n in ("do_sample", *_SAMPLERS) if n in asked), "do_sample")
            why = f"beams draw nothing; leave it out, or set {plain('num_beams')} to 1"
            _refuse(ask, name, why)
        _refuse_any(ask, ("best_of", "seed"), f"has no effect with {plain('num_beams')} over 1")
        if answers > width:
            _refuse(ask, count, f"{answers} is more than {plain('num_beams')}, {width}")
        return 1, answers
    _refuse_any(ask, _OF_BEAMS[1:], f"has no effect without {plain('num_beams')} over 1")
    if best_of > 1 and not samples:
        ways = f"{ask.names.sampled}, or set {plain('num_beams')}"
        _refuse(ask, several, f"all would be the same; {ways}")
    if answers > best_of:
        _refuse(ask, count, f"{answers} is more than {plain('best_of')}, {best_of}")
    return best_of, answers


def _refuse(ask: Ask, name: str, why: str) -> NoReturn:
    raise InvalidInput(f"{ask.names.parameter(name)}: {why}")


def _refuse_any(ask: Ask, names: Iterable[str], why: str) -> None:
    for name in names:
        if name in ask.parameters:
            _refuse(ask, name, why)


def _check_defaults(names: FieldNames, counting: Mapping[str, Any]) -> None:
    for fault in find_out_of_bounds(counting):
        name = names.parameter(fault.name)
        raise InvalidInput(
            f"{name}: the adapter's own default is not allowed ({fault.given} given; "
            f"{fault.allowed} allowed); set {name} in the request"
        )


def _check_asked(ask: Ask, limits: EngineLimits) -> None:
    names, asked = ask.names, ask.parameters
    if (tokens := asked.get("max_new_tokens", 0)) > limits.max_target_tokens:
        raise InvalidInput(
            f"{names.parameter('max_new_tokens')}: {tokens} is more than this server generates, "
            f"{limits.max_target_tokens}"
        )
    if ask.truncate is not None and ask.truncate > limits.max_source_tokens:
        raise InvalidInput(
            f"{names.parameter('truncate')}: {ask.truncate} is more than this server reads, "
            f"{limits.max_source_tokens}"
        )


def _seed(asked: Mapping[str, Any]) -> int:
    return int(asked["seed"]) if "seed" in asked else secrets.randbelow(_RANDOM_SEEDS)
