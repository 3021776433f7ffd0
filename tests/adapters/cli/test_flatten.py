from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.header import read_manifest
from jumplora_adapters.store import Store

RunJson = Callable[..., Any]


def test_flatten(run_json: RunJson, store: Store, backbone: Backbone, tmp_path: Path) -> None:
    out = tmp_path / "flat.safetensors"
    to = ("--store", store.root, "--backbone", backbone.path, "--out", out)
    (written,) = run_json("flatten", "two", *to, "--task", "both")["adapters"]
    assert (written["task_id"], written["method"], written["lineage"]) == ("both", "flatten", [])
    own = store.manifest(store.current("two")).density.values()
    assert written["density"] > sum(own) / len(own)
    assert read_manifest(out).training["flattened"] == [store.current("one"), store.current("two")]
