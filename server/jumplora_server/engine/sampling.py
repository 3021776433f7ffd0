"""From logits to tokens. A sequence's choices depend on its own logits and seed alone.

Greedy rows are one argmax for the whole batch; only rows that sample or carry constraints are
handled one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from jumplora_server.core import Sampling, Sequence, StepOutput


@dataclass(frozen=True, slots=True)
class Scores:
    """A step's logits with the highest of each row and its token (greedy's choice)."""

    logits: Tensor  # [n, vocab] float32
    highest: list[float]  # NaN where a row holds one
    tokens: list[int]

    @classmethod
    def of(cls, logits: Tensor) -> Scores:
        """Find the highest logits [n, vocab]."""
        highest, tokens = logits.max(dim=-1)  # NaN wins a max
        return cls(logits, highest.tolist(), tokens.tolist())


class Sampler:
    """Chooses tokens and keeps each sampling sequence's random generator."""

    def __init__(self, *, eos_token_id: int, start_token_id: int) -> None:
        self._eos = eos_token_id
        self._start = start_token_id
        self._generators: dict[int, torch.Generator] = {}

    def choose(self, scores: Scores, sequences: Rows[Sequence]) -> StepOutput:
        """Choose one token a row.

        Args:
            scores: one row a sequence.

        Returns:
            The tokens; `failed` names the rows whose logits are not finite (their token is -1).
        """
        logits = scores.logits
        finite = [math.isfinite(highest) for highest in scores.highest]
        tokens = list(scores.tokens)
        logprobs: list[float | None] = [None] * len(tokens)
        for i, sequence in enumerate(sequences):
            if not finite[i]:
                tokens[i] = -1
                continue
            if self._is_constrained(sequence, tokens[i]):
                tokens[i] = self._choose_one(logits[i].clone(), sequence)
            if sequence.sampling.logprobs == "chosen":
                logprobs[i] = float(logits[i, tokens[i]] - torch.logsumexp(logits[i], dim=-1))
        failed = tuple(i for i, ok in enumerate(finite) if not ok)
        return StepOutput(tuple(tokens), tuple(logprobs), failed)

    def forget(self, sequence_id: int) -> None:
        """Drop the state of a sequence that ended."""
        self._generators.pop(sequence_id, None)

    def _is_constrained(self, sequence: Sequence, best: int) -> bool:
        """Whether the highest logit alone does not decide; `best` is its token."""
        sampling = sequence.sampling
        is_too_early = best == self._eos and len(sequence.output) < sampling.min_new_tokens
        return sampling.mode == "sample" or sampling.repetition_penalty != 1.0 or is_too_early

    def _choose_one(self, logits: Tensor, sequence: Sequence) -> int:
        sampling = sequence.sampling
        if sampling.repetition_penalty != 1.0:
            # The start token counts, as in transformers, whose token choices we reproduce.
            seen = torch.tensor([*{self._start, *sequence.output}], device=logits.device)
            logits[seen] = penalised(logits[seen], sampling.repetition_penalty)
        if len(sequence.output) < sampling.min_new_tokens:
            logits[self._eos] = -torch.inf
        if sampling.mode == "greedy":
            return int(logits.argmax())
        draw = torch.rand((), generator=self._generator(sequence), dtype=torch.float64)
        return sample(logits.double().cpu(), sampling, float(draw))

    def _generator(self, sequence: Sequence) -> torch.Generator:
        generator = self._generators.get(sequence.id)
        if generator is None:
            generator = torch.Generator().manual_seed(sequence.sampling.seed)
            self._generators[sequence.id] = generator
        return generator


def penalised(logits: Tensor, penalty: float) -> Tensor:
    """CTRL's repetition penalty (arXiv 1909.05858, section 4.1), sign-aware as in transformers."""
    return torch.where(logits > 0, logits / penalty, logits * penalty)


def sample(logits: Tensor, sampling: Sampling, draw: float) -> int:
    """Invert the cumulative distribution at `draw` in [0, 1), after temperature, top-k and top-p.

    Args:
        logits: [vocab] float64. Ties at the top-k or top-p border keep the lower token id.
    """
    ordered, ids = torch.sort(logits / sampling.temperature, descending=True, stable=True)
    keep = len(ordered) if sampling.top_k is None else min(sampling.top_k, len(ordered))
    cumulative = torch.softmax(ordered[:keep], dim=-1).cumsum(dim=-1)
    if sampling.top_p is not None:
        # The smallest set whose mass reaches top_p: the token that crosses it belongs to it.
        keep = int((cumulative < sampling.top_p).sum()) + 1
        cumulative = cumulative[:keep]
    point = torch.tensor([draw * float(cumulative[-1])], dtype=torch.float64)
    index = int(torch.searchsorted(cumulative, point, right=True))
    return int(ids[min(index, len(cumulative) - 1)])
