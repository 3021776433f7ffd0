"""The wheel, installed into an empty environment, serves the demo by path."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from integration.prometheus_process import ROOT, eventually
from ports import held_port

PACKAGES = {"server": "jumplora_server", "adapters": "jumplora_adapters"}
NOT_SHIPPED = {"__pycache__", ".so", ".new", ".pyc"}  # made by running and by building
INSTALL_SECONDS = 400.0

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class Installed:
    """The wheel's file, and an environment that has nothing but it and what it needs."""

    wheel: Path
    folder: Path

    def python(self, name: str = "python") -> str:
        return str(self.folder / "bin" / name)


def run(*command: str, cwd: Path) -> None:
    subprocess.run(
        command, cwd=cwd, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Skips where pip reaches no packages; with REQUIRE_CLIENTS, which demands them too, fails."""
    folder = tmp_path_factory.mktemp("wheel")
    environment = folder / "environment"
    options = ("--quiet", "--retries", "1", "--disable-pip-version-check")
    pip = (sys.executable, "-m", "pip", *options)
    try:
        run(*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT), cwd=folder)
        (wheel,) = folder.glob("*.whl")
        run(sys.executable, "-m", "venv", str(environment), cwd=folder)
        inside = (str(environment / "bin" / "python"), "-m", "pip", "install", *options)
        constraints = str(ROOT / "constraints.txt")
        run(*inside, "--no-compile", "--constraint", constraints, str(wheel), cwd=folder)
    except subprocess.SubprocessError as error:
        said = getattr(error, "stderr", None) or str(error)
        assert "REQUIRE_CLIENTS" not in os.environ, f"the packages are required: {said}"
        pytest.skip(f"the wheel cannot be installed: {said.strip().splitlines()[-1]}")
    return Installed(wheel, environment)


def shipped() -> Iterator[str]:
    """Every file of both packages, as the wheel should name it."""
    for parent, package in PACKAGES.items():
        root = ROOT / parent
        for path in (root / package).rglob("*"):
            if path.is_file() and not NOT_SHIPPED & {path.suffix, *path.parts}:
                yield str(path.relative_to(root))


def check_ready(http: httpx.Client) -> None:
    assert http.get("/readyz").status_code == 200


def test_the_wheel_has_every_file_and_the_licence(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = wheel.read(metadata).decode()
        licence = metadata.replace("METADATA", "licenses/LICENSE")
        assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert set(shipped()) - names == set()
    assert "License-Expression: Apache-2.0\nLicense-File: LICENSE\n" in text
    tops = {name.split("/")[0] for name in names}
    assert tops - set(PACKAGES.values()) == {metadata.split("/")[0]}


def test_the_installed_server_answers_from_the_demo(installed: Installed, tmp_path: Path) -> None:
    demo = ROOT / "adapters" / "demo"
    with held_port() as port:
        places = ("--backbone", str(demo / "backbone"), "--store", str(demo / "store"))
        server = subprocess.Popen(
            [installed.python("jumplora"), "serve", *places, "--port", str(port)],
            cwd=tmp_path,
            env={"PATH": os.defpath, "HOME": str(tmp_path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
                eventually(lambda: check_ready(http), seconds=60)
                body = {"inputs": "Oil prices fell on Monday.", "task_id": "agnews"}
                answer = http.post("/generate", json=body)
                assert (answer.status_code, answer.headers["x-task-id"]) == (200, "agnews")
                for page in ("/", "/docs", "/openapi.json", "/metrics"):
                    assert http.get(page).status_code == 200, page
        finally:
            server.terminate()
            _, log = server.communicate(timeout=60)
    assert server.returncode == 0, log
