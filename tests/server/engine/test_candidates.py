"""Candidates of rows with beams: both fast ways against the reference and transformers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from choosing import EOS, MAX_ROWS, START, WAYS, Way, assert_listed, make_chooser
from decoding import make_sequence, torch_threads
from jumplora_server.core import Beams, Sampling, Sequence, StepOutput
from jumplora_server.engine.sampling_reference import list_reference


def beams(width: int = 4, **options: Any) -> Sampling:
    return Sampling(**{"max_new_tokens": 32, "beams": Beams(width), **options})


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_rows(samplings: list[Sampling], outputs: list[list[int]] | None = None) -> list[Sequence]:
    rows = [make_sequence([1], row=i, sampling=each) for i, each in enumerate(samplings)]
    for row, output in zip(rows, outputs or [], strict=False):
        row.output.extend(output)
    return rows


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


def check(output: StepOutput, logits: Tensor, rows: list[Sequence], ends: tuple[int, ...]) -> None:
    """Each row with beams has the reference's candidates, up to tokens that are equal to a hair."""
    for i, row in enumerate(rows):
        listed = output.candidates[i] if output.candidates else ()
        if row.sampling.beams is None:
            assert listed == ()
            continue
        fed = [START, *row.output]
        expected = list_reference(logits[i], row.sampling, fed, ends)
        assert (i in output.failed) == (expected == ()) == (output.token_ids[i] == -1)
        assert output.logprobs[i] is None
        if not expected:
            assert listed == ()
            continue
        assert output.token_ids[i] == listed[0].token_id
        assert_listed(listed, logits[i], row.sampling, fed, ends)


SHAPES_OF_LOGITS = {
    "normal": lambda rows, vocabulary: 3 * numbers(rows, vocabulary),
    "flat": lambda rows, vocabulary: 1e-3 * numbers(rows, vocabulary),
    "peaked": lambda rows, vocabulary: 40 * numbers(rows, vocabulary),
    "all equal": lambda rows, vocabulary: torch.full((rows, vocabulary), -2.5),
    "ties": lambda rows, vocabulary: (2 * numbers(rows, vocabulary)).round(),
    "bfloat16": lambda rows, vocabulary: (5 * numbers(rows, vocabulary)).bfloat16().float(),
    "few allowed": lambda rows, vocabulary: numbers(rows, vocabulary).masked_fill(
        torch.arange(vocabulary) % 7 != 3, -torch.inf
    ),
    "both zeros": lambda rows, vocabulary: 0.0 * numbers(rows, vocabulary),
}
REQUESTS = [
    beams(2),
    beams(4),
    Sampling(32, mode="sample", seed=1, top_k=5),
    beams(5, repetition_penalty=1.7, min_new_tokens=3),
    beams(3, repetition_penalty=0.4, no_repeat_ngram_size=2),
    Sampling(32, logprobs="chosen"),
    beams(64, no_repeat_ngram_size=1),
    Sampling(32),
    beams(2, logprobs="chosen"),
]
OUTPUTS = [[], [1, 0], [], [0, 1, 1], [1, 0, 1, 0], [1], [0, 0], [], []]


@pytest.mark.parametrize(
    ("shape", "vocabulary"),
    [*itertools.product(SHAPES_OF_LOGITS, (2, 17, 300)), ("normal", 32_128)],
)
def test_a_mixed_batch_has_the_references_candidates(way: Way, shape: str, vocabulary: int) -> None:
    logits = SHAPES_OF_LOGITS[shape](len(REQUESTS), vocabulary)
    rows = make_rows(REQUESTS, OUTPUTS)
    before = logits.clone()
    output = make_chooser(way, vocabulary).choose(logits, rows)
    assert torch.equal(logits, before), "the caller's logits were changed"
    check(output, logits, rows, (EOS,))


requests = st.builds(
    Sampling,
    max_new_tokens=st.just(32),
    min_new_tokens=st.integers(0, 3),
    repetition_penalty=st.just(1.0) | st.floats(0.1, 10.0),
    no_repeat_ngram_size=st.integers(0, 4),
    beams=st.none() | st.builds(Beams, width=st.integers(2, 40)),
    logprobs=st.sampled_from(["none", "chosen"]),
)


