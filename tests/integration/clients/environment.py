"""An environment of the stock clients' own: they pin packages that ours need newer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / ".cache" / "clients"
INSTALL_SECONDS = 400.0


def groups() -> dict[str, list[str]]:
    """The pins: dependency groups of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {name: project["dependency-groups"][name] for name in ("clients", "clients-alone")}


def clients_python() -> Path:
    """The interpreter of the environment, which is made anew where the pins changed.

    `CLIENTS_VENV` names one that is there already. Skips the test where pip cannot make it, as
    without a network; with `REQUIRE_CLIENTS` the test fails instead.
    """
    if given := os.environ.get("CLIENTS_VENV"):
        return Path(given) / "bin" / "python"
    key = json.dumps([sys.version, groups()])
    made_of = FOLDER / "made-of.json"
    if not made_of.is_file() or made_of.read_text(encoding="utf-8") != key:
        try:
            _make()
        except subprocess.SubprocessError as error:
            said = getattr(error, "stderr", None) or str(error)
            assert "REQUIRE_CLIENTS" not in os.environ, f"the clients are required: {said}"
            pytest.skip(f"the stock clients cannot be installed: {said.strip().splitlines()[-1]}")
        made_of.write_text(key, encoding="utf-8")
    return FOLDER / "bin" / "python"


def _make() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(FOLDER))
    # Few of the modules are imported, so none is compiled beforehand.
    options = ("--quiet", "--no-compile", "--retries", "1", "--disable-pip-version-check")
    pip = (str(FOLDER / "bin" / "python"), "-m", "pip", "install", *options)
    pins = groups()
    _run(*pip, *pins["clients"])
    _run(*pip, "--no-deps", *pins["clients-alone"])


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
