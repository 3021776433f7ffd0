from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from factories import random_adapter, write_random_adapter
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.delta import SparseDelta
from jumplora_adapters.format import write_adapter
from jumplora_adapters.manifest import Calibration, ChoicesSpec, PromptSpec, options_digest
from jumplora_adapters.store import Store

Run = Callable[..., Result]
RunJson = Callable[..., Any]
Q = "encoder.block.0.layer.0.SelfAttention.q"


def test_inspect_a_file_and_a_published_version(run: Run, run_json: RunJson, store: Store) -> None:
    digest = store.current("two")
    by_spec = run_json("inspect", "two", "--store", store.root)
    by_file = run_json("inspect", store.path_of(digest))
    assert by_spec == by_file
    assert (by_spec["task_id"], by_spec["version"]) == ("two", digest)
    assert by_spec["manifest"] == store.manifest(digest).model_dump(mode="json")
    text = run("inspect", f"two@{digest[:8]}", "--store", store.root).stdout
    assert digest in text
    assert store.current("one")[:12] in text  # the lineage
    assert "encoder SelfAttention q" in text
    assert Q not in text
    assert Q in run("inspect", "two", "--store", store.root, "--modules").stdout


def test_inspect_shows_text_as_it_is(run: Run, backbone: Backbone, tmp_path: Path) -> None:
    prompt = PromptSpec(
        template="é {text}\n{options}\\n", instruction="[red]Is it[/red] so?", options=("yes", "no")
    )
    file = write_random_adapter(tmp_path, backbone, prompt=prompt, kind="lowrank")
    text = run("inspect", file).stdout
    assert r'"é {text}\n{options}\\n"' in text
    assert "[red]Is it[/red] so?" in text
    assert "yes | no" in text
    assert "lowrank" in text


def test_inspect_shows_how_far_the_threshold_moved(
    run: Run, backbone: Backbone, tmp_path: Path
) -> None:
    training = {"tau_start": {"global": 0.02, "odd": "x"}, "tau_end": {"global": 0.03, "odd": 1}}
    manifest, deltas = random_adapter(backbone, task="moved")
    manifest = manifest.model_copy(update={"training": training})
    write_adapter(tmp_path / "moved.safetensors", manifest, deltas)
    text = run("inspect", tmp_path / "moved.safetensors").stdout
    assert "0.02 -> 0.03 (x 1.5)" in text
    assert "odd" not in text


def test_inspect_shows_calibrations_and_which_are_stale(
    run: Run, backbone: Backbone, tmp_path: Path
) -> None:
    prompt = PromptSpec(template="{text}", options=("yes", "no"))
    made: dict[str, Any] = {"temperature": 1.5, "rows": 500, "error": 0.02, "error_before": 0.1}
    new, old = options_digest(prompt), "ab" * 32
    choices = ChoicesSpec(
        min_mass=0.25,
        calibrations=(
            Calibration(dtype="float32", is_folded=False, options=old, **made),
            Calibration(dtype="int8", is_folded=True, options=new, **made),
        ),
    )
    manifest, deltas = random_adapter(backbone, prompt=prompt)
    file = tmp_path / "sure.safetensors"
    write_adapter(file, manifest.model_copy(update={"choices": choices}), deltas)
    text = run("inspect", file).stdout
    assert "min_mass            0.25" in text
    assert (
        "calibrated int8     folded: temperature 1.500, error 0.020 (before 0.100) on 500" in text
    )
    lines = [line for line in text.splitlines() if "of other options: not used" in line]
    assert len(lines) == 1
    assert lines[0].startswith("calibrated float32  unfolded: ")
    assert "calibrated" not in run("inspect", write_random_adapter(tmp_path, backbone)).stdout


def test_the_density_of_all_modules_is_that_of_all_their_entries(
    run: Run, run_json: RunJson, backbone: Backbone, tmp_path: Path
) -> None:
    targets = [Q, "lm_head"]
    manifest, deltas = random_adapter(backbone, targets=targets, density=0.1)
    head = torch.ones(backbone.sites["lm_head"].shape)
    deltas["lm_head"] = SparseDelta.from_dense(head, torch.float32)
    file = tmp_path / "task.safetensors"
    write_adapter(file, manifest, deltas)
    entries = sum(delta.shape[0] * delta.shape[1] for delta in deltas.values())
    expected = sum(delta.nnz for delta in deltas.values()) / entries
    lines = [line.split() for line in run("inspect", file).stdout.splitlines()]
    assert ["all", "2", f"{100 * expected:.2f}", "%"] in [line[:4] for line in lines]
    store = Store(tmp_path / "store")
    store.publish(file, backbone)
    (listed,) = run_json("list", "--store", store.root)["adapters"]
    assert listed["density"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere.safetensors", "error (io): nowhere.safetensors: No such file or directory\n"),
        ("task", "error (store): 'task' is not a .safetensors file"),
    ],
)
def test_inspect_of_what_is_not_there(spec: str, message: str, run: Run) -> None:
    assert run("inspect", spec, code=1).stderr.startswith(message)


def test_a_file_that_is_no_adapter_is_named(run: Run, backbone: Backbone) -> None:
    file = backbone.path / "model.safetensors"
    told = run("inspect", file, code=1).stderr
    assert told.startswith(f"error (manifest): {file} is not a JumpLoRA adapter (the metadata must")
