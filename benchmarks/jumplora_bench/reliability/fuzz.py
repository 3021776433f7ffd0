"""Fuzzed requests against a live server, beside a quiet task: half schemathesis', half our own.

No answer may be a fault of the server's own, every refusal has the one form, and nothing is left.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from jumplora_bench.reliability.demo import demo_site, learned
from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.siege.log_reading import faults_of_log
from jumplora_bench.reliability.siege.quiet import Calm
from jumplora_bench.reliability.siege.senders import Sender
from jumplora_bench.reliability.site import NoAnswer, Site, commit_of, wait_until
from jumplora_bench.reliability.vitals import OWN_SOCKETS, Vitals, sockets_of, vitals
from jumplora_bench.report import Grid, Report

OWN_SENDERS = 2
WARM_UP = 0.4  # of the rounds: threads, arenas and caches come with first uses
MOST_GROWTH = 1.10  # of memory, from the end of the warm-up to the end
MOST_MORE_SERIES = 20  # a series may appear with a first use, such as a new reason
SECONDS_A_REQUEST = 1.0  # more of them in the mean, and the run is given up
SETTLE_SECONDS = 60.0
_SAMPLES = 2  # requests of one case and check that are kept for the JSON


@dataclass(frozen=True, slots=True)
class FuzzPlan:
    """`count` requests of seed `seed`; the process is looked at after each of the `rounds`."""

    python: Path
    count: int
    seed: int
    rounds: int = 5


@dataclass(slots=True)
class _Run:
    findings: Findings
    wanted: int
    on_done: Callable[[int, int], None]
    done: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    samples: list[dict[str, Any]] = field(default_factory=list)
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def told(self, line: dict[str, Any]) -> None:
        """What a sender printed."""
        if "fault" in line:
            self.findings.fault(line["fault"], line["case"])
        with self.lock:
            if "fault" in line and self._is_new(line):
                self.samples.append(line)
            self.statuses.update(line.get("statuses", {}))
            self.done += line.get("done", 0)
            self.on_done(self.done, self.wanted)

    def _is_new(self, line: dict[str, Any]) -> bool:
        kind = (line["case"], line["fault"].split(":", 1)[0])
        self.kinds[kind] += 1
        return self.kinds[kind] <= _SAMPLES


def measure_fuzz(
    plan: FuzzPlan,
    command: str,
    on_done: Callable[[int, int], None],
    on_state: Callable[[str], None],
) -> Report:
    """All requests, then what is left of them."""
    run = _Run(Findings(), plan.count, on_done)
    with demo_site(plan.python) as site:
        quiet, stop = learned(site), threading.Event()
        calms: list[Calm] = []
        limit = plan.count * SECONDS_A_REQUEST + SETTLE_SECONDS
        watch = threading.Thread(target=lambda: calms.append(quiet.watch(limit, stop)))
        watch.start()
        try:
            samples = [vitals(site)]
            for turn in range(plan.rounds):
                on_state(f"round {turn + 1} of {plan.rounds}")
                first, end = (plan.count * part // plan.rounds for part in (turn, turn + 1))
                _send(run, site, plan.seed, first, end)
                samples += _settled(site, run.findings)
        finally:
            stop.set()
            watch.join()
        _check_after(plan, run, site, samples, calms[0])
    return _report(plan, command, run, samples, calms[0])


def _send(run: _Run, site: Site, seed: int, first: int, end: int) -> None:
    """Requests of those numbers; every second one is our own, so own numbers are half as large."""
    own = range(first // 2, end // 2)
    schemas = end - first - len(own)
    orders: list[tuple[object, ...]] = [
        ("own_sender", site.url, site.server.key, seed, own.start + turn, own.stop, OWN_SENDERS)
        for turn in range(min(OWN_SENDERS, len(own)))
    ]
    if schemas:
        orders.append(("schema_sender", site.url, site.server.key, seed + first, schemas))
    with ExitStack() as held:
        senders = [
            held.enter_context(Sender(str(module), *arguments, on_told=run.told))
            for module, *arguments in orders
        ]
        for sender in senders:
            status = sender.wait((end - first) * SECONDS_A_REQUEST + SETTLE_SECONDS)
            run.findings.check("senders end", status == 0, f"status {status}", "sending")


def _settled(site: Site, findings: Findings) -> list[Vitals]:
    """How the server is once its last requests have ended; nothing where it is gone."""
    if not site.is_alive:
        return []
    wait_until(lambda: sockets_of(site.server.process.pid) <= OWN_SOCKETS, SETTLE_SECONDS)
    try:
        return [vitals(site)]
    except (NoAnswer, httpx.HTTPError) as error:
        findings.fault(f"metrics: {error}", "after a round")
        return []


def _check_after(plan: FuzzPlan, run: _Run, site: Site, samples: list[Vitals], calm: Calm) -> None:
    findings = run.findings
    findings.case = "after all"
    findings.check("alive", site.is_alive, "the process ended")
    findings.checks["requests"] = run.done
    findings.checks["quiet answers"] = len(calm.seconds)
    for fault in calm.wrong:
        findings.fault(f"quiet answers: {fault}", "the quiet task")
    for fault in calm.refused:
        findings.fault(f"quiet task refused: {fault}", "the quiet task")
    for fault, times in faults_of_log(site.log).items():
        findings.fault(f"{fault} ({times} times)", "the log")
    if len(samples) < plan.rounds + 1:
        return
    early, late = samples[max(1, int(plan.rounds * WARM_UP))], samples[-1]
    growth = late.resident_bytes / early.resident_bytes
    findings.check("flat memory", growth <= MOST_GROWTH, f"{growth:.2f} times")
    findings.check("same descriptors", late.files == early.files, f"{late.files}")
    findings.check("no socket kept", late.sockets <= early.sockets + 2, f"{late.sockets} sockets")
    few = late.series <= early.series + MOST_MORE_SERIES
    findings.check("flat series", few, f"{early.series} to {late.series}")


def _report(plan: FuzzPlan, command: str, run: _Run, samples: list[Vitals], calm: Calm) -> Report:
    report = Report("reliability-fuzz", f"{plan.count} fuzzed requests", command)
    moments = [
        "start",
        *(f"{plan.count * turn // plan.rounds} requests" for turn in range(1, plan.rounds + 1)),
    ]
    codes: Counter[str] = Counter()
    for name, times in run.statuses.items():
        codes[name.rpartition("|")[2]] += times
    report.grids = [
        Grid("Answers", ("status", "times"), [(k, str(n)) for k, n in sorted(codes.items())]),
        Grid(
            "The process",
            ("moment", "resident MB", "files open", "sockets", "threads", "series"),
            [
                (name, f"{v.resident_bytes / 1e6:.0f}", str(len(v.files)), str(v.sockets),
                 str(v.threads), str(v.series))
                for name, v in zip(moments, samples, strict=False)
            ],
        ),
        *run.findings.grids(),
    ]  # fmt: skip
    report.notes = [
        f"Server: commit {commit_of(plan.python)}; seed {plan.seed}; {OWN_SENDERS} processes send "
        "our own requests, one schemathesis'.",
        f"Quiet task beside it: {len(calm.seconds)} answers, median {calm.median * 1000:.0f} ms, "
        f"p95 {calm.p95 * 1000:.0f} ms.",
        *run.findings.notes,
    ]
    report.data = {
        **run.findings.data(), "statuses": dict(sorted(run.statuses.items())),
        "vitals": [asdict(each) for each in samples], "samples": run.samples,
        "quiet_seconds": list(calm.seconds),
    }  # fmt: skip
    return report
