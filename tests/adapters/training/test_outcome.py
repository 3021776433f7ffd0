"""What counts as a collapse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jumplora_adapters.delta import Delta, SparseDelta
from jumplora_adapters.errors import GateCollapsed
from jumplora_adapters.network import Site
from jumplora_adapters.training.checkpoint import Progress
from jumplora_adapters.training.config import Optimisation
from jumplora_adapters.training.data import Example, Split
from jumplora_adapters.training.outcome import check_not_collapsed, learned_nothing

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


def _dev(*answers: str, is_labelled: bool = True) -> Split:
    examples = tuple(Example((1,), (1,), answer) for answer in answers)
    return Split(Path("dev.jsonl"), "0" * 64, examples, is_labelled)


def _progress(exact: float) -> Progress:
    return Progress(best_scores={"exact_match": exact})


@pytest.mark.parametrize(
    ("exact", "dev", "says_so"),
    [
        (0.5, _dev("a", "A ", "b", "c"), True),
        (0.75, _dev("a", "a", "b", "c"), False),
        (0.25, _dev("a", "b", "c", "d"), True),
        (0.0, _dev("a", "b", is_labelled=False), False),
        (0.0, None, False),
    ],
    ids=["as the commonest", "better", "all are rare", "whole prompts", "no dev"],
)
def test_no_better_than_one_answer_for_all(exact: float, dev: Split | None, says_so: bool) -> None:
    assert bool(learned_nothing(Optimisation(), _progress(exact), dev)) is says_so


def test_what_to_try() -> None:
    told = learned_nothing(Optimisation(epochs=20), _progress(0.1), _dev("a", "b"))
    assert told == (
        "it learned nothing: of dev's rows 10.0% are right, and 'a' for each would be 50.0%. Try "
        "--lr 0.002 or --epochs 40, more rows, and look whether the instruction and the options "
        "fit the labels"
    )
