"""Runs the commands of adapters/README.md, in order, where the files that it names exist."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from continual_data import write_benchmark
from factories import tiny_t5
from foreign_checkpoints import official_state, save_official, save_peft
from jumplora_adapters.backbone import read_backbone
from jumplora_server.cli.main import command_line
from peft_folders import peft, save_adapted
from small_hub import small_hub

README = Path(__file__).parents[2] / "adapters" / "README.md"
Q = "encoder.block.0.layer.0.SelfAttention.q"


def commands(text: str) -> list[list[str]]:
    """The words of every command in the bash blocks, lines that go on joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the files, and a hub with the LoRA, that the README presumes."""
    monkeypatch.chdir(tmp_path)
    backbone = read_backbone(tiny_t5(tmp_path / "old-t5"))
    weights = tmp_path / "old-t5" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "old-t5" / "pytorch_model.bin")
    for seed, name in enumerate(["jumplora_weights", "1-dbpedia", "2-amazon", "3-yahoo"]):
        save_official(tmp_path / f"{name}.pt", official_state(backbone, seed=seed))
    save_peft(tmp_path / "my-lora", backbone)
    chosen = {"target_modules": ["q", "wo"]}
    save_adapted(backbone, tmp_path / "my-shira", peft.ShiraConfig(r=2, **chosen))
    supertuning = peft.SupertuningConfig(sparsity=0.9, r=2, **chosen)
    save_adapted(backbone, tmp_path / "my-supertuning", supertuning)
    save_file({Q: torch.eye(*backbone.targets[Q])}, tmp_path / "delta.safetensors")
    weights.unlink()
    prompts = {task: {"instruction": task} for task in ("dbpedia", "amazon", "yahoo")}
    (tmp_path / "prompts.json").write_text(json.dumps({"tasks": prompts}))
    labels = ("world", "sports", "business")
    rows = [{"text": f"a {labels[i % 3]} text", "label": labels[i % 3]} for i in range(256)]
    for name, some in (("train", rows), ("dev", rows[:16]), ("canaries", rows[:3])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    asked = [{"task_id": "topics", "text": row["text"]} for row in rows[:3]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    write_benchmark(tmp_path / "benchmark")
    with small_hub("owner/my-lora", tmp_path / "my-lora", tmp_path / "cache", monkeypatch):
        yield tmp_path


def test_every_command_runs(folder: Path) -> None:
    found = commands(README.read_text("utf-8"))
    assert len(found) > 15
    for words in found:
        assert words[0] == "jumplora"
        if "--server" in words:
            continue  # tests/integration publishes to a running server
        result = CliRunner().invoke(command_line(), words[1:])
        assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}{result.exception!r}"
    assert (folder / "yahoo-flat.safetensors").is_file()
    assert "JumpLoRA + IncLoRA" in (folder / "runs/report/report.md").read_text("utf-8")
