"""Odd checkpoint folders: what is served, trained and named is what transformers loads."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from decoding import load_reference, make_sequence, run
from jumplora_adapters.architecture import read_architecture
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.checkpoint import open_checkpoint
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.network import parameters
from jumplora_adapters.training.adapt import load_adapted
from jumplora_adapters.training.config import TrainConfig
from jumplora_server.core import Kernels, Sampling
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import why_unavailable
from jumplora_server.engine.weights import StoredTensors
from odd_checkpoints import CASES, SHARED, SINGLE, V10, OddCheckpoint

PROMPTS = ((40, 17, 120, 260, 1), (9, 1))
LENGTH = 8
native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A folder as our reader finds it and as transformers loads it, in float32."""

    backbone: Backbone
    theirs: Any


@pytest.fixture(scope="module", params=CASES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = CASES[request.param].write(tmp_path_factory.mktemp("odd") / "checkpoint")
    return Loaded(read_backbone(folder), load_reference(folder))


def test_every_parameter_has_the_same_values(loaded: Loaded) -> None:
    ours = StoredTensors(loaded.backbone.checkpoint)
    theirs = loaded.theirs.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name].float(), theirs[name])] == []


def test_the_embedding_under_any_of_its_names(tmp_path: Path) -> None:
    """Each of the four names is absent, or has one of two values."""
    from transformers import AutoModelForSeq2SeqLM

    folder = OddCheckpoint(plain=V10).write(tmp_path)
    known = parameters(read_architecture(folder))
    weights = load_file(folder / SINGLE)
    one = weights.pop(SHARED)
    other = one + 1
    for values in itertools.product((None, one, other), repeat=4):
        named = {name: v for name, v in zip(known.tied, values, strict=True) if v is not None}
        if next(iter(named.values()), other) is other:
            continue  # nothing there, or a file like another one with its values swapped
        save_file({**weights, **{name: v.clone() for name, v in named.items()}}, folder / SINGLE)
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
        ours, theirs = StoredTensors(open_checkpoint(folder, known)), model.state_dict()
        wrong = [n for n in known.tied if not torch.equal(ours[n], theirs[n])]
        assert wrong == [], named


@pytest.mark.parametrize("kernels", [pytest.param("native", marks=native), "torch"])
def test_the_same_tokens_are_generated(loaded: Loaded, kernels: Kernels) -> None:
    engine = Engine(
        loaded.backbone.path, max_rows=2, max_source_tokens=16, max_target_tokens=LENGTH,
        kernels=kernels,
    )  # fmt: skip
    sampling = Sampling(max_new_tokens=LENGTH)
    rows = [make_sequence(ids, row=i, sampling=sampling) for i, ids in enumerate(PROMPTS)]
    expected = [
        loaded.theirs.generate(torch.tensor([ids]), max_new_tokens=LENGTH, use_cache=False)[
            0, 1:
        ].tolist()
        for ids in PROMPTS
    ]
    assert run(engine, rows) == expected


def test_the_same_weights_are_trained(loaded: Loaded) -> None:
    nowhere = Path("unused")
    config = TrainConfig(
        backbone=str(loaded.backbone.path), task="odd", train=nowhere, dev=nowhere, test=None,
        out=nowhere, prompt=PromptSpec(template="{text}"), rank=2,
    )  # fmt: skip
    adapted = load_adapted(loaded.backbone, (), config, torch.device("cpu"))
    ids = torch.tensor([[40, 17, 120, 260, 1]])
    inputs = {"input_ids": ids, "decoder_input_ids": ids}
    with adapted.serving({}), torch.inference_mode():
        assert torch.equal(adapted.model(**inputs).logits, loaded.theirs(**inputs).logits)


def test_the_fingerprint_is_that_of_the_model_saved_plainly(loaded: Loaded, tmp_path: Path) -> None:
    loaded.theirs.save_pretrained(tmp_path)
    shutil.copy(loaded.backbone.path / "tokenizer.json", tmp_path)
    assert read_backbone(tmp_path).fingerprint == loaded.backbone.fingerprint
