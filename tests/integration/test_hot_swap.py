"""200 publishes of alternating versions of one task under load: nobody notices but the text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest

from factories import write_random_adapter
from integration.server_process import ADMIN_KEY, RunningServer, Traffic, running_server
from jumplora_server.client import Client

# The allocator's arenas fill up within some 250 publishes (every 50th: 318, 318, 337, 339, 348,
# 348, 348, 349 MB), which is no leak: that would go on.
WARM_UP = 200
PUBLISHES = 200
PROMPTS = ("the film is good", "the book is great and the cat sat", "a dog ran")
PARAMETERS = {"min_new_tokens": 6, "max_new_tokens": 6}


class Load(Traffic):
    """Clients that ask the task without pause; keeps what each answer said and which version."""

    def __init__(self, url: str, expected: dict[tuple[str, str], str]) -> None:
        super().__init__(url, ["task"])
        self._expected = expected
        self.answers: Counter[str] = Counter()

    def _run(self, offset: int) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as client:
            turn = offset
            while not self._stop.is_set():
                prompt = PROMPTS[turn % len(PROMPTS)]
                turn += 1
                body = {"task_id": "task", "inputs": prompt, "parameters": PARAMETERS}
                answer = client.post("/generate", json=body)
                if answer.status_code != 200:
                    self.failures.append(f"{answer.status_code} {answer.text}")
                    continue
                version = answer.headers["x-adapter-version"]
                text = answer.json()["generated_text"]
                self.answers[version] += 1
                if text != self._expected[version, prompt]:
                    self.failures.append(f"{version[:12]} answered {text!r} to {prompt!r}")


def server_memory(server: RunningServer) -> int:
    """Resident bytes of the process that listens on the server's port."""
    port = int(server.target.split(":")[1])
    for process in psutil.Process().children(recursive=True):
        if any(c.laddr.port == port for c in process.net_connections() if c.status == "LISTEN"):
            return int(process.memory_info().rss)
    raise AssertionError(f"nobody listens on {port}")


def texts_of_version(url: str, version: str) -> dict[tuple[str, str], str]:
    """What a version answers to every prompt when it is asked for by name."""
    with httpx.Client(base_url=url, timeout=30) as client:
        answers = {}
        for prompt in PROMPTS:
            body = {"task_id": f"task@{version}", "inputs": prompt, "parameters": PARAMETERS}
            answer = client.post("/generate", json=body).raise_for_status()
            answers[version, prompt] = answer.json()["generated_text"]
        return answers


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_swaps_under_load(tmp_path: Path) -> None:
    with running_server(tmp_path, ["task"]) as server:
        files = [
            write_random_adapter(tmp_path / "made", server.backbone, task="task", seed=seed)
            for seed in (11, 12)
        ]
        with Client(server.url, key=ADMIN_KEY) as admin:
            versions = [str(admin.publish("task", file).version) for file in files]
            expected: dict[tuple[str, str], str] = {}
            for version in [*versions, server.store.history("task")[0].digest]:
                expected |= texts_of_version(server.url, version)
            assert expected[versions[0], PROMPTS[0]] != expected[versions[1], PROMPTS[0]]
            with Load(server.url, expected) as load:
                memory = []
                for publish in range(WARM_UP + PUBLISHES):
                    result = admin.publish("task", files[publish % 2])
                    assert result.version == versions[publish % 2]
                    if publish in (WARM_UP - 1, WARM_UP + PUBLISHES - 1):
                        memory.append(server_memory(server))
            assert not load.failures, load.failures[:3]
            assert set(load.answers) >= set(versions), "the load saw only one version"
            assert sum(load.answers.values()) > PUBLISHES, "hardly any load"
            early, late = memory
            assert late < early * 1.05, f"{early} bytes after the warm-up, {late} at the end"
            status = admin.adapter("task")
            assert status.version == versions[(WARM_UP + PUBLISHES - 1) % 2]
