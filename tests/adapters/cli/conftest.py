"""A command line with nothing but the adapters' commands, and a published store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from factories import tiny_t5, write_random_adapter
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.cli.app import register
from jumplora_adapters.store import Store

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return read_backbone(tiny_t5(tmp_path_factory.mktemp("backbone") / "tiny"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run one command in a wide terminal; the environment of the caller plays no part."""
    for key in ("JUMPLORA_STORE", "JUMPLORA_BACKBONE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    register(app)

    def run(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output + repr(result.exception)
        return result

    return run


@pytest.fixture
def run_json(run: Run) -> Callable[..., Any]:
    """Run a command with --json and parse all of its stdout."""

    def run_json(*arguments: object, code: int = 0) -> Any:
        return json.loads(run(*arguments, "--json", code=code).stdout)

    return run_json


@pytest.fixture
def store(backbone: Backbone, tmp_path: Path) -> Store:
    """Task `one` in two versions, `two` on top of its second."""
    store = Store(tmp_path / "store")
    for seed in (1, 2):
        file = write_random_adapter(tmp_path / "files", backbone, task="one", seed=seed)
        digest = store.publish(file, backbone).digest
    file = write_random_adapter(
        tmp_path / "files", backbone, task="two", seed=3, density=0.3, lineage=[digest]
    )
    store.publish(file, backbone)
    return store
