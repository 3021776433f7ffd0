"""From request parameters, the adapter's defaults and the server's limits to a Sampling."""

from __future__ import annotations

import secrets
from typing import Any

from jumplora_adapters.manifest import Manifest
from pydantic import ValidationError

from jumplora_server.api.schemas import Parameters
from jumplora_server.core import EngineLimits, Sampling
from jumplora_server.errors import AdapterUnavailable, InvalidInput

# What a manifest may set; the rest of the parameters belongs to one request.
DEFAULTABLE = (
    "max_new_tokens",
    "min_new_tokens",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "stop",
)
_SAMPLERS = ("temperature", "top_k", "top_p")
DEFAULT_NEW_TOKENS = 32
# JavaScript and other JSON readers keep integers up to 2**53 exactly.
_RANDOM_SEEDS = 2**53


def manifest_defaults(manifest: Manifest | None) -> Parameters:
    """The generation defaults of a manifest.

    Raises ValueError, which says why, when the manifest names something that cannot be a default.
    """
    given: dict[str, Any] = {} if manifest is None else dict(manifest.generation)
    strange = sorted(set(given) - set(DEFAULTABLE))
    if strange:
        raise ValueError(
            f"generation: {', '.join(strange)} cannot be a default; "
            f"allowed are {', '.join(DEFAULTABLE)}"
        )
    try:
        return Parameters.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(map(str, fault["loc"]))
        raise ValueError(f"generation.{name}: {fault['msg']}") from error


def make_sampling(
    parameters: Parameters, manifest: Manifest | None, limits: EngineLimits
) -> Sampling:
    """Merge what was asked with the defaults; a random seed is chosen where none was given.

    Raises InvalidInput for contradictions and for more tokens than the server generates. A
    manifest's max_new_tokens over the server's limit means the limit: nobody asked for it.
    """
    _check(parameters, limits)
    try:
        defaults = manifest_defaults(manifest)
    except ValueError as error:
        raise AdapterUnavailable(
            f"the adapter's manifest has unusable defaults: {error}", reason="manifest"
        ) from error
    merged = {name: _first(parameters, defaults, name) for name in DEFAULTABLE}
    max_new_tokens = min(merged["max_new_tokens"] or DEFAULT_NEW_TOKENS, limits.max_target_tokens)
    min_new_tokens = merged["min_new_tokens"] or 0
    if parameters.min_new_tokens is None:
        min_new_tokens = min(min_new_tokens, max_new_tokens)
    if min_new_tokens > max_new_tokens:
        raise InvalidInput(
            f"parameters.min_new_tokens: {min_new_tokens} is more than max_new_tokens, "
            f"{max_new_tokens}"
        )
    samples = _samples(parameters, defaults)
    return Sampling(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        mode="sample" if samples else "greedy",
        temperature=(merged["temperature"] or 1.0) if samples else 1.0,
        top_k=merged["top_k"] if samples else None,
        top_p=merged["top_p"] if samples else None,
        repetition_penalty=merged["repetition_penalty"] or 1.0,
        seed=_seed(parameters) if samples else 0,
        stop=tuple(merged["stop"] or ()),
        logprobs="chosen" if parameters.details else "none",
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


def _samples(parameters: Parameters, defaults: Parameters) -> bool:
    for source in (parameters, defaults):
        if source.do_sample is not None:
            return source.do_sample
        if any(getattr(source, name) is not None for name in _SAMPLERS):
            return True
    return False


def _first(parameters: Parameters, defaults: Parameters, name: str) -> Any:
    asked = getattr(parameters, name)
    return getattr(defaults, name) if asked is None else asked


def _seed(parameters: Parameters) -> int:
    return secrets.randbelow(_RANDOM_SEEDS) if parameters.seed is None else parameters.seed
