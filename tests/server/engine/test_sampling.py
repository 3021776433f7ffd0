"""Token choice: both fast ways against the reference, and that against transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from choosing import EOS, MAX_ROWS, WAYS, Way, is_the_references, make_chooser
from decoding import make_sequence, torch_threads
from jumplora_server.core import Sampling
from jumplora_server.engine.sampling import uniform
from jumplora_server.engine.sampling_reference import (
    candidates,
    penalised,
    sample,
)

PROBABILITIES = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
LOGITS = PROBABILITIES.log()
EVERYTHING: dict[str, Any] = {
    "temperature": 0.8, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.2, "min_new_tokens": 4,
    "logprobs": "chosen",
}  # fmt: skip


def sampled(**options: Any) -> Sampling:
    return Sampling(**{"max_new_tokens": 32, "mode": "sample", **options})


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


# -- the numbers that draw


def test_draws_are_splitmix64s_numbers() -> None:
    known = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431)
    assert [int(uniform(1234567, i) * 2**53) for i in range(4)] == [n >> 11 for n in known]


def test_draws_are_even_over_seeds_and_over_positions() -> None:
    for draws in (
        torch.tensor([uniform(seed, 0) for seed in range(20_000)]),
        torch.tensor([uniform(7, position) for position in range(20_000)]),
    ):
        share = torch.histc(draws, bins=20, min=0, max=1) / len(draws)
        torch.testing.assert_close(share, torch.full((20,), 0.05), atol=0.006, rtol=0)


@pytest.mark.parametrize("way", [*WAYS, "reference"])
def test_a_seeds_text_does_not_change_unnoticed(way: Way) -> None:
    """These tokens are a promise: a seed repeats an answer after an update, too."""
    logits = torch.tensor([[((i * 7919) % 997) / 100 for i in range(1000)]])
    sequence = make_sequence([1], row=2, sampling=sampled(seed=11, temperature=1.5, top_k=400))
    chooser = make_chooser(way, 1000)
    for _ in range(8):
        sequence.output += chooser.choose(logits, [sequence]).token_ids
    assert sequence.output == PINNED


PINNED = [298, 245, 614, 477, 158, 526, 90, 770]


# -- the reference


@pytest.mark.parametrize(
    ("options", "draw", "token"),
    [
        ({}, 0.0, 0),
        ({}, 0.49, 0),
        ({}, 0.51, 1),
        ({}, 0.81, 2),
        ({}, 0.999, 3),
        ({"top_k": 1}, 0.999, 0),
        ({"top_k": 2}, 0.62, 0),  # 0.5 / 0.8 = 0.625
        ({"top_k": 2}, 0.63, 1),
        ({"top_k": 99}, 0.999, 3),
        ({"top_p": 0.5}, 0.999, 0),
        ({"top_p": 0.51}, 0.999, 1),
        ({"top_p": 0.79}, 0.999, 1),
        ({"top_p": 1.0}, 0.999, 3),
        ({"temperature": 0.01}, 0.999, 0),
        ({"temperature": 100.0}, 0.6, 2),
    ],
)
def test_the_reference_inverts_the_distribution(
    options: dict[str, float], draw: float, token: int
) -> None:
    assert sample(LOGITS, sampled(**options), draw) == token


@pytest.mark.parametrize(
    "options",
    [{"top_k": 5}, {"top_p": 0.7}, {"temperature": 0.6}, {"top_k": 9, "top_p": 0.8}],
    ids=str,
)
def test_the_references_candidates_are_those_of_transformers(options: dict[str, float]) -> None:
    from transformers.generation.logits_process import (
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    warpers = {
        "top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper,
        "temperature": TemperatureLogitsWarper,
    }  # fmt: skip
    logits = warped = numbers(1, 50, seed=3)
    for name, value in options.items():
        warped = warpers[name](value)(torch.zeros(1, 1, dtype=torch.long), warped.clone())
    expected = torch.softmax(warped.double(), dim=-1)[0]
    got = candidates(logits[0].double(), sampled(**options))
    torch.testing.assert_close(got, expected, atol=1e-7, rtol=0)


def test_penalty_pushes_both_signs_down() -> None:
    logits = torch.tensor([2.0, -2.0])
    assert penalised(logits, 2.0).tolist() == [1.0, -4.0]


# -- the fast ways against it


def check(
    way: Way,
    logits: Tensor,
    samplings: list[Sampling],
    steps: int = 3,
    ends: tuple[int, ...] = (EOS,),
) -> None:
    """Choose for a few steps, each row by its sampling; tokens and log-probabilities are right."""
    chooser = make_chooser(way, logits.shape[-1], ends)
    rows = [make_sequence([1], row=i, sampling=each) for i, each in enumerate(samplings)]
    for step in range(steps):
        now = logits.roll(step * 3, -1)
        before = now.clone()
        output = chooser.choose(now, rows)
        assert torch.equal(now, before), "the caller's logits were changed"
        for i, row in enumerate(rows):
            token, logprob = output.token_ids[i], output.logprobs[i]
            assert is_the_references(token, now[i], row, ends), (row.sampling, row.output)
            assert (i in output.failed) == (token == -1)
            assert (logprob is not None) == (row.sampling.logprobs == "chosen" and token >= 0)
            if logprob is not None:
                expected = torch.log_softmax(now[i].double(), dim=-1)[token]
                assert logprob == pytest.approx(float(expected), abs=2e-6, rel=1e-6)
            row.output.append(max(token, 0))


SHAPES_OF_LOGITS = {
    "normal": lambda rows, vocabulary: 3 * numbers(rows, vocabulary),
    "flat": lambda rows, vocabulary: 1e-3 * numbers(rows, vocabulary),
    "peaked": lambda rows, vocabulary: 40 * numbers(rows, vocabulary),
    "all equal": lambda rows, vocabulary: torch.full((rows, vocabulary), -2.5),
    "ties": lambda rows, vocabulary: (2 * numbers(rows, vocabulary)).round(),
    "bfloat16": lambda rows, vocabulary: (5 * numbers(rows, vocabulary)).bfloat16().float(),
    "huge": lambda rows, vocabulary: 1e37 * numbers(rows, vocabulary).clamp(-3, 3),
    "few allowed": lambda rows, vocabulary: numbers(rows, vocabulary).masked_fill(
        torch.arange(vocabulary) % 7 != 3, -torch.inf
    ),
    "least floats": lambda rows, vocabulary: torch.full(
        (rows, vocabulary), torch.finfo(torch.float32).min
    ).masked_fill(torch.arange(vocabulary) % 2 == 1, -torch.inf),
    "both zeros": lambda rows, vocabulary: 0.0 * numbers(rows, vocabulary),
}
REQUESTS = [
    sampled(seed=1),
    sampled(seed=2, top_k=1),
    sampled(seed=3, top_k=50, logprobs="chosen"),
    sampled(seed=4, top_k=1_000_000, top_p=0.5),
    sampled(seed=5, top_p=1.0),
    sampled(seed=6, top_p=1e-9),
    sampled(seed=7, top_p=0.9999999),
    sampled(seed=8, top_p=0.9, temperature=100.0),
    sampled(seed=9, top_k=700, top_p=0.7, temperature=0.01),
    sampled(seed=10, top_k=1200, repetition_penalty=0.1),
    sampled(seed=2**63 - 1, temperature=1e-3, repetition_penalty=10.0),
    sampled(seed=12, **EVERYTHING),
    Sampling(32),
    Sampling(32, logprobs="chosen"),
    Sampling(32, repetition_penalty=1.7),
    Sampling(32, min_new_tokens=2, repetition_penalty=0.5, logprobs="chosen"),
    Sampling(32, no_repeat_ngram_size=1),
    sampled(seed=13, no_repeat_ngram_size=2, **EVERYTHING),
]


@pytest.mark.parametrize("vocabulary", [2, 17, 300, 32_128])
@pytest.mark.parametrize("shape", SHAPES_OF_LOGITS)
def test_a_mixed_batch_chooses_as_the_reference(way: Way, shape: str, vocabulary: int) -> None:
    logits = SHAPES_OF_LOGITS[shape](len(REQUESTS), vocabulary)
    check(way, logits, REQUESTS, steps=3 if vocabulary < 1000 else 1)


def test_the_largest_vocabulary(way: Way) -> None:
    check(way, 3 * numbers(len(REQUESTS), 250_112), REQUESTS, steps=1)


requests = st.builds(
    Sampling,
    max_new_tokens=st.just(32),
    min_new_tokens=st.integers(0, 3),
    mode=st.sampled_from(["greedy", "sample", "sample"]),
    temperature=st.floats(0.01, 100.0),
    top_k=st.none() | st.integers(1, 80) | st.integers(1, 1_000_000),
    top_p=st.none() | st.floats(1e-12, 1.0),
    repetition_penalty=st.just(1.0) | st.floats(0.1, 10.0),
    no_repeat_ngram_size=st.integers(0, 5),
    seed=st.integers(0, 2**63 - 1),
    logprobs=st.sampled_from(["none", "chosen"]),
)


@settings(max_examples=80, deadline=None)
@given(
    samplings=st.lists(requests, min_size=1, max_size=9),
    vocabulary=st.integers(2, 2100),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.0, 0.01, 1.0, 5.0, 100.0]),
    grid=st.sampled_from([0.0, 0.25, 1.0]),
    forbidden=st.sampled_from([0.0, 0.3, 0.99]),
    ends=st.sets(st.integers(0, 2099) | st.integers(0, 9), max_size=5),
)
@pytest.mark.parametrize("way", WAYS)
def test_any_batch_chooses_as_the_reference(
    way: Way, samplings: list[Sampling], vocabulary: int, seed: int, scale: float, grid: float,
    forbidden: float, ends: set[int],
) -> None:  # fmt: skip
    logits = scale * numbers(len(samplings), vocabulary, seed=seed)
    if grid:
        logits = (logits / grid).round() * grid
    chance = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed))
    logits = logits.masked_fill(chance < forbidden, -torch.inf)
    check(way, logits, samplings, ends=tuple({end % vocabulary for end in ends}))


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.6}], ids=str)
def test_sampled_frequencies_follow_the_probabilities(way: Way, options: dict[str, float]) -> None:
    chooser = make_chooser(way, 4)
    counts = torch.zeros(4)
    for start in range(0, 8192, MAX_ROWS):
        rows = [
            make_sequence([1], row=i, sampling=sampled(seed=start + i, **options))
            for i in range(MAX_ROWS)
        ]
        tokens = chooser.choose(LOGITS.float().expand(MAX_ROWS, 4), rows).token_ids
        counts += torch.bincount(torch.tensor(tokens), minlength=4)
    expected = candidates(LOGITS, sampled(**options)).float()
    torch.testing.assert_close(counts / 8192, expected, atol=0.02, rtol=0)


@pytest.fixture
def threads() -> Iterator[None]:
    with torch_threads(torch.get_num_threads()):
        yield


def test_a_row_does_not_depend_on_its_batch_or_the_threads(way: Way, threads: None) -> None:
    samplings = [
        replace(REQUESTS[i % len(REQUESTS)], seed=i, logprobs="chosen") for i in range(128)
    ]
    logits = 2 * numbers(128, 3001)
    seen = []
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        chooser = make_chooser(way, 3001)
        rows = [make_sequence([1], row=i, sampling=each) for i, each in enumerate(samplings)]
        seen.append(chooser.choose(logits, rows))
        for i in range(0, 128, 7):
            alone = make_sequence([1], row=127 - i, sampling=samplings[i])
            output = chooser.choose(logits[i : i + 1], [alone])
            assert output.token_ids[0] == seen[0].token_ids[i]
            assert output.logprobs[0] == seen[0].logprobs[i]
    assert all(output == seen[0] for output in seen)


# -- rows that cannot go on, and rows that follow one another


@pytest.mark.parametrize(
    "sampling", [Sampling(9), sampled(**EVERYTHING), sampled(top_p=0.9), sampled()]
)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_row_without_finite_logits_fails_alone(way: Way, bad: float, sampling: Sampling) -> None:
    logits = numbers(5, 90)
    sound = make_chooser(way, 90).choose(
        logits, [make_sequence([1], row=i, sampling=sampling) for i in range(5)]
    )
    logits[1, 40], logits[3, EOS] = bad, bad
    logits[4] = -torch.inf
    output = make_chooser(way, 90).choose(
        logits, [make_sequence([1], row=i, sampling=sampling) for i in range(5)]
    )
    assert output.failed == (1, 3, 4)
    assert [output.token_ids[i] for i in output.failed] == [-1, -1, -1]
    assert [output.logprobs[i] for i in output.failed] == [None, None, None]
    for i in (0, 2):
        assert output.token_ids[i] == sound.token_ids[i]
        assert output.logprobs[i] == sound.logprobs[i]


@pytest.mark.parametrize("mode", ["greedy", "sample"])
def test_a_row_that_is_allowed_nothing_fails(way: Way, mode: Any) -> None:
    logits = torch.full((2, 40), -torch.inf)
    logits[:, EOS] = 1.0
    rows = [
        make_sequence([1], row=i, sampling=Sampling(4, min_new_tokens=i, mode=mode))
        for i in range(2)
    ]
    output = make_chooser(way, 40).choose(logits, rows)
    assert (output.token_ids, output.failed) == ((EOS, -1), (1,))


def test_min_new_tokens_forbids_the_end_token_until_then(way: Way) -> None:
    chooser = make_chooser(way, 3)
    sequence = make_sequence([1], row=0, sampling=Sampling(max_new_tokens=4, min_new_tokens=2))
    for _ in range(3):
        sequence.output += chooser.choose(torch.tensor([[0.0, 9.0, 1.0]]), [sequence]).token_ids
    assert sequence.output == [2, 2, 1]


@pytest.mark.parametrize("ends", [(1, 2, 4), (4,), ()], ids=str)
def test_min_new_tokens_forbids_the_end_tokens_of_transformers(
    way: Way, ends: tuple[int, ...]
) -> None:
    from transformers.generation.logits_process import MinNewTokensLengthLogitsProcessor

    logits = torch.tensor([[0.0, 9.0, 8.0, 1.0, 7.0, 6.0]])
    forbid = MinNewTokensLengthLogitsProcessor(1, 2, torch.tensor(ends, dtype=torch.int64))
    chooser = make_chooser(way, 6, ends)
    sequence = make_sequence([1], row=0, sampling=Sampling(max_new_tokens=4, min_new_tokens=2))
    for _ in range(3):
        fed = torch.tensor([[0, *sequence.output]])
        expected = int(forbid(fed, logits.clone()).argmax())
        sequence.output += chooser.choose(logits, [sequence]).token_ids
        assert sequence.output[-1] == expected


def test_a_penalty_counts_the_start_token_and_each_token_once(way: Way) -> None:
    chooser = make_chooser(way, 4)
    sequence = make_sequence([1], row=0, sampling=Sampling(9, repetition_penalty=2.0))
    logits = torch.tensor([[9.0, 0.0, 4.4, 6.0]])  # 4.5 once it was chosen, 4.5 and 3.0 for 0 and 3
    for _ in range(4):
        sequence.output += chooser.choose(logits, [sequence]).token_ids
    assert sequence.output == [3, 0, 0, 0]


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=5),
    size=st.lists(st.integers(0, 14), min_size=5, max_size=5),
)
@pytest.mark.parametrize("way", [*WAYS, "reference"])
def test_repeated_ngrams_are_those_of_transformers(
    way: Way, outputs: list[list[int]], size: list[int]
) -> None:
    from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor

    logits = numbers(len(outputs), 4)
    chooser = make_chooser(way, 4)
    rows, expected = [], []
    for i, output in enumerate(outputs):
        sampling = Sampling(32, no_repeat_ngram_size=size[i])
        rows.append(make_sequence([1], row=i, sampling=sampling))
        rows[i].output.extend(output)
        left = logits[i : i + 1]
        if size[i]:
            fed = torch.tensor([[0, *output]])
            left = NoRepeatNGramLogitsProcessor(size[i])(fed, left.clone())
        expected.append(int(left.argmax()) if left.max().isfinite() else -1)
    assert chooser.choose(logits, rows).token_ids == tuple(expected)


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what torch computes."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("way", [*WAYS, "reference"])
def test_long_ngrams_are_those_of_transformers(way: Way) -> None:
    """Also those of more tokens than are compared at once."""
    from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor

    sizes = [2, 63, 64, 65, 66, 129, 130, 200, 8192]
    logits = numbers(len(sizes), 8)
    rows, expected = [], []
    for i, size in enumerate(sizes):
        output = [1 + n % 7 for n in range(size - 1 + i)][:220]
        rows.append(make_sequence([1], row=i, sampling=Sampling(250, no_repeat_ngram_size=size)))
        rows[i].output.extend(output)
        fed = torch.tensor([[0, *output]])
        left = NoRepeatNGramLogitsProcessor(size)(fed, logits[i : i + 1].clone())
        expected.append(int(left.argmax()))
    assert make_chooser(way, 8).choose(logits, rows).token_ids == tuple(expected)


def test_what_long_ngrams_cost_does_not_grow_with_their_size() -> None:
    """Each kernel is waited for by the whole batch."""
    counts = []
    for size in (2, 120):
        row = make_sequence([1], row=0, sampling=Sampling(250, no_repeat_ngram_size=size))
        row.output.extend(1 + n % 7 for n in range(124))
        with Counted() as counted:  # type: ignore[no-untyped-call]
            make_chooser("torch", 8).choose(numbers(1, 8), [row])
        counts.append(counted.calls)
    assert counts[1] < 1.5 * counts[0], counts


def test_a_row_forgets_who_had_it_before(way: Way) -> None:
    chooser = make_chooser(way, 64)
    logits = numbers(1, 64)
    request = sampled(seed=5, repetition_penalty=5.0, temperature=0.7)

    def generate() -> list[int]:
        sequence = make_sequence([1], row=3, sampling=request)
        for _ in range(6):
            sequence.output += chooser.choose(logits, [sequence]).token_ids
        return sequence.output

    first = generate()
    for other in (Sampling(9), sampled(seed=1, top_k=2, logprobs="chosen")):
        chooser.choose(logits, [make_sequence([1], row=3, sampling=other)])
    assert generate() == first
