"""Each row of a step uses its own trunk and its own deltas, each once and oldest first."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from jumplora_server.engine.bank import PackedAdapter
from jumplora_server.engine.native.arrangement import decode_order
from jumplora_server.engine.native.forms import NativeAdapter, NativeForm, with_table
from jumplora_server.engine.native.layout import LANES, MAX_LANES
from jumplora_server.engine.native.work import Lineage, Work, decode_work, encode_work


def slot(*, is_trunk: bool = False) -> NativeAdapter:
    """One of a backbone with one site; it has nothing there."""
    plain: PackedAdapter[NativeForm] = PackedAdapter("", {}, 0, 0, 0.0)
    return replace(with_table(plain, {"site": 0}), is_trunk=is_trunk)


TRUNKS, DELTAS = [slot(is_trunk=True) for _ in range(2)], [slot() for _ in range(4)]
depths = st.integers(0, len(DELTAS))
chains = st.builds(lambda depth: tuple(DELTAS[:depth]), depths)
lineages = st.builds(
    lambda trunk, deltas, depth: (*trunk, *deltas[:depth]),
    st.sampled_from([(), *((trunk,) for trunk in TRUNKS)]),
    st.permutations(DELTAS),
    depths,
)


def walked(work: Work, rows: int) -> list[list[int | None]]:
    """The tables that each row uses, a trunk's first, as kernels walk them."""
    used: list[list[int | None]] = [[] for _ in range(rows)]
    for segment in work.segments:
        for row in range(segment.row, segment.row + segment.rows):
            used[row] += [segment.trunk] if segment.trunk else []
    end = 0
    for family in work.families:
        assert family.row >= end, "families share no row"
        end = family.row + family.rows
        for block in work.blocks[family.first : family.first + family.blocks]:
            assert block.rows > 0, "a kernel adds to the row where a block begins"
            assert family.row <= block.row <= block.row + block.rows <= end
            for row in range(block.row, block.row + block.rows):
                used[row].append(block.table)
    return used


def tables(lineages: Sequence[Lineage]) -> list[list[int]]:
    return [[each.address for each in lineage] for lineage in lineages]


@given(st.lists(lineages | chains, min_size=1, max_size=60))
def test_rows_of_a_decode(drawn: list[Lineage]) -> None:
    ordered = [drawn[n] for n in decode_order(drawn)]
    for given_lineages in (drawn, ordered):
        work = decode_work(given_lineages, sites=1)
        assert walked(work, len(drawn)) == tables(given_lineages)
        assert all(0 < family.rows <= LANES for family in work.families)


def test_a_chain_of_more_rows_than_a_vector_has() -> None:
    """The first row of the second family adds more than those of the first."""
    chain = [tuple(DELTAS[:1])] * LANES + [tuple(DELTAS)]
    assert walked(decode_work(chain, sites=1), len(chain)) == tables(chain)


@given(st.lists(st.tuples(lineages | chains, st.integers(1, 150)), min_size=1, max_size=12))
def test_tokens_of_an_encode(drawn: list[tuple[Lineage, int]]) -> None:
    starts = [*itertools.accumulate((tokens for _, tokens in drawn), initial=0)]
    work = encode_work(itertools.pairwise(starts), [lineage for lineage, _ in drawn], sites=1)
    of_tokens = [lineage for lineage, tokens in drawn for _ in range(tokens)]
    assert walked(work, starts[-1]) == tables(of_tokens)
    assert all(0 < family.rows <= MAX_LANES for family in work.families)
