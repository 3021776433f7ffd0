"""Beam search against transformers' own, over language models that are tables of random numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from jumplora_server.core import Beams, Candidate, FinishReason
from jumplora_server.scheduler.beams import BeamSearch

START = 0
VOCABULARY = 60


@dataclass(frozen=True)
class Language:
    """Logits of the next token by what came before: random, and with a liking for the end."""

    seed: int
    liking: float
    ends: tuple[int, ...]

    def logits(self, prefix: Sequence[int]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(
            random.Random(f"{self.seed} {prefix}").getrandbits(60)
        )
        logits = 3 * torch.randn(VOCABULARY, generator=generator)
        logits[list(self.ends)] += self.liking
        return logits


class TableModel(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A language as a model that transformers generates with."""

    config_class = PretrainedConfig

    def __init__(self, language: Language) -> None:
        super().__init__(PretrainedConfig(vocab_size=VOCABULARY, is_encoder_decoder=False))
        self.language = language
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutput:
        logits = [self.language.logits(row) for row in input_ids.tolist()]
        return CausalLMOutput(logits=torch.stack(logits)[:, None])

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, **_: Any
    ) -> dict[str, torch.Tensor]:
        return {"input_ids": input_ids}


def searched(
    language: Language, beams: Beams, max_new_tokens: int
) -> list[tuple[list[int], float]]:
    """What the search comes to."""
    search = BeamSearch(beams, max_new_tokens=max_new_tokens, end_token_ids=language.ends)
    kept = beams.candidates(len(language.ends))
    while search.running:
        given = []
        for hypothesis in search.running:
            logprobs = language.logits([START, *hypothesis.tokens]).log_softmax(dim=-1)
            best = logprobs.topk(kept)
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            given.append([Candidate(token, logprob) for token, logprob in pairs])
        parents = search.advance(given)
        assert len(parents) == len(search.running) <= beams.width
    return [([*ended.hypothesis.tokens], ended.score) for ended in search.answers()]


def expected(
    language: Language, beams: Beams, max_new_tokens: int
) -> list[tuple[list[int], float]]:
    """What transformers comes to."""
    model = TableModel(language)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_beams=beams.width,
        length_penalty=beams.length_penalty,
        early_stopping=beams.early_stopping,
        num_return_sequences=beams.answers,
        eos_token_id=[*language.ends] or None,
        pad_token_id=VOCABULARY - 1,
        use_cache=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    found = model.generate(torch.tensor([[START]]), generation_config=config)
    answers = []
    for row, score in zip(found.sequences.tolist(), found.sequences_scores.tolist(), strict=True):
        tokens = row[1:]
        ends = [i for i, token in enumerate(tokens) if token in language.ends]
        answers.append((tokens[: ends[0] + 1] if ends else tokens, score))
    return answers


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    liking=st.sampled_from([-30.0, -2.0, 0.0, 2.0, 5.0]),
    ends=st.sampled_from([(), (1,), (1, 2), (3, 9, 11)]),
    width=st.integers(2, 6),
    length_penalty=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]),
    early_stopping=st.sampled_from([False, True, "never"]),
    max_new_tokens=st.integers(1, 9),
    data=st.data(),
)
def test_answers_and_scores_are_those_of_transformers(
    seed: int,
    liking: float,
    ends: tuple[int, ...],
    width: int,
    length_penalty: float,
    early_stopping: bool | Literal["never"],
    max_new_tokens: int,
    data: st.DataObject,
) -> None:
    answers = data.draw(st.integers(1, width))
    beams = Beams(width, length_penalty, early_stopping, answers)
    language = Language(seed, liking, ends)
    ours, theirs = (
        searched(language, beams, max_new_tokens),
        expected(language, beams, max_new_tokens),
    )
    assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
    assert [score for _, score in ours] == pytest.approx([s for _, s in theirs], rel=1e-4, abs=1e-5)


def test_goes_on_with_what_is_left() -> None:
    """Where fewer tokens are allowed than beams are wanted, fewer run."""
    search = BeamSearch(Beams(4, answers=4), max_new_tokens=2, end_token_ids=())
    assert search.advance([[Candidate(7, -0.5)]]) == (0,)
    assert search.advance([[Candidate(8, -0.5), Candidate(9, -1.0)]]) == ()
    assert [ended.hypothesis.tokens for ended in search.answers()] == [(7, 8), (7, 9)]
    assert {ended.reason for ended in search.answers()} == {FinishReason.LENGTH}


def test_of_equals_the_better_hypothesis_goes_first() -> None:
    search = BeamSearch(Beams(2, answers=2), max_new_tokens=3, end_token_ids=(1,))
    search.advance([[Candidate(5, -1.0), Candidate(6, -1.0)]])
    assert [h.tokens for h in search.running] == [(5,), (6,)]
    parents = search.advance([[Candidate(5, -1.0)], [Candidate(5, -1.0)]])
    assert parents == (0, 1)
    assert not math.isnan(search.running[0].total)
