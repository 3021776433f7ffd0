"""All inputs of a run, read and checked before any training starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from jumplora_adapters.backbone import Backbone, read_backbone, resolve_backbone
from jumplora_adapters.canaries import check_lengths, read_canaries
from jumplora_adapters.continual.config import JOINT_TASK, ContinualConfig
from jumplora_adapters.continual.tasks import Order, Task, mixed, read_order, read_task
from jumplora_adapters.errors import DataError, TaskTooSmall
from jumplora_adapters.manifest import Canary, PromptSpec
from jumplora_adapters.tokenizer import BackboneTokenizer, end_token, load_tokenizer
from jumplora_adapters.training.config import TrainConfig
from jumplora_adapters.training.data import Example
from jumplora_adapters.training.identity import backbone_digest
from jumplora_adapters.training.processes import Processes
from jumplora_adapters.training.schedule import Schedule
from jumplora_adapters.training.targets import added_roles, check_targets
from jumplora_adapters.training.train import device_of, plan_of

_RUN_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Stage:
    """One training of a run: what it learns from and what is scored after it."""

    position: int  # from 1
    task: str
    prompt: PromptSpec | None  # None for joint training, whose rows have their own
    train: TrainConfig
    examples: Sequence[Example]
    scored: tuple[Task, ...]
    steps: int
    schedule: Schedule | None
    canaries: tuple[Canary, ...] = ()
    prompts_cut: Mapping[str, int] = field(default_factory=dict)  # whole prompts, by split


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that may start."""

    config: ContinualConfig
    backbone: Backbone
    tokenizer: BackboneTokenizer
    end: int  # the end token's id
    order: Order
    tasks: tuple[Task, ...]
    stages: tuple[Stage, ...]
    device: torch.device
    processes: Processes

    def description(self) -> dict[str, object]:
        """config.json: what was asked for. The run's id is a digest of what it computes from."""
        config = self.config
        facts: dict[str, object] = {
            "format": 1,
            "method": config.method,
            "gate": "none" if config.gate is None else "jumprelu",
            "prune": None if config.prune is None else {"density": list(config.prune)},
            "order": {"name": self.order.name, "tasks": list(self.order.tasks)},
            "seed": config.seed,
            "backbone": {
                "name": self.backbone.name,
                # Version 1, so that runs of older programs compare with it and can continue.
                "fingerprint": self.backbone.fingerprints[-1],
                "weights": backbone_digest(self.backbone.path),
            },
            "split": config.split,
            "hyper_parameters": config.hyper_parameters()
            | added_roles(self.backbone, config.targets),
            "data": {
                task.name: {
                    "train": task.train.sha256,
                    config.split: task.scored.sha256,
                    "prompt": task.prompt.model_dump(mode="json"),
                }
                for task in self.tasks
            },
            "canaries": {
                stage.task: [canary.model_dump(mode="json") for canary in stage.canaries]
                for stage in self.stages
                if stage.canaries
            },
            "merged_task": config.merged_task,
            "created": config.created or "",
            "processes": self.processes.count,
        }
        text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
        return {**facts, "run": hashlib.sha256(text.encode()).hexdigest()[:_RUN_DIGITS]}


def prepare(config: ContinualConfig) -> Prepared:
    """Reads everything, and joins the launcher's processes. Raises AdapterError subclasses."""
    config.check()
    processes = Processes.launched(config.device)
    device = processes.device or device_of(config.device)
    if processes.count > 1 and config.optimisation.has_dropout:
        raise DataError(
            "dropout draws differ between processes: several processes need --dropout 0"
        )
    backbone = read_backbone(resolve_backbone(config.backbone))
    check_targets(
        config.stage(1, JOINT_TASK, config.data), backbone, densest=max(config.prune or (0,))
    )
    order = read_order(config.data, config.order)
    if config.prune is not None and len(config.prune) not in (1, _count(config, order)):
        raise DataError(
            f"{len(config.prune)} densities were given to prune to; one, or one for each of "
            f"{_count(config, order)} trainings, is allowed"
        )
    for name in (config.merged_task, JOINT_TASK):
        if name in order.tasks:
            raise DataError(f"task {name} has the name of a merged or joint model: rename it")
    _check_canaries(config, order)
    tokenizer = load_tokenizer(backbone.path)
    end = end_token(backbone.path, tokenizer.raw)
    tasks = tuple(
        read_task(
            config.data,
            name,
            config.split,
            tokenizer,
            end,
            config.lengths,
            train_rows=config.train_rows,
            score_rows=config.score_rows,
        )
        for name in order.tasks
    )
    stages = _stages(config, tasks)
    for stage in stages:
        check_lengths(stage.canaries, tokenizer, end, config.lengths.source)
    return Prepared(config, backbone, tokenizer, end, order, tasks, stages, device, processes)


def _count(config: ContinualConfig, order: Order) -> int:
    return 1 if config.method == "joint" else len(order.tasks)


def _stages(config: ContinualConfig, tasks: tuple[Task, ...]) -> tuple[Stage, ...]:
    if config.method == "joint":
        train = config.joint_stage(len(tasks))
        return (_stage(config, 1, JOINT_TASK, None, train, mixed(tasks), tasks),)
    stages = []
    for position, task in enumerate(tasks, start=1):
        train = config.stage(position, task.name, task.train.path, task.prompt)
        # The next task too, which was not learned yet: the state's zero-shot score on it.
        scored = (task,) if config.method == "independent" else tasks[: position + 1]
        stages.append(
            _stage(config, position, task.name, task.prompt, train, task.train.examples, scored)
        )
    return tuple(stages)


def _stage(
    config: ContinualConfig,
    position: int,
    name: str,
    prompt: PromptSpec | None,
    train: TrainConfig,
    examples: Sequence[Example],
    scored: tuple[Task, ...],
) -> Stage:
    try:
        steps, schedule = plan_of(train, len(examples))
    except TaskTooSmall as error:
        raise TaskTooSmall(f"{name}: {error}") from error
    canaries = _canaries(config, name, prompt)
    cut = {f"{task.name} {config.split}": task.scored.cut for task in scored if task.scored.cut}
    return Stage(position, name, prompt, train, examples, scored, steps, schedule, canaries, cut)


def _check_canaries(config: ContinualConfig, order: Order) -> None:
    """Raises DataError for a folder that is none, or a file in it that is for no task."""
    if config.canaries is None:
        return
    if not config.canaries.is_dir():
        raise DataError(f"canaries are read from {config.canaries}, which is not a folder")
    known = {f"{task}.jsonl" for task in order.tasks}
    if not any(config.canaries.iterdir()):
        raise DataError(
            f"{config.canaries} is empty: canaries are read of {', '.join(sorted(known))}"
        )
    if foreign := sorted(path.name for path in config.canaries.iterdir() if path.name not in known):
        raise DataError(
            f"{config.canaries / foreign[0]} belongs to no task of the order: canaries are read of "
            f"{', '.join(sorted(known))}"
        )


def _canaries(config: ContinualConfig, task: str, prompt: PromptSpec | None) -> tuple[Canary, ...]:
    """Those of the task's file in the canaries' folder; none where it has no such file."""
    path = None if config.canaries is None else config.canaries / f"{task}.jsonl"
    return () if path is None or not path.is_file() else read_canaries(path, prompt)
