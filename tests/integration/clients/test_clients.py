"""Unmodified stock clients against a server on the demo: what each of their calls comes to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from integration.clients.environment import ROOT, clients_python
from integration.clients.expected import EXPECTED, Refused
from jumplora_bench.server_process import served

# The first run installs the clients; a later one takes 30 s on 2 cores.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DEMO = ROOT / "adapters" / "demo"
SECONDS = 180.0


Outcomes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Run:
    """What came of the calls, by name."""

    pinned: Outcomes
    newest_hub: Outcomes  # of the project's own huggingface_hub, which is newer than the pinned one
    log: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All calls, once."""
    python, folder = clients_python(), tmp_path_factory.mktemp("clients")
    shutil.copytree(DEMO / "store", folder / "store")
    settings = {"default_task": "agnews", "threads": 1}
    with served(DEMO / "backbone", folder / "store", folder / "log", settings) as server:
        pinned = outcomes(python, server.url)
        newest = outcomes(Path(sys.executable), server.url, "hub_calls")
    return Run(pinned, newest, (folder / "log").read_text(encoding="utf-8"))


def outcomes(python: Path, *arguments: str) -> Outcomes:
    """Run `calls` by that interpreter."""
    done = subprocess.run(
        [python, "-W", "ignore", "-m", "integration.clients.calls", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "HF_HUB_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["call"]: line for line in lines}


def check(outcome: Mapping[str, Any], expected: object) -> None:
    """An answer is the one expected; a refusal has its type, and names what it is about."""
    if isinstance(expected, Refused):
        assert outcome.get("error") == expected.error, outcome
        assert expected.names in outcome["message"]
    else:
        assert outcome.get("answer") == expected, outcome


def test_all_calls_were_made_and_are_expected(run: Run) -> None:
    assert sorted(run.pinned) == sorted(EXPECTED)
    assert sorted(run.newest_hub) == sorted(name for name in EXPECTED if name.startswith("hub: "))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_call(name: str, run: Run) -> None:
    check(run.pinned[name], EXPECTED[name])


@pytest.mark.parametrize("name", [name for name in EXPECTED if name.startswith("hub: ")])
def test_a_call_of_the_newest_hub(name: str, run: Run) -> None:
    check(run.newest_hub[name], EXPECTED[name])


def test_the_server_failed_nowhere(run: Run) -> None:
    assert "Traceback" not in run.log
    assert "ERROR" not in run.log
