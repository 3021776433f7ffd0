"""The command: what it writes, prints and refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from jumplora_adapters.header import read_manifest
from jumplora_adapters.training.cli import app
from jumplora_adapters.training.config import TrainConfig

_RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("JUMPLORA_STORE", "JUMPLORA_BACKBONE"):
        monkeypatch.delenv(key, raising=False)


@pytest.fixture
def command(config: TrainConfig) -> list[str]:
    values = {
        "--backbone": config.backbone,
        "--task": "tiny",
        "--train": config.train,
        "--dev": config.dev,
        "--out": config.out,
        "--instruction": "Which?",
        "--options": "yes | no",
        "--rank": 2,
        "--max-steps": 5,
        "--batch-size": 4,
        "--threads": 1,
        "--device": "cpu",
    }
    return [str(word) for pair in values.items() for word in pair]


def test_it_trains_and_tells_the_version(command: list[str], config: TrainConfig) -> None:
    result = _RUNNER.invoke(app, [*command, "--quiet", "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["path"] == str(config.out)
    assert len(told["version"]) == 64
    assert 0 < told["density"] < 1
    assert config.out.is_file()
    tau = told["thresholds"]["global"]
    assert tau["ratio"] == pytest.approx(tau["end"] / tau["start"])
    assert told["prompts_cut"] == {}


@pytest.mark.parametrize(
    ("targets", "roles"),
    [
        ("q,v", {"q", "v"}),
        ("*.EncDecAttention.k, wo", {"k", "wo"}),
        ("all-linear,lm_head", {"q", "k", "v", "o", "wi_0", "wi_1", "wo", "lm_head"}),
    ],
)
def test_targets(command: list[str], config: TrainConfig, targets: str, roles: set[str]) -> None:
    result = _RUNNER.invoke(app, [*command, "--targets", targets, "--quiet"])
    assert result.exit_code == 0, result.output
    assert {name.rpartition(".")[2] for name in read_manifest(config.out).targets} == roles


def test_a_target_that_is_not_there_is_told_with_those_that_are(command: list[str]) -> None:
    result = _RUNNER.invoke(app, [*command, "--targets", "q,wi"])
    assert result.exit_code == 1
    assert "target 'wi' fits no linear layer" in result.stderr
    assert "allowed are q, k, v, o, wi_0, wi_1, wo, lm_head, all-linear" in " ".join(
        result.stderr.split()
    )


def test_backbone_and_store_may_come_from_the_environment(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUMPLORA_BACKBONE", command[command.index("--backbone") + 1])
    monkeypatch.setenv("JUMPLORA_STORE", str(tmp_path / "store"))
    without = command[2:]
    assert command[0] == "--backbone"
    result = _RUNNER.invoke(app, [*without, "--ancestors", "absent", "--quiet"])
    assert "error (store)" in result.stderr  # which is not there: it was looked into
    result = _RUNNER.invoke(app, [*without, "--quiet"])
    assert result.exit_code == 0, result.output
    assert "tau global: " in result.stdout
    assert " -> " in result.stdout


def test_prompts_that_lost_their_end_are_counted(
    command: list[str], config: TrainConfig, tmp_path: Path
) -> None:
    rows = [{"input": "good " * 50, "target": "yes"}] * 3 + [{"input": "bad", "target": "no"}] * 9
    raw = tmp_path / "raw.jsonl"
    raw.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changed = [*command, "--train", str(raw), "--dev", str(raw), "--source-length", "16"]
    result = _RUNNER.invoke(app, [*changed, "--quiet"])
    assert result.exit_code == 0, result.output
    assert "train: 3 prompts were longer than the source length" in result.stdout
    log = (config.work_folder / "train.jsonl").read_text().splitlines()
    assert json.loads(log[0]) == {"step": 0, "prompts_cut": {"train": 3, "dev": 3}}


def test_a_place_that_cannot_be_written_is_told_before_training(
    command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.safetensors").mkdir()
    for out in (tmp_path / "folder.safetensors", tmp_path / "file" / "x.safetensors"):
        result = _RUNNER.invoke(app, [*command, "--out", str(out), "--quiet"])
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error (data): {out} ")
        assert "Traceback" not in result.output


def test_few_rows_are_paced_by_their_number(command: list[str], config: TrainConfig) -> None:
    """24 rows make two steps of 16, so thirty epochs; said before the training."""
    at = command.index("--max-steps")
    result = _RUNNER.invoke(app, command[:at] + command[at + 4 :])
    assert result.exit_code == 0, result.output
    pace = "24 rows: 30 epochs of 2 steps, 16 rows a step, learning rate 0.002\n"
    assert result.stderr.startswith(pace)
    assert pace not in result.stdout
    manifest = read_manifest(config.out)
    assert manifest.training["steps"] == 60
    hyper_parameters = manifest.training["hyper_parameters"]
    assert isinstance(hyper_parameters, dict)
    assert hyper_parameters["learning_rate"] == 0.002


def test_it_draws_itself(command: list[str], tmp_path: Path) -> None:
    plot = tmp_path / "plots" / "tiny.png"
    result = _RUNNER.invoke(app, [*command, "--plot", str(plot), "--quiet"])
    assert result.exit_code == 0, result.output
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert f"{plot}: the training" in result.stderr
    assert "24 rows: 5 steps, 4 rows a step, learning rate 0.002\n" in result.stdout, "without bar"


@pytest.mark.parametrize(("name", "code"), [("tiny.pdf", 2), ("there.png", 1)])
def test_a_plot_that_cannot_be_written_is_told_before_training(
    command: list[str], config: TrainConfig, tmp_path: Path, name: str, code: int
) -> None:
    (tmp_path / "there.png").mkdir()
    result = _RUNNER.invoke(app, [*command, "--plot", str(tmp_path / name), "--quiet"])
    assert result.exit_code == code
    assert not config.out.exists()


def test_without_matplotlib_the_adapter_is_there_and_the_plot_is_not(
    command: list[str], config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jumplora_adapters.training.plot", None)
    result = _RUNNER.invoke(app, [*command, "--plot", str(tmp_path / "tiny.png"), "--quiet"])
    assert result.exit_code == 1
    assert "tiny.png was not drawn: plots need the train extra" in result.stderr
    assert config.out.is_file()


def test_a_run_that_learned_nothing_says_so(command: list[str]) -> None:
    """At this rate the update stays near nothing, so no answer is a label."""
    nothing = [*command, "--no-gate", "--lr", "1e-9", "--quiet"]
    result = _RUNNER.invoke(app, nothing)
    assert result.exit_code == 0, result.output
    assert "warning: it learned nothing: of dev's rows 0.0% are right" in result.stderr
    assert "Try --lr 2e-09 or --max-steps 10, more rows" in result.stderr
    told = json.loads(_RUNNER.invoke(app, [*nothing, "--json"]).stdout)
    assert told["warning"].startswith("it learned nothing")


def test_people_get_a_summary_and_a_bar(command: list[str]) -> None:
    result = _RUNNER.invoke(app, [*command, "--no-gate"])
    assert result.exit_code == 0, result.output
    assert "dev_exact_match" in result.stdout
    assert "5/5" in result.stderr


def test_an_error_has_its_code_and_no_traceback(command: list[str], tmp_path: Path) -> None:
    result = _RUNNER.invoke(app, [*command, "--dev", str(tmp_path / "absent.jsonl")])
    assert result.exit_code == 1
    assert "error (data):" in result.stderr
    assert result.stderr.endswith("absent.jsonl cannot be read: No such file or directory\n")
    assert result.stderr.count("\n") == 1, "no progress bar"


def test_without_the_train_extra_it_says_what_to_install(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jumplora_adapters.training.train", None)
    result = _RUNNER.invoke(app, command)
    assert result.exit_code == 1
    assert "pip install --constraint constraints.txt --editable '.[train]'" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_told(command: list[str]) -> None:
    result = _RUNNER.invoke(app, [*command, "--device", "cuda"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error (data): device cuda was given, but torch sees none")


@pytest.mark.parametrize(
    ("option", "value"), [("--estimator", "median"), ("--device", "gpu"), ("--out", "a.bin")]
)
def test_a_choice_that_does_not_exist_is_a_usage_error(
    command: list[str], option: str, value: str
) -> None:
    result = _RUNNER.invoke(app, [*command, option, value])
    assert result.exit_code == 2


@pytest.fixture(autouse=True)
def _threads() -> object:
    """The command sets the process's threads; tests after it want what they had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
