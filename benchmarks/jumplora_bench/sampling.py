"""`jumplora bench sampling`: decode steps whose rows sample, beside steps of greedy rows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from jumplora_bench.backbone import write_backbone
from jumplora_bench.bars import Bar, compare, verdict
from jumplora_bench.cases.case import Lap, Work
from jumplora_bench.cases.ours import OursCase, make_engine
from jumplora_bench.names import label_of
from jumplora_bench.prompts import random_prompts
from jumplora_bench.report import Grid, Report
from jumplora_bench.rounds import Laps, run_rounds, spread
from jumplora_bench.shapes import VOCABULARY, ShapeName
from jumplora_server.core import Beams, Kernels, Sampling
from jumplora_server.engine.memory import trim_memory
from jumplora_server.engine.native.library import why_unavailable
from jumplora_server.engine.sampling_reference import choose_reference, list_reference

_LIMIT = 1.10  # of a step with greedy rows; for T5-base on the CPU with the native kernels
_GREEDY, _SAMPLED, _HALF = "greedy", "sampled", "half sampled"


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """What to run."""

    shape: ShapeName = "base"
    rows: int = 16
    source: int = 128
    new: int = 16
    rounds: int = 7
    dtypes: Sequence[str] = ("float32", "int8")
    device: str = "cpu"
    threads: int = 0


def measure_sampling(
    plan: SamplingPlan,
    command: str,
    *,
    on_start: Callable[[int], None],
    on_lap: Callable[[str], None],
) -> Report:
    """Engine by engine: build it, run the rounds. Then the reference, which chooses row by row."""
    torch.set_num_threads(plan.threads or torch.get_num_threads())
    title = (
        f"Sampling: T5-{plan.shape} shape, {plan.rows} rows of the bare backbone, {plan.source} "
        f"tokens in, {plan.new} out, {plan.device}"
    )
    report = Report("sampling", title, command, plan.device)
    with tempfile.TemporaryDirectory(prefix="jumplora-bench-") as folder:
        work = Work(
            backbone=write_backbone(Path(folder) / "backbone", plan.shape),
            prompts=random_prompts(plan.rows, plan.source, VOCABULARY),
            new=plan.new,
            threads=torch.get_num_threads(),
            device=plan.device,
        )
        engines = [*_engines(plan)]
        on_start(len(engines) * len(_mixes(plan)) * (plan.rounds + 1))
        laps: dict[str, list[Lap]] = {}
        for each in engines:  # one after the other: only rows of one engine are compared
            laps |= run_rounds(_cases(plan, work, *each), plan.rounds, on_lap)
            trim_memory()
    _fill(report, plan, laps)
    return report


def _mixes(plan: SamplingPlan) -> dict[str, list[Sampling]]:
    """The rows of a step, by name."""
    greedy = Sampling(plan.new)
    sampled = replace(greedy, mode="sample")
    whole = replace(
        sampled, temperature=0.8, top_k=50, top_p=0.9, repetition_penalty=1.2, logprobs="chosen"
    )
    rows = {
        _GREEDY: [greedy],
        _SAMPLED: [whole],
        _HALF: [whole, greedy],
        "temperature alone": [sampled],
        "top_p 0.9 alone": [replace(sampled, top_p=0.9)],
        "log-probabilities alone": [replace(greedy, logprobs="chosen")],
        "no n-gram of 3 twice": [replace(greedy, no_repeat_ngram_size=3)],
        "candidates of 4 beams": [replace(greedy, beams=Beams(4))],
    }
    return {
        name: [replace(mix[i % len(mix)], seed=i) for i in range(plan.rows)]
        for name, mix in rows.items()
    }


def _engines(plan: SamplingPlan) -> Iterator[tuple[str, str, Kernels]]:
    """Names with dtype and kernels."""
    for dtype in plan.dtypes:
        if plan.device != "cpu":
            yield label_of(dtype), dtype, "auto"
            continue
        if dtype != "bfloat16" and why_unavailable() is None:
            yield f"{label_of(dtype)} native", dtype, "native"
        yield f"{label_of(dtype)} torch", dtype, "torch"


def _cases(
    plan: SamplingPlan, work: Work, name: str, dtype: str, kernels: Kernels
) -> list[OursCase]:
    engine = make_engine(work, dtype, kernels)
    return [
        OursCase(f"{name}: {mix}", engine, work, [()] * plan.rows, samplings)
        for mix, samplings in _mixes(plan).items()
    ]


def _fill(report: Report, plan: SamplingPlan, laps: Laps) -> None:
    steps = {
        name: [(lap.seconds - (lap.encode_seconds or 0.0)) / plan.new for lap in done]
        for name, done in laps.items()
    }
    compared = compare([*_bars(plan)], steps)
    reference = _reference_seconds(plan)
    report.grids = [
        Grid(
            "A decode step, ms",
            ("rows", "median", "min", "max"),
            [(name, *map(_ms, asdict(spread(values)).values())) for name, values in steps.items()],
        ),
        Grid(
            "Over a step with greedy rows: ratios of medians, with the range of the rounds",
            ("rows", "median", "min", "max", "bar", ""),
            [
                (bar.measure, *(f"{value:.3f}" for value in asdict(ratio).values()), bar.told,
                 verdict(bar.is_met(ratio.median)))
                for bar, ratio in compared
            ],
        ),
        Grid(
            f"The choice alone, row by row as the reference makes it: ms for {plan.rows} rows",
            ("rows", "ms"),
            [(mix, _ms(seconds)) for mix, seconds in reference.items()],
        ),
    ]  # fmt: skip
    report.notes.append(
        "sampled: temperature 0.8, top_k 50, top_p 0.9, repetition penalty 1.2 and "
        "log-probabilities. A random backbone's distribution is flat, top_p's worst."
    )
    report.data = {
        "threads": torch.get_num_threads(),
        "step_seconds": steps,
        "ratios": {bar.measure: {**asdict(ratio), "bar": bar.limit} for bar, ratio in compared},
        "reference_seconds": reference,
    }


def _bars(plan: SamplingPlan) -> Iterator[Bar]:
    for name, _, kernels in _engines(plan):
        for mix in _mixes(plan):
            if mix != _GREEDY:
                is_held = kernels == "native" and plan.shape == "base" and mix in (_SAMPLED, _HALF)
                measure, greedy = f"{name}: {mix}", f"{name}: {_GREEDY}"
                yield Bar(measure, measure, greedy, "at most", _LIMIT if is_held else None)


def _reference_seconds(plan: SamplingPlan) -> Mapping[str, float]:
    """Of choosing one token a row, the median of the rounds."""
    logits = torch.randn(plan.rows, VOCABULARY, generator=torch.Generator().manual_seed(0))
    found = {}
    for mix, samplings in _mixes(plan).items():
        seconds = []
        for _ in range(plan.rounds):
            began = time.perf_counter()
            for row, sampling in zip(logits, samplings, strict=True):
                choose = choose_reference if sampling.beams is None else list_reference
                choose(row, sampling, [0, 5, 7], ends=[1])
            seconds.append(time.perf_counter() - began)
        found[mix] = spread(seconds).median
    return found


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"
