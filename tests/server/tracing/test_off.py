"""Servers without traces, and without the extra that makes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jumplora_server.parts import StartupError
from serving import connected, make_site

ROOT = Path(__file__).parents[3]
WITHOUT_THE_EXTRA = """
import importlib.abc
import os
import sys
from pathlib import Path

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Hidden())

from serving import connected, make_site

site = make_site(Path(sys.argv[1]))
with connected(site) as http:
    site.publish("topics")
    answer = http.post("/generate", json={"task_id": "topics", "inputs": "hi"})
    assert answer.status_code == 200, answer.text
    assert "traceresponse" not in answer.headers
wanted = ("opentelemetry.sdk", "opentelemetry.exporter", "google.protobuf", "requests")
assert [name for name in sys.modules if name.startswith(wanted)] == []

os.environ |= {"JUMPLORA_TRACES": "otlp", "JUMPLORA_BACKBONE": "b", "JUMPLORA_STORE": "s"}
from jumplora_server.cli.main import main

sys.argv = ["jumplora", "serve", "--port", "0"]
main()
"""


def test_without_the_extra_only_traces_are_missing(tmp_path: Path) -> None:
    """A server without them answers, and one that is to have them says at its start what to do."""
    paths = os.pathsep.join(str(ROOT / each) for each in ("server", "adapters", "tests"))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_EXTRA, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "the server cannot start: JUMPLORA_TRACES=otlp needs packages" in done.stderr
    assert "pip install 'jumplora-server[traces]'" in done.stderr


def test_a_wrong_endpoint_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")
    with pytest.raises(StartupError, match="JUMPLORA_TRACES=otlp: OTEL_EXPORTER_OTLP_ENDPOINT"):
        make_site(tmp_path, traces="otlp")


def test_the_frameworks_own_traces_stay_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have paths and queries in them. A start would fail here if it made them: no such
    exporter is known."""
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nothing-that-there-is")
    with connected(make_site(tmp_path)) as http:
        assert http.get("/v1/models").status_code == 200
