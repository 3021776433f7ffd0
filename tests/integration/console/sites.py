"""Servers for tests that look at their pages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from integration.prometheus_process import ROOT
from serving import ADMIN_KEY as ADMIN_KEY
from serving import listening, make_site

API_KEY = "an-api-key-of-tests"
DEMO = ROOT / "adapters" / "demo"


@dataclass(frozen=True, slots=True)
class Console:
    """A server with a page, and the folder of its store."""

    url: str
    folder: Path


@contextmanager
def thousand_tasks(folder: Path, count: int = 1000) -> Iterator[Console]:
    """A server around the fake engine, with room for a fifth of its tasks."""
    site = make_site(folder, adapter_budget_bytes=count * 20, watch_seconds=60)
    written = site.adapter("task-0000").read_bytes()
    for number in range(count):
        task = f"task-{number:04}"
        # A name of the same length makes a valid file: the header's size stays as it is.
        content = written.replace(b"task-0000", task.encode())
        digest = hashlib.sha256(content).hexdigest()
        home = folder / "store" / task
        home.mkdir()
        (home / f"{digest}.safetensors").write_bytes(content)
        (home / "current").write_text(f"{digest}\n")
    with listening(site) as url:
        yield Console(url, folder)
