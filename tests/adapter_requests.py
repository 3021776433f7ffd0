"""Requests about adapters, and what a store holds: shared by the tests of those routes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx

from fakes import FakeEngine
from jumplora_adapters.atomic_file import TEMP_PREFIX
from serving import ADMIN_KEY, Site

Started = tuple[Site, httpx.Client]
ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(http: httpx.Client, task: str, content: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.put(f"/v1/adapters/{task}", content=content, headers=named)


def answer(http: httpx.Client, task: str) -> str:
    asked = http.post("/generate", json={"task_id": task, "inputs": "x"})
    asked.raise_for_status()
    return asked.headers["x-adapter-version"]


def files(site: Site) -> set[str]:
    """Everything in the store but its lock."""
    root = site.parts.services.store.root
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    return found - {".lock"}


def received(root: Path) -> list[int]:
    """The bytes of each upload that is in the store's folder and not published, sorted."""
    return sorted(path.stat().st_size for path in root.glob(f"{TEMP_PREFIX}*"))


def fail_to_pack(engine: FakeEngine, version: str) -> None:
    engine.fail_pack = lambda found: MemoryError("no memory") if found == version else None
