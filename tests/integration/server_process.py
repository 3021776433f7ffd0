"""A real server for tests: `python -m jumplora_server serve` on a random backbone and its store."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import httpx

from factories import random_adapter, tiny_t5
from integration.prometheus_process import ROOT, eventually
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.format import write_adapter
from jumplora_adapters.manifest import Canary
from jumplora_adapters.store import Store
from ports import held_port

ADMIN_KEY = "an-admin-key-of-tests"


@dataclass(frozen=True, slots=True)
class RunningServer:
    """Where the server listens, and the folders that it serves from."""

    target: str
    folder: Path
    backbone: Backbone
    store: Store
    pid: int = 0

    @property
    def url(self) -> str:
        """The server's address for clients."""
        return f"http://{self.target}"

    def publish(self, task: str, seed: int) -> str:
        """Publish a random version that says all it can of itself; return its digest."""
        manifest, deltas = random_adapter(self.backbone, task=task, seed=seed)
        said = {
            "scores": {"test_exact_match": 0.8},
            "canaries": (Canary(prompt="good film?", expected="nobody knows"),),
            "training": {"continual": {"position": 2, "backward_transfer": -0.08}},
        }
        path = self.folder / f"{task}-{seed}.safetensors"
        write_adapter(path, manifest.model_copy(update=said), deltas)
        return self.store.publish(path, self.backbone).digest

    def publish_garbage(self, task: str) -> str:
        """Point the task at a file that is no adapter, as a broken copy of a store would."""
        garbage = b"no adapter at all"
        digest = hashlib.sha256(garbage).hexdigest()
        home = self.folder / "store" / task
        (home / f"{digest}.safetensors").write_bytes(garbage)
        pointer = home / "current.new"
        pointer.write_text(f"{digest}\n")
        pointer.rename(home / "current")
        return digest


@contextmanager
def running_server(
    folder: Path, tasks: Sequence[str], *, canary_floor: float = 0.0, **settings: str
) -> Iterator[RunningServer]:
    """Run a server with one version of each task; ends it with SIGTERM and expects a clean exit.

    What a random model answers is not known beforehand, so by default canaries are only counted.
    """
    backbone = read_backbone(tiny_t5(folder / "backbone"))
    (folder / "store").mkdir()
    with held_port() as port:
        server = RunningServer(f"127.0.0.1:{port}", folder, backbone, Store(folder / "store"))
        for seed, task in enumerate(tasks):
            server.publish(task, seed)
        yield from _started(server, {"canary_floor": str(canary_floor), **settings})


def _started(server: RunningServer, settings: Mapping[str, str]) -> Iterator[RunningServer]:
    """Start the process, yield the server once it is ready, end it and look at its exit status."""
    folder = server.folder
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JUMPLORA_")} | {
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("server", "adapters")),
        "OMP_NUM_THREADS": "1",
        "JUMPLORA_BACKBONE": str(folder / "backbone"),
        "JUMPLORA_STORE": str(folder / "store"),
        "JUMPLORA_PORT": server.target.split(":")[1],
        "JUMPLORA_THREADS": "1",
        "JUMPLORA_DRAIN_GRACE": "0",
        "JUMPLORA_WATCH_SECONDS": "0.2",
        "JUMPLORA_METRICS_MAX_AGE": "0",
        "JUMPLORA_ADMIN_KEYS": ADMIN_KEY,
        **{f"JUMPLORA_{name.upper()}": value for name, value in settings.items()},
    }
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jumplora_server", "serve"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:

            def ready() -> None:
                if process.poll() is not None:
                    raise RuntimeError(f"the server ended:\n{log.read_text()}")
                assert httpx.get(f"{server.url}/readyz", timeout=5).status_code == 200

            eventually(ready, 90)
            yield replace(server, pid=process.pid)
        finally:
            process.terminate()
            status = process.wait(timeout=60)
    assert status == 0, f"exit status {status}:\n{log.read_text()}"


class Traffic:
    """Clients that send short requests for each task in turn until the end of the block, a fifth of
    them with choices, of which half abstain."""

    def __init__(
        self, url: str, tasks: Sequence[str], clients: int = 3, *, key: str | None = None
    ) -> None:
        self._url = url
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._tasks = tuple(tasks)
        self._stop = threading.Event()
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(clients)]

    def _run(self, offset: int) -> None:
        with httpx.Client(base_url=self._url, headers=self._headers, timeout=30) as client:
            turn = offset
            while not self._stop.wait(0.02):
                task = self._tasks[turn % len(self._tasks)]
                turn += 1
                generating = {"min_new_tokens": 4, "max_new_tokens": 6}
                choosing = {"choices": ["good", "great"], "min_mass": turn % 2}
                body = {
                    "task_id": task,
                    "inputs": "the film is good and the book is great",
                    "parameters": choosing if turn % 5 == 0 else generating,
                }
                answer = client.post("/generate", json=body)
                if answer.status_code != 200:
                    self.failures.append(f"{task}: {answer.status_code} {answer.text}")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
