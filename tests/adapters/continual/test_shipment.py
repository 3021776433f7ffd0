"""Which files of a run are published, in which order, and what is no run to publish."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jumplora_adapters.continual.config import ContinualConfig
from jumplora_adapters.continual.run import run
from jumplora_adapters.continual.shipment import parcels_of
from jumplora_adapters.continual.watch import Watch
from jumplora_adapters.errors import DataError


def _names(config: ContinualConfig) -> list[tuple[str, str]]:
    return [(parcel.task, parcel.path.name) for parcel in parcels_of(config.out)]


def test_a_chain_goes_in_the_order_of_training_and_the_merged_model_last(
    config: ContinualConfig,
) -> None:
    config = replace(config, order="medium,mood", merged_task="all-in-one")
    run(config, Watch())
    assert _names(config) == [
        ("medium", "1-medium.safetensors"),
        ("mood", "2-mood.safetensors"),
        ("all-in-one", "all-in-one.safetensors"),
    ]
    config.adapter_path(2, "mood").unlink()
    with pytest.raises(DataError, match=r"2-mood\.safetensors is missing"):
        parcels_of(config.out)


def test_a_joint_run_is_one_adapter(config: ContinualConfig) -> None:
    config = replace(config, method="joint", order="medium,mood")
    run(config, Watch())
    assert _names(config) == [("joint", "1-joint.safetensors")]


def test_what_is_no_finished_run(config: ContinualConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a run's folder"):
        parcels_of(tmp_path)

    class Broken(Watch):
        def began(self, name: str, position: int, count: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, Broken())
    with pytest.raises(DataError, match="is not finished: run its command again"):
        parcels_of(config.out)
