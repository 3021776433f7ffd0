"""Which ancestors are merged: the rule for T5-base's numbers, and what holds for any."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import random_adapter
from fakes import FakeEngine
from jumplora_server.residency.entries import Known, VersionFacts
from jumplora_server.residency.folding import Folding, plan
from jumplora_server.setting_groups import Fold
from small_server import BACKBONE

MB, GIB = 10**6, 1024**3
MANIFEST, _ = random_adapter(BACKBONE)
SITES = [("q",)] * 14


class Sized:
    """An engine whose trunks take `site_bytes` for each target."""

    def __init__(self, site_bytes: int, weight_bytes: int, *, can_fold: bool = True) -> None:
        self.can_fold = can_fold
        self.weight_bytes = weight_bytes
        self._site_bytes = site_bytes

    def trunk_bytes(self, sites: Iterable[str]) -> int:
        return self._site_bytes * len({*sites})


@pytest.mark.parametrize(
    ("trunk", "weights", "budget", "depths"),
    [
        # T5-base, q and v; the depths are those of the trunks of versions 1 to 15.
        pytest.param(42.5, 323, GIB, {1, 3, 5, 7, 9, 11, 13}, id="int8: every second"),
        pytest.param(170, 990, GIB, {3, 6, 9, 12}, id="float32: every third"),
        pytest.param(170, 990, GIB // 2, {3, 9}, id="half the budget"),
        pytest.param(170, 990, GIB // 4, {3}, id="a quarter"),
        pytest.param(170, 990, GIB // 5, set(), id="not even one"),
        pytest.param(170, 150, GIB, set(), id="more than the backbone"),
        pytest.param(1, 990, GIB, {*range(1, 15)}, id="cheap"),
    ],
)
def test_auto_on_t5_base(trunk: float, weights: int, budget: int, depths: set[int]) -> None:
    rule = Folding.of(Sized(int(trunk * MB), weights * MB), "auto", 0.75, budget)
    found = {rule.depth(SITES[:ancestors]) for ancestors in range(15)}
    assert found - {0} == depths
    for ancestors in range(15):
        assert rule.depth(SITES[:ancestors]) == max(
            (depth for depth in depths if depth <= ancestors), default=0
        )


def test_always_merges_all_ancestors_that_fit_and_never_none() -> None:
    engine = Sized(10, 1)
    assert Folding.of(engine, "always", 0.01, 20).depth([("q",), ("q", "v"), ("q",)]) == 3
    assert Folding.of(engine, "always", 1.0, 19).depth([("q",), ("q", "v"), ("q",)]) == 1
    assert Folding.of(engine, "always", 1.0, 9).depth(SITES) == 0
    assert Folding.of(engine, "never", 1.0, 10**9).depth(SITES) == 0


def test_an_engine_that_cannot_fold() -> None:
    engine = Sized(1, 10**9, can_fold=False)
    assert Folding.of(engine, "auto", 1.0, 10**9).depth(SITES) == 0
    with pytest.raises(ValueError, match="JUMPLORA_FOLD is always, but this engine cannot fold"):
        Folding.of(engine, "always", 1.0, 10**9)


def test_a_target_that_is_not_a_site_ends_the_trunk() -> None:
    """Such a file is refused when it is read, with its own code."""
    rule = Folding("always", 10**9, 0, FakeEngine().trunk_bytes)
    assert rule.depth([("q",), ("q", "v"), ("unknown",), ("q",)]) == 2


chains = st.lists(st.sets(st.sampled_from("qkvow"), min_size=1).map(tuple), max_size=20)
modes = st.sampled_from(["auto", "always", "never"])


@given(chains, modes, st.integers(0, 200), st.integers(0, 200))
def test_a_version_and_the_ancestors_after_its_trunk_share_it(
    chain: list[tuple[str, ...]], fold: Fold, chain_bytes: int, budget: int
) -> None:
    """Else one load would need several trunks."""
    rule = Folding(fold, budget, chain_bytes, FakeEngine(site_bytes=3).trunk_bytes)
    depths = [rule.depth(chain[:ancestors]) for ancestors in range(len(chain) + 1)]
    assert depths == list(accumulate(depths, max)), "a longer lineage has no shorter trunk"
    for ancestors, depth in enumerate(depths):
        assert 0 <= depth <= ancestors, "never the version itself"
        assert {depths[between] for between in range(depth, ancestors)} <= {depth}


@given(st.integers(1, 400), st.integers(0, 2000))
def test_the_trunks_of_a_chain_of_15_stay_within_the_limit(trunk: int, limit: int) -> None:
    rule = Folding("auto", 10**6, limit, lambda sites: trunk)
    depths = {rule.depth(SITES[:ancestors]) for ancestors in range(15)} - {0}
    assert len(depths) * trunk <= limit
    if not depths:
        assert trunk > limit


def known(name: str, ancestors: tuple[str, ...]) -> Known:
    return Known(VersionFacts(name, "t", ancestors, 10), MANIFEST)


def test_a_plan_leaves_out_what_only_the_trunk_needs() -> None:
    names = "abcdef"
    lineage = [known(name, tuple(names[:depth])) for depth, name in enumerate(names)]
    rule = Folding("auto", 10**6, 4 * 100, lambda sites: 100)  # a trunk at depth 3
    trunk, d, e, f = plan(lineage, "f", rule)
    assert [each.facts.digest for each in trunk.folds] == ["a", "b", "c"]
    assert (trunk.facts.disk_bytes, trunk.parts, trunk.facts.task) == (100, (), "")
    name = trunk.facts.digest
    assert [each.parts for each in (d, e, f)] == [(name,), (name, "d"), (name, "d", "e")]
    assert [each.facts for each in (d, e, f)] == [each.facts for each in lineage[3:]]
    (sibling_trunk, _) = plan([*lineage[:3], known("s", ("a", "b", "c"))], "s", rule)
    assert sibling_trunk == trunk
    unfolded = plan(lineage, "f", replace(rule, fold="never"))
    assert [each.parts for each in unfolded] == [tuple(names[:depth]) for depth in range(6)]


def test_a_trunk_is_named_by_all_that_it_merges() -> None:
    """Two lineages may end in the same version."""
    rule = Folding("always", 10**6, 0, lambda sites: 1)
    before = [known(name, ()) for name in "abc"]
    first, _ = plan([*before, known("x", ("a", "c"))], "x", rule)
    second, _ = plan([*before, known("y", ("b", "c"))], "y", rule)
    assert first.facts.digest != second.facts.digest
