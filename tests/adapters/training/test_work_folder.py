"""One training at a time in a work folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jumplora_adapters.errors import DataError
from jumplora_adapters.training.config import TrainConfig
from jumplora_adapters.training.fit import StepReport
from jumplora_adapters.training.train import train
from jumplora_adapters.training.work_folder import check_writable, work_folder


def test_two_trainings_do_not_mix(config: TrainConfig) -> None:
    refused: list[str] = []

    def begin_another(report: StepReport) -> None:
        if report.step == 1:
            with pytest.raises(DataError, match="another training is at work in") as caught:
                train(config)
            refused.append(str(caught.value))

    train(config, begin_another)
    assert len(refused) == 1
    train(config)  # the first is over


def test_a_folder_of_its_own_is_free(config: TrainConfig, tmp_path: Path) -> None:
    with work_folder(config.work_folder):
        train(replace(config, work=tmp_path / "other"))


def test_a_failure_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), work_folder(tmp_path / "work"):
        raise ZeroDivisionError
    with work_folder(tmp_path / "work"):
        pass


def test_looking_whether_a_file_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "a.safetensors")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(DataError, match="is a folder"):
        check_writable(tmp_path)
