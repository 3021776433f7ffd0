"""Odd entries dropped into the store of a live server, one after another, each put right twice.

First with file commands alone, then over HTTP alone. While an entry is there, other tasks
answer and change, and its own task's fault is logged once.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_bench.reliability.findings import Findings, shares
from jumplora_bench.reliability.odd_entries import ENTRIES, Entry, Shelf, remove
from jumplora_bench.reliability.site import NoAnswer, Site, commit_of, wait_until
from jumplora_bench.reliability.traffic import Expected, Traffic, asks_right
from jumplora_bench.reliability.versions import Oracle, Version, make_versions
from jumplora_bench.reliability.vitals import status_of, vitals
from jumplora_bench.report import Grid, Report
from jumplora_bench.scrape import value

VICTIM, STEADY, SWAPPED, PUBLISHED = "victim", "steady", "swapped", "published"
TOLD_SECONDS = 5.0
HEAL_SECONDS = 10.0
OTHERS_SECONDS = 5.0
QUIET_SECONDS = 1.5  # several looks of the watcher, in which nothing may be logged again
HTTP_SECONDS = 15.0  # a waiter for the store's lock gives up after 10
PROBES = ("/livez", "/readyz", "/v1/adapters", "/metrics")


@dataclass(frozen=True, slots=True)
class EntriesPlan:
    """The first `count` kinds; 0: all."""

    backbone: Path
    python: Path
    count: int


@dataclass(slots=True)
class _Run:
    site: Site
    findings: Findings
    shelf: Shelf
    backup: Path
    swaps: list[Version]
    published: list[Version]
    expected: Expected
    traffic: Traffic | None = None
    told: list[float] = field(default_factory=list)
    healed: list[float] = field(default_factory=list)
    over_http: list[float] = field(default_factory=list)
    turn: int = 0


def measure_entries(
    plan: EntriesPlan,
    command: str,
    on_done: Callable[[int, int], None],
    on_state: Callable[[str], None],
) -> Report:
    """All entries, healed by files and then over HTTP."""
    backbone = read_backbone(plan.backbone)
    entries = [entry for entry in ENTRIES if _is_possible(entry)][: plan.count or None]
    with (
        TemporaryDirectory(prefix="jumplora-entries-", ignore_cleanup_errors=True) as name,
        _run(plan, backbone, name) as run,
    ):
        for skipped in (entry for entry in ENTRIES if not _is_possible(entry)):
            run.findings.note(f"Not tried, root may read everything: {skipped.name}.")
        for index, entry in enumerate(entries):
            on_state(entry.name)
            _try(run, entry)
            on_done(index + 1, len(entries))
        return _report(plan, command, run, len(entries))


@contextmanager
def _run(plan: EntriesPlan, backbone: Backbone, name: str) -> Iterator[_Run]:
    folder, oracle = Path(name), Oracle(backbone)
    made = {
        task: make_versions(oracle, backbone, folder / "made", task, range(first, first + 2))
        for first, task in enumerate((VICTIM, STEADY, SWAPPED, PUBLISHED))
    }
    settings = {
        "watch_seconds": 0.2, "metrics_max_age": 0, "canary_floor": 0, "load_timeout": 20,
    }  # fmt: skip
    site = Site(backbone, folder, settings, python=plan.python)
    site.store.mkdir()
    (folder / "outside").mkdir()
    old, new = made[VICTIM]
    shelf = Shelf(site.store, site.store / VICTIM, old, new, made[STEADY][0], folder / "outside")
    run = _Run(
        site, Findings(), shelf, folder / "backup", made[SWAPPED], made[PUBLISHED], Expected()
    )
    try:
        site.start()
        for version in (shelf.old, *made[SWAPPED], made[STEADY][0], made[PUBLISHED][0]):
            site.put(version.task, version.content).raise_for_status()
        shutil.copytree(site.store, run.backup)
        run.expected.begin(made[STEADY][0])
        with Traffic(site.url, [STEADY], run.expected, run.findings) as traffic:
            run.traffic = traffic
            yield run
    finally:
        site.close()


def _try(run: _Run, entry: Entry) -> None:
    for way in ("files", "HTTP"):
        run.findings.case = f"{entry.name} [{way}]"
        faults = len(run.findings.faults)
        before, logged = vitals(run.site).files, run.site.log.stat().st_size
        began = time.monotonic()
        entry.put(run.shelf)
        _check_told(run, entry, logged, began)
        _check_others(run, entry)
        is_healed = _heal_by_files(run, entry) if way == "files" else _heal_over_http(run, entry)
        if is_healed and run.site.is_alive:
            leaked = _left_open(run, before)
            run.findings.check("no descriptor leak", not leaked, f"{leaked[:3]}")
        is_clean = len(run.findings.faults) == faults
        _tidy(run, restart=not is_clean)


def _left_open(run: _Run, before: tuple[str, ...]) -> list[str]:
    """What was opened since and stays so: a file that is just being read comes and goes."""

    def opened() -> list[str]:
        return [path for path in vitals(run.site).files if path not in before]

    return [] if wait_until(lambda: not opened(), 2.0) else opened()


def _check_told(run: _Run, entry: Entry, logged: int, began: float) -> None:
    if entry.told == "either":
        time.sleep(QUIET_SECONDS)
        return
    is_told = wait_until(lambda: _is_told(run.site, entry), TOLD_SECONDS)
    if run.findings.check("fault is shown", is_told, f"status {_short(run.site.status(VICTIM))}"):
        run.told.append(time.monotonic() - began)
    page = run.site.try_request("GET", "/metrics")
    degraded = page and value(page.text, "jumplora_adapter_degraded", {"task_id": VICTIM})
    is_known = bool(run.site.status(VICTIM))
    if is_told and is_known:
        run.findings.check("degraded in /metrics", degraded == 1, f"it is {degraded}")
    time.sleep(QUIET_SECONDS)
    with run.site.log.open("rb") as log:
        log.seek(logged)
        lines = [line for line in log.read().decode(errors="replace").splitlines() if line]
    about = [line for line in lines if VICTIM in line]
    if entry.told == "failure":
        what = f"{len(about)} lines: {about[:1]}"
        run.findings.check("one log line", len(about) == 1, what)
    run.findings.check("no traceback", not any("Traceback" in x for x in lines), f"{lines[-1:]}")


def _is_told(site: Site, entry: Entry) -> bool:
    response = site.try_request("GET", f"/v1/adapters/{VICTIM}", seconds=5)
    if response is None:
        return False
    if response.status_code == 404:
        return entry.told == "gone or failure"
    return response.status_code == 200 and response.json()["failure"] is not None


def _check_others(run: _Run, entry: Entry) -> None:
    """Probes answer, other tasks follow their pointers and can be published."""
    site, findings = run.site, run.findings
    for path in PROBES:
        status = status_of(site, path, OTHERS_SECONDS)
        findings.check(f"{path} is 200", status == "200", status)
    run.turn += 1
    swap = run.swaps[run.turn % 2]
    pointer = site.store / SWAPPED / "current"
    (run.shelf.outside / "next").write_text(f"{swap.digest}\n")
    (run.shelf.outside / "next").rename(pointer)
    follows = wait_until(lambda: site.status(SWAPPED).get("version") == swap.digest, OTHERS_SECONDS)
    findings.check("another pointer is followed", follows, f"not within {OTHERS_SECONDS:.0f} s")
    version = run.published[run.turn % 2]
    status = _put(site, version)
    allowed = ("200", "201", "503") if entry.place == "store" else ("200", "201")
    findings.check("another task is published", status in allowed, status)


def _put(site: Site, version: Version) -> str:
    try:
        return str(site.put(version.task, version.content, seconds=HTTP_SECONDS).status_code)
    except NoAnswer:
        return "no answer"


def _heal_by_files(run: _Run, entry: Entry) -> bool:
    began = time.monotonic()
    version = run.shelf.old
    if entry.place == "version":
        version = run.shelf.new
        good = run.shelf.outside / "good"
        shutil.copy(version.path, good)
        remove(run.shelf.file_of(version))
        good.rename(run.shelf.file_of(version))
    else:
        _restore(run)
    return _check_healed(run, version, run.healed, began)


def _heal_over_http(run: _Run, entry: Entry) -> bool:
    """DELETE, where it is allowed, and PUT; a store without a lock may refuse both with 503."""
    site, shelf, began = run.site, run.shelf, time.monotonic()
    version = shelf.new if entry.place == "version" else shelf.old
    if entry.place == "folder" or run.turn % 4 == 0:
        deleted = site.try_request("DELETE", f"/v1/adapters/{VICTIM}", seconds=HTTP_SECONDS)
        code = "no answer" if deleted is None else str(deleted.status_code)
        is_right = code in ("200", "404", "409") or (entry.place == "store" and code == "503")
        run.findings.check("DELETE", is_right, f"{code} {deleted and deleted.text[:100]}")
    status = _put(site, version)
    if entry.place == "store" and status == "503":
        return True
    run.findings.check("PUT", status in ("200", "201"), status)
    return _check_healed(run, version, run.over_http, began)


def _check_healed(run: _Run, version: Version, into: list[float], began: float) -> bool:
    site = run.site

    def is_right() -> bool:
        status = site.status(VICTIM)
        if status.get("failure") is not None or status.get("desired") != version.digest:
            return False
        wrong = asks_right(lambda body: site.try_request("POST", "/generate", json=body), version)
        return wrong == ""

    is_healed = wait_until(is_right, HEAL_SECONDS)
    if is_healed:
        into.append(time.monotonic() - began)
    return run.findings.check("healed", is_healed, _short(site.status(VICTIM)))


def _restore(run: _Run) -> None:
    """The victim, and the store's own names, as they were before the first entry."""
    shelf = run.shelf
    fresh = shelf.outside / "fresh"
    shutil.copytree(run.backup / VICTIM, fresh)
    remove(shelf.victim)
    fresh.rename(shelf.victim)
    for name in os.listdir(os.fsencode(shelf.root)):
        known = os.fsencode(run.backup) + b"/" + name
        path = Path(os.fsdecode(os.fsencode(shelf.root) + b"/" + name))
        if not os.path.lexists(known):
            remove(path)
    lock = shelf.root / ".lock"
    if lock.is_symlink() or not lock.is_file():
        remove(lock)
        lock.touch()


