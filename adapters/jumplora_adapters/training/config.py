"""Everything that decides what one training run computes, as one frozen value."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class GateConfig:
    scope: Scope = "global"
    estimator: Estimator = "mean"
    bandwidth: float = BANDWIDTH


@dataclass(frozen=True, slots=True)
class Optimisation:
    """AdamW on A, B and the thresholds. `epochs` counts unless `max_steps` is given."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    decay: Decay = "constant"
    warm_up: int = 0
    clip: float = 1.0
    dropout: float = 0.0
    epochs: int = 1
    max_steps: int | None = None
    batch_size: int = 32
    accumulate: int = 1


@dataclass(frozen=True, slots=True)
class Lengths:
    """Limits in tokens, the end token included."""

    source: int = 512
    target: int = 8


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One task's training. Paths and `threads`, `device`, `quiet` may differ between two runs that
    compute the same; everything in `identity` may not.

    `ancestors` are store specs, oldest first; they need `store`.
    `precision` is that of the frozen backbone in training steps; factors, gates and every
    evaluation are float32.
    `values` None means float16 for a gated adapter (its entries are never small) and float32 for
    plain LoRA factors (which are).
    """

    backbone: str
    task: str
    train: Path
    dev: Path
    out: Path
    test: Path | None = None
    prompt: PromptSpec | None = None
    method: Method = "jumplora"
    gate: GateConfig = field(default_factory=GateConfig)
    rank: int = 8
    alpha: float = 32.0
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
        settings: dict[str, object] = asdict(self.optimisation)
        settings |= {
            "method": self.method,
            "rank": self.rank,
            "alpha": self.alpha,
            "source_tokens": self.lengths.source,
            "target_tokens": self.lengths.target,
            "values": self.value_type,
            "precision": self.precision,
            "select_by": self.select_by,
            "dev_rows": self.dev_rows,
            "seed": self.seed,
        }
        if self.method == "jumplora":
            settings |= {
                "threshold_scope": self.gate.scope,
                "estimator": self.gate.estimator,
                "bandwidth": self.gate.bandwidth,
            }
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
            "bandwidth": self.gate.bandwidth,
            "max-steps": 1 if optimisation.max_steps is None else optimisation.max_steps,
            "dev-rows": 1 if self.dev_rows is None else self.dev_rows,
            "threads": 1 if self.threads is None else self.threads,
        }
        for name, value in above_zero.items():
            if not value > 0:
                raise DataError(f"{name} is {value}, it must be greater than 0")
        if not 0 <= optimisation.dropout < 1:
            raise DataError(f"dropout is {optimisation.dropout}, allowed is 0 up to below 1")
        if optimisation.warm_up < 0 or optimisation.weight_decay < 0:
            raise DataError("warm-up and weight-decay must not be negative")
        if self.ancestors and self.store is None:
            raise DataError("ancestors are looked up in a store: give its folder too")
