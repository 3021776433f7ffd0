"""Where the time of one encode and one decode step goes, kernel by kernel; on a machine with a GPU.

    PYTHONPATH=server:adapters python -m jumplora_bench.gpu_step [--tasks 64] [--out FOLDER]

Random weights of a T5 shape. Each phase is timed twice before it is profiled: on the device's
clock, with all that it waits for, and on the host's until its last launch (what the host alone
takes). `--device cpu --shape tiny` shows that it runs; there torch's operators are listed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from jumplora_adapters.backbone import read_backbone
from jumplora_bench.backbone import write_backbone
from jumplora_bench.cases.case import Work
from jumplora_bench.cases.ours import make_engine
from jumplora_bench.masked import draw
from jumplora_bench.prompts import random_prompts
from jumplora_bench.shapes import SHAPE_NAMES, config_of
from jumplora_server.core import Batch, Encoding, Sampling, Sequence
from jumplora_server.engine.bank import PackedAdapter
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.warm_up import NoText

DENSITY, REPEATS = 0.051, 10


@dataclass(frozen=True, slots=True)
class Part:
    """One kernel, or one operator of torch on a CPU."""

    name: str
    calls: int
    us: float


@dataclass(frozen=True, slots=True)
class Phase:
    """What was found for one phase. Milliseconds are medians."""

    name: str
    total_ms: float  # from its first launch to the end of its last kernel
    host_ms: float  # until the host has launched all
    parts: list[Part]


def measure(name: str, run: Callable[[], object], device: torch.device) -> Phase:
    """Time and profile one phase."""
    totals, hosts = [], []
    for lap in range(REPEATS + 2):
        _wait(device)
        began = time.perf_counter()
        run()
        launched = time.perf_counter()
        _wait(device)
        if lap >= 2:  # the first ones compile and capture
            totals.append((time.perf_counter() - began) * 1e3)
            hosts.append((launched - began) * 1e3)
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
        run()
        _wait(device)
    parts = [_part(event, on_gpu) for event in found.key_averages()]
    return Phase(
        name,
        total_ms=round(statistics.median(totals), 3),
        host_ms=round(statistics.median(hosts), 3),
        parts=sorted((part for part in parts if part.us > 0), key=lambda part: -part.us),
    )


def _part(event: Any, on_gpu: bool) -> Part:
    us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
    return Part(event.key, event.count, round(us, 1))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def show(phase: Phase, listed: int) -> None:
    """Print a phase, its costliest parts first."""
    busy = sum(part.us for part in phase.parts) / 1e3
    calls = sum(part.calls for part in phase.parts)
    print(
        f"\n{phase.name}: {phase.total_ms} ms, of which the host takes {phase.host_ms}; "
        f"{calls} kernels or operators take {busy:.3f} ms"
    )
    for part in phase.parts[:listed]:
        print(f"{part.us:10.1f} us {part.calls:5d} x {part.us / part.calls:8.1f}  {part.name[:90]}")


def install(engine: Engine, folder: Path, tasks: int) -> dict[int, PackedAdapter[Any]]:
    """That many random tasks, by their slots."""
    backbone = read_backbone(folder)

    def pack(seed: int) -> PackedAdapter[Any]:
        return engine.pack(draw(backbone, f"task{seed}", density=DENSITY, seed=seed))

    with ThreadPoolExecutor() as threads:
        return {engine.install(packed): packed for packed in threads.map(pack, range(tasks))}


def sequences_of(work: Work, slots: list[int]) -> tuple[Sequence, ...]:
    """The work's prompts, in rows from 0, each with the next of the slots."""
    return tuple(
        Sequence(
            id=row,
            encoding=Encoding(None, prompt, (slots[row % len(slots)],) if slots else (), place=row),
            sampling=Sampling(max_new_tokens=work.new),
            detokenizer=NoText(),
            arrived=0.0,
            row=row,
        )
        for row, prompt in enumerate(work.prompts)
    )


def phases(
    engine: Engine,
    installed: dict[int, PackedAdapter[Any]],
    sequences: tuple[Sequence, ...],
    device: torch.device,
) -> list[Phase]:
    """An encode, a decode step in the middle of an answer, and one with its choice of tokens."""
    prompts = tuple(sequence.encoding for sequence in sequences)
    encode = measure("encode", lambda: engine.step(Batch(prompts, ())), device)
    for sequence in sequences:
        sequence.output.extend([2] * (sequence.sampling.max_new_tokens // 2))
    lineages = [tuple(installed[slot] for slot in each.encoding.slots) for each in sequences]

    def logits() -> object:
        with torch.inference_mode():
            return engine.runner.logits(sequences, lineages)

    return [
        encode,
        measure("decode step", logits, device),
        measure("decode step and choice", lambda: engine.step(Batch((), sequences)), device),
    ]


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--shape", default="large", choices=SHAPE_NAMES)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--source", type=int, default=128)
    parser.add_argument("--new", type=int, default=16)
    parser.add_argument("--tasks", type=int, nargs="+", default=[0], help="0: the bare backbone")
    parser.add_argument("--listed", type=int, default=14, help="kernels that are printed")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(given)
    device = torch.device(asked.device)
    found: dict[int, list[Phase]] = {}
    with tempfile.TemporaryDirectory(prefix="jumplora-step-") as scratch:
        folder = write_backbone(Path(scratch) / "backbone", asked.shape)
        prompts = random_prompts(asked.rows, asked.source, config_of(asked.shape)["vocab_size"])
        threads = torch.get_num_threads()
        work = Work(folder, prompts, new=asked.new, threads=threads, device=asked.device)
        engine = make_engine(work, asked.dtype, "auto" if device.type == "cuda" else "torch")
        installed = install(engine, folder, max(asked.tasks))
        for tasks in asked.tasks:
            sequences = sequences_of(work, list(installed)[:tasks])
            print(f"\n{tasks} tasks, {asked.rows} rows, {asked.shape}, {asked.dtype}")
            found[tasks] = phases(engine, installed, sequences, device)
            for phase in found[tasks]:
                show(phase, asked.listed)
    if asked.out is not None:
        text = json.dumps({n: [asdict(phase) for phase in p] for n, p in found.items()}, indent=1)
        (asked.out / "gpu-step.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
