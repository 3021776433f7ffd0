"""Token choice against literal expectations and against transformers' logits processors."""

from __future__ import annotations

import pytest
import torch

from decoding import make_sequence
from jumplora_server.core import Sampling
from jumplora_server.engine.sampling import Sampler, Scores, penalised, sample

PROBABILITIES = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
LOGITS = PROBABILITIES.log()


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
def test_sample_inverts_the_distribution(
    options: dict[str, float], draw: float, token: int
) -> None:
    sampling = Sampling(max_new_tokens=1, mode="sample", **options)  # type: ignore[arg-type]
    assert sample(LOGITS, sampling, draw) == token


def test_sampled_frequencies_follow_the_probabilities() -> None:
    sampler = Sampler(eos_token_id=1, start_token_id=0)
    sampling = Sampling(max_new_tokens=4000, mode="sample", seed=7)
    sequence = make_sequence([1], row=0, sampling=sampling)
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[sampler.choose(Scores.of(LOGITS.float()[None]), [sequence]).token_ids[0]] += 1
    torch.testing.assert_close(counts / 4000, PROBABILITIES.float(), atol=0.03, rtol=0)


@pytest.mark.parametrize("options", [{"top_k": 5}, {"top_p": 0.7}, {"temperature": 0.6}])
def test_the_candidates_are_those_of_transformers(options: dict[str, float]) -> None:
    from transformers.generation.logits_process import (
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    warpers = {
        "top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper,
        "temperature": TemperatureLogitsWarper,
    }  # fmt: skip
    ((name, value),) = options.items()
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(3))
    warped = warpers[name](value)(torch.zeros(1, 1, dtype=torch.long), logits.clone())
    expected = torch.softmax(warped.double(), dim=-1)[0]
    sampling = Sampling(max_new_tokens=1, mode="sample", **options)  # type: ignore[arg-type]
    draws = torch.linspace(0, 1, 20001, dtype=torch.float64)[:-1]
    tokens = torch.tensor([sample(logits[0].double(), sampling, float(d)) for d in draws[::10]])
    frequency = torch.bincount(tokens, minlength=50).double() / len(tokens)
    torch.testing.assert_close(frequency, expected, atol=2e-3, rtol=0)


def test_penalty_pushes_both_signs_down() -> None:
    logits = torch.tensor([2.0, -2.0])
    assert penalised(logits, 2.0).tolist() == [1.0, -4.0]


def test_greedy_rows_need_no_state_and_failed_rows_are_named() -> None:
    sampler = Sampler(eos_token_id=1, start_token_id=0)
    rows = [make_sequence([1], row=i) for i in range(3)]
    logits = torch.tensor([[0.0, 3.0], [torch.nan, 0.0], [5.0, torch.inf]])
    output = sampler.choose(Scores.of(logits), rows)
    assert output.token_ids == (1, -1, -1)
    assert output.failed == (1, 2)


def test_min_new_tokens_forbids_the_end_token_until_then() -> None:
    sampler = Sampler(eos_token_id=1, start_token_id=0)
    sequence = make_sequence([1], row=0, sampling=Sampling(max_new_tokens=4, min_new_tokens=2))
    logits = torch.tensor([[0.0, 9.0, 1.0]])
    chosen = []
    for _ in range(3):
        chosen.append(sampler.choose(Scores.of(logits), [sequence]).token_ids[0])
        sequence.output.append(chosen[-1])
    assert chosen == [2, 2, 1]
    assert logits.tolist() == [[0.0, 9.0, 1.0]], "the caller's logits were changed"
