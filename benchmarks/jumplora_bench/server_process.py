"""A real server of a temporary store: `jumplora serve` in a process of its own."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from jumplora_adapters.errors import AdapterError
from jumplora_bench.extra import peer

_START_SECONDS = 900.0  # a thousand tasks are registered, and loaded as far as they fit
_STEP_SECONDS = 0.1


class ServerEnded(AdapterError):
    """The measured server ended on its own, or did not become ready."""

    code = "server_ended"


@dataclass(frozen=True, slots=True)
class BenchServer:
    """A running server; `key` may change its adapters."""

    url: str
    key: str
    process: subprocess.Popen[bytes]

    def scrape(self) -> str:
        """The page of /metrics."""
        return httpx.get(f"{self.url}/metrics", timeout=60).raise_for_status().text

    def resident_bytes(self) -> int:
        """Resident memory of the process. Raises PeerMissing without psutil."""
        return int(peer("psutil").Process(self.process.pid).memory_info().rss)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The process gets no time within the block, so that another can be measured alone."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


def start(
    backbone: Path,
    store: Path,
    log: Path,
    settings: Mapping[str, object],
    *,
    python: Path | None = None,
) -> BenchServer:
    """Start a server and wait for nothing; `settings` are those of `jumplora serve`.

    `python` is another interpreter, such as that of another commit's environment. The log is
    appended to. `port` and `admin_keys` in the settings keep an address over several starts.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JUMPLORA_")}
    wanted = {
        "backbone": backbone, "store": store, "port": free_port(), "drain_grace": 0,
        "admin_keys": secrets.token_hex(16), "log_level": "warning", **settings,
    }  # fmt: skip
    clean |= {f"JUMPLORA_{name.upper()}": str(value) for name, value in wanted.items()}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [python or sys.executable, "-m", "jumplora_server", "serve"],
            env=clean,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return BenchServer(f"http://127.0.0.1:{wanted['port']}", str(wanted["admin_keys"]), process)


def end(server: BenchServer) -> int:
    """End a server, by force after a minute; return its exit status."""
    server.process.send_signal(signal.SIGCONT)
    server.process.terminate()
    try:
        return server.process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        server.process.kill()
        return server.process.wait()


@contextmanager
def served(
    backbone: Path, store: Path, log: Path, settings: Mapping[str, object]
) -> Iterator[BenchServer]:
    """Run a server until the end of the block.

    Yields once it is ready, first loads included. Raises ServerEnded with the log's last line.
    """
    server = start(backbone, store, log, settings)
    try:
        wait_ready(server, log)
        _wait_loaded(server, log)
        yield server
    finally:
        end(server)


def wait_ready(server: BenchServer, log: Path) -> None:
    """Wait for /readyz; loads may still run. Raises ServerEnded with the last log line."""
    _wait(server, log, lambda: httpx.get(f"{server.url}/readyz", timeout=10).status_code == 200)


def _wait_loaded(server: BenchServer, log: Path) -> None:
    """Wait for the first loads, well or not: what has no room stays cold."""

    def is_loaded() -> bool:
        headers = {"authorization": f"Bearer {server.key}"}
        answer = httpx.get(f"{server.url}/v1/adapters", headers=headers, timeout=60)
        listed = answer.raise_for_status().json()
        return all(task["state"] != "LOADING" for task in listed["adapters"])

    _wait(server, log, is_loaded)


def _wait(server: BenchServer, log: Path, is_so: Callable[[], bool]) -> None:
    for _ in range(int(_START_SECONDS / _STEP_SECONDS)):
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(timeout=_STEP_SECONDS)  # the pause between two looks
            break
        with suppress(httpx.TransportError):
            if is_so():
                return
    told = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise ServerEnded(f"the server is not ready; it said: {told[-1] if told else 'nothing'}")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
