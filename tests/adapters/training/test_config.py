"""Settings that are out of range, and which settings make two runs the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jumplora_adapters.errors import AdapterError
from jumplora_adapters.training.config import GateConfig, Lengths, Optimisation, TrainConfig

CONFIG = TrainConfig(
    backbone="b", task="t", train=Path("a"), dev=Path("d"), out=Path("o.safetensors")
)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(CONFIG, task="../x"), "task id"),
        (replace(CONFIG, rank=0), "rank is 0"),
        (replace(CONFIG, alpha=float("nan")), "alpha is nan"),
        (replace(CONFIG, optimisation=Optimisation(learning_rate=-1.0)), "lr is -1"),
        (replace(CONFIG, optimisation=Optimisation(max_steps=0)), "max-steps is 0"),
        (replace(CONFIG, optimisation=Optimisation(dropout=1.0)), "dropout is 1"),
        (
            replace(CONFIG, method="lora", optimisation=Optimisation(lora_dropout=-0.1)),
            "lora-dropout is -0.1",
        ),
        (
            replace(CONFIG, optimisation=Optimisation(lora_dropout=0.1)),
            "a gated update has no such dropout",
        ),
        (replace(CONFIG, optimisation=Optimisation(warm_up=-1)), "warm-up"),
        (replace(CONFIG, lengths=Lengths(0, 8)), "source-length is 0"),
        (replace(CONFIG, gate=GateConfig(bandwidth=0.0)), "bandwidth is 0"),
        (replace(CONFIG, threads=0), "threads is 0"),
        (replace(CONFIG, ancestors=("a",)), "store"),
    ],
)
def test_out_of_range(config: TrainConfig, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        config.check()


def test_defaults_are_in_range() -> None:
    CONFIG.check()
    replace(CONFIG, method="lora", optimisation=Optimisation(lora_dropout=0.1)).check()


def test_a_loras_dropout_is_told_where_there_is_one() -> None:
    dense = replace(CONFIG, method="lora")
    assert "lora_dropout" not in dense.hyper_parameters()  # checkpoints of before it still continue
    dropped = replace(dense, optimisation=Optimisation(lora_dropout=0.1))
    assert dropped.hyper_parameters()["lora_dropout"] == 0.1


def test_value_type_follows_the_method() -> None:
    assert CONFIG.value_type == "float16"
    assert replace(CONFIG, method="lora").value_type == "float32"
    assert replace(CONFIG, method="lora", values="bfloat16").value_type == "bfloat16"


def test_paths_and_threads_are_no_hyper_parameters() -> None:
    moved = replace(CONFIG, out=Path("elsewhere"), threads=1, work=Path("w"))
    assert moved.hyper_parameters() == CONFIG.hyper_parameters()
    assert replace(CONFIG, seed=1).hyper_parameters() != CONFIG.hyper_parameters()
    assert "estimator" not in replace(CONFIG, method="lora").hyper_parameters()
