from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import Result

from factories import tiny_t5, write_random_adapter
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.store import Store

Run = Callable[..., Result]
RunJson = Callable[..., Any]


def test_a_sound_store(run: Run, run_json: RunJson, store: Store, backbone: Backbone) -> None:
    checked = run_json("verify", "--store", store.root, "--backbone", backbone.path)
    assert checked["ok"] is True
    assert {finding["version"] for finding in checked["adapters"]} == {
        *store.versions("one"),
        *store.versions("two"),
    }
    text = run("verify", "one", "--store", store.root, "--backbone", backbone.path).stdout
    assert "sound" in text


def test_every_fault_is_named_and_the_exit_code_is_1(
    run: Run, run_json: RunJson, store: Store, backbone: Backbone, tmp_path: Path
) -> None:
    first, second = (entry.digest for entry in store.history("one"))
    flipped = store.path_of(first)
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 0x40
    flipped.write_bytes(content)
    store.path_of(second).unlink()
    (store.root / "one" / "current").write_text(f"{first}\n")
    checked = run_json("verify", "--store", store.root, "--backbone", backbone.path, code=1)
    codes = {finding["version"]: finding["code"] for finding in checked["adapters"]}
    assert codes == {first: "digest", store.current("two"): "missing_ancestor"}
    assert checked["ok"] is False
    shown = run("verify", "--store", store.root, "--backbone", backbone.path, code=1)
    assert "missing_ancestor: " in shown.stdout


def test_a_damaged_pointer_is_a_finding(
    run: Run, run_json: RunJson, store: Store, backbone: Backbone
) -> None:
    (store.root / "one" / "current").write_text("garbage\n")
    common = ("--store", store.root, "--backbone", backbone.path)
    checked = run_json("verify", *common, code=1)
    assert {(f["spec"], f["code"]) for f in checked["adapters"]} == {
        ("one", "store"),
        ("two", None),
    }
    assert "'garbage'" in run("verify", *common, code=1).stdout


def test_a_damaged_routing_is_a_finding(
    run_json: RunJson, store: Store, backbone: Backbone
) -> None:
    (store.root / "one" / "routing.json").write_text("garbage\n")
    checked = run_json("verify", "--store", store.root, "--backbone", backbone.path, code=1)
    (finding,) = (f for f in checked["adapters"] if f["code"] is not None)
    assert (finding["spec"], finding["code"]) == ("one", "store")
    assert "routing.json" in finding["message"]


def test_a_file_for_another_backbone(run_json: RunJson, backbone: Backbone, tmp_path: Path) -> None:
    other = tiny_t5(tmp_path / "other", seed=1)
    file = write_random_adapter(tmp_path, backbone)
    (finding,) = run_json("verify", file, "--backbone", other, code=1)["adapters"]
    assert finding["code"] == "fingerprint"
    (lost,) = run_json("verify", "no.safetensors", "--backbone", other, code=1)["adapters"]
    assert lost["code"] == "io"


def test_a_version_in_the_folder_of_another_task(
    run_json: RunJson, store: Store, backbone: Backbone
) -> None:
    digest = store.current("one")
    store.path_of(digest).rename(store.root / "two" / f"{digest}.safetensors")
    spec = f"two@{digest[:12]}"
    common = ("--store", store.root, "--backbone", backbone.path)
    (finding,) = run_json("verify", spec, *common, code=1)["adapters"]
    assert (finding["code"], finding["task_id"]) == ("manifest", "one")


def test_usage(run: Run, backbone: Backbone) -> None:
    assert "--backbone" in run("verify", "x.safetensors", code=2).stderr
    assert "--store" in run("verify", "--backbone", backbone.path, code=2).stderr
