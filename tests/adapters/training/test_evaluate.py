"""Batched greedy decoding against one example at a time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForSeq2SeqLM

from jumplora_adapters.errors import BackboneError
from jumplora_adapters.training.adapt import load_adapted
from jumplora_adapters.training.config import Lengths, TrainConfig
from jumplora_adapters.training.evaluate import evaluate, greedy_texts
from jumplora_adapters.training.fit import Fit, StepReport
from jumplora_adapters.training.options import option_scores
from jumplora_adapters.training.train import prepare
from jumplora_adapters.training.work_folder import work_folder


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


def changed_backbone(config: TrainConfig, folder: Path, **generation: object) -> TrainConfig:
    copy = shutil.copytree(config.backbone, folder / "copy")
    (copy / "generation_config.json").write_text(json.dumps(generation))
    return replace(config, backbone=str(copy))


def test_answers_start_and_end_where_the_folder_says(config: TrainConfig, tmp_path: Path) -> None:
    ends = [1, *range(40, 512, 3)]
    changed = changed_backbone(
        config, tmp_path, decoder_start_token_id=77, eos_token_id=ends, do_sample=True, top_k=3
    )
    prepared = prepare(changed)
    examples = prepared.train.examples
    adapted = load_adapted(prepared.backbone, (), changed, torch.device("cpu"))
    adapted.model.eval()
    got = greedy_texts(adapted, examples, prepared.tokenizer.decoder, 6)
    whole = AutoModelForSeq2SeqLM.from_pretrained(changed.backbone).eval()
    lengths = set()
    for text, example in zip(got, examples, strict=True):
        source = torch.tensor([example.source])
        ids = whole.generate(
            source,
            attention_mask=torch.ones_like(source),
            max_new_tokens=6,
            do_sample=False,
            pad_token_id=0,
        )[0].tolist()
        assert ids[0] == 77
        answer = ids[1:-1] if ids[-1] in ends else ids[1:]
        lengths.add(len(answer))
        assert text == prepared.tokenizer.decoder.decode(answer)
    assert len(lengths) > 1


def test_training_teaches_from_the_token_that_answers_start_with(
    config: TrainConfig, tmp_path: Path
) -> None:
    """The loss of a step, and the scores of options, against transformers' own forward pass."""
    changed = changed_backbone(config, tmp_path, decoder_start_token_id=77, eos_token_id=[9, 1])
    prepared = prepare(changed)
    example = prepared.train.examples[0]
    assert example.target[-1] == 1, "the tokenizer's end token, not the first of the folder's"
    adapted = load_adapted(prepared.backbone, (), changed, torch.device("cpu"))
    adapted.model.eval()
    whole = AutoModelForSeq2SeqLM.from_pretrained(changed.backbone).eval()
    with torch.inference_mode():
        logits = whole(
            input_ids=torch.tensor([example.source]),
            decoder_input_ids=torch.tensor([[77, *example.target[:-1]]]),
        ).logits[0]
    expected = functional.cross_entropy(logits, torch.tensor(example.target), reduction="sum")
    scores = option_scores(adapted, [example.source], torch.tensor([example.target]))
    torch.testing.assert_close(scores, -expected.view(1, 1), atol=1e-4, rtol=1e-4)
    reports: list[StepReport] = []
    with work_folder(changed.work_folder):
        Fit(adapted, changed, None, 1, [example], identity="one", score=None).run(reports.append)
    assert reports[0].loss == pytest.approx(float(expected) / len(example.target), rel=1e-4)


def test_a_folder_that_asks_for_penalties_is_not_trained_for(
    config: TrainConfig, tmp_path: Path
) -> None:
    changed = changed_backbone(
        config, tmp_path, decoder_start_token_id=0, eos_token_id=1, repetition_penalty=9.0
    )
    with pytest.raises(BackboneError, match=r"repetition_penalty is 9\.0"):
        prepare(changed)
