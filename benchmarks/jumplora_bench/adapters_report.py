"""The report of `jumplora bench adapters`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from jumplora_bench.bars import verdict
from jumplora_bench.loading import PARTS, STAGES, Interference, Loading
from jumplora_bench.plots import LinePlot
from jumplora_bench.registered import RegisteredRun
from jumplora_bench.report import Grid, Report
from jumplora_bench.rounds import ratios, spread
from jumplora_bench.shapes import ShapeName

MOST_READY_SECONDS = 0.5  # T5-large shape, from the file on disk
MOST_PACKED_BYTES = 34_500_000  # one delta of 5.1 %, T5-large shape
MOST_LOSS = 0.03  # of throughput, 1000 registered tasks beside 5
_PACKED_DENSITY = 0.051
_FEW, _MANY = 5, 1000


@dataclass(frozen=True, slots=True)
class Bytes:
    """One adapter's bytes: in the engine, in its file (bit masks and bfloat16 values), as a dense
    16-bit copy of the targets, as the 16-bit factors of a LoRA of rank 8.
    """

    density: float
    packed: int
    file: int
    dense: int
    lora: int


@dataclass(slots=True)
class AdaptersFound:
    """What the parts found; those that were not run are empty."""

    shape: ShapeName
    density: float
    registered_shape: ShapeName
    asked: int
    filler_targets: int
    threads: int
    bytes: list[Bytes] = field(default_factory=list)
    loading: Loading | None = None
    busy_loading: Loading | None = None
    interference: Interference | None = None
    registered: list[RegisteredRun] = field(default_factory=list)


def fill(report: Report, found: AdaptersFound) -> None:
    """Put everything into the report."""
    report.data = {"threads": found.threads, "shape": found.shape, "density": found.density}
    if found.bytes:
        _fill_bytes(report, found)
    if found.loading is not None and found.busy_loading is not None:
        _fill_loading(report, found, found.loading, found.busy_loading)
    if found.interference is not None:
        _fill_interference(report, found.interference)
    if found.registered:
        _fill_registered(report, found)


def _fill_bytes(report: Report, found: AdaptersFound) -> None:
    columns = ("density", "packed MB", "file MB", "dense 16-bit MB", "LoRA r = 8 MB", "bar", "")
    rows = []
    for each in found.bytes:
        is_held = found.shape == "large" and each.density == _PACKED_DENSITY
        rows.append(
            (
                f"{each.density:.1%}",
                *(f"{n / 1e6:.1f}" for n in (each.packed, each.file, each.dense, each.lora)),
                f"<= {MOST_PACKED_BYTES / 1e6:.1f} packed" if is_held else "",
                verdict(each.packed <= MOST_PACKED_BYTES if is_held else None),
            )
        )
    title = f"Bytes of one adapter, T5-{found.shape} shape, bfloat16 values"
    report.grids.append(Grid(title, columns, rows))
    report.data["bytes"] = [asdict(each) for each in found.bytes]


def _fill_loading(report: Report, found: AdaptersFound, idle: Loading, busy: Loading) -> None:
    ready = statistics.median(idle.ready)
    is_held = found.shape == "large"
    bar = f"<= {MOST_READY_SECONDS:.1f} s" if is_held else ""
    held = verdict(ready <= MOST_READY_SECONDS if is_held else None)
    rows = [
        *_rows("in parts, this process", idle.parts, PARTS),
        *_rows("server, idle", idle.stages, STAGES),
        _row("server, idle", "disk to ready", idle.ready, bar, held),
        _row("server, idle", "PUT to answer", idle.put),
        _row("server, with requests", "disk to ready", busy.ready),
        _row("server, with requests", "PUT to answer", busy.put),
    ]
    title = f"Load to ready: T5-{found.shape} shape, a file of {idle.file_bytes / 1e6:.1f} MB"
    columns = ("where", "stage", "median s", "min", "max", "bar", "")
    report.grids.append(Grid(title, columns, rows))
    report.notes.append(
        "Disk to ready is the sum of the server's stages: read (with all checks), pack (with "
        "install), warm-up, canaries. A PUT also uploads, validates and writes the file into the "
        "store. Files were just written, so they are read from the system's cache."
    )
    report.data["loading"] = {"idle": asdict(idle), "busy": asdict(busy)}


def _fill_interference(report: Report, found: Interference) -> None:
    rows = [
        _row("other requests", "quiet", found.quiet),
        _row("other requests", "beside a load", found.beside),
        _row("one full batch, idle server", "", found.batch),
    ]
    added = max(found.beside, default=0.0) - max(found.quiet, default=0.0)
    batch = statistics.median(found.batch)
    is_met = bool(found.beside and found.quiet) and added <= batch and not found.failed
    columns = ("whose", "when", "median s", "min", "max", "bar", "")
    report.grids.append(Grid("Other requests, while an adapter is loaded", columns, rows))
    report.notes.append(
        f"The slowest request beside a load took {added:+.3f} s beside the slowest in quiet; one "
        f"batch takes {batch:.3f} s (bar: no more than that, and none failed: {verdict(is_met)}). "
        f"{found.failed} requests failed."
    )
    report.data["interference"] = asdict(found)


def _fill_registered(report: Report, found: AdaptersFound) -> None:
    runs, few = found.registered, found.registered[0]
    columns = (
        "registered", "tokens/s", "min", "max", "of the first", "bar", "", "memory MB",
        "/metrics kB", "scrape ms", "start s", "failed",
    )  # fmt: skip
    rows = []
    for run in runs:
        speed, ratio = (
            spread(run.tokens_per_second),
            ratios(run.tokens_per_second, few.tokens_per_second),
        )
        is_held = (few.tasks, run.tasks) == (_FEW, _MANY)
        is_met = ratio.median >= 1 - MOST_LOSS and not (run.failed or few.failed)
        rows.append(
            (
                str(run.tasks),
                *(f"{v:.1f}" for v in (speed.median, speed.least, speed.most)),
                f"{ratio.median:.3f}",
                f">= {1 - MOST_LOSS:.2f}" if is_held else "",
                verdict(is_met if is_held else None),
                f"{run.resident_bytes / 1e6:.0f}",
                f"{run.scrape_bytes / 1e3:.0f}",
                f"{1000 * statistics.median(run.scrape_seconds):.1f}",
                f"{run.start_seconds:.1f}",
                str(run.failed),
            )
        )
    title = (
        f"Registered tasks, T5-{found.registered_shape} shape, the same traffic to {found.asked} "
        "of them"
    )
    report.grids.append(Grid(title, columns, rows))
    fillers = f"{found.filler_targets} modules" if found.filler_targets else "all modules"
    report.notes.append(
        f"The {found.asked} tasks that are asked target all modules, the others {fillers}; all "
        "servers run, and all but the measured one are stopped in its turn."
    )
    report.data["registered"] = [asdict(run) for run in runs]
    report.plots.append(
        LinePlot(
            "Throughput by registered tasks",
            "registered tasks",
            "tokens a second",
            {"median": [(run.tasks, statistics.median(run.tokens_per_second)) for run in runs]},
            is_log=(True, False),
        )
    )


def _rows(
    where: str, seconds: Mapping[str, Sequence[float]], names: Sequence[str]
) -> list[tuple[str, ...]]:
    return [_row(where, name, seconds[name]) for name in names]


def _row(
    where: str, stage: str, seconds: Sequence[float], bar: str = "", held: str = ""
) -> tuple[str, ...]:
    if not seconds:
        return (where, stage, "", "", "", bar, held)
    s = spread(seconds)
    return (where, stage, *(f"{v:.3f}" for v in (s.median, s.least, s.most)), bar, held)
