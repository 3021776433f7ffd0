from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.dense import convert_dense
from jumplora_adapters.convert.draft import Draft
from jumplora_adapters.convert.prune import prune
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.format import read_adapter

Q = "encoder.block.0.layer.0.SelfAttention.q"
V = "decoder.block.1.layer.1.EncDecAttention.v"


def _save(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, path)
    return path


def test_zeros_are_dropped_and_the_rest_is_exact(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(backbone.targets[Q], generator=generator)
    dense[dense.abs() < 1] = 0
    file = _save(tmp_path / "delta.safetensors", {f"{Q}.weight": dense, V: dense.bfloat16()})
    converted = convert_dense(file, tmp_path / "a.safetensors", draft, backbone)
    manifest = converted.manifest
    assert (manifest.kind, manifest.method, manifest.rank) == ("masked", "dense", None)
    assert manifest.targets == (Q, V)
    deltas = read_adapter(converted.path, backbone).deltas
    assert torch.equal(deltas[Q].to_dense(), dense)
    assert torch.equal(deltas[V].to_dense(), dense.bfloat16().float())
    assert converted.nonzeros == 2 * int((dense != 0).sum())


def test_density_keeps_the_largest_of_each_module(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    small = torch.randn(backbone.targets[Q], generator=generator) * 0.01
    large = torch.randn(backbone.targets[V], generator=generator)
    file = _save(tmp_path / "delta.safetensors", {Q: small, V: large})
    converted = convert_dense(file, tmp_path / "a.safetensors", draft, backbone, density=0.25)
    assert converted.manifest.method == "magnitude"
    assert converted.manifest.density == {Q: 0.25, V: 0.25}
    assert converted.manifest.training["pruned_to_density"] == 0.25


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        pytest.param({"shared.weight": torch.ones(4, 4)}, "none of", id="foreign"),
        pytest.param({Q: torch.ones(4, 4)}, r"is \(4, 4\), expected \(32, 32\)", id="shape"),
        pytest.param({Q: torch.ones(32, 32).int()}, "floating point is expected", id="integers"),
        pytest.param({Q: torch.full((32, 32), torch.inf)}, "NaN or infinity", id="infinite"),
        pytest.param({Q: torch.full((32, 32), 1e6)}, "float16", id="out of range"),
        pytest.param(
            {Q: torch.ones(32, 32), f"{Q}.weight": torch.ones(32, 32)}, "two tensors", id="twice"
        ),
        pytest.param({}, "no module at all", id="empty"),
    ],
)
def test_refused(
    tensors: dict[str, Any], message: str, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    file = _save(tmp_path / "delta.safetensors", tensors)
    out = tmp_path / "a.safetensors"
    with pytest.raises(ConvertError, match=message):
        convert_dense(file, out, draft, backbone, dtype=torch.float16)
    assert not out.exists()


@given(
    values=st.lists(st.integers(-3, 3), min_size=6, max_size=6),
    density=st.floats(0.01, 1.0),
)
def test_prune_keeps_as_many_as_asked_none_smaller_than_what_goes(
    values: list[int], density: float
) -> None:
    dense = torch.tensor(values, dtype=torch.float32).view(2, 3)
    pruned = prune(dense, density)
    kept = round(density * 6)
    ranked = sorted((abs(value) for value in values), reverse=True)
    assert sorted(pruned.abs().flatten().tolist(), reverse=True) == pytest.approx(
        ranked[:kept] + [0] * (6 - kept)
    )
    changed = pruned != dense
    assert not pruned[changed].any()


def test_prune_breaks_ties_in_row_major_order() -> None:
    pruned = prune(torch.tensor([[1.0, -2.0, 2.0], [2.0, 0.0, -2.0]]), 0.5)
    assert pruned.tolist() == [[0.0, -2.0, 2.0], [2.0, 0.0, 0.0]]


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5, float("nan")])
def test_prune_refuses_other_densities(density: float) -> None:
    with pytest.raises(ConvertError, match="above 0 and at most 1"):
        prune(torch.ones(2, 2), density)
