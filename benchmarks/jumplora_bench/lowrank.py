"""Random LoRA adapters for every linear layer of the blocks, as PEFT's "all-linear" makes them."""

from __future__ import annotations

import torch

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.delta import LowRankDelta
from jumplora_adapters.format import Adapter, describe
from jumplora_adapters.manifest import Manifest
from jumplora_adapters.network import HEAD

_SHARE = 0.1  # of a layer's output that its delta makes: activations stay as they are


def draw_all_linear(backbone: Backbone, task: str, *, rank: int, seed: int) -> Adapter:
    """One adapter in float32. The head has none, because PEFT leaves it out."""
    generator = torch.Generator().manual_seed(seed)
    names = tuple(name for name, site in backbone.sites.items() if site.role != HEAD)
    deltas = {}
    for name in names:
        d_out, d_in = backbone.sites[name].shape
        deltas[name] = LowRankDelta(
            A=torch.randn(rank, d_in, generator=generator) * d_in**-0.5,
            B=torch.randn(d_out, rank, generator=generator) * (_SHARE * rank**-0.5),
        )
    manifest = Manifest(
        kind="lowrank",
        task=task,
        backbone=backbone.ref(),
        targets=names,
        rank=rank,
        alpha=float(rank),
        method="random",
        created="2026-01-01T00:00:00Z",
    )
    return Adapter(describe(manifest, deltas), deltas, f"{task}-{seed}")
