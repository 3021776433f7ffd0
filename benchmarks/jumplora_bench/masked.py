"""Random masked adapters: independent supports, or families whose supports overlap as wanted.

Values are bfloat16, as a trained adapter is published. Timing depends on how many entries there are
and where, not on what they say, so random ones measure as trained ones of the same density would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.delta import Delta, SparseDelta, count_bits, pack_mask
from jumplora_adapters.format import Adapter, describe
from jumplora_adapters.manifest import Manifest, PromptSpec

_STD = 0.01  # of the values: small beside the weights, so that activations stay as they are
TURNS = 8
"""How many adapters `rolled` makes of one."""


@dataclass(frozen=True, slots=True)
class Family:
    """Adapters of one run: each of `leaves` stands on the same `ancestors`.

    A leaf's lineage has `ancestors + 1` slots, each of `density`; together they keep about `union`.
    """

    ancestors: int
    leaves: int
    density: float
    union: float

    @property
    def length(self) -> int:
        """Slots of one lineage."""
        return self.ancestors + 1


def pool_share(slots: int, density: float, union: float) -> float:
    """The share of all entries that supports are drawn from, so that their union is `union`.

    Independent draws of `density` from a share p of the entries have the union
    p (1 - (1 - density / p)^slots), which rises with p. 1 where even that stays below `union`.
    """
    low, high = density, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if middle * (1 - (1 - density / middle) ** slots) < union:
            low = middle
        else:
            high = middle
    return high


def draw(
    backbone: Backbone,
    task: str,
    *,
    density: float,
    seed: int,
    pool: float = 1.0,
    pool_seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    targets: Iterable[str] | None = None,
    prompt: PromptSpec | None = None,
) -> Adapter:
    """One adapter for all targets (or those given). Adapters of one `pool_seed` share the pool."""
    names = tuple(backbone.targets if targets is None else targets)
    entries, pools = np.random.default_rng([seed, 1]), np.random.default_rng([pool_seed, 2])
    deltas = {}
    for name in names:
        shape = backbone.targets[name]
        keep = entries.random(shape, dtype=np.float32) < density / pool
        if pool < 1:
            keep &= pools.random(shape, dtype=np.float32) < pool
        values = entries.standard_normal(int(keep.sum()), dtype=np.float32) * _STD
        values[values == 0] = _STD  # a stored zero would be no entry
        deltas[name] = SparseDelta(
            shape, pack_mask(torch.from_numpy(keep)), torch.from_numpy(values).to(dtype)
        )
    manifest = Manifest(
        kind="masked",
        task=task,
        backbone=backbone.ref(),
        targets=names,
        method="random",
        prompt=prompt,
        created="2026-01-01T00:00:00Z",
    )
    return Adapter(describe(manifest, deltas), deltas, f"{task}-{seed}-{density:g}")


def rolled(adapter: Adapter, turn: int) -> Adapter:
    """Another adapter of the same numbers: its matrices' rows are moved down, `turn` of TURNS.

    Random entries that have moved are as good as newly drawn ones, and cost a copy. Adapters that
    are moved alike overlap as they did before.
    """
    if turn % TURNS == 0:
        return adapter
    deltas = {name: _rolled(delta, turn) for name, delta in adapter.deltas.items()}
    return Adapter(describe(adapter.manifest, deltas), deltas, f"{adapter.digest}-turned{turn}")


def _rolled(delta: Delta, turn: int) -> SparseDelta:
    assert isinstance(delta, SparseDelta)
    d_out, d_in = delta.shape
    by = d_out * turn // TURNS
    mask = delta.mask.view(d_out, d_in // 8)  # a row is whole bytes
    moved = count_bits(mask[d_out - by :])
    values = delta.values.roll(moved)
    return SparseDelta(delta.shape, mask.roll(by, 0).flatten(), values)


def draw_family(backbone: Backbone, family: Family, *, seed: int) -> list[Adapter]:
    """The ancestors, oldest first, then the leaves."""
    pool = pool_share(family.length, family.density, family.union)

    def member(i: int) -> Adapter:
        return draw(
            backbone,
            f"family{family.length}-{i}",
            density=family.density,
            seed=seed + i,
            pool=pool,
            pool_seed=seed,
        )

    with ThreadPoolExecutor() as threads:
        return list(threads.map(member, range(family.ancestors + family.leaves)))


def union_density(lineage: Iterable[Mapping[str, SparseDelta]]) -> float:
    """Share of the entries that at least one of the lineage's deltas keeps."""
    unions: dict[str, torch.Tensor] = {}
    for deltas in lineage:
        for name, delta in deltas.items():
            mask = delta.mask
            unions[name] = unions[name] | mask if name in unions else mask.clone()
    kept = sum(int(np.unpackbits(mask.numpy()).sum()) for mask in unions.values())
    entries = sum(delta.shape[0] * delta.shape[1] for delta in deltas.values())
    return kept / entries
