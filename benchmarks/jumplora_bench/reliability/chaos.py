"""Swaps, crashes and disasters under load: no wrong answer, no lost version.

Faults inside of the server process (an exception at every step of the loader, a thread that ends or
hangs) are the tests' own: tests/server/residency, tests/server/test_loop.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_bench.reliability import disasters
from jumplora_bench.reliability.findings import Findings, shares
from jumplora_bench.reliability.reload import Reload
from jumplora_bench.reliability.site import Site, commit_of
from jumplora_bench.reliability.swaps import Swaps, publisher
from jumplora_bench.reliability.traffic import Expected, Traffic
from jumplora_bench.reliability.versions import Oracle, Version, make_versions
from jumplora_bench.report import Grid, Report

STEADY = ("steady-a", "steady-b")
SWAPPED = ("swapped-a", "swapped-b", "swapped-c")
VERSIONS = 4  # of each swapped task
DISK_BYTES = 64 * 1024**2
SETTINGS = {"watch_seconds": 0.2, "metrics_max_age": 0, "canary_floor": 0}


@dataclass(frozen=True, slots=True)
class ChaosPlan:
    """`swaps` hot swaps, `reloads` rounds of DELETE and PUT, then the disasters."""

    backbone: Path
    python: Path
    swaps: int
    reloads: int
    seed: int


@dataclass(slots=True)
class _Run:
    site: Site
    findings: Findings
    steady: list[Version]
    spare: list[Version]
    expected: Expected = field(default_factory=Expected)


def measure_chaos(
    plan: ChaosPlan,
    command: str,
    on_done: Callable[[int, int], None],
    on_state: Callable[[str], None],
) -> Report:
    """All of it, each part on a server and a store of its own."""
    findings, backbone, reload = Findings(), read_backbone(plan.backbone), Reload()
    oracle = Oracle(backbone)
    with TemporaryDirectory(prefix="jumplora-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        on_state("swaps")
        swaps, traffic = _swap(plan, backbone, oracle, folder / "swaps", findings, on_done)
        on_state("DELETE and PUT")
        with _site(plan, backbone, oracle, folder / "reload", findings) as run:
            run.expected.begin(run.steady[0])
            with Traffic(run.site.url, STEADY[:1], run.expected, findings):
                reload.run(run.site, findings, run.spare[0], run.spare[1], plan.reloads)
        on_state("lock held")
        with _site(plan, backbone, oracle, folder / "lock", findings) as run:
            disasters.hold_lock(run.site, findings, [run.spare[0]] * 3)
        _lose_roots(plan, backbone, oracle, folder, findings, on_state)
        on_state("disk full")
        _fill_disk(plan, backbone, oracle, folder, findings)
    return _report(plan, command, findings, swaps, traffic, reload)


def _swap(
    plan: ChaosPlan,
    backbone: Backbone,
    oracle: Oracle,
    folder: Path,
    findings: Findings,
    on_done: Callable[[int, int], None],
) -> tuple[Swaps, Traffic]:
    with _site(plan, backbone, oracle, folder, findings) as run:
        versions: dict[str, Sequence[Version]] = {
            task: make_versions(
                oracle, backbone, folder / "made", task, range(start, start + VERSIONS)
            )
            for start, task in enumerate(SWAPPED, start=10)
        }
        for version in (*run.steady, *(each[0] for each in versions.values())):
            run.site.put(version.task, version.content).raise_for_status()
            run.expected.begin(version)
        tasks = [*STEADY, *SWAPPED]
        with (
            publisher(run.site) as helper,
            Traffic(run.site.url, tasks, run.expected, findings, clients=3) as traffic,
        ):
            current = {task: each[0] for task, each in versions.items()}
            swaps = Swaps(run.site, findings, versions, run.expected, traffic, current)
            swaps.run(plan.swaps, helper, plan.seed, lambda done: on_done(done, plan.swaps))
        findings.case = "after all swaps"
        swaps.check_kept()
        return swaps, traffic


def _lose_roots(
    plan: ChaosPlan,
    backbone: Backbone,
    oracle: Oracle,
    folder: Path,
    findings: Findings,
    on_state: Callable[[str], None],
) -> None:
    aside = folder / "aside"

    def ways(store: Path) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
        return {
            "renamed": (lambda: store.rename(aside), lambda: _rename_back(aside, store)),
            "emptied": (
                lambda: disasters.move_content(store, aside),
                lambda: disasters.return_content(aside, store),
            ),
        }

    for name in ("renamed", "emptied"):
        on_state(f"root {name}")
        with _site(plan, backbone, oracle, folder / name, findings) as run:
            take, give = ways(run.site.store)[name]
            disasters.lose_root(run.site, findings, run.steady, name, take, give)
    on_state("root unmounted")
    store, source = folder / "mounted" / "store", folder / "mounted-source"
    store.mkdir(parents=True)
    source.mkdir()
    try:
        with (
            disasters.mounted(store, "--bind", str(source)),
            _site(plan, backbone, oracle, folder / "mounted", findings) as run,
        ):
            disasters.lose_root(
                run.site,
                findings,
                run.steady,
                "unmounted",
                lambda: disasters.unmount(store),
                lambda: disasters.remount(source, store),
            )
    except PermissionError as error:
        findings.note(f"Not tried: root unmounted, this user may not mount ({error}).")


def _rename_back(aside: Path, store: Path) -> None:
    """The server may have made a new, empty root in the meantime."""
    if store.is_dir():
        disasters.return_content(aside, store)
        aside.rmdir()
    else:
        aside.rename(store)


def _fill_disk(
    plan: ChaosPlan, backbone: Backbone, oracle: Oracle, folder: Path, findings: Findings
) -> None:
    store = folder / "full" / "store"
    store.mkdir(parents=True)
    try:
        with (
            disasters.mounted(store, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs"),
            _site(plan, backbone, oracle, folder / "full", findings) as run,
        ):
            disasters.fill_disk(run.site, findings, run.steady, run.spare[0])
    except PermissionError as error:
        findings.note(f"Not tried: disk full, this user may not mount a tmpfs ({error}).")


@contextmanager
def _site(
    plan: ChaosPlan, backbone: Backbone, oracle: Oracle, folder: Path, findings: Findings
) -> Iterator[_Run]:
    """A server that serves the steady tasks; `spare` are sound files of two other tasks."""
    folder.mkdir(exist_ok=True)
    tasks = (*STEADY, "spare-a", "spare-b")
    made = [
        make_versions(oracle, backbone, folder / "made", task, [seed])[0]
        for seed, task in enumerate(tasks)
    ]
    site = Site(backbone, folder, SETTINGS, python=plan.python)
    site.store.mkdir(exist_ok=True)
    with ExitStack() as held:
        held.callback(site.close)
        site.start()
        for version in made[:2]:
            site.put(version.task, version.content).raise_for_status()
        yield _Run(site, findings, made[:2], made[2:])
        findings.check("alive at the end", site.is_alive, "the process ended")


def _report(
    plan: ChaosPlan,
    command: str,
    findings: Findings,
    swaps: Swaps,
    traffic: Traffic,
    reload: Reload,
) -> Report:
    report = Report(
        "reliability-chaos", f"{plan.swaps} hot swaps under load, and disasters", command
    )
    times = {
        "a pointer is followed": swaps.followed,
        "plain load: PUT to answer": reload.plain,
        "DELETE, PUT to answer": reload.again,
    }
    report.grids = [
        Grid("Swaps", ("made by", "times"), [(k, str(v)) for k, v in swaps.made.items()]),
        Grid(
            "Seconds",
            ("until", "times", "least", "median", "p90", "most"),
            [(name, str(len(each)), *shares(each)) for name, each in times.items()],
        ),
        *findings.grids(),
    ]
    report.notes = [
        f"Server: commit {commit_of(plan.python)}, started {swaps.site.starts} times while "
        f"swapping; seed {plan.seed}; user id {os.geteuid()}.",
        f"Traffic beside the swaps: {traffic.answered} answers, each compared with what the engine "
        f"gives for that version; the slowest {traffic.slowest:.1f} s.",
        *findings.notes,
    ]
    report.data = {**findings.data(), "seconds": dict(times), "swaps": dict(swaps.made)}
    return report
