"""A server whose threads die or hang, as a process: what its probes, its log and its end say."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from factories import random_adapter, toy_backbone
from faulty_server import DEADLY_TASK, FIFO_TASK, HUNG_UPLOAD
from integration.prometheus_process import ROOT, eventually
from jumplora_adapters.format import write_adapter
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.store import Store
from jumplora_server.watchdog import EXIT_FAULT
from serving import ADMIN_KEY

BACKBONE = toy_backbone()
STALL_SECONDS = 0.8
SETTINGS = {
    "port": "0",
    "backbone": "toy",
    "watch_seconds": "0.1",
    "stall_seconds": str(STALL_SECONDS),
    "hang_exit_seconds": "0.5",
    "drain_grace": "0",
    "shutdown_timeout": "0.5",
    "metrics_max_age": "0",
    "max_source_tokens": "64",
    "max_target_tokens": "256",
    "log_format": "json",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running one, seen from outside."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path

    def publish(self, task: str) -> None:
        """Put a random version into the store."""
        publish(self.folder, task)

    def ask(self, text: str) -> None:
        """Send a request whose answer is not waited for; it may never come."""

        def send() -> None:
            body = {"task_id": "alpha", "inputs": text}
            with suppress(httpx.TransportError):  # the process ended
                httpx.post(f"{self.url}/generate", json=body, timeout=60)

        threading.Thread(target=send, daemon=True).start()

    def wait_for_request(self) -> None:
        """Wait until a request for the task alpha is in flight."""

        def look() -> None:
            page = httpx.get(f"{self.url}/metrics", timeout=5).text
            assert re.search(r'^jumplora_requests_in_flight\{task_id="alpha"\} 1', page, re.M)

        eventually(look, 10)

    def checks(self, path: str, status: int) -> dict[str, str]:
        """What a probe says, once it says it with that status."""

        def look() -> dict[str, str]:
            answer = httpx.get(self.url + path, timeout=5)
            assert answer.status_code == status, answer.text
            checks: dict[str, str] = answer.json()["checks"]
            return checks

        return eventually(look, 20)

    def log(self) -> list[dict[str, Any]]:
        """The lines so far."""
        return [json.loads(line) for line in read_log(self.folder).splitlines()]


def read_log(folder: Path) -> str:
    return (folder / "server.log").read_text(encoding="utf-8")


def publish(folder: Path, task: str) -> None:
    prompt = PromptSpec(template="{text}")
    manifest, deltas = random_adapter(BACKBONE, task=task, prompt=prompt)
    path = folder / f"{task}.safetensors"
    write_adapter(path, manifest, deltas)
    Store(folder / "store").publish(path, BACKBONE)


@contextmanager
def faulty_server(folder: Path, **settings: str) -> Iterator[Server]:
    """Run a server of the task "alpha" that was asked once, until the end of the block."""
    (folder / "store").mkdir()
    os.mkfifo(folder / "fifo")
    publish(folder, "alpha")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JUMPLORA_")} | {
        f"JUMPLORA_{key.upper()}": value for key, value in (SETTINGS | settings).items()
    }
    environment["JUMPLORA_STORE"] = str(folder / "store")
    environment["OMP_NUM_THREADS"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join(
        str(ROOT / part) for part in ("server", "adapters", "tests", "")
    )
    with (folder / "server.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "faulty_server.py")],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:

        def address() -> str:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended:\n{read_log(folder)}")
            found = re.search(r"running on (http://[\d.:]+)", read_log(folder))
            assert found is not None
            return found[1]

        server = Server(process, eventually(address, 90), folder)
        body = {"task_id": "alpha", "inputs": "hello"}
        assert httpx.post(f"{server.url}/generate", json=body, timeout=30).status_code == 200
        yield server
    finally:
        process.kill()
        process.wait(timeout=30)


def stack_of(server: Server, thread: str) -> str:
    [line] = [each for each in server.log() if each["message"] == f"stack of thread {thread}"]
    stack: str = line["stack"]
    return stack


@pytest.mark.parametrize(
    ("prompt", "where"),
    [
        pytest.param("wait", "threading.Event().wait()", marks=pytest.mark.slow),
        ("native", "sleep(3600)"),
    ],
)
def test_a_step_that_hangs_ends_the_process(tmp_path: Path, prompt: str, where: str) -> None:
    with faulty_server(tmp_path) as server:
        server.ask(prompt)
        # Once it fails, the event loop still answers, and nothing else is wrong.
        checks = server.checks("/livez", 503)
        assert "no step has ended for" in checks.pop("engine")
        assert set(checks.values()) == {"ok"}
        assert server.process.wait(timeout=30) == EXIT_FAULT
        assert where in stack_of(server, "engine")
        assert stack_of(server, "MainThread")
        assert server.log()[-1]["message"].startswith("the process ends with code 79")


@pytest.mark.slow
def test_an_engine_thread_that_died_ends_the_process(tmp_path: Path) -> None:
    with faulty_server(tmp_path) as server:
        server.ask("die")
        assert "the engine thread died" in server.checks("/livez", 503)["engine"]
        assert server.process.wait(timeout=30) == EXIT_FAULT
        [death] = [line for line in server.log() if line["message"] == "the engine thread died"]
        assert "raise SystemExit(1)" in death["traceback"]
        assert stack_of(server, "loader")


def test_a_loader_that_died_ends_the_process(tmp_path: Path) -> None:
    with faulty_server(tmp_path) as server:
        server.publish(DEADLY_TASK)
        assert "the loader thread died" in server.checks("/livez", 503)["loader"]
        assert server.process.wait(timeout=30) == EXIT_FAULT
        assert stack_of(server, "engine")


@pytest.mark.slow
def test_a_process_that_may_not_end_itself_stays_and_says_so(tmp_path: Path) -> None:
    with faulty_server(tmp_path, hang_exit_seconds="0") as server:
        server.ask("wait")
        server.checks("/livez", 503)
        assert stack_of(server, "engine")
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(timeout=3 * STALL_SECONDS)
        server.checks("/livez", 503)


def test_a_loader_that_is_stuck_in_a_read_lives_and_says_so(tmp_path: Path) -> None:
    with faulty_server(tmp_path) as server:
        server.publish(FIFO_TASK)

        def told() -> None:
            assert server.checks("/readyz", 200)["loader"].startswith("it stands still")

        eventually(told, 20)
        with pytest.raises(subprocess.TimeoutExpired):  # many times what a hung step gets
            server.process.wait(timeout=5 * STALL_SECONDS)
        assert set(server.checks("/livez", 200).values()) == {"ok"}
        body = {"task_id": "alpha", "inputs": "hello"}
        assert httpx.post(f"{server.url}/generate", json=body, timeout=30).status_code == 200
        page = httpx.get(f"{server.url}/metrics", timeout=30).text
        stuck = re.search(r'^jumplora_thread_stuck_seconds\{thread="loader"\} (\S+)$', page, re.M)
        assert stuck is not None
        assert float(stuck[1]) > STALL_SECONDS
        (tmp_path / "fifo").write_bytes(b"")  # the disk answers at last

        def well() -> None:
            assert set(server.checks("/readyz", 200).values()) == {"ok"}

        eventually(well, 20)
        assert httpx.post(
            f"{server.url}/generate", json={"task_id": FIFO_TASK, "inputs": "hello"}, timeout=30
        ).is_success


@pytest.mark.slow
def test_a_process_that_was_stopped_lives(tmp_path: Path) -> None:
    """With a long answer under way, of many steps that are each quick."""
    with faulty_server(tmp_path) as server:
        server.ask("x" * 50)
        for _ in range(3):
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(2 * STALL_SECONDS)  # nothing to wait for: it stands still
            server.process.send_signal(signal.SIGCONT)
            assert httpx.get(f"{server.url}/livez", timeout=10).status_code == 200
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(timeout=2 * STALL_SECONDS)
        server.checks("/livez", 200)
        assert not [line for line in server.log() if line["level"] == "critical"]


def test_a_closed_terminal_ends_nothing_and_cuts_no_request(tmp_path: Path) -> None:
    with faulty_server(tmp_path) as server, ThreadPoolExecutor(1) as pool:
        body = {"task_id": "alpha", "inputs": "x" * 60}
        running = pool.submit(httpx.post, f"{server.url}/generate", json=body, timeout=30)
        server.wait_for_request()
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            server.process.send_signal(number)
        assert running.result().status_code == 200
        for name in ("SIGHUP", "SIGUSR1", "SIGUSR2"):

            def is_said(start: str = f"{name} is ignored") -> None:
                assert any(line["message"].startswith(start) for line in server.log())

            eventually(is_said, 10)
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGHUP)
        assert server.process.wait(timeout=30) == 0


@pytest.mark.slow
def test_a_drain_with_a_step_that_hangs_ends_by_its_own_timeouts(tmp_path: Path) -> None:
    # The drain lasts longer than the hang would be given.
    with faulty_server(tmp_path, shutdown_timeout="4") as server:
        server.ask("wait")
        server.wait_for_request()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=40) == 0
        assert stack_of(server, "engine")


def test_a_write_that_hangs_in_the_kernel_does_not_hold_the_end(tmp_path: Path) -> None:
    with faulty_server(tmp_path, admin_keys=ADMIN_KEY) as server:
        manifest, deltas = random_adapter(BACKBONE, task=HUNG_UPLOAD)
        path = tmp_path / "upload.safetensors"
        write_adapter(path, manifest, deltas)

        def upload() -> None:
            with suppress(httpx.TransportError):  # the process ended
                httpx.put(
                    f"{server.url}/v1/adapters/{HUNG_UPLOAD}",
                    content=path.read_bytes(),
                    headers={"authorization": f"Bearer {ADMIN_KEY}"},
                    timeout=60,
                )

        threading.Thread(target=upload, daemon=True).start()

        def hanging() -> None:
            assert (tmp_path / "hangs").exists()

        eventually(hanging, 20)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0
