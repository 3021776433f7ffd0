"""Deltas in the layout that the kernels read, and the table of a slot that points at them."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from jumplora_adapters.delta import CombinedDelta, Delta, LowRankDelta, SparseDelta
from jumplora_adapters.format import Adapter
from jumplora_server.engine.bank import PackedAdapter, packed
from jumplora_server.engine.delta import DENSE_ABOVE, is_filled, is_overranked
from jumplora_server.engine.native.layout import LANES, MAX_MODULES, DeltaKind, DeltaStruct
from jumplora_server.engine.native.weights import PackedWeight, pack_float

_VALUE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class NativeForm(Protocol):
    """One module's delta, ready to be applied, or the weight that a trunk has for it."""

    @property
    def nbytes(self) -> int: ...

    def struct(self) -> DeltaStruct:
        """The kernels' view; valid as long as this form lives."""


@dataclass(frozen=True, slots=True)
class SparseForm:
    """Compressed rows: 2 bytes a column, and the value as the adapter's file has it."""

    offsets: Tensor  # int32 [d_out + 1]
    columns: Tensor  # uint16 [nnz]
    values: Tensor  # [nnz] float32, float16 or bfloat16

    @property
    def nbytes(self) -> int:
        """Resident bytes."""
        return self.offsets.nbytes + self.columns.nbytes + self.values.nbytes

    def struct(self) -> DeltaStruct:
        """The kernels' view."""
        return DeltaStruct(
            kind=DeltaKind.SPARSE,
            value_type=_VALUE_TYPES[self.values.dtype],
            offsets=self.offsets.data_ptr(),
            columns=self.columns.data_ptr(),
            values=self.values.data_ptr(),
        )


@dataclass(frozen=True, slots=True)
class DenseForm:
    """The whole matrix in float32 panels."""

    panels: Tensor

    @property
    def nbytes(self) -> int:
        """Resident bytes."""
        return self.panels.nbytes

    def struct(self) -> DeltaStruct:
        """The kernels' view."""
        return DeltaStruct(kind=DeltaKind.DENSE, values=self.panels.data_ptr())


@dataclass(frozen=True, slots=True)
class LowRankForm:
    """An imported LoRA's factors in float32."""

    a: Tensor  # A [rank, d_in], its rows filled up to whole vectors
    b: Tensor  # panels of B [d_out, rank]
    rank: int

    @property
    def nbytes(self) -> int:
        """Resident bytes."""
        return self.a.nbytes + self.b.nbytes

    def struct(self) -> DeltaStruct:
        """The kernels' view."""
        return DeltaStruct(
            kind=DeltaKind.LOW_RANK, rank=self.rank, a=self.a.data_ptr(), b=self.b.data_ptr()
        )


@dataclass(frozen=True, slots=True)
class CombinedForm:
    """Compressed rows, and the factors of a low-rank part beside them."""

    sparse: SparseForm
    lowrank: LowRankForm

    @property
    def nbytes(self) -> int:
        """Resident bytes."""
        return self.sparse.nbytes + self.lowrank.nbytes

    def struct(self) -> DeltaStruct:
        """The kernels' view."""
        both, factors = self.sparse.struct(), self.lowrank.struct()
        both.kind = DeltaKind.SPARSE | DeltaKind.LOW_RANK
        both.rank, both.a, both.b = factors.rank, factors.a, factors.b
        return both


@dataclass(frozen=True, slots=True)
class TrunkForm:
    """A merged weight in the backbone's own form."""

    weight: PackedWeight

    @property
    def nbytes(self) -> int:
        """Resident bytes."""
        return self.weight.nbytes

    def struct(self) -> DeltaStruct:
        """The kernels' view."""
        scales = self.weight.scales
        return DeltaStruct(
            kind=DeltaKind.TRUNK,
            values=self.weight.panels.data_ptr(),
            b=None if scales is None else scales.data_ptr(),
        )


def make_form(delta: Delta, library: ctypes.CDLL) -> NativeForm:
    """The cheapest form of a delta."""
    if isinstance(delta, CombinedDelta) and not is_filled(delta):
        return CombinedForm(sparse_form(delta.sparse, library), low_rank_form(delta.lowrank))
    if isinstance(delta, LowRankDelta) and not is_overranked(delta):
        return low_rank_form(delta)
    if not isinstance(delta, SparseDelta) or delta.density > DENSE_ABOVE:
        return DenseForm(pack_float(delta.to_dense(torch.float32)))
    return sparse_form(delta, library)


def low_rank_form(delta: LowRankDelta) -> LowRankForm:
    """The factors as the kernels read them."""
    rank, d_in = delta.A.shape
    rows = torch.zeros(rank, -(-d_in // LANES) * LANES)
    rows[:, :d_in] = delta.A
    return LowRankForm(rows, pack_float(delta.B.float()), delta.rank)


def _rank(form: NativeForm) -> int:
    if isinstance(form, CombinedForm):
        return form.lowrank.rank
    return form.rank if isinstance(form, LowRankForm) else 0


def sparse_form(delta: SparseDelta, library: ctypes.CDLL) -> SparseForm:
    """Compressed rows of a masked delta."""
    d_out, d_in = delta.shape
    offsets = torch.empty(d_out + 1, dtype=torch.int32)
    columns = torch.empty(delta.nnz, dtype=torch.uint16)
    found = library.jl_unpack_mask(
        delta.mask.data_ptr(), d_out, d_in, offsets.data_ptr(), columns.data_ptr()
    )
    assert found == delta.nnz, "the mask was checked against its values when it was read"
    return SparseForm(offsets, columns, delta.values.contiguous())


@dataclass(frozen=True, slots=True)
class NativeAdapter(PackedAdapter[NativeForm]):
    """An adapter and its table, through which the kernels find each module's delta."""

    table: ctypes.Array[DeltaStruct]
    is_trunk: bool  # then it has weights, not deltas
    targeted: int  # a bit for each module that it has
    inner: int  # numbers that an operation computes for one row on its way: x A^T of its modules

    @property
    def address(self) -> int:
        """Where the table lies."""
        return ctypes.addressof(self.table)


def pack_native(adapter: Adapter, sites: Mapping[str, int], library: ctypes.CDLL) -> NativeAdapter:
    """Bring an adapter into the kernels' forms; any thread.

    Args:
        sites: the backbone's linear layers with their places in a table.
    """
    return with_table(packed(adapter, lambda delta: make_form(delta, library)), sites)


def with_table(plain: PackedAdapter[NativeForm], sites: Mapping[str, int]) -> NativeAdapter:
    """Enter forms into a table with a place for each of `sites`."""
    table = (DeltaStruct * len(sites))()
    targeted = 0
    for name, form in plain.forms.items():
        table[sites[name]] = form.struct()
        targeted |= 1 << sites[name]
    inner = MAX_MODULES * max(map(_rank, plain.forms.values()), default=0)
    return NativeAdapter(
        plain.version,
        plain.forms,
        plain.nbytes,
        plain.nnz,
        plain.density,
        table,
        is_trunk=any(isinstance(form, TrunkForm) for form in plain.forms.values()),
        targeted=targeted,
        inner=inner,
    )
