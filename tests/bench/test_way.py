"""The files that a request runs through, counted in a process of its own as a user does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from jumplora_server.engine.native.library import why_unavailable

MOST = 55


@pytest.mark.parametrize(
    "kernels",
    [
        pytest.param(
            "native", marks=pytest.mark.skipif(bool(why_unavailable()), reason="no kernels")
        ),
        "torch",
    ],
)
def test_a_request_runs_through_few_files(kernels: str) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("JUMPLORA_")}
    done = subprocess.run(
        [sys.executable, "-m", "jumplora_bench.way", "--json", "--kernels", kernels],
        env=clean,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ways: dict[str, list[str]] = json.loads(done.stdout)
    assert set(ways) == {"/generate", "/generate_stream"}
    for route, files in ways.items():
        stages = {"http/exchange.py", "api/tgi.py", "residency/table.py", "engine/engine.py"}
        assert stages <= set(files), route
        assert "residency/loader.py" not in files, "the adapter was loaded before"
        assert len(files) <= MOST, f"{route}: {', '.join(files)}"
