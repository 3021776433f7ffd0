"""One task trained end to end: the file, its scores, resuming, and what is refused."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from factories import Style, tiny_t5
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.delta import LowRankDelta, SparseDelta
from jumplora_adapters.errors import AdapterError, DataError, GateCollapsed, TaskTooSmall
from jumplora_adapters.format import read_adapter
from jumplora_adapters.training.checkpoint import read_checkpoint, write_checkpoint
from jumplora_adapters.training.config import (
    GateConfig,
    Lengths,
    Method,
    Optimisation,
    TrainConfig,
)
from jumplora_adapters.training.fit import StepReport
from jumplora_adapters.training.train import Prepared, prepare, train

_STEPS = 12  # of the tiny task: 24 rows, 6 a step, 3 epochs


def _optimised(config: TrainConfig, **changes: object) -> TrainConfig:
    return replace(config, optimisation=replace(config.optimisation, **changes))  # type: ignore[arg-type]


def test_a_gated_training_writes_a_valid_masked_adapter(config: TrainConfig) -> None:
    reports: list[StepReport] = []
    trained = train(config, reports.append)
    adapter = read_adapter(config.out, read_backbone(Path(config.backbone)))
    manifest = adapter.manifest
    assert adapter.digest == trained.digest
    assert (manifest.kind, manifest.method, manifest.task) == ("masked", "jumplora", "tiny")
    assert manifest.thresholds is not None
    assert set(manifest.thresholds) == {"global"}
    assert manifest.prompt == config.prompt
    assert manifest.generation == {"max_new_tokens": 2}  # a label and the end token
    assert 0 < trained.density < 1
    assert all(isinstance(delta, SparseDelta) for delta in adapter.deltas.values())
    assert set(manifest.scores) >= {"dev_exact_match", "test_exact_match", "test_rouge_l"}
    training = manifest.training
    assert training["steps"] == _STEPS
    assert training["selected_step"] == _STEPS  # the only epoch that ends fully gated
    assert set(training) >= {"tau_start", "tau_end", "density_by_step", "data"}
    assert [report.step for report in reports] == list(range(1, _STEPS + 1))
    assert [report.fraction for report in reports][1] == 0.0
    assert [report.fraction for report in reports][8:] == [1.0] * 4


def test_lora_writes_its_factors_and_learns(config: TrainConfig) -> None:
    losses: list[float] = []
    config = _optimised(replace(config, method="lora"), epochs=15)
    train(config, lambda report: losses.append(report.loss))
    adapter = read_adapter(config.out, read_backbone(Path(config.backbone)))
    assert adapter.manifest.kind == "lowrank"
    assert adapter.manifest.thresholds is None
    assert all(isinstance(delta, LowRankDelta) for delta in adapter.deltas.values())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.parametrize(
    ("style", "decoder_layers"), [("v1.1", 1), ("v1.1", 3), ("umt5", 2)], ids=str
)
def test_scores_are_those_of_the_file_merged_into_transformers(
    config: TrainConfig, tmp_path: Path, style: Style, decoder_layers: int
) -> None:
    """The oracle shares no layer and no decoding loop with training, only the tokens."""
    folder = tiny_t5(
        tmp_path / "backbone", style=style, layers=1, decoder_layers=decoder_layers, seed=3
    )
    config = _optimised(replace(config, backbone=str(folder)), epochs=12)
    trained = train(config)
    prepared = prepare(config)
    adapter = read_adapter(config.out, prepared.backbone)
    model = AutoModelForSeq2SeqLM.from_pretrained(config.backbone, dtype=torch.float32)
    with torch.no_grad():
        for name, delta in adapter.deltas.items():
            model.get_submodule(name).weight += delta.to_dense()
    hits = 0
    assert prepared.test is not None
    for example in prepared.test.examples:
        output = model.generate(
            input_ids=torch.tensor([example.source]),
            max_new_tokens=2,
            do_sample=False,
            use_cache=False,  # with a deeper decoder, transformers' cache has too few layers
        )
        hits += prepared.tokenizer.decoder.decode(output[0].tolist()).strip() == example.answer
    assert trained.scores["test_exact_match"] == hits / len(prepared.test.examples)
    assert trained.scores["dev_exact_match"] > 0  # otherwise the comparison shows nothing


def test_accumulated_batches_are_one_large_batch(config: TrainConfig, tmp_path: Path) -> None:
    def losses(batch_size: int, accumulate: int) -> list[float]:
        found: list[float] = []
        changed = _optimised(config, batch_size=batch_size, accumulate=accumulate)
        train(changed, lambda report: found.append(report.loss))
        return found

    assert losses(6, 1) == pytest.approx(losses(2, 3), rel=1e-3)


@pytest.mark.parametrize("method", ["jumplora", "lora"])
def test_the_same_command_gives_the_same_digest(config: TrainConfig, method: str) -> None:
    config = replace(config, method=method)  # type: ignore[arg-type]
    assert train(config).digest == train(config).digest
    assert train(config).digest != train(replace(config, seed=1)).digest


def test_block_thresholds_and_the_summed_estimator(config: TrainConfig) -> None:
    train(replace(config, gate=GateConfig("block", "sum")))
    adapter = read_adapter(config.out, read_backbone(Path(config.backbone)))
    assert adapter.manifest.thresholds is not None
    assert set(adapter.manifest.thresholds) == {"encoder.block.0", "decoder.block.0"}


_KILLED = """
import pickle, sys
from jumplora_adapters.training.train import train
config = pickle.load(open(sys.argv[1], "rb"))
train(config, lambda report: print(report.step, flush=True))
"""


def _train_and_kill(config: TrainConfig, after: int) -> None:
    """Runs `config` in a process of its own and kills it (SIGKILL) once step `after` is done."""
    pickled = config.out.with_name("config.pickle")
    pickled.write_bytes(pickle.dumps(config))
    command = [sys.executable, "-c", _KILLED, str(pickled)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == after:
                process.kill()
                break
    assert process.returncode == -9


@pytest.mark.parametrize("killed_after", [2, 10])
def test_a_killed_run_goes_on_to_the_same_file(config: TrainConfig, killed_after: int) -> None:
    config = _optimised(config, dropout=0.1)
    undisturbed = train(config)
    content = config.out.read_bytes()
    config.out.unlink()
    config = replace(config, checkpoint_seconds=0.0)
    _train_and_kill(config, killed_after)
    assert not config.out.exists()
    steps: list[int] = []
    resumed = train(config, lambda report: steps.append(report.step))
    assert killed_after <= steps[0] - 1 < _STEPS  # it went on rather than began again
    assert resumed.digest == undisturbed.digest
    assert config.out.read_bytes() == content
    log = (config.work_folder / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == list(range(1, _STEPS + 1))
    assert not (config.work_folder / "checkpoint.safetensors").exists()


class _Killed(Exception):
    pass


def _stopped(config: TrainConfig, step: int) -> TrainConfig:
    """`config` trained up to a checkpoint after `step`."""

    def stop(report: StepReport) -> None:
        if report.step == step:
            raise _Killed

    config = replace(config, checkpoint_seconds=0.0)
    with pytest.raises(_Killed):
        train(config, stop)
    return config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 1}, "rank: 2, now 1"),
        ({"targets": ("q",)}, r"targets: \['\*.q', '\*.v'\], now \['q'\]"),
    ],
)
def test_other_settings_do_not_continue_a_killed_run(
    config: TrainConfig, change: dict[str, Any], message: str
) -> None:
    config = _stopped(config, 2)
    with pytest.raises(DataError, match=message):
        train(replace(config, **change))


@pytest.mark.parametrize("method", ["jumplora", "lora"])
def test_a_run_on_all_layers_goes_on_to_the_same_file(
    config: TrainConfig, tmp_path: Path, method: Method
) -> None:
    folder = tiny_t5(tmp_path / "tied", style="v1.0", layers=1, seed=3)
    config = replace(
        config, backbone=str(folder), targets=("all-linear", "lm_head"), method=method,
        gate=GateConfig("block"),
    )  # fmt: skip
    train(config)
    content = config.out.read_bytes()
    config.out.unlink()
    steps: list[int] = []
    train(_stopped(config, 7), lambda report: steps.append(report.step))
    assert steps == [8, 9, 10, 11, 12]
    assert config.out.read_bytes() == content


def test_a_checkpoint_of_a_pattern_that_meant_q_and_v_alone_is_not_continued(
    config: TrainConfig,
) -> None:
    """Earlier programs took "encoder.*" for these two, and wrote no added roles."""
    config = _stopped(replace(config, targets=("encoder.*",)), 2)
    path = config.work_folder / "checkpoint.safetensors"
    identity = json.loads(prepare(config).identity())
    checkpoint = read_checkpoint(path, json.dumps(identity))
    assert checkpoint is not None
    del identity["added_roles"]
    write_checkpoint(path, replace(checkpoint, identity=json.dumps(identity)))
    with pytest.raises(DataError, match=r"added_roles: None, now \['k', 'o', 'wi_0', 'wi_1', 'wo"):
        train(config)


def _with_config(config: TrainConfig, folder: Path, change: Callable[[Path], object]) -> Prepared:
    """`config` prepared on a copy of its backbone, changed by `change`."""
    copy = shutil.copytree(config.backbone, folder / "copy")
    change(copy)
    return prepare(replace(config, backbone=str(copy)))


def _other_feed_forward(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "DenseReluDense" in name)
    tensors[name] += 1.0
    save_file(tensors, path, metadata={"format": "pt"})


def test_weights_that_no_adapter_touches_are_part_of_the_identity(
    config: TrainConfig, tmp_path: Path
) -> None:
    prepared = prepare(config)
    same = _with_config(config, tmp_path / "same", lambda folder: None)
    other = _with_config(config, tmp_path / "other", _other_feed_forward)
    assert same.identity() == prepared.identity()
    assert other.backbone.fingerprints[1] == prepared.backbone.fingerprints[1]
    assert other.identity() != prepared.identity()


def test_the_test_rows_are_part_of_the_identity_and_set_no_length(
    config: TrainConfig, tmp_path: Path
) -> None:
    raw = {}
    for name, target in (("train", "no"), ("dev", "no"), ("test", "no yes no")):
        raw[name] = tmp_path / f"raw-{name}.jsonl"
        raw[name].write_text(json.dumps({"input": "good", "target": target}) + "\n")
    config = _optimised(
        replace(config, train=raw["train"], dev=raw["dev"], lengths=Lengths(64, 16)), max_steps=5
    )
    with_test = prepare(replace(config, test=raw["test"]))
    without = prepare(replace(config, test=None))
    assert with_test.max_new_tokens == without.max_new_tokens
    assert with_test.identity() != without.identity()
    assert json.loads(without.identity())["max_new_tokens"] == without.max_new_tokens


def _unlabelled(path: Path) -> Path:
    path.write_text('{"input": "good", "target": "yes"}\n')
    return path


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param(
            lambda c: replace(c, dev=c.dev.with_name("absent.jsonl")),
            DataError,
            "cannot be read",
            id="no-dev",
        ),
        pytest.param(
            lambda c: replace(c, dev=_unlabelled(c.dev.with_name("raw.jsonl"))),
            DataError,
            "mix text and label rows",
            id="splits-differ",
        ),
        pytest.param(
            lambda c: replace(c, optimisation=Optimisation(max_steps=4)),
            TaskTooSmall,
            "at least 5",
            id="too-few-steps",
        ),
        pytest.param(
            lambda c: replace(c, optimisation=Optimisation(max_steps=9, warm_up=9)),
            DataError,
            "warm-up is 9",
            id="warm-up",
        ),
        pytest.param(
            lambda c: replace(c, backbone=str(c.train.parent)),
            AdapterError,
            "config.json",
            id="no-backbone",
        ),
        pytest.param(lambda c: replace(c, rank=16), DataError, "rank is 16.*below 16", id="rank"),
    ],
)
def test_refused_before_the_first_step(
    config: TrainConfig,
    change: Callable[[TrainConfig], TrainConfig],
    error: type[AdapterError],
    message: str,
) -> None:
    steps: list[int] = []
    with pytest.raises(error, match=message):
        train(change(config), lambda report: steps.append(report.step))
    assert steps == []
    assert not config.out.exists()


@pytest.mark.parametrize("rate", [1e30, 1e-30])
def test_a_collapse_is_an_error_and_writes_nothing(config: TrainConfig, rate: float) -> None:
    with pytest.raises(GateCollapsed):
        train(_optimised(config, learning_rate=rate))
    assert not config.out.exists()
