"""Connections that ask for nothing, or never end, beside a quiet task: one crowd after another.

The quiet task keeps its time, memory stays small, and the server drops what never ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from jumplora_bench.reliability.demo import (
    QUIET_NOTE,
    SETTINGS,
    check_calm,
    demo_site,
    learned,
    milliseconds,
)
from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.siege.quiet import Calm, QuietTask
from jumplora_bench.reliability.siege.senders import Sender
from jumplora_bench.reliability.site import Site, commit_of, settings_of, wait_until
from jumplora_bench.reliability.vitals import (
    GAUGE_SECONDS,
    OWN_SOCKETS,
    Gauge,
    resident_bytes,
    sockets_of,
)
from jumplora_bench.report import Grid, Report

# Seconds, by the names of the server's settings; a server that does not know one runs without it.
LIMITS: dict[str, object] = {"header_timeout": 10, "idle_timeout": 60, "transfer_timeout": 10}
DROP_SECONDS = 30.0
"""By then all of a crowd that never ends its requests must be dropped."""
MOST_TIMES = 3.0  # of the quiet task's p95 alone
MOST_MORE_BYTES = 128 * 1024**2  # while a crowd is there
MOST_GROWTH = 1.10  # after all of them, from after a first wave of bodies
SETTLE_SECONDS = 60.0
START_SECONDS = 30.0  # of a crowd's process


@dataclass(frozen=True, slots=True)
class Crowd:
    """`count` connections of one kind; `must_end`: the server may not keep them."""

    kind: str
    count: int
    must_end: bool = True


CROWDS = (
    Crowd("idle", 2000, must_end=False),
    Crowd("half-open", 2000),
    Crowd("unfinished bodies", 400),
    Crowd("slow heads", 50),
    Crowd("slow bodies", 50),
    Crowd("unread answers", 50),
)
FIRST_WAVE = Crowd("unfinished bodies", 400)


@dataclass(frozen=True, slots=True)
class ConnectionsPlan:
    """`share` of the crowds' connections, `seconds` a phase, `drop_seconds` until all are gone."""

    python: Path
    seconds: float
    share: float = 1.0
    drop_seconds: float = DROP_SECONDS


@dataclass(slots=True)
class Phase:
    """What was seen while one crowd was there; `held` connections the server had open at most."""

    name: str
    calm: Calm
    resident_bytes: int
    most_bytes: int = 0
    opened: int = 0
    held: int = 0
    dropped_seconds: float | None = None
    came: dict[str, int] = field(default_factory=dict)


def measure_connections(
    plan: ConnectionsPlan,
    command: str,
    on_done: Callable[[int, int], None],
    on_state: Callable[[str], None],
) -> Report:
    """The quiet task alone, beside each crowd, and alone again."""
    findings = Findings()
    known = settings_of(plan.python)
    limits = {name: value for name, value in LIMITS.items() if name in known}
    with demo_site(plan.python, {**SETTINGS, **limits}) as site:
        quiet = learned(site)
        on_state("a first wave of bodies")
        # The allocator keeps memory of bodies. After a first wave that does not count as growth.
        with _crowd(site, quiet, FIRST_WAVE, replace(plan, seconds=min(5.0, plan.seconds))):
            pass
        _check_gone(findings, site)
        on_state("alone")
        phases = [_alone(site, quiet, "alone before", plan.seconds)]
        for turn, crowd in enumerate(CROWDS):
            on_state(crowd.kind)
            findings.case = crowd.kind
            with _crowd(site, quiet, crowd, plan) as phase:
                phases.append(phase)
                _check(findings, crowd, phase, phases[0], plan.drop_seconds)
            _check_gone(findings, site)
            on_done(turn + 1, len(CROWDS))
        on_state("alone again")
        phases.append(_alone(site, quiet, "alone after", plan.seconds))
        findings.case = "after all"
        findings.check("alive", site.is_alive, "the process ended")
        growth = phases[-1].resident_bytes / phases[0].resident_bytes
        findings.check("flat memory", growth <= MOST_GROWTH, f"{growth:.2f} times")
    return _report(plan, command, findings, limits, phases)


