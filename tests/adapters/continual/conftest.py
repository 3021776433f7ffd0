"""A continual run of a few seconds, on a random T5."""

from __future__ import annotations

from pathlib import Path

import pytest

from continual_data import write_benchmark
from factories import tiny_t5
from jumplora_adapters.continual.config import ContinualConfig
from jumplora_adapters.training.config import GateConfig, Lengths, Optimisation


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_t5(tmp_path_factory.mktemp("backbone"), layers=1, seed=3)


@pytest.fixture
def config(tmp_path: Path, backbone_folder: Path) -> ContinualConfig:
    """Three tasks of 8 steps each, gated, a few seconds of work."""
    return ContinualConfig(
        backbone=str(backbone_folder),
        data=write_benchmark(tmp_path / "data"),
        order="mood,medium,place",
        method="inclora",
        out=tmp_path / "run",
        gate=GateConfig(),
        rank=2,
        optimisation=Optimisation(learning_rate=0.02, epochs=2, batch_size=6),
        lengths=Lengths(source=64, target=4),
        threads=1,
        device="cpu",
    )
