"""The commands as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from continual_data import write_benchmark
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.format import read_adapter
from jumplora_server.cli.main import command_line

EXAMPLE = Path(__file__).parents[3] / "examples/continual/t5-large.toml"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_benchmark(tmp_path / "data")


def _jumplora(*arguments: object) -> Result:
    return CliRunner().invoke(command_line(), ["continual", *map(str, arguments)])


def _settings(backbone: Path, data: Path, out: Path) -> list[object]:
    return [
        "--backbone", backbone, "--data", data, "--out", out, "--source-length", 64,
        "--threads", 1, "--device", "cpu", "--quiet",
    ]  # fmt: skip


def test_a_run_its_control_and_their_report(
    backbone_folder: Path, data: Path, tmp_path: Path
) -> None:
    gated, control = tmp_path / "gated", tmp_path / "control"
    common = ["--order", "mood,place", "--method", "inclora", "--rank", 2, "--batch-size", 4]
    done = _jumplora("run", *common, "--gate", *_settings(backbone_folder, data, gated), "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert len(answer["versions"]) == 2
    done = _jumplora("run", *common, "--prune", gated, *_settings(backbone_folder, data, control))
    assert done.exit_code == 0, done.output
    densities = [_result(gated, 1)["density"], _result(gated, 2)["density"]]
    assert _json(control / "config.json")["prune"] == {"density": densities}
    assert _result(control, 1)["density"] == pytest.approx(densities[0], abs=1e-3)
    done = _jumplora("report", gated, control, "--json")
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["groups"]) == 2


def test_the_published_protocol_is_a_file(
    backbone_folder: Path, data: Path, tmp_path: Path
) -> None:
    done = _jumplora(
        "run", "--config", EXAMPLE, "--order", "mood", "--epochs", 8,
        *_settings(backbone_folder, data, tmp_path / "run"),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    config = _json(tmp_path / "run/config.json")
    assert (config["method"], config["gate"]) == ("ella", "jumprelu")
    numbers = config["hyper_parameters"]
    published = {
        "rank": 8, "alpha": 32.0, "learning_rate": 1e-3, "weight_decay": 0.0, "clip": 1.0,
        "decay": "constant", "warm_up": 0, "dropout": 0.1, "ella_lambda": 3e4,
        "threshold_scope": "global", "estimator": "mean", "bandwidth": 0.001, "set_at": 0.2,
        "closed_at": 0.8, "target_tokens": 8, "precision": "float32", "targets": ["*.q", "*.v"],
        "values": "float32",
    }  # fmt: skip
    assert {name: numbers[name] for name in published} == published
    assert numbers["batch_size"] * numbers["accumulate"] == 32
    assert (numbers["epochs"], numbers["source_tokens"]) == (8, 64)  # flags win


def test_targets_may_be_a_list_of_the_file(
    backbone_folder: Path, data: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "listed.toml"
    listed.write_text('targets = ["all-linear", "lm_head"]\nprune = [0.25]\n', encoding="utf-8")
    done = _jumplora(
        "run", "--config", listed, "--order", "mood", "--method", "inclora", "--rank", 2,
        *_settings(backbone_folder, data, tmp_path / "run"),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    config = _json(tmp_path / "run/config.json")
    assert config["hyper_parameters"]["targets"] == ["all-linear", "lm_head"]
    assert config["hyper_parameters"]["added_roles"] == ["k", "o", "wi_0", "wi_1", "wo", "lm_head"]
    assert config["prune"] == {"density": [0.25]}
    (path,) = (tmp_path / "run/adapters").glob("1-*.safetensors")
    backbone = read_backbone(backbone_folder)
    assert set(read_adapter(path, backbone).deltas) == set(backbone.sites)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rnk = 3", "rnk is not an option of this command, did you mean rank?"),
        ("rank = ", "is not TOML"),
        ('method = "other"', "'other' is not one of"),
        ("rank = [3, 4]", "Invalid value for '--rank'"),
    ],
)
def test_a_faulty_config_is_told(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "faulty.toml").write_text(content, encoding="utf-8")
    method = [] if "method" in content else ["--method", "ella"]
    done = _jumplora(
        "run", "--config", tmp_path / "faulty.toml", "--order", "a", *method,
        "--backbone", "b", "--data", "d", "--out", "o",
    )  # fmt: skip
    assert done.exit_code in (1, 2)
    assert message in " ".join(done.output.split())


def test_a_control_is_for_a_run_like_itself(
    backbone_folder: Path, data: Path, tmp_path: Path
) -> None:
    common = ["--rank", 2, "--batch-size", 4, "--method", "inclora", "--order"]
    settings = _settings(backbone_folder, data, tmp_path / "gated")
    assert _jumplora("run", *common, "mood", "--gate", *settings).exit_code == 0
    done = _jumplora(
        "run", *common, "place", "--seed", 3, "--prune", tmp_path / "gated",
        *_settings(backbone_folder, data, tmp_path / "control"),
    )  # fmt: skip
    assert done.exit_code == 1
    told = " ".join(done.output.split())
    assert "other settings than this control: seed 0, here 3; tasks ['mood']" in told
    (tmp_path / "gated/config.json").write_text("{}", encoding="utf-8")
    done = _jumplora(
        "run", *common, "mood", "--prune", tmp_path / "gated",
        *_settings(backbone_folder, data, tmp_path / "control"),
    )  # fmt: skip
    assert "does not describe a run" in done.output


@pytest.mark.parametrize(
    ("prune", "message"),
    [("much", "prune is 'much'"), ("{folder}", "not a finished run")],
)
def test_what_is_no_density(
    backbone_folder: Path, data: Path, tmp_path: Path, prune: str, message: str
) -> None:
    done = _jumplora(
        "run", "--order", "mood", "--method", "inclora",
        "--prune", prune.format(folder=tmp_path), *_settings(backbone_folder, data, tmp_path / "r"),
    )  # fmt: skip
    assert done.exit_code == 1
    assert message in done.output


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _result(run: Path, position: int) -> Any:
    (path,) = run.glob(f"tasks/{position}-*/result.json")
    return _json(path)
