"""Servers for tests that look at their pages."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from integration.prometheus_process import ROOT
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.format import read_adapter, write_adapter
from jumplora_adapters.manifest import Canary
from jumplora_adapters.prompt import render
from jumplora_bench.server_process import served
from serving import ADMIN_KEY as ADMIN_KEY
from serving import Site, listening, make_site

API_KEY = "an-api-key-of-tests"
DEMO = ROOT / "adapters" / "demo"


@dataclass(frozen=True, slots=True)
class Demo:
    """A server on a copy of the demo, which takes an api key and an admin key."""

    url: str
    folder: Path

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of an answer to the admin key."""
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        answer = httpx.request(method, self.url + path, headers=headers, timeout=60, **options)
        return answer.raise_for_status().json()

    def versions(self, task: str) -> tuple[str, list[str]]:
        """The version that answers, and all of them, oldest first."""
        detail = self.ask("GET", f"/v1/adapters/{task}")
        return detail["version"], detail["history"]

    def another_version(
        self,
        task: str,
        exact_match: float,
        *,
        canaries: Mapping[str, str] | None = None,
        other_task: str | None = None,
    ) -> Path:
        """A file with the values of the task's current version and another score.

        `canaries` are texts, each with the answer that is expected; `other_task` is whose it is.
        """
        version, _ = self.versions(task)
        found = self.folder / "store" / task / f"{version}.safetensors"
        adapter = read_adapter(found, read_backbone(DEMO / "backbone"))
        prompt = adapter.manifest.prompt
        assert prompt is not None
        asked = tuple(
            Canary(prompt=render(prompt, text), expected=expected)
            for text, expected in (canaries or {}).items()
        )
        update = {
            "task": other_task or task,
            "scores": {"test_exact_match": exact_match},
            "canaries": asked,
        }
        said = adapter.manifest.model_copy(update=update)
        path = self.folder / f"{task}-{exact_match}.safetensors"
        write_adapter(path, said, adapter.deltas, adapter.factors, adapter.profile)
        return path


@contextmanager
def demo_server(folder: Path, **more: object) -> Iterator[Demo]:
    """`jumplora serve` on a copy of the demo's store in `folder`; `more` are settings."""
    shutil.copytree(DEMO / "store", folder / "store")
    settings = {"admin_keys": ADMIN_KEY, "api_keys": API_KEY, "threads": 1, **more}
    with served(DEMO / "backbone", folder / "store", folder / "log", settings) as server:
        yield Demo(server.url, folder)


@dataclass(frozen=True, slots=True)
class Listening:
    """A server of this process, around the fake engine."""

    url: str
    site: Site


@contextmanager
def thousand_tasks(folder: Path, count: int = 1000) -> Iterator[Listening]:
    """One with room for a fifth of its tasks."""
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
        yield Listening(url, site)
