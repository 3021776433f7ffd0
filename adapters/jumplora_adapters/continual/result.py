"""What came of one task of a run, beside its scores: one JSON file a task."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jumplora_adapters.atomic_file import replace_file
from jumplora_adapters.delta import Delta
from jumplora_adapters.density import pooled_density
from jumplora_adapters.errors import DataError
from jumplora_adapters.threshold_move import threshold_moves
from jumplora_adapters.training.checkpoint import Progress

_NEARLY_NONE, _NEARLY_ALL = 1e-4, 0.6
_NO_MOVE = 1e-3


@dataclass(frozen=True, slots=True)
class TaskResult:
    """`version` is the adapter's digest. Seconds are those of the optimizer steps that count, not
    of those that a kill undid; `peak_memory_bytes` is the process's (the device's allocator on a
    GPU) so far, scoring included.
    """

    position: int
    task: str
    version: str
    steps: int
    density: float
    module_density: dict[str, float]
    density_by_step: list[tuple[int, float]]
    tau_start: dict[str, float]
    tau_end: dict[str, float]
    tau_by_step: list[tuple[int, dict[str, float]]]
    seconds: float
    cpu_seconds: float
    seconds_per_step: float  # median
    peak_memory_bytes: int
    warnings: list[str]

    def write(self, path: Path) -> None:
        """Atomic."""
        text = json.dumps(asdict(self), indent=1)
        replace_file(path, f"{text}\n".encode())

    @classmethod
    def read(cls, path: Path) -> TaskResult:
        """Raises DataError for any other file."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path} does not hold a task's result ({error}): delete its folder"
            ) from error


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Of the lines of a training's log."""

    seconds: list[float]
    cpu_seconds: list[float]
    tau: list[tuple[int, dict[str, float]]]

    @classmethod
    def read(cls, path: Path) -> StepTimes:
        lines: list[dict[str, Any]] = [
            json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
        ]
        steps = [line for line in lines if "seconds" in line]
        return cls(
            [line["seconds"] for line in steps],
            [line["cpu_seconds"] for line in steps],
            [(line["step"], line["tau"]) for line in steps if "tau" in line],
        )

    @property
    def median(self) -> float:
        """Seconds of the middle step."""
        return statistics.median(self.seconds or [0.0])


def module_densities(deltas: Mapping[str, Delta]) -> dict[str, float]:
    """Share of kept entries by module; 1 for low-rank updates."""
    return {name: delta.density for name, delta in deltas.items()}


def warnings_of(
    deltas: Mapping[str, Delta], progress: Progress, tau: dict[str, float]
) -> list[str]:
    """What a reader should know before trusting a gated update; empty for plain LoRA."""
    if not tau:
        return []
    found = []
    density = pooled_density(deltas)
    if density < _NEARLY_NONE:
        found.append(f"the gate keeps {density:.2e} of the entries: the update is next to nothing")
    if density > _NEARLY_ALL:
        found.append(f"the gate keeps {density:.0%} of the entries: it selects little")
    empty = [name for name, delta in deltas.items() if delta.nnz == 0]
    if empty:
        found.append(f"{len(empty)} of {len(deltas)} modules keep nothing, {empty[0]} the first")
    for move in threshold_moves(progress.initial_thresholds, tau):
        if abs(move.end / move.start - 1) < _NO_MOVE:
            found.append(f"tau {move.group} hardly moved: {move}")
    return found
