"""The judge of odd entries on a server of a few lines that tells faults, and on spoilt ones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench_site import SmallSite, small_site, version_of
from jumplora_bench.reliability import entries
from jumplora_bench.reliability.entries import PUBLISHED, STEADY, SWAPPED, VICTIM, _Run, _try
from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.odd_entries import ENTRIES, Entry, Shelf, remove
from jumplora_bench.reliability.traffic import Expected, Traffic
from small_http import Asked, Said


class TellingSite(SmallSite):
    """Tells in status, /metrics and log when the victim's desired version cannot be served."""

    logs_twice = False
    is_blind = False
    keeps_descriptors = False
    _was_failing = False
    _kept: list[Any] = []  # noqa: RUF012 - of the one test that leaks

    def failure(self, task: str) -> str | None:
        """Why it cannot be served; None where it can."""
        home = self.store / task
        pointer = home / "current"
        if home.is_symlink() or not home.is_dir() or not pointer.is_file() or pointer.is_symlink():
            return "no pointer"
        digest = self.current(task)
        file = home / f"{digest}.safetensors"
        if digest not in self.known or not file.is_file() or file.is_symlink():
            return "no version"
        whole = file.read_bytes() == self.known[digest].content
        return None if whole and self.known[digest].task == task else "another content"

    def _right(self, asked: Asked) -> Said:
        why = None if self.is_blind else self.failure(VICTIM)
        if why and (self.logs_twice or not self._was_failing):
            with self.log.open("a") as log:
                log.write(f"WARNING {VICTIM} {why}\n")
        if why and not self._was_failing and self.keeps_descriptors:
            self._kept.append(open("/dev/zero", "rb"))  # noqa: SIM115 - it is to be left open
        self._was_failing = why is not None
        if asked.path == "/metrics":
            degraded = f'jumplora_adapter_degraded{{task_id="{VICTIM}"}} {int(bool(why))}\n'
            return Said(body=degraded.encode())
        if asked.path == f"/v1/adapters/{VICTIM}" and asked.method == "GET":
            told = {"message": why} if why else None
            version = self.current(VICTIM) if not why else ""
            return Said.of(
                {"state": "READY", "version": version, "desired": version, "failure": told}
            )
        if asked.method == "PUT":  # a publish replaces what is there, whatever it is
            remove(self.store / asked.path.rpartition("/")[2] / "current")
        return super()._right(asked)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Run]:
    for name in ("TOLD_SECONDS", "HEAL_SECONDS", "OTHERS_SECONDS"):
        monkeypatch.setattr(entries, name, 0.3)
    monkeypatch.setattr(entries, "QUIET_SECONDS", 0.0)
    made = {
        task: [version_of(tmp_path / "made", task, name) for name in ("old", "new")]
        for task in (VICTIM, STEADY, SWAPPED, PUBLISHED)
    }
    versions = [version for pair in made.values() for version in pair]
    (tmp_path / "outside").mkdir()
    with small_site(tmp_path, *versions, kind=TellingSite) as site:
        site.log.touch()
        site._server = SimpleNamespace(process=SimpleNamespace(pid=os.getpid()))  # type: ignore[assignment]
        old, new = made[VICTIM]
        home = site.store / VICTIM
        shelf = Shelf(site.store, home, old, new, made[STEADY][0], tmp_path / "outside")
        backup = tmp_path / "backup"
        shutil.copytree(site.store, backup)
        found, expected = Findings(), Expected()
        expected.begin(made[STEADY][0])
        with Traffic(site.url, [STEADY], expected, found, clients=1) as traffic:
            yield _Run(
                site, found, shelf, backup, made[SWAPPED], made[PUBLISHED], expected, traffic
            )


def entry(name: str) -> Entry:
    (found,) = [each for each in ENTRIES if each.name == name]
    return found


def failed(run: _Run) -> set[str]:
    return {fault.what.partition(":")[0] for fault in run.findings.faults}


def telling(run: _Run) -> TellingSite:
    assert isinstance(run.site, TellingSite)
    return run.site


