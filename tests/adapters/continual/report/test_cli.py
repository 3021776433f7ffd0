"""The command: tables, JSON, Markdown, plots, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from jumplora_adapters.continual.report.cli import report
from run_folders import change, stop_after, write_run

RunReport = Callable[..., Result]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run_report() -> RunReport:
    app = typer.Typer()
    app.command()(report)

    def run_report(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output + repr(result.exception)
        return result

    return run_report


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two seeds of a gated and a dense chain, a pruned one, independent and joint adapters."""
    runs = tmp_path / "runs"
    return [
        *(write_run(runs / f"gated-{n}", seed=n, own=0.8 + n / 50) for n in (0, 1)),
        *(write_run(runs / f"dense-{n}", seed=n, gate="none", loss=0.2) for n in (0, 1)),
        write_run(runs / "pruned", gate="none", prune=[0.12, 0.12, 0.12, 0.136], loss=0.12),
        write_run(runs / "alone", method="independent", own=0.85),
        write_run(runs / "joint", method="joint", gate="none", own=0.9),
    ]


def row(text: str, title: str, start: str) -> str:
    """The one line that begins with `start` in the table of that title, its spaces folded."""
    table = text.partition(f"\n{title}\n")[2].partition("\n\n\n")[0]
    lines = [" ".join(line.split()) for line in table.splitlines()]
    found = [line for line in lines if line.startswith(start)]
    return found[0]


def test_tables(run_report: RunReport, folders: list[Path]) -> None:
    text = run_report(*folders).stdout
    scores = "Scores, free generation"
    assert row(text, scores, "JumpLoRA + IncLoRA") == (
        "JumpLoRA + IncLoRA 0 1 66.0 ± 1.4 -20.0 ± 0.0 20.0 ± 0.0 +5.0 ± 0.0 -20.0 (n=1) -5.0 (n=1)"
    )
    assert row(text, scores, "IncLoRA 0 1").endswith("+5.0 ± 0.0 – –")
    assert row(text, scores, "IncLoRA pruned to 12.4 %") == (
        "IncLoRA pruned to 12.4 % 0 62.0 -24.0 24.0 +5.0 – –"
    )
    assert row(text, scores, "independent JumpLoRA") == "independent JumpLoRA 0 85.0 – – – – –"
    assert row(text, scores, "joint LoRA") == "joint LoRA 0 90.0 – – – – –"
    costs = "Density, overlap and cost"
    assert row(text, costs, "JumpLoRA + IncLoRA").startswith(
        "JumpLoRA + IncLoRA 12.0 ± 0.0 % 0.103 ± 0.000 0.064 ± 0.000 1.61 ± 0.00 2.0 ± 0.0"
    )
    assert row(text, costs, "IncLoRA pruned").endswith("2.0 3.9 0.750 400.0 MB")
    assert row(text, "Ways to serve the tasks", "IncLoRA pruned") == (
        "IncLoRA pruned to 12.4 % free generation 62.0 80.0 60.0 –"
    )
    assert row(text, "Lost knowledge, or lost labels", "IncLoRA pruned").endswith("0 %")
    sites = "Density by kind of module"
    assert row(text, sites, "JumpLoRA + IncLoRA").endswith("6.0 % 36.0 %")
    assert "\nIncLoRA 0" not in text.partition(sites)[2].partition("\n\n\n")[0]  # dense updates
    assert row(text, "How far the thresholds moved", "JumpLoRA + IncLoRA").endswith(
        "x 1.5000 ± 0.0000 12.0 ± 0.0 %"
    )
    assert row(text, "What the gate changes, paired by seed", "JumpLoRA") == (
        "JumpLoRA + IncLoRA over IncLoRA OA free generation SC +9.00, LS +7.86 "
        "+16.00 ± 1.41 2 agrees"
    )
    assert row(text, "Beside the published numbers", "JumpLoRA") == (
        "JumpLoRA + IncLoRA published, SC 71.60 -11.9 12.4 % 0.065"
    )
    assert row(
        text, "Accuracy matrix of IncLoRA pruned to 12.4 %, free generation", "after yahoo"
    ) == ("after yahoo 56.0 68.0 80.0 15.0")


def test_one_seed_shows_no_spread(run_report: RunReport, folders: list[Path]) -> None:
    text = run_report(folders[0]).stdout
    assert "±" not in text.partition("\nScores")[2].replace("mean ± standard", "")


def test_json_is_one_document(run_report: RunReport, folders: list[Path]) -> None:
    unfinished = stop_after(write_run(folders[0].parent / "stopped", seed=9), 3)
    result = run_report(*folders, unfinished, "--json")
    told = json.loads(result.stdout)
    assert told["format"] == 1
    assert told["unfinished"] == [{"folder": str(unfinished), "done": 3, "stages": 4}]
    assert "not finished" in result.stderr
    gated = told["groups"][0]
    assert gated["seeds"] == [0, 1]
    assert [run["folder"] for run in gated["runs"]] == [str(folder) for folder in folders[:2]]
    free = gated["scores"]["exact_match"]
    assert free["measures"]["overall"]["mean"] == pytest.approx(0.66)
    assert free["by_seed"]["1"]["overall"] == pytest.approx(0.67)
    assert free["matrix"][4]["state"] == "after agnews"
    assert free["matrix"][4]["tasks"]["dbpedia"]["mean"] == pytest.approx(0.51)
    assert gated["costs"]["times_chance"]["count"] == 2
    assert gated["gate_moves"][0]["ratio"]["mean"] == pytest.approx(1.5)
    assert told["comparisons"][0]["verdict"] == "agrees"
    assert told["comparisons"][0]["published"] == pytest.approx({"SC": 0.09, "LS": 0.0786})


