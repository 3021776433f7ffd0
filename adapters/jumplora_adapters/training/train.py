"""Training of one task: from a TrainConfig to an adapter file, or to an error and no file.

Everything from outside is checked before the first step. The run's state is saved at least every
`checkpoint_seconds` and after every epoch; the same settings continue it after a kill.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from jumplora_adapters.backbone import Backbone, read_backbone, resolve_backbone
from jumplora_adapters.errors import DataError
from jumplora_adapters.format import Adapter, write_adapter
from jumplora_adapters.threshold_move import ThresholdMove, threshold_moves
from jumplora_adapters.tokenizer import BackboneTokenizer, end_token, load_tokenizer
from jumplora_adapters.training.adapt import AdaptedBackbone, load_adapted
from jumplora_adapters.training.batches import steps_of
from jumplora_adapters.training.checkpoint import Progress
from jumplora_adapters.training.config import Device, TrainConfig
from jumplora_adapters.training.data import Example, Split, read_split
from jumplora_adapters.training.evaluate import evaluate
from jumplora_adapters.training.fit import Fit, StepReport
from jumplora_adapters.training.identity import backbone_digest
from jumplora_adapters.training.lineage import read_ancestors
from jumplora_adapters.training.outcome import (
    check_not_collapsed,
    learned_nothing,
    manifest_of,
)
from jumplora_adapters.training.schedule import Schedule
from jumplora_adapters.training.targets import added_roles, check_targets
from jumplora_adapters.training.work_folder import check_writable, work_folder


@dataclass(frozen=True, slots=True)
class Prepared:
    """All inputs of a run, read and checked."""

    config: TrainConfig
    backbone: Backbone
    ancestors: tuple[Adapter, ...]
    tokenizer: BackboneTokenizer
    train: Split
    dev: Split | None
    test: Split | None
    steps: int
    schedule: Schedule | None

    @property
    def max_new_tokens(self) -> int:
        """Tokens of the longest target that training and selection see, end token included.

        Not those of the test rows: what is held out decides nothing about the adapter.
        """
        splits = (self.train, self.dev) if self.dev else (self.train,)
        return max(len(e.target) for split in splits for e in split.examples)

    @property
    def prompts_cut(self) -> dict[str, int]:
        """By split, how many whole prompts lost their end to the source length; only above 0."""
        splits = {"train": self.train, "dev": self.dev, "test": self.test}
        return {name: split.cut for name, split in splits.items() if split and split.cut}

    @property
    def dev_examples(self) -> Sequence[Example]:
        return self.dev.examples[: self.config.dev_rows] if self.dev else ()

    def identity(self) -> str:
        """Canonical JSON of everything that decides the resulting numbers and the manifest."""
        spec = self.config.prompt
        return json.dumps(
            self.config.hyper_parameters()
            | added_roles(self.backbone, self.config.targets)
            | {
                "task": self.config.task,
                "backbone": self.backbone.fingerprints[-1],  # an older program's folder too
                "weights": backbone_digest(self.backbone.path),
                "ancestors": [adapter.digest for adapter in self.ancestors],
                "train": self.train.sha256,
                "dev": None if self.dev is None else self.dev.sha256,
                "test": None if self.test is None else self.test.sha256,
                "max_new_tokens": self.max_new_tokens,
                "prompt": None if spec is None else spec.model_dump(mode="json"),
            },
            sort_keys=True,
        )


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run: the file, its digest, and what it scored between 0 and 1.

    `warning` is what a reader should know before trusting it, or empty.
    """

    path: Path
    digest: str
    density: float
    scores: dict[str, float]
    progress: Progress
    tau: tuple[ThresholdMove, ...] = ()
    prompts_cut: dict[str, int] = field(default_factory=dict)
    warning: str = ""


