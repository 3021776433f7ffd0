"""Lineages in the benchmark's engine: which versions rows share, and the two forms of a chain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.delta import SparseDelta
from jumplora_adapters.format import Adapter
from jumplora_bench.backbone import write_backbone
from jumplora_bench.cases.case import Case, Work
from jumplora_bench.cases.ours import make_engine
from jumplora_bench.fleet import Fleet
from jumplora_bench.folds import trunk_depth, trunk_depths
from jumplora_bench.installed import Installed, Row
from jumplora_bench.lineages import lineage_cases
from jumplora_bench.masked import TURNS, draw, draw_family, rolled
from jumplora_bench.names import chains_name, depths_name, lineage_name, rows_name, unfolded
from jumplora_bench.prompts import random_prompts
from jumplora_bench.shapes import VOCABULARY
from jumplora_server.core import Kernels
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import why_unavailable

ROWS = 3


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return read_backbone(write_backbone(tmp_path_factory.mktemp("bench") / "backbone", "tiny"))


@pytest.fixture(scope="module")
def work(backbone: Backbone) -> Work:
    return Work(Path(backbone.path), random_prompts(ROWS, 6, VOCABULARY), 3, 1, "cpu")


@pytest.fixture(scope="module")
def adapter(backbone: Backbone) -> Adapter:
    return draw(backbone, "task", density=0.1, seed=3)


def dense(adapter: Adapter) -> dict[str, torch.Tensor]:
    return {name: delta.to_dense() for name, delta in adapter.deltas.items()}


@given(turn=st.integers(1, TURNS - 1))
def test_a_rolled_adapter_has_the_same_rows_further_down(adapter: Adapter, turn: int) -> None:
    moved = rolled(adapter, turn)
    assert moved.digest != adapter.digest
    for name, matrix in dense(adapter).items():
        delta = moved.deltas[name]
        assert isinstance(delta, SparseDelta)
        delta.check()
        by = matrix.shape[0] * turn // TURNS
        np.testing.assert_array_equal(delta.to_dense(), np.roll(matrix, by, axis=0))
        assert not torch.equal(delta.to_dense(), matrix), "another adapter"


def test_a_whole_turn_is_the_adapter_itself(adapter: Adapter) -> None:
    assert rolled(adapter, 0) is adapter is rolled(adapter, TURNS)


def digests(backbone: Backbone, which: int) -> list[list[str]]:
    """The lineages of a case's rows by their versions' names."""
    case = lineage_cases(ROWS, "int8")[which]
    members = draw_family(backbone, case.family, seed=0)
    return [[each.digest for each in lineage] for lineage in case.lineages(members)]


def test_rows_at_different_depths_stand_on_each_other(backbone: Backbone) -> None:
    lineages = digests(backbone, 2)
    assert [len(lineage) for lineage in lineages] == [15, 14, 13]
    assert all(lineage == lineages[0][: len(lineage)] for lineage in lineages)


def test_different_chains_share_nothing(backbone: Backbone) -> None:
    lineages = digests(backbone, 3)
    assert [len(lineage) for lineage in lineages] == [15] * ROWS
    assert len({digest for lineage in lineages for digest in lineage}) == 15 * ROWS


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_a_trunk_leaves_a_version_over(work: Work, adapter: Adapter, dtype: str) -> None:
    """At every depth, as those of a tiny backbone are small."""
    engine = make_engine(work, dtype, "torch")
    lineages = [[adapter] * length for length in range(1, 7)]
    assert [trunk_depth(engine, lineage) for lineage in lineages] == [0, 1, 2, 3, 4, 5]
    assert trunk_depths(engine, lineages[-1]) == [1, 2, 3, 4, 5]


def test_an_engine_that_cannot_fold_has_no_trunks(work: Work, adapter: Adapter) -> None:
    engine = make_engine(work, "bfloat16", "torch")
    assert not engine.can_fold
    assert trunk_depth(engine, [adapter] * 15) == 0


def cases_of(
    work: Work, backbone: Backbone, dtype: str, *names: str, kernels: Kernels = "torch"
) -> tuple[Fleet, list[Case]]:
    fleet = Fleet(work, backbone, (dtype,), lambda name: name in names, kernels)
    cases = list(fleet.cases())
    assert [case.name for case in cases] == list(names)
    return fleet, cases


needs_native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))


@pytest.mark.parametrize("kernels", ["torch", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize(
    ("name", "trunks", "deltas"),
    [
        pytest.param(lineage_name(15, "float32"), 1, ROWS, id="leaves of one chain"),
        pytest.param(depths_name(ROWS, "float32"), ROWS, ROWS, id="depths of one chain"),
        pytest.param(chains_name(ROWS, "float32"), ROWS, ROWS, id="different chains"),
    ],
)
def test_both_forms_of_a_lineage_say_the_same(
    work: Work, backbone: Backbone, kernels: Kernels, name: str, trunks: int, deltas: int
) -> None:
    """In float32 a trunk is the merge itself. Its rows apply it and what stands on it."""
    fleet, cases = cases_of(work, backbone, "float32", name, unfolded(name), kernels=kernels)
    folded, plain = (case.run().tokens for case in cases)
    assert folded == plain
    rows = fleet.rows[name][1]
    found = {part for row in rows for part in row}
    assert [len([p for p in found if is_trunk is bool(p.trunk)]) for is_trunk in (True, False)] == [
        trunks, deltas,
    ]  # fmt: skip
    assert all(row[0].trunk for row in rows)
    assert not any(part.trunk for row in fleet.rows[unfolded(name)][1] for part in row)
    first, second = fleet.families
    assert first.trunk_bytes == trunks * fleet.foldings[0].trunk_bytes
    assert second.trunk_bytes == 0
    assert first.packed_bytes < second.packed_bytes
    assert (first.slots, second.slots) == (2, 15)
    (folding,) = fleet.foldings
    assert len(folding.seconds) == trunks
    assert all(seconds > 0 for seconds in folding.seconds)
    assert folding.chain == 14, "at every depth but the last"


def test_what_cannot_fold_has_one_form_only(work: Work, backbone: Backbone) -> None:
    name = lineage_name(4, "bfloat16")
    fleet = Fleet(
        work, backbone, ("bfloat16",), lambda each: each in (name, unfolded(name)), "torch"
    )
    assert [case.name for case in fleet.cases()] == [name]
    assert fleet.foldings == []
    assert fleet.families[0].slots == 4


def test_more_rows_have_a_task_each(work: Work, backbone: Backbone) -> None:
    fleet, (case,) = cases_of(work, backbone, "int8", rows_name(16, "int8"))
    assert len(case.run().tokens) == 16
    assert fleet.families[0].adapters == 16
    assert fleet.kernels == {"int8": "torch"}


def parts(engine: Engine, backbone: Backbone, adapters: list[Adapter]) -> Row:
    return Installed(engine, backbone).deltas(adapters)


def test_an_adapter_is_installed_once_and_its_numbers_are_counted_apart(
    work: Work, backbone: Backbone, adapter: Adapter
) -> None:
    first, second = parts(make_engine(work, "float32", "torch"), backbone, [adapter, adapter])
    assert first is second
    decoded = [backbone.sites[name].is_decoded for name in adapter.deltas]
    kept = [delta.nnz for delta in adapter.deltas.values()]
    assert first.decoded == sum(
        n for n, is_decoded in zip(kept, decoded, strict=True) if is_decoded
    )
    assert first.encoded == sum(kept) - first.decoded > 0
