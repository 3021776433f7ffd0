"""How much memory a run will need, reckoned before it starts, and what there is.

A sum over what is known to be held at the same time; benchmarks/results/training.md has what was
measured beside what was reckoned.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch
from safetensors import safe_open

from jumplora_adapters.checkpoint import weight_files
from jumplora_adapters.continual.prepare import Prepared, Stage
from jumplora_adapters.continual.watch import Watch
from jumplora_adapters.errors import DataError
from jumplora_adapters.training.adapt import targets_of

_FLOAT = 4
_PROGRAM = 600_000_000  # the interpreter with torch and transformers loaded
_DENSE_AT_ONCE = 6  # of one module: weight, Z, gradient, masks, the sum that is built
"""Matrices of one target's size that a gated layer makes and drops again."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes by what they are for."""

    program: int
    backbone: int
    adapter: int  # factors, gradients, AdamW's moments, the state that is kept
    past: int  # ELLA's W_past, O-LoRA's earlier factors
    update: int  # dense matrices of one module at a time
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of them: the peak of a training step."""
        return (
            self.program + self.backbone + self.adapter + self.past
            + self.update + self.activations + self.logits
        )  # fmt: skip

    def __str__(self) -> str:
        parts = {name: getattr(self, name) for name in self.__slots__}
        listed = ", ".join(f"{name} {_gb(value)}" for name, value in parts.items() if value)
        return f"{_gb(self.total)} ({listed})"


def estimate(prepared: Prepared) -> MemoryEstimate:
    """The peak of the run's largest stage on one device."""
    config, targets = prepared.config, prepared.backbone.targets
    adapted = [targets[name] for name in targets_of(prepared.backbone, config.targets)]
    entries = [d_out * d_in for d_out, d_in in adapted]
    factors = sum(config.rank * (d_out + d_in) for d_out, d_in in adapted)
    past = 0
    if config.method == "ella" and len(prepared.stages) > 1:
        past = _FLOAT * sum(entries)
    elif config.method == "olora":
        tasks = len(prepared.stages) - 1
        past = _FLOAT * tasks * sum(config.rank * d_in for _, d_in in adapted)
    is_dense = config.gate is not None or config.method == "ella"
    weights = _weights(prepared)
    narrow = weights // 2 if config.precision == "bfloat16" else 0
    activations, logits = max((_step(prepared, stage) for stage in prepared.stages), key=sum)
    return MemoryEstimate(
        program=_PROGRAM if prepared.device.type == "cpu" else 0,
        backbone=weights + narrow,
        adapter=5 * _FLOAT * factors,
        past=past,
        update=_FLOAT * _DENSE_AT_ONCE * max(entries) if is_dense else 0,
        activations=activations,
        logits=logits,
    )


def check_memory(prepared: Prepared, watch: Watch) -> None:
    """Tell the estimate. Raises DataError where this machine has less."""
    needed, there = estimate(prepared), available_bytes(prepared.device)
    watch.told(f"memory for a training step: about {needed}; there is {_gb(there)}")
    if needed.total > there:
        raise DataError(
            f"the run needs about {needed}, and {prepared.device} has {_gb(there)}: take smaller "
            "batches with more accumulation, a shorter source length, or a larger machine"
        )


def available_bytes(device: torch.device) -> int:
    """What a new program may take of the device's memory now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = _meminfo()
    limit = _cgroup_limit()
    return free if limit is None else min(free, limit)


def _weights(prepared: Prepared) -> int:
    """Bytes of all weights as float32, whatever type their files have."""
    entries = 0
    for path in set(weight_files(prepared.backbone.path).values()):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                entries += math.prod(file.get_slice(name).get_shape())
    return _FLOAT * entries


def _step(prepared: Prepared, stage: Stage) -> tuple[int, int]:
    """(activations, logits) bytes of one forward and backward pass over the longest rows."""
    sizes = {k: v for k, v in prepared.backbone.architecture.items() if isinstance(v, int)}
    config = stage.train
    rows = min(config.optimisation.batch_size, len(stage.examples))
    source = min(max(len(e.source) for e in stage.examples), config.lengths.source)
    target = max(len(e.target) for e in stage.examples)
    inner = sizes["num_heads"] * sizes["d_kv"]
    float_bytes = _FLOAT if config.precision == "float32" else 2
    # A layer keeps its inputs and products for backward; the frozen ones keep theirs too, since a
    # gradient passes through them to the layers below.
    wide = 8 * sizes["d_model"] + 4 * inner + 6 * sizes["d_ff"]
    encoder = sizes["num_layers"] * rows * (
        source * wide + 2 * sizes["num_heads"] * source * source
    )  # fmt: skip
    decoder = sizes["num_decoder_layers"] * rows * (
        target * (wide + 4 * inner) + 2 * source * inner
        + 2 * sizes["num_heads"] * target * (source + target)
    )  # fmt: skip
    logits = 3 * _FLOAT * rows * target * sizes["vocab_size"]
    return float_bytes * (encoder + decoder), logits


def _meminfo() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cgroup_limit() -> int | None:
    """What a container may take, less what it has taken."""
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            limit = file.read().strip()
        with open("/sys/fs/cgroup/memory.current", encoding="ascii") as file:
            used = int(file.read())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)


def _gb(value: int) -> str:
    return f"{value / 1e9:.2f} GB"
