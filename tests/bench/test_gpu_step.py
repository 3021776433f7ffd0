"""The profile of a step runs without a GPU, on torch's operators."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jumplora_bench import gpu_step


def test_phases_are_timed_and_their_parts_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu_step.main(
        ["--device", "cpu", "--dtype", "float32", "--shape", "tiny", "--rows", "3", "--source", "9",
         "--tasks", "0", "2", "--out", str(tmp_path)]
    )  # fmt: skip
    found = json.loads((tmp_path / "gpu-step.json").read_text())
    assert set(found) == {"0", "2"}
    for phases in found.values():
        assert [phase["name"] for phase in phases] == [
            "encode", "decode step", "decode step and choice",
        ]  # fmt: skip
        for phase in phases:
            assert 0 < phase["host_ms"] <= phase["total_ms"]
    products = {part["name"] for part in found["0"][1]["parts"]}
    assert "aten::bmm" in products
    deltas = {part["name"] for part in found["2"][1]["parts"]} - products
    assert deltas, "tasks add operators"
    assert "2 tasks, 3 rows" in capsys.readouterr().out
