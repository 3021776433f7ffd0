"""A tiny task: which of two words is in the text, on a random T5."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from factories import tiny_t5
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.training.config import Lengths, Optimisation, TrainConfig


def write_rows(path: Path, count: int, seed: int) -> Path:
    chooser = random.Random(seed)
    lines = []
    for _ in range(count):
        label = chooser.choice(["yes", "no"])
        words = chooser.choices(["film", "book", "river", "city"], k=chooser.randint(1, 4))
        words.insert(chooser.randrange(len(words) + 1), "good" if label == "yes" else "bad")
        lines.append(json.dumps({"text": " ".join(words), "label": label}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_t5(tmp_path_factory.mktemp("backbone"), layers=1, seed=3)


@pytest.fixture
def config(tmp_path: Path, backbone_folder: Path) -> TrainConfig:
    """24 rows in 3 epochs of 4 steps, gated, about a second of work."""
    return TrainConfig(
        backbone=str(backbone_folder),
        task="tiny",
        train=write_rows(tmp_path / "train.jsonl", 24, seed=1),
        dev=write_rows(tmp_path / "dev.jsonl", 10, seed=2),
        test=write_rows(tmp_path / "test.jsonl", 6, seed=3),
        out=tmp_path / "tiny.safetensors",
        prompt=PromptSpec(template="{text} {options}:", options=("yes", "no")),
        rank=2,
        optimisation=Optimisation(learning_rate=0.01, epochs=3, batch_size=6),
        lengths=Lengths(source=64, target=4),
        threads=1,
        device="cpu",
    )
