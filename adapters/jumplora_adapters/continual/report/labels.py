"""What groups of runs are called: the method, and the settings that tell it from the others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

from pydantic import JsonValue

from jumplora_adapters.continual.report.runs import Run
from jumplora_adapters.printable import printable

NAMES: Mapping[str, str] = {
    "seqlora": "SeqLoRA",
    "inclora": "IncLoRA",
    "ella": "ELLA",
    "olora": "O-LoRA",
}
COMPARED = frozenset({"method", "gate", "prune"})
"""The settings that make a method's name."""

_SHORT = {"order": "", "backbone": "", "rank": "r", "learning_rate": "lr"}
_DIGITS = 8
_LONGEST = 18  # characters of a label that stands in a table; longer ones get letters
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def labels(groups: Sequence[Sequence[Run]]) -> tuple[str, ...]:
    """One for each group: its method, then each setting of which those that have it differ.

    Where that tells two groups not apart, a digest of all their settings does. What acts on a
    terminal is escaped, as plots and files show labels too.
    """
    every = [run for group in groups for run in group]
    used = [_settings(group[0], every) for group in groups]
    values: dict[str, set[str]] = {}
    for settings in used:
        for key, value in settings.items():
            values.setdefault(key, set()).add(value)
    differing = {key for key, found in values.items() if len(found) > 1}
    plain = [
        ", ".join([_name(group), *_told(settings, differing)])
        for group, settings in zip(groups, used, strict=True)
    ]
    return tuple(
        printable(label if plain.count(label) == 1 else f"{label}, settings {_digest(group[0])}")
        for label, group in zip(plain, groups, strict=True)
    )


def legend(labels: Sequence[str]) -> dict[str, str]:
    """Label -> what tables call it: the label itself, or a letter where one of them is long."""
    if all(len(label) <= _LONGEST for label in labels):
        return {label: label for label in labels}
    return {label: _LETTERS[n % 26] * (n // 26 + 1) for n, label in enumerate(labels)}


def _name(runs: Sequence[Run]) -> str:
    config = runs[0].config
    gated = config.gate == "jumprelu"
    if config.method in NAMES:
        plain = NAMES[config.method]
        name = f"JumpLoRA + {plain}" if gated else plain
    else:
        name = f"{config.method} {'JumpLoRA' if gated else 'LoRA'}"
    densities = [mean(run.config.prune.density) for run in runs if run.config.prune]
    return f"{name} pruned to {100 * mean(densities):.1f} %" if densities else name


def _told(settings: Mapping[str, str], differing: set[str]) -> Iterator[str]:
    for key, value in settings.items():
        if key in differing:
            yield f"{_SHORT.get(key, key.replace('_', ' '))} {value}".strip()


def _settings(run: Run, every: Sequence[Run]) -> dict[str, str]:
    """Setting -> value as text, of those that the run has."""
    settings = {"order": _order(run, every), "backbone": _backbone(run, every)}
    rest = {k: v for k, v in run.settings.items() if k not in COMPARED | set(settings)}
    for key, value in {**rest, **run.config.hyper_parameters}.items():
        if not isinstance(value, dict):  # such as every task's data: too much for a label
            settings[key] = _text(key, value)
    return settings


def _order(run: Run, every: Sequence[Run]) -> str:
    """Its name, and its tasks where another order has that name too."""
    order = run.config.order
    alike = {other.config.order.tasks for other in every if other.config.order.name == order.name}
    return f"{order.name} ({' '.join(order.tasks)})" if len(alike) > 1 else order.name


def _backbone(run: Run, every: Sequence[Run]) -> str:
    """Its first name, and digits of its weights where another backbone has that name too."""
    backbones = [other.config.backbone for other in every]
    identity = run.config.backbone.identity
    name = next(it.name for it in backbones if it.identity == identity)
    alike = {it.identity for it in backbones if it.name == name}
    digits = (identity[1] or identity[0])[:_DIGITS]
    return f"{name} {digits}" if len(alike) > 1 else name


def _text(key: str, value: JsonValue) -> str:
    match value:
        case None:
            return "all" if key.endswith("_rows") else "default"
        case float():
            return f"{value:g}"
        case list():
            return " ".join(map(str, value))
        case _:
            return str(value)


def _digest(run: Run) -> str:
    text = json.dumps(dict(run.settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
