"""A continual run of a few seconds, on a random T5."""

from __future__ import annotations

from pathlib import Path

import pytest

from continual_data import short_run, write_benchmark
from factories import tiny_t5
from jumplora_adapters.continual.config import ContinualConfig


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_t5(tmp_path_factory.mktemp("backbone"), layers=1, seed=3)


@pytest.fixture
def config(tmp_path: Path, backbone_folder: Path) -> ContinualConfig:
    """Three tasks of 8 steps each, gated, a few seconds of work."""
    return short_run(
        backbone_folder,
        write_benchmark(tmp_path / "data"),
        tmp_path / "run",
        order="mood,medium,place",
    )
