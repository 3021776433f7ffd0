"""What the reliability parts look at, and that each check fails when what it looks at is wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench_site import SmallSite, small_site, version_of
from jumplora_bench.reliability import costly, fuzz
from jumplora_bench.reliability.connections import Crowd, Phase
from jumplora_bench.reliability.connections import _check as check_crowd
from jumplora_bench.reliability.costly import Flooded
from jumplora_bench.reliability.demo import check_calm, milliseconds
from jumplora_bench.reliability.entries import _short
from jumplora_bench.reliability.findings import Findings, shares
from jumplora_bench.reliability.fuzz import FuzzPlan
from jumplora_bench.reliability.siege.log_reading import faults_of_log
from jumplora_bench.reliability.siege.quiet import Calm
from jumplora_bench.reliability.site import wait_until
from jumplora_bench.reliability.uploads import _check_after as check_uploads
from jumplora_bench.reliability.uploads import _Run as UploadsRun
from jumplora_bench.reliability.vitals import (
    OWN_SOCKETS,
    Gauge,
    Vitals,
    listing,
    resident_bytes,
    sockets_of,
    status_of,
    vitals,
)
from small_http import Said

CALM = Calm([0.1] * 20, (), ())
MB = 1024**2


def failed(findings: Findings) -> set[str]:
    return {fault.what.partition(":")[0] for fault in findings.faults}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([], ("-", "-", "-", "-"), id="none"),
        pytest.param([2.0], ("2.00", "2.00", "2.00", "2.00"), id="one"),
        pytest.param(
            [float(n) for n in range(10, 0, -1)], ("1.00", "5.00", "9.00", "10.00"), id="ten"
        ),
    ],
)
def test_shares(values: list[float], expected: tuple[str, ...]) -> None:
    assert shares(values) == expected


def test_shares_are_scaled() -> None:
    assert shares([0.5], 1000)[0] == "500.00"


def test_long_faults_are_cut_and_notes_are_said_once() -> None:
    findings = Findings()
    findings.fault("x" * 9000)
    findings.note("root")
    findings.note("root")
    assert len(findings.faults[0].what) == 220
    assert findings.notes == ["root"]


def test_faults_without_a_check_have_a_row_of_their_own() -> None:
    findings = Findings()
    findings.fault("traffic: wrong\nanswer", "a case")
    checks, cases = findings.grids()
    assert checks.rows == [("traffic", "0", "1")]
    assert cases.rows == [("a case", "traffic", "1", "wrong answer")]


def test_without_faults_there_is_one_table() -> None:
    findings = Findings()
    findings.check("alive", True, "")
    assert len(findings.grids()) == 1


@pytest.mark.parametrize(
    ("calm", "expected"),
    [
        pytest.param(CALM, set(), id="answered, rightly, in time"),
        pytest.param(replace(CALM, refused=("503",)), {"quiet task answered"}, id="refused"),
        pytest.param(replace(CALM, wrong=("x",)), {"quiet task right"}, id="wrong"),
        pytest.param(Calm([0.1] * 9 + [9.0], (), ()), {"quiet task in time"}, id="a slow tenth"),
        pytest.param(Calm([], (), ()), {"quiet task in time"}, id="never answered"),
    ],
)
def test_calm(calm: Calm, expected: set[str]) -> None:
    findings = Findings()
    check_calm(findings, calm, 0.2)
    assert failed(findings) == expected
    assert len(findings.checks) == 3


def test_a_calm_is_printed_beside_that_alone() -> None:
    assert milliseconds(Calm([0.3] * 3, (), ()), CALM) == ("300", "300", "3.0")


FLOODED = Flooded("kind", CALM, 100 * MB, 150 * MB, {"200": 5, "503": 1})


@pytest.mark.parametrize(
    ("flooded", "is_alive", "expected"),
    [
        pytest.param(FLOODED, True, set(), id="right"),
        pytest.param(FLOODED, False, {"alive"}, id="ended"),
        pytest.param(
            replace(FLOODED, most_bytes=300 * MB), True, {"memory beside it"}, id="200 MB more"
        ),
        pytest.param(replace(FLOODED, came={"500": 1}), True, {"no 5xx"}, id="500"),
        pytest.param(replace(FLOODED, came={}), True, {"it was answered"}, id="nothing came"),
    ],
)
def test_floods(flooded: Flooded, is_alive: bool, expected: set[str]) -> None:
    findings = Findings()
    costly._check(findings, flooded, is_alive=is_alive)
    assert failed(findings) == expected


PHASE = Phase("crowd", CALM, 100 * MB, 150 * MB, 50, 50, 5.0)


@pytest.mark.parametrize(
    ("phase", "must_end", "expected"),
    [
        pytest.param(PHASE, True, set(), id="right"),
        pytest.param(replace(PHASE, dropped_seconds=None), False, set(), id="may stay"),
        pytest.param(
            replace(PHASE, dropped_seconds=None), True, {"dropped in time"}, id="not dropped"
        ),
        pytest.param(replace(PHASE, dropped_seconds=11.0), True, {"dropped in time"}, id="late"),
        pytest.param(
            replace(PHASE, most_bytes=300 * MB), True, {"memory beside it"}, id="200 MB more"
        ),
        pytest.param(
            replace(PHASE, calm=Calm([0.4], (), ())), True, {"quiet task in time"}, id="four times"
        ),
    ],
)
def test_crowds(phase: Phase, must_end: bool, expected: set[str]) -> None:
    findings, alone = Findings(), replace(PHASE, name="alone")
    check_crowd(findings, Crowd("idle", 50, must_end), phase, alone, 10.0)
    assert failed(findings) == expected


VITALS = Vitals(100 * MB, ("/a", "/b"), 10, 9, 500)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SmallSite]:
    version = version_of(tmp_path / "made", "a", "old")
    with small_site(tmp_path, version) as site:
        (tmp_path / "server.log").write_text("fine\n")
        yield site


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        pytest.param(VITALS, set(), id="the same"),
        pytest.param(replace(VITALS, resident_bytes=109 * MB), set(), id="9 % more memory"),
        pytest.param(replace(VITALS, resident_bytes=111 * MB), {"flat memory"}, id="11 % more"),
        pytest.param(replace(VITALS, files=("/a",)), {"same descriptors"}, id="other files"),
        pytest.param(replace(VITALS, sockets=13), {"no socket kept"}, id="three sockets more"),
        pytest.param(replace(VITALS, series=521), {"flat series"}, id="21 series more"),
        pytest.param(replace(VITALS, series=520, sockets=12, threads=99), set(), id="a few more"),
    ],
)
def test_what_fuzzing_leaves(late: Vitals, expected: set[str], site: SmallSite) -> None:
    plan = FuzzPlan(Path("python"), 100, 0, rounds=2)
    run = fuzz._Run(Findings(), 100, lambda done, wanted: None, done=100)
    fuzz._check_after(plan, run, site, [replace(VITALS, resident_bytes=1), VITALS, late], CALM)
    assert failed(run.findings) == expected
    assert run.findings.checks["requests"] == 100
    assert run.findings.checks["quiet answers"] == 20


def test_fuzzing_finds_what_the_log_and_the_quiet_task_tell(site: SmallSite) -> None:
    site.log.write_text("12:00 INFO \x1b[2J\nTraceback (most recent call last):\n")
    site.kill()
    run = fuzz._Run(Findings(), 1, lambda done, wanted: None)
    calm = Calm([0.1], ("503",), ("'a' instead of 'b'",))
    fuzz._check_after(FuzzPlan(Path("python"), 1, 0, rounds=2), run, site, [], calm)
    assert failed(run.findings) == {
        "alive", "quiet answers", "quiet task refused", "log characters", "traceback",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        pytest.param(VITALS, set(), id="the same"),
        pytest.param(replace(VITALS, resident_bytes=111 * MB), {"flat memory"}, id="11 % more"),
        pytest.param(replace(VITALS, files=()), {"same descriptors"}, id="other files"),
        pytest.param(replace(VITALS, series=521), {"flat series"}, id="21 series more"),
    ],
)
def test_what_uploads_leave(late: Vitals, expected: set[str], site: SmallSite) -> None:
    run = uploads_run(site)
    check_uploads(run, listing(site.store), [VITALS, VITALS, late])
    assert failed(run.findings) == expected


def uploads_run(site: SmallSite) -> UploadsRun:
    return UploadsRun(site, Findings(), oracle=None, sound={}, scratch=site.folder)  # type: ignore[arg-type]


def test_uploads_leave_nothing_and_take_nothing(site: SmallSite) -> None:
    before = listing(site.store)
    (site.store / "a" / "history.jsonl").write_text("grows\n")
    run = uploads_run(site)
    check_uploads(run, before, [])
    assert run.findings.faults == []
    assert run.findings.notes == [
        "Memory was not compared: the server was started anew in between."
    ]
    (site.store / "a" / ".tmp-x").touch()
    (site.store / "a" / "current").unlink()
    check_uploads(run, before, [])
    assert "left ['a/.tmp-x'], lost ['a/current']" in run.findings.faults[0].what


def test_a_listing_has_sizes_and_no_lock(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"123")
    (tmp_path / "a" / "link").symlink_to("nowhere")
    (tmp_path / ".lock").touch()
    assert listing(tmp_path) == {"a": 0, "a/file": 3, "a/link": len("nowhere")}


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds a file, a pair of sockets, and itself still."""
    program = (
        "import socket, sys, time; pair = socket.socketpair(); file = open('/dev/null')\n"
        "held = bytes(range(256)) * 80_000; print(1, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-S", "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        yield process
        process.kill()


def test_vitals_are_those_of_the_process(child: subprocess.Popen[bytes], site: SmallSite) -> None:
    site.spoil = lambda asked, said: (
        Said(body=b'# HELP a b\n# TYPE a gauge\na 1\nb{x="1"} 2\n\n')
        if asked.path == "/metrics"
        else said
    )
    site._server = SimpleNamespace(process=child)  # type: ignore[assignment]
    found = vitals(site)
    assert found.series == 2
    assert found.sockets == sockets_of(child.pid) == 2
    assert "/dev/null" in found.files
    assert not any(target.startswith("socket:") for target in found.files)
    assert found.threads == 1
    assert found.resident_bytes == pytest.approx(resident_bytes(child.pid), rel=0.1)
    assert found.resident_bytes > 20_480_000


def test_a_process_that_is_gone_has_no_memory(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    with pytest.raises(OSError, match=str(child.pid)):
        resident_bytes(child.pid)


def test_a_gauge_keeps_the_most_and_when_it_was_last_crowded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jumplora_bench.reliability.vitals.GAUGE_SECONDS", 0.01)
    with Gauge(os.getpid()) as gauge:
        assert wait_until(lambda: gauge.most_sockets > 0 or gauge.most_bytes > 0, 10)
        pairs = [socket.socketpair() for _ in range(OWN_SOCKETS)]
        before = time.monotonic()
        assert wait_until(lambda: gauge.crowded_until > before, 10)
        for pair in pairs:
            for one in pair:
                one.close()
        most = gauge.most_sockets
    assert most >= 2 * OWN_SOCKETS
    assert gauge.most_bytes >= 10 * MB
    assert gauge.crowded_until <= time.monotonic()


def test_a_gauge_of_a_process_that_ends_ends(child: subprocess.Popen[bytes]) -> None:
    with Gauge(child.pid):
        child.kill()
        child.wait()


def test_a_probe_that_does_not_answer_says_so(site: SmallSite) -> None:
    assert status_of(site, "/livez", 5) == "200"
    site.kill()
    assert status_of(site, "/livez", 5) == "no answer"


def test_a_log_is_told_by_what_its_lines_begin_with(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = [f"12:{turn:02d} INFO client \x7f" for turn in range(9)]
    log.write_text("\n".join([*lines, "12:10 INFO sound ä 中"]), encoding="utf-8")
    assert faults_of_log(log) == Counter({"log characters: U+007F in 'INFO client \\x7f'": 9})


@pytest.mark.parametrize(
    ("status", "told"),
    [
        pytest.param({}, "no status", id="none"),
        pytest.param(
            {"state": "READY", "version": "ab" * 32, "failure": None}, "READY abababab ", id="well"
        ),
        pytest.param(
            {"state": "FAILED", "version": None, "failure": {"message": "x" * 999}},
            "FAILED None " + "x" * 100,
            id="failed",
        ),
    ],
)
def test_a_status_in_short(status: dict[str, object], told: str) -> None:
    assert _short(status) == told