def _alone(site: Site, quiet: QuietTask, name: str, seconds: float) -> Phase:
    pid = site.server.process.pid
    with Gauge(pid) as gauge:
        calm = quiet.watch(seconds)
    return Phase(name, calm, resident_bytes(pid), gauge.most_bytes, held=gauge.most_sockets)


@contextmanager
def _crowd(site: Site, quiet: QuietTask, crowd: Crowd, plan: ConnectionsPlan) -> Iterator[Phase]:
    """Yields while the crowd is still there."""
    pid, count = site.server.process.pid, max(2, round(crowd.count * plan.share))
    phase = Phase(f"{count} {crowd.kind}", Calm((), (), ()), resident_bytes(pid))

    begins = threading.Event()

    def told(line: dict[str, Any]) -> None:
        begins.set()
        phase.opened = line.get("opened", phase.opened)
        if "came" in line:
            phase.came[line["came"]] = phase.came.get(line["came"], 0) + 1

    with Gauge(pid) as gauge, Sender("crowd", site.url, crowd.kind, count, on_told=told):
        begins.wait(START_SECONDS)
        began = time.monotonic()
        phase.calm = quiet.watch(plan.seconds)
        wait_until(lambda: phase.opened > 0, START_SECONDS)
        left = max(0.0, plan.drop_seconds - (time.monotonic() - began)) if crowd.must_end else 0.0
        if wait_until(lambda: sockets_of(pid) <= OWN_SOCKETS, left):
            phase.dropped_seconds = max(0.0, gauge.crowded_until - began)
        phase.most_bytes, phase.held = gauge.most_bytes, gauge.most_sockets
        yield phase


def _check(
    findings: Findings, crowd: Crowd, phase: Phase, before: Phase, drop_seconds: float
) -> None:
    check_calm(findings, phase.calm, before.calm.p95 * MOST_TIMES)
    more = phase.most_bytes - phase.resident_bytes
    findings.check("memory beside it", more <= MOST_MORE_BYTES, f"{more / 1e6:.0f} MB more")
    if crowd.must_end:
        dropped = phase.dropped_seconds
        is_in_time = dropped is not None and dropped <= drop_seconds + GAUGE_SECONDS
        told = "not all of them" if dropped is None else f"after {dropped:.0f} s"
        findings.check("dropped in time", is_in_time, told)


def _check_gone(findings: Findings, site: Site) -> None:
    """Once the crowd has closed its side."""
    pid = site.server.process.pid
    is_gone = wait_until(lambda: sockets_of(pid) <= OWN_SOCKETS, SETTLE_SECONDS)
    findings.check("no socket kept", is_gone, f"{sockets_of(pid)} sockets")


def _report(
    plan: ConnectionsPlan,
    command: str,
    findings: Findings,
    limits: dict[str, object],
    phases: list[Phase],
) -> Report:
    report = Report("reliability-connections", "Connections that ask for nothing", command)
    rows = [
        (
            phase.name, *milliseconds(phase.calm, phases[0].calm), str(len(phase.calm.refused)),
            f"{phase.resident_bytes / 1e6:.0f}", f"{phase.most_bytes / 1e6:.0f}", str(phase.held),
            "-" if phase.dropped_seconds is None else f"{phase.dropped_seconds:.0f}",
            ", ".join(f"{times} x {status}" for status, times in sorted(phase.came.items())) or "-",
        )
        for phase in phases
    ]  # fmt: skip
    columns = (
        "beside the quiet task", "median ms", "p95 ms", "times", "refused", "MB before",
        "MB at most", "sockets at most", "all dropped after s", "what came first",
    )  # fmt: skip
    report.grids = [Grid("The quiet task and the process", columns, rows), *findings.grids()]
    report.notes = [
        f"Server: commit {commit_of(plan.python)}; limits set: {limits or 'none'}; "
        f"{plan.seconds:.0f} s a phase, the crowd's opening included; {QUIET_NOTE}",
        *findings.notes,
    ]
    report.data = {**findings.data(), "phases": [asdict(phase) for phase in phases]}
    return report
