"""`jumplora bench profile`: where encode and decode spend their time, with the floor beside it."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.format import Adapter
from jumplora_server.bench.backbone import write_backbone
from jumplora_server.bench.cases.case import Work
from jumplora_server.bench.cases.ours import OursCase, Slots, make_engine
from jumplora_server.bench.masked import draw
from jumplora_server.bench.prompts import random_prompts
from jumplora_server.bench.report import Grid, Report
from jumplora_server.bench.roofs import Roofs, measure_roofs
from jumplora_server.bench.shapes import VOCABULARY, ShapeName
from jumplora_server.engine.engine import Kernels
from jumplora_server.engine.native.layout import Kind
from jumplora_server.engine.native.runner import NativeRunner
from jumplora_server.engine.native.tape import Timing
from jumplora_server.engine.weights import read_config

_LINEAR = (Kind.LINEAR_F32, Kind.LINEAR_I8)
_SHOWN = 10  # of torch's operators


@dataclass(frozen=True, slots=True)
class ProfilePlan:
    """What to look at: `rows` tasks, one a row."""

    shape: ShapeName = "base"
    dtype: str = "int8"
    rows: int = 8
    source: int = 128
    new: int = 16
    density: float = 0.051
    rounds: int = 5


def measure_profile(plan: ProfilePlan, command: str, on_state: Callable[[str], None]) -> Report:
    """Native and torch, each alone."""
    title = (
        f"Profile: T5-{plan.shape} shape, {plan.dtype}, {plan.rows} tasks, one a row, "
        f"{plan.source} tokens in, {plan.new} out, density {plan.density:.1%}"
    )
    report = Report("profile", title, command)
    on_state("roofs")
    roofs = measure_roofs(plan.dtype)
    with tempfile.TemporaryDirectory(prefix="jumplora-bench-") as folder:
        backbone = read_backbone(write_backbone(Path(folder) / "backbone", plan.shape))
        prompts = random_prompts(plan.rows, plan.source, VOCABULARY)
        work = Work(backbone.path, prompts, plan.new, torch.get_num_threads(), "cpu")
        adapters = [
            draw(backbone, f"task{seed}", density=plan.density, seed=seed)
            for seed in range(plan.rows)
        ]
        on_state("native")
        _native(plan, work, adapters, roofs, report)
        on_state("torch")
        _torch(plan, work, adapters, report)
    report.notes.append(
        f"Roofs, measured before: {roofs.bytes_per_second / 1e9:.1f} GB/s read, "
        f"{roofs.operations_per_second / 1e9:.0f} G operations/s in torch's own product. A floor "
        "is what weights and non-zeros (bytes) or products (operations) take at these roofs; where "
        "none is given, none was reckoned."
    )
    return report


def _case(
    plan: ProfilePlan, work: Work, adapters: Sequence[Adapter], kernels: Kernels
) -> tuple[OursCase, object]:
    engine = make_engine(work, plan.dtype, kernels)
    slots: list[Slots] = [(engine.install(engine.pack(adapter)),) for adapter in adapters]
    return OursCase(kernels, engine, work, slots), engine.runner


def _native(
    plan: ProfilePlan, work: Work, adapters: Sequence[Adapter], roofs: Roofs, report: Report
) -> None:
    case, runner = _case(plan, work, adapters, "native")
    assert isinstance(runner, NativeRunner)
    case.run()
    for tape in runner.tapes.values():
        tape.start_timing()
    for _ in range(plan.rounds):
        case.run()
    config = read_config(work.backbone)
    nonzeros = plan.density * config.d_model * config.inner  # of a module of one task
    targeted = {Kind.DELTA_MANY: plan.rows * plan.source, Kind.DELTA_FEW: plan.rows}
    for phase, tape in runner.tapes.items():
        replays = plan.rounds * (1 if phase == "encode" else plan.new)
        tokens = plan.rows * (plan.source if phase == "encode" else 1)
        seconds: dict[str, float] = defaultdict(float)
        floors: dict[str, float] = defaultdict(float)
        counts: dict[str, int] = defaultdict(int)
        for timing in tape.timings():
            name = _name(timing)
            seconds[name] += timing.seconds / replays
            counts[name] += 1
            if timing.kind in _LINEAR:
                size = timing.sizes[0] * timing.sizes[1]
                width = 1 if timing.kind == Kind.LINEAR_I8 else 4
                floors[name] += roofs.floor(width * size, 2 * size * tokens)
            elif timing.kind in targeted:
                # q and v of three, the v of two, or a q alone.
                modules = {3: 2, 2: 1, 1: 1}[timing.sizes[4]]
                floors[name] += modules * roofs.floor(
                    4 * nonzeros * plan.rows, 2 * nonzeros * targeted[timing.kind]
                )
        rows = [
            [
                name,
                str(counts[name]),
                _ms(seconds[name]),
                _ms(floors.get(name)),
            ]
            for name in sorted(seconds, key=lambda name: -seconds[name])
        ]
        rows.append(["all", "", _ms(sum(seconds.values())), _ms(sum(floors.values()))])
        title = f"Native {phase}, ms" + (" a step" if phase == "decode" else "")
        report.grids.append(Grid(title, ["operation", "times", "ms", "floor"], rows))
        report.data[f"native {phase}"] = {"seconds": dict(seconds), "floors": dict(floors)}


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
    if timing.kind in _LINEAR:
        return f"{name} {timing.sizes[1]} x {timing.sizes[0]}"
    return name


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.2f}"