@pytest.mark.parametrize(
    "name",
    [
        "current: garbage",
        "current: a folder",
        "current: a dangling link",
        "version: truncated",
        "version: another task's file",
        "version: a folder",
    ],
)
def test_an_entry_that_is_told_and_healed_is_no_fault(name: str, run: _Run) -> None:
    _try(run, entry(name))
    assert run.findings.faults == []
    assert len(run.told) == 2, "once for files, once for HTTP"
    assert len(run.healed) == len(run.over_http) == 1
    assert run.findings.checks["degraded in /metrics"] == 2
    assert telling(run).current(VICTIM) == run.shelf.old.digest, "as before the entry"


@pytest.mark.parametrize("name", ["history: garbage", "names: lost+found and dot files"])
def test_an_entry_beside_the_versions_need_not_be_told(name: str, run: _Run) -> None:
    _try(run, entry(name))
    assert run.findings.faults == []
    assert run.told == []
    assert "fault is shown" not in run.findings.checks


def test_a_server_that_tells_nothing_is_found(run: _Run) -> None:
    telling(run).is_blind = True
    _try(run, entry("current: garbage"))
    assert {"fault is shown", "one log line"} <= failed(run)


def test_a_server_that_logs_again_and_again_is_found(run: _Run) -> None:
    telling(run).logs_twice = True
    _try(run, entry("current: garbage"))
    assert "one log line" in failed(run)


def test_a_descriptor_that_is_kept_is_found(run: _Run) -> None:
    telling(run).keeps_descriptors = True
    _try(run, entry("current: garbage"))
    for file in TellingSite._kept:
        file.close()
    assert "no descriptor leak" in failed(run)
    assert telling(run).starts > 1, "a server with a fault is started anew"


def test_a_server_that_does_not_heal_is_found(run: _Run) -> None:
    site, stuck = telling(run), {"is": False}

    def spoil(asked: Asked, said: Said) -> Said:
        if asked.path != f"/v1/adapters/{VICTIM}" or asked.method != "GET":
            return said
        stuck["is"] = stuck["is"] or b'"failure": {' in said.body
        broken = {"state": "FAILED", "version": "", "desired": "", "failure": {"message": "x"}}
        return Said.of(broken) if stuck["is"] else said

    site.spoil = spoil
    _try(run, entry("current: garbage"))
    assert "healed" in failed(run)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v1/adapters", "/metrics"])
def test_a_probe_that_fails_beside_an_entry_is_found(path: str, run: _Run) -> None:
    site = telling(run)

    def spoil(asked: Asked, said: Said) -> Said:
        return Said.of({}, 500) if asked.path == path and site.failure(VICTIM) else said

    site.spoil = spoil
    entry("current: garbage").put(run.shelf)
    entries._check_others(run, entry("current: garbage"))
    assert failed(run) == {f"{path} is 200"}


def test_other_tasks_that_suffer_are_found(run: _Run) -> None:
    site, swapped = telling(run), run.swaps[0].task

    def spoil(asked: Asked, said: Said) -> Said:
        if asked.method == "PUT":
            return Said.of({}, 500)
        is_swapped = asked.path == f"/v1/adapters/{swapped}"
        return Said.of({"version": "0" * 64, "failure": None}) if is_swapped else said

    site.spoil = spoil
    entries._check_others(run, entry("current: garbage"))
    assert failed(run) == {"another pointer is followed", "another task is published"}


def test_a_busy_store_may_refuse_where_its_lock_is_gone(run: _Run) -> None:
    telling(run).spoil = lambda asked, said: (
        Said.of({}, 503) if asked.method in ("PUT", "DELETE") else said
    )
    lock = entry(".lock: a folder")
    assert entries._heal_over_http(run, lock)
    entries._check_others(run, lock)
    assert failed(run) == set()
    entries._heal_over_http(run, entry("current: garbage"))
    assert failed(run) == {"PUT"}, "with a sound lock it may not"
