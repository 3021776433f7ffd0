"""Which steps may use the arrangement of the one before."""

from __future__ import annotations

import gc
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_server.engine.native.arrangement import Arrangement
from jumplora_server.engine.native.forms import NativeAdapter
from jumplora_server.engine.native.layout import DeltaStruct
from jumplora_server.engine.native.work import Lineage

SITES = 9


def adapter(*, is_trunk: bool = False, targeted: int = 1) -> NativeAdapter:
    """Without a form: only its table and what it targets are looked at."""
    table = (DeltaStruct * SITES)()
    return NativeAdapter("v", {}, 0, 0, 0.0, table, is_trunk, targeted, 0)


ADAPTERS = [adapter(is_trunk=True), *(adapter(targeted=1 << i) for i in range(4))]
LINEAGES = st.lists(
    st.one_of(
        st.lists(st.sampled_from(ADAPTERS[1:]), max_size=3).map(tuple),
        st.lists(st.sampled_from(ADAPTERS[1:]), max_size=2).map(lambda d: (ADAPTERS[0], *d)),
    ),
    min_size=1,
    max_size=9,
)


def tables(lineages: list[Lineage]) -> list[list[int]]:
    return [[id(adapter.table) for adapter in lineage] for lineage in lineages]


@given(LINEAGES, LINEAGES)
def test_it_holds_for_equal_lineages_in_equal_order_and_no_others(
    before: list[Lineage], now: list[Lineage]
) -> None:
    arranged = Arrangement.of(before, SITES)
    assert arranged.holds([(*lineage,) for lineage in before])
    assert arranged.holds(now) == (tables(before) == tables(now))


@given(LINEAGES)
def test_order_and_places_undo_each_other_and_neighbours_have_most_in_common(
    lineages: list[Lineage],
) -> None:
    arranged = Arrangement.of(lineages, SITES)
    assert [arranged.order[place] for place in arranged.places] == [*range(len(lineages))]
    ordered = [lineages[n] for n in arranged.order]
    firsts = [id(lineage[0].table) if lineage else 0 for lineage in ordered]
    assert sum(a != b for a, b in itertools.pairwise(firsts)) == len({*firsts}) - 1


@pytest.mark.slow
def test_an_adapter_that_was_made_where_another_one_was_is_another_one() -> None:
    for _ in range(50):
        gone = adapter()
        arranged = Arrangement.of([(gone,)], SITES)
        del gone
        gc.collect()
        assert not arranged.holds([(adapter(),)])
