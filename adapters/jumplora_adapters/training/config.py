"""Everything that decides what one training run computes, as one frozen value."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from jumplora_adapters.errors import DataError
from jumplora_adapters.manifest import PromptSpec, check_task_id
from jumplora_adapters.training.gate import BANDWIDTH, Estimator

Method = Literal["jumplora", "lora"]
Scope = Literal["global", "block"]
Decay = Literal["constant", "linear"]
ValueType = Literal["float32", "float16", "bfloat16"]
Precision = Literal["float32", "bfloat16"]
Device = Literal["cpu", "cuda"]
Score = Literal["exact_match", "f1", "rouge_l"]

TARGETS = ("*.q", "*.v")
"""Patterns of the layers that are adapted: q and v of every attention, as published."""


@dataclass(frozen=True, slots=True)
class GateConfig:
    """`set_at` and `closed_at` are the shares of the steps after which the threshold is set and
    the gate fully closed.
    """

    scope: Scope = "global"
    estimator: Estimator = "mean"
    bandwidth: float = BANDWIDTH
    set_at: float = 0.2
    closed_at: float = 0.8

    def numbers(self) -> dict[str, object]:
        """Under the names of the manifest."""
        return {
            "threshold_scope": self.scope,
            "estimator": self.estimator,
            "bandwidth": self.bandwidth,
            "set_at": self.set_at,
            "closed_at": self.closed_at,
        }

    def check(self) -> None:
        """Raises DataError."""
        if not 0 < self.bandwidth < math.inf:
            raise DataError(f"bandwidth is {self.bandwidth}, it must be a number greater than 0")
        if not 0 < self.set_at < self.closed_at < 1:
            raise DataError(
                f"the gate is set at {self.set_at} of the steps and closed at {self.closed_at}: "
                "allowed is 0 < set < closed < 1"
            )


@dataclass(frozen=True, slots=True)
class Optimisation:
    """AdamW on A, B and the thresholds. `epochs` counts unless `max_steps` is given.

    `dropout` is the frozen backbone's, `lora_dropout` that of a plain LoRA's input.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    decay: Decay = "constant"
    warm_up: int = 0
    clip: float = 1.0
    dropout: float = 0.0
    lora_dropout: float = 0.0
    epochs: int = 1
    max_steps: int | None = None
    batch_size: int = 32
    accumulate: int = 1

    @property
    def has_dropout(self) -> bool:
        """Whether a step draws random numbers."""
        return bool(self.dropout or self.lora_dropout)

    def numbers(self) -> dict[str, object]:
        """Under the names of the manifest; `lora_dropout` only where there is one."""
        settings: dict[str, object] = asdict(self)
        if not self.lora_dropout:
            del settings["lora_dropout"]
        return settings

    def check(self, *, is_gated: bool) -> None:
        """Raises DataError."""
        for name, share in (("dropout", self.dropout), ("lora-dropout", self.lora_dropout)):
            if not 0 <= share < 1:
                raise DataError(f"{name} is {share}, allowed is 0 up to below 1")
        if is_gated and self.lora_dropout:
            raise DataError(
                f"lora-dropout is {self.lora_dropout}, and a gated update has no "
                "such dropout: leave it out, or train plain LoRA (--no-gate)"
            )
        if self.warm_up < 0 or not 0 <= self.weight_decay < math.inf:
            raise DataError("warm-up and weight-decay must be numbers of at least 0")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Limits in tokens, the end token included."""

    source: int = 512
    target: int = 8


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One task's training. Paths and `threads` and `device` may differ between two runs that
    compute the same; everything in `identity` may not.

    `ancestors` are store specs, oldest first; they need `store`.
    `precision` is that of the frozen backbone in training steps; factors, gates and every
    evaluation are float32.
    Without `dev` nothing is selected: the last state is kept, as the published protocol does.
    `values` None means float16 for a gated adapter (its entries are never small) and float32 for
    plain LoRA factors (which are).
    """

    backbone: str
    task: str
    train: Path
    out: Path
    dev: Path | None = None
    test: Path | None = None
    prompt: PromptSpec | None = None
    method: Method = "jumplora"
    gate: GateConfig = field(default_factory=GateConfig)
    rank: int = 8
    alpha: float = 32.0
    targets: tuple[str, ...] = TARGETS
    optimisation: Optimisation = field(default_factory=Optimisation)
    lengths: Lengths = field(default_factory=Lengths)
    values: ValueType | None = None
    precision: Precision = "float32"
    select_by: Score = "exact_match"
    dev_rows: int | None = None
    seed: int = 0
    ancestors: tuple[str, ...] = ()
    store: Path | None = None
    work: Path | None = None
    created: str | None = None
    threads: int | None = None
    device: Device | None = None
    checkpoint_seconds: float = 60.0

    @property
    def value_type(self) -> ValueType:
        return self.values or ("float16" if self.method == "jumplora" else "float32")

    @property
    def work_folder(self) -> Path:
        return self.work or self.out.with_name(self.out.name + ".work")

    def hyper_parameters(self) -> dict[str, object]:
        """What the manifest reports and a checkpoint must agree with: numbers, no paths."""
        settings = self.optimisation.numbers()
        settings |= {
            "method": self.method,
            "rank": self.rank,
            "alpha": self.alpha,
            "targets": list(self.targets),
            "source_tokens": self.lengths.source,
            "target_tokens": self.lengths.target,
            "values": self.value_type,
            "precision": self.precision,
            "select_by": self.select_by,
            "dev_rows": self.dev_rows,
            "seed": self.seed,
        }
        if self.method == "jumplora":
            settings |= self.gate.numbers()
        return settings

    def check(self) -> None:
        """Raises DataError or TaskIdInvalid naming the first setting that is out of range."""
        check_task_id(self.task)
        optimisation, lengths = self.optimisation, self.lengths
        above_zero: dict[str, float] = {
            "rank": self.rank,
            "alpha": self.alpha,
            "lr": optimisation.learning_rate,
            "epochs": optimisation.epochs,
            "batch-size": optimisation.batch_size,
            "accumulate": optimisation.accumulate,
            "clip": optimisation.clip,
            "source-length": lengths.source,
            "target-length": lengths.target,
            "max-steps": 1 if optimisation.max_steps is None else optimisation.max_steps,
            "dev-rows": 1 if self.dev_rows is None else self.dev_rows,
            "threads": 1 if self.threads is None else self.threads,
        }
        for name, value in above_zero.items():
            if not 0 < value < math.inf:
                raise DataError(f"{name} is {value}, it must be a number greater than 0")
        if not 0 <= self.seed < 2**32:
            raise DataError(f"seed is {self.seed}, allowed is 0 to {2**32 - 1}")
        self.gate.check()
        optimisation.check(is_gated=self.method == "jumplora")
        if self.ancestors and self.store is None:
            raise DataError("ancestors are looked up in a store: give its folder too")
