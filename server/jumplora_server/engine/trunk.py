"""Trunks: a lineage's first versions merged into the backbone's weights, at the sites they target.

A row whose lineage begins with a trunk takes its product in place of the backbone's there. A merge
adds as training does: the stored weight in float32, then each delta, oldest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import torch
from torch import Tensor

from jumplora_adapters.delta import Delta
from jumplora_adapters.format import Adapter
from jumplora_adapters.network import Site
from jumplora_server.engine.bank import PackedAdapter, Resident
from jumplora_server.engine.linear import Int8Linear, Linear, at_least_min_rows

F = TypeVar("F", bound=Resident)


@dataclass(frozen=True, slots=True)
class TrunkForm:
    """One site's merged weight in the backbone's own form.

    In int8 its rows have two bytes a number, for what a trunk's versions add meets a quantised x;
    beside the backbone's weight it would meet x itself.
    """

    linear: Linear

    @property
    def nbytes(self) -> int:
        """Resident bytes."""
        return self.linear.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """x [n, d_in] -> x W^T [n, d_out], a row's bits whatever n is."""
        x, rows = at_least_min_rows(x), x.shape[0]
        finely = self.linear.finely if isinstance(self.linear, Int8Linear) else self.linear
        return finely(x)[:rows]


def merged_weight(weights: Mapping[str, Tensor], site: Site, deltas: Iterable[Delta]) -> Tensor:
    """A site's weight float32 [d_out, d_in] with the deltas added in their order.

    Args:
        weights: gives a new tensor for each reading, as `StoredTensors` does: it is written to.
    """
    merged = weights[site.weight].float()
    for delta in deltas:
        delta.add_to(merged)
    return merged


def fold(
    adapters: Sequence[Adapter],
    weights: Mapping[str, Tensor],
    sites: Mapping[str, Site],
    make_form: Callable[[Tensor], F],
) -> PackedAdapter[F]:
    """Merge a lineage's first versions, one site after another.

    The result is named by the last of them. Its forms are whole matrices: `nnz` counts all of
    their entries, and `density` is 1.

    Args:
        adapters: the versions, oldest first. The trunk has each site that any of them targets.
        sites: every linear layer of the backbone by its name.
        make_form: of a merged weight float32 [d_out, d_in].

    Raises:
        ValueError: no adapter is given.
    """
    if not adapters:
        raise ValueError("no adapter was given; a trunk is of one or more, oldest first")
    deltas: dict[str, list[Delta]] = {}
    for adapter in adapters:
        for name, delta in adapter.deltas.items():
            deltas.setdefault(name, []).append(delta)
    forms = {
        name: make_form(merged_weight(weights, sites[name], added))
        for name, added in deltas.items()
    }
    return PackedAdapter(
        version=adapters[-1].digest,
        forms=forms,
        nbytes=sum(form.nbytes for form in forms.values()),
        nnz=sum(d_out * d_in for d_out, d_in in (sites[name].shape for name in forms)),
        density=1.0 if forms else 0.0,
    )


def refuse_to_fold(dtype: str, device: torch.device) -> NoReturn:
    """Say what can fold. Raises ValueError."""
    raise ValueError(
        f"versions are folded in float32 and int8 on the CPU, not in {dtype} on {device}: "
        "install each version's own deltas instead"
    )
