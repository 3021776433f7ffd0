"""Two processes of a launcher against one alone: real ones, over gloo."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from continual_data import short_run, write_benchmark
from jumplora_adapters.continual.config import ContinualConfig
from jumplora_adapters.continual.run import run
from jumplora_adapters.continual.watch import Watch
from jumplora_adapters.errors import DataError
from jumplora_adapters.training.config import Optimisation
from jumplora_adapters.training.processes import Processes
from ports import held_port

_RUN = """
import pickle, sys
from jumplora_adapters.continual.run import run
from jumplora_adapters.continual.watch import Watch
run(pickle.load(open(sys.argv[1], "rb")), Watch())
"""


@pytest.fixture
def config(tmp_path: Path, backbone_folder: Path) -> ContinualConfig:
    # 23 rows in steps of 6: the last step's 5 rows are shared unevenly.
    return short_run(
        backbone_folder,
        write_benchmark(tmp_path / "data", train=23),
        tmp_path / "alone",
        order="mood,medium",
        method="ella",
    )


def _launched(config: ContinualConfig, folder: Path, count: int) -> None:
    (folder / "config").write_bytes(pickle.dumps(config))
    with held_port() as port:
        _launched_at(config, folder, count, port)


def _launched_at(config: ContinualConfig, folder: Path, count: int, port: int) -> None:
    common = {
        **os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _RUN, str(folder / "config")],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]
    assert [process.wait(timeout=240) for process in started] == [0] * count


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _losses(config: ContinualConfig) -> list[float]:
    log = (config.task_folder(1, "mood") / "train.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["loss"] for line in log.splitlines()]


def _tau(config: ContinualConfig) -> list[float]:
    result = _json(config.task_folder(1, "mood") / "result.json")
    return [step[1]["global"] for step in result["tau_by_step"]]


def test_two_processes_compute_what_one_does(config: ContinualConfig, tmp_path: Path) -> None:
    together = replace(config, out=tmp_path / "together")
    _launched(together, tmp_path, 2)
    run(config, Watch())
    # A gradient's last bits decide which entries pass, so a gated run is followed for a while only;
    # tau itself, the optimizer's state included, stays near.
    assert _losses(together)[:4] == pytest.approx(_losses(config)[:4], rel=1e-3)
    assert _tau(together) == pytest.approx(_tau(config), rel=1e-3)
    assert _json(together.out / "environment.json")["processes"] == 2
    assert _json(config.out / "environment.json")["processes"] == 1
    both = [_json(each.out / "matrix.json") for each in (together, config)]
    # Sums run in another order, so a row may tip over; all cells are there.
    for state in ("bare", "alone"):
        assert both[0][state].keys() == both[1][state].keys()
    assert both[0]["bare"] == both[1]["bare"]
    assert (together.out / "overlap.json").is_file()


def test_one_alone_needs_no_launcher() -> None:
    alone = Processes.launched()
    assert (alone.index, alone.count, alone.is_main, alone.device) == (0, 1, True, None)
    assert alone.share([1, 2, 3]) == [1, 2, 3]
    assert alone.gather([1, 2, 3]) == [1, 2, 3]


@pytest.mark.parametrize(
    "optimisation",
    [Optimisation(dropout=0.1, epochs=2), Optimisation(lora_dropout=0.1, epochs=2)],
    ids=["the backbone's", "LoRA's"],
)
def test_dropout_with_several_is_refused(
    config: ContinualConfig, monkeypatch: pytest.MonkeyPatch, optimisation: Optimisation
) -> None:
    class Two(Processes):
        count = 2

    monkeypatch.setattr(Processes, "launched", staticmethod(lambda device=None: Two()))
    with pytest.raises(DataError, match="several processes need --dropout 0"):
        run(replace(config, gate=None, optimisation=optimisation), Watch())
