from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import Result

from factories import write_random_adapter
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.store import Store

Run = Callable[..., Result]
RunJson = Callable[..., Any]


def test_list_shows_every_task(run: Run, run_json: RunJson, store: Store) -> None:
    text = run("list", "--store", store.root).stdout
    assert store.current("one")[:12] in text
    assert "two" in text
    listed = run_json("list", "--store", store.root)
    assert [entry["task_id"] for entry in listed["adapters"]] == ["one", "two"]
    one, two = listed["adapters"]
    assert one["version"] == store.current("one")
    assert (one["versions"], one["kind"], one["lineage"]) == (2, "masked", [])
    assert two["lineage"] == [one["version"]]
    assert 0.05 < one["density"] < 0.15 < two["density"]
    assert two["file_bytes"] == store.path_of(two["version"]).stat().st_size


def test_list_of_one_task_is_its_history(run: Run, run_json: RunJson, store: Store) -> None:
    history = run_json("list", "one", "--store", store.root)["history"]
    assert [entry["event"] for entry in history] == ["publish", "publish"]
    assert [entry["state"] for entry in history] == ["stored", "current"]
    assert history[-1]["version"] == store.current("one")
    text = run("list", "one", "--store", store.root).stdout
    rows = [line.split()[-1] for line in text.splitlines() if " publish " in line]
    assert rows == ["current", "stored"]  # the newest first


def test_an_older_version_that_is_published_again_is_current_again(
    run: Run, run_json: RunJson, store: Store, backbone: Backbone
) -> None:
    digest = store.history("one")[0].digest
    store.publish(store.path_of(digest), backbone)
    assert run_json("list", "one", "--store", store.root)["history"][-1]["event"] == "repoint"
    text = run("list", "one", "--store", store.root).stdout
    assert re.search(rf"current again\s+{digest[:12]}\s+current", text)


def test_list_names_an_adapter_that_cannot_be_read(
    run: Run, run_json: RunJson, store: Store
) -> None:
    path = store.path_of(store.current("two"))
    path.write_bytes(path.read_bytes()[:20])
    (_, two) = run_json("list", "--store", store.root)["adapters"]
    assert two["error"]["code"] == "header"
    assert "unreadable (header)" in run("list", "--store", store.root).stdout


def test_list_of_an_empty_store(run: Run, run_json: RunJson, tmp_path: Path) -> None:
    assert "is its volume mounted?" in run("list", "--store", tmp_path, code=1).stderr
    Store(tmp_path).prepare()
    assert run_json("list", "--store", tmp_path)["adapters"] == []


def test_list_names_a_task_whose_pointer_is_damaged(
    run: Run, run_json: RunJson, store: Store
) -> None:
    (store.root / "two" / "current").write_text("garbage\n")
    one, two = run_json("list", "--store", store.root)["adapters"]
    assert (one["task_id"], two["task_id"], two["version"]) == ("one", "two", None)
    assert two["error"]["message"].endswith("'garbage'; 64 hexadecimal digits belong in it")
    assert "unreadable (store)" in run("list", "--store", store.root).stdout


def test_one_line_of_a_history_is_current(run_json: RunJson, store: Store) -> None:
    store.rollback("one")
    history = run_json("list", "one", "--store", store.root)["history"]
    assert [(entry["event"], entry["state"]) for entry in history] == [
        ("publish", "stored"),
        ("publish", "stored"),
        ("rollback", "current"),
    ]


def test_errors_go_to_stderr_with_code_1(run: Run, store: Store, tmp_path: Path) -> None:
    unknown = run("list", "ome", "--store", store.root, code=1)
    assert unknown.stdout == ""
    assert unknown.stderr.startswith("error (unknown_task): ")
    assert "one" in unknown.stderr
    missing = run("list", "--store", tmp_path / "nowhere", code=1)
    assert "does not exist" in missing.stderr


def test_usage_errors_have_code_2(run: Run) -> None:
    assert "--store" in run("list", code=2).stderr


def test_store_may_come_from_the_environment(
    run_json: RunJson, store: Store, monkeypatch: Any
) -> None:
    monkeypatch.setenv("JUMPLORA_STORE", str(store.root))
    assert len(run_json("list")["adapters"]) == 2


def test_list_shows_what_is_staged_and_named(
    run: Run, run_json: RunJson, store: Store, backbone: Backbone, tmp_path: Path
) -> None:
    assert "staged" not in run("list", "--store", store.root).stdout
    current = store.current("one")
    file = write_random_adapter(tmp_path, backbone, task="one", seed=77)
    staged = store.publish(file, backbone, stage=0.25).digest
    store.alias("one", "champion", current)
    one = run_json("list", "--store", store.root)["adapters"][0]
    assert one["staged"] == {"version": staged, "share": 0.25}
    assert one["aliases"] == {"champion": current}
    assert f"{staged[:12]} 0.25" in run("list", "--store", store.root).stdout
    *_, stage, alias = run_json("list", "one", "--store", store.root)["history"]
    assert (stage["event"], stage["version"], stage["state"]) == ("stage", staged, "staged")
    assert (alias["event"], alias["state"]) == ("alias", "current, champion")
    store.unstage("one")
    store.remove_version("one", staged)
    history = run_json("list", "one", "--store", store.root)["history"]
    assert {each["state"] for each in history if each["version"] == staged} == {"removed"}
