"""One task of a run learned: its training begun or resumed, its state scored, its adapter written.

Every training starts from files alone (the backbone and the adapters before it), so that a resumed
run and one that was never cut off compute the same.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping, Sequence

import torch

from jumplora_adapters.continual.manifests import stage_manifest
from jumplora_adapters.continual.penalty import ella_penalty, orthogonal_penalty
from jumplora_adapters.continual.prepare import Prepared, Stage
from jumplora_adapters.continual.prune import pruned
from jumplora_adapters.continual.result import (
    StepTimes,
    TaskResult,
    module_densities,
    warnings_of,
)
from jumplora_adapters.continual.scorebook import ScoreBook, after, alone
from jumplora_adapters.continual.state import Scorer, canary_score
from jumplora_adapters.continual.watch import Watch
from jumplora_adapters.delta import Delta, LowRankDelta
from jumplora_adapters.density import pooled_density
from jumplora_adapters.errors import DataError
from jumplora_adapters.format import Adapter, Factors, read_adapter, write_adapter
from jumplora_adapters.training.adapt import AdaptedBackbone, load_adapted
from jumplora_adapters.training.checkpoint import Progress
from jumplora_adapters.training.fit import CHECKPOINT, Fit, Penalty


class Learner:
    """Learns the stages of one prepared run, in their order."""

    def __init__(self, prepared: Prepared, run: str, book: ScoreBook, watch: Watch) -> None:
        self._prepared = prepared
        self._config = prepared.config
        self._run = run
        self._book = book
        self._watch = watch
        self._scorer = Scorer(prepared, book, watch)

    def done(self, stage: Stage, before: Sequence[Adapter]) -> Adapter | None:
        """The adapter of a stage that was learned before; None if it is still to be.

        Raises DataError, FormatError where its files do not fit together, or not to those `before`.
        """
        folder = self._config.task_folder(stage.position, stage.task)
        if not (folder / "result.json").is_file():
            return None
        adapter = self._read(stage, TaskResult.read(folder / "result.json").version)
        ancestors = tuple(each.digest for each in before) if self._config.is_chained else ()
        if adapter.manifest.lineage != ancestors:
            raise DataError(
                f"{stage.task} was learned on other adapters than those before it now: delete "
                f"{folder} and the folders of the tasks after it, and it is learned again"
            )
        if self._prepared.processes.is_main:
            (folder / CHECKPOINT).unlink(missing_ok=True)  # of a kill just before its removal
        return adapter

    def learn(self, stage: Stage, before: Sequence[Adapter]) -> Adapter:
        """Train, score and write one stage; `before` are the adapters of the stages before it."""
        ancestors = tuple(before) if self._config.is_chained else ()
        if not (stage.train.work_folder / CHECKPOINT).is_file():
            # What was scored of it before is of a training that is gone.
            self._book.drop(after(stage.position), alone(stage.task))
        else:
            self._watch.told(f"{stage.task}: continues from its checkpoint")
        adapted = self._start(stage, before, ancestors)
        fit = Fit(
            adapted,
            stage.train,
            stage.schedule,
            stage.steps,
            stage.examples,
            identity=json.dumps({"run": self._run, "before": [a.digest for a in before]}),
            score=None,
            prompts_cut=stage.prompts_cut,
            penalty=self._penalty(adapted, ancestors),
            processes=self._prepared.processes,
        )
        progress = fit.run(self._watch.stepped)
        deltas = self._deltas(stage, adapted)
        for task in stage.scored:
            self._scorer.score(after(stage.position), task, adapted, deltas)
        if self._prepared.processes.is_main:
            self._write(stage, ancestors, adapted, deltas, progress)
            fit.forget()
        self._prepared.processes.wait()  # until the file is there
        done = self.done(stage, before)
        assert done is not None
        return done

    def _start(
        self, stage: Stage, before: Sequence[Adapter], ancestors: Sequence[Adapter]
    ) -> AdaptedBackbone:
        if self._prepared.processes.is_main:
            stage.train.work_folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(stage.train.seed)
        adapted = load_adapted(
            self._prepared.backbone, ancestors, stage.train, self._prepared.device
        )
        if self._config.method == "seqlora" and before:
            _continue_from(adapted, before[-1])
        return adapted

    def _penalty(self, adapted: AdaptedBackbone, ancestors: Sequence[Adapter]) -> Penalty | None:
        if self._config.method == "ella":
            return ella_penalty(adapted, ancestors, self._config.ella_lambda)
        if self._config.method == "olora":
            return orthogonal_penalty(adapted, ancestors, self._config.olora_lambda)
        return None

    def _deltas(self, stage: Stage, adapted: AdaptedBackbone) -> dict[str, Delta]:
        dtype = getattr(torch, stage.train.value_type)
        if (density := self._config.density(stage.position)) is not None:
            return pruned(adapted, density, dtype)
        return adapted.deltas(dtype)

    def _write(
        self,
        stage: Stage,
        ancestors: Sequence[Adapter],
        adapted: AdaptedBackbone,
        deltas: dict[str, Delta],
        progress: Progress,
    ) -> None:
        folder = self._config.task_folder(stage.position, stage.task)
        canaries = None
        if stage.canaries:
            canaries = canary_score(
                adapted, deltas, stage.canaries, self._prepared.tokenizer, self._prepared.end,
                self._config.lengths.target,
            )  # fmt: skip
        manifest = stage_manifest(
            self._prepared,
            self._run,
            stage,
            deltas,
            lineage=[adapter.digest for adapter in ancestors],
            progress=progress,
            thresholds=adapted.thresholds(),
            book=self._book,
            canary_accuracy=canaries,
        )
        path = self._config.adapter_path(stage.position, stage.task)
        path.parent.mkdir(parents=True, exist_ok=True)
        factors = _factors(adapted) if self._needs_factors(deltas) else None
        version = write_adapter(path, manifest, deltas, factors)
        times = StepTimes.read(folder / "train.jsonl")
        result = TaskResult(
            position=stage.position,
            task=stage.task,
            version=version,
            steps=stage.steps,
            density=pooled_density(deltas),
            module_density=module_densities(deltas),
            density_by_step=progress.densities,
            tau_start=progress.initial_thresholds,
            tau_end=adapted.thresholds(),
            tau_by_step=times.tau,
            seconds=sum(times.seconds),
            cpu_seconds=sum(times.cpu_seconds),
            seconds_per_step=times.median,
            peak_memory_bytes=_peak_memory(adapted.device),
            warnings=warnings_of(deltas, progress, adapted.thresholds()),
        )
        for warning in result.warnings:
            self._watch.warned(f"{stage.task}: {warning}")
        result.write(folder / "result.json")

    def _needs_factors(self, deltas: Mapping[str, Delta]) -> bool:
        """O-LoRA looks at earlier tasks' A, which a masked file has only if it carries factors."""
        is_lowrank = any(isinstance(delta, LowRankDelta) for delta in deltas.values())
        return self._config.method == "olora" and not is_lowrank

    def _read(self, stage: Stage, version: str) -> Adapter:
        path = self._config.adapter_path(stage.position, stage.task)
        if not path.is_file():
            raise DataError(
                f"the result of {stage.task} names {path}, which is gone: delete its folder"
            )
        return read_adapter(path, self._prepared.backbone, expect_digest=version)


def _continue_from(adapted: AdaptedBackbone, last: Adapter) -> None:
    """SeqLoRA: the factors start as the task before left them."""
    state = {}
    for name, layer in adapted.layers.items():
        delta = last.deltas[name]
        assert isinstance(delta, LowRankDelta)
        state[f"{name}.A"] = delta.A.float()
        state[f"{name}.B"] = delta.B.float() / layer.scale
    adapted.restore(state)


def _factors(adapted: AdaptedBackbone) -> Factors:
    return {
        name: (layer.A.detach().cpu(), layer.B.detach().cpu())
        for name, layer in adapted.layers.items()
    }


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
