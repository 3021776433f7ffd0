"""What counts as a collapse."""

from __future__ import annotations

import pytest
import torch

from jumplora_adapters.delta import Delta, SparseDelta
from jumplora_adapters.errors import GateCollapsed
from jumplora_adapters.network import Site
from jumplora_adapters.training.outcome import check_not_collapsed

NONE = SparseDelta.from_dense(torch.zeros(4, 5))
SOME = SparseDelta.from_dense(torch.eye(4, 5))
SITES = {
    f"encoder.block.{i}.layer.0.SelfAttention.q": Site(
        f"encoder.block.{i}.layer.0.SelfAttention.q", (4, 5), "encoder", i, "self", "q"
    )
    for i in range(2)
}
ALL = SparseDelta.from_dense(torch.ones(4, 5))


@pytest.mark.parametrize(("deltas", "what"), [([NONE, NONE], "none of 40"), ([ALL], "all of 20")])
def test_all_or_nothing_is_a_collapse(deltas: list[SparseDelta], what: str) -> None:
    with pytest.raises(GateCollapsed, match=what):
        check_not_collapsed(_by_name(deltas), SITES, "global")


@pytest.mark.parametrize("deltas", [[NONE, SOME], [ALL, SOME], [ALL, NONE]])
def test_one_module_may_be_full_or_empty(deltas: list[SparseDelta]) -> None:
    check_not_collapsed(_by_name(deltas), SITES, "global")


@pytest.mark.parametrize(("delta", "what"), [(NONE, "none of 20"), (ALL, "all of 20")])
def test_with_a_threshold_a_block_every_block_is_judged(delta: SparseDelta, what: str) -> None:
    with pytest.raises(GateCollapsed, match=rf"encoder\.block\.1 keeps {what}"):
        check_not_collapsed(_by_name([SOME, delta]), SITES, "block")
    check_not_collapsed(_by_name([SOME, delta]), SITES, "global")


def _by_name(deltas: list[SparseDelta]) -> dict[str, Delta]:
    """Each in a block of its own."""
    return dict(zip(SITES, deltas, strict=False))
