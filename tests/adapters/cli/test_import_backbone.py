from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from typer.testing import Result

from jumplora_adapters.backbone import Backbone

Run = Callable[..., Result]
RunJson = Callable[..., Any]


def test_import_backbone(run: Run, run_json: RunJson, backbone: Backbone, tmp_path: Path) -> None:
    source = tmp_path / "bin"
    shutil.copytree(backbone.path, source)
    weights = source / "model.safetensors"
    torch.save(load_file(weights), source / "pytorch_model.bin")
    weights.unlink()
    out = tmp_path / "safe"
    answer = run_json("import-backbone", source, "--out", out)
    assert answer["folder"] == str(out)
    assert answer["fingerprint"] == backbone.fingerprint
    assert answer["tokenizer"] == "copied"
    again = run("import-backbone", source, "--out", out, code=1)
    assert "not an empty folder" in again.stderr
    text = run("import-backbone", source, "--out", tmp_path / "other").stdout
    assert backbone.fingerprint in text
