"""What is said of a packed adapter: its size, its values, its density."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from factories import random_adapter, toy_backbone
from jumplora_adapters.density import density_of
from jumplora_adapters.format import read_adapter, write_adapter
from jumplora_server.engine.bank import packed


@dataclass(frozen=True)
class Form:
    """A form of a known size."""

    nbytes: int


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "masked", "density": 0.1},
        {"kind": "masked", "density": 0.7},
        {"kind": "lowrank"},
        {"kind": "combined"},
    ],
    ids=str,
)
def test_the_density_is_the_one_of_the_manifest(options: dict[str, Any], tmp_path: Path) -> None:
    backbone = toy_backbone()
    manifest, deltas = random_adapter(backbone, task="a", seed=1, **options)
    write_adapter(tmp_path / "a.safetensors", manifest, deltas)
    adapter = read_adapter(tmp_path / "a.safetensors", backbone)
    made = packed(adapter, lambda delta: Form(delta.nnz))
    assert made.density == pytest.approx(density_of(adapter.manifest) or 0.0)
    assert made.nnz == made.nbytes == sum(delta.nnz for delta in deltas.values())
    assert manifest.kind != "lowrank" or made.density == 1.0
