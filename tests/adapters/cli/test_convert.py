from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import Result

from foreign_checkpoints import merged_delta, official_state, save_official, save_peft
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.format import read_adapter
from jumplora_adapters.header import read_manifest
from jumplora_adapters.prompt import DEFAULT_TEMPLATE
from jumplora_adapters.store import Store
from small_hub import small_hub

Run = Callable[..., Result]
RunJson = Callable[..., Any]
Q = "encoder.block.0.layer.0.SelfAttention.q"


def test_official(run_json: RunJson, backbone: Backbone, tmp_path: Path) -> None:
    state = official_state(backbone)
    checkpoint = save_official(tmp_path / "jumplora_weights.pt", state)
    out = tmp_path / "new" / "agnews.safetensors"
    # fmt: off
    (written,) = run_json(
        "convert", "official", checkpoint, "--backbone", backbone.path, "--alpha", 32,
        "--task", "agnews", "--out", out, "--instruction", "What is the topic?",
        "--options", "World | Sports", "--max-new-tokens", 8, "--created", "2026-01-01",
    )["adapters"]
    # fmt: on
    adapter = read_adapter(out, backbone)
    assert torch.equal(adapter.deltas[Q].to_dense(), merged_delta(state[Q], 8.0))
    manifest = adapter.manifest
    assert manifest.prompt is not None
    assert manifest.prompt.template == DEFAULT_TEMPLATE
    assert manifest.prompt.options == ("World", "Sports")
    assert manifest.generation == {"max_new_tokens": 8}
    assert manifest.created == "2026-01-01"
    assert written == {
        "task_id": "agnews",
        "version": adapter.digest,
        "path": str(out),
        "kind": "masked",
        "method": "jumplora",
        "lineage": [],
        "modules": len(backbone.targets),
        "nonzeros": sum(delta.nnz for delta in adapter.deltas.values()),
        "density": pytest.approx(0.1, abs=0.05),
        "file_bytes": out.stat().st_size,
        "warnings": [],
    }


def test_chain_publishes_and_goes_on(
    run: Run, run_json: RunJson, backbone: Backbone, tmp_path: Path
) -> None:
    checkpoints = [
        save_official(tmp_path / f"{seed}.pt", official_state(backbone, seed=seed))
        for seed in range(3)
    ]
    prompts = {"tasks": {task: {"instruction": task, "options": ["a", "b"]} for task in "xyz"}}
    (tmp_path / "tasks.json").write_text(json.dumps(prompts))
    common = ("--backbone", backbone.path, "--alpha", 32, "--task-file", tmp_path / "tasks.json")
    # fmt: off
    text = run(
        "convert", "official", "--chain", *checkpoints[:2], *common,
        "--task", "x", "--task", "y", "--out", tmp_path / "out",
    ).stdout
    # fmt: on
    store = Store(tmp_path / "store")
    lineage = [
        store.publish(tmp_path / "out" / f"{task}.safetensors", backbone).digest for task in "xy"
    ]
    assert all(digest[:12] in text for digest in lineage)
    # A later task of the same run, once the first ones are published.
    # fmt: off
    (third,) = run_json(
        "convert", "official", checkpoints[2], *common, "--task", "z",
        "--out", tmp_path / "z.safetensors", "--ancestors", "x, y", "--store", store.root,
    )["adapters"]
    # fmt: on
    assert third["lineage"] == lineage
    manifest = read_manifest(tmp_path / "z.safetensors")
    assert manifest.prompt is not None
    assert manifest.prompt.instruction == "z"
    assert store.publish(tmp_path / "z.safetensors", backbone).outcome == "created"


def test_peft_and_dense(run: Run, run_json: RunJson, backbone: Backbone, tmp_path: Path) -> None:
    save_peft(tmp_path / "peft", backbone)
    to = ("--backbone", backbone.path, "--task", "t", "--out", tmp_path / "a.safetensors")
    (low_rank,) = run_json("convert", "peft", tmp_path / "peft", *to)["adapters"]
    assert low_rank["kind"] == "lowrank"
    masked = ("--kind", "masked", "--density", 0.25, "--values", "bfloat16")
    (pruned,) = run_json("convert", "peft", tmp_path / "peft", *to, *masked)["adapters"]
    assert (pruned["kind"], pruned["density"]) == ("masked", 0.25)
    save_file({Q: torch.ones(backbone.targets[Q])}, tmp_path / "d.safetensors")
    text = run("convert", "dense", tmp_path / "d.safetensors", *to, "--density", 0.5).stdout
    assert "50.00 %" in text
    assert read_manifest(tmp_path / "a.safetensors").targets == (Q,)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param((), [], id="no prompt"),
        pytest.param(("--instruction", "Which?"), ["own template", "--template"], id="default"),
        pytest.param(("--template", "Sort: {text}\n"), [], id="of its training"),
        pytest.param(("--template", r"{text}\nAnswer:"), [r"\n as two", "$'"], id="backslash"),
    ],
)
def test_a_template_that_its_training_did_not_see(
    options: tuple[str, ...], said: list[str], run: Run, backbone: Backbone, tmp_path: Path
) -> None:
    save_peft(tmp_path / "peft", backbone)
    save_file({Q: torch.ones(backbone.targets[Q])}, tmp_path / "d.safetensors")
    to = ("--backbone", backbone.path, "--task", "t", "--out", tmp_path / "a.safetensors")
    for kind, source in (("peft", "peft"), ("dense", "d.safetensors")):
        stderr = run("convert", kind, tmp_path / source, *to, *options).stderr
        assert [word for word in said if word not in stderr] == []
        assert bool(stderr) == bool(said)