def test_markdown_and_plots(run_report: RunReport, folders: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "made" / "report"
    result = run_report(*folders, "--out", out)
    assert "report.md and 9 plots" in result.stderr
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "| group | seeds | OA |" in text
    assert "| IncLoRA pruned to 12.4 % | 0 | 62.0 | -24.0 |" in text
    plots = sorted(out.glob("*.png"))
    assert [plot.name for plot in plots] == [
        "forgetting-best-option-order1.png",
        "forgetting-exact-match-order1.png",
        "gate-order1.png",
        "matrix-inclora-pruned-to-12.4.png",
        "matrix-inclora.png",
        "matrix-independent-jumplora.png",
        "matrix-joint-lora.png",
        "matrix-jumplora-inclora.png",
        "overlap-order1.png",
    ]
    for plot in plots:
        assert plot.read_bytes().startswith(PNG)
        assert plot.stat().st_size > 5000
        assert f"]({plot.name})" in text


def test_plots_of_runs_that_have_little(run_report: RunReport, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", gate="none", options=None, tasks=("dbpedia",))
    run_report(folder, "--out", tmp_path / "out")
    assert sorted(plot.name for plot in (tmp_path / "out").glob("*.png")) == [
        "forgetting-exact-match-order1.png",
        "matrix-inclora.png",
    ]


def test_plots_of_a_long_order_and_of_two_backbones(run_report: RunReport, tmp_path: Path) -> None:
    tasks = [f"task{n}" for n in range(9)]
    runs = [
        write_run(tmp_path / "a", tasks=tasks, loss=0.02),
        write_run(
            tmp_path / "b", tasks=tasks, backbone={"name": "large-t5", "fingerprint": "b" * 64}
        ),
    ]
    run_report(*runs, "--out", tmp_path / "out")
    assert {plot.name for plot in (tmp_path / "out").glob("overlap-*.png")} == {
        "overlap-order1-tiny-t5.png",
        "overlap-order1-large-t5.png",
    }


def test_two_backbones_are_not_grouped_and_that_is_said(
    run_report: RunReport, tmp_path: Path
) -> None:
    other = {"name": "large-t5", "fingerprint": "b" * 64}
    runs = write_run(tmp_path / "a"), write_run(tmp_path / "b", backbone=other, seed=1)
    text = run_report(*runs).stdout
    assert (
        "* the runs are of 2 backbones, tiny-t5 (aaaaaaaa), large-t5 (bbbbbbbb): runs of "
        "different backbones are neither grouped nor compared"
    ) in text
    assert "JumpLoRA + IncLoRA, large-t5" in text


def test_what_a_reader_must_know_comes_first(run_report: RunReport, tmp_path: Path) -> None:
    stopped = stop_after(write_run(tmp_path / "stopped"), 1)
    warned = write_run(tmp_path / "warned", seed=1, warnings=["tau hardly moved"])
    lines = run_report(stopped, warned).stdout.splitlines()
    assert lines[:3] == [
        f"* left out, not finished: {stopped}: 1 of 4 stages are done",
        "* measured on a processor, cores 2, threads 1, processes 2, device cpu, torch 2.10.0",
        "* warnings of the trainings: 1, in the table of that name",
    ]
    assert row("\n".join(lines), "Warnings of the trainings", "JumpLoRA") == (
        "JumpLoRA + IncLoRA 1 dbpedia tau hardly moved"
    )


def test_only_unfinished_runs_are_an_error(run_report: RunReport, tmp_path: Path) -> None:
    stopped = stop_after(write_run(tmp_path / "stopped"), 1)
    error = run_report(stopped, code=1).stderr
    assert error == (
        f"error (data): no finished run was given: {stopped}: 1 of 4 stages are done\n"
    )


def test_names_from_a_folder_act_on_no_terminal_and_on_no_markdown(
    run_report: RunReport, tmp_path: Path
) -> None:
    name = "a|b$c\x1b[2J$"
    backbone = {"name": name, "fingerprint": "b" * 64}
    runs = [
        write_run(tmp_path / "a", tasks=("c", "d")),
        write_run(tmp_path / "b", tasks=("c", "d"), backbone=backbone, order=name),
    ]
    result = run_report(*runs, "--out", tmp_path / "out")
    assert "\x1b[2J" not in result.stdout
    assert r"a|b$c\u001b[2J$" in result.stdout
    assert r"a\|b$c\\u001b\[2J$" in (tmp_path / "out" / "report.md").read_text()


def test_a_damaged_run_is_an_error_without_traceback(
    run_report: RunReport, folders: list[Path]
) -> None:
    change(folders[1], "config.json", format=7)
    error = run_report(*folders, code=1).stderr
    assert error == (
        f"error (data): {folders[1] / 'config.json'}: format 7 given; only 1 can be read\n"
    )


def test_an_out_that_is_a_file(run_report: RunReport, folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    result = run_report(folders[0], "--out", tmp_path / "taken", code=1)
    assert result.stderr.startswith(f"error (io): {tmp_path / 'taken'}: File exists")


def test_without_matplotlib_the_tables_are_printed_and_written(
    run_report: RunReport, folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jumplora_adapters.continual.report.plots", None)
    assert "Scores, free generation" in run_report(*folders).stdout
    result = run_report(*folders, "--out", tmp_path / "out", code=1)
    assert "Scores, free generation" in result.stdout
    assert "pip install --constraint constraints.txt --editable '.[train]'" in result.stderr
    assert "## Scores, free generation" in (tmp_path / "out" / "report.md").read_text()
