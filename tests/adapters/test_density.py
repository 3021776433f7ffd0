"""One density for modules of different sizes: the share of all entries."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from factories import Style, random_adapter, tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.delta import SparseDelta
from jumplora_adapters.density import density_of, pooled_density
from jumplora_adapters.format import describe
from jumplora_adapters.manifest import Manifest
from jumplora_adapters.network import HEAD


@pytest.fixture(scope="module", params=["v1.0", "umt5"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    style: Style = request.param
    return read_backbone(tiny_t5(tmp_path_factory.mktemp("backbone"), style=style, layers=1))


def uneven(backbone: Backbone) -> tuple[Manifest, float]:
    """An adapter whose head keeps every entry and whose other modules keep few, and its share."""
    manifest, deltas = random_adapter(backbone, targets=list(backbone.sites))
    deltas[HEAD] = SparseDelta.from_dense(torch.ones(backbone.sites[HEAD].shape), torch.float32)
    entries = [delta.to_dense() for delta in deltas.values()]
    kept = sum(int((dense != 0).sum()) for dense in entries)
    expected = kept / sum(dense.numel() for dense in entries)
    assert pooled_density(deltas) == pytest.approx(expected)
    return describe(manifest, deltas), expected


def test_a_large_module_counts_for_more(backbone: Backbone) -> None:
    manifest, expected = uneven(backbone)
    mean = sum(manifest.density.values()) / len(manifest.density)
    assert density_of(manifest) == pytest.approx(expected)
    assert expected > 2 * mean


@pytest.mark.parametrize(
    "architecture",
    [{}, {"model_type": "bert"}, {"model_type": "t5", "d_model": "wide"}, {"model_type": "t5"},
     {"model_type": "t5", "num_layers": 10**9}],
    ids=str,
)  # fmt: skip
def test_where_shapes_are_not_known_modules_count_alike(
    backbone: Backbone, architecture: dict[str, Any]
) -> None:
    """A stranger's manifest may name any architecture."""
    manifest, _ = uneven(backbone)
    density = {f"{name}.other": share for name, share in manifest.density.items()}
    ref = manifest.backbone.model_copy(update={"architecture": architecture})
    odd = manifest.model_copy(update={"backbone": ref, "density": density})
    assert density_of(odd) == pytest.approx(sum(density.values()) / len(density))


def test_without_densities_there_is_none(backbone: Backbone) -> None:
    manifest, _ = random_adapter(backbone)
    assert density_of(manifest.model_copy(update={"density": {}})) is None
