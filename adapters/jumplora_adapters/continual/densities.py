"""The densities that a control run is pruned to: given as numbers, or those of a gated run."""

from __future__ import annotations

import json
from pathlib import Path

from jumplora_adapters.continual.result import TaskResult
from jumplora_adapters.errors import DataError


def read_densities(given: str) -> tuple[float, ...]:
    """ "0.12", "0.12,0.1,0.14", or the folder of a finished run. Raises DataError."""
    folder = Path(given)
    if folder.is_dir():
        return _densities_of(folder)
    try:
        return tuple(float(part) for part in given.split(","))
    except ValueError as error:
        raise DataError(
            f"prune is {given!r}; a density, densities separated by commas, or the folder of a "
            "gated run is allowed"
        ) from error


def _densities_of(run: Path) -> tuple[float, ...]:
    if not (run / "overlap.json").is_file():
        raise DataError(f"{run} is no finished run to take densities from")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    if config["gate"] == "none":
        raise DataError(f"{run} has no gate: its updates are dense")
    results = [TaskResult.read(path) for path in run.glob("tasks/*/result.json")]
    return tuple(result.density for result in sorted(results, key=lambda found: found.position))
