from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from typer.testing import Result

Run = Callable[..., Result]

COMMANDS = (
    "inspect",
    "verify",
    "list",
    "convert",
    "flatten",
    "canary",
    "overlap",
    "import-backbone",
)


def test_help_names_every_command(run: Run) -> None:
    text = run("--help").stdout
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str, run: Run) -> None:
    assert "Usage" in run(command, "--help").stdout


def test_registering_imports_nothing_heavy() -> None:
    program = (
        "import sys, typer; from jumplora_adapters.cli.app import register;"
        " register(typer.Typer());"
        " print([name for name in ('torch', 'numpy', 'pydantic', 'transformers')"
        " if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "[]"
