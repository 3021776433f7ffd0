"""The blocks of server/CLIENT.md, each run as it stands against the demo, with what they print."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration.prometheus_process import ROOT
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.format import read_adapter, write_adapter
from jumplora_adapters.store import Store
from jumplora_server.client import Client
from ports import held_port

PAPER = ROOT / "server" / "CLIENT.md"
ADMIN_KEY = "an-admin-key-of-tests"
_BLOCK = re.compile(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks() -> dict[str, str]:
    """The programs by their headings."""
    return dict(_BLOCK.findall(PAPER.read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True)
class Demo:
    """The demo as it is served, and a folder where programs run."""

    url: str
    desk: Path


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    tasks = ("agnews", "dbpedia", "register", "subject")
    for task in tasks:
        shutil.copytree(ROOT / "adapters" / "demo" / "store" / task, folder / "store" / task)
    _write_another_agnews(folder)
    with held_port() as port:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("JUMPLORA_")} | {
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("server", "adapters")),
            "JUMPLORA_BACKBONE": str(ROOT / "adapters" / "demo" / "backbone"),
            "JUMPLORA_STORE": str(folder / "store"),
            "JUMPLORA_PORT": str(port),
            "JUMPLORA_THREADS": "1",
            "JUMPLORA_DRAIN_GRACE": "0",
            "JUMPLORA_ADMIN_KEYS": ADMIN_KEY,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "jumplora_server", "serve"], env=environment
        )
        try:
            url = f"http://127.0.0.1:{port}"
            with Client(url) as client:
                client.wait_ready(120)
            yield Demo(url, folder)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _write_another_agnews(folder: Path) -> None:
    """agnews.safetensors: the demo's adapter with a score more, and so another version."""
    backbone = read_backbone(ROOT / "adapters" / "demo" / "backbone")
    store = Store(folder / "store")
    adapter = read_adapter(store.path_of(store.current("agnews")), backbone)
    manifest = adapter.manifest.model_copy(
        update={"scores": {**adapter.manifest.scores, "exact_match": 0.78}}
    )
    path = folder / "agnews.safetensors"
    write_adapter(path, manifest, adapter.deltas, adapter.factors, adapter.profile)


def test_the_paper_has_ten_programs() -> None:
    assert len(blocks()) == 10 == PAPER.read_text(encoding="utf-8").count("```python")


@pytest.mark.slow
@pytest.mark.parametrize("heading", blocks())
def test_a_program_prints_what_the_paper_says(
    heading: str, demo: Demo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(demo.desk)
    monkeypatch.setenv("JUMPLORA_SERVER", demo.url)
    monkeypatch.setenv("JUMPLORA_KEY", ADMIN_KEY)
    program = blocks()[heading].replace("http://127.0.0.1:8000", demo.url)
    exec(compile(program, f"{PAPER.name}: {heading}", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out.splitlines()
    promised = re.findall(r"print\(.*\)  # (.+)$", program, re.MULTILINE)
    left = iter(printed)
    for line in promised:  # in this order, perhaps with others between
        assert line in left, f"{line!r} was not printed:\n{printed}"