def test_peft_of_the_hub(
    run_json: RunJson, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    save_peft(source, backbone)
    (source / "adapter_model.bin").write_bytes(b"a pickle that nothing asks for")
    to = ("--backbone", backbone.path, "--task", "t", "--out", tmp_path / "a.safetensors")
    with small_hub("owner/my-lora", source, tmp_path / "cache", monkeypatch) as hub:
        (written,) = run_json("convert", "peft", "owner/my-lora", *to)["adapters"]
    assert sorted(hub.asked) == ["adapter_config.json", "adapter_model.safetensors"]
    assert written["kind"] == "lowrank"
    notes = read_manifest(tmp_path / "a.safetensors").training
    assert notes["converted_from"] == "owner/my-lora"


def test_a_hub_repository_with_a_pickle_alone(
    run: Run, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_peft(tmp_path / "source", backbone)
    (tmp_path / "source" / "adapter_model.safetensors").rename(
        tmp_path / "source" / "adapter_model.bin"
    )
    to = ("--backbone", backbone.path, "--task", "t", "--out", tmp_path / "a.safetensors")
    with small_hub("owner/old", tmp_path / "source", tmp_path / "cache", monkeypatch):
        result = run("convert", "peft", "owner/old", *to, code=1)
    assert "no adapter_model.safetensors" in result.stderr
    assert "safe_serialization=True" in result.stderr


def test_deltas_of_any_linear_layer(run_json: RunJson, backbone: Backbone, tmp_path: Path) -> None:
    chosen = ("decoder.block.1.layer.2.DenseReluDense.wi_1", "lm_head")
    save_file(
        {f"{name}.weight": torch.eye(*backbone.sites[name].shape) for name in chosen},
        tmp_path / "d.safetensors",
    )
    to = ("--backbone", backbone.path, "--task", "t", "--out", tmp_path / "a.safetensors")
    (written,) = run_json("convert", "dense", tmp_path / "d.safetensors", *to)["adapters"]
    assert (written["modules"], written["kind"]) == (2, "masked")
    for name, delta in read_adapter(tmp_path / "a.safetensors", backbone).deltas.items():
        assert torch.equal(delta.to_dense(), torch.eye(*backbone.sites[name].shape))


def test_an_adapter_that_changes_nothing_gets_a_warning(
    run: Run, backbone: Backbone, tmp_path: Path
) -> None:
    save_file({Q: torch.zeros(backbone.targets[Q])}, tmp_path / "d.safetensors")
    to = ("--backbone", backbone.path, "--task", "t", "--out", tmp_path / "a.safetensors")
    result = run("convert", "dense", tmp_path / "d.safetensors", *to)
    assert result.stderr == "warning: t: it changes nothing: it is the bare backbone\n"


def test_warnings_are_lines_on_stderr_and_a_list_in_json(
    run: Run, run_json: RunJson, backbone: Backbone, tmp_path: Path
) -> None:
    save_peft(
        tmp_path / "peft",
        backbone,
        target_modules=["q", "v", "wo"],
        alpha_pattern={"k": 4, "\x1b2J": 1},
        base_model_name_or_path="google/t5-xxl",
    )
    to = ("--backbone", backbone.path, "--task", "t", "--out", tmp_path / "a.safetensors")
    lines = run("convert", "peft", tmp_path / "peft", *to).stderr.splitlines()
    assert all(line.startswith("warning: t: ") and "\x1b" not in line for line in lines)
    (written,) = run_json("convert", "peft", tmp_path / "peft", *to)["adapters"]
    assert [f"warning: t: {warning}" for warning in written["warnings"]] == lines
    starts = ("base_model_name_or_path", "adapter_config.json chooses", "alpha_pattern: 2 of")
    assert len(lines) == 3
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(f"warning: t: {start}")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        pytest.param([], 1, "--alpha (divided by the rank) or --scale", id="no scaling"),
        pytest.param(["--alpha", 1, "--scale", 1], 1, "got both", id="two scalings"),
        pytest.param(["--alpha", 32, "--task", "../x"], 2, "need --chain", id="two tasks"),
        pytest.param(["--alpha", 32, "--density", 0.5], 1, "needs kind masked", id="density"),
        pytest.param(["--alpha", 32, "--values", "int8"], 2, "int8", id="type"),
        pytest.param(["--alpha", 32, "--ancestors", "a"], 1, "store", id="ancestors but no store"),
        pytest.param(["--scale", 1e39, "--values", "float16"], 1, "NaN or infinite", id="range"),
    ],
)
def test_refused(
    options: list[object], code: int, message: str, run: Run, backbone: Backbone, tmp_path: Path
) -> None:
    checkpoint = save_official(tmp_path / "c.pt", official_state(backbone))
    out = tmp_path / "a.safetensors"
    to = ("--backbone", backbone.path, "--task", "t", "--out", out)
    result = run("convert", "official", checkpoint, *to, *options, code=code)
    assert message in result.stderr
    assert result.stdout == ""
    assert not out.exists()


def test_what_the_file_lacks_is_asked_for(run: Run, tmp_path: Path) -> None:
    arguments = ("convert", "official", tmp_path / "c.pt", "--task", "t", "--out", tmp_path / "a")
    assert "--backbone" in run(*arguments, code=2).stderr


def test_a_bad_task_id(run: Run, backbone: Backbone, tmp_path: Path) -> None:
    save_peft(tmp_path / "peft", backbone)
    to = ("--backbone", backbone.path, "--task", "../x", "--out", tmp_path / "a.safetensors")
    assert "error (task_id): " in run("convert", "peft", tmp_path / "peft", *to, code=1).stderr
