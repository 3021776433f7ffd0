"""The ways from logits to tokens behind one call, for tests that compare them."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence as Rows
from dataclasses import replace
from typing import Any, Literal, Protocol

import pytest
import torch
from torch import Tensor

from jumplora_server.core import Beams, Candidate, InstructionSet, Sampling, Sequence, StepOutput
from jumplora_server.engine.native.layout import Kind, Step
from jumplora_server.engine.native.library import load_library, runnable_sets
from jumplora_server.engine.native.sampling import CandidateLists, Samplings
from jumplora_server.engine.native.tape import Tape
from jumplora_server.engine.sampling import Chooser, step_output, uniform
from jumplora_server.engine.sampling_reference import (
    choose_reference,
    edited,
    list_reference,
    sample,
)

START, EOS = 0, 1
MAX_ROWS, POSITIONS = 128, 256

Way = Literal["torch", "cuda", "reference", InstructionSet]
WAYS: list[Way] = [*runnable_sets(), "torch"]
if torch.cuda.is_available():
    WAYS.append("cuda")


class Chooses(Protocol):
    """What chooses one token a row from logits [n, vocabulary]."""

    def choose(self, logits: Tensor, sequences: Rows[Sequence]) -> StepOutput: ...


def make_chooser(way: Way, vocabulary: int, ends: Rows[int] = (EOS,)) -> Chooses:
    """One that has seen nothing yet."""
    if way == "reference":
        return _Reference(ends)
    if way == "torch" or way == "cuda":
        return _Torch(torch.device("cuda" if way == "cuda" else "cpu"), ends)
    return _Native(vocabulary, ends, load_library(way))


def is_the_references(
    token: int, logits: Tensor, sequence: Sequence, ends: Rows[int] = (EOS,)
) -> bool:
    """Whether the reference says so, or would a hair's breadth beside the draw or the share."""
    given, fed = sequence.sampling, [START, *sequence.output]
    expected, _ = choose_reference(logits, given, fed, ends)
    if token == expected or -1 in (token, expected) or given.mode == "greedy":
        return token == expected
    logits = edited(logits, given, fed, ends)
    draw = uniform(given.seed, len(sequence.output))
    for hair in (-1e-12, 1e-12):
        near = given if given.top_p is None else replace(given, top_p=given.top_p * (1 + hair))
        for point in (draw - 1e-12, draw, draw + 1e-12):
            if token == sample(logits.double(), near, min(max(point, 0.0), 1.0)):
                return True
    return False


def assert_listed(
    listed: Rows[Candidate],
    logits: Tensor,
    sampling: Sampling,
    fed: Rows[int],
    ends: Rows[int] = (EOS,),
    *,
    hair: float = 4e-6,
) -> None:
    """They are the reference's candidates of logits [vocabulary], up to equals by a hair."""

    def close(logprobs: Rows[float]) -> Any:
        return pytest.approx(logprobs, abs=hair, rel=1e-6)

    assert [*listed] == sorted(listed, key=lambda c: (-c.logprob, c.token_id))
    assert len({candidate.token_id for candidate in listed}) == len(listed)
    got = [candidate.logprob for candidate in listed]
    expected = list_reference(logits, sampling, fed, ends)
    assert got == close([candidate.logprob for candidate in expected])
    # Every one of them has the reference's number, so none is another token's.
    every = replace(sampling, beams=Beams(len(logits)))
    of_token = {c.token_id: c.logprob for c in list_reference(logits, every, fed, ends)}
    assert got == close([of_token[candidate.token_id] for candidate in listed])


class _Torch:
    def __init__(self, device: torch.device, ends: Rows[int]) -> None:
        self._device = device
        self._chooser = Chooser(
            end_token_ids=tuple(ends),
            start_token_id=START,
            rows=MAX_ROWS,
            positions=POSITIONS,
            device=device,
        )

    def choose(self, logits: Tensor, sequences: Rows[Sequence]) -> StepOutput:
        """On its device, wherever the logits come from."""
        return self._chooser.choose(logits.to(self._device), sequences)


class _Reference:
    def __init__(self, ends: Rows[int]) -> None:
        self._ends = ends

    def choose(self, logits: Tensor, sequences: Rows[Sequence]) -> StepOutput:
        """Row by row."""
        tokens, logprobs, lists = [], [], []
        for row, sequence in zip(logits, sequences, strict=True):
            asked = (sequence.sampling, [START, *sequence.output], self._ends)
            token, logprob = choose_reference(row, *asked)
            listed = list_reference(row, *asked) if sequence.sampling.beams else ()
            tokens.append(listed[0].token_id if listed else token)
            logprobs.append(logprob)
            lists.append(listed)
        return StepOutput(
            tuple(tokens),
            tuple(logprobs),
            tuple(i for i, token in enumerate(tokens) if token < 0),
            candidates=tuple(lists) if any(lists) else (),
        )


class _Native:
    """The last two operations of a decode's tape, on logits that are given."""

    def __init__(self, vocabulary: int, ends: Rows[int], library: ctypes.CDLL) -> None:
        self._logits = torch.empty(MAX_ROWS, vocabulary)
        self._highest = torch.empty(MAX_ROWS)
        self._tokens = torch.empty(MAX_ROWS, dtype=torch.int64)
        self._logprobs = torch.empty(MAX_ROWS, dtype=torch.float64)
        fed = torch.zeros(MAX_ROWS, POSITIONS, dtype=torch.int32)
        self._samplings = Samplings(fed, START, len(ends))
        self._candidates = CandidateLists(MAX_ROWS, len(ends), widest_search=MAX_ROWS)
        self._tape = Tape(library)
        found = (self._logits, self._highest, self._tokens)
        self._tape.add(Kind.BEST, *found, n=(vocabulary,))
        self._tape.add(
            Kind.CHOOSE, *found, self._logprobs, fed,
            torch.tensor(list(ends), dtype=torch.int64), self._candidates.ids,
            self._candidates.logprobs, n=(vocabulary, POSITIONS, len(ends), self._candidates.most),
        )  # fmt: skip

    def choose(self, logits: Tensor, sequences: Rows[Sequence]) -> StepOutput:
        """One replay."""
        n = len(sequences)
        self._logits[:n] = logits
        tokens = (ctypes.c_int32 * n)(*(s.output[-1] if s.output else START for s in sequences))
        rows = (ctypes.c_int64 * n)(*(s.row for s in sequences))
        positions = (ctypes.c_int64 * n)(*(len(s.output) for s in sequences))
        samplings = (ctypes.c_void_p * n)(*self._samplings.of(sequences))
        self._tape.replay(
            Step(
                rows=n,
                sequences=n,
                tokens=ctypes.addressof(tokens),
                target_rows=ctypes.addressof(rows),
                positions=ctypes.addressof(positions),
                samplings=ctypes.addressof(samplings),
            )
        )
        assert torch.equal(self._logits[:n].nan_to_num(), logits.nan_to_num()), "logits changed"
        highest, chosen, logprobs = (
            found[:n].tolist() for found in (self._highest, self._tokens, self._logprobs)
        )
        candidates = self._candidates.read(sequences, range(len(sequences)))
        is_sound = [*map(math.isfinite, highest)]
        return step_output(sequences, is_sound, chosen, logprobs, candidates)
