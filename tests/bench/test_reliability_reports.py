"""The reliability command line and its reports: options, exit status, tables that are whole."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench_site import SmallSite, small_site, version_of
from factories import toy_backbone
from jumplora_bench.published import task_names
from jumplora_bench.reliability import __main__ as main
from jumplora_bench.reliability import chaos, connections, costly, entries, fuzz, tasks, uploads
from jumplora_bench.reliability.connections import ConnectionsPlan, Phase
from jumplora_bench.reliability.costly import CostlyPlan, Flooded
from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.reload import Reload
from jumplora_bench.reliability.siege.quiet import Calm
from jumplora_bench.reliability.swaps import Swaps
from jumplora_bench.reliability.tasks import Start, TasksPlan
from jumplora_bench.reliability.traffic import Expected, Traffic
from jumplora_bench.reliability.vitals import Vitals
from jumplora_bench.report import Report
from ports import held_port
from small_http import Asked, Said

PYTHON = Path(sys.executable)
PARTS = {
    "uploads": "measure_uploads",
    "entries": "measure_entries",
    "chaos": "measure_chaos",
    "tasks": "measure_tasks",
    "fuzz": "measure_fuzz",
    "connections": "measure_connections",
    "costly": "measure_costly",
}


def run(
    monkeypatch: pytest.MonkeyPatch, part: str, *given: str, faults: int = 0
) -> tuple[int, str, Any]:
    """Exit status, output and plan of a part that finds so many faults at once."""
    plans: list[Any] = []

    def measure(plan: Any, command: str, *_: object) -> Report:
        plans.append(plan)
        report = Report(f"reliability-{part}", "Title", command)
        report.data = {"faults": [{"case": "c", "what": "w"}] * faults}
        return report

    monkeypatch.setattr(main, PARTS[part], measure)
    environment = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    result = CliRunner().invoke(main.app, [part, *given], env=environment)
    return result.exit_code, result.output, (plans or [None])[0]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_ends_with_1_where_a_check_failed(
    part: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    status, output, plan = run(monkeypatch, part)
    assert status == 0, output
    pythons = plan.pythons if part == "tasks" else (plan.python,)
    assert pythons == (PYTHON.absolute(),), "this interpreter, not what its link leads to"
    assert run(monkeypatch, part, "--out", str(tmp_path), faults=2)[0] == 1
    record = json.loads((tmp_path / f"reliability-{part}.json").read_text())
    assert len(record["faults"]) == 2
    assert f"{part} --out {tmp_path}" in record["command"]


@pytest.mark.parametrize(
    ("part", "given"),
    [
        pytest.param("uploads", ["--count", "0"], id="no upload"),
        pytest.param("entries", ["--count", "-1"], id="fewer than none"),
        pytest.param("chaos", ["--swaps", "0"], id="no swap"),
        pytest.param("tasks", ["--density", "2"], id="more than all"),
        pytest.param("fuzz", ["--count", "9"], id="too few requests"),
        pytest.param("connections", ["--seconds", "0"], id="no time"),
        pytest.param("costly", ["--seconds", "0.5"], id="too little time"),
    ],
)
def test_what_would_try_nothing_is_refused(
    part: str, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, output, plan = run(monkeypatch, part, *given)
    assert (status, plan) == (2, None)
    assert given[0] in output


def test_several_interpreters_are_measured_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, plan = run(monkeypatch, "tasks", "--python", "/a/python", "--python", "/b/python")
    assert plan.pythons == (Path("/a/python"), Path("/b/python"))


def checked(report: Report) -> Report:
    """Every row fits its table, and the record is JSON."""
    for grid in report.grids:
        assert {len(row) for row in grid.rows} <= {len(grid.columns)}, grid.title
    json.dumps(report.data, allow_nan=False)
    return report


TASKS = TasksPlan(Path(), (PYTHON,), 10, 0.1, 2, 2, 0, None)


def test_the_table_of_many_tasks_has_medians_and_the_most() -> None:
    one = Start(1.0, [0.5, 0.1, 0.3], 2.0, 20.0, 0.25)
    two = Start(3.0, [1.5, 0.9, 0.7], 4.0, 30.0, 0.75)
    grid = tasks._grid({"old": [one, two], "new": [one]}, TASKS)
    rows = {row[0]: list(row[1:]) for row in grid.rows}
    assert grid.columns == ("", "old", "new", "target")
    assert rows["listening"] == ["2.0 (3.0)", "1.0 (1.0)", "3"]
    assert rows["first answer"] == ["1.0 (1.5)", "0.5 (0.5)", "2"]
    assert rows["answers, median"] == ["0.6 (0.9)", "0.3 (0.3)", ""]
    assert rows["answers, slowest"] == ["1.0 (1.5)", "0.5 (0.5)", "2"]
    assert rows["all READY"] == ["25.0 (30.0)", "20.0 (20.0)", "25"]
    assert rows["jumplora list"] == ["0.5 (0.8)", "0.2 (0.2)", "1"]


def test_only_what_a_store_lacks_is_published(tmp_path: Path) -> None:
    states: list[str] = []
    backbone = toy_backbone()
    few = replace(TASKS, count=2)
    tasks.publish(tmp_path / "store", backbone, few, states.append)
    more = replace(TASKS, count=3)
    tasks.publish(tmp_path / "store", backbone, more, states.append)
    tasks.publish(tmp_path / "store", backbone, more, states.append)
    assert states == ["publishing 1/2", "publishing 2/2", "publishing 1/1"]
    names = {path.name for path in (tmp_path / "store").iterdir() if path.is_dir()}
    assert names == set(task_names(3))


def test_a_port_listens_or_not() -> None:
    with held_port() as port:
        assert not tasks._listens(port)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SmallSite]:
    version = version_of(tmp_path / "made", "a", "old")
    with small_site(tmp_path, version) as site:
        yield site


def test_a_task_is_asked_again_until_it_answers(site: SmallSite) -> None:
    assert tasks._listens(int(site.url.rpartition(":")[2]))
    turns = iter([Said.of({}, 503), Said.of({}, 404), Said.of({})])
    texts: list[str] = []

    def answer(asked: Asked) -> Said:
        texts.append(asked.json["inputs"])
        return next(turns)

    site._right = answer  # type: ignore[method-assign]
    found = Start()
    seconds = tasks._answer_seconds(site, "a", found)
    assert (found.failed, texts) == (2, ["a short text"] * 3)
    assert seconds < 10


def test_a_server_that_ended_is_not_waited_for(site: SmallSite) -> None:
    site.kill()
    found = Start()
    assert tasks._answer_seconds(site, "a", found) < 10
    assert found.failed == 1
    assert not tasks._is_ready(site)
    assert tasks._ready_tasks(site) == 0


def test_ready_tasks_are_counted(site: SmallSite) -> None:
    assert tasks._is_ready(site)
    assert tasks._ready_tasks(site) == 1


CALM = Calm([0.1] * 20, (), ())
VITALS = Vitals(100_000_000, ("/a",), 3, 9, 500)


def test_reports_of_the_siege() -> None:
    findings = Findings()
    findings.check("alive", True, "")
    flooded = Flooded("alone", CALM, 1, 50_000_000, {})
    worse = replace(flooded, name="x", calm=Calm([0.2], ("503",), ()), came={"503": 2, "200": 9})
    report = checked(costly._report(CostlyPlan(PYTHON, 5), "c", findings, [flooded, worse]))
    assert report.grids[0].rows == [
        ("alone", "100", "100", "1.0", "0", "50", "-"),
        ("x", "200", "200", "2.0", "1", "50", "9 x 200, 2 x 503"),
    ]
    phase = Phase("5 idle", CALM, 10_000_000, 20_000_000, 5, 7, 3.2, {"408": 5})
    alone = Phase("alone", CALM, 10_000_000)
    plan = ConnectionsPlan(PYTHON, 5)
    report = checked(connections._report(plan, "c", findings, {}, [alone, phase]))
    assert report.grids[0].rows[1] == (
        "5 idle", "100", "100", "1.0", "0", "10", "20", "7", "3", "5 x 408",
    )  # fmt: skip
    assert "limits set: none" in report.notes[0]
    filled = fuzz._Run(findings, 10, lambda done, wanted: None)
    filled.statuses = Counter({"a|200": 3, "b|200": 2, "b|400": 1})
    plan_ = fuzz.FuzzPlan(PYTHON, 10, 7, rounds=2)
    report = checked(fuzz._report(plan_, "c", filled, [VITALS] * 3, CALM))
    assert report.grids[0].rows == [("200", "5"), ("400", "1")]
    moments = [row[0] for row in report.grids[1].rows]
    assert moments == ["start", "5 requests", "10 requests"]


def test_reports_of_the_store(site: SmallSite) -> None:
    findings, expected = Findings(), Expected()
    traffic = Traffic(site.url, ["a"], expected, findings)
    swaps = Swaps(site, findings, {}, expected, traffic, {})
    swaps.made, swaps.followed = Counter({"http": 6}), [1.0, 3.0]
    plan = chaos.ChaosPlan(Path(), PYTHON, 6, 1, 0)
    report = checked(chaos._report(plan, "c", findings, swaps, traffic, Reload([0.5], [])))
    assert report.grids[0].rows == [("http", "6")]
    assert report.grids[1].rows == [
        ("a pointer is followed", "2", "1.00", "1.00", "3.00", "3.00"),
        ("plain load: PUT to answer", "1", "0.50", "0.50", "0.50", "0.50"),
        ("DELETE, PUT to answer", "0", "-", "-", "-", "-"),
    ]
    run_ = uploads._Run(site, findings, None, {}, site.folder)  # type: ignore[arg-type]
    run_.statuses = Counter({"422": 3, "201": 1})
    upload_plan = uploads.UploadsPlan(Path(), PYTHON, 4, 0)
    report = checked(uploads._report(upload_plan, "c", run_, [VITALS] * 2, traffic))
    assert report.grids[0].rows == [("201", "1"), ("422", "3")]
    assert [row[0] for row in report.grids[1].rows] == ["first", "at two fifths"]
    nothing: Any = None
    entry_run = entries._Run(site, findings, nothing, site.folder, [], [], expected, traffic)
    entry_run.told = [0.5]
    report = checked(entries._report(entries.EntriesPlan(Path(), PYTHON, 2), "c", entry_run, 2))
    assert report.grids[0].rows[0] == ("told", "1", "0.50", "0.50", "0.50", "0.50")
    assert report.data["seconds"] == {
        "told": [0.5], "healed by files": [], "healed over HTTP": [],
    }  # fmt: skip
