"""How much memory a run will need, reckoned before it starts, and what there is.

A sum over what is held at the same time, in a training step or while a state is scored. It is not
a bound: benchmarks/results/training.md has measured peaks beside the estimates.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace

import torch

from jumplora_adapters.architecture import Architecture
from jumplora_adapters.continual.prepare import Prepared, Stage
from jumplora_adapters.continual.watch import Watch
from jumplora_adapters.errors import DataError
from jumplora_adapters.training.options import POSITIONS_A_BATCH, SOURCE_TOKENS_A_BATCH
from jumplora_adapters.training.targets import VALUE_BYTES, targets_of

_FLOAT = 4
_GATED_DENSITY = 0.25  # of benchmarks/results/continual.md, the densest
_SMALLEST = 10_000_000  # that is shown: 0.01 GB
_PROGRAM = 500_000_000  # the interpreter with torch and transformers loaded, on a CPU
_DENSE_AT_ONCE = 6
"""Matrices of one target's size that a gated layer makes and drops again: the weight, Z, its
gradient, what is multiplied, masks. As many where a mask is made of the factors."""
_SERVED_AT_ONCE = (
    2  # of one target's size beside its whole weight: a delta written out, and its sum
)


@dataclass(frozen=True, slots=True)
class TrainingSizes:
    """What the memory of one training step depends on. `weights` counts the backbone's numbers."""

    architecture: Architecture
    targets: tuple[tuple[int, int], ...]
    weights: int
    rank: int
    rows: int
    source: int  # tokens of the longest row
    target: int
    is_gated: bool = False
    is_masked: bool = False  # what is saved; a pruned update was trained without a gate
    past_entries: int = 0  # float32 numbers that ELLA or O-LoRA keep of earlier tasks
    adapter_bytes: int = 0  # of all tasks' adapters up to this one
    narrow_copies: int = 0  # 1 where the frozen backbone is also kept in 16 bit
    program: int = _PROGRAM

    @property
    def entries(self) -> int:
        """Entries of all targets together."""
        return sum(d_out * d_in for d_out, d_in in self.targets)

    @property
    def largest(self) -> int:
        """Entries of the largest target: a head's are a vocabulary times d_model."""
        return max(d_out * d_in for d_out, d_in in self.targets)

    @property
    def factors(self) -> int:
        """Numbers in A and B."""
        return sum(self.rank * (d_out + d_in) for d_out, d_in in self.targets)


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes by what they are for."""

    program: int
    backbone: int
    adapter: int  # factors, gradients, AdamW's moments, a copy for the checkpoint
    past: int  # the adapters before, and what ELLA or O-LoRA keep of them
    update: int  # dense matrices of one module at a time, and what freed ones leave behind
    activations: int
    logits: int
    scoring: int  # while a state is saved and scored; not at the same time as a step

    @property
    def step(self) -> int:
        """The peak of a training step."""
        return self._always + self.update + self.activations + self.logits

    @property
    def total(self) -> int:
        """The peak of a run: of a training step or of scoring."""
        return max(self.step, self._always + self.scoring)

    @property
    def _always(self) -> int:
        return self.program + self.backbone + self.adapter + self.past

    def parts(self) -> dict[str, int]:
        """By name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __str__(self) -> str:
        listed = ", ".join(
            f"{name} {_gb(value)}" for name, value in self.parts().items() if value >= _SMALLEST
        )
        return f"{_gb(self.total)} ({listed}; scoring or a training step, whichever is larger)"


def estimate_of(sizes: TrainingSizes) -> MemoryEstimate:
    """The peak of a training of these sizes, and of scoring it, on one device."""
    at_once = _DENSE_AT_ONCE * sizes.largest if sizes.is_gated or sizes.past_entries else 0
    # Between the activations that stay, the C library keeps about one weight a gated layer.
    left_behind = sizes.entries if sizes.is_gated else 0
    logits = 3 * _FLOAT * sizes.rows * sizes.target * sizes.architecture.vocab_size
    return MemoryEstimate(
        program=sizes.program,
        backbone=sizes.weights * (_FLOAT + 2 * sizes.narrow_copies),
        adapter=5 * _FLOAT * sizes.factors,
        past=_FLOAT * sizes.past_entries + sizes.adapter_bytes,
        update=_FLOAT * (at_once + left_behind),
        activations=_activations(sizes),
        logits=logits,
        scoring=_scoring(sizes),
    )


def estimate(prepared: Prepared) -> MemoryEstimate:
    """The peak of the run's largest stage on one device."""
    stages = (estimate_of(_sizes(prepared, stage)) for stage in prepared.stages)
    return max(stages, key=lambda found: found.total)


