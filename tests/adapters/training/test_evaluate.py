"""Batched greedy decoding against one example at a time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from jumplora_adapters.training.adapt import load_adapted
from jumplora_adapters.training.config import Lengths, TrainConfig
from jumplora_adapters.training.evaluate import evaluate, greedy_texts
from jumplora_adapters.training.train import prepare


def test_padding_and_order_do_not_change_an_answer(config: TrainConfig) -> None:
    config = replace(config, lengths=Lengths(64, 8))
    prepared = prepare(config)
    adapted = load_adapted(prepared.backbone, (), config, torch.device("cpu"))
    adapted.model.eval()
    examples = prepared.train.examples
    assert len({len(example.source) for example in examples}) > 1
    together = greedy_texts(adapted, examples, prepared.tokenizer.decoder, 6)
    alone = [
        greedy_texts(adapted, [example], prepared.tokenizer.decoder, 6)[0] for example in examples
    ]
    assert together == alone
    assert len(set(together)) > 1


def test_scores_are_of_the_deltas_given_and_training_goes_on(config: TrainConfig) -> None:
    prepared = prepare(config)
    assert prepared.dev is not None
    adapted = load_adapted(prepared.backbone, (), config, torch.device("cpu"))
    adapted.model.train()
    deltas = adapted.deltas(torch.float32)
    scores = evaluate(adapted, deltas, prepared.dev.examples, prepared.tokenizer.decoder, 2)
    assert set(scores) == {"exact_match", "f1", "rouge_l"}
    assert adapted.model.training
    assert all(layer.served is None for layer in adapted.layers.values())


def test_the_backbones_own_generation_settings_play_no_part(
    config: TrainConfig, tmp_path: Path
) -> None:
    def answers(folder: Path) -> list[str]:
        changed = replace(config, backbone=str(folder))
        prepared = prepare(changed)
        assert prepared.dev is not None
        adapted = load_adapted(prepared.backbone, (), changed, torch.device("cpu"))
        adapted.model.eval()
        return greedy_texts(adapted, prepared.dev.examples, prepared.tokenizer.decoder, 6)

    plain = Path(config.backbone)
    copy = shutil.copytree(plain, tmp_path / "copy")
    settings = {"no_repeat_ngram_size": 1, "forced_eos_token_id": 1, "suppress_tokens": [5, 6, 7]}
    settings |= {"repetition_penalty": 9.0, "num_beams": 3, "min_new_tokens": 6}
    (copy / "generation_config.json").write_text(json.dumps(settings))
    assert answers(copy) == answers(plain)
