"""The agreement of int8 with float32, on a tiny backbone."""

from __future__ import annotations

import json
from pathlib import Path

from jumplora_bench import agreement


def test_both_forms_of_both_lineages_are_compared(tmp_path: Path) -> None:
    agreement.main([
        "--shape", "tiny", "--batches", "1", "--source", "12", "--new", "4", "--out", str(tmp_path)
    ])  # fmt: skip
    rows = json.loads((tmp_path / "agreement.json").read_text())["agreement"]
    assert [(lineage, form) for lineage, form, _, _ in rows] == [
        ("4", "unfolded"), ("4", "trunk of 3"), ("15", "unfolded"), ("15", "trunk of 14"),
    ]  # fmt: skip
    for _, _, same, total in rows:
        assert 0.8 * int(total) < int(same) <= int(total) == 24 * 4