def check_memory(needed: MemoryEstimate, there: int, watch: Watch) -> None:
    """Tell the estimate. Raises DataError where there are only `there` bytes."""
    watch.told(f"memory: about {needed}; there is {_gb(there)}")
    if needed.total > there:
        raise DataError(
            f"the run needs about {needed}, and there is {_gb(there)}: take smaller "
            "batches with more accumulation, a shorter source length, fewer targets, or a larger "
            "machine"
        )


def share_of_memory(prepared: Prepared) -> int:
    """What one of the run's processes may take: on a CPU they share what is free."""
    there = available_bytes(prepared.device)
    return there // prepared.processes.count if prepared.device.type == "cpu" else there


def available_bytes(device: torch.device) -> int:
    """What a program may still take of the device's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free, limit = _free_bytes(), _cgroup_bytes()
    return free if limit is None else min(free, limit)


def _sizes(prepared: Prepared, stage: Stage) -> TrainingSizes:
    config, backbone = prepared.config, prepared.backbone
    targets = tuple(backbone.sites[name].shape for name in targets_of(backbone, config.targets))
    past = 0
    if config.method == "ella" and stage.position > 1:
        past = sum(d_out * d_in for d_out, d_in in targets)
    elif config.method == "olora":
        past = (stage.position - 1) * sum(config.rank * d_in for _, d_in in targets)
    sizes = TrainingSizes(
        architecture=backbone.architecture,
        targets=targets,
        weights=_count_weights(prepared),
        rank=config.rank,
        rows=min(config.optimisation.batch_size, len(stage.examples)),
        source=max(len(example.source) for example in stage.examples),
        target=max(len(example.target) for example in stage.examples),
        is_gated=config.gate is not None,
        is_masked=config.gate is not None or config.prune is not None,
        past_entries=past,
        narrow_copies=int(config.precision == "bfloat16"),
        program=_PROGRAM if prepared.device.type == "cpu" else 0,
    )
    if prepared.device.type != "cpu":  # the adapters stay in the machine's own memory
        return sizes
    return replace(sizes, adapter_bytes=_adapter_bytes(prepared, stage, sizes))


def _adapter_bytes(prepared: Prepared, stage: Stage, sizes: TrainingSizes) -> int:
    """Of what is saved of the stages up to this one, all of which a run keeps."""
    config = prepared.config
    if not sizes.is_masked:
        return stage.position * VALUE_BYTES[stage.train.value_type] * sizes.factors
    densities = [
        config.density(position) or _GATED_DENSITY for position in range(1, stage.position + 1)
    ]
    values = round(sum(densities) * sizes.entries)
    factors = stage.position * sizes.factors if config.method == "olora" else 0
    masks = stage.position * sizes.entries // 8
    return masks + VALUE_BYTES[stage.train.value_type] * values + _FLOAT * factors


def _activations(sizes: TrainingSizes) -> int:
    """What a forward pass keeps for backward.

    A layer keeps the inputs and outputs of its norms, projections and products; the frozen ones
    keep them too, since a gradient passes through to the layers below.
    """
    network = sizes.architecture
    heads, inner = network.num_heads, network.inner
    rows, source, target = sizes.rows, sizes.source, sizes.target
    wide = 8 * network.d_model + 4 * inner + 6 * network.d_ff
    encoder = source * wide + 2 * heads * source * source
    decoder = (
        target * (wide + 4 * inner) + 2 * source * inner + 2 * heads * target * (source + target)
    )
    layers = network.num_layers * encoder + network.num_decoder_layers * decoder
    return (2 if sizes.narrow_copies else _FLOAT) * rows * layers


def _scoring(sizes: TrainingSizes) -> int:
    """A whole weight of every target, and two sets of cross attention's keys and values (one is
    being made of the other), attention maps of one encoder layer, logits over the vocabulary; all
    in float32. Before that, masks are made of the factors, and then the weights, one by one.
    """
    tokens = max(SOURCE_TOKENS_A_BATCH, sizes.source)
    network = sizes.architecture
    caches = 2 * 2 * network.num_decoder_layers * tokens * network.inner
    maps = 2 * network.num_heads * tokens * sizes.source
    logits = 2 * POSITIONS_A_BATCH * network.vocab_size
    served = sizes.entries + max(_SERVED_AT_ONCE * sizes.largest, caches + maps + logits)
    saved = _DENSE_AT_ONCE * sizes.largest if sizes.is_masked else 0
    return _FLOAT * max(saved, served)


def _count_weights(prepared: Prepared) -> int:
    """Numbers in all tensors that are kept; tied parameters are one."""
    places = prepared.backbone.checkpoint.places.values()
    return sum(math.prod(place.shape) for place in set(places))


def _free_bytes() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cgroup_bytes() -> int | None:
    """What a container may take, less what it has taken; None without a limit."""
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
