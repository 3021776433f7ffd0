"""How one module's delta is applied: the forms, and the plan that applies a whole batch's.

A form is a matrix D [d_out, d_in] that computes x D^T in float32. A row's bits do not depend on its
batch mates: a library's kernel is called with the same shape in every step of a phase, because many
take another order of sums for another number of rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from jumplora_adapters.bounds import FREE_RANK
from jumplora_adapters.delta import CombinedDelta, Delta, LowRankDelta, SparseDelta
from jumplora_server.engine.linear import at_least_min_rows, make_linear
from jumplora_server.engine.trunk import TrunkForm

Phase = Literal["encode", "decode"]

# Above this density eight bytes a non-zero take more memory than four bytes an entry, and the
# dense product of a few rows is faster too (256 x 256 at 30 %: 107 against 205 us for 128 tokens,
# but 33 against 21 us for 8 rows).
DENSE_ABOVE = 0.5


class DeltaForm(Protocol):
    """A delta of one module in the form the engine applies it in."""

    @property
    def nbytes(self) -> int: ...

    def product(self, x: Tensor, phase: Phase) -> Tensor:
        """x [n, d_in] float32 -> x D^T [n, d_out] float32."""


# Rows of one sparse product. The few rows of a decode step would waste most of a wide block, which
# the many tokens of an encode use well. Eight float32 columns have no tail on any processor.
SPARSE_BLOCK: dict[Phase, int] = {"encode": 128, "decode": 8}


class CsrForm:
    """Compressed sparse rows: int32 columns and float32 values, 8 bytes a non-zero.

    On a CPU the product is an embedding-bag: rows of x^T are gathered, weighted and summed, an
    output's non-zeros one after another, in one thread. It computes blocks of `SPARSE_BLOCK` rows,
    padded with zeros, so every call has one shape and each of its columns is a lane of a full
    vector. MKL's sparse product is up to twice as fast, but its order depends on the number of
    rows, in another way on each processor. Times: server/DECISIONS.md, 2026-11-27.
    """

    def __init__(self, delta: SparseDelta, device: torch.device) -> None:
        crow, col = delta.csr()
        self._crow = crow.to(device)
        self._col = col.to(device)
        self._values = delta.values.to(device, torch.float32)
        self.nbytes = self._crow.nbytes + self._col.nbytes + self._values.nbytes
        self._matrix: Tensor | None = None  # the same memory, for cuSPARSE
        if device.type != "cpu":
            self._matrix = torch.sparse_csr_tensor(
                self._crow, self._col, self._values, size=delta.shape, check_invariants=True
            )

    def product(self, x: Tensor, phase: Phase) -> Tensor:
        """x [n, d_in] float32 -> [n, d_out] float32."""
        if self._matrix is not None:
            y: Tensor = self._matrix @ x.t()  # [d_out, n]
            return y.t()
        width = SPARSE_BLOCK[phase]
        starts = range(0, max(1, x.shape[0]), width)
        blocks = [self._block(x[start : start + width], width) for start in starts]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def _block(self, x: Tensor, width: int) -> Tensor:
        """x [n, d_in] with n <= width -> [n, d_out]."""
        rows = x.shape[0]
        table = x.new_zeros(x.shape[1], width)
        table[:, :rows] = x.t()
        bags = F.embedding_bag(
            self._col, table, self._crow[:-1], mode="sum", per_sample_weights=self._values
        )  # [d_out, width]
        return bags.t()[:rows]


class DenseForm:
    """The whole matrix in float32, for very dense deltas."""

    def __init__(self, delta: Delta, device: torch.device) -> None:
        self._linear = make_linear(delta.to_dense(torch.float32), "float32", device)
        self.nbytes = self._linear.nbytes

    def product(self, x: Tensor, phase: Phase) -> Tensor:
        """x [n, d_in] float32 -> [n, d_out] float32."""
        return self._linear(at_least_min_rows(x))[: x.shape[0]]


class LowRankForm:
    """An imported LoRA, as two skinny products; alpha / r is already folded into B."""

    def __init__(self, delta: LowRankDelta, device: torch.device) -> None:
        self._a = make_linear(delta.A, "float32", device)  # [r, d_in]
        self._b = make_linear(delta.B, "float32", device)  # [d_out, r]
        self.nbytes = self._a.nbytes + self._b.nbytes

    def product(self, x: Tensor, phase: Phase) -> Tensor:
        """x [n, d_in] float32 -> [n, d_out] float32."""
        return self._b(self._a(at_least_min_rows(x)))[: x.shape[0]]


class CombinedForm:
    """A sparse form and a low-rank one of a module that has both."""

    def __init__(self, sparse: DeltaForm, lowrank: DeltaForm) -> None:
        self._parts = (sparse, lowrank)
        self.nbytes = sparse.nbytes + lowrank.nbytes

    def product(self, x: Tensor, phase: Phase) -> Tensor:
        """x [n, d_in] float32 -> [n, d_out] float32."""
        sparse, lowrank = self._parts
        return sparse.product(x, phase) + lowrank.product(x, phase)


def make_form(delta: Delta, device: torch.device) -> DeltaForm:
    """The cheapest form of a delta."""
    if isinstance(delta, CombinedDelta) and not is_filled(delta):
        return CombinedForm(make_form(delta.sparse, device), make_form(delta.lowrank, device))
    if isinstance(delta, LowRankDelta) and not is_overranked(delta):
        return LowRankForm(delta, device)
    if not isinstance(delta, SparseDelta) or delta.density > DENSE_ABOVE:
        return DenseForm(delta, device)
    return CsrForm(delta, device)


def is_filled(delta: CombinedDelta) -> bool:
    """Whether one of the parts would be a dense matrix, so that the sum is one, too."""
    return delta.sparse.density > DENSE_ABOVE or is_overranked(delta.lowrank)


def is_overranked(delta: LowRankDelta) -> bool:
    """Whether the factors are large and take more than twice what their product takes.

    The rank that may be published does not rule it out: it is the longer side of the largest
    matrix, and that of a head is far longer than the other one.
    """
    d_out, d_in = delta.shape
    return delta.rank > FREE_RANK and delta.rank * (d_out + d_in) > 2 * d_out * d_in


def product_reference(delta: Delta, x: Tensor) -> Tensor:
    """The slow twin of every form: the dense product in float64. Used by tests."""
    return (x.double() @ delta.to_dense(torch.float32).double().t()).float()


Forms = Mapping[str, DeltaForm | TrunkForm]
"""Module name -> form, of what a slot holds: a version's own deltas, or a trunk."""


