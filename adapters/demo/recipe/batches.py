"""Fixed-shape batches: span corruption from token streams, exercises from practice.

Shapes never vary, because the compiled network pays two minutes for every new one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from demo.recipe.network import IGNORED
from demo.recipe.practice import TAIL, Practice

END = 1
FIRST_SENTINEL = 32099  # ids count down, as in T5
SPAN_ROWS, SPAN_LENGTH, SPAN_TARGETS = 8, 128, 40
RAW_LENGTH, NOISE, SPANS = 146, 29, 10  # 146 - 29 + 10 + end = 128; 29 + 10 + end = 40
PRACTICE_ROWS, PRACTICE_LENGTH, PRACTICE_TARGETS = 40, 144, 6
STREAM_SHARES = {
    "openstax_ccby": 0.25,
    "cia_factbook": 0.07,
    "movie_reviews": 0.15,
    "masc": 0.04,
    "us_speeches": 0.04,
    "classic_books": 0.25,
    "dbpedia_text": 0.20,
}


@dataclass(frozen=True, slots=True)
class Batch:
    source: Tensor  # [rows, keys]
    padding: Tensor | None  # [rows, 1, 1, keys], 0 or -1e9
    targets: Tensor  # [rows, ids], IGNORED after the end


class SpanBatches:
    """Windows drawn at random from each source's stream, corrupted as T5 does (20 %, mean 3)."""

    def __init__(self, streams: Mapping[str, np.ndarray], seed: int) -> None:
        self._streams = [streams[source] for source in STREAM_SHARES]
        self._shares = np.array(list(STREAM_SHARES.values()))
        self._random = np.random.default_rng(seed)

    def draw(self) -> Batch:
        sources = np.empty((SPAN_ROWS, SPAN_LENGTH), np.int64)
        targets = np.empty((SPAN_ROWS, SPAN_TARGETS), np.int64)
        for row in range(SPAN_ROWS):
            stream = self._streams[self._random.choice(len(self._shares), p=self._shares)]
            start = self._random.integers(len(stream) - RAW_LENGTH)
            sources[row], targets[row] = self._corrupt(stream[start : start + RAW_LENGTH])
        return Batch(torch.from_numpy(sources), None, torch.from_numpy(targets))

    def _corrupt(self, tokens: np.ndarray) -> tuple[list[int], list[int]]:
        source: list[int] = []
        target: list[int] = []
        at = 0
        kept = self._composition(RAW_LENGTH - NOISE, SPANS)
        for span, (keep, drop) in enumerate(
            zip(kept, self._composition(NOISE, SPANS), strict=True)
        ):
            source += [*tokens[at : at + keep], FIRST_SENTINEL - span]
            target += [FIRST_SENTINEL - span, *tokens[at + keep : at + keep + drop]]
            at += keep + drop
        return [*source, END], [*target, END]

    def _composition(self, total: int, parts: int) -> np.ndarray:
        """Random positive integers that sum to `total`."""
        cuts = np.sort(self._random.choice(total - 1, parts - 1, replace=False)) + 1
        return np.diff(np.concatenate(([0], cuts, [total])))


class PracticeBatches:
    """Exercises as ids; the text is cut where the prompt is too long, long answers are redrawn."""

    def __init__(self, practice: Practice, tokenizer: Tokenizer, dtype: torch.dtype) -> None:
        self._practice, self._tokenizer, self._dtype = practice, tokenizer, dtype

    def draw(self) -> Batch:
        source = torch.zeros(PRACTICE_ROWS, PRACTICE_LENGTH, dtype=torch.long)
        targets = torch.full((PRACTICE_ROWS, PRACTICE_TARGETS), IGNORED)
        row = 0
        while row < PRACTICE_ROWS:
            exercise = self._practice.draw()
            answer = [*self._ids(exercise.answer), END]
            head, tail = self._ids(exercise.head), [*self._ids(TAIL), END]
            room = PRACTICE_LENGTH - len(head) - len(tail)
            if len(answer) > PRACTICE_TARGETS or room < PRACTICE_LENGTH // 4:
                continue
            prompt = head + self._ids(exercise.text)[:room] + tail
            source[row, : len(prompt)] = torch.tensor(prompt)
            targets[row, : len(answer)] = torch.tensor(answer)
            row += 1
        padding = torch.zeros(PRACTICE_ROWS, 1, 1, PRACTICE_LENGTH, dtype=self._dtype)
        padding.masked_fill_((source == 0)[:, None, None], -1e9)
        return Batch(source, padding, targets)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids
