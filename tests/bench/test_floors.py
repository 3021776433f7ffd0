"""Floors from sizes and roofs that are known: closed forms of bytes and operations."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_adapters.backbone import read_backbone
from jumplora_bench.backbone import write_backbone
from jumplora_bench.floors import Floor, Floors, Phase, Sizes
from jumplora_bench.installed import Part, Row
from jumplora_bench.roofs import Roofs

SIZES = Sizes(encode=Phase(kept=1000, replaced=200), decode=Phase(kept=500, replaced=50), cached=6)
SOURCE, NEW = 10, 3
ENDLESS = 1e30
MEMORY = {"float32": Roofs(1.0, ENDLESS), "int8": Roofs(1.0, ENDLESS)}  # a byte a second
PRODUCTS = {"float32": Roofs(ENDLESS, ENDLESS), "int8": Roofs(ENDLESS, 1.0)}
NONZEROS = {"float32": Roofs(ENDLESS, 1.0), "int8": Roofs(ENDLESS, ENDLESS)}
CACHES = 2 * 6 * (SOURCE + 2)  # of int8, a row: its prompt, and 1, 2 and 3 tokens of its answer

TRUNK, OTHER = Part(0, 0, trunk=13), Part(1, 0, trunk=13)
DELTA, LEAF = Part(2, 0, encoded=30, decoded=7), Part(3, 0, encoded=20, decoded=5)


def floor(roofs: dict[str, Roofs], rows: list[Row], dtype: str = "int8") -> Floor:
    return Floors(SIZES, roofs, SOURCE, NEW).of(dtype, rows)


@pytest.mark.parametrize(
    ("rows", "encode", "step"),
    [
        pytest.param([()], 1200, 550, id="bare: all weights once"),
        pytest.param([(), ()], 1200, 550, id="more rows use the same weights"),
        pytest.param([(DELTA,)], 1200 + 120, 550 + 28, id="four bytes a non-zero"),
        pytest.param([(DELTA,), (DELTA, LEAF)], 1200 + 200, 550 + 48, id="a shared delta once"),
        pytest.param([(TRUNK,)], 1200, 550, id="a trunk in place of q and v"),
        pytest.param([(TRUNK,), (TRUNK, LEAF)], 1200 + 80, 550 + 20, id="a shared trunk once"),
        pytest.param([(TRUNK,), (OTHER,)], 1400, 600, id="two trunks"),
        pytest.param([(TRUNK,), ()], 1400, 600, id="a trunk beside the backbone's own"),
    ],
)
def test_bytes(rows: list[Row], encode: int, step: int) -> None:
    found = floor(MEMORY, rows)
    assert found.encode == encode
    assert found.step == step + CACHES * len(rows)


def test_a_weight_of_float32_has_four_bytes() -> None:
    found = floor(MEMORY, [(DELTA,)], "float32")
    assert found.encode == 4 * 1200 + 120
    assert found.step == 4 * 550 + 28 + 2 * CACHES


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_products_are_those_of_every_token(rows: int) -> None:
    found = floor(PRODUCTS, [(TRUNK, DELTA)] * rows)
    assert found.encode == 2 * SOURCE * rows * 1200
    assert found.step == 2 * rows * 550


def test_a_row_multiplies_every_non_zero_it_applies() -> None:
    found = floor(NONZEROS, [(DELTA,), (DELTA, LEAF)])
    assert found.encode == 2 * SOURCE * (30 + 30 + 20)
    assert found.step == 2 * (7 + 7 + 5)


speeds = st.floats(1, 1e12)


@given(speeds, speeds, speeds)
def test_no_roof_is_passed(memory: float, products: float, nonzeros: float) -> None:
    rows: list[Row] = [(TRUNK, DELTA), (LEAF,)]
    roofs = {"int8": Roofs(memory, products), "float32": Roofs(memory, nonzeros)}
    found = floor(roofs, rows)
    only = [
        floor({"int8": Roofs(memory, ENDLESS), "float32": Roofs(memory, ENDLESS)}, rows),
        floor({"int8": Roofs(ENDLESS, products), "float32": Roofs(ENDLESS, nonzeros)}, rows),
    ]
    assert found.encode == max(each.encode for each in only)
    assert found.step == max(each.step for each in only)


def test_a_lap_is_an_encode_and_its_steps() -> None:
    assert Floor("int8", 0.5, 0.25).lap(4) == 1.5


def test_sizes_are_those_of_the_network(tmp_path: Path) -> None:
    """T5 of d 64, 4 heads of 16, feed-forward 128, two layers a stack."""
    found = Sizes.of(read_backbone(write_backbone(tmp_path / "backbone", "tiny")))
    square, wide = 64 * 64, 64 * 128
    # Once a prompt: the encoder, and keys and values of the cross-attention.
    assert found.encode == Phase(2 * (2 * square + 2 * wide) + 2 * square, 2 * 3 * square)
    assert found.decode == Phase(2 * (3 * square + 2 * wide) + 64 * 32128, 2 * 3 * square)
    assert found.cached == 2 * 2 * 64