def _tidy(run: _Run, *, restart: bool) -> None:
    """The next entry starts from the same state, on a new server where this one shows a fault."""
    assert run.traffic is not None
    if restart:
        run.traffic.outage_begins()
        run.site.kill()
    _restore(run)
    for path in run.shelf.outside.iterdir():
        remove(path)
    if restart:
        run.site.start()
        run.traffic.outage_ends()
    run.findings.case = "after " + run.findings.case
    _check_healed(run, run.shelf.old, [], time.monotonic())


def _is_possible(entry: Entry) -> bool:
    return not entry.is_for_users or os.geteuid() != 0


def _short(status: dict[str, Any]) -> str:
    if not status:
        return "no status"
    failure = status.get("failure") or {}
    return f"{status['state']} {str(status['version'])[:8]} {failure.get('message', '')[:100]}"


def _report(plan: EntriesPlan, command: str, run: _Run, kinds: int) -> Report:
    assert run.traffic is not None
    report = Report("reliability-entries", f"{kinds} kinds of entries in a live store", command)
    times = {"told": run.told, "healed by files": run.healed, "healed over HTTP": run.over_http}
    rows = [(name, str(len(each)), *shares(each)) for name, each in times.items()]
    report.grids = [
        Grid("Seconds", ("until", "times", "least", "median", "p90", "most"), rows),
        *run.findings.grids(),
    ]
    report.notes = [
        f"Server: commit {commit_of(plan.python)}, started {run.site.starts} times: anew after "
        "each entry that it failed, so that one fault is not counted as many.",
        f"Traffic beside it: {run.traffic.answered} answers, the slowest "
        f"{run.traffic.slowest:.1f} s.",
        *run.findings.notes,
    ]
    report.data = {**run.findings.data(), "seconds": dict(times)}
    return report
