"""Which rows and engines the sampling benchmark compares, and where its bar stands."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jumplora_bench.cases.case import Lap
from jumplora_bench.report import Report
from jumplora_bench.sampling import SamplingPlan, _bars, _engines, _fill, _mixes
from jumplora_server.core import Beams
from jumplora_server.engine.native.library import why_unavailable

PLAN = SamplingPlan(shape="tiny", rows=3, source=8, new=4, rounds=1, dtypes=("float32",))
needs_native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))


def test_every_mix_has_a_seed_of_its_own_for_each_row() -> None:
    for name, rows in _mixes(PLAN).items():
        assert [row.seed for row in rows] == [0, 1, 2], name
        assert all(row.max_new_tokens == 4 for row in rows)


def test_mixes_differ_in_what_they_are_named_for() -> None:
    mixes = _mixes(PLAN)
    assert {row.mode for row in mixes["greedy"]} == {"greedy"}
    assert [row.mode for row in mixes["half sampled"]] == ["sample", "greedy", "sample"]
    for row in mixes["sampled"]:
        assert (row.temperature, row.top_k, row.top_p) == (0.8, 50, 0.9)
        assert (row.repetition_penalty, row.logprobs) == (1.2, "chosen")
    plain = replace(mixes["greedy"][0], mode="sample")
    assert mixes["temperature alone"][0] == plain
    assert mixes["top_p 0.9 alone"][0] == replace(plain, top_p=0.9)
    assert mixes["log-probabilities alone"][0] == replace(mixes["greedy"][0], logprobs="chosen")
    assert {row.no_repeat_ngram_size for row in mixes["no n-gram of 3 twice"]} == {3}
    assert {row.beams for row in mixes["candidates of 4 beams"]} == {Beams(4)}


@needs_native
def test_bfloat16_has_no_native_kernels() -> None:
    names = [name for name, _, _ in _engines(replace(PLAN, dtypes=("int8", "bfloat16")))]
    assert names == ["int8 native", "int8 torch", "bf16 torch"]


def test_on_a_gpu_the_engine_picks_its_kernels() -> None:
    plan = replace(PLAN, device="cuda", dtypes=("bfloat16", "float32"))
    assert [*_engines(plan)] == [("bf16", "bfloat16", "auto"), ("fp32", "float32", "auto")]


@needs_native
@pytest.mark.parametrize(("shape", "held"), [("base", 2), ("large", 0), ("tiny", 0)])
def test_the_bar_stands_for_native_kernels_of_t5_base(shape: str, held: int) -> None:
    bars = [*_bars(replace(PLAN, shape=shape))]  # type: ignore[arg-type]
    assert sum(bar.limit is not None for bar in bars) == held
    assert {bar.measure for bar in bars if bar.limit} <= {
        "fp32 native: sampled",
        "fp32 native: half sampled",
    }
    assert len(bars) == 2 * 7


def test_a_step_is_what_is_left_of_the_encode() -> None:
    report = Report("sampling", "Sampling", "jumplora bench sampling")
    laps = {
        "fp32 torch: greedy": [Lap(0.5, ((1,),), 0.1), Lap(0.9, ((1,),), 0.1)],
        "fp32 torch: sampled": [Lap(0.7, ((1,),), 0.1), Lap(0.9, ((1,),), 0.1)],
    }
    _fill(report, PLAN, laps)
    steps, ratios, choice = report.grids
    assert steps.rows[0] == ("fp32 torch: greedy", "150.00", "100.00", "200.00")  # 0.4 s / 4
    assert ratios.rows == [("fp32 torch: sampled", "1.167", "1.000", "1.500", "", "")]
    assert [row[0] for row in choice.rows] == list(_mixes(PLAN))
    assert report.data["step_seconds"]["fp32 torch: sampled"] == pytest.approx([0.15, 0.2])  # type: ignore[index]
