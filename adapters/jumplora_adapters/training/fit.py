"""The loop of optimizer steps: batches in, a trained and selected state out, resumable anywhere."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from jumplora_adapters.errors import GateCollapsed
from jumplora_adapters.training.adapt import AdaptedBackbone
from jumplora_adapters.training.batches import IGNORED, collate, epoch_order, steps_of
from jumplora_adapters.training.checkpoint import (
    Checkpoint,
    Progress,
    optimizer_tensors,
    other_layout,
    random_tensors,
    read_checkpoint,
    restore_optimizer,
    restore_random,
    write_checkpoint,
)
from jumplora_adapters.training.config import TrainConfig
from jumplora_adapters.training.data import Example
from jumplora_adapters.training.journal import Journal
from jumplora_adapters.training.processes import Processes
from jumplora_adapters.training.schedule import Schedule, learning_rate

CHECKPOINT = "checkpoint.safetensors"
_DENSITY_SAMPLES = 20


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a progress bar may show after each optimizer step; `dev` after an evaluation."""

    step: int
    steps: int
    loss: float
    fraction: float
    density: float | None
    dev: float | None


class Penalty(Protocol):
    """A term of the loss that looks at the parameters alone."""

    def add(self) -> float:
        """Add its gradient to the parameters' and return its value."""


