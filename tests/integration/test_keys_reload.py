"""SIGHUP and a swapped file change a real server's keys, and cut nothing that runs."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from integration.prometheus_process import eventually
from integration.server_process import ADMIN_KEY, running_server
from jumplora_server.access.keys import hash_of
from jumplora_server.access.keys_file import entry_text

pytestmark = pytest.mark.slow


def put(file: Path, *names: str) -> None:
    """The file in one piece, as a deployment replaces it."""
    entries = (entry_text(name, [hash_of(name)], ["infer", "metrics"]) for name in names)
    staged = file.with_name("staged")
    staged.write_text("\n".join(entries))
    staged.rename(file)


def test_keys_are_read_again_while_requests_run(tmp_path: Path) -> None:
    file, folder = tmp_path / "keys.toml", tmp_path / "server"
    folder.mkdir()
    put(file, "old", "stays")
    with running_server(folder, ["alpha"], keys_file=str(file)) as server:

        def ask(key: str, tokens: int = 1) -> int:
            body = {
                "task_id": "alpha",
                "inputs": "the film is good",
                "parameters": {"min_new_tokens": tokens, "max_new_tokens": tokens},
            }
            headers = {"authorization": f"Bearer {key}"}
            return httpx.post(
                f"{server.url}/generate", json=body, headers=headers, timeout=60
            ).status_code

        def becomes(key: str, status: int) -> None:
            def seen() -> None:
                assert ask(key) == status

            eventually(seen, 20)

        assert [ask(key) for key in ("old", "new", ADMIN_KEY)] == [200, 401, 200]
        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(ask, "stays", 100) for _ in range(12)]
            put(file, "new", "stays")
            os.kill(server.pid, signal.SIGHUP)
            becomes("new", 200)
            assert ask("old") == 401
            put(file, "old", "new", "stays")  # without a signal, by its stamp
            becomes("old", 200)
            file.write_text("[[keys]]\n")
            os.kill(server.pid, signal.SIGHUP)

            def is_at_fault() -> None:
                headers = {"authorization": "Bearer new"}
                page = httpx.get(f"{server.url}/metrics", headers=headers, timeout=10).text
                assert "jumplora_keys_fault 1.0" in page

            eventually(is_at_fault, 20)
            assert httpx.get(f"{server.url}/readyz", timeout=10).status_code == 200
            assert [each.result() for each in running] == [200] * 12
            assert ask("new") == 200
        log = (folder / "server.log").read_text()
    assert "SIGHUP: the keys file is read again" in log
    assert "was read: added new; removed old" in log
    assert "was read: added old" in log
    assert "key 1: id is missing" in log