@dataclass(frozen=True, slots=True)
class DeltaPlan:
    """Which rows of a batch each slot's deltas apply to, grouped once per batch.

    `work` is ordered by position in the lineage, so that every row adds its ancestors' deltas
    oldest first, as `flatten` and the trainer do. Trunks are apart: each stands first in its
    lineage.
    """

    trunks: tuple[tuple[Mapping[str, TrunkForm], slice | Tensor], ...]
    work: tuple[tuple[Mapping[str, DeltaForm], slice | Tensor], ...]
    phase: Phase
    modules: frozenset[str]  # of `work`

    def has(self, module: str) -> bool:
        """Whether any slot has a delta of `module`."""
        return module in self.modules

    def instead(self, module: str) -> list[tuple[TrunkForm, slice | Tensor]]:
        """The trunks that have `module`, and their rows."""
        return [(forms[module], rows) for forms, rows in self.trunks if module in forms]

    def add(self, module: str, x: Tensor, y: Tensor) -> None:
        """y[rows] += x[rows] D^T for every slot that has `module`; x [n, d_in], y [n, d_out]."""
        for forms, rows in self.work:
            form = forms.get(module)
            if form is None:
                continue
            if isinstance(rows, slice):
                y[rows].add_(form.product(x[rows].float(), self.phase).to(y.dtype))
            else:
                update = form.product(x.index_select(0, rows).float(), self.phase)
                y.index_add_(0, rows, update.to(y.dtype))


def make_plan(
    lineages: Sequence[tuple[Forms, ...]],
    spans: Sequence[tuple[int, int]],
    phase: Phase,
    device: torch.device,
) -> DeltaPlan:
    """Group rows by (position in the lineage, slot).

    Args:
        lineages: per sequence the forms of its slots, oldest ancestor first; () is the backbone.
        spans: per sequence its rows [start, stop) of the batch's activations.

    Raises:
        ValueError: a trunk does not stand first in its lineage.
    """
    groups: dict[tuple[int, int], tuple[Forms, list[tuple[int, int]]]] = {}
    for lineage, span in zip(lineages, spans, strict=True):
        for position, forms in enumerate(lineage):
            groups.setdefault((position, id(forms)), (forms, []))[1].append(span)
    ordered = sorted(groups.items(), key=lambda item: item[0][0])
    trunks, work = [], []
    for (position, _), (forms, own) in ordered:
        rows = _rows(own, device)
        trunk = {name: form for name, form in forms.items() if isinstance(form, TrunkForm)}
        deltas = {name: form for name, form in forms.items() if not isinstance(form, TrunkForm)}
        if trunk and position > 0:
            raise ValueError(f"a trunk stands first in its lineage, not at place {position}")
        trunks += [(trunk, rows)] if trunk else []
        work += [(deltas, rows)] if deltas else []
    modules = frozenset().union(*(deltas for deltas, _ in work))
    return DeltaPlan(tuple(trunks), tuple(work), phase, modules)


def _rows(spans: list[tuple[int, int]], device: torch.device) -> slice | Tensor:
    spans = sorted(spans)
    if all(left[1] == right[0] for left, right in itertools.pairwise(spans)):
        return slice(spans[0][0], spans[-1][1])
    return torch.cat([torch.arange(*span, device=device) for span in spans])
