"""How the rows' tokens are chosen, in the form that the kernels read (src/sampling.cpp)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from jumplora_server.core import Beams, Candidate, Sampling, Sequence
from jumplora_server.engine.candidates import read_candidates, with_beams
from jumplora_server.engine.native.layout import SamplingStruct
from jumplora_server.engine.sampling import wants_logprob


class Samplings:
    """One structure a row, written when a sequence takes its first token there."""

    def __init__(self, fed: Tensor, start_token_id: int, end_tokens: int) -> None:
        """`fed` [rows, positions] int32 has what each row was fed; the kernels write it, too."""
        rows = len(fed)
        self._fed = fed
        self._start = start_token_id
        self._end_tokens = end_tokens
        self._structs = (SamplingStruct * rows)()
        size = ctypes.sizeof(SamplingStruct)
        self._addresses = [ctypes.addressof(self._structs) + i * size for i in range(rows)]
        self._used: list[int | None] = [None] * rows
        self._owners: list[int | None] = [None] * rows  # whose structure it is, by sequence id

    def of(self, sequences: Rows[Sequence]) -> list[int | None]:
        """Each sequence's address; None where the highest logit is all that is wanted."""
        for sequence in sequences:
            if not sequence.output or self._owners[sequence.row] != sequence.id:
                self._open(sequence)
        return [self._used[sequence.row] for sequence in sequences]

    def forget(self, row: int) -> None:
        """The row was copied to: what it was fed is the output of the sequence that comes."""
        self._owners[row] = None

    def _open(self, sequence: Sequence) -> None:
        row, sampling = sequence.row, sequence.sampling
        self._owners[row] = sequence.id
        self._structs[row] = struct_of(sampling, self._end_tokens)
        is_passed_over = sampling.is_plain and sampling.logprobs == "none"
        self._used[row] = None if is_passed_over else self._addresses[row]
        if sequence.output:  # it may continue from one whose tokens were not looked at
            given = torch.tensor([self._start, *sequence.output[:-1]], dtype=torch.int32)
            self._fed[row, : len(given)] = given


def struct_of(sampling: Sampling, end_tokens: int) -> SamplingStruct:
    """The same parameters, with a number that has no effect where one is not set."""
    return SamplingStruct(
        temperature=sampling.temperature if sampling.mode == "sample" else 0.0,
        top_p=1.0 if sampling.top_p is None else sampling.top_p,
        repetition_penalty=sampling.repetition_penalty,
        top_k=sampling.top_k or 0,
        min_new_tokens=sampling.min_new_tokens,
        no_repeat_ngram_size=sampling.no_repeat_ngram_size,
        seed=sampling.seed,
        wants_logprob=wants_logprob(sampling),
        candidates=0 if sampling.beams is None else sampling.beams.candidates(end_tokens),
    )


class CandidateLists:
    """Where the kernels write the candidates of rows with beams."""

    def __init__(self, rows: int, end_tokens: int, *, widest_search: int) -> None:
        """`rows` are those of a step; a search has a row of the cache for each of its beams."""
        self.most = Beams(width=widest_search).candidates(end_tokens)
        self.ids = torch.zeros(rows, self.most, dtype=torch.int32)
        self.logprobs = torch.zeros(rows, self.most)
        self._end_tokens = end_tokens

    def read(
        self, sequences: Rows[Sequence], places: Rows[int]
    ) -> dict[int, tuple[Candidate, ...]]:
        """Those of sequences with beams, by index; worthless where one failed. `places` are where
        their rows were computed."""
        samplings = [sequence.sampling for sequence in sequences]
        if all(sampling.beams is None for sampling in samplings):
            return {}
        rows = with_beams(samplings)
        at = [places[row] for row in rows]
        found = self.ids[at].tolist(), self.logprobs[at].tolist()
        return read_candidates(samplings, self._end_tokens, *found)
