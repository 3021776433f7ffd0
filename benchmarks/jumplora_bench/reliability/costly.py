"""Floods of requests that are cheap to send and dear to handle, each beside a quiet task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jumplora_bench.reliability.demo import QUIET_NOTE, check_calm, demo_site, learned, milliseconds
from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.siege.flood import KINDS
from jumplora_bench.reliability.siege.log_reading import faults_of_log
from jumplora_bench.reliability.siege.quiet import Calm, QuietTask
from jumplora_bench.reliability.siege.senders import Sender
from jumplora_bench.reliability.site import Site, commit_of, wait_until
from jumplora_bench.reliability.vitals import Gauge, resident_bytes
from jumplora_bench.report import Grid, Report

CLIENTS = 4
MOST_TIMES = 3.0  # of the quiet task's p95 alone
LEAST_LIMIT = 0.1  # seconds: below that a p95 is short enough, whatever it was alone
MOST_GROWTH = 1.10  # of memory, from the middle flood to the end
MOST_MORE_BYTES = 128 * 1024**2
ALONE_SECONDS = 30.0
FIRST_SECONDS = 10.0  # until a flood's first answer, its process's start included


@dataclass(frozen=True, slots=True)
class CostlyPlan:
    """`seconds` a flood, the first `count` kinds of flood (0: all)."""

    python: Path
    seconds: float
    count: int = 0


@dataclass(slots=True)
class Flooded:
    """What was seen during one flood; `came` are the statuses of its answers."""

    name: str
    calm: Calm
    resident_bytes: int
    most_bytes: int
    came: dict[str, int]


def measure_costly(
    plan: CostlyPlan,
    command: str,
    on_done: Callable[[int, int], None],
    on_state: Callable[[str], None],
) -> Report:
    """The quiet task alone, then beside each flood."""
    findings = Findings()
    kinds = list(KINDS)[: plan.count or None]
    with demo_site(plan.python) as site:
        quiet, pid = learned(site), site.server.process.pid
        on_state("alone")
        alone = quiet.watch(min(ALONE_SECONDS, 2 * plan.seconds))
        floods = [Flooded("alone", alone, resident_bytes(pid), resident_bytes(pid), {})]
        for turn, kind in enumerate(kinds):
            on_state(kind)
            findings.case = kind
            floods.append(_flood(site, quiet, kind, plan.seconds))
            check_calm(findings, floods[-1].calm, max(alone.p95 * MOST_TIMES, LEAST_LIMIT))
            _check(findings, floods[-1], is_alive=site.is_alive)
            on_done(turn + 1, len(kinds))
        findings.case = "after all"
        growth = resident_bytes(pid) / floods[len(floods) // 2].most_bytes
        findings.check("flat memory", growth <= MOST_GROWTH, f"{growth:.2f} times")
        for fault, times in faults_of_log(site.log).items():
            findings.fault(f"{fault} ({times} times)", "the log")
    return _report(plan, command, findings, floods)


def _flood(site: Site, quiet: QuietTask, kind: str, seconds: float) -> Flooded:
    came: dict[str, int] = {}

    def told(line: dict[str, Any]) -> None:
        came.update(line["came"])

    pid = site.server.process.pid
    before = resident_bytes(pid)
    with Gauge(pid) as gauge, Sender("flood", site.url, kind, CLIENTS, on_told=told):
        wait_until(lambda: bool(came), FIRST_SECONDS)
        calm = quiet.watch(seconds)
    return Flooded(kind, calm, before, gauge.most_bytes, came)


def _check(findings: Findings, flooded: Flooded, *, is_alive: bool) -> None:
    findings.check("alive", is_alive, "the process ended")
    more = flooded.most_bytes - flooded.resident_bytes
    findings.check("memory beside it", more <= MOST_MORE_BYTES, f"{more / 1e6:.0f} MB more")
    odd = {name for name in flooded.came if name.startswith("5")} - {"503", "504"}
    findings.check("no 5xx", not odd, f"{flooded.came}")
    findings.check("it was answered", bool(flooded.came), "nothing came")


def _report(plan: CostlyPlan, command: str, findings: Findings, floods: list[Flooded]) -> Report:
    report = Report("reliability-costly", "Requests that are dear to handle", command)
    rows = [
        (
            flooded.name, *milliseconds(flooded.calm, floods[0].calm),
            str(len(flooded.calm.refused)), f"{flooded.most_bytes / 1e6:.0f}",
            ", ".join(f"{times} x {name}" for name, times in sorted(flooded.came.items())) or "-",
        )
        for flooded in floods
    ]  # fmt: skip
    columns = (
        "beside the quiet task",
        "median ms",
        "p95 ms",
        "times",
        "refused",
        "MB at most",
        "came",
    )
    report.grids = [Grid("The quiet task", columns, rows), *findings.grids()]
    report.notes = [
        f"Server: commit {commit_of(plan.python)}; {plan.seconds:.0f} s a flood of {CLIENTS} "
        f"clients that send as fast as they are answered; {QUIET_NOTE}",
        *findings.notes,
    ]
    report.data = {**findings.data(), "floods": [asdict(flooded) for flooded in floods]}
    return report
