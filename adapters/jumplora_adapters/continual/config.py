"""Everything that decides what a continual run computes, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from jumplora_adapters.continual.methods import Method
from jumplora_adapters.errors import DataError
from jumplora_adapters.manifest import MAX_LINEAGE, PromptSpec, check_task_id
from jumplora_adapters.training.config import (
    TARGETS,
    Device,
    GateConfig,
    Lengths,
    Optimisation,
    Precision,
    TrainConfig,
    ValueType,
)

ScoredSplit = Literal["test", "dev"]

CHAINED: tuple[Method, ...] = ("inclora", "ella", "olora")
"""Methods in which a task starts from the merged updates of the earlier ones."""

JOINT_TASK = "joint"
_SEEDS = 2**32 // MAX_LINEAGE
MERGED_TASK = "merged"


@dataclass(frozen=True, slots=True)
class ContinualConfig:
    """One run over one order of tasks.

    `gate` None trains plain LoRA; `prune` cuts each finished update to the given density, by
    magnitude over all modules: the control for a learned gate. `train_rows` and `score_rows` take
    that many rows of a split, drawn once and alike for every seed. Paths, `threads`, `device` and
    `checkpoint_seconds` may differ between two commands that compute the same.
    """

    backbone: str
    data: Path
    order: str
    method: Method
    out: Path
    gate: GateConfig | None = None
    prune: tuple[float, ...] | None = None
    rank: int = 8
    alpha: float = 32.0
    targets: tuple[str, ...] = TARGETS
    optimisation: Optimisation = field(default_factory=Optimisation)
    lengths: Lengths = field(default_factory=Lengths)
    ella_lambda: float = 3e4
    olora_lambda: float = 0.5
    values: ValueType | None = None
    precision: Precision = "float32"
    split: ScoredSplit = "test"
    train_rows: int | None = None
    score_rows: int | None = None
    canaries: Path | None = None
    merged_task: str = MERGED_TASK
    seed: int = 0
    created: str | None = None
    threads: int | None = None
    device: Device | None = None
    checkpoint_seconds: float = 60.0

    @property
    def is_chained(self) -> bool:
        """Whether every task starts from the merged updates of the earlier ones."""
        return self.method in CHAINED

    def stage(
        self, position: int, task: str, train: Path, prompt: PromptSpec | None = None
    ) -> TrainConfig:
        """The training of one task, the `position`-th from 1."""
        return TrainConfig(
            backbone=self.backbone,
            task=task,
            train=train,
            prompt=prompt,
            out=self.adapter_path(position, task),
            method="lora" if self.gate is None else "jumplora",
            gate=self.gate or GateConfig(),
            rank=self.rank,
            alpha=self.alpha,
            targets=self.targets,
            optimisation=self.optimisation,
            lengths=self.lengths,
            values=self.values or ("float16" if self.prune is not None else None),
            precision=self.precision,
            seed=self.seed * MAX_LINEAGE + position,  # tasks differ, and so do seeds
            work=self.task_folder(position, task),
            created=self.created,
            threads=self.threads,
            device=self.device,
            checkpoint_seconds=self.checkpoint_seconds,
        )

    def joint_stage(self, tasks: int) -> TrainConfig:
        """The one training on all `tasks` tasks' rows, with as many steps as theirs together."""
        stage = self.stage(1, JOINT_TASK, self.data)
        if self.optimisation.max_steps is None:
            return stage
        steps = replace(self.optimisation, max_steps=tasks * self.optimisation.max_steps)
        return replace(stage, optimisation=steps)

    def density(self, position: int) -> float | None:
        """What the `position`-th task's update is pruned to; None: it is not."""
        if self.prune is None:
            return None
        return self.prune[0] if len(self.prune) == 1 else self.prune[position - 1]

    def adapter_path(self, position: int, task: str) -> Path:
        """Where a task's own update is written."""
        return self.out / "adapters" / f"{position}-{task}.safetensors"

    def task_folder(self, position: int, task: str) -> Path:
        """Where a task's log, checkpoint and result are."""
        return self.out / "tasks" / f"{position}-{task}"

    def hyper_parameters(self) -> dict[str, object]:
        """What the report shows and a resumed run must agree with: numbers, no paths."""
        settings = self.optimisation.numbers()
        settings |= {
            "rank": self.rank,
            "alpha": self.alpha,
            "targets": list(self.targets),
            "source_tokens": self.lengths.source,
            "target_tokens": self.lengths.target,
            "values": self.values,
            "precision": self.precision,
            "train_rows": self.train_rows,
            "score_rows": self.score_rows,
        }
        if self.gate is not None:
            settings |= self.gate.numbers()
        if self.method == "ella":
            settings["ella_lambda"] = self.ella_lambda
            if self.gate is not None:
                # Earlier versions gave the threshold a gradient of ELLA's term, too: those runs
                # are of another method, and are neither continued nor compared.
                settings["ella_reaches"] = "factors"
        if self.method == "olora":
            settings["olora_lambda"] = self.olora_lambda
        return settings

    def check(self) -> None:
        """Raises DataError or TaskIdInvalid naming the first setting that makes no run."""
        check_task_id(self.merged_task)
        if not 0 <= self.seed < _SEEDS:
            raise DataError(f"seed is {self.seed}, allowed is 0 to {_SEEDS - 1}")
        self.stage(1, JOINT_TASK, self.data).check()
        for name, rows in (("train-rows", self.train_rows), ("score-rows", self.score_rows)):
            if rows is not None and rows < 1:
                raise DataError(f"{name} is {rows}, it must be at least 1")
        for name, strength in (
            ("ella-lambda", self.ella_lambda),
            ("olora-lambda", self.olora_lambda),
        ):
            if not 0 <= strength < float("inf"):
                raise DataError(f"{name} is {strength}, it must be a number of at least 0")
        if self.method == "seqlora" and (self.gate is not None or self.prune is not None):
            raise DataError(
                "seqlora trains one dense adapter through all tasks: a gate would close at the end "
                "of each and open again, and cut entries would return; take inclora, ella, olora "
                "or independent with a gate or pruning"
            )
        if self.gate is not None and self.prune is not None:
            raise DataError("a gated update is not pruned: choose the gate or the control")
        for density in self.prune or ():
            if not 0 < density <= 1:
                raise DataError(f"a density of {density} was given, allowed is above 0 up to 1")
