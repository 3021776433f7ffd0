"""The simplest beam search: it forks rows as a real one does, and writes down what it saw."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from collections.abc import Sequence as Rows
from typing import Any

import torch

from choosing import assert_listed
from jumplora_server.core import (
    Batch,
    Candidate,
    Encoding,
    NoText,
    RowCopy,
    Sampling,
    Sequence,
    StepOutput,
)

Step = Callable[[Batch], StepOutput]

Seen = dict[tuple[int, ...], tuple[Candidate, ...]]
"""The candidates behind each sequence of tokens."""


class Forks:
    """Hypotheses of one prompt, each in a row of its own: the likeliest that end nothing go on."""

    def __init__(
        self,
        number: int,
        prompt: Rows[int],
        rows: Rows[int],
        *,
        slots: tuple[int, ...] = (),
        place: int,
        sampling: Sampling,
        ends: Rows[int] = (1,),
    ) -> None:
        """All hypotheses are of the sequence with that number."""
        self.encoding = Encoding(None, tuple(prompt), slots, place=place)
        self.seen: Seen = {}
        self.copies = 0
        self._rows = rows
        self._ends = ends
        self._number = number
        self._sampling = sampling
        self._scores = [0.0]
        self.hypotheses = [self._hypothesis(rows[0], [])]
        self._held: dict[int, list[int]] = {rows[0]: []}  # the tokens that each row was fed

    def advance(self, lists: Rows[tuple[Candidate, ...]]) -> tuple[RowCopy, ...]:
        """Take each hypothesis's candidates; what is to be copied before the next step."""
        pool = []
        for parent, score, listed in zip(self.hypotheses, self._scores, lists, strict=True):
            self.seen[tuple(parent.output)] = listed
            pool += [
                (score + candidate.logprob, parent, candidate.token_id)
                for candidate in listed
                if candidate.token_id not in self._ends
            ]
        pool.sort(key=lambda entry: -entry[0])
        best = pool[: len(self._rows)]
        # The first child of a hypothesis stays in its row; the others take the rows that are left.
        stays = {parent.row: i for i, (_, parent, _) in reversed([*enumerate(best)])}
        free = iter([row for row in self._rows if row not in stays])
        copies, hypotheses = [], []
        for i, (_, parent, token) in enumerate(best):
            row = parent.row if stays[parent.row] == i else next(free)
            hypotheses.append(self._hypothesis(row, [*parent.output, token]))
            if row != parent.row:
                copies.append(self._copy(parent, row))
        self._held |= {each.row: each.output for each in hypotheses}
        self.hypotheses, self._scores = hypotheses, [score for score, _, _ in best]
        self.copies += len(copies)
        return tuple(copies)

    def _copy(self, parent: Sequence, row: int) -> RowCopy:
        """The start token and what follows in both rows is not copied."""
        held = self._held.get(row)
        same = 0
        if held is not None:
            pairs = zip(held, parent.output, strict=False)
            same = 1 + len([*itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)])
        return RowCopy(parent.row, row, len(parent.output) + 1, same)

    def _hypothesis(self, row: int, output: list[int]) -> Sequence:
        return Sequence(
            id=self._number,
            encoding=self.encoding,
            sampling=self._sampling,
            detokenizer=NoText(),
            arrived=0.0,
            row=row,
            output=output,
        )


def search(step: Step, searches: tuple[Forks, ...], beside: list[Sequence], steps: int) -> None:
    """Advance the searches, and sequences beside them, some steps together."""
    encode = (*(each.encoding for each in searches), *(each.encoding for each in beside))
    copies: tuple[RowCopy, ...] = ()
    for _ in range(steps):
        rows = [row for each in searches for row in each.hypotheses]
        output = step(Batch(encode, (*rows, *beside), copies))
        assert output.failed == ()
        encode, copies, at = (), (), 0
        for each in searches:
            count = len(each.hypotheses)
            copies += each.advance(output.candidates[at : at + count])
            at += count
        for sequence, token in zip(beside, output.token_ids[at:], strict=True):
            sequence.output.append(token)


@torch.inference_mode()
def assert_transformers(forks: Forks, model: Any, hair: float) -> None:
    """What was seen behind each prefix is what transformers' logits give there."""
    ids = torch.tensor([forks.encoding.prompt])
    by_length: dict[int, list[tuple[int, ...]]] = {}
    for prefix in forks.seen:
        by_length.setdefault(len(prefix), []).append(prefix)
    for prefixes in by_length.values():
        fed = torch.tensor([[0, *prefix] for prefix in prefixes])
        logits = model(input_ids=ids.expand(len(fed), -1), decoder_input_ids=fed).logits[:, -1]
        for prefix, given in zip(prefixes, logits, strict=True):
            sampling = forks.hypotheses[0].sampling
            assert_listed(forks.seen[prefix], given, sampling, [0, *prefix], hair=hair)
