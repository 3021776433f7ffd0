"""In which form a pair of factors is stored: gated, as factors, or expanded and pruned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from jumplora_adapters.convert.factors import Factors
from jumplora_adapters.convert.prune import prune
from jumplora_adapters.convert.scaling import Scaling
from jumplora_adapters.convert.sparse import Entries
from jumplora_adapters.delta import CombinedDelta, Delta, SparseDelta
from jumplora_adapters.errors import ConvertError, FormatError

Kind = Literal["masked", "lowrank"]


@dataclass(frozen=True, slots=True)
class Form:
    """What the user asked for. Raises ConvertError where that contradicts itself.

    `kind` None means masked with a gate and low-rank without. `density` prunes the expanded
    update of a checkpoint without a gate by magnitude. `factors` says whether A and B accompany
    masks.
    """

    dtype: torch.dtype = torch.float32
    kind: Kind | None = None
    density: float | None = None
    factors: Literal["drop", "keep"] = "drop"

    def __post_init__(self) -> None:
        if self.density is not None and self.kind != "masked":
            raise ConvertError("a density needs kind masked: factors have no zeros to leave out")


def delta_of(module: str, factors: Factors, scaling: Scaling, form: Form) -> Delta:
    """The delta of one module, scale folded in.

    Raises ConvertError where the form does not suit the factors, or a number leaves the range of
    the form's dtype.
    """
    scale = scaling.at(factors.rank)
    try:
        if factors.tau is not None:
            if form.kind == "lowrank" or form.density is not None:
                raise ConvertError(
                    f"{module} has a threshold, so its update is not of low rank and the threshold"
                    " sets its density: leave out --kind lowrank and --density"
                )
            return SparseDelta.from_factors(
                factors.A, factors.B, tau=factors.tau, scale=scale, dtype=form.dtype
            )
        if form.kind == "masked":
            dense = (factors.B @ factors.A) * scale
            kept = dense if form.density is None else prune(dense, form.density)
            return SparseDelta.from_dense(kept, form.dtype)
        low_rank = factors.low_rank(scale, form.dtype)
        low_rank.check()
        return low_rank
    except FormatError as error:
        raise ConvertError(f"{module}: {error}") from error


def sum_of(
    module: str, entries: Entries | None, pair: Factors | None, scaling: Scaling, form: Form
) -> Delta:
    """The delta of a sparse and a low-rank part, either of which may be missing.

    A part that changes nothing is left out. Raises ConvertError as `delta_of` does.
    """
    if form.factors == "keep":
        raise ConvertError("only a LoRA's factors can be kept beside masks: leave --keep-factors")
    if form.kind == "lowrank":
        raise ConvertError(f"{module} has a sparse part: leave out --kind lowrank")
    try:
        sparse = None if entries is None else entries.to_delta(form.dtype)
        low_rank = None if pair is None else pair.low_rank(scaling.at(pair.rank), form.dtype)
        if low_rank is not None:
            low_rank.check()
            if not low_rank.changes_anything:
                low_rank = None
        if form.kind == "masked" and (low_rank is not None or form.density is not None):
            dense = torch.zeros(_shape(entries, pair))
            if pair is not None:
                dense += (pair.B @ pair.A) * scaling.at(pair.rank)
            if entries is not None:
                dense.view(-1)[entries.positions] += entries.values
            kept = dense if form.density is None else prune(dense, form.density)
            return SparseDelta.from_dense(kept, form.dtype)
    except FormatError as error:
        raise ConvertError(f"{module}: {error}") from error
    if low_rank is not None:
        return low_rank if sparse is None or not sparse.nnz else CombinedDelta(sparse, low_rank)
    if sparse is not None:
        return sparse
    return SparseDelta.from_dense(torch.zeros(_shape(entries, pair)), form.dtype)


def _shape(entries: Entries | None, pair: Factors | None) -> tuple[int, int]:
    if entries is not None:
        return entries.shape
    assert pair is not None, "a module has one of the two"
    return pair.B.shape[0], pair.A.shape[1]


def kept_factors(
    factors: Mapping[str, Factors], deltas: Mapping[str, Delta], form: Form
) -> dict[str, tuple[Tensor, Tensor]] | None:
    """A and B to write beside masked deltas where the form keeps them."""
    if form.factors == "drop":
        return None
    return {
        name: (pair.A, pair.B)
        for name, pair in factors.items()
        if isinstance(deltas[name], SparseDelta)
    }
