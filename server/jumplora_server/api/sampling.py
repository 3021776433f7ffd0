"""From request parameters, the adapter's defaults and the server's limits to a Sampling."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from jumplora_adapters.manifest import Manifest
from jumplora_adapters.sampling_bounds import find_out_of_bounds
from jumplora_server.api.schemas import Parameters
from jumplora_server.core import DEFAULT_NEW_TOKENS, EngineLimits, Sampling
from jumplora_server.errors import InvalidInput

_SAMPLERS = ("temperature", "top_k", "top_p")
# JavaScript and other JSON readers keep integers up to 2**53 exactly.
_RANDOM_SEEDS = 2**53


def make_sampling(
    parameters: Parameters, manifest: Manifest | None, limits: EngineLimits
) -> Sampling:
    """Merge what was asked with the defaults; a random seed is chosen where none was given.

    Raises InvalidInput for contradictions, for more tokens than the server generates, and for a
    default that would count and that no request may ask for. A manifest's max_new_tokens over the
    server's limit means the limit: no request asked for it.
    """
    _check(parameters, limits)
    defaults: Mapping[str, Any] = {} if manifest is None else manifest.generation
    asked = parameters.model_dump(exclude_none=True)
    merged = {**defaults, **asked}
    samples = asked.get("do_sample", any(name in merged for name in _SAMPLERS))
    _check_defaults(
        {
            name: value
            for name, value in defaults.items()
            if name not in asked and (samples or name not in _SAMPLERS)
        }
    )
    max_new_tokens = min(merged.get("max_new_tokens", DEFAULT_NEW_TOKENS), limits.max_target_tokens)
    min_new_tokens = merged.get("min_new_tokens", 0)
    if parameters.min_new_tokens is None:
        min_new_tokens = min(min_new_tokens, max_new_tokens)
    if min_new_tokens > max_new_tokens:
        raise InvalidInput(
            f"parameters.min_new_tokens: {min_new_tokens} is more than max_new_tokens, "
            f"{max_new_tokens}"
        )
    return Sampling(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        mode="sample" if samples else "greedy",
        temperature=merged.get("temperature", 1.0) if samples else 1.0,
        top_k=merged.get("top_k") if samples else None,
        top_p=merged.get("top_p") if samples else None,
        repetition_penalty=merged.get("repetition_penalty", 1.0),
        seed=_seed(parameters) if samples else 0,
        stop=tuple(merged.get("stop", ())),
        logprobs="chosen" if parameters.details else "none",
    )


def _check_defaults(counting: Mapping[str, Any]) -> None:
    for fault in find_out_of_bounds(counting):
        raise InvalidInput(
            f"parameters.{fault.name}: the adapter's own default is not allowed ({fault.given} "
            f"given; {fault.allowed} allowed); set parameters.{fault.name} in the request"
        )


def _check(parameters: Parameters, limits: EngineLimits) -> None:
    asked = parameters.max_new_tokens
    if asked is not None and asked > limits.max_target_tokens:
        raise InvalidInput(
            f"parameters.max_new_tokens: {asked} is more than this server generates, "
            f"{limits.max_target_tokens}"
        )
    truncate = parameters.truncate
    if truncate is not None and truncate > limits.max_source_tokens:
        raise InvalidInput(
            f"parameters.truncate: {truncate} is more than this server reads, "
            f"{limits.max_source_tokens}"
        )
    if parameters.do_sample is False:
        for name in (*_SAMPLERS, "seed"):
            if getattr(parameters, name) is not None:
                raise InvalidInput(f"parameters.{name}: has no effect when do_sample is false")


def _seed(parameters: Parameters) -> int:
    return secrets.randbelow(_RANDOM_SEEDS) if parameters.seed is None else parameters.seed
