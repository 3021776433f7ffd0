"""A step of training on every member of the family, against transformers' own forward pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from decoding import load_reference
from factories import tiny_t5
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.training.adapt import load_adapted
from jumplora_adapters.training.config import TrainConfig
from jumplora_adapters.training.data import Example
from jumplora_adapters.training.fit import Fit, StepReport
from jumplora_adapters.training.work_folder import work_folder
from odd_shapes import MEMBERS, SHAPES

SCALED = ("a head of its own that is scaled", "a umT5 that is scaled")
NAMES = (*MEMBERS, "GELU", "SiLU", "gated ReLU", *SCALED, "other tokens")
EXAMPLES = [
    Example((40, 17, 120, 260, 1), (9, 80, 1), "one"),
    Example((33, 1), (12, 7, 200, 31, 1), "two"),
]


def loss(model: torch.nn.Module, start: int) -> float:
    """Of a token of all targets on average, one example at a time."""
    total = 0.0
    for example in EXAMPLES:
        with torch.inference_mode():
            logits = model(
                input_ids=torch.tensor([example.source]),
                decoder_input_ids=torch.tensor([[start, *example.target[:-1]]]),
            ).logits[0]
        total += float(
            functional.cross_entropy(logits, torch.tensor(example.target), reduction="sum")
        )
    return total / sum(len(example.target) for example in EXAMPLES)


@pytest.mark.parametrize("name", NAMES)
def test_steps_have_transformers_losses(config: TrainConfig, tmp_path: Path, name: str) -> None:
    folder = tiny_t5(tmp_path / "backbone", seed=3, **{**MEMBERS, **SHAPES}[name])
    backbone, theirs = read_backbone(folder), load_reference(folder)
    optimisation = replace(config.optimisation, dropout=0.0, learning_rate=0.05, epochs=2)
    config = replace(config, backbone=str(folder), method="lora", optimisation=optimisation)
    adapted = load_adapted(backbone, (), config, torch.device("cpu"))
    adapted.model.eval()
    reports: list[StepReport] = []
    learnt: list[dict[str, torch.Tensor]] = []

    def note(report: StepReport) -> None:
        reports.append(report)
        deltas = adapted.deltas(torch.float32)  # views of what is trained on
        learnt.append({name: delta.to_dense(torch.float32) for name, delta in deltas.items()})

    with work_folder(config.work_folder):
        Fit(adapted, config, None, 2, EXAMPLES, identity="two", score=None).run(note)
    start = backbone.generation.start_token_id
    assert reports[0].loss == pytest.approx(loss(theirs, start), rel=1e-4)
    with torch.no_grad():  # the second step starts from what the first one has learnt
        for module, update in learnt[0].items():
            theirs.get_submodule(module).weight += update
    assert reports[1].loss == pytest.approx(loss(theirs, start), rel=1e-4)
    assert reports[1].loss != pytest.approx(reports[0].loss, rel=1e-4)
