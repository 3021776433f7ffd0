"""Two commits in turn: what is paired, what an interval says, and a whole small run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_bench import side_by_side
from jumplora_bench.side_by_side import HERE, Checkout, Lap, median_interval, rows_of
from jumplora_server.engine.native.library import why_unavailable

SECONDS = st.floats(0.01, 10.0)


@given(st.lists(SECONDS, min_size=1, max_size=30))
def test_an_interval_holds_its_median_and_stays_among_the_values(values: list[float]) -> None:
    found = median_interval(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)
    assert found == median_interval(values), "the same numbers give the same interval"


def test_an_interval_is_narrower_with_more_values() -> None:
    few, many = (median_interval([0.9, 1.0, 1.1] * times) for times in (2, 20))
    assert many.high - many.low < few.high - few.low


def lap(seconds: float, tokens: int = 3) -> Lap:
    return Lap(seconds, seconds / 2, ((1, 2, tokens),))


@pytest.mark.parametrize(
    ("ratios", "bar"),
    [((1.0, 1.01, 0.99), "met"), ((1.03, 0.9, 1.2), "met"), ((1.05, 1.04, 1.06), "missed")],
)
def test_the_bar_is_met_where_the_interval_reaches_it(ratios: tuple[float, ...], bar: str) -> None:
    pairs = {"case": [(lap(2.0), lap(2.0 * ratio)) for ratio in ratios]}
    ((name, old, _, whole, encode, tokens, told),) = rows_of(pairs)
    assert (name, old, tokens, told) == ("case", "2000", "100.0%", bar)
    assert whole == encode


def test_tokens_that_differ_are_told() -> None:
    ((*_, tokens, _),) = rows_of({"case": [(lap(1.0), lap(1.0, tokens=4))]})
    assert tokens == "66.7%"


def test_a_checkout_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ended\. It said"):
        Checkout(HERE, {"backbone": str(tmp_path / "none"), "shape": "tiny"}, tmp_path / "log")


@pytest.mark.slow
@pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
def test_a_commit_beside_itself_says_the_same(tmp_path: Path) -> None:
    side_by_side.main(
        ["--old", str(HERE), "--shape", "tiny", "--rounds", "1", "--out", str(tmp_path)]
    )
    record = json.loads((tmp_path / "side-by-side.json").read_text())
    names = [name for name in record if name.startswith("ours ")]
    assert len(names) == 14
    assert all(len(record[name]) == 1 for name in names)
    text = (tmp_path / "side-by-side.md").read_text()
    assert text.count("100.0%") == 14, "the same tokens"
