from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from factories import random_adapter
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.delta import LowRankDelta, SparseDelta
from jumplora_adapters.format import Adapter, read_adapter, write_adapter
from jumplora_adapters.header import read_manifest
from jumplora_adapters.manifest import Canary, PromptSpec
from jumplora_adapters.store import Store

Run = Callable[..., Result]
RunJson = Callable[..., Any]
PROMPT = PromptSpec(template="{options}: {text}?", options=("good", "bad"))
ROW = {"text": "a film", "label": "good"}
CANARY = Canary(prompt="good | bad: a film?", expected="good")


def write_rows(path: Path, *rows: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def file(backbone: Backbone, tmp_path: Path) -> Path:
    """A masked adapter with a prompt and with the factors of one module."""
    manifest, deltas = random_adapter(backbone, prompt=PROMPT, dtype=torch.float16)
    name = manifest.targets[0]
    d_out, d_in = backbone.targets[name]
    factors = {name: (torch.randn(4, d_in), torch.randn(d_out, 4))}
    path = tmp_path / "adapter.safetensors"
    write_adapter(path, manifest, deltas, factors)
    return path


def same_values(one: Adapter, other: Adapter) -> bool:
    pairs = [(delta, other.deltas[name]) for name, delta in one.deltas.items()]
    for first, second in pairs:
        if isinstance(first, SparseDelta) and isinstance(second, SparseDelta):
            tensors = [(first.mask, second.mask), (first.values, second.values)]
        else:
            assert isinstance(first, LowRankDelta)
            assert isinstance(second, LowRankDelta)
            tensors = [(first.A, second.A), (first.B, second.B)]
        if not all(a.dtype == b.dtype and torch.equal(a, b) for a, b in tensors):
            return False
    return one.deltas.keys() == other.deltas.keys()


def test_a_new_version_with_the_same_values(
    run: Run, run_json: RunJson, backbone: Backbone, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "with.safetensors"
    rows = write_rows(tmp_path / "rows.jsonl", ROW)
    told = run_json("canary", file, "--rows", rows, "--backbone", backbone.path, "--out", out)
    before, after = read_adapter(file, backbone), read_adapter(out, backbone)
    assert told["adapters"][0]["version"] == after.digest != before.digest
    assert after.manifest == before.manifest.model_copy(update={"canaries": (CANARY,)})
    assert same_values(before, after)
    (name,) = before.factors
    assert all(map(torch.equal, before.factors[name], after.factors[name]))
    assert "canaries" in run("inspect", out).stdout


def test_low_rank_adapters_of_a_store_too(
    run: Run, backbone: Backbone, store: Store, tmp_path: Path
) -> None:
    manifest, deltas = random_adapter(backbone, kind="lowrank", task="low")
    write_adapter(tmp_path / "low.safetensors", manifest, deltas)
    store.publish(tmp_path / "low.safetensors", backbone)
    rows = write_rows(tmp_path / "rows.jsonl", {"input": "ask", "target": "any"})
    out = tmp_path / "with.safetensors"
    to = ("--backbone", backbone.path, "--out", out)
    run("canary", "low", "--store", store.root, "--rows", rows, *to)
    low = read_adapter(store.path_of(store.current("low")), backbone)
    assert same_values(low, read_adapter(out, backbone))
    assert read_manifest(out).canaries == (Canary(prompt="ask", expected="any"),)


def test_canaries_are_replaced_only_if_that_is_asked(
    run: Run, backbone: Backbone, file: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", ROW, {**ROW, "text": "a book"})
    out = tmp_path / "with.safetensors"
    to = ("--rows", rows, "--backbone", backbone.path, "--out")
    run("canary", file, *to, out)
    again = tmp_path / "again.safetensors"
    write_rows(rows, ROW)
    refused = run("canary", out, *to, again, code=1)
    assert "has 2 canaries already; --replace puts these in their place" in refused.stderr
    assert not again.exists()
    run("canary", out, *to, again, "--replace")
    assert read_manifest(again).canaries == (CANARY,)


def test_faults_write_nothing(run: Run, backbone: Backbone, file: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", *[ROW] * 33)
    out = tmp_path / "with.safetensors"
    to = ("--rows", rows, "--backbone", backbone.path, "--out", out)
    assert "at most 32 canaries" in run("canary", file, *to, code=1).stderr
    write_rows(rows, ROW)
    short = run("canary", file, *to, "--source-length", 5, code=1)
    assert "canary 1: its prompt has" in short.stderr
    assert "at most 5 are allowed" in short.stderr
    assert not out.exists()