class Fit:
    """One run over `examples`. `score` evaluates the current state as it would be saved.

    With a gate only states of the fully gated phase (step >= s1) are candidates: an earlier one
    was trained with a dense part that is not saved. Without `score` the last state is kept.
    """

    def __init__(
        self,
        adapted: AdaptedBackbone,
        config: TrainConfig,
        schedule: Schedule | None,
        steps: int,
        examples: Sequence[Example],
        *,
        identity: str,
        score: Callable[[], dict[str, float]] | None,
        prompts_cut: Mapping[str, int] | None = None,
        penalty: Penalty | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.adapted, self.config, self.schedule = adapted, config, schedule
        self.steps, self.examples, self.identity, self.score = steps, examples, identity, score
        self.prompts_cut = dict(prompts_cut or {})
        self.penalty = penalty
        self.processes = processes or Processes()
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.path = config.work_folder / CHECKPOINT
        optimisation = config.optimisation
        self.rows_a_step = optimisation.batch_size * optimisation.accumulate
        self.steps_an_epoch = steps_of(len(examples), self.rows_a_step)
        self.parameters = [parameter for _, parameter in adapted.named_parameters()]
        # Decay pulls towards 0, which for log_tau is a threshold of 1: the factors alone decay.
        # Thresholds are the last of named_parameters, so checkpoints number parameters as before.
        factors = [p for p in self.parameters if p.ndim > 0]
        thresholds = [p for p in self.parameters if p.ndim == 0]
        groups = [{"params": factors, "weight_decay": optimisation.weight_decay}]
        if thresholds:
            groups.append({"params": thresholds, "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(groups, lr=optimisation.learning_rate)
        self._lengths = [len(example.source) for example in examples]
        self._order: tuple[int, list[list[int]]] = (-1, [])

    def run(self, on_step: Callable[[StepReport], None] | None = None) -> Progress:
        """Trains to the end and leaves the selected state in the layers."""
        self._resume()
        saved = time.monotonic()
        self.adapted.model.train()
        with self._journal() as journal:
            if self.prompts_cut and self.progress.step == 0:
                journal.write(0, prompts_cut=self.prompts_cut)
            while self.progress.step < self.steps:
                report = self._advance(journal)
                is_due = time.monotonic() - saved >= self.config.checkpoint_seconds
                is_round = report.step % self.steps_an_epoch == 0 or report.step == self.steps
                if is_due or is_round:
                    self._save()
                    saved = time.monotonic()
                if on_step is not None:
                    on_step(report)
        if self.best:
            self.adapted.restore(self.best)
        return self.progress

    def forget(self) -> None:
        """Drops the checkpoint, once the adapter is written."""
        self.path.unlink(missing_ok=True)

    def _journal(self) -> Journal:
        path = self.config.work_folder / "train.jsonl"
        mine = path if self.processes.is_main else Path(os.devnull)
        return Journal(mine, resume_step=self.progress.step)

    @property
    def _fraction(self) -> float:
        return self.schedule.fraction(self.progress.step) if self.schedule else 0.0

    def _rows(self, step: int) -> list[int]:
        epoch, index = divmod(step, self.steps_an_epoch)
        if self._order[0] != epoch:
            order = epoch_order(self._lengths, self.rows_a_step, seed=self.config.seed, epoch=epoch)
            self._order = (epoch, order)
        return self._order[1][index]

    def _advance(self, journal: Journal) -> StepReport:
        """One step, the gate moved, the state judged where that is due; all of it noted."""
        began, cpu_began = time.monotonic(), time.process_time()
        loss, penalty = self._step(self.progress.step)
        self.progress.step += 1
        step = self.progress.step
        density = self._close_gate(step)
        took, cpu_took = time.monotonic() - began, time.process_time() - cpu_began
        dev = self._select(step)
        numbers: dict[str, object] = {"loss": round(loss, 6), "fraction": self._fraction}
        if penalty is not None:
            numbers["penalty"] = penalty
        if density is not None:
            numbers |= {"density": density, "tau": self.adapted.thresholds()}
        if dev is not None:
            numbers[f"dev_{self.config.select_by}"] = dev
        journal.write(step, **numbers, seconds=round(took, 4), cpu_seconds=round(cpu_took, 4))
        return StepReport(step, self.steps, loss, self._fraction, density, dev)

    def _step(self, step: int) -> tuple[float, float | None]:
        """One optimizer step; the mean loss over the target tokens of all its rows, the penalty.

        Processes share the rows of a step; their gradients are added up before the penalty's.
        """
        optimisation = self.config.optimisation
        rows = [self.examples[i] for i in self._rows(step)]
        total = self._backward(self.processes.share(rows), sum(len(row.target) for row in rows))
        for gate in self.adapted.gates.values():
            if gate.log_tau.grad is None:
                # While the update is dense nothing asks for it; as a zero the optimizer counts the
                # step, whatever the method and the number of processes.
                gate.log_tau.grad = torch.zeros_like(gate.log_tau)
        total = self.processes.add_up(self.parameters, total)
        penalty = None if self.penalty is None else self.penalty.add()
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, optimisation.clip))
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise GateCollapsed(
                f"step {step + 1}: the loss is {total}, its gradient norm {norm}: lower the "
                "learning rate"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                optimisation.learning_rate,
                step,
                self.steps,
                warm_up=optimisation.warm_up,
                decay=optimisation.decay,
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, penalty

    def _backward(self, rows: Sequence[Example], tokens: int) -> float:
        """Gradients of the summed loss over `rows` divided by `tokens`, batch by batch."""
        optimisation, tokens_of = self.config.optimisation, self.adapted.model.generation_config
        total = 0.0
        for start in range(0, len(rows), optimisation.batch_size):
            batch = collate(
                rows[start : start + optimisation.batch_size],
                pad=tokens_of.pad_token_id,
                start=tokens_of.decoder_start_token_id,
                device=self.adapted.device,
            )
            logits = self.adapted.model(
                input_ids=batch.source,
                attention_mask=batch.is_source,
                decoder_input_ids=batch.decoder,
                use_cache=False,
            ).logits
            loss = functional.cross_entropy(
                logits.float().flatten(0, 1),
                batch.target.flatten(),
                ignore_index=IGNORED,
                reduction="sum",
            )
            loss = loss / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def _close_gate(self, step: int) -> float | None:
        """Applies the schedule after `step`; the density, at about twenty steps of the run."""
        if self.schedule is None:
            return None
        if step == self.schedule.gate_step:
            self.adapted.set_thresholds()
            self.progress.initial_thresholds = self.adapted.thresholds()
        self.adapted.set_fraction(self.schedule.fraction(step))
        gated = step - self.schedule.gate_step
        every = max(1, (self.steps - self.schedule.gate_step) // _DENSITY_SAMPLES)
        if gated < 0 or (gated % every and step != self.steps):
            return None
        density = self.adapted.density()
        self.progress.densities.append((step, density))
        return density

    def _select(self, step: int) -> float | None:
        """At an epoch's end and at the last step: scores on dev and keeps the best state."""
        if self.score is None:
            self.progress.best_step = step
            return None
        if step % self.steps_an_epoch and step != self.steps:
            return None
        if self.schedule is not None and step < self.schedule.full_step:
            return None
        scores = self.score()
        value = scores[self.config.select_by]
        self.progress.evaluations.append((step, value))
        if not self.best or value > self.progress.best_scores[self.config.select_by]:
            self.best = self.adapted.state()
            self.progress.best_step, self.progress.best_scores = step, scores
        return value

    def _save(self) -> None:
        if not self.processes.is_main:
            return
        write_checkpoint(
            self.path,
            Checkpoint(
                self.identity,
                self.progress,
                self.adapted.state(),
                self.best,
                optimizer_tensors(self.optimizer),
                random_tensors(self.adapted.device),
            ),
        )

    def _resume(self) -> None:
        checkpoint = read_checkpoint(self.path, self.identity)
        self.processes.wait()  # the main process may remove it soon
        if checkpoint is None:
            return
        self.progress, self.best = checkpoint.progress, dict(checkpoint.best)
        try:
            self.adapted.restore(checkpoint.parameters)
            restore_optimizer(self.optimizer, checkpoint.optimizer)
            restore_random(checkpoint.random, self.adapted.device)
        except (KeyError, ValueError, RuntimeError) as error:
            raise other_layout(self.path, error) from error
        self.adapted.set_fraction(self._fraction)
