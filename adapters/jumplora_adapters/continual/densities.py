"""The densities that a control run is pruned to: given as numbers, or those of a gated run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jumplora_adapters.continual.config import ContinualConfig
from jumplora_adapters.continual.result import TaskResult
from jumplora_adapters.continual.tasks import read_order
from jumplora_adapters.errors import DataError


def read_densities(given: str, control: ContinualConfig) -> tuple[float, ...]:
    """Of "0.12", "0.12,0.1,0.14", or the folder of the finished run that `control` is for.

    Raises DataError, also where that run differs in more than its gate: it would be no control.
    """
    folder = Path(given)
    if folder.is_dir():
        _check_is_alike(folder, control)
        results = [TaskResult.read(path) for path in folder.glob("tasks/*/result.json")]
        return tuple(result.density for result in sorted(results, key=lambda r: r.position))
    try:
        return tuple(float(part) for part in given.split(","))
    except ValueError as error:
        raise DataError(
            f"prune is {given!r}; a density, densities separated by commas, or the folder of a "
            "gated run is allowed"
        ) from error


def _check_is_alike(run: Path, control: ContinualConfig) -> None:
    if not (run / "overlap.json").is_file():
        raise DataError(f"{run} is not a finished run, so it has no densities to take")
    try:
        config: dict[str, Any] = json.loads((run / "config.json").read_text(encoding="utf-8"))
        gate, tasks = str(config["gate"]), list(config["order"]["tasks"])
        theirs: dict[str, Any] = {
            "method": config["method"],
            "seed": config["seed"],
            "tasks": tasks,
        }
        settings = dict(config["hyper_parameters"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run / 'config.json'} does not describe a run ({error!r})") from error
    if gate == "none":
        raise DataError(f"{run} has no gate: its updates are dense")
    tasks = list(read_order(control.data, control.order).tasks)
    ours: dict[str, Any] = {"method": control.method, "seed": control.seed, "tasks": tasks}
    numbers = control.hyper_parameters()  # without those of a gate, which a control has not
    theirs |= {name: settings.get(name) for name in numbers}
    ours |= numbers
    if different := [f"{k} {theirs[k]}, here {ours[k]}" for k in ours if theirs[k] != ours[k]]:
        raise DataError(f"{run} has other settings than this control: {'; '.join(different)}")
