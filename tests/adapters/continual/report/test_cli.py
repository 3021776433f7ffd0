"""The command: tables, JSON, Markdown, plots, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from typer.testing import CliRunner, Result

from jumplora_adapters.continual.report.cli import report
from jumplora_adapters.continual.report.comparisons import comparisons
from jumplora_adapters.continual.report.runs import read_runs
from jumplora_adapters.continual.report.summary import summarise
from jumplora_adapters.continual.report.table import Table
from jumplora_adapters.continual.report.tables import tables
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


def read_tables(folders: list[Path]) -> dict[str, Table]:
    """By their titles."""
    summaries = summarise(read_runs(folders)[0])
    return {table.title: table for table in tables(summaries, comparisons(summaries))}


def row(table: Table, *start: str) -> str:
    """The first row that begins with these cells, as a line."""
    return next(" ".join(cells) for cells in table.rows if cells[: len(start)] == start)


def test_tables(folders: list[Path]) -> None:
    made = read_tables(folders)
    assert made["Groups of runs"].rows == (
        ("A", "JumpLoRA + IncLoRA"),
        ("B", "IncLoRA"),
        ("C", "IncLoRA pruned to 12.4 %"),
        ("D", "independent JumpLoRA"),
        ("E", "joint LoRA"),
    )
    scores = made["Scores"]
    assert row(scores, "A", "free") == (
        "A free 0 1 66.0 ± 1.4 -20.0 ± 0.0 20.0 ± 0.0 +5.0 ± 0.0 -20.0 (n=1) -5.0 (n=1)"
    )
    assert row(scores, "B", "free").endswith("+5.0 ± 0.0 – –")
    assert row(scores, "C", "free") == "C free 0 62.0 -24.0 24.0 +5.0 – –"
    assert row(scores, "C", "options") == "C options 0 67.0 -24.0 24.0 +5.0 – –"
    assert row(scores, "D") == "D free 0 85.0 – – – – –"
    assert row(scores, "E") == "E free 0 90.0 – – – – –"
    costs = made["Density, overlap and cost"]
    assert row(costs, "A").startswith(
        "A 12.0 ± 0.0 % 0.103 ± 0.000 0.064 ± 0.000 1.61 ± 0.00 2.0 ± 0.0"
    )
    assert row(costs, "C").endswith("2.0 3.9 0.750 400.0 MB")
    assert row(made["Ways to serve the tasks"], "C", "free") == "C free 62.0 80.0 60.0 –"
    assert row(made["Lost knowledge, or lost labels"], "C").endswith("0 %")
    sites = made["Density by kind of module"]
    assert row(sites, "A").endswith("6.0 % 36.0 %")
    assert [cells[0] for cells in sites.rows] == ["A", "D"]  # the others are dense
    moved = made["How far the thresholds moved"]
    assert row(moved, "A", "yahoo").endswith("x 1.5000 ± 0.0000 12.0 ± 0.0 % ")
    changed = made["What the gate changes, paired by seed"]
    assert row(changed, "A over B", "OA", "free") == (
        "A over B OA free SC +9.00, LS +7.86 +16.00 ± 1.41 2 agrees"
    )
    assert row(changed, "A over C", "OA").endswith("– +3.00 1 undecided")
    assert row(made["Beside the published numbers"], "JumpLoRA + IncLoRA") == (
        "JumpLoRA + IncLoRA published, SC 71.60 -11.9 12.4 % 0.065"
    )


def test_accuracy_matrices(folders: list[Path]) -> None:
    made = read_tables(folders)
    chain = made["Accuracy matrix of IncLoRA pruned to 12.4 %"]
    assert [name for name, _ in chain.columns] == ["", "task", "scored", "bare", *"1234"]
    assert [cells for cells in chain.rows if cells[2] == "free"] == [
        ("1", "dbpedia", "free", "10.0", "80.0", "68.0", "56.0", "44.0"),
        ("2", "amazon", "free", "10.0", "15.0", "80.0", "68.0", "56.0"),
        ("3", "yahoo", "free", "10.0", "", "15.0", "80.0", "68.0"),
        ("4", "agnews", "free", "10.0", "", "", "15.0", "80.0"),
    ]
    assert row(chain, "3", "yahoo", "options") == "3 yahoo options 15.0  20.0 85.0 73.0"
    alone = made["Accuracy matrix of independent JumpLoRA"]
    assert [name for name, _ in alone.columns[3:]] == ["bare", "alone"]
    assert row(alone, "4") == "4 agnews free 10.0 85.0"
    joint = made["Accuracy matrix of joint LoRA"]
    assert [name for name, _ in joint.columns[3:]] == ["bare", "joint"]
    assert row(joint, "2") == "2 amazon free 10.0 90.0"


def test_independent_adapters_that_were_scored_on_other_tasks_have_all_columns(
    tmp_path: Path,
) -> None:
    folder = write_run(tmp_path / "alone", method="independent", own=0.85)
    after = json.loads((folder / "matrix.json").read_text())["after"]
    after[1]["dbpedia"] = {"exact_match": 0.31, "best_option": None}
    change(folder, "matrix.json", after=after)
    (table,) = [t for title, t in read_tables([folder]).items() if "matrix" in title]
    assert row(table, "1", "dbpedia") == "1 dbpedia free 10.0 85.0 31.0  "


def test_five_sentences_come_first(run_report: RunReport, folders: list[Path]) -> None:
    unfinished = stop_after(write_run(folders[0].parent / "stopped", seed=9), 3)
    text = run_report(*folders, unfinished).stdout.partition("\n\n")[0]
    assert " ".join(text.split()) == (
        "trained 7 runs of order1 (4 tasks) on tiny-t5: A: JumpLoRA + IncLoRA; B: IncLoRA; "
        "C: IncLoRA pruned to 12.4 %; D: independent JumpLoRA; E: joint LoRA. "
        "Left out, not finished: 1 run. "
        "at the end right, mean over the tasks: A 66.0 ± 1.4 %, B 50.0 ± 0.0 %, C 62.0 %, "
        "D 85.0 %, E 90.0 %; the bare backbone 10.0 %. "
        "forgotten points lost since a task's best score: A 20.0 ± 0.0, B 40.0 ± 0.0, C 24.0. "
        "gate entries kept: A 12.0 ± 0.0 %, D 12.0 %; shared by two tasks, times chance: "
        "A 1.61 ± 0.00, D 1.61. "
        "conclusion A over B: +16.0 ± 1.4 points of right answers, more than two standard errors "
        "of 2 seeds, which may still be chance; A over C: +3.0 points of right answers, of one "
        "seed, which decides nothing."
    )


def test_two_runs_and_one_run(run_report: RunReport, folders: list[Path]) -> None:
    both = " ".join(run_report(folders[0], folders[2]).stdout.split())
    assert "on tiny-t5: JumpLoRA + IncLoRA; IncLoRA. at the end right" in both
    assert "JumpLoRA + IncLoRA over IncLoRA: +15.0 points of right answers, of one seed" in both
    dense = run_report(folders[2]).stdout
    assert "\ngate        none of the runs has a gate.\n" in dense
    assert "\nconclusion  nothing to compare;" in dense
    assert "Groups of runs" not in dense
    joint = run_report(folders[-1]).stdout
    assert "\nforgotten   not measured;" in joint


def test_a_difference_within_the_spread_decides_nothing(
    run_report: RunReport, tmp_path: Path
) -> None:
    """Seed 0 favours the gate, seed 1 the dense run."""
    runs = [
        write_run(tmp_path / f"{gate}-{seed}", gate=gate, seed=seed, own=0.7 + own)
        for gate, seed, own in (("jumprelu", 0, 0.1), ("none", 0, 0), ("jumprelu", 1, 0))
    ]
    runs.append(write_run(tmp_path / "dense-1", gate="none", seed=1, own=0.79))
    text = " ".join(run_report(*runs).stdout.split())
    assert "within the spread of 2 seeds, which decides nothing." in text


NAMES = st.from_regex(r"[a-z][a-z._-]{0,58}", fullmatch=True)
ENDS = ("start", "end")
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"gate": "none", "loss": 0.0219},
    {"gate": "none", "prune": [0.12], "loss": 0.0123},
    {"method": "independent", "own": 0.8511},
    {"method": "joint", "gate": "none"},
    {"method": "ella", "loss": 0.0137, "warnings": ["word " * 30]},
)


def numbers(told: dict[str, Any]) -> tuple[Counter[str], set[str]]:
    """As tables write them: the accuracies of all matrices, and what stands at least once."""
    cells: Counter[str] = Counter()
    once: set[str] = set()
    for group in told["groups"]:
        for scores in group["scores"].values():
            shares = [value["mean"] for row in scores["matrix"] for value in row["tasks"].values()]
            cells.update(f"{100 * share:.1f}" for share in shares)
            once |= {f"{100 * each['mean']:z.1f}" for each in scores["measures"].values() if each}
        once.add(f"{100 * group['costs']['density']['mean']:.1f}")
        once |= {f"{group['costs'][name]['mean']:.1f}" for name in ("minutes", "cpu_minutes")}
        once |= {f"{move[end]['mean']:.4g}" for move in group["gate_moves"] for end in ENDS}
    once |= {f"{100 * each['difference']['mean']:z.2f}" for each in told["comparisons"]}
    return cells, once


@settings(
    max_examples=12,
    phases=[Phase.generate],  # shrinking a failure takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(NAMES, min_size=1, max_size=15, unique=True),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from(["tiny", "a-backbone/of-a-long-name/" * 6]),
)
def test_no_line_is_wider_than_80_columns_and_no_number_is_lost(
    run_report: RunReport, tasks: list[str], runs: int, kinds: int, backbone: str
) -> None:
    """Runs of `kinds` settings, some of them with two seeds or more."""
    with TemporaryDirectory() as made:
        folders: list[Path] = []
        for n in range(runs):
            kind = {"loss": 0.0371, **KINDS[n % kinds]}
            if "prune" in kind:
                kind["prune"] = kind["prune"] * len(tasks)
            named = {"name": backbone, "fingerprint": "a" * 64}
            folder = Path(made) / f"run-{n}"
            folders.append(write_run(folder, seed=n // kinds, tasks=tasks, backbone=named, **kind))
        text = run_report(*folders).stdout
        told = json.loads(run_report(*folders, "--json").stdout)
    assert max(map(cell_len, text.splitlines())) <= 80
    shown = Counter(word.lstrip("+") for word in text.split())
    cells, once = numbers(told)
    assert not cells - shown
    assert not once - shown.keys()


def test_one_seed_shows_no_spread(run_report: RunReport, folders: list[Path]) -> None:
    text = run_report(folders[0]).stdout
    assert "±" not in text


def test_json_is_one_document(run_report: RunReport, folders: list[Path]) -> None:
    unfinished = stop_after(write_run(folders[0].parent / "stopped", seed=9), 3)
    result = run_report(*folders, unfinished, "--json")
    told = json.loads(result.stdout)
    assert told["format"] == 1
    assert [*told["summary"]] == ["trained", "at the end", "forgotten", "gate", "conclusion"]
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
    assert text.startswith("# Continual runs\n\n* trained: 7 runs of order1")
    assert "| group | scored | seeds | OA | BWT |\n" in text
    assert "| C | free | 0 | 62.0 | -24.0 |\n" in text
    assert max(map(len, (line for line in text.splitlines() if "](" not in line))) <= 80
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
    text = " ".join(run_report(*runs).stdout.split())
    assert (
        "* the runs are of 2 backbones, tiny-t5 (aaaaaaaa), large-t5 (bbbbbbbb): runs of "
        "different backbones are neither grouped nor compared"
    ) in text
    assert "JumpLoRA + IncLoRA, large-t5" in text


def test_what_a_reader_must_know_comes_first(
    run_report: RunReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a long path would be folded
    stopped = stop_after(write_run(Path("stopped")), 1)
    warned = write_run(Path("warned"), seed=1, warnings=["tau hardly moved"])
    notes = run_report(stopped, warned).stdout.split("\n\n")[1]
    assert notes.replace("\n  ", " ") == (
        "* left out, not finished: stopped: 1 of 4 stages are done\n"
        "* measured on a processor, cores 2, threads 1, processes 2, device cpu, torch 2.10.0\n"
        "* warnings of the trainings: 1, in the table of that name"
    )
    assert read_tables([stopped, warned])["Warnings of the trainings"].rows == (
        ("JumpLoRA + IncLoRA", "1", "dbpedia", "tau hardly moved"),
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
    assert "\nScores\n" in run_report(*folders).stdout
    result = run_report(*folders, "--out", tmp_path / "out", code=1)
    assert "\nScores\n" in result.stdout
    assert "pip install --constraint constraints.txt --editable '.[train]'" in result.stderr
    assert "## Scores\n" in (tmp_path / "out" / "report.md").read_text()
