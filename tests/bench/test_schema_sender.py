"""schemathesis' requests to all operations of /openapi.json, against a server on a fake engine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from jumplora_bench.reliability.siege.senders import Sender
from jumplora_bench.reliability.siege.shot import TASKS
from serving import ADMIN_KEY, listening, make_site

COUNT = 160
SECONDS = 120.0


@pytest.mark.slow
def test_no_operation_answers_a_fault(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    loads = tmp_path / "loads"
    loads.mkdir()
    site = make_site(tmp_path, default_task="agnews", load_folder=loads, log_level="error")
    with listening(site) as url:
        for task in TASKS:
            site.publish(task)
        document = httpx.get(f"{url}/openapi.json").json()
        with Sender("schema_sender", url, ADMIN_KEY, 0, COUNT, on_told=told.append) as sender:
            assert sender.wait(SECONDS) == 0
    assert [line for line in told if "fault" in line] == []
    asked = {re.sub(r"\|\d+$", "", name).split(" ", 1)[1] for name in told[-1]["statuses"]}
    operations = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
    }
    assert operations - asked == set(), f"not asked; {json.dumps(told[-1])[:500]}"