@settings(max_examples=80, deadline=None)
@given(
    samplings=st.lists(requests, min_size=1, max_size=9),
    outputs=st.lists(st.lists(st.integers(0, 1), max_size=9), max_size=9),
    vocabulary=st.integers(2, 2100),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.0, 0.01, 1.0, 5.0, 100.0]),
    grid=st.sampled_from([0.0, 0.25, 1.0]),
    forbidden=st.sampled_from([0.0, 0.3, 0.99]),
    ends=st.sets(st.integers(0, 2099) | st.integers(0, 9), max_size=5),
)
@pytest.mark.parametrize("way", WAYS)
def test_any_batch_has_the_references_candidates(
    way: Way,
    samplings: list[Sampling],
    outputs: list[list[int]],
    vocabulary: int,
    seed: int,
    scale: float,
    grid: float,
    forbidden: float,
    ends: set[int],
) -> None:
    logits = scale * numbers(len(samplings), vocabulary, seed=seed)
    if grid:
        logits = (logits / grid).round() * grid
    chance = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed))
    logits = logits.masked_fill(chance < forbidden, -torch.inf)
    known = tuple({end % vocabulary for end in ends})
    rows = make_rows(samplings, outputs)
    output = make_chooser(way, vocabulary, known).choose(logits, rows)
    check(output, logits, rows, known)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.7},
        {"min_new_tokens": 9},
        {"no_repeat_ngram_size": 2},
        {"repetition_penalty": 0.3, "min_new_tokens": 9, "no_repeat_ngram_size": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("way", [*WAYS, "reference"])
def test_candidates_are_those_of_transformers(way: Way, options: dict[str, Any]) -> None:
    """Log-probabilities first, then its processors, then the highest."""
    from transformers.generation.logits_process import (
        LogitsProcessorList,
        MinNewTokensLengthLogitsProcessor,
        NoRepeatNGramLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
    )

    ends, output = (1, 7), [5, 9, 5, 5, 3, 9]
    fed = torch.tensor([[START, *output]])
    made = {
        "repetition_penalty": RepetitionPenaltyLogitsProcessor,
        "min_new_tokens": lambda n: MinNewTokensLengthLogitsProcessor(1, n, torch.tensor(ends)),
        "no_repeat_ngram_size": NoRepeatNGramLogitsProcessor,
    }
    edits = LogitsProcessorList([made[name](value) for name, value in options.items()])
    logits = 3 * numbers(1, 40, seed=8)
    left = edits(fed, torch.log_softmax(logits, dim=-1))
    values, ids = left.topk(12)
    rows = make_rows([beams(4, **options)], [output])
    (listed,) = make_chooser(way, 40, ends).choose(logits, rows).candidates
    assert [candidate.token_id for candidate in listed] == ids[0].tolist()
    got = [candidate.logprob for candidate in listed]
    assert got == pytest.approx(values[0].tolist(), abs=4e-6)


def test_equals_come_by_their_ids(way: Way) -> None:
    logits = torch.zeros(1, 100)
    logits[0, 50::10] = 1.0
    (listed,) = make_chooser(way, 100).choose(logits, make_rows([beams(4)])).candidates
    assert [candidate.token_id for candidate in listed] == [50, 60, 70, 80, 90, 0, 1, 2]


def test_there_are_as_many_as_leave_each_beam_a_token(way: Way) -> None:
    for ends in ((), (1,), (1, 2, 3)):
        chooser = make_chooser(way, 50, ends)
        rows = make_rows([beams(3), beams(5)])
        found = chooser.choose(numbers(2, 50), rows).candidates
        assert [len(each) for each in found] == [
            3 * max(2, 1 + len(ends)),
            5 * max(2, 1 + len(ends)),
        ]


def test_a_step_without_beams_has_no_candidates(way: Way) -> None:
    rows = make_rows([Sampling(9), Sampling(9, repetition_penalty=2.0, logprobs="chosen")])
    assert make_chooser(way, 50).choose(numbers(2, 50), rows).candidates == ()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_without_candidates_fails_alone(way: Way, bad: float) -> None:
    logits = numbers(4, 30)
    logits[1] = bad
    logits[2] = -torch.inf
    logits[2, EOS] = 1.0
    samplings = [beams(2), beams(2), beams(2, min_new_tokens=1), Sampling(9)]
    output = make_chooser(way, 30).choose(logits, make_rows(samplings))
    assert output.failed == (1, 2)
    assert [len(listed) for listed in output.candidates] == [4, 0, 0, 0]
    assert [output.token_ids[i] for i in output.failed] == [-1, -1]
    failed = make_chooser(way, 30).choose(logits[1:2], make_rows([beams(2)]))
    assert (failed.failed, failed.candidates) == ((0,), ())


def test_candidates_do_not_depend_on_the_batch_or_the_threads(way: Way) -> None:
    logits = 2 * numbers(MAX_ROWS, 3001)
    samplings = [REQUESTS[i % len(REQUESTS)] for i in range(MAX_ROWS)]
    seen = []
    for count in (1, 2, 5):
        with torch_threads(count):
            chooser = make_chooser(way, 3001)
            seen.append(chooser.choose(logits, make_rows(samplings)))
            for i in range(0, MAX_ROWS, 11):
                alone = make_sequence([1], row=MAX_ROWS - 1 - i, sampling=samplings[i])
                output = chooser.choose(logits[i : i + 1], [alone])
                assert output.token_ids[0] == seen[0].token_ids[i]
                assert (output.candidates or ((),))[0] == seen[0].candidates[i]
    assert all(output == seen[0] for output in seen)


def test_a_shorter_list_beside_a_longer_one_is_its_beginning(way: Way) -> None:
    logits = numbers(1, 500).expand(2, 500)
    output = make_chooser(way, 500).choose(logits, make_rows([beams(2), beams(9)]))
    short, long = output.candidates
    assert short == long[: len(short)]
