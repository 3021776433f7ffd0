"""`jumplora bench profile`: where encode and decode spend their time, with the floor beside it."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.format import Adapter
from jumplora_bench.backbone import write_backbone
from jumplora_bench.cases.case import Work
from jumplora_bench.cases.ours import EngineRefused, OursCase, Slots, make_engine
from jumplora_bench.cases.torch_peers import RANK
from jumplora_bench.lowrank import draw_all_linear
from jumplora_bench.masked import draw
from jumplora_bench.prompts import random_prompts
from jumplora_bench.report import Grid, Report
from jumplora_bench.roofs import Roofs, measure_roofs, shrink_of
from jumplora_bench.shapes import VOCABULARY, ShapeName
from jumplora_server.core import Kernels
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.layout import Kind
from jumplora_server.engine.native.runner import NativeRunner
from jumplora_server.engine.native.tape import Timing

_LINEAR = (Kind.LINEAR_F32, Kind.LINEAR_I8)
_DELTA = (Kind.DELTA_MANY, Kind.DELTA_FEW)
_SHOWN = 10  # of torch's operators


@dataclass(frozen=True, slots=True)
class ProfilePlan:
    """What to look at: `rows` tasks, one a row."""

    shape: ShapeName = "base"
    dtype: str = "int8"
    rows: int = 8
    source: int = 128
    new: int = 16
    density: float = 0.051  # of masked adapters
    rounds: int = 5
    lora: bool = False  # LoRAs on every linear layer but the head, in place of masked q and v
    kernels: Kernels = "native"  # beside torch's

    @property
    def adapters(self) -> str:
        """What the rows add, in words."""
        return "all-linear LoRAs" if self.lora else f"density {self.density:.1%}"


@dataclass(frozen=True, slots=True)
class Cost:
    """What the deltas of one module take, of all tasks together."""

    nbytes: int = 0
    numbers: int = 0  # each is multiplied once a token of its task


@dataclass(slots=True)
class _Line:
    """The operations of one name; `floor` is None where none was reckoned."""

    count: int = 0
    seconds: float = 0.0
    floor: float | None = None


def measure_profile(plan: ProfilePlan, command: str, on_state: Callable[[str], None]) -> Report:
    """Native and torch, each alone."""
    title = (
        f"Profile: T5-{plan.shape} shape, {plan.dtype}, {plan.rows} tasks, one a row, "
        f"{plan.source} tokens in, {plan.new} out, {plan.adapters}"
    )
    report = Report("profile", title, command)
    on_state("roofs")
    roofs = measure_roofs(plan.dtype, shrink_of(plan.shape))
    with tempfile.TemporaryDirectory(prefix="jumplora-bench-") as folder:
        backbone = read_backbone(write_backbone(Path(folder) / "backbone", plan.shape))
        prompts = random_prompts(plan.rows, plan.source, VOCABULARY)
        work = Work(backbone.path, prompts, plan.new, torch.get_num_threads(), "cpu")
        adapters = [
            draw_all_linear(backbone, f"task{seed}", rank=RANK, seed=seed)
            if plan.lora
            else draw(backbone, f"task{seed}", density=plan.density, seed=seed)
            for seed in range(plan.rows)
        ]
        on_state("native")
        _native(plan, work, adapters, roofs, report)
        on_state("torch")
        _torch(plan, work, adapters, report)
    report.notes.append(
        f"Roofs, measured before: {roofs.bytes_per_second / 1e9:.1f} GB/s read, "
        f"{roofs.operations_per_second / 1e9:.0f} G operations/s in torch's own product. A floor "
        "is what weights and deltas (bytes) or products (operations) take at these roofs; where "
        "none is given, none was reckoned."
    )
    return report


def _case(
    plan: ProfilePlan, work: Work, adapters: Sequence[Adapter], kernels: Kernels
) -> tuple[OursCase, Engine]:
    engine = make_engine(work, plan.dtype, kernels)
    slots: list[Slots] = [(engine.install(engine.pack(adapter)),) for adapter in adapters]
    return OursCase(kernels, engine, work, slots), engine


def _native(
    plan: ProfilePlan, work: Work, adapters: Sequence[Adapter], roofs: Roofs, report: Report
) -> None:
    case, engine = _case(plan, work, adapters, plan.kernels)
    runner = engine.runner
    if not isinstance(runner, NativeRunner):
        raise EngineRefused(
            f"kernels {plan.kernels} compute with {engine.kernels} here; only native kernels are "
            "timed by operation: give --kernels native to see why they do not run"
        )
    report.about["kernels"] = engine.kernels
    case.run()
    for tape in runner.tapes.values():
        tape.start_timing()
    for _ in range(plan.rounds):
        case.run()
    costs = _costs(runner, adapters)
    for phase, tape in runner.tapes.items():
        is_decode = phase == "decode"
        replays = plan.rounds * (plan.new if is_decode else 1)
        tokens = 1 if is_decode else plan.source  # of each task
        lines: dict[str, _Line] = defaultdict(_Line)
        for timing in tape.timings():
            floor = _floor(timing, tokens, plan.rows, costs, roofs)
            if floor == 0:
                continue  # deltas that no task has
            line = lines[_name(timing)]
            line.count += 1
            line.seconds += timing.seconds / replays
            if floor is not None:
                line.floor = (line.floor or 0.0) + floor
        _fill(report, phase, "ms a step" if is_decode else "ms", lines)


def _costs(runner: NativeRunner, adapters: Sequence[Adapter]) -> list[Cost]:
    """By the number of a module in the tapes."""
    packed = [runner.pack(adapter) for adapter in adapters]
    return [
        Cost(
            sum(each.forms[name].nbytes for each in packed if name in each.forms),
            sum(each.deltas[name].nnz for each in adapters if name in each.deltas),
        )
        for name in runner.sites
    ]


def _floor(
    timing: Timing, tokens: int, tasks: int, costs: Sequence[Cost], roofs: Roofs
) -> float | None:
    """Seconds at the roofs of a linear's weights or of the tasks' deltas; None for the rest."""
    if timing.kind in _LINEAR:
        size = timing.sizes[0] * timing.sizes[1]
        width = 1 if timing.kind == Kind.LINEAR_I8 else 4
        return roofs.floor(width * size, 2 * size * tokens * tasks)
    if timing.kind in _DELTA:
        first, count = timing.sizes[3:5]
        return sum(
            roofs.floor(cost.nbytes, 2 * cost.numbers * tokens)
            for cost in costs[first : first + count]
        )
    return None


def _fill(report: Report, phase: str, unit: str, lines: Mapping[str, _Line]) -> None:
    ordered = sorted(lines.items(), key=lambda named: -named[1].seconds)
    seconds = {name: line.seconds for name, line in lines.items()}
    floors = {name: line.floor for name, line in lines.items() if line.floor is not None}
    rows = [[name, str(line.count), _ms(line.seconds), _ms(line.floor)] for name, line in ordered]
    rows.append(["all", "", _ms(sum(seconds.values())), _ms(sum(floors.values()))])
    columns = ["operation", "times", "ms", "floor"]
    report.grids.append(Grid(f"Native {phase}, {unit}", columns, rows))
    report.data[f"native {phase}"] = {"seconds": seconds, "floors": floors}


def _torch(plan: ProfilePlan, work: Work, adapters: Sequence[Adapter], report: Report) -> None:
    case, _ = _case(plan, work, adapters, "torch")
    case.run()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        lap = case.run()
    found = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
    rows = [
        [event.key, str(event.count), _ms(event.self_cpu_time_total / 1e6)]
        for event in found[:_SHOWN]
    ]
    rows.append(["all, with Python", "", _ms(lap.seconds)])
    title = f"The torch path: an encode and {plan.new} decode steps under torch's profiler, ms"
    report.grids.append(Grid(title, ["operator", "calls", "ms"], rows))


def _name(timing: Timing) -> str:
    name = timing.kind.name.lower().replace("_", " ")
    if timing.kind in _LINEAR + _DELTA:
        return f"{name} {timing.sizes[1]} x {timing.sizes[0]}"
    return name


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.2f}"
