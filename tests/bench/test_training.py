"""The training benchmark's cases: what each computes, and what it is reckoned to need."""

from __future__ import annotations

from pathlib import Path

import pytest

from jumplora_bench import training
from jumplora_bench.backbone import write_backbone
from jumplora_bench.training import LABELS, Case


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("training"), "tiny")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's
@pytest.mark.parametrize("case", LABELS)
def test_every_case_makes_steps(case: Case, folder: Path) -> None:
    step = training.build(case, folder, 2, 8)
    step()
    step()


def test_cases_take_turns_and_the_warm_up_is_not_kept() -> None:
    log: list[str] = []
    cases: dict[Case, object] = {"peft": None, "lora": None}
    times = training.measure({case: lambda c=case: log.append(c) for case in cases}, 2)  # type: ignore[misc]
    assert log == ["peft", "lora"] * 3
    assert {case: len(values) for case, values in times.items()} == {"peft": 2, "lora": 2}


def test_memory_is_reckoned_as_a_run_does(folder: Path) -> None:
    found = {case: training.reckoned_bytes(case, folder, 2, 8) for case in LABELS}
    assert found["peft"] is None
    numbers = {case: nbytes for case, nbytes in found.items() if nbytes is not None}
    assert numbers["gate"] == numbers["gate half"] > numbers["lora"]
    assert numbers["ella"] > numbers["lora"]
    assert numbers["gate + ella"] >= max(numbers["gate"], numbers["ella"])


@pytest.mark.slow
def test_the_peak_is_that_of_a_process_of_its_own(folder: Path) -> None:
    assert training.peak_bytes("lora", folder, 2, 8) > 100_000_000
