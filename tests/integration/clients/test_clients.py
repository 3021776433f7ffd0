"""Unmodified stock clients against a server on the demo: what each of their calls comes to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from integration.clients.environment import ROOT, clients_python
from integration.clients.expected import EXPECTED, Refused
from jumplora_bench.server_process import served

# The first run installs the clients; a later one takes 20 s on 2 cores.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DEMO = ROOT / "adapters" / "demo"
SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Run:
    """What was printed, by the calls' names."""

    outcomes: Mapping[str, Mapping[str, Any]]
    log: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All calls, once."""
    python, folder = clients_python(), tmp_path_factory.mktemp("clients")
    shutil.copytree(DEMO / "store", folder / "store")
    settings = {"default_task": "agnews", "threads": 1}
    with served(DEMO / "backbone", folder / "store", folder / "log", settings) as server:
        done = subprocess.run(
            [python, "-W", "ignore", "-m", "integration.clients.calls", server.url],
            env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "HF_HUB_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return Run({line["call"]: line for line in lines}, (folder / "log").read_text(encoding="utf-8"))


def test_all_calls_were_made_and_are_expected(run: Run) -> None:
    assert sorted(run.outcomes) == sorted(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_call(name: str, run: Run) -> None:
    outcome, expected = run.outcomes[name], EXPECTED[name]
    if isinstance(expected, Refused):
        assert outcome.get("error") == expected.error, outcome
        assert expected.names in outcome["message"]
    else:
        assert outcome.get("answer") == expected, outcome


def test_the_server_failed_nowhere(run: Run) -> None:
    assert "Traceback" not in run.log
    assert "ERROR" not in run.log
