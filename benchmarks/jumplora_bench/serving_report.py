"""The report of `jumplora bench serving`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from jumplora_bench.answers import Answer, Percentiles, Slo, Summary, percentile
from jumplora_bench.asking import How
from jumplora_bench.bars import verdict
from jumplora_bench.disturbance import Disturbance, Side
from jumplora_bench.plots import LinePlot
from jumplora_bench.report import Grid, Report
from jumplora_bench.rounds import Spread, ratios, spread

LEAST_SERVED = 0.95  # of the engine's own throughput
MOST_ADDED_SECONDS = 0.003
MOST_DISTURBED = 1.08


@dataclass(slots=True)
class Saturation:
    """Tokens a second in each round, and the load generator's share of a core in each window.

    `failed` are requests of the served windows.
    """

    engine: list[float] = field(default_factory=list)
    served: dict[How, list[float]] = field(default_factory=lambda: {"whole": [], "streamed": []})
    client_cpu: list[float] = field(default_factory=list)
    failed: dict[How, int] = field(default_factory=lambda: {"whole": 0, "streamed": 0})


@dataclass(frozen=True, slots=True)
class LowLoad:
    """Seconds of one request alone, in each round; its answer came whole, or token by token."""

    how: How
    engine: Sequence[float]
    served: Sequence[float]
    failed: int  # of the served

    @property
    def added(self) -> float:
        """What serving adds to the median, in seconds."""
        return statistics.median(self.served) - statistics.median(self.engine)


@dataclass(frozen=True, slots=True)
class RateRun:
    """Open-loop traffic of one rate, in requests a second."""

    rate: float
    summary: Summary
    client_cpu: float
    answers: Sequence[Answer]


@dataclass(slots=True)
class ServingFound:
    """What the parts found; those that were not run are empty."""

    slo: Slo
    threads: int
    saturation: Saturation | None = None
    low_load: list[LowLoad] = field(default_factory=list)
    rates: list[RateRun] = field(default_factory=list)
    disturbance: Disturbance | None = None


def fill(report: Report, found: ServingFound) -> None:
    """Put everything into the report."""
    report.data = {"threads": found.threads, "slo": asdict(found.slo)}
    held = [
        *_held_saturation(found.saturation),
        *map(_held_low_load, found.low_load),
        *_held_disturbance(found),
    ]
    if held:
        columns = ("measure", "served or disturbed", "engine or quiet", "median", "bar", "")
        report.grids.append(Grid("Beside the engine, and beside a quiet server", columns, held))
    if found.saturation is not None:
        report.data["saturation"] = asdict(found.saturation)
        report.notes.append(
            "At saturation the load generator used at most "
            f"{max(found.saturation.client_cpu):.2f} of a core of this machine."
        )
    if found.low_load:
        report.data["low_load"] = list(map(asdict, found.low_load))
    if found.rates:
        _fill_rates(report, found.rates, found.slo)
    if found.disturbance is not None:
        _fill_disturbance(report, found.disturbance)


def _held_saturation(found: Saturation | None) -> list[tuple[str, ...]]:
    if found is None:
        return []
    held: list[tuple[str, ...]] = []
    for how, served in found.served.items():
        ratio = ratios(served, found.engine).median
        held.append(
            (
                f"throughput at saturation, answers {how}, tokens/s{_failures(found.failed[how])}",
                _range(spread(served), 1),
                _range(spread(found.engine), 1),
                f"{ratio:.3f}",
                f">= {LEAST_SERVED}",
                verdict(ratio >= LEAST_SERVED and not found.failed[how]),
            )
        )
    return held


def _held_low_load(found: LowLoad) -> tuple[str, ...]:
    return (
        f"one request alone, its answer {found.how}, ms{_failures(found.failed)}",
        _range(spread(found.served), 1, scale=1000),
        _range(spread(found.engine), 1, scale=1000),
        f"{1000 * found.added:+.1f} ms",
        f"<= {1000 * MOST_ADDED_SECONDS:.0f} ms",
        verdict(found.added <= MOST_ADDED_SECONDS and not found.failed),
    )


def _held_disturbance(found: ServingFound) -> list[tuple[str, ...]]:
    if found.disturbance is None:
        return []
    disturbed, quiet = found.disturbance.disturbed, found.disturbance.quiet
    ratio = ratios(disturbed.step, quiet.step).median
    failed = disturbed.failed + quiet.failed
    return [
        (
            f"step with scrapes and upload, ms{_failures(failed)}",
            _range(spread(disturbed.step), 2, scale=1000),
            _range(spread(quiet.step), 2, scale=1000),
            f"{ratio:.3f}",
            f"<= {MOST_DISTURBED:.2f}",
            verdict(ratio <= MOST_DISTURBED and not failed),
        )
    ]


def _failures(count: int) -> str:
    return f" ({count} FAILED)" if count else ""


def _fill_rates(report: Report, runs: Sequence[RateRun], slo: Slo) -> None:
    columns = (
        "requests/s", "sent", "failed", "TTFT ms p50/p90/p99", "TPOT ms", "end to end ms",
        "good", "good/s", "worst task, p90 ms", "client CPU", "late ms",
    )  # fmt: skip
    title = (
        "Open loop: Poisson arrivals, Zipf tasks; good: TTFT within "
        f"{slo.ttft:g} s and TPOT within {slo.tpot:g} s"
    )
    report.grids.append(Grid(title, columns, [_rate_row(run) for run in runs]))
    report.notes.append(
        "Times run from when a request was due, so that a late client hides no wait; late: the "
        "worst delay between due and sent."
    )
    report.data["rates"] = [
        {"rate": run.rate, "client_cpu": run.client_cpu, **asdict(run.summary)} for run in runs
    ]
    lines = {
        name: [(run.rate, p) for run in runs if (p := _of(run.summary.total, name)) is not None]
        for name in ("p50", "p90", "p99")
    }
    report.plots += [
        LinePlot("End-to-end time by rate", "requests a second", "seconds", lines),
        LinePlot(
            "Goodput by rate",
            "requests a second",
            "good requests a second",
            {
                "good": [(run.rate, run.summary.good_rate) for run in runs],
                "offered": [(run.rate, run.rate) for run in runs],
            },
        ),
    ]


def _rate_row(run: RateRun) -> tuple[str, ...]:
    summary = run.summary
    return (
        f"{run.rate:.2f}",
        str(summary.sent),
        str(summary.failed),
        _percentiles(summary.ttft),
        _percentiles(summary.tpot),
        _percentiles(summary.total),
        f"{summary.good_share:.1%}",
        f"{summary.good_rate:.2f}",
        f"{summary.worst_task}, {1000 * summary.worst_p90:.0f}",
        f"{run.client_cpu:.2f}",
        f"{1000 * summary.lateness:.0f}",
    )


def _fill_disturbance(report: Report, found: Disturbance) -> None:
    columns = (
        "",
        "decode ms/step",
        "encode ms",
        "rows a step",
        "end to end ms p50/p90/p99",
        "failed",
    )
    rows = [_side_row("quiet", found.quiet), _side_row("disturbed", found.disturbed)]
    title = f"Ten scrapes of /metrics a second and one upload of {found.upload_bytes / 1e6:.1f} MB"
    report.grids.append(Grid(title, columns, rows))
    scrape, upload = spread(found.scrape_seconds), spread(found.upload_seconds)
    report.notes.append(
        f"{len(found.scrape_seconds)} scrapes took {1000 * scrape.median:.1f} ms each (median; at "
        f"most {1000 * scrape.most:.0f}), an upload {upload.median:.2f} s until its version "
        f"answered (median; at most {upload.most:.2f})."
    )
    report.data["disturbance"] = asdict(found)


def _side_row(name: str, side: Side) -> tuple[str, ...]:
    totals = [percentile(side.totals, share) for share in (0.5, 0.9, 0.99)] if side.totals else []
    return (
        name,
        f"{1000 * statistics.median(side.decode):.2f}",
        f"{1000 * statistics.median(side.encode):.2f}",
        f"{statistics.median(side.rows):.2f}",
        "/".join(f"{1000 * value:.0f}" for value in totals),
        str(side.failed),
    )


def _of(percentiles: Percentiles | None, name: str) -> float | None:
    return None if percentiles is None else float(getattr(percentiles, name))


def _percentiles(values: Percentiles | None) -> str:
    if values is None:
        return ""
    return "/".join(f"{1000 * value:.0f}" for value in (values.p50, values.p90, values.p99))


def _range(values: Spread, digits: int, *, scale: float = 1.0) -> str:
    median, least, most = (scale * v for v in (values.median, values.least, values.most))
    return f"{median:.{digits}f} ({least:.{digits}f}-{most:.{digits}f})"
