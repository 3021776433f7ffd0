"""Options scored together against one forward pass for each."""

from __future__ import annotations

import pytest
import torch

from jumplora_adapters.training.adapt import AdaptedBackbone, load_adapted
from jumplora_adapters.training.batches import IGNORED, padded
from jumplora_adapters.training.config import TrainConfig
from jumplora_adapters.training.data import Example
from jumplora_adapters.training.options import best_options, option_scores
from jumplora_adapters.training.train import prepare

SHORT = ((7, 1), (9, 1))
LONG = ((7, 1), (7, 8, 1), (30, 31, 32, 33, 1), (40, 1))


@pytest.fixture
def adapted(config: TrainConfig) -> AdaptedBackbone:
    loaded = load_adapted(prepare(config).backbone, (), config, torch.device("cpu"))
    loaded.model.eval()
    return loaded


def _one_by_one(
    adapted: AdaptedBackbone, source: tuple[int, ...], option: tuple[int, ...]
) -> float:
    with torch.inference_mode():
        logits = adapted.model(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[0, *option[:-1]]])
        ).logits[0]
    chances = logits.log_softmax(-1)
    return sum(float(chances[position, token]) for position, token in enumerate(option))


@pytest.mark.parametrize("options", [SHORT, LONG, ((5,), (6,))], ids=["short", "long", "single"])
def test_log_probabilities_are_those_of_each_alone(
    adapted: AdaptedBackbone, options: tuple[tuple[int, ...], ...]
) -> None:
    sources = [(5, 6, 7, 1), (9, 1), (3, 3, 3, 3, 3, 3, 1)]
    scores = option_scores(adapted, sources, padded(options, IGNORED))
    expected = [[_one_by_one(adapted, source, option) for option in options] for source in sources]
    torch.testing.assert_close(scores, torch.tensor(expected), atol=1e-4, rtol=1e-5)


def test_the_best_is_found_for_every_example_whatever_the_batch(adapted: AdaptedBackbone) -> None:
    examples = [Example((n, n + 1, 5 * n + 3, 1), (), "") for n in range(3, 60)]
    found = best_options(adapted, examples, LONG)
    for example, choice in zip(examples, found, strict=True):
        scores = [_one_by_one(adapted, example.source, option) for option in LONG]
        assert scores[choice] == pytest.approx(max(scores), abs=1e-4)
    assert len(set(found)) > 1
