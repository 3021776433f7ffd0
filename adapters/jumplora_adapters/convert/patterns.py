"""Rank and alpha by module name, matched as PEFT's get_pattern_key does: the first match counts.

PEFT sorts a configuration when it saves it, so where patterns overlap the file does not say which
of them came first in the training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jumplora_adapters.convert.config_values import (
    alpha_of,
    flag_of,
    pattern_of,
    rank_of,
    said,
)
from jumplora_adapters.convert.expressions import Expression, match_all
from jumplora_adapters.convert.scaling import RankScaling, Scaling
from jumplora_adapters.errors import ConvertError

DEFAULT_RANK = DEFAULT_ALPHA = 8  # PEFT's, where the field is missing
MAX_NAMED = 3


@dataclass(frozen=True, slots=True)
class Strengths:
    """Rank and alpha of a module: the defaults, unless a pattern names the module."""

    rank: int
    alpha: float
    rank_scaling: RankScaling
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]


def read_strengths(config: Mapping[str, object]) -> Strengths:
    """What adapter_config.json of a LoRA says. Raises ConvertError."""
    return Strengths(
        rank=rank_of("r", config.get("r", DEFAULT_RANK)),
        alpha=alpha_of("lora_alpha", config.get("lora_alpha", DEFAULT_ALPHA)),
        rank_scaling="sqrt-r" if flag_of(config, "use_rslora") else "r",
        rank_pattern={
            name: rank_of(f"rank_pattern[{said(name)}]", rank)
            for name, rank in pattern_of(config, "rank_pattern").items()
        },
        alpha_pattern={
            name: alpha_of(f"alpha_pattern[{said(name)}]", alpha)
            for name, alpha in pattern_of(config, "alpha_pattern").items()
        },
    )


@dataclass(frozen=True, slots=True)
class Matches:
    """Module name -> the patterns that match it, in the file's order; and those without a match."""

    by_name: Mapping[str, tuple[str, ...]]
    unused: tuple[str, ...]


def match_patterns(config: Strengths, ranks: Mapping[str, int]) -> tuple[Matches, Matches]:
    """What rank_pattern and alpha_pattern match of the modules in `ranks`."""
    fields = (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern))
    expressions = [
        Expression(field, pattern, rf"(.*\.)?({pattern})$")
        for field, patterns in fields
        for pattern in patterns
    ]
    found = match_all(expressions, list(ranks))
    by_pattern = {
        (e.field, e.text): set(names) for e, names in zip(expressions, found, strict=True)
    }
    of_rank, of_alpha = (
        Matches(
            {name: tuple(p for p in patterns if name in by_pattern[field, p]) for name in ranks},
            tuple(p for p in patterns if not by_pattern[field, p]),
        )
        for field, patterns in fields
    )
    return of_rank, of_alpha


def scalings(config: Strengths, ranks: Mapping[str, int]) -> tuple[dict[str, Scaling], list[str]]:
    """The scaling of each module by the rank of its factors, and warnings.

    Raises ConvertError where the configuration has another rank for a module than its factors, or
    does not say which of several alphas it means.
    """
    of_rank, of_alpha = match_patterns(config, ranks)
    for name, rank in ranks.items():
        _check_rank(config, name, rank, of_rank.by_name[name])
    scaling_of = {
        name: Scaling(
            alpha=_alpha(config, name, of_alpha.by_name[name]), rank_scaling=config.rank_scaling
        )
        for name in ranks
    }
    return scaling_of, [
        *_unused("rank_pattern", of_rank.unused),
        *_unused("alpha_pattern", of_alpha.unused),
    ]


def _check_rank(config: Strengths, name: str, rank: int, patterns: tuple[str, ...]) -> None:
    allowed = {config.rank_pattern[pattern] for pattern in patterns} or {config.rank}
    if rank not in allowed:
        by = f"by rank_pattern {said(patterns[0])}" if patterns else "by r"
        raise ConvertError(
            f"{said(name)}: its factors have rank {rank}, adapter_config.json says"
            f" {' or '.join(map(str, sorted(allowed)))} {by}: they do not belong together"
        )


def _alpha(config: Strengths, name: str, patterns: tuple[str, ...]) -> float:
    if not patterns:
        return config.alpha
    alphas = {config.alpha_pattern[pattern] for pattern in patterns}
    if len(alphas) > 1 and list(config.alpha_pattern) == sorted(config.alpha_pattern):
        raise ConvertError(
            f"{said(name)}: alpha_pattern has {said(patterns[0])} and {said(patterns[1])} for it,"
            " with different alphas, and PEFT sorts patterns when it saves them: the file does not"
            " say which one was meant. Write patterns that do not overlap"
        )
    return config.alpha_pattern[patterns[0]]


def _unused(field: str, patterns: tuple[str, ...]) -> Iterator[str]:
    if patterns:
        yield (
            f"{field}: {len(patterns)} of its patterns match no module of the file, such as"
            f" {', '.join(map(said, patterns[:MAX_NAMED]))}: PEFT ignores them"
        )
