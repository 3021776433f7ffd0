"""One state of a run, scored: a backbone with some updates in place, on some tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jumplora_adapters.continual.prepare import Prepared
from jumplora_adapters.continual.scorebook import CellScores, ScoreBook
from jumplora_adapters.continual.tasks import Task
from jumplora_adapters.continual.watch import Watch
from jumplora_adapters.delta import Delta
from jumplora_adapters.folding import folded
from jumplora_adapters.manifest import Canary
from jumplora_adapters.tokenizer import BackboneTokenizer, token_ids
from jumplora_adapters.training.adapt import AdaptedBackbone
from jumplora_adapters.training.data import Example
from jumplora_adapters.training.evaluate import greedy_texts
from jumplora_adapters.training.options import best_options
from jumplora_adapters.training.processes import Processes
from jumplora_adapters.training.scores import exact_match


class Scorer:
    """Scores the states of one run: each cell once, written down and shown."""

    def __init__(self, prepared: Prepared, book: ScoreBook, watch: Watch) -> None:
        self._prepared = prepared
        self._book = book
        self._watch = watch

    def score(
        self, state: str, task: Task, adapted: AdaptedBackbone, deltas: Mapping[str, Delta]
    ) -> None:
        """The cell of `state`, which is the backbone in place plus `deltas`, and `task`."""
        prepared = self._prepared
        scores = self._book.find(
            state,
            task.name,
            lambda: score(
                adapted, deltas, task, prepared.tokenizer, prepared.config.lengths.target,
                prepared.processes,
            ),
        )  # fmt: skip
        self._watch.scored(state, task.name, scores)


def score(
    adapted: AdaptedBackbone,
    deltas: Mapping[str, Delta],
    task: Task,
    tokenizer: BackboneTokenizer,
    max_new_tokens: int,
    processes: Processes,
) -> CellScores:
    """The backbone in place plus `deltas`, in float32, on all of the task's scored rows."""
    mine = processes.share(task.scored.examples)
    with adapted.serving(deltas):
        texts = greedy_texts(adapted, mine, tokenizer.decoder, max_new_tokens) if mine else []
        choices = best_options(adapted, mine, task.options) if mine and task.options else []
    free = [exact_match(text, row.answer) for text, row in zip(texts, mine, strict=True)]
    chosen = [
        float(folded(task.prompt.options[choice]) == folded(row.answer))
        for choice, row in zip(choices, mine[: len(choices)], strict=True)
    ]
    return CellScores(
        _mean(processes.gather(free)), _mean(processes.gather(chosen)) if task.options else None
    )


def canary_score(
    adapted: AdaptedBackbone,
    deltas: Mapping[str, Delta],
    canaries: Sequence[Canary],
    tokenizer: BackboneTokenizer,
    end: int,
    max_new_tokens: int,
) -> float:
    """Share of the canaries that are answered as expected."""
    prompts = token_ids(tokenizer.raw, [canary.prompt for canary in canaries], end)
    examples = [
        Example(ids, (), canary.expected) for ids, canary in zip(prompts, canaries, strict=True)
    ]
    with adapted.serving(deltas):
        texts = greedy_texts(adapted, examples, tokenizer.decoder, max_new_tokens)
    return _mean([exact_match(text, row.answer) for text, row in zip(texts, examples, strict=True)])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
