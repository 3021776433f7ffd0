"""The training benchmark's cases: what each computes, and what it is reckoned to need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jumplora_bench import training
from jumplora_bench.backbone import write_backbone
from jumplora_bench.training import LABELS, Case, StepCase


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("training"), "tiny")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")  # PEFT's
@pytest.mark.parametrize("targets", ["q,v", "all-linear,lm_head"])
@pytest.mark.parametrize("case", LABELS)
def test_every_case_makes_steps(case: Case, targets: str, folder: Path) -> None:
    step = training.build(case, folder, 2, 8, targets)
    step()
    step()


def test_the_table_holds_every_case_against_peft() -> None:
    seconds: dict[Case, list[float]] = {case: [2.0, 1.0, 3.0] for case in LABELS}
    seconds["gate"] = [3.0, 3.0, 6.0]
    peaks: dict[Case, int] = dict.fromkeys(LABELS, 2_000_000_000)
    peaks["gate"] = 5_000_000_000
    reckoned: dict[Case, int | None] = dict.fromkeys(LABELS, 1_500_000_000)
    reckoned["peft"] = None
    rows = {row[0]: row[1:] for row in training._grid(seconds, peaks, reckoned).rows}
    assert rows[LABELS["peft"]] == ("2.000", "1.000", "3.000", "1.00", "2.00", "1.00", "")
    assert rows[LABELS["gate"]] == ("3.000", "3.000", "6.000", "1.50", "5.00", "2.50", "1.50")


def test_a_lap_is_one_step() -> None:
    log: list[None] = []
    lap = StepCase("a", lambda: log.append(None)).run()
    assert len(log) == 1
    assert lap.seconds >= 0
    assert lap.tokens == ()


def test_memory_is_reckoned_as_a_run_does(folder: Path) -> None:
    found = {case: training.reckoned_bytes(case, folder, 2, 8) for case in LABELS}
    assert found["peft"] is None
    numbers = {case: nbytes for case, nbytes in found.items() if nbytes is not None}
    assert numbers["gate"] == numbers["gate half"] > numbers["lora"]
    assert numbers["ella"] > numbers["lora"]
    assert numbers["gate + ella"] >= max(numbers["gate"], numbers["ella"])
    head = training.reckoned_bytes("gate", folder, 2, 8, "q,v,lm_head")
    assert head is not None
    assert head > numbers["gate"] + 4 * 6 * (32128 - 64) * 64, "the head is its largest matrix"


@pytest.mark.slow
def test_a_whole_run(tmp_path: Path) -> None:
    options = ("--shape", "tiny", "--rows", "2", "--source", "8", "--rounds", "1")
    command = [sys.executable, "-m", "jumplora_bench.training", *options, "--out", str(tmp_path)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=280).stdout
    assert "ours, gate closed + ELLA" in told
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["command"].endswith(
        f"--rounds 1 --shape tiny --rows 2 --source 8 --out {tmp_path}"
    )
    assert all(len(seconds) == 1 for seconds in record["seconds"].values())
    assert min(record["peak_bytes"].values()) > 100_000_000, "of a process of its own each"
