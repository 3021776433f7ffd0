"""Run folders: what is read of a sound one, and what is said of any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from jumplora_adapters.continual.metrics import overall_accuracy
from jumplora_adapters.continual.report.runs import Run, Unfinished, read_run, read_runs
from jumplora_adapters.errors import DataError
from run_folders import TASKS, change, stop_after, write_run


def test_a_finished_run(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", seed=3, own=0.8, loss=0.1, options=None))
    assert isinstance(run, Run)
    assert run.config.order.tasks == TASKS
    assert run.config.seed == 3
    assert {"format", "run", "seed"}.isdisjoint(run.settings)
    assert [result.task for result in run.results] == list(TASKS)
    assert len(run.pairs) == 6
    free, options = run.scores("exact_match"), run.scores("best_option")
    assert free.cell(4, 1) == pytest.approx(0.5)
    assert free.cell(2, 3) == 0.15
    assert free.cell(1, 3) is None
    assert options.cell(4, 1) is None
    assert overall_accuracy(free) == pytest.approx((0.5 + 0.6 + 0.7 + 0.8) / 4)


@pytest.mark.parametrize(("method", "stages"), [("joint", 1), ("independent", 4)])
def test_runs_that_are_no_chain(tmp_path: Path, method: str, stages: int) -> None:
    run = read_run(write_run(tmp_path / "run", method=method, gate="none"))
    assert isinstance(run, Run)
    assert len(run.matrix.after) == len(run.results) == stages
    assert run.pairs == ()


def test_tasks_are_read_by_position_and_not_by_name(tmp_path: Path) -> None:
    tasks = [f"task{n}" for n in range(12)]
    run = read_run(write_run(tmp_path / "run", tasks=tasks))
    assert isinstance(run, Run)
    assert [result.task for result in run.results] == tasks


def test_unknown_keys_are_no_fault_and_part_of_the_settings(tmp_path: Path) -> None:
    run = read_run(change(write_run(tmp_path / "run"), "config.json", data={"sha256": "00"}))
    assert isinstance(run, Run)
    assert run.settings["data"] == {"sha256": "00"}


def test_an_unfinished_run_says_how_far_it_is(tmp_path: Path) -> None:
    whole = write_run(tmp_path / "whole")
    half = stop_after(write_run(tmp_path / "half"), 2)
    begun = stop_after(write_run(tmp_path / "begun"), 0)
    (begun / "matrix.json").unlink()
    runs, unfinished = read_runs([half, whole, begun])
    assert [run.folder for run in runs] == [whole]
    assert unfinished == (Unfinished(half, 2, 4), Unfinished(begun, 0, 4))
    with pytest.raises(DataError) as failed:
        read_runs([half, begun])
    assert str(failed.value) == (
        f"no finished run was given: {half}: 2 of 4 stages are done; {begun}: 0 of 4 stages are "
        "done"
    )


def test_a_folder_given_twice_is_read_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    runs, _ = read_runs([folder, tmp_path / "." / "run" / ".." / "run"])
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("config.json", {"format": 2}, "format 2 given; only 1 can be read"),
        ("config.json", {"method": "ewc"}, "method: Input should be 'seqlora', 'inclora'"),
        ("config.json", {"seed": "0"}, "seed: Input should be a valid integer"),
        ("matrix.json", {"tasks": ["a", "b", "c", "d"]}, "the order of config.json is dbpedia"),
        (
            "config.json",
            {"order": {"name": "order1", "tasks": ["../a"]}},
            "order.tasks.0: String should match pattern",
        ),
        ("matrix.json", {"after": []}, "0 stages given; a finished run has 4"),
        ("matrix.json", {"after": [{}] * 4}, "stage 1 has no score of dbpedia"),
        (
            "matrix.json",
            {"bare": {"dbpedia": {"exact_match": 71.0, "best_option": None}}},
            "bare.dbpedia.exact_match: Input should be less than or equal to 1",
        ),
        ("overlap.json", {"pairs": [{"first": "a"}]}, "(and 2 more)"),
        ("tasks/2-amazon/result.json", {"position": 3}, "it has 1, 3, 3, 4"),
        ("tasks/2-amazon/result.json", {"seconds": None}, "seconds: Input should be a valid num"),
    ],
)
def test_damage_is_told_with_its_file(
    tmp_path: Path, file: str, values: dict[str, object], message: str
) -> None:
    folder = change(write_run(tmp_path / "run"), file, **values)
    with pytest.raises(DataError) as failed:
        read_run(folder)
    assert message in str(failed.value)
    assert str(failed.value).startswith(str(folder / file.split("/")[0]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"format": 1', "not JSON that can be read"),
        (b'{"format": 1, "format": 1}', "appears twice"),
        (b"[]", 'it has no "format"'),
        (b"{}", 'it has no "format"'),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_config_that_is_none(tmp_path: Path, content: bytes, message: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(DataError, match=r"config\.json") as failed:
        read_run(folder)
    assert message in str(failed.value)


def test_a_score_that_is_no_number(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    path = folder / "matrix.json"
    path.write_text(path.read_text().replace("0.15", "NaN"))
    with pytest.raises(DataError, match="NaN is not a JSON number"):
        read_run(folder)


def test_other_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a folder of a continual run$"):
        read_run(tmp_path / "absent")
    with pytest.raises(DataError, match=r"it has no config\.json"):
        read_run(tmp_path)
    (write_run(tmp_path / "run") / "environment.json").unlink()
    with pytest.raises(DataError, match=r"environment\.json cannot be read: No such file"):
        read_run(tmp_path / "run")
