"""Beam search over one prompt: which hypotheses continue, which have ended, when it is over.

The algorithm and its order are those of transformers' `_beam_search` (5.23, generation/utils.py),
for one prompt, without -1e9 for what is not there. Pure: no rows, no times, no texts.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from jumplora_server.core import Beams, Candidate, FinishReason


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A continuation and the log-probability of each of its tokens; `total` is their sum."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    total: float = 0.0

    def with_token(self, candidate: Candidate) -> Hypothesis:
        """The same and one token more."""
        return Hypothesis(
            (*self.tokens, candidate.token_id),
            (*self.logprobs, candidate.logprob),
            self.total + candidate.logprob,
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """A hypothesis that has its last token."""

    hypothesis: Hypothesis
    reason: FinishReason
    score: float


class BeamSearch:
    """Hypotheses that are followed together, the likeliest first, and those that ended."""

    def __init__(self, beams: Beams, *, max_new_tokens: int, end_token_ids: Sequence[int]) -> None:
        """It begins with one hypothesis that has no tokens."""
        self._beams = beams
        self._max_new_tokens = max_new_tokens
        self._ends = frozenset(end_token_ids)
        self._most = beams.candidates(len(self._ends))
        self._ended: list[Ended] = []  # at most `width`, the best first
        self._may_improve = True
        self.running: tuple[Hypothesis, ...] = (Hypothesis(),)

    def advance(self, candidates: Sequence[Sequence[Candidate]]) -> tuple[int, ...]:
        """Take the candidates of each running hypothesis, in order.

        Returns which of them each of the new running ones continues; none when it is over.
        """
        best = self._best(candidates)
        going: list[tuple[int, Hypothesis]] = []
        ended: list[Ended] = []
        for rank, (parent, candidate) in enumerate(best):
            hypothesis = self.running[parent].with_token(candidate)
            reason = self._reason(hypothesis)
            if reason is None:
                going.append((parent, hypothesis))
            elif rank < self._beams.width:  # those behind are there to continue only
                ended.append(Ended(hypothesis, reason, self._score(hypothesis)))
        self._keep(ended)
        going = going[: self._beams.width]
        self.running = tuple(hypothesis for _, hypothesis in going)
        if self.running:
            self._may_improve = self._may_improve and self._can_improve(self.running[0])
        if not self._may_improve or (self._is_full and self._beams.early_stopping is True):
            self.running = ()
        return tuple(parent for parent, _ in going) if self.running else ()

    def answers(self) -> tuple[Ended, ...]:
        """The best that ended, the best first: as many as are wanted, or all."""
        return tuple(self._ended[: self._beams.answers])

    def _best(self, candidates: Sequence[Sequence[Candidate]]) -> list[tuple[int, Candidate]]:
        """The likeliest continuations of all; of equals that of the better hypothesis."""
        pairs = [
            (parent, candidate) for parent, given in enumerate(candidates) for candidate in given
        ]
        return heapq.nlargest(
            self._most, pairs, key=lambda pair: self.running[pair[0]].total + pair[1].logprob
        )

    def _reason(self, hypothesis: Hypothesis) -> FinishReason | None:
        if hypothesis.tokens[-1] in self._ends:
            return FinishReason.EOS_TOKEN
        is_longest = len(hypothesis.tokens) >= self._max_new_tokens
        return FinishReason.LENGTH if is_longest else None

    def _keep(self, ended: list[Ended]) -> None:
        if self._is_full and self._beams.early_stopping is True:
            return
        both = [*self._ended, *ended]
        self._ended = heapq.nlargest(self._beams.width, both, key=lambda e: e.score)

    @property
    def _is_full(self) -> bool:
        return len(self._ended) == self._beams.width

    def _score(self, hypothesis: Hypothesis, length: int | None = None) -> float:
        tokens = len(hypothesis.tokens) if length is None else length
        return float(hypothesis.total / tokens**self._beams.length_penalty)

    def _can_improve(self, best: Hypothesis) -> bool:
        """Whether the best that runs might end better than the worst that is kept; a guess where
        the length penalty makes longer ones better, as transformers has it."""
        if not self._is_full:
            return True
        length = len(best.tokens)
        if self._beams.early_stopping == "never" and self._beams.length_penalty > 0:
            length = self._max_new_tokens
        return self._score(best, length) > self._ended[-1].score