def prepare(config: TrainConfig) -> Prepared:
    """Reads and checks everything. Raises AdapterError subclasses; computes and keeps nothing."""
    config.check()
    check_writable(config.out)
    backbone = read_backbone(resolve_backbone(config.backbone))
    ancestors = read_ancestors(config.ancestors, config.store, backbone)
    tokenizer = load_tokenizer(backbone.path)
    end = end_token(backbone.path, tokenizer.raw)

    def split(path: Path) -> Split:
        return read_split(path, config.prompt, tokenizer, end, config.lengths)

    train = split(config.train)
    dev, test = (split(path) if path else None for path in (config.dev, config.test))
    if any(held and held.is_labelled != train.is_labelled for held in (dev, test)):
        raise DataError("the splits mix text and label rows with input and target rows")
    check_targets(config, backbone)
    steps, schedule = plan_of(config, len(train.examples))
    return Prepared(config, backbone, ancestors, tokenizer, train, dev, test, steps, schedule)


def train(config: TrainConfig, on_step: Callable[[StepReport], None] | None = None) -> Trained:
    """Trains, selects on dev if there is one, scores, writes `config.out` atomically.

    Raises GateCollapsed (nothing is written) and whatever `prepare` raises.
    """
    device = device_of(config.device)
    prepared = prepare(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    adapted = load_adapted(prepared.backbone, prepared.ancestors, config, device)
    with work_folder(config.work_folder):
        fit = Fit(
            adapted,
            config,
            prepared.schedule,
            prepared.steps,
            prepared.train.examples,
            identity=prepared.identity(),
            score=(
                None
                if prepared.dev is None
                else lambda: _score(prepared, adapted, prepared.dev_examples)
            ),
            prompts_cut=prepared.prompts_cut,
        )
        progress = fit.run(on_step)
        return _finish(prepared, adapted, progress, fit)


def _score(
    prepared: Prepared, adapted: AdaptedBackbone, examples: Sequence[Example]
) -> dict[str, float]:
    deltas = adapted.deltas(getattr(torch, prepared.config.value_type))
    return evaluate(adapted, deltas, examples, prepared.tokenizer.decoder, prepared.max_new_tokens)


def _finish(prepared: Prepared, adapted: AdaptedBackbone, progress: Progress, fit: Fit) -> Trained:
    config = prepared.config
    deltas = adapted.deltas(getattr(torch, config.value_type))
    if config.method == "jumplora":
        check_not_collapsed(deltas, prepared.backbone.sites, config.gate.scope)
    scores = {f"dev_{name}": value for name, value in progress.best_scores.items()}
    if prepared.test is not None:
        tested = _score(prepared, adapted, prepared.test.examples)
        scores |= {f"test_{name}": value for name, value in tested.items()}
    manifest = manifest_of(
        config,
        prepared.backbone,
        deltas,
        lineage=[adapter.digest for adapter in prepared.ancestors],
        splits={"train": prepared.train, "dev": prepared.dev, "test": prepared.test},
        steps=prepared.steps,
        progress=progress,
        thresholds=adapted.thresholds(),
        scores=scores,
        max_new_tokens=prepared.max_new_tokens,
    )
    config.out.parent.mkdir(parents=True, exist_ok=True)
    digest = write_adapter(config.out, manifest, deltas)
    fit.forget()
    density = sum(d.nnz for d in deltas.values()) / sum(
        d.shape[0] * d.shape[1] for d in deltas.values()
    )
    return Trained(
        config.out,
        digest,
        density,
        scores,
        progress,
        threshold_moves(progress.initial_thresholds, adapted.thresholds()),
        prepared.prompts_cut,
        learned_nothing(config.optimisation, progress, prepared.dev),
    )


def plan_of(config: TrainConfig, rows: int) -> tuple[int, Schedule | None]:
    """Optimizer steps over `rows` rows, and when the gate closes in them.

    Raises DataError, TaskTooSmall.
    """
    optimisation = config.optimisation
    rows_a_step = optimisation.batch_size * optimisation.accumulate
    steps = optimisation.max_steps or optimisation.epochs * steps_of(rows, rows_a_step)
    if optimisation.warm_up >= steps:
        raise DataError(f"warm-up is {optimisation.warm_up} steps, the whole training {steps}")
    if config.method == "lora":
        return steps, None
    return steps, Schedule.of(steps, config.gate.set_at, config.gate.closed_at)


def device_of(wanted: Device | None) -> torch.device:
    """The device asked for, else what there is. Raises DataError where there is none."""
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise DataError("device cuda was given, but torch sees none on this machine")
    return torch.device(wanted or ("cuda" if has_cuda else "cpu"))
