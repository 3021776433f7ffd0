"""From what was asked, the adapter's defaults and the server's limits to a Sampling."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from jumplora_adapters.manifest import Manifest
from jumplora_adapters.sampling_bounds import find_out_of_bounds
from jumplora_server.api.ask import Ask, FieldNames
from jumplora_server.core import DEFAULT_NEW_TOKENS, EngineLimits, Sampling
from jumplora_server.errors import InvalidInput

_SAMPLERS = ("temperature", "top_k", "top_p")
# JavaScript and other JSON readers keep integers up to 2**53 exactly.
_RANDOM_SEEDS = 2**53


def make_sampling(ask: Ask, manifest: Manifest | None, limits: EngineLimits) -> Sampling:
    """Merge what was asked with the defaults; a random seed is chosen where none was given.

    Raises InvalidInput for contradictions, for more tokens than the server generates, and for a
    default that would count and that no request may ask for. A manifest's max_new_tokens over the
    server's limit means the limit: no request asked for it.
    """
    _check(ask, limits)
    defaults: Mapping[str, Any] = {} if manifest is None else manifest.generation
    asked = ask.parameters
    merged = {**defaults, **asked}
    samples = asked.get("do_sample", any(name in merged for name in _SAMPLERS))
    _check_defaults(
        ask.names,
        {
            name: value
            for name, value in defaults.items()
            if name not in asked and (samples or name not in _SAMPLERS)
        },
    )
    max_new_tokens = min(merged.get("max_new_tokens", DEFAULT_NEW_TOKENS), limits.max_target_tokens)
    min_new_tokens = merged.get("min_new_tokens", 0)
    if "min_new_tokens" not in asked:
        min_new_tokens = min(min_new_tokens, max_new_tokens)
    if min_new_tokens > max_new_tokens:
        raise InvalidInput(
            f"{ask.names.parameter('min_new_tokens')}: {min_new_tokens} is more than "
            f"{ask.names.plain('max_new_tokens')}, {max_new_tokens}"
        )
    return Sampling(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        mode="sample" if samples else "greedy",
        temperature=merged.get("temperature", 1.0) if samples else 1.0,
        top_k=merged.get("top_k") if samples else None,
        top_p=merged.get("top_p") if samples else None,
        repetition_penalty=merged.get("repetition_penalty", 1.0),
        seed=_seed(asked) if samples else 0,
        stop=tuple(merged.get("stop", ())),
        logprobs=ask.logprobs,
    )


def _check_defaults(names: FieldNames, counting: Mapping[str, Any]) -> None:
    for fault in find_out_of_bounds(counting):
        name = names.parameter(fault.name)
        raise InvalidInput(
            f"{name}: the adapter's own default is not allowed ({fault.given} given; "
            f"{fault.allowed} allowed); set {name} in the request"
        )


def _check(ask: Ask, limits: EngineLimits) -> None:
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
    if asked.get("do_sample") is False:
        for name in (*_SAMPLERS, "seed"):
            if name in asked:
                raise InvalidInput(
                    f"{names.parameter(name)}: has no effect when "
                    f"{names.plain('do_sample')} is false"
                )


def _seed(asked: Mapping[str, Any]) -> int:
    return int(asked["seed"]) if "seed" in asked else secrets.randbelow(_RANDOM_SEEDS)
