"""A chain of two tasks on every layer of a tied backbone: what it writes, and what serves it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from continual_data import short_run, write_benchmark

from decoding import make_sequence, oracle, run as decode  # isort: skip
from factories import tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.continual.config import ContinualConfig
from jumplora_adapters.continual.report.cli import report
from jumplora_adapters.continual.run import run
from jumplora_adapters.continual.watch import Watch
from jumplora_adapters.format import Adapter, read_adapter
from jumplora_adapters.training.config import GateConfig
from jumplora_adapters.training.fit import StepReport
from jumplora_server.core import Kernels, Sequence
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import why_unavailable

native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
ORDER = ("mood", "medium")
PROMPTS = ((5, 9, 7, 1), (8, 6, 11, 40, 1), (300, 31, 290, 1))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ContinualConfig:
    folder = tmp_path_factory.mktemp("all-linear")
    made = short_run(
        tiny_t5(folder / "backbone", style="v1.0", layers=1, seed=3),
        write_benchmark(folder / "data"),
        folder / "run",
        order=",".join(ORDER),
        method="ella",
        ella_lambda=0.1,
        targets=("all-linear", "lm_head"),
        gate=GateConfig("block"),
    )
    run(made, Watch())
    return made


@pytest.fixture(scope="module")
def backbone(config: ContinualConfig) -> Backbone:
    return read_backbone(Path(config.backbone))


@pytest.fixture(scope="module")
def adapters(config: ContinualConfig, backbone: Backbone) -> list[Adapter]:
    paths = [config.adapter_path(n, task) for n, task in enumerate(ORDER, start=1)]
    return [read_adapter(path, backbone) for path in paths]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_layer_has_a_mask_and_the_head_a_threshold(
    adapters: list[Adapter], backbone: Backbone
) -> None:
    for adapter in adapters:
        assert adapter.manifest.kind == "masked"
        assert tuple(adapter.manifest.targets) == tuple(backbone.sites)
        assert adapter.manifest.thresholds is not None
        assert set(adapter.manifest.thresholds) == {
            "encoder.block.0", "decoder.block.0", "lm_head"
        }  # fmt: skip
        assert adapter.deltas["lm_head"].changes_anything


@pytest.mark.parametrize("kernels", [pytest.param("native", marks=native), "torch"])
def test_each_task_answers_as_its_prefix_of_the_run(
    adapters: list[Adapter], backbone: Backbone, kernels: Kernels
) -> None:
    engine = Engine(
        backbone.path, dtype="float32", max_rows=12, max_source_tokens=64, max_target_tokens=16,
        kernels=kernels,
    )  # fmt: skip
    first, second = (engine.install(engine.pack(adapter)) for adapter in adapters)
    expected: list[list[int]] = []
    sequences: list[Sequence] = []
    for slots in ((), (first,), (first, second), (second,)):
        deltas = [dict(adapters[slot == second].deltas) for slot in slots]
        for prompt in PROMPTS:
            expected.append(oracle(backbone.path, prompt, deltas))
            sequences.append(make_sequence(prompt, row=len(sequences), slots=slots))
    assert decode(engine, sequences) == expected
    assert len({tuple(answer) for answer in expected}) > 3, "the updates change no answer"


def test_the_report_has_a_row_for_every_kind_of_layer(
    config: ContinualConfig, adapters: list[Adapter]
) -> None:
    app = typer.Typer()
    app.command()(report)
    result = CliRunner().invoke(app, [str(config.out)])
    assert result.exit_code == 0, result.output
    _, _, text = result.stdout.partition("\nDensity by kind of module\n")
    table = [line.split() for line in text.partition("\n\nMean over")[0].splitlines()]
    densities = {" ".join(cells[:-2]): float(cells[-2]) for cells in table if "%" in cells}
    assert len(densities) == 6 + 10 + 1  # encoder, decoder, head
    for kind, module in {
        "encoder DenseReluDense wi": "encoder.block.0.layer.1.DenseReluDense.wi",
        "decoder EncDecAttention o": "decoder.block.0.layer.1.EncDecAttention.o",
        "lm_head": "lm_head",
    }.items():
        mean = sum(adapter.deltas[module].density for adapter in adapters) / 2
        assert densities[kind] == pytest.approx(100 * mean, abs=0.06), kind
    (pair,) = _json(config.out / "overlap.json")["pairs"]
    assert pair["jaccard"] > 0


def test_a_run_that_was_cut_off_ends_with_the_same_files(
    config: ContinualConfig, tmp_path: Path
) -> None:
    class Cut(Watch):
        task = ""

        def began(self, name: str, position: int, count: int) -> None:
            self.task = name

        def stepped(self, report: StepReport) -> None:
            if (self.task, report.step) == ("medium", 5):
                raise KeyboardInterrupt

    again = replace(config, out=tmp_path / "run", checkpoint_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        run(again, Cut())
    assert (again.task_folder(2, "medium") / "checkpoint.safetensors").is_file()
    run(again, Watch())
    for adapter in (config.out / "adapters").iterdir():
        assert (again.out / "adapters" / adapter.name).read_bytes() == adapter.read_bytes()
    assert _json(again.out / "matrix.json") == _json(config.out / "matrix.json")
