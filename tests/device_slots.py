"""Slots of a GPU runner's kind for tests: one module, random deltas, on a GPU if any."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from factories import toy_backbone
from jumplora_adapters.delta import Delta, LowRankDelta, SparseDelta
from jumplora_adapters.format import Adapter
from jumplora_adapters.manifest import Manifest
from jumplora_server.engine.cuda.factored import GatedFactors
from jumplora_server.engine.cuda.slot import DeviceAdapter, load
from jumplora_server.engine.cuda.upload import Uploader

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MODULE = "module"
MODULES = {"another": 0, MODULE: 1}


def sparse(
    shape: tuple[int, int], density: float, *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> SparseDelta:
    """Random support and values."""
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(shape, generator=generator) < density
    return SparseDelta.from_dense(torch.randn(shape, generator=generator) * keep, dtype)


def low_rank(shape: tuple[int, int], rank: int = 3, seed: int = 0) -> LowRankDelta:
    """Random factors."""
    generator = torch.Generator().manual_seed(seed)
    return LowRankDelta(
        A=torch.randn(rank, shape[1], generator=generator),
        B=torch.randn(shape[0], rank, generator=generator),
    )


def factor_pair(shape: tuple[int, int], rank: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random A [rank, d_in] and B [d_out, rank]."""
    delta = low_rank(shape, rank, seed)
    return delta.A, delta.B


def adapter_of(
    deltas: Mapping[str, Delta],
    *,
    factors: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    thresholds: Mapping[str, float] | None = None,
    rank: int | None = None,
    alpha: float | None = None,
) -> Adapter:
    """An adapter in memory; what its manifest says beyond the arguments is made up."""
    is_low_rank = any(isinstance(delta, LowRankDelta) for delta in deltas.values())
    manifest = Manifest(
        kind="lowrank" if is_low_rank else "masked",
        task="task",
        backbone=toy_backbone().ref(),
        targets=tuple(deltas) or (MODULE,),
        rank=64 if rank is None else rank,
        alpha=alpha,
        thresholds=dict(thresholds) if thresholds else None,
        method="random",
    )
    return Adapter(manifest, MappingProxyType(dict(deltas)), "0" * 64, factors or {})


def slot_of(
    delta: Delta | None, factors: GatedFactors | None = None, device: torch.device = DEVICE
) -> DeviceAdapter:
    """A slot that holds one delta for MODULE, or factors alone, or nothing."""
    found = {} if factors is None else {MODULE: factors}
    if delta is None and factors is not None:
        delta = sparse((factors.B.shape[0], factors.A.shape[1]), 0.0)
    deltas = {} if delta is None else {MODULE: delta}
    return load(adapter_of(deltas), MODULES, found, Uploader(device))


def dense_of(delta: Delta | None, shape: tuple[int, int]) -> Tensor:
    """The delta's matrix in float64."""
    return torch.zeros(shape).double() if delta is None else delta.to_dense().double()
