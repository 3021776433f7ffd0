"""A store and a server on it that may be killed and started again at the same address."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from jumplora_adapters.backbone import Backbone
from jumplora_bench.machine import commit
from jumplora_bench.server_process import BenchServer, end, free_port, start, wait_ready

REQUEST_SECONDS = 30.0
STEP_SECONDS = 0.02


class NoAnswer(Exception):
    """The server did not answer in time, or not at all."""


class Site:
    """One store, one address, one server process at a time.

    `python` is the interpreter whose server is tried: another commit's, or this one.
    """

    def __init__(
        self,
        backbone: Backbone,
        folder: Path,
        settings: Mapping[str, object],
        *,
        python: Path | None = None,
        store: Path | None = None,
    ) -> None:
        self.backbone = backbone
        self.folder = folder
        self.store = store or folder / "store"
        self.log = folder / "server.log"
        self.python = python or Path(sys.executable)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.starts = 0
        key = secrets.token_hex(16)
        self._settings = {"port": self.port, "admin_keys": key, **settings}
        self._http = httpx.Client(
            base_url=self.url,
            timeout=REQUEST_SECONDS,
            headers={"authorization": f"Bearer {key}"},
            # A connection of its own for each request: a killed server leaves no half-dead ones.
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self._server: BenchServer | None = None

    @property
    def server(self) -> BenchServer:
        """The running server."""
        assert self._server is not None, "the server was not started"
        return self._server

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._server is not None and self._server.process.poll() is None

    def begin(self) -> None:
        """Start the server and wait for nothing."""
        self._server = start(
            self.backbone.path, self.store, self.log, self._settings, python=self.python
        )
        self.starts += 1

    def start(self) -> None:
        """Start the server and wait until it is ready."""
        self.begin()
        wait_ready(self.server, self.log)

    def kill(self) -> None:
        """End the process without a warning (SIGKILL)."""
        self.server.process.kill()
        self.server.process.wait()

    def stop(self) -> int | None:
        """End the server; its exit status, None where none runs."""
        if not self.is_alive:
            return None
        return end(self.server)

    def request(
        self, method: str, path: str, *, seconds: float = REQUEST_SECONDS, **more: Any
    ) -> httpx.Response:
        """One answer, of whatever status. Raises NoAnswer."""
        try:
            return self._http.request(method, path, timeout=seconds, **more)
        except httpx.TransportError as error:
            raise NoAnswer(f"{method} {path}: {type(error).__name__} {error}") from error

    def try_request(
        self, method: str, path: str, *, seconds: float = REQUEST_SECONDS, **more: Any
    ) -> httpx.Response | None:
        """The answer, None where there is none in time."""
        try:
            return self.request(method, path, seconds=seconds, **more)
        except NoAnswer:
            return None

    def put(self, task: str, content: bytes, *, seconds: float = 150.0) -> httpx.Response:
        """Publish a file over HTTP."""
        return self.request("PUT", f"/v1/adapters/{task}", content=content, seconds=seconds)

    def status(self, task: str) -> dict[str, Any]:
        """The task's status; empty where the server does not give one."""
        response = self.try_request("GET", f"/v1/adapters/{task}", seconds=5)
        if response is None or response.status_code != 200:
            return {}
        status: dict[str, Any] = response.json()
        return status

    def close(self) -> None:
        """End the server and all connections."""
        self.stop()
        self._http.close()


@contextmanager
def running(site: Site) -> Iterator[Site]:
    """Start the site's server; end it with the block."""
    try:
        site.start()
        yield site
    finally:
        site.close()


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition became true in time."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(STEP_SECONDS)
    return True


def settings_of(python: Path) -> frozenset[str]:
    """Names of the settings that an interpreter's server knows: an older one has fewer."""
    code = "from jumplora_server.settings import Settings; print(*Settings.model_fields)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return frozenset(done.stdout.split())


def commit_of(python: Path) -> str:
    """The commit of the server package that an interpreter imports."""
    code = "import jumplora_server as found; print(found.__file__)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return commit(Path(done.stdout.strip()).parent)
