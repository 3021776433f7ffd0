"""A newcomer's desk: a folder in which the blocks of a page are typed, one after another."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from integration.clients.environment import clients_python
from integration.pages import Block
from integration.prometheus_process import ROOT, eventually

SECONDS = 300.0
READY_SECONDS = 120.0
# The tests' environment has the packages that a reader installs.
_INSTALL = ("pip install", ".venv/bin/pip install")


@dataclass(slots=True)
class Desk:
    """A folder, the port in place of 8000, and a terminal that remembers what was typed into it."""

    folder: Path
    port: int
    python: str = "python"
    settings: Mapping[str, str] = field(default_factory=dict)  # that the page does not set itself

    def type(self, text: str) -> str:
        """Run a block of bash as it stands, but for the port; return what it printed.

        Exported variables and the folder stay for the next block, as in a terminal.
        """
        lines = [line for line in text.splitlines() if not line.startswith(_INSTALL)]
        remember = f"export -p > {self._memory}; echo cd \"'$PWD'\" >> {self._memory}"
        return self._run("\n".join([*self._recall(), "set -euo pipefail", *lines, remember]))

    def run(self, text: str) -> str:
        """Run a block of Python in the terminal; return what it printed."""
        python = str(clients_python()) if "from openai" in text else self.python
        return self._run("\n".join([*self._recall(), f"exec {python} -"]), self._here(text))

    def follow(self, block: Block) -> str:
        """Do what a block says."""
        return self.type(block.text) if block.language == "bash" else self.run(block.text)

    @contextmanager
    def served(self, text: str) -> Iterator[None]:
        """Run a block that ends in a server, in a terminal of its own, until the end of the block.

        The server is ready when this returns, and is ended by SIGTERM.
        """
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", self._here(text)],
            cwd=self.folder,
            env=self._environment(),
            start_new_session=True,
        )
        try:

            def ready() -> None:
                assert process.poll() is None, f"the server ended:\n{text}"
                url = f"http://127.0.0.1:{self.port}/readyz"
                assert httpx.get(url, timeout=5).status_code == 200

            eventually(ready, READY_SECONDS)
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)

    @property
    def _memory(self) -> Path:
        return self.folder / ".terminal"

    def _recall(self) -> list[str]:
        return [f". {self._memory}"] if self._memory.exists() else []

    def _here(self, text: str) -> str:
        return text.replace(":8000", f":{self.port}")

    def _run(self, script: str, typed: str | None = None) -> str:
        done = subprocess.run(
            ["bash", "-c", self._here(script)],
            cwd=self.folder,
            env=self._environment(),
            input=typed,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{typed or ''}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("JUMPLORA_", "MAKE"))}
        return clean | {
            "JUMPLORA_PORT": str(self.port),
            "JUMPLORA_DRAIN_GRACE": "0",
            "COLUMNS": "80",
            **self.settings,
        }


# What the commands of pages need of a clone, and what a reader's own tasks are called there.
_NEEDED = ("Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "examples")
OF_READERS = {"tickets"}


def copied_project(folder: Path) -> None:
    """Make a copy of the project in which `make serve` has installed: the tests' environment."""
    folder.mkdir(exist_ok=True)
    for name in _NEEDED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    for part in ("backbone", "store"):
        shutil.copytree(
            ROOT / "adapters" / "demo" / part,
            folder / "adapters" / "demo" / part,
            ignore=shutil.ignore_patterns(*OF_READERS),
        )
    (folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)
