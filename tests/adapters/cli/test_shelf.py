from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import Result

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
    assert "current" in run("list", "one", "--store", store.root).stdout


def test_list_names_an_adapter_that_cannot_be_read(
    run: Run, run_json: RunJson, store: Store
) -> None:
    path = store.path_of(store.current("two"))
    path.write_bytes(path.read_bytes()[:20])
    (_, two) = run_json("list", "--store", store.root)["adapters"]
    assert two["error"]["code"] == "header"
    assert "unreadable (header)" in run("list", "--store", store.root).stdout


def test_list_of_an_empty_store(run_json: RunJson, tmp_path: Path) -> None:
    assert run_json("list", "--store", tmp_path)["adapters"] == []


def test_rollback_to_the_version_before_and_to_a_named_one(
    run: Run, run_json: RunJson, store: Store
) -> None:
    first, second = (entry.digest for entry in store.history("one"))
    answer = run_json("rollback", "one", "--store", store.root)
    assert answer == {"task_id": "one", "version": first, "previous": second}
    assert store.current("one") == first
    text = run("rollback", "one", "--to", second[:8], "--store", store.root).stdout
    assert text == f"one: {first[:12]} -> {second[:12]}\n"
    assert store.current("one") == second


def test_remove_one_version_then_the_task(run: Run, run_json: RunJson, store: Store) -> None:
    first, second = (entry.digest for entry in store.history("one"))
    refused = run("remove", "one", "--store", store.root, code=1)
    assert refused.stderr.startswith("error (has_descendants): ")
    assert refused.stdout == ""
    answer = run_json("remove", "one", "--version", first[:8], "--store", store.root)
    assert answer == {"task_id": "one", "removed": [first]}
    assert store.versions("one") == (second,)
    assert "removed" in run("remove", "two", "--store", store.root).stdout
    run("remove", "one", "--store", store.root)
    assert store.tasks() == []


def test_errors_go_to_stderr_with_code_1(run: Run, store: Store, tmp_path: Path) -> None:
    unknown = run("rollback", "ome", "--store", store.root, code=1)
    assert unknown.stdout == ""
    assert unknown.stderr.startswith("error (unknown_task): ")
    assert "one" in unknown.stderr
    missing = run("list", "--store", tmp_path / "nowhere", code=1)
    assert "does not exist" in missing.stderr
    nothing_before = run("rollback", "two", "--store", store.root, code=1)
    assert "error (unknown_version)" in nothing_before.stderr


def test_usage_errors_have_code_2(run: Run) -> None:
    assert "--store" in run("list", code=2).stderr
    run("rollback", code=2)


def test_store_may_come_from_the_environment(
    run_json: RunJson, store: Store, monkeypatch: Any
) -> None:
    monkeypatch.setenv("JUMPLORA_STORE", str(store.root))
    assert len(run_json("list")["adapters"]) == 2
