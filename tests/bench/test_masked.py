"""Random adapters: density, union of a lineage, values that a file may hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from factories import toy_backbone
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.delta import SparseDelta
from jumplora_adapters.format import read_adapter
from jumplora_bench.backbone import write_backbone
from jumplora_bench.masked import Family, draw, draw_family, pool_share, union_density
from jumplora_bench.published import write_random

WIDE = toy_backbone({"encoder.block.0.layer.0.SelfAttention.q": (400, 500)})


@pytest.mark.parametrize(
    ("slots", "density", "union", "expected"),
    [
        pytest.param(4, 0.124, 0.4111, 1.0, id="independent supports come out so"),
        pytest.param(15, 0.051, 0.5440, 1.0, id="fifteen of 5.1 %"),
        pytest.param(2, 0.25, 0.375, 0.5, id="0.5 (1 - 0.5^2)"),
        pytest.param(3, 0.1, 0.1, 0.1, id="all the same entries"),
        pytest.param(2, 0.1, 0.9, 1.0, id="more than two can keep"),
    ],
)
def test_pool_share(slots: int, density: float, union: float, expected: float) -> None:
    assert pool_share(slots, density, union) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("density", "union"), [(0.124, 0.41), (0.124, 0.25)], ids=["independent", "overlapping"]
)
def test_a_familys_lineage_keeps_the_union_that_was_asked_for(density: float, union: float) -> None:
    drawn = draw_family(WIDE, Family(ancestors=3, leaves=2, density=density, union=union), seed=5)
    assert len(drawn) == 5
    supports = [
        {name: d for name, d in adapter.deltas.items() if isinstance(d, SparseDelta)}
        for adapter in drawn
    ]
    for deltas in supports:
        for delta in deltas.values():
            delta.check()
            assert delta.values.dtype == torch.bfloat16
            assert delta.density == pytest.approx(density, abs=0.01)
    for leaf in supports[3:]:
        assert union_density([*supports[:3], leaf]) == pytest.approx(union, abs=0.01)


def test_seeds_differ_and_repeat() -> None:
    name = next(iter(WIDE.targets))
    first, again, other = (draw(WIDE, "t", density=0.1, seed=s).deltas[name] for s in (1, 1, 2))
    assert isinstance(first, SparseDelta)
    assert isinstance(again, SparseDelta)
    assert isinstance(other, SparseDelta)
    assert first.digest() == again.digest() != other.digest()


def test_a_written_one_is_read_with_all_checks(tmp_path: Path) -> None:
    backbone = read_backbone(write_backbone(tmp_path / "backbone", "tiny"))
    file = write_random(tmp_path / "a.safetensors", backbone, "task", density=0.1, seed=3)
    adapter = read_adapter(file, backbone)
    assert adapter.manifest.task == "task"
    assert set(adapter.deltas) == set(backbone.targets)
