"""The state of an unfinished training in one file: safetensors, numbers as JSON in its metadata.

One file, so that a kill leaves either the old state or the new one, never halves of two.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

from jumplora_adapters.errors import DataError

_KEY = "jumplora_training"


@dataclass(slots=True)
class Progress:
    """How far a run is, and what it has seen on the way. Mutable: the loop's own state."""

    step: int = 0
    best_step: int = 0
    best_scores: dict[str, float] = field(default_factory=dict)
    initial_thresholds: dict[str, float] = field(default_factory=dict)
    densities: list[tuple[int, float]] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`identity` says what was being computed; tensors are on the CPU, by parameter name."""

    identity: str
    progress: Progress
    parameters: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    random: Mapping[str, Tensor]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Atomic: a temporary file beside it, flushed to disk, then renamed over it."""
    tensors: dict[str, Tensor] = {}
    for group in ("parameters", "best", "optimizer", "random"):
        for name, tensor in getattr(checkpoint, group).items():
            tensors[f"{group}/{name}"] = tensor.contiguous()
    note = json.dumps({"identity": checkpoint.identity, "progress": asdict(checkpoint.progress)})
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(save(tensors, {_KEY: note}))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_checkpoint(path: Path, identity: str) -> Checkpoint | None:
    """None if there is none. DataError if it is damaged or belongs to another computation."""
    if not path.is_file():
        return None
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads(file.metadata()[_KEY])
            for key in file.keys():  # noqa: SIM118 - not a mapping
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = file.get_tensor(key)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a training checkpoint ({error}): delete it") from error
    try:
        difference = _difference(note["identity"], identity)
        progress = _progress(note["progress"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise other_layout(path, error) from error
    if difference:
        raise DataError(
            f"{path} belongs to another training ({difference}): "
            "give the settings it began with, another work folder, or delete it"
        )
    return Checkpoint(
        identity,
        progress,
        groups.get("parameters", {}),
        groups.get("best", {}),
        groups.get("optimizer", {}),
        groups.get("random", {}),
    )


def other_layout(path: Path, error: Exception) -> DataError:
    """What to raise where a checkpoint is one, but not as this program writes it."""
    return DataError(
        f"{path} was written by another version of this program ({error!r}) and cannot be "
        "continued: delete it to begin again"
    )


def _progress(numbers: dict[str, Any]) -> Progress:
    pairs = {name: [tuple(pair) for pair in numbers[name]] for name in ("densities", "evaluations")}
    return Progress(**{**numbers, **pairs})


def _difference(theirs: str, ours: str) -> str:
    first, second = json.loads(theirs), json.loads(ours)
    names = sorted(first.keys() | second.keys())
    different = [name for name in names if first.get(name) != second.get(name)]
    return ", ".join(f"{n}: {first.get(n)}, now {second.get(n)}" for n in different)


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The moments and step counts, as "<parameter number>.<what>"."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{what}": tensor.detach().cpu().clone()
        for number, entries in state.items()
        for what, tensor in entries.items()
    }


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, what = name.partition(".")
        state.setdefault(int(number), {})[what] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def random_tensors(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
