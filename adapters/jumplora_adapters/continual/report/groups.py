"""Runs that differ in the seed alone, and which runs may be compared. No score is known here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from jumplora_adapters.continual.report.labels import COMPARED, labels
from jumplora_adapters.continual.report.runs import Run, RunConfig
from jumplora_adapters.errors import DataError


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
        Group(label, tuple(alike)) for label, alike in zip(labels(parted), parted, strict=True)
    )


def are_comparable(first: Run, second: Run) -> bool:
    """Whether two runs differ in method, gate, pruning and seed at most, besides their orders.

    They agree in every hyper-parameter that both have: a dense run has none of the gate's, a gated
    one no dropout of a plain LoRA, and ELLA's strength is ELLA's alone.
    """
    if _is_of_the_old_rule(first) != _is_of_the_old_rule(second):
        return False
    ours, theirs = first.config.hyper_parameters, second.config.hyper_parameters
    if first.config.gate == second.config.gate and ours.get("lora_dropout") != theirs.get(
        "lora_dropout"
    ):
        return False
    return (
        first.config.backbone.identity == second.config.backbone.identity
        and sorted(first.config.order.tasks) == sorted(second.config.order.tasks)
        and _rest(first) == _rest(second)
        and all(ours[key] == theirs[key] for key in ours if key in theirs)
    )


def _is_of_the_old_rule(run: Run) -> bool:
    """Whether ELLA's term gave the threshold a gradient: until 2026-11-27, and not as published."""
    config = run.config
    is_gated_ella = config.method == "ella" and config.gate != "none"
    return is_gated_ella and "ella_reaches" not in config.hyper_parameters


def _rest(run: Run) -> dict[str, JsonValue]:
    known = {*COMPARED, "backbone", "order", "hyper_parameters"}
    return {key: value for key, value in run.settings.items() if key not in known}


def _key(run: Run) -> str:
    """Pruned runs of several seeds have several densities: those of the gated run they follow."""
    kept = {**run.settings, "prune": run.config.prune is not None}
    return json.dumps({**kept, "backbone": run.config.backbone.identity}, sort_keys=True)


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
