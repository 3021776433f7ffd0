"""Runs that differ in the seed alone, and what to call them among the others.

It knows configurations only, no score.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from pydantic import JsonValue

from jumplora_adapters.cli.output import printable
from jumplora_adapters.continual.report.runs import Run, RunConfig
from jumplora_adapters.errors import DataError

NAMES: Mapping[str, str] = {
    "seqlora": "SeqLoRA",
    "inclora": "IncLoRA",
    "ella": "ELLA",
    "olora": "O-LoRA",
}
_SHORT = {
    "order": "",
    "backbone": "",
    "hyper_parameters.rank": "r",
    "hyper_parameters.learning_rate": "lr",
    "hyper_parameters.train_rows": "train rows",
    "hyper_parameters.score_rows": "score rows",
}
_GATE_KEYS = frozenset({"threshold_scope", "estimator", "bandwidth"})
_COMPARED = frozenset({"method", "gate", "prune"})  # what is compared; a label begins with them
_DIGITS_OF_FINGERPRINT = 8


@dataclass(frozen=True, slots=True)
class Group:
    """Runs by ascending seed, no seed twice, of one backbone, order and setting."""

    label: str
    runs: tuple[Run, ...]

    @property
    def config(self) -> RunConfig:
        """Of the first run: all agree but for the seed and the densities of a pruning."""
        return self.runs[0].config

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.config.seed for run in self.runs)

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.config.order.tasks


def group_runs(runs: Sequence[Run]) -> tuple[Group, ...]:
    """Groups in the order of their first runs.

    Raises DataError where two runs of one setting have one seed: their spread would be no spread.
    """
    parted = [part for alike in _by(runs, _key) for part in _part_prunings(alike)]
    for alike in parted:
        seeds: dict[int, Run] = {}
        for run in alike:
            twin = seeds.setdefault(run.config.seed, run)
            if twin is not run:
                raise DataError(
                    f"{twin.folder} and {run.folder} are the same run: one setting, "
                    f"seed {run.config.seed}; give one of them"
                )
    parted = [sorted(alike, key=lambda run: run.config.seed) for alike in parted]
    return tuple(
        Group(label, tuple(alike)) for label, alike in zip(_labels(parted), parted, strict=True)
    )


def shared_settings(run: Run) -> str:
    """What two runs must have in common for their scores to be compared, the order included.

    The gate, the pruning and what belongs to one method alone are left out: they are what is
    compared.
    """
    kept = {key: value for key, value in run.settings.items() if key not in _COMPARED}
    kept["backbone"] = run.config.backbone.fingerprint
    kept["order"] = list(run.config.order.tasks)
    kept["hyper_parameters"] = {
        key: value
        for key, value in run.config.hyper_parameters.items()
        if key not in _GATE_KEYS and not key.startswith(tuple(f"{name}_" for name in NAMES))
    }
    return json.dumps(kept, sort_keys=True)


def scratch_settings(run: Run) -> str:
    """As `shared_settings`, for any order of the same tasks: adapters that never met have none."""
    kept = json.loads(shared_settings(run))
    return json.dumps({**kept, "order": sorted(kept["order"])}, sort_keys=True)


def _key(run: Run) -> str:
    """Pruned runs of several seeds have several densities: those of the gated run they follow."""
    kept = {**run.settings, "prune": run.config.prune is not None}
    return json.dumps({**kept, "backbone": run.config.backbone.fingerprint}, sort_keys=True)


def _part_prunings(runs: list[Run]) -> list[list[Run]]:
    """Where a seed stands twice the prunings aim at different densities, so these part them."""
    if len({run.config.seed for run in runs}) == len(runs):
        return [runs]
    return _by(runs, lambda run: str(run.config.prune))


def _by(runs: Iterable[Run], key: Callable[[Run], str]) -> list[list[Run]]:
    """Runs of one key together, in the order of their first."""
    parts: dict[str, list[Run]] = {}
    for run in runs:
        parts.setdefault(key(run), []).append(run)
    return list(parts.values())


def _labels(parted: Sequence[Sequence[Run]]) -> list[str]:
    """The method, then each setting of which the groups that use it have several values."""
    used = [_settings(alike[0], [run for other in parted for run in other]) for alike in parted]
    values: dict[str, set[str]] = {}
    for settings in used:
        for key, value in settings.items():
            values.setdefault(key, set()).add(value)
    labels: list[str] = []
    for alike, settings in zip(parted, used, strict=True):
        told = [
            f"{_SHORT.get(key, key.rpartition('.')[2])} {value}".strip()
            for key, value in settings.items()
            if len(values[key]) > 1
        ]
        label = printable(", ".join([_name(alike), *told]))  # plots and files show it too
        same = sum(other == label or other.startswith(f"{label} (") for other in labels)
        labels.append(f"{label} ({same + 1})" if same else label)
    return labels


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


def _settings(run: Run, every: Sequence[Run]) -> dict[str, str]:
    """Setting -> value as text, of those that the run's method uses."""
    order, backbone = run.config.order, run.config.backbone
    alike = {other.config.order.tasks for other in every if other.config.order.name == order.name}
    named = {
        other.config.backbone.fingerprint
        for other in every
        if other.config.backbone.name == backbone.name
    }
    settings = {
        "order": f"{order.name} ({' '.join(order.tasks)})" if len(alike) > 1 else order.name,
        "backbone": f"{backbone.name} {backbone.fingerprint[:_DIGITS_OF_FINGERPRINT]}"
        if len(named) > 1
        else backbone.name,
    }
    rest = {key: value for key, value in run.settings.items() if key not in _COMPARED}
    for key, value in _leaves({k: v for k, v in rest.items() if k not in settings}):
        if _uses(run.config, key.rpartition(".")[2]):
            settings[key] = _text(value)
    return settings


def _leaves(settings: Mapping[str, JsonValue], prefix: str = "") -> Iterable[tuple[str, JsonValue]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _uses(config: RunConfig, key: str) -> bool:
    """Whether a setting plays a part: not the gate's without a gate, nor ELLA's in O-LoRA."""
    if key in _GATE_KEYS:
        return config.gate == "jumprelu"
    return all(not key.startswith(f"{name}_") or name == config.method for name in NAMES)


def _text(value: JsonValue) -> str:
    if value is None:
        return "all"
    return f"{value:g}" if isinstance(value, float) else str(value)
