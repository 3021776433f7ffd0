"""The files that a request runs through, counted in a process of its own as a user does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

MOST_FILES = 38


def test_a_request_runs_through_few_files() -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("JUMPLORA_")}
    done = subprocess.run(
        [sys.executable, "-m", "jumplora_bench.way", "--json"],
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
        assert "residency/loader.py" not in files, "it loaded the adapter before"
        assert len(files) <= MOST_FILES, f"{route}: {', '.join(files)}"
