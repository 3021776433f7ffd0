"""The demo's calibrations hold on rows that neither training nor fitting has seen."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from integration.prometheus_process import ROOT, eventually
from jumplora_server.cli.main import command_line
from ports import held_port

DATA = os.environ.get("BENCHMARK_DATA")
DEMO = ROOT / "adapters" / "demo"
ROWS = 1600  # 500 show an error near the bar by chance
BAR = 0.06

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(DATA is None, reason="needs the benchmark's rows: set BENCHMARK_DATA"),
]


@pytest.fixture(scope="module", params=["float32", "int8"])
def address(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Of a server of the demo."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(DEMO / "store", folder / "store")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("JUMPLORA_")}
    with held_port() as port, (folder / "log").open("wb") as log:
        url = f"http://127.0.0.1:{port}"
        environment = clean | {
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("server", "adapters")),
            "JUMPLORA_BACKBONE": str(DEMO / "backbone"),
            "JUMPLORA_STORE": str(folder / "store"),
            "JUMPLORA_PORT": str(port),
            "JUMPLORA_DTYPE": request.param,
            "JUMPLORA_DRAIN_GRACE": "0",
        }
        command = [sys.executable, "-m", "jumplora_server", "serve"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:

            def ready() -> None:
                assert process.poll() is None, (folder / "log").read_text()
                assert httpx.get(f"{url}/readyz", timeout=5).status_code == 200

            eventually(ready, 90)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=60)


@pytest.mark.parametrize("task", ["agnews", "dbpedia"])
def test_the_error_is_at_most_the_bar(address: str, task: str, tmp_path: Path) -> None:
    rows = tmp_path / "test.jsonl"
    with gzip.open(Path(str(DATA)) / task / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        loaded = [json.loads(line) for _, line in zip(range(ROWS), file, strict=False)]
    stripped = [{name: row[name].strip() for name in ("text", "label")} for row in loaded]
    rows.write_text("".join(json.dumps(row) + "\n" for row in stripped))
    asked = ["--server", address, "--task", task, "--data", str(rows), "--choices", "--json"]
    done = CliRunner().invoke(command_line(), ["evaluate", *asked, "--quiet"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["choices"]
    assert found["calibrated_by"] == "manifest"
    assert found["calibration_error"] <= BAR
