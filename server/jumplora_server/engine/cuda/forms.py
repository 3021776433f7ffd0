"""The forms a module's delta takes on a GPU: which one, and how it is laid into a slot's pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from jumplora_adapters.delta import CombinedDelta, Delta, LowRankDelta, SparseDelta
from jumplora_adapters.format import Adapter
from jumplora_server.engine.cuda.factored import GatedFactors, threshold_of, try_factor
from jumplora_server.engine.cuda.pool import Pool, view
from jumplora_server.engine.cuda.record import Record
from jumplora_server.engine.delta import Phase, is_overranked

Resident = Literal["packed", "factored"]
"""What a masked delta with factors is kept as: 4 bytes a non-zero, or what a LoRA takes."""

MAX_PACKED_COLUMNS: Final = 1 << 16  # columns are 16-bit numbers


@dataclass(frozen=True, slots=True, eq=False)
class DeviceForm:
    """One module's delta in a slot."""

    record: Record
    shape: tuple[int, int]
    nbytes: int  # of its arrays in the pool
    pool: Tensor  # uint8, the slot's

    def product(self, x: Tensor, phase: Phase) -> Tensor:
        """x [n, d_in] float32 -> x D^T [n, d_out] float32, for dense and low-rank forms.

        The many tokens of an encode go through the library's products; the kernels leave them out.
        """
        d_out, d_in = self.shape
        record = self.record
        if record.form == "low rank":
            a = view(self.pool, record.first, (record.rank, d_in), torch.float32)
            b = view(self.pool, record.second, (d_out, record.rank), torch.float32)
            return x @ a.t() @ b.t()
        assert record.form == "dense", record.form
        return x @ view(self.pool, record.third, self.shape, record.values).float().t()


def form_of(delta: Delta) -> Literal["packed", "dense", "low rank"]:
    """The form of a delta that is not factored: the one of the fewest bytes."""
    if isinstance(delta, LowRankDelta):
        return "dense" if is_overranked(delta) else "low rank"
    if isinstance(delta, CombinedDelta):
        return "dense"
    d_out, d_in = delta.shape
    size = delta.values.element_size()
    packed = 4 * (d_out + 1) + (2 + size) * delta.nnz
    if d_in > MAX_PACKED_COLUMNS or packed > d_out * d_in * size:
        return "dense"
    return "packed"


def factor_all(adapter: Adapter, device: torch.device) -> dict[str, GatedFactors]:
    """The modules of an adapter that have a factored form, off the engine's path."""
    manifest = adapter.manifest
    if manifest.alpha is None or not manifest.rank or not manifest.thresholds:
        return {}
    found: dict[str, GatedFactors] = {}
    for module, (factor_a, factor_b) in adapter.factors.items():
        delta = adapter.deltas[module]
        tau = threshold_of(module, manifest.thresholds)
        if tau is None or not isinstance(delta, SparseDelta):
            continue
        scale = manifest.alpha / manifest.rank
        factors = try_factor(delta, factor_a, factor_b, tau=tau, scale=scale, device=device)
        if factors is not None:
            found[module] = factors
    return found


def place(pool: Pool, delta: Delta, factors: GatedFactors | None) -> Record:
    """Put one module's arrays into a pool."""
    if factors is not None:
        return Record(
            form="factored",
            values=factors.dtype,
            first=pool.place(factors.A),
            second=pool.place(factors.B),
            third=pool.place(factors.exceptions),
            exceptions=factors.exceptions.numel(),
            rank=factors.A.shape[0],
            tau=factors.tau,
            scale=factors.scale,
        )
    form = form_of(delta)
    if not isinstance(delta, SparseDelta) and form == "dense":
        dense = delta.to_dense(torch.float32)
        return Record(form=form, values=torch.float32, third=pool.place(dense))
    if isinstance(delta, LowRankDelta):
        return Record(
            form=form,
            values=torch.float32,
            first=pool.place(delta.A.float()),
            second=pool.place(delta.B.float()),
            rank=delta.rank,
        )
    assert isinstance(delta, SparseDelta), "a sum of both parts is dense"
    dtype = delta.values.dtype
    if form == "dense":
        return Record(form=form, values=dtype, third=pool.place(delta.to_dense(dtype)))
    offsets, columns = delta.csr()
    return Record(
        form=form,
        values=dtype,
        first=pool.place(offsets),
        second=pool.place(columns.to(torch.uint16)),
        third=pool.place(delta.values),
    )
